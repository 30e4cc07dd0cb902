//! A person in the place of the model: what a typed line means, how it can go on, what a call changed, and the verdict.
//! The terminal itself is somebody else's concern.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::environment::{Environment, Offices, Outcome};
use crate::error::EnvError;
use crate::python_compat::json_text;
use crate::strict::StrictOutcome;
use crate::task::record::Task;
use crate::tool::{ToolCall, ToolSchema};
use crate::workplace::{Session, TableChange, Workplace};

/// What can be typed besides calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Task,
    Tools,
    Changes,
    Restart,
    Done,
    Quit,
}

impl Command {
    pub const ALL: [Self; 7] =
        [Self::Help, Self::Task, Self::Tools, Self::Changes, Self::Restart, Self::Done, Self::Quit];

    pub fn name(self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Task => "task",
            Self::Tools => "tools",
            Self::Changes => "changes",
            Self::Restart => "restart",
            Self::Done => "done",
            Self::Quit => "quit",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Help => "show this",
            Self::Task => "show the task again",
            Self::Tools => "list the tools and their arguments",
            Self::Changes => "show everything that has changed so far",
            Self::Restart => "begin the task anew",
            Self::Done => "end the task and hear the verdict",
            Self::Quit => "leave without a verdict",
        }
    }
}

/// The text of `help`.
pub fn help() -> String {
    let mut text =
        "Call a tool with its name and arguments, such as\n  email_search_emails query=\"task update\" page=2\n  \
         email_search_emails {\"query\": \"task update\", \"page\": 2}\nThe tabulator key completes names. Other words:"
            .to_owned();
    for command in Command::ALL {
        text.push_str(&format!("\n  {:<8} {}", command.name(), command.meaning()));
    }
    text
}

/// What a line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Nothing,
    Command(Command),
    Call(ToolCall),
}

/// Why a line means nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InputError {
    #[error("{word:?} is neither a tool nor a command; `tools` lists the tools, `help` the commands")]
    Unknown { word: String },
    #[error("{word:?} is not of the form name=value; put quotes around values with blanks: name=\"two words\"")]
    NotAnArgument { word: String },
    #[error("a quote is opened but not closed")]
    OpenQuote,
    #[error("the argument {name} is given twice")]
    Repeated { name: String },
}

/// Reads a line. Arguments are written `name=value`, with quotes around what holds blanks, or as a JSON object, which
/// reaches the tool as it is.
///
/// # Errors
/// The line is neither empty, a command nor a call.
pub fn read_line(line: &str, tools: &[ToolSchema]) -> Result<Input, InputError> {
    let line = line.trim();
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if first.is_empty() {
        return Ok(Input::Nothing);
    }
    let command = Command::ALL.into_iter().find(|command| command.name() == first);
    if let Some(command) = command.filter(|_| rest.trim().is_empty()) {
        return Ok(Input::Command(command));
    }
    let Some(tool) = tools.iter().find(|tool| tool.name() == first) else {
        return Err(InputError::Unknown { word: first.to_owned() });
    };
    let rest = rest.trim();
    if rest.starts_with('{') {
        return Ok(Input::Call(ToolCall { name: first.to_owned(), arguments: rest.to_owned() }));
    }
    let mut arguments = Map::new();
    for word in words(rest)? {
        let (name, value) = word.split_once('=').ok_or_else(|| InputError::NotAnArgument { word: word.clone() })?;
        if arguments.insert(name.to_owned(), typed(tool, name, value)).is_some() {
            return Err(InputError::Repeated { name: name.to_owned() });
        }
    }
    Ok(Input::Call(ToolCall::new(first, &arguments.into())))
}

/// Splits at blanks outside of double quotes; the quotes go, and a backslash within them takes the next character as it
/// is.
fn words(text: &str) -> Result<Vec<String>, InputError> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => word.get_or_insert_default().extend(characters.next()),
            blank if blank.is_whitespace() && !is_quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    if is_quoted {
        return Err(InputError::OpenQuote);
    }
    words.extend(word);
    Ok(words)
}

fn property<'a>(tool: &'a ToolSchema, name: &str) -> Option<&'a Value> {
    tool.0.get("parameters")?.get("properties")?.get(name)
}

/// The value in the type that the schema asks for; as text if it is not one of that type.
fn typed(tool: &ToolSchema, name: &str, text: &str) -> Value {
    let kind = property(tool, name).and_then(|property| property["type"].as_str());
    match (kind, text.parse::<i64>()) {
        (Some("integer"), Ok(number)) => number.into(),
        _ => text.into(),
    }
}

/// Ways to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Where in the line the word starts that they replace, in bytes.
    pub start: usize,
    pub candidates: Vec<String>,
}

