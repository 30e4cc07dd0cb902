//! What a model sees of a tool (its schema) and what it says to one (a call). Both are kept as the
//! JSON they came as, because prompts and scoring depend on the exact text.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request of a model to a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub name: String,
    /// Raw JSON text exactly as the model wrote it; not necessarily valid.
    pub arguments: String,
}

impl ToolCall {
    /// A call whose arguments are given as a JSON value, written compactly.
    pub fn new(name: impl Into<String>, arguments: &Value) -> Self {
        Self { name: name.into(), arguments: arguments.to_string() }
    }
}

/// A tool in the flat function form `{"type":"function","name":…,"description":…,"parameters":{…}}`.
/// The key order of the JSON is kept, since it reaches the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToolSchema(pub Value);

impl ToolSchema {
    /// The tool's name; empty if the schema has none.
    pub fn name(&self) -> &str {
        self.0.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Parameter names in schema order.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.0
            .pointer("/parameters/properties")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|properties| properties.keys().map(String::as_str))
    }

    /// Names of the parameters that must be given.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.0
            .pointer("/parameters/required")
            .and_then(Value::as_array)
            .into_iter()
            .flat_map(|names| names.iter().filter_map(Value::as_str))
    }
}
