//! The typed run configuration.
//!
//! Key names, nesting and units are NeMo RL's, so that its recipes load unchanged; keys of our own are marked *own key*.
//! No field has a default here: every default is a line of `defaults.yaml`, which is the bottom layer of every run.
//! A key that is accepted but has no effect, or that is refused, is not a field: see `key_policy`.

mod data;
mod grpo;
mod policy;

pub use data::{
    ColocationConfig, ConfigPath, DataConfig, DatasetConfig, DatasetDefaults, EnvConfig, GenerateConfig, NemoGymConfig,
    PolicyModelConfig, ResponsesApiAgents, ResponsesApiModels, SimpleAgentConfig, TaskSplit, VllmModelConfig,
    VllmModelExtraBody, WorkplaceAgentConfig,
};
pub use grpo::{AdvantageEstimatorConfig, AdvantageEstimatorName, GrpoConfig, KlType, LossConfig, TruncationType};
pub use policy::{
    BaseDtype, ChatServerConfig, DistributedDataParallelConfig, DynamicBatchingConfig, FactorInit, GenerationConfig,
    InitConfig, InitTokenizerConfig, LrDecayStyle, MegatronConfig, MomentDtype, OptimizerConfig, PeftConfig,
    PeftTarget, PolicyConfig, Precision, SchedulerConfig, TokenizerConfig, VllmConfig, VllmKwargs, WeightDecayStyle,
};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::deadline::SaveDeadline;
use crate::limits::{self, at_most, difficulty};

/// Everything a run is told, after inheritance, overrides and interpolation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    pub grpo: GrpoConfig,
    pub loss_fn: LossConfig,
    pub policy: PolicyConfig,
    pub data: DataConfig,
    pub env: EnvConfig,
    pub checkpointing: CheckpointingConfig,
    pub logger: LoggerConfig,
    pub cluster: ClusterConfig,
    /// Supervised warm start (`nemo-burn sft`); has no effect on `train`. *Own block.*
    pub sft: SftConfig,
}

/// Where and when checkpoints are written, and which are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointingConfig {
    pub enabled: bool,
    pub checkpoint_dir: PathBuf,
    /// Metric that ranks checkpoints, `val:` or `train:` and a name of `VALIDATION_METRICS` or `TRAIN_METRICS`; null ranks
    /// by recency.
    pub metric_name: Option<String>,
    pub higher_is_better: bool,
    /// Number of periodic checkpoints kept by metric (the newest is always kept); null keeps all.
    pub keep_top_k: Option<usize>,
    /// Steps between periodic checkpoints.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub save_period: usize,
    /// When a checkpoint must be on disk; the run then ends.
    pub checkpoint_must_save_by: Option<SaveDeadline>,
    pub save_optimizer: bool,
    /// Number of newest fault-tolerance checkpoints kept beside the periodic ones.
    pub ft_keep_latest_k: Option<usize>,
    /// Steps between fault-tolerance checkpoints.
    pub ft_save_period: Option<usize>,
}

/// Sinks of the metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggerConfig {
    /// Number of validation rollouts shown in the terminal after each validation.
    pub num_val_samples_to_print: usize,
    pub wandb_enabled: bool,
    pub tensorboard_enabled: bool,
    pub mlflow_enabled: bool,
    pub monitor_gpus: bool,
}

/// Devices of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterConfig {
    pub gpus_per_node: usize,
}

/// Supervised warm start on the generator's demonstrations. *Own block*; names follow NeMo RL's where it has the key.
///
/// Data comes from `data.train` and `data.validation`, Adam's betas and epsilon from `policy.megatron_cfg.optimizer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftConfig {
    /// Optimizer steps.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub max_num_steps: usize,
    /// Demonstrations of one optimizer step.
    #[serde(deserialize_with = "at_most::<{ limits::BATCH }, _>")]
    pub batch_size: usize,
    pub lr: f64,
    /// Learning rate at the end of the decay.
    pub min_lr: f64,
    /// Steps of linear warm-up.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub lr_warmup_iters: usize,
    /// Step at which the decay reaches `min_lr`; null means `max_num_steps`.
    pub lr_decay_iters: Option<usize>,
    pub lr_decay_style: LrDecayStyle,
    pub weight_decay: f64,
    /// Bound of the global L2 norm of the gradient.
    pub max_grad_norm: f64,
    /// Probability mass spread over the whole vocabulary in the targets, in [0, 1).
    pub label_smoothing: f64,
    /// Loss weight of prompt and tool-result tokens; tokens the model has to produce weigh 1.
    pub context_loss_weight: f64,
    pub seed: u64,
    /// Easier demonstrations to begin with, stage after stage; then come those of `data.train` as they are.
    pub curriculum: Vec<CurriculumStage>,
    /// Steps between validations; 0 validates only at the end.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub val_period: usize,
    /// Where the finished model is written as a Hugging Face folder, besides the checkpoints; null writes none.
    pub output_dir: Option<PathBuf>,
}

/// The first steps of a warm start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumStage {
    /// Optimizer steps of this stage.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub num_steps: usize,
    /// Only templates up to this difficulty, 1 (one call) to 4.
    #[serde(deserialize_with = "difficulty")]
    pub max_difficulty: u8,
    /// Whether prompts list the tools.
    pub tools_in_prompt: bool,
}

impl SftConfig {
    /// The stage a step (from 0) is in; `None` once all are over.
    pub fn stage(&self, step: u64) -> Option<CurriculumStage> {
        let mut end = 0;
        self.curriculum.iter().copied().find(|stage| {
            end += stage.num_steps as u64;
            step < end
        })
    }
}
