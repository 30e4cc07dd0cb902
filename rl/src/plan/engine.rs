//! Memory of generation: pages of keys and values, slots of recurrent state, and a pass through the model beside them.

use nemo_model::config::LayerKind;
use nemo_model::generate::EngineOptions;

use super::cells::Run;
use super::sizes::FLOAT32_BYTES;
use super::{Item, PlanInput, cell_sizes};
use crate::plan::sizes::Shard;

/// Fewest slots an engine works with: the empty state, a cached prefix, a prompt and two sequences, and their forks.
const MIN_SLOTS: usize = 8;
/// Longest sequences an engine works with at least, for the same reason.
const MIN_SEQUENCES: usize = 4;

/// What an engine has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineRoom {
    /// Pages of keys and values.
    pub num_pages: usize,
    /// Slots of recurrent state.
    pub num_slots: usize,
    /// Sequences of the longest length that can be under way at once.
    pub num_sequences: usize,
    /// Tokens that the pages hold.
    pub num_tokens: usize,
    /// Bytes of all pages.
    pub page_bytes: usize,
    /// Bytes of all slots.
    pub slot_bytes: usize,
}

impl EngineRoom {
    /// Room for as many of the asked sequences as fit in `bytes`, and for the fewest an engine works with in any case.
    ///
    /// A sequence has its pages, its slot and half of another, as each prompt that is being forked holds one too; cached
    /// prefixes and a prompt on its way have theirs.
    pub fn new(shard: &Shard, input: &PlanInput<'_>, bytes: usize) -> Self {
        let defaults = EngineOptions::default();
        let (element, workload) = (input.settings.element_bytes, &input.workload);
        let page = defaults.page_size * shard.keys_values() * element.keys_values;
        let slot = shard.state() * element.states;
        let beside = defaults.max_cached_prefixes + 1;
        let of_sequence = workload.longest_sequence.div_ceil(defaults.page_size).saturating_add(1);
        let room = |sequences: usize| {
            let num_pages = of_sequence.saturating_mul(sequences.saturating_add(beside).max(MIN_SEQUENCES));
            let num_slots = sequences.saturating_add(sequences / 2).saturating_add(beside).max(MIN_SLOTS);
            Self {
                num_pages,
                num_slots,
                num_sequences: sequences,
                num_tokens: num_pages.saturating_mul(defaults.page_size),
                page_bytes: num_pages.saturating_mul(page),
                slot_bytes: num_slots.saturating_mul(slot),
            }
        };
        // More sequences never take less.
        let (mut fits, mut too_many) = (1, workload.max_open_sequences.max(1).saturating_add(1));
        while fits + 1 < too_many {
            let middle = fits + (too_many - fits) / 2;
            if room(middle).bytes(shard) <= bytes { fits = middle } else { too_many = middle }
        }
        room(fits)
    }

    /// Bytes of the pools. One tensor of them is held twice for a moment when it grows.
    pub fn bytes(&self, shard: &Shard) -> usize {
        self.page_bytes.saturating_add(self.slot_bytes).saturating_add(self.growth(shard))
    }

    fn growth(&self, shard: &Shard) -> usize {
        let pages = self.page_bytes / (2 * shard.count(LayerKind::Attention)).max(1);
        let slots = self.slot_bytes / shard.count(LayerKind::Mamba2).max(1);
        pages.max(slots)
    }

    /// The pools by name.
    pub fn items(&self, shard: &Shard) -> [Item; 3] {
        [
            Item::new("pages of keys and values", self.page_bytes),
            Item::new("slots of recurrent state", self.slot_bytes),
            Item::new("a pool's tensor while it grows", self.growth(shard)),
        ]
    }
}

/// A prefill pass: the streams before and behind a block, the block's own values, and the states of its rows, which are
/// gathered from their slots block by block; and the logits of all sequences at once.
pub fn pass_bytes(shard: &Shard, input: &PlanInput<'_>) -> usize {
    let cells = cell_sizes(shard, input);
    let tokens = EngineOptions::default().prefill_token_budget;
    let rows = input.workload.max_open_sequences.min(tokens);
    let run = Run { rows: 1, tokens, num_keys: 0 };
    let block = shard.layers.iter().map(|&kind| cells.forward(kind, run)).max().unwrap_or(0);
    let streams = 2 * tokens * shard.hidden * input.settings.element_bytes.activations;
    let states = 2 * rows * shard.state_of_block() * input.settings.element_bytes.states;
    let logits = rows * shard.vocabulary * FLOAT32_BYTES;
    (block + streams + states).max(logits)
}
