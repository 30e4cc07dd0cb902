//! Host implementation: online softmax over absolute blocks of 64 positions.
//!
//! One task serves all query heads of a key/value head for a few new tokens of one sequence. Blocks start at absolute
//! positions whatever the page size and the split of the sequence into calls, and each query's arithmetic is its own,
//! so prefill, chunked prefill and decode give the same bits.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{PagedAttentionOps, PagedSequence, reference};
use crate::cpu::from_vec;
use crate::flex_slices::{Rows, elements, is_f32, lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

/// Positions per block.
pub(crate) const BLOCK: usize = 64;
/// Multiplications of queries and keys below which splitting over threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 18;
/// Query rows (tokens times heads) that share one pass over the keys.
const QUERY_ROWS: usize = 32;

impl PagedAttentionOps for Flex {
    fn paged_attention(
        q: FlexTensor,
        k_pool: FlexTensor,
        v_pool: FlexTensor,
        sequences: Arc<Vec<PagedSequence>>,
        scale: f64,
    ) -> FlexTensor {
        if is_f32(&q) && is_f32(&k_pool) && is_f32(&v_pool) {
            return attend_f32(q, k_pool, v_pool, &sequences, scale as f32);
        }
        lower(reference::paged_attention(
            Tensor::from_primitive::<Flex>(q),
            Tensor::from_primitive::<Flex>(k_pool),
            Tensor::from_primitive::<Flex>(v_pool),
            &sequences,
            scale,
        ))
    }
}

/// What every task shares.
struct Layer<'a> {
    q: Rows,
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    page_size: usize,
    query_heads: usize,
    kv_heads: usize,
    width: usize,
    scale: f32,
}

impl Layer<'_> {
    /// Where the keys and values of a block are in the pools, for one key/value head. Starts loading them: scattered
    /// pages are nothing the hardware foresees.
    #[inline(always)]
    fn locate<L: Lanes>(
        &self,
        sequence: &PagedSequence,
        kv_head: usize,
        block: usize,
        positions: usize,
        offsets: &mut [usize; BLOCK],
    ) {
        let count = BLOCK.min(positions.saturating_sub(block));
        for (position, offset) in (block..).zip(&mut offsets[..count]) {
            let page = sequence.block_table[position / self.page_size] as usize;
            let slot = page * self.page_size + position % self.page_size;
            *offset = (slot * self.kv_heads + kv_head) * self.width;
            for at in (*offset..*offset + self.width).step_by(LANES) {
                L::prefetch(self.k_pool.as_ptr().wrapping_add(at));
                L::prefetch(self.v_pool.as_ptr().wrapping_add(at));
            }
        }
    }
}

/// A few new tokens of one sequence, for one key/value head.
#[derive(Clone, Copy)]
struct Task<'a> {
    sequence: &'a PagedSequence,
    kv_head: usize,
    first: usize,
    tokens: usize,
}

/// Rows of the result, written by one task each.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: sequences do not share rows (checked by the public function) and tasks of one sequence differ in tokens or
// heads, so no element is written twice.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

