//! Chat messages, in the form chat APIs and datasets write them.

use serde_json::{Map, Value, json};

use crate::text::error::TextError;
use crate::text::tool_calls::ToolCall;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChatRole {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl ChatRole {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role called `name`; `developer` is another name of `system`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "system" | "developer" => Some(Self::System),
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" | "function" => Some(Self::Tool),
            _ => None,
        }
    }
}

/// A tool call in a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatToolCall {
    /// Name of the tool.
    pub name: String,
    /// An object, or a string holding JSON text that templates insert verbatim.
    pub arguments: Value,
}

impl From<ToolCall> for ChatToolCall {
    fn from(call: ToolCall) -> Self {
        Self { name: call.name, arguments: Value::String(call.arguments) }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: ChatRole,
    /// The text.
    pub content: String,
    /// Tools the assistant calls.
    pub tool_calls: Vec<ChatToolCall>,
    /// The message as it was read, with every field it has; templates are given this.
    given: Option<Map<String, Value>>,
}

impl ChatMessage {
    /// A message without tool calls.
    pub fn new(role: ChatRole, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tool_calls: Vec::new(), given: None }
    }

    /// An assistant's message that calls tools.
    pub fn calling(content: impl Into<String>, tool_calls: Vec<ChatToolCall>) -> Self {
        Self { tool_calls, ..Self::new(ChatRole::Assistant, content) }
    }

    /// The message with further fields, which templates are given with it; `tool_calls` among them are its calls.
    #[must_use]
    pub fn with_fields(mut self, fields: &Map<String, Value>) -> Self {
        if !fields.is_empty() {
            let mut given = json!({ "role": self.role.name(), "content": self.content });
            fields.iter().for_each(|(key, value)| given[key] = value.clone());
            let calls = fields.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
            self.tool_calls.extend(calls.filter_map(parse_call));
            self.given = given.as_object().map(as_templates_expect);
        }
        self
    }

    /// Reads a list of messages such as `[{"role": "user", "content": "Hello"}]`.
    ///
    /// # Errors
    /// [`TextError::BadMessage`] naming the message.
    pub fn list_from_json(messages: &Value) -> Result<Vec<Self>, TextError> {
        match messages.as_array() {
            Some(list) => list.iter().enumerate().map(|(index, message)| Self::from_json(index, message)).collect(),
            None => Err(TextError::BadMessage { index: 0, problem: "expected a list of messages".to_owned() }),
        }
    }

    fn from_json(index: usize, message: &Value) -> Result<Self, TextError> {
        let bad = |problem: String| TextError::BadMessage { index, problem };
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        let role = ChatRole::from_name(role)
            .ok_or_else(|| bad(format!("role is \"{role}\", expected system, user, assistant or tool")))?;
        let content = match message.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                join_parts(parts).ok_or_else(|| bad("content has parts without text".to_owned()))?
            }
            Some(_) => return Err(bad("content is neither a string nor a list of text parts".to_owned())),
        };
        let tool_calls = match message.get("tool_calls") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(calls)) => calls
                .iter()
                .map(|call| parse_call(call).ok_or_else(|| bad("a tool call lacks a name or arguments".to_owned())))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(bad("tool_calls is not a list".to_owned())),
        };
        Ok(Self { role, content, tool_calls, given: message.as_object().map(as_templates_expect) })
    }

    /// The message as templates expect it: as it was given, with the fields templates know and those only some do.
    pub(super) fn to_json(&self) -> Value {
        if let Some(given) = &self.given {
            return Value::Object(given.clone());
        }
        let mut message = json!({ "role": self.role.name(), "content": self.content });
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(
                |call| json!({ "type": "function", "function": { "name": call.name, "arguments": call.arguments } }),
            );
            message["tool_calls"] = calls.collect();
        }
        message
    }
}

/// The fields of a message, its calls in the form that templates look for.
fn as_templates_expect(message: &Map<String, Value>) -> Map<String, Value> {
    let mut given = message.clone();
    if let Some(Value::Array(calls)) = given.get_mut("tool_calls") {
        calls.iter_mut().for_each(wrap_call);
    }
    given
}

/// Calls are also written without the layer `function`; templates look for it.
fn wrap_call(call: &mut Value) {
    if let Value::Object(fields) = call
        && !fields.contains_key("function")
    {
        let mut function = Map::new();
        for key in ["name", "arguments"] {
            function.extend(fields.remove(key).map(|value| (key.to_owned(), value)));
        }
        fields.entry("type").or_insert_with(|| "function".into());
        fields.insert("function".to_owned(), Value::Object(function));
    }
}

fn join_parts(parts: &[Value]) -> Option<String> {
    parts.iter().map(|part| part.get("text").and_then(Value::as_str)).collect()
}

fn parse_call(call: &Value) -> Option<ChatToolCall> {
    let function = call.get("function").unwrap_or(call);
    let name = function.get("name")?.as_str()?.to_owned();
    Some(ChatToolCall { name, arguments: function.get("arguments")?.clone() })
}
