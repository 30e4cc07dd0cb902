//! `POST /verify`: the reward of a conversation. The session plays no part in it: the calls of the conversation and
//! those of the ground truth are replayed on fresh tables.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::reply::Reply;
use nemo_env::ToolCall;
use nemo_env::Workplace;
use nemo_env::python_compat::validation::{Issue, MAX_ISSUES};
use nemo_env::python_compat::{Value, json_text};

type Entries = Vec<(Arc<str>, Value)>;

/// What is wanted of a conversation, and what it did.
#[derive(Debug)]
pub(crate) struct VerifyRequest {
    responses_create_params: Value,
    response: Value,
    pub(crate) predicted: Vec<ToolCall>,
    pub(crate) ground_truth: Vec<ToolCall>,
}

fn find<'a>(entries: &'a [(Arc<str>, Value)], key: &str) -> Option<&'a Value> {
    entries.iter().find_map(|(name, value)| (&**name == key).then_some(value))
}

impl VerifyRequest {
    /// Checks the fields in the reference's order; all that is wrong is reported at once.
    pub(crate) fn from_entries(entries: Entries) -> Result<Self, Vec<Issue>> {
        let mut issues = Vec::new();
        let body = Value::Dict(entries.into());
        let Value::Dict(entries) = &body else { return Err(issues) };
        let field = |key: &'static str, issues: &mut Vec<Issue>| -> Option<&Value> {
            let value = find(entries, key);
            if value.is_none() {
                issues.push(Issue::missing(&[key.into()], &body));
            }
            value
        };
        let params = field("responses_create_params", &mut issues);
        if let Some(params) = params.filter(|params| !matches!(params, Value::Dict(_))) {
            issues.push(Issue::object_expected(&["responses_create_params".into()], params));
        }
        let response = field("response", &mut issues);
        let predicted = response.map(|response| predicted_calls(response, &mut issues)).unwrap_or_default();
        let ground_truth = field("ground_truth", &mut issues)
            .map(|ground_truth| ground_truth_calls(ground_truth, &mut issues))
            .unwrap_or_default();
        if let Some(id) = field("id", &mut issues) {
            issues.extend(check_integer("id", id));
        }
        for key in ["category", "environment_name"] {
            if let Some(text) = field(key, &mut issues).filter(|text| text.as_str().is_none()) {
                issues.push(Issue::text_expected(&[key.into()], text));
            }
        }
        match (params, response) {
            (Some(params), Some(response)) if issues.is_empty() => Ok(Self {
                responses_create_params: params.clone(),
                response: response.clone(),
                predicted,
                ground_truth,
            }),
            _ => Err(issues),
        }
    }

    /// Scores the conversation. The second value is whether it earned the reward, if that can be told.
    pub(crate) fn answer(self, workplace: &Workplace) -> (Reply, Option<bool>) {
        match workplace.verify(&self.predicted, &self.ground_truth) {
            Ok(earned) => {
                let mut body = String::from("{\"responses_create_params\":");
                json_text::append(&self.responses_create_params, &mut body);
                body.push_str(",\"response\":");
                json_text::append(&self.response, &mut body);
                body.push_str(if earned { ",\"reward\":1.0" } else { ",\"reward\":0.0" });
                body.push_str(",\"mask_sample\":false,\"failure_kind\":null,\"failure_reason\":null}");
                (Reply::json(body), Some(earned))
            }
            Err(_) => (Reply::exception("AttributeError('Can only use .str accessor with string values!')"), None),
        }
    }
}

/// The calls among the output items of a response, in order.
fn predicted_calls(response: &Value, issues: &mut Vec<Issue>) -> Vec<ToolCall> {
    let place = || vec![Json::from("response")];
    let Value::Dict(entries) = response else {
        issues.push(Issue::object_expected(&place(), response));
        return Vec::new();
    };
    let output_place = || [place(), vec!["output".into()]].concat();
    let items = match find(entries, "output") {
        Some(Value::List(items)) => items,
        Some(other) => {
            issues.push(Issue::list_expected(&output_place(), other));
            return Vec::new();
        }
        None => {
            issues.push(Issue::missing(&output_place(), response));
            return Vec::new();
        }
    };
    let mut calls = Vec::new();
    for (index, item) in items.iter().enumerate() {
        if issues.len() >= MAX_ISSUES {
            break;
        }
        let Value::Dict(entries) = item else {
            issues.push(Issue::object_expected(&[output_place(), vec![index.into()]].concat(), item));
            continue;
        };
        if find(entries, "type").and_then(Value::as_str) != Some("function_call") {
            continue;
        }
        let mut text = |key: &'static str| match find(entries, key) {
            Some(Value::Str(text)) => Some(text.to_string()),
            found => {
                let place = [output_place(), vec![index.into(), key.into()]].concat();
                issues.push(match found {
                    Some(other) => Issue::text_expected(&place, other),
                    None => Issue::missing(&place, item),
                });
                None
            }
        };
        if let (Some(arguments), Some(name)) = (text("arguments"), text("name")) {
            calls.push(ToolCall { name, arguments });
        }
    }
    calls
}

