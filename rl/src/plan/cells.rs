//! Memory of one cell, a block over a run of tokens: what its graph holds, and what its gradient takes beside that.
//!
//! Each formula lists tensors under the names that `model/src/layers` gives them. What an operation keeps for its gradient is
//! what its `autodiff.rs` in `kernels` records; the scratch memory is that of the host's kernels, which devices do not exceed.
//! The residual stream before the block is counted by whoever holds the cells, as it stays whether the graph does or not.

use nemo_model::config::LayerKind;

use super::sizes::{FLOAT32_BYTES, Shard};

/// Elements that the scan's gradient may take for the parts of several rows at a time, for each of B and C.
const SCAN_PARTS: usize = 1 << 20;
/// Elements that attention's gradient may take for its parts at a time, unless one block of keys of a row takes more.
const ATTENTION_PARTS: usize = 4 << 20;
/// Keys that attention takes at a time, in tiles of so many queries.
const ATTENTION_BLOCK: usize = 64;
/// Elements of a vector register of the host's kernels.
const LANES: usize = 16;
/// Tokens whose inputs share a partial sum of the convolution's gradient.
const CONVOLUTION_TASK: usize = 64;

/// A run of tokens that goes through the blocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Rows, of equal length once they are padded.
    pub rows: usize,
    /// Tokens of all rows, padding included.
    pub tokens: usize,
    /// Keys before the run that its tokens attend to.
    pub num_keys: usize,
}

impl Run {
    /// Tokens of one row.
    fn length(self) -> usize {
        self.tokens.div_ceil(self.rows.max(1))
    }
}

/// Bytes of a block's cells.
#[derive(Clone, Copy, Debug)]
pub struct CellSizes<'a> {
    /// What a device holds of the model.
    pub shard: &'a Shard,
    /// Bytes of an activation.
    pub activation: usize,
    /// Host threads, each of which has scratch memory of its own.
    pub threads: usize,
}

