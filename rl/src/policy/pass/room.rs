//! How many graphs of a first pass are kept: as many as there is room for.

use nemo_model::config::{LayerKind, ModelConfig};

use super::cell::PaddedRows;

/// Graphs that are kept of one run: those of its last blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub num_blocks: usize,
    pub bytes: usize,
}

/// Bytes for graphs, as a walk over the tree takes and gives them back.
#[derive(Debug)]
pub(super) struct Room {
    /// Per block, last to first.
    blocks: Vec<GraphSize>,
    free: usize,
    /// What the largest leaf batch takes. Leaves come and go, so the room that serves one serves all; graphs of an inner
    /// segment stay as long as all below it takes, and get what leaves do not need.
    of_leaves: usize,
}

impl Room {
    /// Room of `bytes`; of each leaf batch its padded tokens and the keys before it.
    pub fn new(config: &ModelConfig, bytes: usize, leaf_batches: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut blocks: Vec<GraphSize> = config.layers.iter().map(|kind| GraphSize::new(config, kind)).collect();
        blocks.reverse();
        let size = |(tokens, num_keys)| blocks.iter().map(|block| block.bytes(tokens, num_keys)).sum::<usize>();
        let of_leaves = leaf_batches.map(size).max().unwrap_or(0);
        Self { blocks, free: bytes, of_leaves }
    }

    /// What is kept of a run that goes back at once.
    pub fn fit(&self, rows: &PaddedRows, num_keys: usize) -> Kept {
        self.fit_in(self.free, rows, num_keys)
    }

    /// What is kept of a run that leaves follow.
    pub fn above_leaves(&self, rows: &PaddedRows, num_keys: usize) -> Kept {
        self.fit_in(self.free.saturating_sub(self.of_leaves), rows, num_keys)
    }

    /// Takes room; the bytes to [`Self::release`].
    pub fn hold(&mut self, kept: Kept) -> usize {
        self.free -= kept.bytes;
        kept.bytes
    }

    /// Gives back what was taken.
    pub fn release(&mut self, bytes: usize) {
        self.free += bytes;
    }

    fn fit_in(&self, limit: usize, rows: &PaddedRows, num_keys: usize) -> Kept {
        let mut kept = Kept { num_blocks: 0, bytes: 0 };
        for block in &self.blocks {
            let bytes = block.bytes(rows.len(), num_keys);
            if kept.bytes + bytes > limit {
                break;
            }
            kept = Kept { num_blocks: kept.num_blocks + 1, bytes: kept.bytes + bytes };
        }
        kept
    }
}

/// Size of one block's graph.
#[derive(Clone, Copy, Debug)]
struct GraphSize {
    bytes_per_token: usize,
    /// Of a copy of the keys and values before the run, which the backward pass of attention makes.
    bytes_per_key: usize,
}

impl GraphSize {
    /// What the operations of a block keep for their gradients, in f32.
    fn new(config: &ModelConfig, kind: LayerKind) -> Self {
        let hidden = config.hidden_size;
        let mut per_key = 0;
        let per_token = match kind {
            LayerKind::Mamba2 => {
                let (inner, channels, heads) = (config.mamba_inner_size(), config.conv_dim(), config.mamba_num_heads);
                // The projection and its three parts, the convolution and its three, y, gated y.
                2 * (inner + channels + heads) + 2 * channels + 2 * inner
            }
            LayerKind::Attention => {
                per_key = 2 * config.key_value_size();
                let queries = config.num_attention_heads * config.head_dim;
                2 * queries + per_key + config.num_attention_heads
            }
            LayerKind::Mlp => 2 * config.intermediate_size,
            LayerKind::Moe => {
                let experts = config.num_experts_per_tok * (2 * config.moe_intermediate_size + 4 * hidden);
                experts
                    + 2 * config.n_shared_experts * config.moe_shared_expert_intermediate_size
                    + 3 * config.n_routed_experts
            }
        };
        // The stream before and after the block, its norm, and what the block adds.
        let per_token = per_token + 4 * hidden;
        Self { bytes_per_token: per_token * size_of::<f32>(), bytes_per_key: per_key * size_of::<f32>() }
    }

    fn bytes(&self, tokens: usize, num_keys: usize) -> usize {
        tokens * self.bytes_per_token + num_keys * self.bytes_per_key
    }
}
