//! One task of a dataset, in the record format of NeMo Gym: prompt, tools and ground truth, plus the
//! keys that generated tasks add (`office`, `provenance`, `demonstration`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::tool::{ToolCall, ToolSchema};
use crate::workplace::Workplace;

/// The system prompt of every Workplace Assistant task; it fixes the simulated "now".
pub const WORKPLACE_SYSTEM_PROMPT: &str = "Today's date is Thursday, 2023-11-30 and the current time is 23:59:00. Remember the current date and time when answering queries. Meetings must not start before 9am or end after 6pm.";

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
    Tool,
}

/// One message of the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// What else the record says of it, such as `name` or `tool_calls`, for templates that look at it.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A message without further fields.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), more: Map::new() }
    }
}

/// Which tasks a generated task is kept apart from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holdout {
    /// Used for training.
    #[default]
    None,
    /// The template is trained on, this filling is not.
    Filling,
    /// The whole template is held out.
    Template,
}

/// Where a generated task comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    pub template: String,
    pub filling: u64,
    /// `email`, `calendar`, `analytics`, `project_management`, `customer_relationship_manager` or `multi_domain`.
    pub domain: String,
    /// Calls of the demonstration, look-ups included.
    pub num_steps: usize,
    pub difficulty: u8,
    #[serde(default)]
    pub holdout: Holdout,
}

/// A way to solve the task, for supervised warm start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demonstration {
    pub calls: Vec<ToolCall>,
    pub final_text: String,
}

/// One task: what the model is told, what it may call, and the calls whose end state is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub id: u64,
    pub messages: Vec<Message>,
    pub tools: Arc<Vec<ToolSchema>>,
    pub parallel_tool_calls: bool,
    pub temperature: Option<f64>,
    pub ground_truth: Vec<ToolCall>,
    pub category: String,
    pub environment_name: String,
    /// Name of the office whose tables the task is about; `None` = the tables given on the command line.
    pub office: Option<String>,
    pub provenance: Option<Provenance>,
    pub demonstration: Option<Demonstration>,
}

/// Why a line is not a task record.
#[derive(Debug, Error)]
pub enum RecordError {
    #[error("not UTF-8 text ({0}); expected one JSON object per line")]
    NotText(std::str::Utf8Error),
    #[error("not valid JSON ({0}); expected one JSON object per line")]
    Json(serde_json::Error),
    #[error("found {found}, expected a JSON object with the keys `id`, `responses_create_params` and `ground_truth`")]
    NotAnObject { found: &'static str },
    #[error("key `{key}` is missing; expected {expected}")]
    Missing { key: String, expected: &'static str },
    #[error("key `{key}` holds {found}; expected {expected}")]
    WrongType { key: String, found: String, expected: &'static str },
    #[error(
        "`ground_truth` is a string ({text:?}); expected a list of {{\"name\", \"arguments\"}} objects \
         (a string would be scored as \"change nothing\", so doing nothing would be rewarded)"
    )]
    GroundTruthIsText { text: String },
    #[error(
        "`{key}[{index}]` calls {name:?}: {reason}; expected a call that the office can carry out (it would be scored as \
         \"change nothing\", so doing nothing would be rewarded)"
    )]
    CannotBeCarriedOut { key: &'static str, index: usize, name: String, reason: String },
}

/// The JSON kind of a value, as an English noun phrase.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong(key: impl Into<String>, value: &Value, expected: &'static str) -> RecordError {
    let mut text = value.to_string();
    if text.len() > 60 {
        text = text.chars().take(57).collect::<String>() + "...";
    }
    RecordError::WrongType { key: key.into(), found: format!("{} ({text})", kind_of(value)), expected }
}

fn require<'a>(
    object: &'a Map<String, Value>,
    prefix: &str,
    key: &str,
    expected: &'static str,
) -> Result<&'a Value, RecordError> {
    object.get(key).ok_or_else(|| RecordError::Missing { key: format!("{prefix}{key}"), expected })
}

