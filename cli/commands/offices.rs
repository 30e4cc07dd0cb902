//! What the commands about the office share: which office is meant, and its tools.

use std::path::Path;
use std::sync::Arc;

use nemo_env::{Dataset, EnvError, Offices, ToolSchema, Workplace};

use crate::arguments::OfficeArguments;

/// The office of calls that name none and are given no tables.
const DEFAULT_OFFICE: &str = "office-0000";

/// Offices below `tables` if given, generated ones otherwise.
pub fn offices(tables: Option<&Path>) -> Result<Offices, EnvError> {
    tables.map_or_else(|| Ok(Offices::new()), Offices::with_folder)
}

/// The tools, with the descriptions that the records of a file give them.
pub fn described_tools(records: Option<&Path>) -> anyhow::Result<Arc<Vec<ToolSchema>>> {
    let ours = Workplace::tools();
    let Some(path) = records else { return Ok(ours) };
    let dataset = Dataset::load(path)?;
    let theirs = |name: &str| dataset.tasks.iter().flat_map(|task| task.tools.iter()).find(|tool| tool.name() == name);
    anyhow::ensure!(
        ours.iter().any(|tool| theirs(tool.name()).is_some()),
        "{}: no record describes a tool of the office; expected `tools` in `responses_create_params`",
        path.display()
    );
    let described = |tool: &ToolSchema| match theirs(tool.name()) {
        Some(other) => tool.clone().described_by(other),
        None => tool.clone(),
    };
    Ok(Arc::new(ours.iter().map(described).collect()))
}

/// A tool and its parameters; those that need not be given have a question mark.
pub fn signature(tool: &ToolSchema) -> String {
    let required: Vec<&str> = tool.required().collect();
    let parameters: Vec<String> = tool
        .parameter_names()
        .map(|name| if required.contains(&name) { name.to_owned() } else { format!("{name}?") })
        .collect();
    format!("{}({})", tool.name(), parameters.join(", "))
}

/// The office that the arguments name; `None` = the tables given.
pub fn office_name(arguments: &OfficeArguments) -> Option<String> {
    match (&arguments.office, &arguments.tables) {
        (Some(name), _) => Some(name.clone()),
        (None, None) => Some(DEFAULT_OFFICE.to_owned()),
        (None, Some(_)) => None,
    }
}
