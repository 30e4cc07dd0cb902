//! A chat format without a tokenizer or a template: one id per byte.
//!
//! It exists so that the loop can be run and tested with a scripted policy. A turn is text; a line
//! `call NAME JSON` in it is a tool call.

use nemo_env::{Task, ToolCall};

use super::{ParsedTurn, RenderError, Renderer};
use crate::policy::api::TokenId;

/// Ends a turn.
pub const STOP: TokenId = 256;
/// Opens the assistant's turn.
pub const ASSISTANT: TokenId = 257;
/// Opens a tool result.
pub const TOOL: TokenId = 258;

/// The byte-per-token chat format.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainText;

/// The ids of a text.
pub fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(TokenId::from).collect()
}

impl Renderer for PlainText {
    fn prompt_ids(&self, task: &Task) -> Result<Vec<TokenId>, RenderError> {
        let mut ids = bytes(task.user_message());
        ids.push(ASSISTANT);
        Ok(ids)
    }

    fn tool_results_ids(&self, _task: &Task, results: &[String]) -> Result<Vec<TokenId>, RenderError> {
        let mut ids = Vec::new();
        for result in results {
            ids.push(TOOL);
            ids.extend(bytes(result));
        }
        ids.push(ASSISTANT);
        Ok(ids)
    }

    fn assistant_turn_ids(&self, _task: &Task, content: &str, calls: &[ToolCall]) -> Result<Vec<TokenId>, RenderError> {
        let lines: Vec<String> = std::iter::once(content.to_owned())
            .filter(|content| !content.is_empty())
            .chain(calls.iter().map(|call| format!("call {} {}", call.name, call.arguments)))
            .collect();
        let mut ids = bytes(&lines.join("\n"));
        ids.push(STOP);
        Ok(ids)
    }

    fn decode(&self, ids: &[TokenId]) -> String {
        let text: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn parse(&self, text: &str) -> ParsedTurn {
        let mut turn = ParsedTurn::default();
        for line in text.lines() {
            match line.strip_prefix("call ").map(|call| call.split_once(' ')) {
                Some(Some((name, arguments))) => {
                    turn.calls.push(ToolCall { name: name.to_owned(), arguments: arguments.to_owned() });
                }
                Some(None) => {
                    return ParsedTurn { content: text.to_owned(), calls: Vec::new(), malformed: true };
                }
                None => turn.content.push_str(line),
            }
        }
        turn
    }
}
