//! What stands between the end of an assistant turn and the next one when tools have answered.
//!
//! In a rollout, token ids are only ever appended: re-rendering the history and tokenising it again would not give
//! back the ids the model produced. The text to append is not hard-coded but found by rendering a probe conversation
//! with marked results, so that any template that merely appends works, and one that does not is refused.

use serde_json::{Value, json};

use super::message::{ChatMessage, ChatRole, ChatToolCall};
use super::{ChatTemplate, RenderOptions};
use crate::text::error::TextError;

/// Marks in the probe conversation. They contain nothing that templates trim, escape or react to.
const TEXT_MARK: &str = "probe0text";
const TOOL_MARK: &str = "probe0tool";
const RESULT_MARKS: [&str; 2] = ["probe1result", "probe2result"];
/// Results that a template would have to alter in order to not insert verbatim.
const AWKWARD_RESULTS: [&str; 2] = ["{\"output\": \"a\\n<&>'é\"}", "[1, {\"b\": null}]\nline"];

/// The text a template puts before, between and after tool results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResultFormat {
    before: String,
    between: String,
    after: String,
}

impl ToolResultFormat {
    /// The text to append after the token that ended an assistant turn, up to where the next one begins.
    ///
    /// Results are inserted verbatim; there should be one for each tool call of the turn, so at least one.
    pub fn render<S: AsRef<str>>(&self, results: &[S]) -> String {
        let mut text = self.before.clone();
        for (index, result) in results.iter().enumerate() {
            if index > 0 {
                text.push_str(&self.between);
            }
            text.push_str(result.as_ref());
        }
        text.push_str(&self.after);
        text
    }

    pub(super) fn derive(
        template: &ChatTemplate,
        prompt: &[ChatMessage],
        tools: &[Value],
        end_of_turn: &str,
        options: &RenderOptions,
    ) -> Result<Self, TextError> {
        let refused =
            |problem: &str| TextError::NotAppendable { name: template.name().to_owned(), problem: problem.to_owned() };
        let options = RenderOptions { add_generation_prompt: true, continue_final_message: false, ..options.clone() };
        let probe = |results: &[&str]| -> Result<(String, String), TextError> {
            let text = template.render(&conversation(prompt, results), tools, &options)?;
            let turn = text.rfind(TOOL_MARK).ok_or_else(|| refused("it does not show tool calls of earlier turns"))?;
            let end = text[turn..]
                .find(end_of_turn)
                .ok_or_else(|| refused(&format!("no {end_of_turn} follows an assistant turn with tool calls")))?;
            let (head, tail) = text.split_at(turn + end + end_of_turn.len());
            Ok((head.to_owned(), tail.to_owned()))
        };
        let [first, second] = RESULT_MARKS;
        let (_, tail) = probe(&[first])?;
        let (before, after) =
            tail.split_once(first).ok_or_else(|| refused("it does not show tool results after the assistant turn"))?;
        let (head, tail) = probe(&RESULT_MARKS)?;
        let between = tail
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .and_then(|rest| rest.strip_prefix(first))
            .and_then(|rest| rest.strip_suffix(second))
            .ok_or_else(|| refused("two results are not shown like one"))?;
        let format = Self { before: before.to_owned(), between: between.to_owned(), after: after.to_owned() };
        let (other_head, tail) = probe(&AWKWARD_RESULTS)?;
        if other_head != head {
            return Err(refused("what was said earlier is shown differently once there are results"));
        }
        if tail != format.render(&AWKWARD_RESULTS) {
            return Err(refused("results are not inserted verbatim"));
        }
        Ok(format)
    }
}

/// `prompt`, then an assistant turn that calls a tool once per result, then the results.
fn conversation(prompt: &[ChatMessage], results: &[&str]) -> Vec<ChatMessage> {
    let call = ChatToolCall { name: TOOL_MARK.to_owned(), arguments: json!({}) };
    let mut messages = prompt.to_vec();
    messages.push(ChatMessage::calling(TEXT_MARK, vec![call; results.len()]));
    messages.extend(results.iter().map(|result| ChatMessage::new(ChatRole::Tool, *result)));
    messages
}
