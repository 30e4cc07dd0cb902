//! Refusals of a request in the form that the reference's web framework gives them: a list of issues,
//! each with its kind, place, message and the offending input.

use serde_json::{Value as Json, json};

use super::{Value, json_text};

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue(Json);

impl Issue {
    /// `place` leads from the body to the offending value.
    pub fn new(kind: &str, place: &[Json], message: &str, input: Json) -> Self {
        let place: Vec<Json> = std::iter::once("body".into()).chain(place.iter().cloned()).collect();
        Self(json!({ "type": kind, "loc": place, "msg": message, "input": input }))
    }

    /// The body is not JSON: `message` says why, `position` is the number of characters before the fault.
    pub fn not_json(message: &str, position: usize) -> Self {
        let mut issue = Self::new("json_invalid", &[position.into()], "JSON decode error", json!({}));
        issue.0["ctx"] = json!({ "error": message });
        issue
    }

    /// Something is left out of `input`.
    pub fn missing(place: &[Json], input: Json) -> Self {
        Self::new("missing", place, "Field required", input)
    }

    /// `found` should be an object. A null body counts as none.
    pub fn object_expected(place: &[Json], found: &Value) -> Self {
        if place.is_empty() && matches!(found, Value::None) {
            return Self::missing(place, Json::Null);
        }
        let message = "Input should be a valid dictionary or object to extract fields from";
        Self::new("model_attributes_type", place, message, found.to_json())
    }

    /// `found` should be text.
    pub fn text_expected(place: &[Json], found: &Value) -> Self {
        Self::new("string_type", place, "Input should be a valid string", found.to_json())
    }
}

/// The body of the answer that lists the issues.
pub fn detail(issues: &[Issue]) -> String {
    let issues: Vec<Json> = issues.iter().map(|issue| issue.0.clone()).collect();
    json_text::write(&json!({ "detail": issues }))
}
