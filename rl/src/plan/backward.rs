//! Memory of the backward pass: the largest of its moments.
//!
//! The pass (`policy::pass`) walks the token tree depth first. At any time it holds the sums of the gradients, as far as it
//! has come the first time; of every segment on the path the residual stream before each block of its last chunk, the graphs that are kept of it, and its states,
//! keys and values with their gradients; and one block's graph with its gradients, or the head's tiles.

use nemo_model::config::LayerKind;

use super::Item;
use super::cells::{CellSizes, Run};
use super::sizes::FLOAT32_BYTES;

/// Rows and vocabulary of a tile of logits (`kernels/src/linear_log_prob`).
const TILE: [usize; 2] = [2048, 4096];
/// Rows of a tile of logits over the whole vocabulary, and logits it may have.
const FORWARD_TILE: [usize; 2] = [256, 8 << 20];

/// What a batch's token tree looks like where it is largest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeShape {
    /// Tokens of the inner segments above the leaves, root first.
    pub inner: Vec<usize>,
    /// Sibling leaves that run as one batch.
    pub rows: usize,
    /// Padded tokens of that batch.
    pub tokens: usize,
    /// Whether the batch is all that the step goes through, once: gradient sums then come block by block.
    pub is_whole_step: bool,
}

/// How the pass goes about its work: `PassOptions`, as far as it decides on memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassShape {
    /// Most tokens of a single row that go through the model at once.
    pub chunk_tokens: usize,
    /// Bytes that graphs of first passes may take.
    pub kept_bytes: usize,
}

/// One segment, or one batch of leaves, between its forward and its backward pass.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// The largest run of it.
    run: Run,
    /// Tokens of the run whose cells wait for the gradient of what follows.
    waiting: usize,
    /// Runs it is cut into.
    num_chunks: usize,
    /// Keys up to its end.
    keys_behind: usize,
}

impl Segment {
    fn new(rows: usize, tokens: usize, keys_before: usize, chunk_tokens: usize) -> Self {
        let num_chunks = if rows == 1 { tokens.div_ceil(chunk_tokens.max(1)).max(1) } else { 1 };
        let waiting = tokens - tokens.min((num_chunks - 1) * chunk_tokens);
        let largest = if num_chunks == 1 { tokens } else { chunk_tokens };
        let keys_behind = keys_before + tokens.div_ceil(rows.max(1));
        let num_keys = if num_chunks == 1 { keys_before } else { keys_behind - waiting };
        Self { run: Run { rows, tokens: largest, num_keys }, waiting, num_chunks, keys_behind }
    }

    fn waiting_run(self) -> Run {
        Run { tokens: self.waiting, ..self.run }
    }
}

/// What is held at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    sums: usize,
    streams: usize,
    kept: usize,
    states: usize,
    state_gradients: usize,
    work: usize,
    what: &'static str,
}

impl Moment {
    fn total(&self) -> usize {
        [self.sums, self.streams, self.kept, self.states, self.state_gradients, self.work]
            .into_iter()
            .fold(0, usize::saturating_add)
    }
}

/// The items of the backward pass's largest moment.
pub fn items(cells: &CellSizes<'_>, tree: &TreeShape, pass: PassShape) -> Vec<Item> {
    let largest = moments(cells, tree, pass).into_iter().max_by_key(Moment::total).unwrap_or_default();
    vec![
        Item::new("gradient sums", largest.sums),
        Item::new("residual streams before blocks", largest.streams),
        Item::new("kept graphs", largest.kept),
        Item::new(largest.what, largest.work),
        Item::new("states, keys and values of the path", largest.states),
        Item::new("gradients of those", largest.state_gradients),
    ]
}

