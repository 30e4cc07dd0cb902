//! The chat format of a real model: its tokenizer and its chat template.
//!
//! A conversation's prompt is rendered and tokenised once; after that ids are only appended. What the template
//! puts around tool results and at the end of an assistant turn is found by rendering marked probes. It depends
//! on the conversation (the reasoning switch of some templates is in its text), so it is derived per frame, that
//! is the rendered prompt without the user's last message, and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nemo_env::{Role, Task, ToolCall, ToolSchema};
use nemo_model::text::{
    ChatMessage, ChatRole, ChatTemplate, ChatToolCall, RenderOptions, TextError, Tokenizer, ToolResultFormat,
    parse_tool_calls,
};
use serde_json::{Map, Value, json};

use super::{ParsedTurn, RenderError, Renderer};
use crate::policy::api::TokenId;

const TEXT_MARK: &str = "probe0text";
const TOOL_MARK: &str = "probe0tool";
const CALLS_OPEN: &str = "<TOOLCALL>";
const CALLS_CLOSE: &str = "</TOOLCALL>";

/// Frames kept at most; there is one per system prompt, tool list and reasoning switch.
const MAX_FRAMES: usize = 64;
/// Tasks whose frame is remembered at most.
const MAX_TASKS: usize = 1 << 14;

/// A tokenizer and a chat template.
pub struct Chat {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    end_of_turn: String,
    variables: Map<String, Value>,
    cache: Mutex<Cache>,
}

/// What a template writes around the turns of conversations with the same frame.
struct Frame {
    results: ToolResultFormat,
    turn: Option<TurnFormat>,
}

/// What a template writes within an assistant turn.
struct TurnFormat {
    /// Between text and tool calls.
    before_calls: String,
    /// Between tool calls and the stop token.
    after_calls: String,
    /// Between a text without tool calls and the stop token.
    after_text: String,
}

#[derive(Default)]
struct Cache {
    /// By the rendered prompt without the user's last message.
    frames: HashMap<String, Arc<Frame>>,
    /// By record id, number of tools and messages.
    by_task: HashMap<(u64, usize, String), Arc<Frame>>,
}

fn failed(error: TextError) -> RenderError {
    RenderError::Text(Box::new(error))
}

impl Chat {
    /// `end_of_turn` is the text of the token that ends an assistant turn; `variables` are passed to the template
    /// (`enable_thinking`, …).
    ///
    /// # Errors
    /// When the tokenizer does not know `end_of_turn` as one token.
    pub fn new(
        tokenizer: Tokenizer,
        template: ChatTemplate,
        end_of_turn: &str,
        variables: Map<String, Value>,
    ) -> Result<Self, RenderError> {
        if tokenizer.token_id(end_of_turn).is_none() {
            return Err(RenderError::StopToken { token: end_of_turn.to_owned() });
        }
        Ok(Self { tokenizer, template, end_of_turn: end_of_turn.to_owned(), variables, cache: Mutex::default() })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of a task's prompt.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn prompt_text(&self, task: &Task) -> Result<String, RenderError> {
        self.template.render(&messages(task), &tools(&task.tools), &self.options(true)).map_err(failed)
    }

    /// The text of an assistant turn up to and including the stop token.
    ///
    /// # Errors
    /// When the template writes tool calls in another format than the one that is read.
    pub fn assistant_turn_text(&self, task: &Task, content: &str, calls: &[ToolCall]) -> Result<String, RenderError> {
        let frame = self.frame(task)?;
        let format = frame.turn.as_ref().ok_or_else(|| RenderError::Template {
            name: self.template.name().to_owned(),
            reason: "it does not show the text of assistant turns between their header and the token that ends them"
                .to_owned(),
        })?;
        let mut text = content.to_owned();
        if calls.is_empty() {
            text.push_str(&format.after_text);
        } else {
            if !content.is_empty() {
                text.push_str(&format.before_calls);
            }
            let entries: Vec<String> = calls
                .iter()
                .map(|call| format!("{{\"name\": {}, \"arguments\": {}}}", json!(call.name), call.arguments))
                .collect();
            text.push_str(&format!("{CALLS_OPEN}[{}]{CALLS_CLOSE}{}", entries.join(", "), format.after_calls));
        }
        text.push_str(&self.end_of_turn);
        Ok(text)
    }

