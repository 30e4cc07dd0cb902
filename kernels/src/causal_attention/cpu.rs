//! Online softmax over absolute blocks of positions, with the arithmetic of paged attention.
//!
//! One task serves all query heads of a key head for a run of tokens of one row. Blocks start at
//! absolute positions counted from the prefix's first token and each query's arithmetic is its own,
//! so any split of a sequence into prefix and segment gives the same bits, as does decoding.

use std::mem::MaybeUninit;

use super::{AttentionTensors, CausalAttentionGradient, CausalAttentionOps};
use crate::cpu::{DisjointMut, Floats, from_vec, parallel, sizes};
use crate::paged_attention::cpu_block::{BLOCK, score, softmax_step, weighted_values};
use crate::simd::{self, Kernel, LANES, Lanes, run};
use burn::backend::{Flex, tensor::FloatTensor};

/// Tokens that share one pass over the keys.
const TOKENS_PER_TASK: usize = 64;

impl CausalAttentionOps for Flex {
    fn causal_attention(tensors: AttentionTensors<Self>, prefix_lengths: Vec<usize>, scale: f64) -> FloatTensor<Self> {
        Self::causal_attention_forward(tensors, &prefix_lengths, scale).0
    }
}

/// Forward pass; the gradient has its own file.
pub(super) fn forward(
    tensors: AttentionTensors<Flex>,
    prefix_lengths: &[usize],
    scale: f64,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let layer = Layer::new(tensors, prefix_lengths, scale);
    let Layer { batch, tokens, query_heads, key_heads, width, .. } = layer;
    assert!(query_heads.is_multiple_of(key_heads), "attention: heads");
    let mut y = Box::<[f32]>::new_uninit_slice(layer.q.len());
    let mut log_sum_exp = Box::<[f32]>::new_uninit_slice(batch * query_heads * tokens);
    let (y_out, sum_out) = (DisjointMut::new(&mut y), DisjointMut::new(&mut log_sum_exp));
    let runs = tokens.div_ceil(TOKENS_PER_TASK);
    parallel(batch * key_heads * runs, |task| {
        let (row, rest) = (task / (key_heads * runs), task % (key_heads * runs));
        // Late runs see more keys: started first, they do not leave one thread working alone.
        let (run_index, key_head) = (runs - 1 - rest / key_heads, rest % key_heads);
        let first = run_index * TOKENS_PER_TASK;
        let count = TOKENS_PER_TASK.min(tokens - first);
        let (y, log_sum_exp) = (y_out, sum_out);
        run(Attend { layer: &layer, row, key_head, first, count, y, log_sum_exp });
    });
    // SAFETY: the tasks are all rows, key heads and runs of tokens, and each writes both results of all its query rows.
    let (y, log_sum_exp) = unsafe { (y.assume_init(), log_sum_exp.assume_init()) };
    let y = from_vec(y.into_vec(), [batch, tokens, query_heads, width]);
    (y, from_vec(log_sum_exp.into_vec(), [batch, query_heads, tokens]))
}

/// The inputs as slices, with their sizes.
pub(super) struct Layer<'a> {
    pub batch: usize,
    pub tokens: usize,
    pub query_heads: usize,
    pub key_heads: usize,
    pub width: usize,
    pub prefix_batch: usize,
    pub prefix_tokens: usize,
    pub prefix_lengths: &'a [usize],
    pub scale: f32,
    pub q: Floats,
    pub k: Floats,
    pub v: Floats,
    pub prefix_k: Floats,
    pub prefix_v: Floats,
}

impl<'a> Layer<'a> {
    pub fn new(tensors: AttentionTensors<Flex>, prefix_lengths: &'a [usize], scale: f64) -> Self {
        let [batch, tokens, query_heads, width] = sizes(&tensors.q);
        let [_, _, key_heads, _] = sizes(&tensors.k);
        let [prefix_batch, prefix_tokens, _, _] = sizes(&tensors.prefix_k);
        Self {
            batch,
            tokens,
            query_heads,
            key_heads,
            width,
            prefix_batch,
            prefix_tokens,
            prefix_lengths,
            scale: scale as f32,
            q: Floats::new(tensors.q),
            k: Floats::new(tensors.k),
            v: Floats::new(tensors.v),
            prefix_k: Floats::new(tensors.prefix_k),
            prefix_v: Floats::new(tensors.prefix_v),
        }
    }

