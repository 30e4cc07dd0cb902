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

    /// The schema with the texts of another one of the same tool: what it says of the tool and of each parameter that
    /// both have. Names and types stay.
    pub fn described_by(mut self, other: &Self) -> Self {
        if let Some(text) = other.0.get("description").filter(|text| text.is_string()) {
            self.0["description"] = text.clone();
        }
        let properties = self.0.pointer_mut("/parameters/properties").and_then(Value::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            let theirs = &other.0["parameters"]["properties"][name]["description"];
            if theirs.is_string() && property.is_object() {
                property["description"] = theirs.clone();
            }
        }
        self
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_taken_over_and_nothing_else() {
        let schema = |tool: &str, parameter: &str, kind: &str| {
            let properties = json!({ "a": { "type": kind, "description": parameter }, "b": { "type": "string" } });
            ToolSchema(json!({ "name": "t", "description": tool, "parameters": { "properties": properties } }))
        };
        let described = schema("ours", "our a", "string").described_by(&schema("theirs", "their a", "integer"));
        assert_eq!(described, schema("theirs", "their a", "string"));
        let other = ToolSchema(json!({ "name": "t" }));
        assert_eq!(schema("ours", "our a", "string").described_by(&other), schema("ours", "our a", "string"));
    }
}