/// How a line can go on at its end: names of tools and commands, then of arguments, then the values that an argument's
/// description names in quotes.
pub fn complete(line: &str, tools: &[ToolSchema]) -> Completion {
    let is_quoted = line.matches('"').count() % 2 == 1;
    let last_blank = line.char_indices().rfind(|(_, character)| character.is_whitespace());
    let start = last_blank.map_or(0, |(at, blank)| at + blank.len_utf8());
    let none = Completion { start, candidates: Vec::new() };
    let word = &line[start..];
    let names = |names: &mut dyn Iterator<Item = String>| Completion {
        start,
        candidates: names.filter(|name| name.starts_with(word)).collect(),
    };
    let Some((first, given)) = line.trim_start().split_once(char::is_whitespace) else {
        let commands = Command::ALL.iter().map(|command| command.name().to_owned());
        let tools = tools.iter().map(|tool| format!("{} ", tool.name()));
        return names(&mut commands.chain(tools));
    };
    let Some(tool) = tools.iter().find(|tool| tool.name() == first).filter(|_| !given.trim().starts_with('{')) else {
        return none;
    };
    if is_quoted {
        return none;
    }
    if let Some((name, value)) = word.split_once('=') {
        let description = property(tool, name).and_then(|property| property["description"].as_str());
        let choices = description.map(quoted).unwrap_or_default();
        let fits = |choice: &&str| choice.starts_with(value) && !choice.contains(char::is_whitespace);
        let start = start + name.len() + 1;
        return Completion { start, candidates: choices.into_iter().filter(fits).map(str::to_owned).collect() };
    }
    let is_given = |name: &str| {
        given.split_whitespace().any(|word| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    names(&mut tool.parameter_names().filter(|name| !is_given(name)).map(|name| format!("{name}=")))
}

/// Texts between single quotes; an apostrophe within a word is none.
fn quoted(text: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('\'') {
        rest = after;
        if before.ends_with(char::is_alphanumeric) {
            continue;
        }
        let Some((inner, after)) = after.split_once('\'') else { break };
        found.push(inner);
        rest = after;
    }
    found
}

/// A task being played.
pub struct Play {
    task: Task,
    workplace: Arc<Workplace>,
    session: Session,
    calls: Vec<ToolCall>,
    /// What has changed, one line each.
    changes: Vec<String>,
}

/// The answer to a call and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The text that a model would see.
    pub answer: String,
    /// Changes that are new, and changes that are no more.
    pub made: Vec<String>,
    pub undone: Vec<String>,
}

impl Play {
    /// Begins a task.
    ///
    /// # Errors
    /// The task's office is unknown or its tables cannot be read.
    pub fn start(offices: &Offices, task: Task) -> Result<Self, EnvError> {
        let workplace = offices.workplace(&task)?;
        let session = workplace.session();
        Ok(Self { task, workplace, session, calls: Vec::new(), changes: Vec::new() })
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Everything that is not as it was at the beginning.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    pub fn call(&mut self, call: ToolCall) -> Turn {
        let answer = self.session.call(&call).body();
        self.calls.push(call);
        let changes = describe_changes(&self.session.changes());
        let before = std::mem::replace(&mut self.changes, changes);
        let without = |lines: &[String], others: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        Turn { answer, made: without(&self.changes, &before), undone: without(&before, &self.changes) }
    }

    /// Forgets all calls.
    pub fn restart(&mut self) {
        self.session = self.workplace.session();
        self.calls.clear();
        self.changes.clear();
    }

    /// Scores the calls so far.
    ///
    /// # Errors
    /// As for [`Play::start`].
    pub fn verdict(&self, offices: &Offices) -> Result<Verdict, EnvError> {
        Ok(Verdict {
            outcome: offices.score(&self.task, &self.calls)?,
            strict: self.workplace.score_strictly(&self.calls, &self.task.ground_truth),
            num_calls: self.calls.len(),
            ground_truth: self.task.ground_truth.clone(),
        })
    }
}

/// Tables that differ from the beginning, a line for each row.
pub fn describe_changes(changes: &[TableChange]) -> Vec<String> {
    let mut lines = Vec::new();
    for change in changes {
        for row in &change.new_or_modified {
            lines.push(format!("{} + {}", change.table, json_text::write(&row.cells.clone().into())));
        }
        for id in &change.gone_ids {
            lines.push(format!("{} - {}", change.table, json_text::write(id)));
        }
    }
    lines
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub strict: StrictOutcome,
    pub num_calls: usize,
    pub ground_truth: Vec<ToolCall>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let solved = if self.outcome.reward > 0.0 { "solved" } else { "not solved" };
        write!(f, "{solved}: reward {} after {} call(s)", self.outcome.reward, self.num_calls)?;
        write!(f, "\nby the stricter scoring: {}", self.strict.reward())?;
        if self.strict.num_superfluous > 0 {
            write!(f, ", {} change(s) that were not needed", self.strict.num_superfluous)?;
        }
        if self.outcome.do_nothing {
            write!(f, "\nnothing was to be done")?;
        }
        for (index, call) in self.ground_truth.iter().enumerate() {
            let title = if index == 0 { "\nthe calls that were wanted:" } else { "" };
            write!(f, "{title}\n  {} {}", call.name, call.arguments)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
