//! What can go wrong in a training run.

use std::path::{Path, PathBuf};

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
    /// The policy could not act with the weights after a step.
    #[error(
        "step {step}: {source}; the step is not saved. {}", rescue(checkpoint.as_deref())
    )]
    Unusable {
        /// The step, counted from 1.
        step: u64,
        /// Which weights, and why.
        source: PolicyError,
        /// The newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The configuration could not be written down.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// The configuration in a checkpoint is none of this version.
    #[error(
        "{}: {source}; this version cannot continue the run: continue it with the version that started it, or use \
         --fresh to start a new run beside it, or another checkpointing.checkpoint_dir", path.display()
    )]
    SavedConfig {
        /// The checkpoint's configuration.
        path: PathBuf,
        /// The loader's error.
        source: Box<ConfigError>,
    },
    /// The unfinished run in the results folder was started differently.
    #[error(
        "{}: the run in this folder was started with other settings or files:{}\nuse the old ones to continue it, --fresh to start a new run beside it, or another checkpointing.checkpoint_dir",
        folder.display(),
        list(changes)
    )]
    Changed {
        /// The results folder.
        folder: PathBuf,
        /// One line per key: the key, the value then and now.
        changes: Vec<String>,
    },
    /// A new run would replace a model that it has not made.
    #[error(
        "{}: there is a model in this folder, which the run would replace at its end (sft.output_dir, or --output); name \
         another folder, or remove this one", folder.display()
    )]
    OutputTaken {
        /// Where the finished model was to be written.
        folder: PathBuf,
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

fn rescue(checkpoint: Option<&Path>) -> String {
    let advice = "a lower learning rate or a tighter max_grad_norm may help";
    match checkpoint {
        Some(path) => format!(
            "The checkpoint before it, {}, is intact, and the run continues from there; {advice}",
            path.display()
        ),
        None => format!("There is no checkpoint before it: the run starts anew; {advice}"),
    }
}

fn list(changes: &[String]) -> String {
    changes.iter().map(|change| format!("\n  {change}")).collect()
}