    fn options(&self, add_generation_prompt: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt, continue_final_message: false, variables: self.variables.clone() }
    }

    fn frame(&self, task: &Task) -> Result<Arc<Frame>, RenderError> {
        let key = task_key(task);
        // A panic elsewhere cannot leave half an entry behind, so a poisoned cache is as good as any.
        if let Some(frame) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).by_task.get(&key) {
            return Ok(Arc::clone(frame));
        }
        let prompt = self.prompt_text(task)?;
        self.frame_of(task, &prompt)
    }

    fn frame_of(&self, task: &Task, prompt: &str) -> Result<Arc<Frame>, RenderError> {
        let frame_key = match prompt.rfind(task.user_message().trim()) {
            Some(start) => format!("{}\0{}", &prompt[..start], &prompt[start + task.user_message().trim().len()..]),
            // The template alters the message, so nothing is known about other conversations.
            None => prompt.to_owned(),
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = match cache.frames.get(&frame_key) {
            Some(frame) => Arc::clone(frame),
            None => {
                let frame = Arc::new(self.derive(task)?);
                if cache.frames.len() >= MAX_FRAMES {
                    cache.frames.clear();
                }
                cache.frames.insert(frame_key, Arc::clone(&frame));
                frame
            }
        };
        if cache.by_task.len() >= MAX_TASKS {
            cache.by_task.clear();
        }
        cache.by_task.insert(task_key(task), Arc::clone(&frame));
        Ok(frame)
    }

    fn derive(&self, task: &Task) -> Result<Frame, RenderError> {
        let (messages, tools) = (messages(task), tools(&task.tools));
        let results = self
            .template
            .tool_result_format(&messages, &tools, &self.end_of_turn, &self.options(true))
            .map_err(failed)?;
        if !self.reads_its_own_calls(&messages, &tools) {
            return Err(RenderError::Template {
                name: self.template.name().to_owned(),
                reason: format!(
                    "it does not write tool calls between {CALLS_OPEN} and {CALLS_CLOSE} as JSON with \"name\" and \
                     \"arguments\", so no call of a model trained with it could be read; use a template that does"
                ),
            });
        }
        let mark = |calls| ChatMessage::calling(TEXT_MARK, calls);
        let call = ChatToolCall { name: TOOL_MARK.to_owned(), arguments: json!({}) };
        let mut with_calls = messages.clone();
        with_calls.extend([mark(vec![call]), ChatMessage::new(ChatRole::Tool, "probe1result")]);
        let with_calls = self.template.render(&with_calls, &tools, &self.options(true)).map_err(failed)?;
        let mut text_only = messages;
        text_only.push(mark(Vec::new()));
        let text_only = self.template.render(&text_only, &tools, &self.options(false)).map_err(failed)?;
        Ok(Frame { results, turn: self.turn_format(&with_calls, &text_only) })
    }

    /// Whether a call that the template writes is the same call when it is read. Templates take arguments as an object or as
    /// JSON text; one of them is enough.
    fn reads_its_own_calls(&self, messages: &[ChatMessage], tools: &[Value]) -> bool {
        let arguments = json!({ "probe0argument": "probe0value", "probe1argument": [1, null] });
        [arguments.clone(), Value::String(arguments.to_string())].into_iter().any(|given| {
            let call = ChatToolCall { name: TOOL_MARK.to_owned(), arguments: given };
            let mut probe = messages.to_vec();
            probe.extend([ChatMessage::calling("", vec![call]), ChatMessage::new(ChatRole::Tool, "probe1result")]);
            let Ok(text) = self.template.render(&probe, tools, &self.options(true)) else { return false };
            let place = text.rfind(TOOL_MARK).and_then(|name| text[..name].rfind(CALLS_OPEN));
            let read = place.map(|place| parse_tool_calls(&text[place..]).tool_calls).unwrap_or_default();
            matches!(read.as_slice(), [read] if read.name == TOOL_MARK
                && serde_json::from_str::<Value>(&read.arguments).is_ok_and(|read| read == arguments))
        })
    }

    fn turn_format(&self, with_calls: &str, text_only: &str) -> Option<TurnFormat> {
        let (_, turn) = with_calls.rsplit_once(TEXT_MARK)?;
        let (before_calls, rest) = turn.split_once(CALLS_OPEN)?;
        let (_, rest) = rest.split_once(CALLS_CLOSE)?;
        let (after_calls, _) = rest.split_once(&self.end_of_turn)?;
        let (after_text, _) = text_only.rsplit_once(TEXT_MARK)?.1.split_once(&self.end_of_turn)?;
        Some(TurnFormat {
            before_calls: before_calls.to_owned(),
            after_calls: after_calls.to_owned(),
            after_text: after_text.to_owned(),
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, RenderError> {
        self.tokenizer.encode(text).map_err(failed)
    }
}

fn task_key(task: &Task) -> (u64, usize, String) {
    (task.id, task.tools.len(), json!(task.messages).to_string())
}

/// The messages of a task's prompt.
pub fn messages(task: &Task) -> Vec<ChatMessage> {
    task.messages
        .iter()
        .map(|message| {
            let role = match message.role {
                Role::System => ChatRole::System,
                Role::User => ChatRole::User,
                Role::Assistant => ChatRole::Assistant,
                Role::Tool => ChatRole::Tool,
            };
            ChatMessage::new(role, message.content.as_str()).with_fields(&message.more)
        })
        .collect()
}

/// Tool schemas as chat APIs hand them to templates: the function wrapped, its name, description and parameters
/// first.
pub fn tools(schemas: &[ToolSchema]) -> Vec<Value> {
    const FIRST: [&str; 3] = ["name", "description", "parameters"];
    schemas
        .iter()
        .map(|schema| {
            let Value::Object(flat) = &schema.0 else { return schema.0.clone() };
            let first = FIRST.iter().filter_map(|key| flat.get_key_value(*key));
            let rest = flat.iter().filter(|(key, _)| *key != "type" && !FIRST.contains(&key.as_str()));
            let function: Map<String, Value> =
                first.chain(rest).map(|(key, value)| (key.clone(), value.clone())).collect();
            json!({ "type": "function", "function": function })
        })
        .collect()
}

impl Renderer for Chat {
    fn prompt_ids(&self, task: &Task) -> Result<Vec<TokenId>, RenderError> {
        let prompt = self.prompt_text(task)?;
        self.frame_of(task, &prompt)?;
        self.encode(&prompt)
    }

    fn tool_results_ids(&self, task: &Task, results: &[String]) -> Result<Vec<TokenId>, RenderError> {
        self.encode(&self.frame(task)?.results.render(results))
    }

    fn assistant_turn_ids(&self, task: &Task, content: &str, calls: &[ToolCall]) -> Result<Vec<TokenId>, RenderError> {
        self.encode(&self.assistant_turn_text(task, content, calls)?)
    }

    fn decode(&self, ids: &[TokenId]) -> String {
        self.tokenizer.decode(ids, false).unwrap_or_else(|error| {
            tracing::warn!("ids that are no text were sampled: {error}");
            String::new()
        })
    }

    fn parse(&self, text: &str) -> ParsedTurn {
        let reply = parse_tool_calls(text.strip_suffix(&self.end_of_turn).unwrap_or(text));
        ParsedTurn {
            content: reply.content.trim().to_owned(),
            calls: reply
                .tool_calls
                .into_iter()
                .map(|call| ToolCall { name: call.name, arguments: call.arguments })
                .collect(),
            malformed: reply.malformed.is_some(),
        }
    }
}