/// Every moment that can be the largest.
fn moments(cells: &CellSizes<'_>, tree: &TreeShape, pass: PassShape) -> Vec<Moment> {
    let shard = cells.shard;
    let state = shard.state() * FLOAT32_BYTES;
    let of_block = shard.state_of_block() * FLOAT32_BYTES;
    let keys_values = |keys: usize| keys * shard.keys_values() * cells.activation;
    let num_blocks = shard.layers.len();
    let stream = |tokens: usize, blocks: usize| tokens * blocks * shard.hidden * cells.activation;

    // The state before the first token.
    let trained = &shard.trained;
    let all_sums = trained.all.saturating_mul(FLOAT32_BYTES);
    let mut path = Moment { sums: all_sums, states: state, ..Moment::default() };
    let mut all = Vec::new();
    let mut keys_before = 0;
    let leaves = Segment::new(tree.rows, tree.tokens, tree.inner.iter().sum(), pass.chunk_tokens);
    let of_leaves = cells.kept(leaves.waiting_run(), usize::MAX).1;
    let mut free = pass.kept_bytes;
    for &tokens in &tree.inner {
        let segment = Segment::new(1, tokens, keys_before, pass.chunk_tokens);
        // The state behind each chunk, the keys and values up to the last, and the gradients of the last of them.
        path.states += segment.num_chunks * state + keys_values(segment.keys_behind);
        let gradients = state + keys_values(segment.keys_behind);
        // Backward: its descendants are done, and their gradient goes through it into that of the state before it. Block by
        // block the one takes the other's place; an attention block's own part of the second is among its gradients.
        let differentiates = keys_before > 0 || segment.num_chunks > 1;
        let before = if differentiates { of_block } else { 0 };
        let here = Moment { state_gradients: path.state_gradients + gradients + before, ..path };
        all.extend(block_moments(cells, segment.run, free, here));
        path.state_gradients += gradients;
        let (_, kept) = cells.kept(segment.waiting_run(), free.saturating_sub(of_leaves));
        path.kept += kept;
        free -= kept;
        path.streams += stream(segment.waiting, num_blocks);
        keys_before += tokens;
    }

    let chained = leaves.num_chunks > 1;
    if chained {
        path.states += (leaves.num_chunks - 1) * state + keys_values(leaves.run.num_keys);
    }
    let run = leaves.run;
    let (_, kept) = cells.kept(run, free);
    let whole = Moment { streams: path.streams + stream(run.tokens, num_blocks), kept: path.kept + kept, ..path };
    let largest_forward = shard.layers.iter().map(|&kind| cells.forward(kind, run)).max().unwrap_or(0);
    // What is there of the sums when the last so many blocks have gone back.
    let once = tree.is_whole_step && !chained;
    let sums = |num_blocks: usize| {
        let behind = trained.blocks.iter().rev().take(num_blocks).fold(trained.head, |sum, &block| sum + block);
        if once { behind.saturating_mul(FLOAT32_BYTES) } else { all_sums }
    };
    all.push(Moment {
        sums: if once { 0 } else { all_sums },
        work: largest_forward + stream(run.tokens, 1),
        what: "values of one block, on the way forward",
        ..whole
    });
    let what = "norm and head of the trained tokens";
    all.push(Moment { sums: sums(0), work: head(cells, run.tokens), what, ..whole });
    // The gradients of the tokens' rows, summed by token.
    all.push(Moment { work: stream(2 * run.tokens, 1), what: "gradients of embedding rows", ..path });
    // The gradient of the state before the leaves; of a chain also that behind the chunk.
    let differentiated = match (chained, tree.inner.is_empty()) {
        (true, _) => state + of_block + keys_values(leaves.keys_behind),
        (false, false) => state + keys_values(keys_before),
        (false, true) => 0,
    };
    let here = Moment { state_gradients: path.state_gradients + differentiated, ..path };
    let moments = block_moments(cells, run, free, here).into_iter().enumerate();
    all.extend(moments.map(|(done, moment)| Moment { sums: sums(done + 1), ..moment }));
    all
}

/// The backward pass of each block over a run, beside `path`: the streams up to the block, the graphs that are still kept,
/// and the block's own graph and gradients.
fn block_moments(cells: &CellSizes<'_>, run: Run, free: usize, path: Moment) -> Vec<Moment> {
    let (num_kept, mut kept) = cells.kept(run, free);
    let layers = &cells.shard.layers;
    let mut all = Vec::with_capacity(layers.len());
    for (index, &kind) in layers.iter().enumerate().rev() {
        let streams = path.streams + run.tokens * (index + 1) * cells.shard.hidden * cells.activation;
        let (graph, gradient) = (cells.graph(kind, run), cells.gradient(kind, run));
        let is_kept = index + num_kept >= layers.len();
        let work = if is_kept { gradient } else { graph + gradient };
        all.push(Moment { streams, kept: path.kept + kept, work, what: what(kind), ..path });
        if is_kept {
            kept -= graph;
        }
    }
    all
}

fn what(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Mamba2 => "graph and gradients of one Mamba-2 block",
        LayerKind::Attention => "graph and gradients of one attention block",
        LayerKind::Mlp => "graph and gradients of one MLP block",
        LayerKind::Moe => "graph and gradients of one block of experts",
    }
}

/// Norm, head and log-probabilities of `tokens` tokens of a run, all of them trained.
fn head(cells: &CellSizes<'_>, tokens: usize) -> usize {
    let shard = cells.shard;
    let rows = |count: usize| count * shard.hidden * cells.activation;
    let tile_rows = tokens.min(TILE[0]);
    let vocabulary = shard.vocabulary.min(TILE[1]);
    let forward_rows = (FORWARD_TILE[1] / shard.vocabulary.max(1)).clamp(1, FORWARD_TILE[0]).min(tokens);
    let logits = (tile_rows * vocabulary).max(forward_rows * shard.vocabulary) * FLOAT32_BYTES;
    // Where rows need several tiles, a part of the head's gradient is summed before it joins what is there.
    let part_of_head =
        if tokens > TILE[0] && shard.trained.head > 0 { vocabulary * shard.hidden * FLOAT32_BYTES } else { 0 };
    // The stream behind the last block; of the trained tokens: the stream, its norm, the norm's gradient and a tile's part.
    let scored = rows(tokens) + rows(3 * tokens + tile_rows) + logits + part_of_head;
    // The same stream with its gradient, which is spread from the trained tokens to all; of those the stream and two gradients.
    let spread = rows(3 * tokens) + rows(3 * tokens);
    scored.max(spread)
}
