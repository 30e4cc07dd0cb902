//! `policy.*`: the model, its optimizer and its generation engine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limits::{self, at_most};

/// The trained model and how it is stepped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// Hugging Face folder or hub name of the initial weights.
    pub model_name: String,
    pub tokenizer: TokenizerConfig,
    /// Fresh weights and tokenizer instead of `model_name`'s. *Own block.*
    pub init: InitConfig,
    /// Fields of the checkpoint's `config.json` to replace.
    pub hf_config_overrides: Map<String, Value>,
    /// Sequences per optimizer step.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub train_global_batch_size: usize,
    /// Sequences of the longest length that a padded batch has room for; more of them where they are shorter.
    #[serde(deserialize_with = "at_most::<{ limits::BATCH }, _>")]
    pub train_micro_batch_size: usize,
    /// Tokens of prompt and response together.
    #[serde(deserialize_with = "at_most::<{ limits::SEQUENCE_TOKENS }, _>")]
    pub max_total_sequence_length: usize,
    pub precision: Precision,
    /// Whether products of f32 matrices may round their factors to TF32, on devices that have it. *Own key.*
    pub allow_tf32: bool,
    /// Most tokens of a segment that go through the model at once in training; longer ones go in chunks. *Own key.*
    #[serde(deserialize_with = "at_most::<{ limits::SEQUENCE_TOKENS }, _>")]
    pub chunk_tokens: usize,
    pub megatron_cfg: MegatronConfig,
    pub dynamic_batching: DynamicBatchingConfig,
    pub make_sequence_length_divisible_by: usize,
    /// Bound of the global L2 norm of the gradient; the optimizer reads `megatron_cfg.optimizer.clip_grad`.
    pub max_grad_norm: f64,
    pub offload_optimizer_for_logprob: bool,
    pub generation: GenerationConfig,
}

/// Which tokenizer, and what its chat template is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenizerConfig {
    pub name: String,
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// A model made from nothing: random weights of a given shape, a tokenizer trained on generated tasks. *Own block.*
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitConfig {
    /// `config.json` of the model to make; null loads `policy.model_name` instead.
    pub model_config: Option<PathBuf>,
    pub seed: u64,
    pub tokenizer: InitTokenizerConfig,
}

/// Training of the byte-pair tokenizer of a fresh model. *Own block.*
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitTokenizerConfig {
    /// Ids, special tokens included.
    #[serde(deserialize_with = "at_most::<{ limits::VOCABULARY }, _>")]
    pub vocab_size: usize,
    /// Generated tasks whose rendered conversations are the training text.
    #[serde(deserialize_with = "at_most::<{ limits::TASKS }, _>")]
    pub corpus_count: usize,
    pub corpus_seed: u64,
}

/// Dtype of weights and activations; sums, norms, losses and optimizer state are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Bfloat16,
    Float32,
}

/// The training side, under upstream's backend name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MegatronConfig {
    pub tensor_model_parallel_size: usize,
    /// Whether every block runs twice, so that the backward pass keeps no graph of the first time; otherwise as many are kept
    /// as memory has room for. Results are the same.
    pub activation_checkpointing: bool,
    pub defer_fp32_logits: bool,
    pub peft: PeftConfig,
    pub optimizer: OptimizerConfig,
    pub scheduler: SchedulerConfig,
    pub distributed_data_parallel_config: DistributedDataParallelConfig,
}

/// LoRA: factors beside the linear maps of the model are trained, and the model itself stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeftConfig {
    /// Whether factors are trained instead of the model. They are f32 whatever `policy.precision` is; the keys beside this one
    /// have no effect without it.
    pub enabled: bool,
    /// Which linear maps have factors, by the last part of their names or by Megatron's; an empty list means all.
    pub target_modules: Vec<PeftTarget>,
    /// Refused unless empty.
    pub exclude_modules: Vec<String>,
    /// Rank.
    #[serde(deserialize_with = "at_most::<{ limits::ADAPTER_RANK }, _>")]
    pub dim: usize,
    /// The change is multiplied by `alpha / dim`.
    pub alpha: f64,
    /// Refused unless 0.
    pub dropout: f64,
    /// How the factor A is drawn; B is zero.
    #[serde(rename = "lora_A_init_method")]
    pub lora_a_init_method: FactorInit,
    /// What projections and experts of the model are kept in: `policy.precision`, or eight bits. *Own key.*
    pub base_dtype: BaseDtype,
}