fn attend_f32(
    q: FlexTensor,
    k_pool: FlexTensor,
    v_pool: FlexTensor,
    sequences: &[PagedSequence],
    scale: f32,
) -> FlexTensor {
    let shape = q.layout().shape().clone();
    let (rows, query_heads, width) = (shape[0], shape[1], shape[2]);
    let pool_shape = k_pool.layout().shape().clone();
    let (k_pool, v_pool) = (whole(k_pool), whole(v_pool));
    let layer = Layer {
        q: Rows::new(q),
        k_pool: elements(&k_pool),
        v_pool: elements(&v_pool),
        page_size: pool_shape[1],
        query_heads,
        kv_heads: pool_shape[2],
        width,
        scale,
    };
    let per_task = (QUERY_ROWS * layer.kv_heads / query_heads.max(1)).max(1);
    let mut tasks = Vec::new();
    for sequence in sequences {
        for first in (0..sequence.num_queries).step_by(per_task) {
            let tokens = per_task.min(sequence.num_queries - first);
            for kv_head in 0..layer.kv_heads {
                tasks.push(Task { sequence, kv_head, first, tokens });
            }
        }
    }
    let mut y = vec![0.0; rows * query_heads * width];
    let output = Output(y.as_mut_ptr());
    let attend = |scratch: &mut Scratch, task: Task| {
        simd::run(Attend { layer: &layer, task, scratch, output });
    };
    let work: usize = tasks.iter().map(|task| task.tokens * task.sequence.context_length).sum();
    if work * query_heads / layer.kv_heads.max(1) * width <= SERIAL_WORK {
        let mut scratch = Scratch::default();
        tasks.into_iter().for_each(|task| attend(&mut scratch, task));
    } else {
        tasks.into_par_iter().for_each_init(Scratch::default, attend);
    }
    from_vec(y, [rows, query_heads, width])
}

/// Buffers reused by the tasks of a thread.
#[derive(Default)]
struct Scratch {
    /// `[P, BLOCK]` keys of a block, transposed.
    keys: Vec<f32>,
    /// `[rows, BLOCK]` scores, then weights.
    scores: Vec<f32>,
    /// `[rows, P rounded up to lanes]` weighted sums of values.
    sums: Vec<f32>,
    /// `[rows, LANES]` partial sums of weights.
    totals: Vec<f32>,
    /// `[rows]` largest scores so far.
    largest: Vec<f32>,
}

struct Attend<'a> {
    layer: &'a Layer<'a>,
    task: Task<'a>,
    scratch: &'a mut Scratch,
    output: Output,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { layer, task, scratch, output } = self;
        let Task { sequence, kv_head, first, tokens } = task;
        let width = layer.width;
        let padded = width.next_multiple_of(LANES);
        let per_kv = layer.query_heads / layer.kv_heads;
        let rows = tokens * per_kv;
        let start = sequence.context_length - sequence.num_queries + first;
        let query_row = |row: usize| {
            (sequence.query_start + first + row / per_kv) * layer.query_heads + kv_head * per_kv + row % per_kv
        };

        let filled = |buffer: &mut Vec<f32>, size: usize, value: f32| {
            buffer.clear();
            buffer.resize(size, value);
        };
        filled(&mut scratch.keys, width * BLOCK, 0.0);
        filled(&mut scratch.scores, rows * BLOCK, 0.0);
        filled(&mut scratch.sums, rows * padded, 0.0);
        filled(&mut scratch.totals, rows * LANES, 0.0);
        filled(&mut scratch.largest, rows, f32::NEG_INFINITY);

        let positions = start + tokens;
        let mut next = [0usize; BLOCK];
        layer.locate::<L>(sequence, kv_head, 0, positions, &mut next);
        for block in (0..positions).step_by(BLOCK) {
            let count = BLOCK.min(positions - block);
            let offsets = next;
            layer.locate::<L>(sequence, kv_head, block + BLOCK, positions, &mut next);
            // Rows before `from` stand before this block.
            let from = block.saturating_sub(start) * per_kv;
            // Positions of the block that a row sees.
            let seen = |row: usize| count.min(start + row / per_kv + 1 - block);
            // SAFETY: offsets are inside the pools, the buffers have the sizes above, `from <= row < rows`.
            unsafe {
                transpose_keys::<L>(layer, &offsets[..count], scratch.keys.as_mut_ptr());
                let keys = scratch.keys.as_ptr();
                let scores = scratch.scores.as_mut_ptr();
                let mut row = from;
                while row < rows {
                    let query = |i: usize| layer.q.row(query_row(row + i)).as_ptr();
                    let to = scores.add(row * BLOCK);
                    if L::WIDE && row + 4 <= rows {
                        let queries = [query(0), query(1), query(2), query(3)];
                        score::<L, 4, 4>(queries, keys, width, to, layer.scale);
                        row += 4;
                    } else if row + 2 <= rows {
                        let queries = [query(0), query(1)];
                        score::<L, 2, 2>(queries, keys, width, to, layer.scale);
                        score::<L, 2, 2>(queries, keys.add(32), width, to.add(32), layer.scale);
                        row += 2;
                    } else {
                        score::<L, 1, 4>([query(0)], keys, width, to, layer.scale);
                        row += 1;
                    }
                }
                for row in from..rows {
                    let weights = &mut scratch.scores[row * BLOCK..(row + 1) * BLOCK];
                    weights[seen(row)..].fill(f32::NEG_INFINITY);
                    softmax_step::<L>(
                        weights,
                        &mut scratch.largest[row],
                        &mut scratch.totals[row * LANES..],
                        &mut scratch.sums[row * padded..(row + 1) * padded],
                    );
                }
                let weights = scratch.scores.as_ptr();
                let sums = scratch.sums.as_mut_ptr();
                let values = layer.v_pool.as_ptr();
                let mut row = from;
                while row < rows {
                    let weights = weights.add(row * BLOCK);
                    let sums = sums.add(row * padded);
                    if row + 4 <= rows {
                        let offsets = &offsets[..seen(row + 3)];
                        weighted_values::<L, 4>(weights, offsets, values, width, sums, padded);
                        row += 4;
                    } else {
                        let offsets = &offsets[..seen(row)];
                        weighted_values::<L, 1>(weights, offsets, values, width, sums, padded);
                        row += 1;
                    }
                }
            }
        }

        for row in 0..rows {
            // SAFETY: `sums` and `totals` have the sizes above; the output has `width` values per query row.
            unsafe {
                let total = L::splat(L::load(scratch.totals.as_ptr().add(row * LANES)).sum());
                let to = output.0.add(query_row(row) * width);
                let mut at = 0;
                while at < width {
                    let sum = L::load(scratch.sums.as_ptr().add(row * padded + at));
                    sum.div(total).store_first(to.add(at), LANES.min(width - at));
                    at += LANES;
                }
            }
        }
    }
}

