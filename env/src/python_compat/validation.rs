//! Refusals of a request in the form that the reference's web framework gives them: a list of issues,
//! each with its kind, place, message and the offending input.
//!
//! The reference sends the input back whatever its size, and one issue for each wrong element. Here both are bounded, so
//! that a refusal is never larger than a few kilobytes for each issue.

use serde_json::{Value as Json, json};

use super::{Value, json_text};

/// Input of about this many bytes is shown; what is longer is left out.
const MAX_INPUT_BYTES: usize = 4096;

/// Issues that are listed; further ones are not looked for.
pub const MAX_ISSUES: usize = 100;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue(Json);

impl Issue {
    /// `place` leads from the body to the offending value.
    pub fn new(kind: &str, place: &[Json], message: &str, input: &Value) -> Self {
        let place: Vec<Json> = std::iter::once("body".into()).chain(place.iter().map(shortened)).collect();
        Self(json!({ "type": kind, "loc": place, "msg": message, "input": shown(input) }))
    }

    /// The body is not JSON: `message` says why, `position` is the number of characters before the fault.
    pub fn not_json(message: &str, position: usize) -> Self {
        let mut issue =
            Self::new("json_invalid", &[position.into()], "JSON decode error", &Value::Dict(Vec::new().into()));
        issue.0["ctx"] = json!({ "error": message });
        issue
    }

    /// Something is left out of `input`.
    pub fn missing(place: &[Json], input: &Value) -> Self {
        Self::new("missing", place, "Field required", input)
    }

    /// `found` should be an object.
    pub fn object_expected(place: &[Json], found: &Value) -> Self {
        let message = "Input should be a valid dictionary or object to extract fields from";
        Self::new("model_attributes_type", place, message, found)
    }

    /// `found` should be text.
    pub fn text_expected(place: &[Json], found: &Value) -> Self {
        Self::new("string_type", place, "Input should be a valid string", found)
    }

    /// `found` should be a list.
    pub fn list_expected(place: &[Json], found: &Value) -> Self {
        Self::new("list_type", place, "Input should be a valid list", found)
    }

    /// There is something, `found`, where nothing is asked for.
    pub fn unexpected(place: &[Json], found: &Value) -> Self {
        Self::new("extra_forbidden", place, "Extra inputs are not permitted", found)
    }
}

/// The body of the answer that lists the issues.
pub fn detail(issues: &[Issue]) -> String {
    let issues: Vec<Json> = issues.iter().take(MAX_ISSUES).map(|issue| issue.0.clone()).collect();
    json_text::write(&json!({ "detail": issues }))
}

/// A part of a place. Keys come from the request, so they have any length.
fn shortened(part: &Json) -> Json {
    match part {
        Json::String(key) if key.len() > MAX_INPUT_BYTES => "(a long key)".into(),
        other => other.clone(),
    }
}

/// The input as JSON, or a note in its place if it is long.
fn shown(input: &Value) -> Json {
    let mut left = MAX_INPUT_BYTES;
    if is_within(input, &mut left) {
        input.to_json()
    } else {
        format!("(left out: more than {MAX_INPUT_BYTES} bytes)").into()
    }
}

/// Whether the value is short enough to be shown. Looks at no more of it than that takes.
fn is_within(value: &Value, left: &mut usize) -> bool {
    let own = 2 + value.as_str().map_or(0, str::len);
    let Some(rest) = left.checked_sub(own) else { return false };
    *left = rest;
    match value {
        Value::List(items) => items.iter().all(|item| is_within(item, left)),
        Value::Dict(entries) => entries.iter().all(|(key, value)| {
            let Some(rest) = left.checked_sub(key.len() + 3) else { return false };
            *left = rest;
            is_within(value, left)
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_input_is_shown_and_long_input_is_not() {
        let place = ["key".into()];
        let of = |value: Value| detail(&[Issue::text_expected(&place, &value)]);
        assert!(of(Value::Int(5)).contains("\"input\":5"));
        let deep = (0..3000).fold(Value::None, |inner, _| Value::List(vec![inner].into()));
        let wide = Value::List(vec![Value::None; 1 << 20].into());
        let keys = Value::Dict((0..2000).map(|key| (key.to_string().into(), Value::None)).collect::<Vec<_>>().into());
        for long in ["x".repeat(1 << 20).into(), deep, wide, keys] {
            let text = of(long);
            assert!(text.len() < 300 && text.contains("left out: more than 4096 bytes"), "{text}");
        }
        let many = vec![Issue::missing(&place, &Value::None); 1000];
        assert_eq!(detail(&many).matches("Field required").count(), MAX_ISSUES);
    }
}
