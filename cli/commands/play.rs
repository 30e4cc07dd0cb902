//! `nemo-burn env play`: a person solves a task in the terminal.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use nemo_env::generate::{self, GeneratorConfig};
use nemo_env::play::{Command, Input, Play, complete, help, read_line};
use nemo_env::{Dataset, Offices, Task, ToolSchema, Workplace};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::offices::{offices, signature};
use crate::arguments::PlayArguments;
use crate::output;

const PROMPT: &str = "> ";

/// Completes tools and their arguments.
struct Names(Arc<Vec<ToolSchema>>);

impl Completer for Names {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let completion = complete(&line[..position], &self.0);
        Ok((completion.start, completion.candidates))
    }
}

impl Hinter for Names {
    type Hint = String;
}

impl Highlighter for Names {}
impl Validator for Names {}
impl Helper for Names {}

pub fn run(arguments: &PlayArguments) -> anyhow::Result<()> {
    let offices = offices(arguments.tables.as_deref())?;
    let task = task(arguments)?;
    let tools = Workplace::tools();
    let mut editor: Editor<Names, DefaultHistory> = Editor::new().context("cannot read from the terminal")?;
    editor.set_helper(Some(Names(Arc::clone(&tools))));
    let mut play = Play::start(&offices, task)?;
    output::line(&describe_task(play.task()))?;
    output::line("Type `help` for what can be typed.")?;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            // The end of the input and an interruption end the task without a verdict.
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
            Err(error) => return Err(error).context("cannot read from the terminal"),
        };
        // A history that does not take a line is no reason to stop.
        let _ = editor.add_history_entry(line.as_str());
        match read_line(&line, &tools) {
            Ok(Input::Nothing) => {}
            Ok(Input::Command(Command::Quit)) => return Ok(()),
            Ok(Input::Command(Command::Done)) => return finish(&play, &offices),
            Ok(Input::Command(command)) => answer(command, &mut play, &tools)?,
            Ok(Input::Call(call)) => {
                let turn = play.call(call);
                output::line(&turn.answer)?;
                for change in &turn.made {
                    output::line(&format!("  {change}"))?;
                }
                for change in &turn.undone {
                    output::line(&format!("  no more: {change}"))?;
                }
            }
            Err(error) => output::line(&error.to_string())?,
        }
    }
}

fn finish(play: &Play, offices: &Offices) -> anyhow::Result<()> {
    output::line(&play.verdict(offices)?.to_string())
}

fn answer(command: Command, play: &mut Play, tools: &[ToolSchema]) -> anyhow::Result<()> {
    match command {
        Command::Help => output::line(&help()),
        Command::Task => output::line(&describe_task(play.task())),
        Command::Tools => {
            let lines: Vec<String> = tools.iter().map(signature).collect();
            output::line(&lines.join("\n"))
        }
        Command::Changes if play.changes().is_empty() => output::line("nothing has changed"),
        Command::Changes => output::line(&play.changes().join("\n")),
        Command::Restart => {
            play.restart();
            output::line("everything is as it was at the beginning")
        }
        // These end the loop.
        Command::Done | Command::Quit => Ok(()),
    }
}

fn describe_task(task: &Task) -> String {
    let messages: Vec<&str> = task.messages.iter().map(|message| message.content.as_str()).collect();
    format!("task {}\n{}", task.id, messages.join("\n"))
}

fn task(arguments: &PlayArguments) -> anyhow::Result<Task> {
    if let Some(path) = &arguments.records {
        return recorded(path, arguments.id);
    }
    let config = GeneratorConfig {
        seed: arguments.seed,
        count: 1,
        split: arguments.split,
        suite: arguments.suite,
        ..GeneratorConfig::default()
    };
    generate::tasks(&config)?.pop().context("the generator made no task")
}

fn recorded(path: &Path, id: Option<u64>) -> anyhow::Result<Task> {
    let mut tasks = Dataset::load(path)?.tasks.into_iter();
    match id {
        Some(id) => tasks
            .find(|task| task.id == id)
            .with_context(|| format!("{}: there is no record with the id {id}", path.display())),
        None => tasks.next().with_context(|| format!("{}: there is no record", path.display())),
    }
}
