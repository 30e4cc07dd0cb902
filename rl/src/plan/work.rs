//! Floating-point work and memory traffic of a training step, and how long they take at given rates.
//!
//! Counted are products of matrices (two operations per weight and token, three times that with the gradient, and two times
//! beside an adapter, whose own products are small), attention
//! (`4 * queries * keys` per token) and the scan (`6 * inner * state`); of memory the weights and states that decoding reads
//! and writes, and what the optimizer goes through. These are floors: what is computed elsewhere overlaps or is small.

use nemo_model::config::LayerKind;

use super::sizes::{FLOAT32_BYTES, Shard};
use super::{PlanInput, Workload};

/// What a device does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Floating-point operations of large matrix products.
    pub matmul_flops: f64,
    /// Bytes read or written.
    pub memory_bytes: f64,
}

/// The work of one step on one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepWork {
    /// Operations of all prompts.
    pub prefill_flops: f64,
    /// Decoding passes one after the other.
    pub decode_passes: f64,
    /// Operations of one of them.
    pub decode_flops: f64,
    /// Bytes that one of them reads and writes.
    pub decode_bytes: f64,
    /// Operations of forward and backward passes, with what runs twice.
    pub training_flops: f64,
    /// Share of the blocks that run forward twice.
    pub rerun: f64,
    /// Bytes that the update reads and writes.
    pub update_bytes: f64,
    /// Tokens that are trained through, shared ones once.
    pub training_tokens: f64,
}

/// How long the parts of a step take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSeconds {
    /// Prompts and decoding.
    pub generation: f64,
    /// Forward and backward.
    pub backward: f64,
    /// The optimizer.
    pub update: f64,
}

impl StepSeconds {
    /// The whole step.
    pub fn total(self) -> f64 {
        self.generation + self.backward + self.update
    }
}

impl StepWork {
    /// A step in which every sequence has the longest length, generated `num_sequences` at a time, with `rerun` of the
    /// forward pass done twice.
    pub fn new(shard: &Shard, input: &PlanInput<'_>, num_sequences: usize, rerun: f64) -> Self {
        let (workload, bytes) = (&input.workload, input.settings.element_bytes);
        let Workload { shared_prefix, prompt, longest_sequence, sequences_per_step, prompts_per_step, .. } = *workload;
        let float = |count: usize| count as f64;
        let per_token = |keys: f64| {
            let attention = float(4 * shard.count(LayerKind::Attention) * shard.query_heads * shard.head_dim) * keys;
            let scan = float(6 * shard.count(LayerKind::Mamba2) * shard.inner * shard.state_size);
            2.0 * float(shard.multiplied) + attention + scan
        };
        let prompt_tokens = float(shared_prefix) + float(prompts_per_step) * float(prompt - shared_prefix);
        let sampled = longest_sequence - prompt;
        let training_tokens = prompt_tokens + float(sequences_per_step) * float(sampled);
        let at_once = float(num_sequences.min(sequences_per_step).max(1));
        let middle = float(prompt) + float(sampled) / 2.0;
        let remembered =
            2.0 * float(shard.state() * bytes.states) + middle * float(shard.keys_values() * bytes.keys_values);
        // Forward, and backward to the inputs and to the weights, unless those stay as they are.
        let passes = if input.adapter.is_some() { 2.0 } else { 3.0 };
        // The gradient is read; weights, masters and moments are read and written.
        let of_parameter = FLOAT32_BYTES + 2 * input.trained_bytes() + 2 * input.master_bytes();
        let moments = 2.0 * float(input.settings.moment_bytes(shard.trained.all));
        Self {
            prefill_flops: prompt_tokens * per_token(float(prompt) / 2.0),
            decode_passes: (float(sequences_per_step) / at_once).ceil() * float(sampled),
            decode_flops: at_once * per_token(middle),
            decode_bytes: float(shard.multiplied * bytes.parameters) + at_once * remembered,
            training_flops: training_tokens * per_token(float(longest_sequence) / 2.0) * (passes + rerun),
            rerun,
            update_bytes: float(shard.trained.all) * float(of_parameter) + moments,
            training_tokens,
        }
    }

    /// How long the step takes at these rates.
    pub fn seconds(&self, rates: Rates) -> StepSeconds {
        let pass = (self.decode_flops / rates.matmul_flops).max(self.decode_bytes / rates.memory_bytes);
        StepSeconds {
            generation: self.prefill_flops / rates.matmul_flops + self.decode_passes * pass,
            backward: self.training_flops / rates.matmul_flops,
            update: self.update_bytes / rates.memory_bytes,
        }
    }
}