/// Writes the block's keys as `[P, BLOCK]`, so that sixteen positions lie in one vector.
#[inline(always)]
unsafe fn transpose_keys<L: Lanes>(layer: &Layer, offsets: &[usize], keys: *mut f32) {
    let width = layer.width;
    for (group, offsets) in offsets.chunks(LANES).enumerate() {
        let mut at = 0;
        while at < width {
            let count = LANES.min(width - at);
            let mut rows = [L::splat(0.0); LANES];
            // SAFETY: `offset + width` is inside the pool.
            unsafe {
                for (row, &offset) in rows.iter_mut().zip(offsets) {
                    let from = layer.k_pool.as_ptr().add(offset + at);
                    *row = if count == LANES { L::load(from) } else { L::load_first(from, count) };
                }
                let columns = L::transpose(rows);
                let to = keys.add(at * BLOCK + group * LANES);
                if count == LANES {
                    for (i, column) in columns.into_iter().enumerate() {
                        column.store(to.add(i * BLOCK));
                    }
                } else {
                    for (i, column) in columns.into_iter().take(count).enumerate() {
                        column.store(to.add(i * BLOCK));
                    }
                }
            }
            at += LANES;
        }
    }
}

/// Scores of `ROWS` queries against `VECTORS` vectors of keys, summed over the width in order.
#[inline(always)]
pub(crate) unsafe fn score<L: Lanes, const ROWS: usize, const VECTORS: usize>(
    queries: [*const f32; ROWS],
    keys: *const f32,
    width: usize,
    scores: *mut f32,
    scale: f32,
) {
    let mut sums = [[L::splat(0.0); VECTORS]; ROWS];
    // SAFETY: queries hold `width` values, keys `width * BLOCK`, scores `ROWS * BLOCK`.
    unsafe {
        for i in 0..width {
            let mut key = [L::splat(0.0); VECTORS];
            for (v, key) in key.iter_mut().enumerate() {
                *key = L::load(keys.add(i * BLOCK + v * LANES));
            }
            for (query, sums) in queries.iter().zip(&mut sums) {
                let q = L::splat(*query.add(i));
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = q.mul_add(key, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                sum.mul(L::splat(scale)).store(scores.add(row * BLOCK + v * LANES));
            }
        }
    }
}

/// Turns a block of scores into weights relative to the largest score so far, and rescales what was summed before.
#[inline(always)]
pub(crate) fn softmax_step<L: Lanes>(scores: &mut [f32], largest: &mut f32, totals: &mut [f32], sums: &mut [f32]) {
    // SAFETY: `scores` has BLOCK values, `totals` at least LANES, `sums` a multiple of LANES.
    unsafe {
        let at = |v: usize| L::load(scores.as_ptr().add(v * LANES));
        let block_largest = at(0).max(at(1)).max(at(2).max(at(3))).largest();
        let new = if block_largest > *largest { block_largest } else { *largest };
        let rescale = L::splat(simd::exp(*largest - new));
        *largest = new;
        let mut total = L::load(totals.as_ptr()).mul(rescale);
        for v in 0..BLOCK / LANES {
            let weight = L::load(scores.as_ptr().add(v * LANES)).sub(L::splat(new)).exp();
            weight.store(scores.as_mut_ptr().add(v * LANES));
            total = total.add(weight);
        }
        total.store(totals.as_mut_ptr());
        for sum in sums.chunks_exact_mut(LANES) {
            L::load(sum.as_ptr()).mul(rescale).store(sum.as_mut_ptr());
        }
    }
}

/// Adds the weighted values of a block, in order of position, for `ROWS` neighbouring rows.
#[inline(always)]
pub(crate) unsafe fn weighted_values<L: Lanes, const ROWS: usize>(
    weights: *const f32,
    offsets: &[usize],
    values: *const f32,
    width: usize,
    sums: *mut f32,
    padded: usize,
) {
    let mut at = 0;
    // SAFETY: `offset + width` is inside the pool; weights hold `ROWS * BLOCK` values, sums `ROWS * padded`.
    unsafe {
        while at + 2 * LANES <= width {
            let to = sums.add(at);
            weighted_columns::<L, ROWS, 2>(weights, offsets, values.add(at), LANES, to, padded);
            at += 2 * LANES;
        }
        while at < width {
            let to = sums.add(at);
            let count = LANES.min(width - at);
            weighted_columns::<L, ROWS, 1>(weights, offsets, values.add(at), count, to, padded);
            at += LANES;
        }
    }
}

#[inline(always)]
unsafe fn weighted_columns<L: Lanes, const ROWS: usize, const VECTORS: usize>(
    weights: *const f32,
    offsets: &[usize],
    values: *const f32,
    count: usize,
    sums: *mut f32,
    padded: usize,
) {
    // SAFETY: as in `weighted_values`; with `count < LANES` there is one vector.
    unsafe {
        let mut acc = [[L::splat(0.0); VECTORS]; ROWS];
        for (row, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = L::load(sums.add(row * padded + v * LANES));
            }
        }
        for (i, &offset) in offsets.iter().enumerate() {
            let mut value = [L::splat(0.0); VECTORS];
            for (v, value) in value.iter_mut().enumerate() {
                let from = values.add(offset + v * LANES);
                *value = if count == LANES { L::load(from) } else { L::load_first(from, count) };
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(row * BLOCK + i));
                for (acc, value) in acc.iter_mut().zip(value) {
                    *acc = weight.mul_add(value, *acc);
                }
            }
        }
        for (row, acc) in acc.into_iter().enumerate() {
            for (v, acc) in acc.into_iter().enumerate() {
                acc.store(sums.add(row * padded + v * LANES));
            }
        }
    }
}