/// The calls of the ground truth. Text stands for none, and so do entries without name or arguments.
fn ground_truth_calls(ground_truth: &Value, issues: &mut Vec<Issue>) -> Vec<ToolCall> {
    const AS_LIST: &str = "list[dict[str,str]]";
    let place = |rest: &[Json]| [&["ground_truth".into(), AS_LIST.into()], rest].concat();
    let mut found = Vec::new();
    let mut calls = Vec::new();
    match ground_truth {
        Value::Str(_) => return calls,
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                if found.len() >= MAX_ISSUES {
                    break;
                }
                let Value::Dict(entries) = item else {
                    let message = "Input should be a valid dictionary";
                    found.push(Issue::new("dict_type", &place(&[index.into()]), message, item));
                    continue;
                };
                let wrong = entries.iter().filter(|(_, value)| value.as_str().is_none()).take(MAX_ISSUES);
                found.extend(
                    wrong.map(|(key, value)| Issue::text_expected(&place(&[index.into(), (**key).into()]), value)),
                );
                let text = |key| find(entries, key).and_then(Value::as_str).map(str::to_owned);
                if let (Some(name), Some(arguments)) = (text("name"), text("arguments")) {
                    calls.push(ToolCall { name, arguments });
                }
            }
        }
        other => found.push(Issue::list_expected(&place(&[]), other)),
    }
    if !found.is_empty() {
        // It could have been text as well.
        found.push(Issue::text_expected(&["ground_truth".into(), "str".into()], ground_truth));
    }
    issues.extend(found);
    calls
}

/// Floats of this size and larger are refused as integers.
const FLOAT_LIMIT: f64 = -(i64::MIN as f64);

/// Longer text is refused as an integer.
const MAX_DIGITS: usize = 4300;