    /// Head width rounded up to whole vectors.
    pub fn padded(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Query heads of one key head.
    pub fn per_key(&self) -> usize {
        self.query_heads / self.key_heads
    }

    /// Where a query head's vector starts in `q` and `y`.
    pub fn query_place(&self, row: usize, token: usize, head: usize) -> usize {
        ((row * self.tokens + token) * self.query_heads + head) * self.width
    }

    /// Where the vector of an absolute position starts, and whether that is in the prefix.
    pub fn key_place(&self, row: usize, position: usize, key_head: usize) -> (usize, bool) {
        let prefix = self.prefix_lengths[row];
        let (token, in_prefix) = if position < prefix {
            let row = if self.prefix_batch == 1 { 0 } else { row };
            (row * self.prefix_tokens + position, true)
        } else {
            (row * self.tokens + position - prefix, false)
        };
        ((token * self.key_heads + key_head) * self.width, in_prefix)
    }

    /// Key and value of an absolute position.
    #[inline(always)]
    pub fn key_value(&self, row: usize, position: usize, key_head: usize) -> [&[f32]; 2] {
        let (place, in_prefix) = self.key_place(row, position, key_head);
        let (k, v) = if in_prefix { (&self.prefix_k, &self.prefix_v) } else { (&self.k, &self.v) };
        [&k[place..place + self.width], &v[place..place + self.width]]
    }
}

/// Copies up to [`BLOCK`] vectors as rows of `padded` elements, padding untouched.
#[inline(always)]
pub(super) fn pack_rows<'b>(rows: impl Iterator<Item = &'b [f32]>, padded: usize, to: &mut [f32]) {
    for (from, to) in rows.zip(to.chunks_exact_mut(padded)) {
        to[..from.len()].copy_from_slice(from);
    }
}

/// Transposes packed rows `[BLOCK, padded]` to `[padded, BLOCK]`.
#[inline(always)]
pub(super) fn transpose_block<L: Lanes>(rows: &[f32], padded: usize, to: &mut [f32]) {
    assert!(rows.len() >= BLOCK * padded && to.len() >= BLOCK * padded, "attention: block size");
    for first in (0..BLOCK).step_by(LANES) {
        for at in (0..padded).step_by(LANES) {
            let mut tile = [L::splat(0.0); LANES];
            // SAFETY: both blocks have `BLOCK * padded` values.
            unsafe {
                for (lane, vector) in tile.iter_mut().enumerate() {
                    *vector = L::load(rows.as_ptr().add((first + lane) * padded + at));
                }
                for (lane, column) in L::transpose(tile).into_iter().enumerate() {
                    column.store(to.as_mut_ptr().add((at + lane) * BLOCK + first));
                }
            }
        }
    }
}

/// Scores of `rows` queries (`stride` apart) against a transposed block, sixteen positions a lane.
///
/// # Safety
/// `queries` must hold `rows` vectors of `width`, `keys` `[width, BLOCK]`, `scores` `[rows, BLOCK]`.
#[inline(always)]
pub(super) unsafe fn score_rows<L: Lanes>(
    query: impl Fn(usize) -> *const f32,
    rows: usize,
    keys: *const f32,
    width: usize,
    scores: *mut f32,
    scale: f32,
) {
    let mut row = 0;
    // SAFETY: the caller's.
    unsafe {
        while row < rows {
            let to = scores.add(row * BLOCK);
            if L::WIDE && row + 4 <= rows {
                let queries = [query(row), query(row + 1), query(row + 2), query(row + 3)];
                score::<L, 4, 4>(queries, keys, width, to, scale);
                row += 4;
            } else if row + 2 <= rows {
                let queries = [query(row), query(row + 1)];
                score::<L, 2, 2>(queries, keys, width, to, scale);
                score::<L, 2, 2>(queries, keys.add(BLOCK / 2), width, to.add(BLOCK / 2), scale);
                row += 2;
            } else {
                score::<L, 1, 4>([query(row)], keys, width, to, scale);
                row += 1;
            }
        }
    }
}

