//! `nemo-burn env`: the simulated office without a model.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use nemo_env::generate::{self, GeneratorConfig, Suite};
use nemo_env::{Dataset, Replay, Session, Task, ToolCall, VerifyReport, Workplace, verify_records};
use serde_json::{Value, json};

use super::offices::{described_tools, office_name, offices, signature};
use crate::arguments::{EnvCommand, OfficeArguments};
use crate::{jsonl, output};

pub fn run(command: EnvCommand) -> anyhow::Result<()> {
    match command {
        EnvCommand::List { json, records } => list(json, records.as_deref()),
        EnvCommand::Call { tool, arguments, office } => call(&tool, &arguments, &office),
        EnvCommand::Replay { file, id, office } => replay(&file, id, &office),
        EnvCommand::Verify { files, tables, ids } => verify(&files, tables.as_deref(), ids),
        EnvCommand::Generate { output, split, count, seed, num_offices, suite, difficulty, template } => {
            let config = GeneratorConfig {
                seed,
                count,
                num_offices,
                split,
                suite,
                max_difficulty: difficulty,
                templates: template,
            };
            generate_dataset(&output, &config)
        }
        EnvCommand::Templates { suite } => templates(suite),
        EnvCommand::Serve(arguments) => super::serve::run(arguments),
        EnvCommand::Fetch(arguments) => super::fetch::fetch(&arguments),
        EnvCommand::Prepare(arguments) => super::fetch::prepare_dataset(&arguments),
        EnvCommand::Play(arguments) => super::play::run(&arguments),
    }
}

fn list(json: bool, records: Option<&Path>) -> anyhow::Result<()> {
    let tools = described_tools(records)?;
    let lines: Vec<String> = tools.iter().map(|tool| if json { tool.0.to_string() } else { signature(tool) }).collect();
    output::line(&lines.join("\n"))
}

fn call(tool: &str, arguments: &str, office: &OfficeArguments) -> anyhow::Result<()> {
    let mut session = session(office)?;
    let call = ToolCall { name: tool.to_owned(), arguments: arguments.to_owned() };
    let result = session.call(&call);
    // The answer is what a model would be shown, whatever it says.
    output::line(&result.body())?;
    if let Some(reason) = Workplace::refusal(&call) {
        anyhow::bail!("{tool}: {reason}; `nemo-burn env list` shows the tools and their arguments");
    }
    anyhow::ensure!(!result.is_error(), "{tool} could not be carried out with these arguments; see its answer");
    Ok(())
}

/// A session of the office that the arguments name.
fn session(office: &OfficeArguments) -> anyhow::Result<Session> {
    Ok(workplace(office)?.session())
}

fn workplace(arguments: &OfficeArguments) -> anyhow::Result<Arc<Workplace>> {
    let offices = offices(arguments.tables.as_deref())?;
    Ok(offices.workplace(&calls_of_nobody(office_name(arguments)))?)
}

/// A task that consists of nothing but its office.
fn calls_of_nobody(office: Option<String>) -> Task {
    Task {
        id: 0,
        messages: Vec::new(),
        tools: Workplace::tools(),
        parallel_tool_calls: true,
        temperature: None,
        ground_truth: Vec::new(),
        category: String::new(),
        environment_name: String::new(),
        office,
        provenance: None,
        demonstration: None,
    }
}

fn replay(file: &Path, id: Option<u64>, office: &OfficeArguments) -> anyhow::Result<()> {
    let lines = jsonl::read_lines(file)?;
    if lines.first().is_some_and(|(_, value)| value.get("responses_create_params").is_some()) {
        return replay_records(file, id, office);
    }
    anyhow::ensure!(id.is_none(), "--id chooses among task records, but {} holds tool calls", file.display());
    let calls = lines
        .iter()
        .map(|(line, value)| parse_call(value).with_context(|| format!("{}:{line}", file.display())))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut session = session(office)?;
    let results = calls.iter().map(|call| session.call(call)).collect();
    output::line(&describe_replay(&calls, &Replay { results, changes: session.changes() }))
}

fn replay_records(file: &Path, id: Option<u64>, office: &OfficeArguments) -> anyhow::Result<()> {
    let offices = offices(office.tables.as_deref())?;
    let mut dataset = Dataset::load(file)?;
    if let Some(id) = id {
        dataset.tasks.retain(|task| task.id == id);
        anyhow::ensure!(!dataset.is_empty(), "{}: there is no record with the id {id}", file.display());
    }
    for mut task in dataset.tasks {
        if let Some(name) = &office.office {
            task.office = Some(name.clone());
        }
        let replay = nemo_env::replay(&offices, &task, &task.ground_truth)?;
        output::line(&format!("task {}: {}", task.id, task.user_message()))?;
        output::line(&describe_replay(&task.ground_truth, &replay))?;
    }
    Ok(())
}

