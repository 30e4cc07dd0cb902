//! What can go wrong in a training run.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::metrics::MetricsError;
use crate::policy::api::PolicyError;
use crate::rollout::RolloutError;

/// Why a training run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A step's update failed; the checkpoint before it is intact.
    #[error("step {step}: {source}")]
    Policy {
        /// The step, counted from 1.
        step: u64,
        /// The policy's error.
        source: PolicyError,
    },
    /// Episodes could not be run.
    #[error("step {step}: {source}")]
    Rollout {
        /// The step, counted from 1; validations belong to the step before them.
        step: u64,
        /// The collector's error.
        source: RolloutError,
    },
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The metrics could not be written.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A file beside the metrics could not be written.
    #[error("{}: cannot write the validation's episodes: {source}; make room or check permissions, then the same command goes on from the last checkpoint", path.display())]
    Episodes {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The configuration could not be written down or read back.
    #[error("{}: {source}", path.display())]
    Config {
        /// The checkpoint's configuration.
        path: PathBuf,
        /// The loader's error.
        source: Box<ConfigError>,
    },
    /// The unfinished run in the results folder was started differently.
    #[error(
        "{}: the run in this folder was started with other settings:{}\nuse the old settings to continue it, --fresh to start a new run beside it, or another checkpointing.checkpoint_dir",
        folder.display(),
        list(changes)
    )]
    Changed {
        /// The results folder.
        folder: PathBuf,
        /// One line per key: the key, the value then and now.
        changes: Vec<String>,
    },
    /// Fewer tasks than a step needs.
    #[error("{key}: found {found} tasks, expected at least {expected}; give more tasks or lower it")]
    TooFewTasks {
        /// The configuration key that asks for them.
        key: &'static str,
        /// Tasks there are.
        found: usize,
        /// Tasks a step needs.
        expected: usize,
    },
    /// Tasks could not be generated.
    #[error("step {step}: {source}")]
    Generate {
        /// The step, counted from 1.
        step: u64,
        /// The generator's error.
        source: nemo_env::generate::GenerateError,
    },
    /// A demonstration that cannot be trained on.
    #[error("task {task}: {reason}")]
    Demonstration {
        /// Record id.
        task: u64,
        /// What is wrong with it.
        reason: String,
    },
}

fn list(changes: &[String]) -> String {
    changes.iter().map(|change| format!("\n  {change}")).collect()
}