struct Attend<'a> {
    layer: &'a Layer<'a>,
    row: usize,
    key_head: usize,
    first: usize,
    count: usize,
    /// `[B, T, Hq, P]`
    y: DisjointMut<'a, MaybeUninit<f32>>,
    /// `[B, Hq, T]`
    log_sum_exp: DisjointMut<'a, MaybeUninit<f32>>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { layer, row, key_head, first, count, .. } = self;
        let (width, padded, per_key) = (layer.width, layer.padded(), layer.per_key());
        // Query rows: the heads of a token are neighbours.
        let rows = count * per_key;
        let start = layer.prefix_lengths[row] + first;
        let place =
            |index: usize| layer.query_place(row, first + index / per_key, key_head * per_key + index % per_key);
        let mut keys = vec![0.0; BLOCK * padded];
        let mut values = vec![0.0; BLOCK * padded];
        let mut transposed = vec![0.0; BLOCK * padded];
        let mut scores = vec![0.0; rows * BLOCK];
        let mut sums = vec![0.0; rows * padded];
        let mut totals = vec![0.0; rows * LANES];
        let mut largest = vec![f32::NEG_INFINITY; rows];
        let offsets: [usize; BLOCK] = std::array::from_fn(|index| index * padded);

        let positions = start + count;
        for block in (0..positions).step_by(BLOCK) {
            let filled = BLOCK.min(positions - block);
            let source = |position| layer.key_value(row, block + position, key_head);
            pack_rows((0..filled).map(|position| source(position)[0]), padded, &mut keys);
            pack_rows((0..filled).map(|position| source(position)[1]), padded, &mut values);
            transpose_block::<L>(&keys, padded, &mut transposed);
            // Rows before `from` stand before this block.
            let from = block.saturating_sub(start) * per_key;
            // Positions of the block that a row sees.
            let seen = |index: usize| filled.min(start + index / per_key + 1 - block);
            // SAFETY: the buffers have the sizes above and `from <= index < rows`.
            unsafe {
                let query = |index: usize| layer.q[place(from + index)..][..width].as_ptr();
                let to = scores.as_mut_ptr().add(from * BLOCK);
                score_rows::<L>(query, rows - from, transposed.as_ptr(), width, to, layer.scale);
                for index in from..rows {
                    let weights = &mut scores[index * BLOCK..(index + 1) * BLOCK];
                    weights[seen(index)..].fill(f32::NEG_INFINITY);
                    softmax_step::<L>(
                        weights,
                        &mut largest[index],
                        &mut totals[index * LANES..(index + 1) * LANES],
                        &mut sums[index * padded..(index + 1) * padded],
                    );
                }
                let mut index = from;
                while index < rows {
                    let weights = scores.as_ptr().add(index * BLOCK);
                    let to = sums.as_mut_ptr().add(index * padded);
                    if index + 4 <= rows {
                        let offsets = &offsets[..seen(index + 3)];
                        weighted_values::<L, 4>(weights, offsets, values.as_ptr(), padded, to, padded);
                        index += 4;
                    } else {
                        let offsets = &offsets[..seen(index)];
                        weighted_values::<L, 1>(weights, offsets, values.as_ptr(), padded, to, padded);
                        index += 1;
                    }
                }
            }
        }

        for (index, &largest) in largest.iter().enumerate() {
            // SAFETY: `sums` and `totals` have the sizes above; this task owns the query rows.
            unsafe {
                let total = L::load(totals.as_ptr().add(index * LANES)).sum();
                let to = self.y.slice(place(index), width);
                for (lane, to) in to.chunks_mut(LANES).enumerate() {
                    let sum = L::load(sums.as_ptr().add(index * padded + lane * LANES));
                    sum.div(L::splat(total)).store_first(to.as_mut_ptr().cast(), to.len());
                }
                let head = key_head * per_key + index % per_key;
                let token = first + index / per_key;
                let place = (row * layer.query_heads + head) * layer.tokens + token;
                let log_total = simd::ln(f64::from(total)) as f32;
                self.log_sum_exp.slice(place, 1)[0].write(largest + log_total);
            }
        }
    }
}
