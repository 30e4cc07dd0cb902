//! What is shown of a run while it happens. The loops print nothing: they tell an [`Observer`].

use std::path::Path;
use std::time::Duration;

use crate::evaluate::EvaluationReport;
use crate::metrics::Metrics;

/// What is shown of a finished step.
#[derive(Clone, Debug)]
pub struct StepProgress<'a> {
    /// Finished steps.
    pub step: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// All metrics of the step.
    pub metrics: &'a Metrics,
    /// Mean reward of the step's rollouts; the loss takes its place in supervised training.
    pub reward: Option<f64>,
    /// The latest sampled validation accuracy.
    pub accuracy: Option<f64>,
    /// Tokens (prompts, answers and tool results) per second of the step.
    pub tokens_per_second: f64,
    /// Expected time to the end of the run.
    pub remaining: Duration,
}

/// Watches a run. All methods do nothing by default.
pub trait Observer {
    /// The run starts or continues after `step` of `max_steps` steps in `folder`.
    fn on_start(&mut self, _folder: &Path, _step: u64, _max_steps: u64) {}
    /// Something about the continued run that its user should know.
    fn on_notice(&mut self, _text: &str) {}
    /// `finished` of `total` episodes of the running step or validation have ended.
    fn on_rollouts(&mut self, _finished: usize, _total: usize) {}
    /// A step is finished.
    fn on_step(&mut self, _progress: &StepProgress<'_>) {}
    /// A validation is finished.
    fn on_validation(&mut self, _step: u64, _reports: &[EvaluationReport]) {}
    /// A checkpoint is on disk.
    fn on_checkpoint(&mut self, _step: u64, _path: &Path) {}
}

/// Watches nothing.
impl Observer for () {}
