//! A session: tool calls of one rollout on private tables, answered in the words of the reference.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::arguments::Arguments;
use super::base_table::Row;
use super::catalog;
use super::comparison::tables;
use super::state::State;
use super::table::Table;
use crate::python_compat::json::{self, JsonError};
use crate::python_compat::json_text;
use crate::python_compat::keyword::refused_keyword;
use crate::python_compat::text::string_repr;
use crate::python_compat::validation::{self, Issue};
use crate::python_compat::{Exception, Value};
use crate::tool::ToolCall;

/// The answer to one call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// What the tool returned; null if the call reached no tool.
    pub output: Json,
    /// Answer to a call that reached no tool.
    refusal: Option<String>,
}

impl ToolResult {
    fn refused(answer: String) -> Self {
        Self { output: Json::Null, refusal: Some(answer) }
    }

    /// A tool that was called with something it cannot take.
    pub fn failed(name: &str, reason: &str) -> Self {
        Self { output: failed(name, reason), refusal: None }
    }

    /// The text that the model sees.
    pub fn body(&self) -> String {
        match &self.refusal {
            Some(answer) => answer.clone(),
            None => format!("{{\"output\":{}}}", json_text::write(&self.output)),
        }
    }

    /// Whether the call ended in an exception or never reached a tool. Refusals that a tool words
    /// itself ("Email not found.") do not count.
    pub fn is_error(&self) -> bool {
        self.refusal.is_some() || self.output.as_str().is_some_and(|text| text.starts_with("Error "))
    }
}

/// Why a tool cannot be called by these names.
pub(super) fn refusal<'a>(name: &str, given: impl Iterator<Item = &'a str>) -> Option<String> {
    match catalog::find(name) {
        Some(tool) => refused_keyword(tool.method, &tool.parameter_names(), given),
        None => Some("there is no such tool".to_owned()),
    }
}

/// Runs one tool. The error is the text of the exception.
pub(super) fn execute(state: &mut State, name: &str, arguments: Vec<(Arc<str>, Value)>) -> Result<Json, Exception> {
    let Some(tool) = catalog::find(name) else {
        return Err(Exception::other(string_repr(name)));
    };
    let given = arguments.iter().map(|(name, _)| &**name);
    if let Some(refusal) = refused_keyword(tool.method, &tool.parameter_names(), given) {
        return Err(Exception::other(refusal));
    }
    (tool.run)(state, &Arguments(arguments))
}

/// One row that is not among the initial ones.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    pub position: usize,
    pub label: usize,
    pub cells: Vec<Json>,
}

/// How a table differs from its initial contents.
#[derive(Clone, Debug, PartialEq)]
pub struct TableChange {
    pub table: &'static str,
    pub num_rows: usize,
    /// Rows added or changed.
    pub new_or_modified: Vec<RowChange>,
    /// Ids of the initial rows that are gone or changed.
    pub gone_ids: Vec<Json>,
}

/// Tables of one rollout and the tools that act on them.
#[derive(Clone, Debug)]
pub struct Session {
    initial: State,
    state: State,
}

impl Session {
    pub(super) fn new(initial: State) -> Self {
        Self { state: initial.clone(), initial }
    }

    /// Answers a call. Whatever the model wrote, there is an answer: bad JSON, unknown tools and
    /// arguments, values that no tool can take.
    pub fn call(&mut self, call: &ToolCall) -> ToolResult {
        let arguments = match json::parse(&call.arguments) {
            Ok(arguments) => arguments,
            Err(error) => return invalid_arguments(error),
        };
        // The name is part of a path in the reference, so these reach no tool there.
        if call.name.is_empty() || call.name.contains('/') {
            return ToolResult::refused("{\"detail\":\"Not Found\"}".into());
        }
        let Value::Dict(arguments) = arguments else {
            // The reference's agent sends no body at all for null.
            let issue = match arguments {
                Value::None => Issue::missing(&[], &Value::None),
                other => Issue::object_expected(&[], &other),
            };
            return ToolResult::refused(validation::detail(&[issue]));
        };
        self.call_with(&call.name, Arc::unwrap_or_clone(arguments))
    }

