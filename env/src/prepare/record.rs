//! One record of a data set: does it parse, does its ground truth work, what is written of it.

use serde_json::{Map, Value, json};

use crate::environment::Offices;
use crate::error::EnvError;
use crate::scoring::is_success;
use crate::task::record::{Role, Task};

/// A record that can be used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PreparedRecord {
    pub(super) id: u64,
    pub(super) category: String,
    /// The line to write.
    pub(super) text: String,
    /// Whether doing nothing is rewarded.
    pub(super) is_idle: bool,
    /// Calls of the ground truth.
    pub(super) num_calls: usize,
    pub(super) num_tools: usize,
    /// Messages of the user.
    pub(super) num_turns: usize,
    pub(super) num_words: usize,
    pub(super) temperature: Option<f64>,
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordProblem {
    pub(super) id: Option<u64>,
    pub(super) problem: String,
}

impl RecordProblem {
    pub(super) fn new(id: Option<u64>, problem: String) -> Self {
        Self { id, problem }
    }
}

impl PreparedRecord {
    /// Checks a line: the outer error is one of the office, the inner one of the record.
    pub(super) fn check(text: &str, offices: &Offices) -> Result<Result<Self, RecordProblem>, EnvError> {
        let mut value: Value = serde_json::from_str(text).unwrap_or_default();
        let task = match Task::from_json_line(text) {
            Ok(task) => task,
            Err(error) => {
                let id = value.get("id").and_then(Value::as_u64);
                return Ok(Err(RecordProblem::new(id, error.to_string())));
            }
        };
        if let Some(problem) = problem_of(&task, offices)? {
            return Ok(Err(RecordProblem::new(Some(task.id), problem)));
        }
        let request = value.get("responses_create_params").cloned().unwrap_or_default();
        if let Value::Object(record) = &mut value {
            name_agent(record);
        }
        Ok(Ok(Self {
            id: task.id,
            text: value.to_string(),
            is_idle: offices.workplace(&task)?.verify(&[], &task.ground_truth).unwrap_or(false),
            num_calls: task.ground_truth.len(),
            num_tools: task.tools.len(),
            num_turns: task.messages.iter().filter(|message| message.role == Role::User).count(),
            num_words: num_words(&request),
            temperature: task.temperature,
            category: task.category,
        }))
    }
}

/// Adds the agent that NeMo Gym is to give the record to, unless it names one.
fn name_agent(record: &mut Map<String, Value>) {
    let agent = || json!({"type": "responses_api_agents", "name": "workplace_assistant_simple_agent"});
    record.entry("agent_ref").or_insert_with(agent);
}

/// Carries out the ground truth; says what is wrong with it, if anything is.
fn problem_of(task: &Task, offices: &Offices) -> Result<Option<String>, EnvError> {
    if task.user_message().is_empty() {
        return Ok(Some("the record holds no request of a user".to_owned()));
    }
    let workplace = offices.workplace(task)?;
    let mut session = workplace.session();
    for (index, call) in task.ground_truth.iter().enumerate() {
        let result = session.call(call);
        if !is_success(&result) {
            let (number, answer) = (index + 1, result.body());
            return Ok(Some(format!("call {number} of the ground truth fails: {} gives {answer}", call.name)));
        }
    }
    Ok(match workplace.verify(&task.ground_truth, &task.ground_truth) {
        Ok(true) => None,
        Ok(false) => Some("the ground truth does not equal itself".to_owned()),
        Err(error) => Some(format!("the final table {} cannot be compared (column {})", error.table, error.column)),
    })
}

/// Words of a value as Python would write it, with a blank after each comma and colon: a measure of its tokens.
pub(super) fn num_words(value: &Value) -> usize {
    // A blank after a separator ends a word; the text before it is one, whatever it is.
    match value {
        Value::Array(items) => {
            let inner: usize = items.iter().map(num_words).sum();
            inner.max(1)
        }
        Value::Object(entries) => {
            // The key and its colon are a word or several of their own.
            let inner: usize = entries.iter().map(|(key, value)| words_of_text(key) + num_words(value)).sum();
            inner.max(1)
        }
        Value::String(text) => words_of_text(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// Words of a quoted text: the quotes belong to the first and the last one, or are words themselves where blanks follow
/// them.
fn words_of_text(text: &str) -> usize {
    let inner = text.split(' ').filter(|word| !word.is_empty()).count();
    let opens = usize::from(text.is_empty() || text.starts_with(' '));
    let closes = usize::from(text.ends_with(' '));
    inner + opens + closes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_python_writes_them() {
        // Each value as Python writes it, whose words can be seen.
        for (value, written) in [
            (json!({"a": 1, "b c": [true, null]}), r#"{"a": 1, "b c": [true, null]}"#),
            (json!([]), "[]"),
            (json!({}), "{}"),
            (json!({"x": {}, "y": [], "z": ""}), r#"{"x": {}, "y": [], "z": ""}"#),
            (json!(["one two  three", " lead", "trail ", " "]), r#"["one two  three", " lead", "trail ", " "]"#),
            (json!("line\nbreak"), r#""line\nbreak""#),
            (json!([[1, [2]], {"k": [3, {"l": "m n"}]}]), r#"[[1, [2]], {"k": [3, {"l": "m n"}]}]"#),
        ] {
            assert_eq!(num_words(&value), written.split_ascii_whitespace().count(), "{written}");
        }
    }
}