impl CellSizes<'_> {
    /// What stays of a cell whose graph is kept: what its operations saved for their gradients, and its own state.
    pub fn graph(&self, kind: LayerKind, run: Run) -> usize {
        let shard = self.shard;
        // The normed stream goes into the first product of every block.
        let normed = shard.hidden;
        let per_token = match kind {
            // The projection, whose parts the convolution, the scan (dt) and the gate read in place; x, B and C behind the
            // convolution; y; the gated y, which goes into the second product.
            LayerKind::Mamba2 => self.projected() + shard.channels() + 2 * shard.inner,
            // Queries, keys, values, what was attended to, and the logarithms of the softmax denominators.
            LayerKind::Attention => 2 * self.queries() + 2 * shard.key_width + shard.query_heads,
            // Before and after the squared ReLU.
            LayerKind::Mlp => 2 * shard.mlp,
            // The router's scores and the chosen weights; of every chosen expert its input, the values before and after its
            // squared ReLU, and its output; those of the shared experts.
            LayerKind::Moe => {
                let ([experts, chosen], [width, inside]) = (shard.experts, shard.expert_widths);
                2 * experts + chosen * (2 * width + 2 * inside) + 2 * shard.shared_experts
            }
        };
        let own_state = if kind == LayerKind::Mamba2 { run.rows * shard.state_of_block() * FLOAT32_BYTES } else { 0 };
        run.tokens * (per_token + normed) * self.activation + own_state
    }

    /// What the gradient of a cell takes at most beside its graph.
    pub fn gradient(&self, kind: LayerKind, run: Run) -> usize {
        let shard = self.shard;
        // The gradient of the stream behind the block goes through the whole of it.
        let of_stream = shard.hidden;
        let (per_token, scratch) = match kind {
            LayerKind::Mamba2 => self.scan_or_convolution(run),
            LayerKind::Attention => {
                // Gradients of what was attended to, of the queries, of the keys and of the values.
                (2 * self.queries() + 2 * shard.key_width, self.attention_scratch(run))
            }
            // The gradient behind the squared ReLU becomes that before it in place.
            LayerKind::Mlp => (shard.mlp, 0),
            // The same of the chosen and the shared experts; gradients of the experts' sum and of what goes into them.
            LayerKind::Moe => {
                let ([_, chosen], [width, inside]) = (shard.experts, shard.expert_widths);
                (chosen * (width + inside) + 2 * width + shard.shared_experts, 0)
            }
        };
        run.tokens * (per_token + of_stream) * self.activation + scratch * FLOAT32_BYTES
    }

    /// What a pass through a block takes at most beside the streams before and behind it, where no graph is kept.
    pub fn forward(&self, kind: LayerKind, run: Run) -> usize {
        let shard = self.shard;
        let per_token = match kind {
            LayerKind::Mamba2 => self.projected() + (2 * shard.channels()).max(3 * shard.inner),
            LayerKind::Attention => 2 * self.queries() + 2 * shard.key_width,
            LayerKind::Mlp => shard.mlp,
            LayerKind::Moe => shard.experts[1] * shard.expert_widths.iter().sum::<usize>() + 2 * shard.shared_experts,
        };
        run.tokens * (per_token + shard.hidden) * self.activation
    }

    /// How many of the last blocks of a run keep their graphs in `limit` bytes, and how many bytes those take.
    pub fn kept(&self, run: Run, limit: usize) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0_usize);
        for &kind in self.shard.layers.iter().rev() {
            let total = bytes.saturating_add(self.graph(kind, run));
            if total > limit {
                break;
            }
            (count, bytes) = (count + 1, total);
        }
        (count, bytes)
    }

    /// Width of a Mamba block's input projection: z, then x, B and C, then dt.
    fn projected(&self) -> usize {
        self.shard.inner + self.shard.channels() + self.shard.mamba_heads
    }

    fn queries(&self) -> usize {
        self.shard.query_heads * self.shard.head_dim
    }

    /// The gradient of a Mamba block is largest in its scan, its convolution or its gated norm: elements per token beside
    /// the graph, of which the scan has freed y and the convolution x, B, C and y; and the scratch memory.
    fn scan_or_convolution(&self, run: Run) -> (usize, usize) {
        let shard = self.shard;
        let (inner, channels) = (shard.inner, shard.channels());
        // Gradients of y, of the gate, of x, B and C, less y.
        let scan = inner + channels;
        // Its input made contiguous, the gradients of its output, its input and the gate, less x, B, C and y.
        let convolution = 2 * channels;
        // Gradient of the gated y, the gate made contiguous, gradients of y and of the gate.
        let norm = 4 * inner;
        let scan_scratch = self.scan_scratch(run);
        let convolution_scratch = run.tokens.div_ceil(CONVOLUTION_TASK) * (shard.window + 2) * channels;
        [(scan, scan_scratch), (convolution, convolution_scratch), (norm, 0)]
            .into_iter()
            .max_by_key(|(per_token, scratch)| run.tokens * per_token + scratch)
            .unwrap_or_default()
    }

    /// Gradients of B and C per head, of as many rows at a time as have room, and what each thread copies of its head: x and
    /// the gradient of y, B and C and their gradients, four vectors of lanes and three numbers per token.
    fn scan_scratch(&self, run: Run) -> usize {
        let shard = self.shard;
        let length = run.length();
        let of_row = shard.mamba_heads * length * shard.state_size;
        let rows = (SCAN_PARTS / of_row.max(1)).clamp(1, run.rows.max(1));
        let padded = shard.state_size.div_ceil(LANES).next_power_of_two() * LANES;
        let of_thread = length * (2 * shard.mamba_head_dim + 4 * padded + 4 * LANES + 3);
        2 * rows * of_row + self.threads.min(rows * shard.mamba_heads) * of_thread
    }

    /// Gradients of keys and values per query head, of as many keys and rows at a time as have room; those of the keys and
    /// values before the run; and what each thread copies of its head: queries, outputs and the gradients of both.
    fn attention_scratch(&self, run: Run) -> usize {
        let shard = self.shard;
        let length = run.length();
        let (of_key, keys) = (2 * self.queries(), run.num_keys + length);
        let blocks =
            (ATTENTION_PARTS / of_key.max(1) / ATTENTION_BLOCK).clamp(1, keys.div_ceil(ATTENTION_BLOCK).max(1));
        let of_span = blocks * ATTENTION_BLOCK * of_key;
        let rows = (ATTENTION_PARTS / of_span.max(1)).clamp(1, run.rows.max(1));
        let padded = shard.head_dim.next_multiple_of(LANES);
        let of_thread = (4 * length + 6 * ATTENTION_BLOCK) * padded;
        let before = 2 * shard.key_width * run.num_keys;
        rows * of_span + before + self.threads.min(rows * shard.query_heads) * of_thread
    }
}