/// Message content is a string or a list of parts of which the text is taken.
fn content_text(value: &Value, key: &str) -> Result<String, RecordError> {
    const EXPECTED: &str = "a string or a list of text parts";
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part.get("text") {
                Some(Value::String(text)) => Ok(text.as_str()),
                _ => Err(wrong(key, part, EXPECTED)),
            })
            .collect(),
        other => Err(wrong(key, other, EXPECTED)),
    }
}

fn parse_messages(input: &Value) -> Result<Vec<Message>, RecordError> {
    const KEY: &str = "responses_create_params.input";
    let items = match input {
        Value::String(text) => {
            return Ok(vec![Message::new(Role::User, text.as_str())]);
        }
        Value::Array(items) if !items.is_empty() => items,
        other => return Err(wrong(KEY, other, "a non-empty list of messages")),
    };
    items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            let key = format!("{KEY}[{i}]");
            let Value::Object(object) = item else {
                return Err(wrong(key, item, "an object with `role` and `content`"));
            };
            let prefix = format!("{key}.");
            let role = require(object, &prefix, "role", "a role name")?;
            let content = match object.get("content") {
                // Who calls tools need not say anything.
                None | Some(Value::Null) if object.contains_key("tool_calls") => String::new(),
                _ => {
                    let content = require(object, &prefix, "content", "the message text")?;
                    content_text(content, &format!("{prefix}content"))?
                }
            };
            check_chat_calls(object.get("tool_calls"), &prefix)?;
            let mut more = object.clone();
            more.retain(|key, _| !matches!(key.as_str(), "role" | "content"));
            Ok(Message {
                role: Role::deserialize(role)
                    .map_err(|_| wrong(format!("{prefix}role"), role, "`system`, `user`, `assistant` or `tool`"))?,
                content,
                more,
            })
        })
        .collect()
}

/// Refuses calls of a message that no template could write.
fn check_chat_calls(calls: Option<&Value>, prefix: &str) -> Result<(), RecordError> {
    let key = format!("{prefix}tool_calls");
    let calls = match calls {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong(key, other, "a list of tool calls")),
    };
    let is_call = |call: &Value| {
        let function = call.get("function").unwrap_or(call);
        function.get("name").is_some_and(Value::is_string) && function.get("arguments").is_some()
    };
    match calls.iter().position(|call| !is_call(call)) {
        Some(i) => Err(wrong(format!("{key}[{i}]"), &calls[i], "a call with `name` and `arguments`")),
        None => Ok(()),
    }
}

fn parse_tools(tools: Option<&Value>) -> Result<Vec<ToolSchema>, RecordError> {
    const KEY: &str = "responses_create_params.tools";
    match tools {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                if item.get("name").is_some_and(Value::is_string) {
                    Ok(ToolSchema(item.clone()))
                } else {
                    Err(wrong(format!("{KEY}[{i}]"), item, "a function schema with a `name`"))
                }
            })
            .collect(),
        Some(other) => Err(wrong(KEY, other, "a list of function schemas")),
    }
}

fn parse_calls(key: &str, value: &Value) -> Result<Vec<ToolCall>, RecordError> {
    let Value::Array(items) = value else {
        return Err(wrong(key, value, "a list of tool calls"));
    };
    items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            ToolCall::deserialize(item)
                .map_err(|_| wrong(format!("{key}[{i}]"), item, "{\"name\": string, \"arguments\": string of JSON}"))
        })
        .collect()
}

/// Refuses calls that reach no tool.
fn check_calls(key: &'static str, calls: &[ToolCall]) -> Result<(), RecordError> {
    let first = calls.iter().enumerate().find_map(|(index, call)| Some((index, call, Workplace::refusal(call)?)));
    first.map_or(Ok(()), |(index, call, reason)| {
        Err(RecordError::CannotBeCarriedOut { key, index, name: call.name.clone(), reason })
    })
}

