//! Reinforcement learning of tool-using language models: rollouts, advantages, losses, the training
//! loops, checkpoints and metrics. Knows the model through `policy::api::Policy` and no device kernels.

pub mod adapter;
pub mod advantage;
pub mod assemble;
pub mod batch;
pub mod checkpoint;
pub use nemo_config as config;
pub mod contents;
pub mod demonstrations;
pub mod error;
pub mod evaluate;
pub mod loss;
pub mod metrics;
mod model_files;
pub mod optimizer;
mod places;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod resume;
pub mod retention;
pub mod rollout;
pub mod run;
pub mod run_folder;
pub mod schedule;
pub mod sft;
pub mod shuffle;
pub mod step_clock;
pub mod tasks;
pub mod token_tree;
pub mod train;
pub mod trajectory;
