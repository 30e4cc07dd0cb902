//! Whole datasets against the environment: do the ground truths run, what does idleness earn, which
//! rewards depend on the order of calls.

use crate::environment::Offices;
use crate::error::EnvError;
use crate::task::dataset::Dataset;
use crate::task::record::Task;
use crate::tool::ToolCall;
use crate::workplace::{TableChange, ToolResult};

/// A ground-truth call that did not succeed.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedCall {
    pub task: u64,
    /// Position of the call in the ground truth, from 0.
    pub index: usize,
    pub call: ToolCall,
    /// What the tool answered.
    pub answer: String,
}

/// Findings about a dataset; the lists hold task ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifyReport {
    pub num_tasks: usize,
    /// Tasks whose ground truth scores 1 against itself.
    pub num_ground_truth_rewarded: usize,
    /// Tasks where an empty prediction scores 1.
    pub rewarded_for_nothing: Vec<u64>,
    /// Tasks with more than one ground-truth call.
    pub num_multi_call: usize,
    /// Tasks of these whose ground truth scores 0 in reverse order.
    pub order_dependent: Vec<u64>,
    /// Ground-truth calls that ended in an error or a refusal.
    pub failed_calls: Vec<FailedCall>,
    /// Tasks whose demonstration does not score 1.
    pub failed_demonstrations: Vec<u64>,
    pub num_demonstrations: usize,
}

/// What a replay of calls in one session gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Answers, one per call.
    pub results: Vec<ToolResult>,
    /// Tables that differ from their initial contents at the end.
    pub changes: Vec<TableChange>,
}

/// Runs calls one after the other in a fresh session of the task.
///
/// # Errors
/// The task's office is unknown or its tables cannot be read.
pub fn replay(offices: &Offices, task: &Task, calls: &[ToolCall]) -> Result<Replay, EnvError> {
    let mut session = offices.workplace(task)?.session();
    let results = calls.iter().map(|call| session.call(call)).collect();
    Ok(Replay { results, changes: session.changes() })
}

/// Whether an answer means that the call had the effect asked for. Tools refuse in plain text, so
/// this goes by their words.
pub(crate) fn is_success(result: &ToolResult) -> bool {
    const REFUSALS: [&str; 8] =
        ["not found", "not provided", "not valid", "Invalid ", "must be ", "Missing ", "Please provide", "No "];
    !result.is_error() && result.output.as_str().is_none_or(|text| !REFUSALS.iter().any(|words| text.contains(words)))
}

/// Checks every record of a dataset.
///
/// # Errors
/// A task's office is unknown or its tables cannot be read.
pub fn verify_records(offices: &Offices, dataset: &Dataset) -> Result<VerifyReport, EnvError> {
    let mut report = VerifyReport::default();
    for task in &dataset.tasks {
        let workplace = offices.workplace(task)?;
        let earns = |calls: &[ToolCall]| workplace.verify(calls, &task.ground_truth).unwrap_or(false);
        report.num_tasks += 1;
        report.num_ground_truth_rewarded += usize::from(earns(&task.ground_truth));
        if earns(&[]) {
            report.rewarded_for_nothing.push(task.id);
        }
        if task.ground_truth.len() > 1 {
            report.num_multi_call += 1;
            let reversed: Vec<ToolCall> = task.ground_truth.iter().rev().cloned().collect();
            if !earns(&reversed) {
                report.order_dependent.push(task.id);
            }
        }
        if let Some(demonstration) = &task.demonstration {
            report.num_demonstrations += 1;
            if !earns(&demonstration.calls) {
                report.failed_demonstrations.push(task.id);
            }
        }
    }
    report.failed_calls = failed_calls(offices, &dataset.tasks)?.into_iter().map(|(_, failed)| failed).collect();
    Ok(report)
}

/// The ground-truth calls that end in an error or a refusal, each with the position of its task. Where they are all that a
/// ground truth has, doing nothing earns the reward.
///
/// # Errors
/// A task's office is unknown or its tables cannot be read.
pub fn failed_calls(offices: &Offices, tasks: &[Task]) -> Result<Vec<(usize, FailedCall)>, EnvError> {
    let mut failed = Vec::new();
    for (position, task) in tasks.iter().enumerate() {
        let mut session = offices.workplace(task)?.session();
        for (index, call) in task.ground_truth.iter().enumerate() {
            let result = session.call(call);
            if !is_success(&result) {
                let (call, answer) = (call.clone(), result.body());
                failed.push((position, FailedCall { task: task.id, index, call, answer }));
            }
        }
    }
    Ok(failed)
}