fn parse_id(value: &Value) -> Result<u64, RecordError> {
    let id = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    id.ok_or_else(|| wrong("id", value, "a non-negative integer"))
}

fn text_or(object: &Map<String, Value>, key: &str, default: &str) -> Result<String, RecordError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(key, other, "a string")),
    }
}

fn optional<T: for<'de> Deserialize<'de>>(
    object: &Map<String, Value>,
    key: &str,
    expected: &'static str,
) -> Result<Option<T>, RecordError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|_| wrong(key, value, expected)),
    }
}

impl Task {
    /// Reads one line of a dataset. Unknown keys are tolerated.
    pub fn from_json_line(line: &str) -> Result<Self, RecordError> {
        let value: Value = serde_json::from_str(line).map_err(RecordError::Json)?;
        let Value::Object(object) = &value else {
            return Err(RecordError::NotAnObject { found: kind_of(&value) });
        };
        let id = parse_id(require(object, "", "id", "a non-negative integer")?)?;
        let request = require(object, "", "responses_create_params", "an object with `input` and `tools`")?;
        let Value::Object(request) = request else {
            return Err(wrong("responses_create_params", request, "an object with `input` and `tools`"));
        };
        let input = require(request, "responses_create_params.", "input", "a non-empty list of messages")?;
        let ground_truth = match require(object, "", "ground_truth", "a list of tool calls")? {
            Value::String(text) => {
                return Err(RecordError::GroundTruthIsText { text: text.clone() });
            }
            other => parse_calls("ground_truth", other)?,
        };
        check_calls("ground_truth", &ground_truth)?;
        let demonstration: Option<Demonstration> = optional(object, "demonstration", "{calls, final_text}")?;
        if let Some(demonstration) = &demonstration {
            check_calls("demonstration.calls", &demonstration.calls)?;
        }
        Ok(Self {
            id,
            messages: parse_messages(input)?,
            tools: Arc::new(parse_tools(request.get("tools"))?),
            parallel_tool_calls: optional(request, "parallel_tool_calls", "true or false")?.unwrap_or(false),
            temperature: optional(request, "temperature", "a number")?,
            ground_truth,
            category: text_or(object, "category", "")?,
            environment_name: text_or(object, "environment_name", "workplace_assistant")?,
            office: optional(object, "office", "the name of an office")?,
            provenance: optional(object, "provenance", "{template, filling, domain, num_steps, difficulty, holdout}")?,
            demonstration,
        })
    }

    /// Writes the record as one line, without the newline.
    pub fn to_json_line(&self) -> String {
        let mut request = Map::new();
        request.insert("input".into(), json!(self.messages));
        request.insert("tools".into(), json!(*self.tools));
        request.insert("parallel_tool_calls".into(), self.parallel_tool_calls.into());
        if let Some(temperature) = self.temperature {
            request.insert("temperature".into(), temperature.into());
        }
        let mut record = Map::new();
        record.insert("id".into(), self.id.into());
        record.insert("responses_create_params".into(), request.into());
        record.insert("ground_truth".into(), json!(self.ground_truth));
        record.insert("category".into(), self.category.as_str().into());
        record.insert("environment_name".into(), self.environment_name.as_str().into());
        record.insert(
            "agent_ref".into(),
            json!({"type": "responses_api_agents", "name": "workplace_assistant_simple_agent"}),
        );
        if let Some(office) = &self.office {
            record.insert("office".into(), office.as_str().into());
        }
        if let Some(provenance) = &self.provenance {
            record.insert("provenance".into(), json!(provenance));
        }
        if let Some(demonstration) = &self.demonstration {
            record.insert("demonstration".into(), json!(demonstration));
        }
        Value::Object(record).to_string()
    }

    /// The text of the last user message; empty if there is none.
    pub fn user_message(&self) -> &str {
        self.messages
            .iter()
            .rev()
            .find(|message| message.role == Role::User)
            .map_or("", |message| message.content.as_str())
    }
}