/// What is wrong with an integer, in the eyes of Pydantic: text of digits and floats without a fraction are right.
fn check_integer(key: &'static str, value: &Value) -> Option<Issue> {
    let (kind, message) = match value {
        Value::Int(_) | Value::Bool(_) => return None,
        Value::Float(number) if !number.is_finite() => ("finite_number", "Input should be a finite number"),
        Value::Float(number) if number.fract() != 0.0 => {
            ("int_from_float", "Input should be a valid integer, got a number with a fractional part")
        }
        Value::Float(number) if number.abs() < FLOAT_LIMIT => return None,
        Value::Str(text) if integer_text(text).is_some_and(|digits| digits.len() <= MAX_DIGITS) => return None,
        Value::Str(text) if integer_text(text).is_none() => {
            ("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        }
        Value::Float(_) | Value::Str(_) => {
            ("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size")
        }
        _ => ("int_type", "Input should be a valid integer"),
    };
    Some(Issue::new(kind, &[key.into()], message, value))
}

/// The integer that a text stands for, with its sign and without leading zeros: digits, single underscores between them,
/// and a point and zeros after them.
fn integer_text(text: &str) -> Option<String> {
    let text = text.trim();
    let (sign, text) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (if text.starts_with('-') { "-" } else { "" }, rest),
        None => ("", text),
    };
    let text = match text.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|c| c == b'0') => whole,
        _ => text,
    };
    let is_group = |group: &str| !group.is_empty() && group.bytes().all(|c| c.is_ascii_digit());
    let digits: String = text.split('_').collect();
    text.split('_').all(is_group).then(|| format!("{sign}{}", digits.trim_start_matches('0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nemo_env::python_compat::{json, validation};

    fn request(text: &str) -> Result<VerifyRequest, String> {
        let Ok(Value::Dict(entries)) = json::parse(text) else { panic!("{text}") };
        VerifyRequest::from_entries(Arc::unwrap_or_clone(entries)).map_err(|issues| validation::detail(&issues))
    }

    /// A request with one field replaced.
    fn with(key: &str, value: &str) -> Result<VerifyRequest, String> {
        let fields = [
            ("responses_create_params", "{}"),
            ("response", "{\"output\": []}"),
            ("ground_truth", "[]"),
            ("id", "0"),
            ("category", "\"c\""),
            ("environment_name", "\"e\""),
        ];
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, default)| format!("\"{name}\": {}", if *name == key { value } else { default }))
            .collect();
        request(&format!("{{{}}}", fields.join(", ")))
    }

    #[test]
    fn calls_are_taken_from_both_sides() {
        let output = "{\"output\": [{\"type\": \"message\"}, {}, \
                      {\"type\": \"function_call\", \"name\": \"a\", \"arguments\": \"{}\", \"id\": null}]}";
        let call = |name: &str, arguments: &str| ToolCall { name: name.into(), arguments: arguments.into() };
        assert_eq!(with("response", output).unwrap().predicted, [call("a", "{}")]);
        let ground_truth = "[{\"name\": \"b\", \"arguments\": \"x\"}, {\"name\": \"c\"}]";
        assert_eq!(with("ground_truth", ground_truth).unwrap().ground_truth, [call("b", "x")]);
        assert_eq!(with("ground_truth", "\"text\"").unwrap().ground_truth, []);
    }

    #[test]
    fn integers_are_what_pydantic_takes_for_them() {
        let long = |digits: &str| format!("\"{digits}\"");
        for id in
            ["\"12\"", "true", "3.0", "-1", "\"1.0\"", "\"1_0\"", "\"5.00\"", "\"+1_0.0\"", "\"-007\"", "\"-0.0\""]
        {
            assert!(with("id", id).is_ok(), "{id}");
        }
        for id in ["9223372036854774784.0", "\"\u{a0}1\\t\"", "\"9223372036854775808\"", "\"0_0\""] {
            assert!(with("id", id).is_ok(), "{id}");
        }
        for id in [long(&"1".repeat(4300)), long(&"0".repeat(5000)), long(&format!("{}_1", "1".repeat(4299)))] {
            assert!(with("id", &id).is_ok());
        }
        let refused = |kind: &str, id: &str| {
            let detail = with("id", id).unwrap_err();
            assert!(detail.contains(&format!("\"{kind}\"")), "{id}: {detail}");
        };
        for id in ["1.", "1.5", ".0", "+-1", "_1", "1_", "1__0", "-_1", "1.0_0", "1 .0", "", "-", "1e3", "٣", "1,0"] {
            refused("int_parsing", &long(id));
        }
        for id in ["1e19", "-1e19", "9223372036854775808.0", "-9223372036854775808.0"] {
            refused("int_parsing_size", id);
        }
        refused("int_parsing_size", &long(&"1".repeat(4301)));
        refused("int_parsing_size", &long(&format!("-{}", "1".repeat(4300))));
        refused("finite_number", "Infinity");
    }

    #[test]
    fn every_wrong_field_is_named() {
        for (key, value, expected) in [
            ("response", "5", "model_attributes_type:[\"body\",\"response\"]"),
            ("response", "{}", "missing:[\"body\",\"response\",\"output\"]"),
            ("response", "{\"output\": {}}", "list_type:[\"body\",\"response\",\"output\"]"),
            ("response", "{\"output\": [1]}", "model_attributes_type:[\"body\",\"response\",\"output\",0]"),
            (
                "response",
                "{\"output\": [{\"type\": \"function_call\", \"name\": 1}]}",
                "missing:[\"body\",\"response\",\"output\",0,\"arguments\"] \
                 string_type:[\"body\",\"response\",\"output\",0,\"name\"]",
            ),
            (
                "ground_truth",
                "[{\"name\": 1}]",
                "string_type:[\"body\",\"ground_truth\",\"list[dict[str,str]]\",0,\"name\"] \
                 string_type:[\"body\",\"ground_truth\",\"str\"]",
            ),
            (
                "ground_truth",
                "null",
                "list_type:[\"body\",\"ground_truth\",\"list[dict[str,str]]\"] \
                 string_type:[\"body\",\"ground_truth\",\"str\"]",
            ),
            ("id", "\"x\"", "int_parsing:[\"body\",\"id\"]"),
            ("id", "1.5", "int_from_float:[\"body\",\"id\"]"),
            ("id", "null", "int_type:[\"body\",\"id\"]"),
            ("category", "1", "string_type:[\"body\",\"category\"]"),
        ] {
            let detail: Json = serde_json::from_str(&with(key, value).unwrap_err()).unwrap();
            let issues: Vec<String> = detail["detail"]
                .as_array()
                .unwrap()
                .iter()
                .map(|issue| format!("{}:{}", issue["type"].as_str().unwrap(), issue["loc"]))
                .collect();
            assert_eq!(issues.join(" "), expected, "{key} {value}");
        }
    }
}