fn parse_call(value: &Value) -> anyhow::Result<ToolCall> {
    let expected = "expected a call such as {\"name\": \"email_search_emails\", \"arguments\": {\"query\": \"x\"}}";
    let name = value.get("name").and_then(Value::as_str).context(expected)?.to_owned();
    let arguments = match value.get("arguments").context(expected)? {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(ToolCall { name, arguments })
}

fn describe_replay(calls: &[ToolCall], replay: &Replay) -> String {
    let mut text = String::new();
    for (call, result) in calls.iter().zip(&replay.results) {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{} {}\n  {}", call.name, call.arguments, result.body());
    }
    if replay.changes.is_empty() {
        text.push_str("nothing has changed");
    }
    for (index, change) in replay.changes.iter().enumerate() {
        let _ = write!(
            text,
            "{}{}: {} row(s) new or changed, {} gone or changed, {} rows now",
            if index > 0 { "\n" } else { "" },
            change.table,
            change.new_or_modified.len(),
            change.gone_ids.len(),
            change.num_rows
        );
        for row in &change.new_or_modified {
            let _ = write!(text, "\n  + {}", json!(row.cells));
        }
        for id in &change.gone_ids {
            let _ = write!(text, "\n  - {id}");
        }
    }
    text
}

fn verify(files: &[PathBuf], tables: Option<&Path>, ids: bool) -> anyhow::Result<()> {
    let offices = offices(tables)?;
    let mut failed = 0;
    for file in files {
        let report = verify_records(&offices, &Dataset::load(file)?).with_context(|| file.display().to_string())?;
        output::line(&describe_verification(file, &report, ids))?;
        failed += report.num_tasks - report.num_ground_truth_rewarded + report.failed_demonstrations.len();
    }
    anyhow::ensure!(
        failed == 0,
        "{failed} ground truth(s) or demonstration(s) do not score 1: correct these records or give the tables they belong to"
    );
    Ok(())
}

fn describe_verification(file: &Path, report: &VerifyReport, ids: bool) -> String {
    let mut text = format!(
        "{}\n  records                                     {}\n  ground truth scores 1                       {}\n  \
         empty prediction scores 1                   {}\n  records with several calls                  {}\n  \
         reversed ground truth scores 0              {}",
        file.display(),
        report.num_tasks,
        report.num_ground_truth_rewarded,
        report.rewarded_for_nothing.len(),
        report.num_multi_call,
        report.order_dependent.len(),
    );
    if report.num_demonstrations > 0 {
        let right = report.num_demonstrations - report.failed_demonstrations.len();
        let _ =
            write!(text, "\n  demonstration scores 1                      {right} of {}", report.num_demonstrations);
    }
    let _ = write!(text, "\n  ground-truth calls refused by their tool    {}", report.failed_calls.len());
    if ids {
        let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let _ = write!(text, "\n  empty prediction scores 1: {}", list(&report.rewarded_for_nothing));
        let _ = write!(text, "\n  order matters: {}", list(&report.order_dependent));
        if !report.failed_demonstrations.is_empty() {
            let _ = write!(text, "\n  demonstration does not score 1: {}", list(&report.failed_demonstrations));
        }
        for failed in &report.failed_calls {
            let ToolCall { name, arguments } = &failed.call;
            let _ = write!(
                text,
                "\n  task {}, call {}: {name} {arguments} -> {}",
                failed.task,
                failed.index + 1,
                failed.answer
            );
        }
    }
    text
}

fn generate_dataset(folder: &Path, config: &GeneratorConfig) -> anyhow::Result<()> {
    let written = generate::write_dataset(folder, config)?;
    let tasks = Dataset::load(&written.records)?.tasks;
    output::line(&format!(
        "{} tasks in {}\n{} offices in {}\n\n{}",
        written.num_tasks,
        written.records.display(),
        written.num_offices,
        written.offices.display(),
        generate::distribution(&tasks)
    ))
}

fn templates(suite: Suite) -> anyhow::Result<()> {
    let lines: Vec<String> = generate::templates(suite)
        .iter()
        .map(|info| format!("{:<44} {:<30} difficulty {}", info.name, info.domain, info.difficulty))
        .collect();
    output::line(&lines.join("\n"))
}