    /// [`Session::call`] for arguments that are read already.
    pub fn call_with(&mut self, name: &str, mut arguments: Vec<(Arc<str>, Value)>) -> ToolResult {
        // A null counts as an argument left out.
        arguments.retain(|(_, value)| !value.is_null());
        let output =
            execute(&mut self.state, name, arguments).unwrap_or_else(|exception| failed(name, &exception.text));
        ToolResult { output, refusal: None }
    }

    /// [`Session::call_with`], unless the tables would then hold more than `max_bytes` beyond those the session started
    /// from and more than they do now: then nothing is changed.
    pub fn call_within(
        &mut self,
        max_bytes: usize,
        name: &str,
        arguments: Vec<(Arc<str>, Value)>,
    ) -> Option<ToolResult> {
        let before = self.state.clone();
        let result = self.call_with(name, arguments);
        let added = self.added_bytes();
        if added > max_bytes && added > added_bytes(&before) {
            self.state = before;
            return None;
        }
        Some(result)
    }

    /// Bytes that the calls have added to the tables: whole rows, counted from above, since rows may share texts.
    pub fn added_bytes(&self) -> usize {
        added_bytes(&self.state)
    }

    /// Tables that differ from their initial contents.
    pub fn changes(&self) -> Vec<TableChange> {
        tables(&self.initial)
            .into_iter()
            .zip(tables(&self.state))
            .filter(|((_, before), (_, after))| !Arc::ptr_eq(before, after))
            .filter_map(|((name, before), (_, after))| change(name, before, after))
            .collect()
    }

    /// SHA-256 of each mutable table's columns, labels and rows, in hexadecimal digits. The text
    /// behind it is the compact JSON `[columns,labels,rows]`.
    pub fn digests(&self) -> Vec<(&'static str, String)> {
        tables(&self.state).into_iter().map(|(name, table)| (name, digest(table))).collect()
    }

    /// Whether session durations have become floats, as they do after
    /// `analytics_get_average_session_duration` without bounds.
    pub fn session_duration_is_float(&self) -> bool {
        self.state.session_duration_is_float
    }
}

fn added_bytes(state: &State) -> usize {
    tables(state).iter().map(|(_, table)| table.added_bytes()).sum()
}

fn digest(table: &Table) -> String {
    let rows: Vec<Json> = table.rows().map(|row| cells(row).into()).collect();
    let labels: Vec<usize> = table.labels().collect();
    let text = json_text::write(&json!([table.columns(), labels, rows]));
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cells(row: &[Value]) -> Vec<Json> {
    row.iter().map(Value::to_json).collect()
}

fn change(name: &'static str, before: &Table, after: &Table) -> Option<TableChange> {
    let texts = |table: &Table| -> Vec<String> {
        let text = |row: &Row| json_text::write(&cells(row).into());
        table.rows().map(text).collect()
    };
    let (before_texts, after_texts) = (texts(before), texts(after));
    let known: HashSet<&String> = before_texts.iter().collect();
    let kept: HashSet<&String> = after_texts.iter().collect();
    let new_or_modified: Vec<RowChange> = after_texts
        .iter()
        .zip(after.labels().zip(after.rows()))
        .enumerate()
        .filter(|(_, (text, _))| !known.contains(text))
        .map(|(position, (_, (label, row)))| RowChange { position, label, cells: cells(row) })
        .collect();
    let gone_ids: Vec<Json> = before_texts
        .iter()
        .zip(before.rows())
        .filter(|(text, _)| !kept.contains(text))
        .map(|(_, row)| row[0].to_json())
        .collect();
    let is_same = new_or_modified.is_empty()
        && gone_ids.is_empty()
        && before.labels().eq(after.labels())
        && before_texts == after_texts;
    (!is_same).then_some(TableChange { table: name, num_rows: after.len(), new_or_modified, gone_ids })
}

/// What a tool's exception is answered with.
fn failed(name: &str, reason: &str) -> Json {
    format!("Error executing tool '{name}': {reason}").into()
}

fn invalid_arguments(error: JsonError) -> ToolResult {
    let reason = match error {
        JsonError::Syntax(error) => format!("JSONDecodeError({})", string_repr(&error.to_string())),
        JsonError::Unrepresentable(text) => text,
    };
    // This answer is the agent's own, which puts a blank after the colon.
    let text = json_text::write(&format!("Invalid tool call arguments: {reason}").into());
    ToolResult::refused(format!("{{\"error\": {text}}}"))
}
