//! Ground truths whose calls are refused by their own tools. The reference accepts such tasks, and so do we, but their user
//! should know: where nothing is changed in the end, doing nothing earns the reward.

use std::path::Path;

use nemo_env::{Dataset, EnvError, Offices, Task, ToolCall, failed_calls};
use nemo_rl::config::DatasetConfig;

use crate::output;

/// Replays the ground truths of a file's tasks and says what is refused, if anything is.
///
/// # Errors
/// A task's office is unknown or its tables cannot be read.
pub fn check(path: &Path, tasks: &[Task], offices: &Offices) -> Result<(), EnvError> {
    let failed = failed_calls(offices, tasks)?;
    if let Some((position, first)) = failed.first() {
        // A file that has changed meanwhile has no such line.
        let line = Dataset::line_of(path, *position).map(|line| format!(":{line}")).unwrap_or_default();
        let ToolCall { name, arguments } = &first.call;
        output::warnings(&[format!(
            "{path}: {} call(s) of ground truths are refused by their tools, the first at {path}{line}, task {}: {name} \
             {arguments} -> {}; where nothing is changed in the end, doing nothing earns the reward (`nemo-burn env verify \
             --ids {path}` lists them)",
            failed.len(),
            first.task,
            first.answer,
            path = path.display(),
        )]);
    }
    Ok(())
}

/// [`check`] for the tasks of a configured set. Generated ones are right.
///
/// # Errors
/// As for [`check`].
pub fn check_set(set: &DatasetConfig, tasks: &[Task], offices: &Offices) -> Result<(), EnvError> {
    set.data_path.as_ref().map_or(Ok(()), |path| check(path, tasks, offices))
}