/// A kind of linear map, by its name in checkpoints or in Megatron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeftTarget {
    InProj,
    OutProj,
    QProj,
    KProj,
    VProj,
    OProj,
    UpProj,
    DownProj,
    /// Megatron's queries, keys and values in one.
    LinearQkv,
    /// Megatron's name of `o_proj`.
    LinearProj,
    /// Megatron's name of `up_proj`.
    LinearFc1,
    /// Megatron's name of `down_proj`.
    LinearFc2,
}

/// How the factor A of an adapter is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FactorInit {
    Kaiming,
    Xavier,
    Normal,
}

/// What the matrices of a model are kept in beside an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseDtype {
    Float32,
    Bfloat16,
    Int8,
}

impl BaseDtype {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Int8 => "int8",
        }
    }
}

/// AdamW. `optimizer` is `adam` or refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    pub optimizer: String,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Learning rate at the end of a decay; without effect under a constant schedule.
    pub min_lr: f64,
    /// Decoupled decay; one-dimensional parameters are never decayed.
    pub weight_decay: f64,
    pub params_dtype: Precision,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_eps: f64,
    /// Whether the types below may be other than f32, as in Megatron.
    pub use_precision_aware_optimizer: bool,
    /// Copies of weights in bf16 that are updated in their place: f32, or none with `bfloat16`, where every update is rounded at
    /// random.
    pub main_params_dtype: Precision,
    /// Sums of gradients.
    pub main_grads_dtype: Precision,
    /// First moments.
    pub exp_avg_dtype: MomentDtype,
    /// Second moments.
    pub exp_avg_sq_dtype: MomentDtype,
    pub optimizer_cpu_offload: bool,
    pub optimizer_offload_fraction: f64,
    /// Bound of the global L2 norm of the gradient; 0 leaves it as it is.
    pub clip_grad: f64,
}

/// What a moment of the optimizer is kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentDtype {
    Float32,
    Bfloat16,
    /// Eight bits, in blocks with a common factor.
    Uint8,
}

/// Learning rate and weight decay over steps; the module `schedule` of nemo-rl has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    pub start_weight_decay: f64,
    pub end_weight_decay: f64,
    pub weight_decay_incr_style: WeightDecayStyle,
    pub lr_decay_style: LrDecayStyle,
    /// Step at which a decay ends.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub lr_decay_iters: usize,
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub lr_warmup_iters: usize,
    /// Learning rate of the first step.
    pub lr_warmup_init: f64,
    /// On resume these values win over those in the checkpoint.
    pub override_opt_param_scheduler: bool,
}

/// How weight decay changes over steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDecayStyle {
    Constant,
}

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrDecayStyle {
    Constant,
    Linear,
    Cosine,
}

/// Gradient reduction between devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistributedDataParallelConfig {
    /// Gradients are summed in f32 whatever this says.
    pub grad_reduce_in_fp32: bool,
}

/// Micro-batches of similar lengths under a token budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynamicBatchingConfig {
    /// Whether `train_mb_tokens` bounds a padded batch; `train_micro_batch_size` does otherwise.
    pub enabled: bool,
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub train_mb_tokens: usize,
}

/// Sampling and the generation engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// `vllm` names the built-in engine here.
    pub backend: String,
    /// Tokens of one assistant turn.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub max_new_tokens: usize,
    pub temperature: f64,
    pub top_p: f64,
    /// Refused unless null: the environment's rollouts sample the whole distribution upstream.
    pub top_k: Option<usize>,
    pub val_temperature: f64,
    pub val_top_p: f64,
    pub val_top_k: Option<usize>,
    pub vllm_cfg: VllmConfig,
    pub vllm_kwargs: VllmKwargs,
    pub colocated: super::ColocationConfig,
}

/// Engine options, under upstream's engine name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmConfig {
    pub tensor_parallel_size: usize,
    /// Share of a device's memory that weights, optimizer state and caches may fill while sequences are generated.
    pub gpu_memory_utilization: f64,
    /// Tokens of one sequence, prompt included.
    pub max_model_len: usize,
    pub expose_http_server: bool,
    pub http_server_serving_chat_kwargs: ChatServerConfig,
}

/// How text becomes tool calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatServerConfig {
    pub enable_auto_tools: bool,
    pub tool_parser: String,
}

/// Extra engine options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmKwargs {
    /// Dtype of the state-space states.
    pub mamba_ssm_cache_dtype: Precision,
}
