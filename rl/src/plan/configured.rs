//! What a plan is made from, as a configuration says it.

use nemo_model::config::ModelConfig;

use super::{ElementBytes, Machine, PlanInput, Settings, Workload};
use crate::config::{Precision, RunConfig};
use crate::optimizer::OptimizerDtypes;

/// Part of the longest sequence that its prompt is taken to fill, and part of the prompt that is not the same in all: the list
/// of tools is long, the task short. Prompts are rendered when the run has begun, and the plan is made before.
const PROMPT_PARTS: usize = 2;
const OWN_PROMPT_PARTS: usize = 16;
/// What a short conversation is taken to have behind its prompt, in tokens.
const SHORT_CONVERSATION: usize = 256;

impl Workload {
    /// The largest step of a configuration, generated with so many sequences at a time.
    pub fn of_config(config: &RunConfig, max_open_sequences: usize) -> Self {
        let longest_sequence = config.policy.max_total_sequence_length;
        let prompt = longest_sequence / PROMPT_PARTS;
        let prompts = config.grpo.num_prompts_per_step;
        let sequences = prompts.saturating_mul(config.grpo.num_generations_per_prompt);
        Self {
            shared_prefix: prompt - prompt / OWN_PROMPT_PARTS,
            prompt,
            longest_sequence,
            leaf_tokens: SHORT_CONVERSATION.min(longest_sequence - prompt),
            max_open_sequences,
            max_batch_tokens: config.max_batch_tokens(),
            chunk_tokens: config.policy.chunk_tokens,
            prompts_per_step: prompts,
            sequences_per_step: sequences.max(config.sft.batch_size),
        }
    }

    /// So many sequences of at most `longest_sequence` tokens, which are only generated.
    pub fn of_generation(max_open_sequences: usize, longest_sequence: usize) -> Self {
        Self {
            shared_prefix: 0,
            prompt: longest_sequence / PROMPT_PARTS,
            longest_sequence,
            leaf_tokens: longest_sequence,
            max_open_sequences,
            max_batch_tokens: 0,
            chunk_tokens: longest_sequence,
            prompts_per_step: max_open_sequences,
            sequences_per_step: max_open_sequences,
        }
    }
}

impl Settings {
    /// The settings of a training run.
    pub fn of_config(config: &RunConfig) -> Self {
        let policy = &config.policy;
        Self {
            element_bytes: match policy.precision {
                Precision::Float32 => ElementBytes::FLOAT32,
                Precision::Bfloat16 => ElementBytes::BFLOAT16,
            },
            optimizer: OptimizerDtypes::of_config(&policy.megatron_cfg.optimizer),
            mapped_bytes: 0,
            trains: true,
            keeps_reference: config.loss_fn.reference_policy_kl_penalty != 0.0,
            memory_utilization: policy.generation.vllm_cfg.gpu_memory_utilization,
            activation_checkpointing: policy.megatron_cfg.activation_checkpointing,
        }
    }

    /// The settings of a model that only generates, with matrices in elements of `parameter_bytes`, of which `mapped_bytes` lie
    /// in a file: nothing else needs the memory.
    pub fn of_generation(parameter_bytes: usize, mapped_bytes: usize) -> Self {
        Self {
            element_bytes: ElementBytes { parameters: parameter_bytes, ..ElementBytes::FLOAT32 },
            optimizer: OptimizerDtypes::default(),
            mapped_bytes,
            trains: false,
            keeps_reference: false,
            memory_utilization: 1.0,
            activation_checkpointing: false,
        }
    }
}

impl<'a> PlanInput<'a> {
    /// A training run.
    pub fn of_config(config: &RunConfig, model: &'a ModelConfig, max_open_sequences: usize, machine: Machine) -> Self {
        let workload = Workload::of_config(config, max_open_sequences);
        Self { model, workload, machine, settings: Settings::of_config(config) }
    }

    /// A model that only generates.
    pub fn of_generation(
        model: &'a ModelConfig,
        [parameter_bytes, mapped_bytes]: [usize; 2],
        [max_open_sequences, longest_sequence]: [usize; 2],
        machine: Machine,
    ) -> Self {
        let workload = Workload::of_generation(max_open_sequences, longest_sequence);
        Self { model, workload, machine, settings: Settings::of_generation(parameter_bytes, mapped_bytes) }
    }
}
