//! What a plan is made from, as a configuration says it.

use nemo_model::adapter::AdapterError;
use nemo_model::checkpoint::{StoredDtype, expected_tensors};
use nemo_model::config::ModelConfig;

use super::{AdapterSizes, ElementBytes, Machine, PlanInput, Settings, Workload};
use crate::adapter;
use crate::config::RunConfig;
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
            element_bytes: ElementBytes::of(adapter::dtypes(policy)),
            optimizer: OptimizerDtypes::of_config(&policy.megatron_cfg.optimizer),
            // Whether weights lie in a file the model's configuration says: see `PlanInput::of_config`.
            mapped_bytes: 0,
            trains: true,
            keeps_reference: config.loss_fn.reference_policy_kl_penalty != 0.0,
            memory_utilization: policy.generation.vllm_cfg.gpu_memory_utilization,
            activation_checkpointing: policy.megatron_cfg.activation_checkpointing,
        }
    }

    /// The settings of a model that only generates, with elements of these sizes, of which `mapped_bytes` lie in a file:
    /// nothing else needs the memory.
    pub fn of_generation(element_bytes: ElementBytes, mapped_bytes: usize) -> Self {
        Self {
            element_bytes,
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
    ///
    /// # Errors
    /// When the model has no place for the adapter that the configuration asks for.
    pub fn of_config(
        config: &RunConfig,
        model: &'a ModelConfig,
        max_open_sequences: usize,
        machine: Machine,
    ) -> Result<Self, AdapterError> {
        let workload = Workload::of_config(config, max_open_sequences);
        let mut settings = Settings::of_config(config);
        let adapter = match adapter::fresh(&config.policy, model) {
            None => None,
            Some(fresh) => Some(AdapterSizes::new(model, fresh.settings.rank, &fresh.maps(model)?)),
        };
        if adapter.is_some() && machine.threads > 0 {
            settings.mapped_bytes = mapped_bytes(model, settings.element_bytes);
        }
        Ok(Self { model, workload, machine, settings, adapter })
    }

    /// A model that only generates.
    pub fn of_generation(
        model: &'a ModelConfig,
        (element_bytes, mapped_bytes): (ElementBytes, usize),
        [max_open_sequences, longest_sequence]: [usize; 2],
        machine: Machine,
    ) -> Self {
        let workload = Workload::of_generation(max_open_sequences, longest_sequence);
        let settings = Settings::of_generation(element_bytes, mapped_bytes);
        Self { model, workload, machine, settings, adapter: None }
    }
}

/// Bytes of the matrices that a host leaves in the model's file, as they are kept in the type that its configuration names.
/// Routers are copied like all that is small.
fn mapped_bytes(model: &ModelConfig, element_bytes: ElementBytes) -> usize {
    let stored = StoredDtype::from(model.dtype);
    let stays = |bytes: usize| bytes == stored.size_bytes() && stored != StoredDtype::F16;
    let tensors = expected_tensors(model).into_iter().filter(|tensor| tensor.shape.len() == 2);
    let sizes = tensors.filter(|tensor| !tensor.name.contains("gate.")).map(|tensor| {
        let is_table = !tensor.name.contains(".layers.");
        let bytes = if is_table { element_bytes.tables } else { element_bytes.parameters };
        if stays(bytes) { tensor.shape.iter().product::<usize>() * bytes } else { 0 }
    });
    sizes.sum()
}
