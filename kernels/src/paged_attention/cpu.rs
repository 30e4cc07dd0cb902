//! Host implementation: online softmax over absolute blocks of 64 positions.
//!
//! One task serves all query heads of a key/value head for a few new tokens of one sequence, or for the next token of
//! several that share pages: the samples of one prompt read it together. Blocks start at absolute positions whatever the
//! page size and the split of the sequence into calls, and each query's arithmetic is its own, so prefill, chunked
//! prefill and decode give the same bits, in any company.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::cpu_block::{BLOCK, score, softmax_step, weighted_values};
use super::{PagedAttentionOps, PagedSequence, reference};
use crate::cpu::from_vec;
use crate::flex_slices::{Rows, elements, is_f32, lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

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

/// A few new tokens of one sequence.
#[derive(Clone, Copy)]
struct Member<'a> {
    sequence: &'a PagedSequence,
    first: usize,
    tokens: usize,
}

impl Member<'_> {
    /// Position of the first token.
    fn start(&self) -> usize {
        self.sequence.context_length - self.sequence.num_queries + self.first
    }
}

/// What one thread does at a time, for one key/value head.
struct Task<'a> {
    kv_head: usize,
    members: Vec<Member<'a>>,
    /// Blocks that all members see whole and read from the same pages: one pass over them serves all.
    shared_blocks: usize,
}

/// Cuts the work into tasks of a few query rows each. Sequences with one new token that begin with the same page, as the
/// samples of one prompt do, go together.
fn tasks<'a>(sequences: &'a [PagedSequence], layer: &Layer) -> Vec<Task<'a>> {
    let per_task = (QUERY_ROWS * layer.kv_heads / layer.query_heads.max(1)).max(1);
    let mut groups: Vec<Vec<Member>> = Vec::new();
    // By first page, the group that still has room.
    let mut open: HashMap<u32, usize> = HashMap::new();
    for sequence in sequences {
        if sequence.num_queries > 1 {
            for first in (0..sequence.num_queries).step_by(per_task) {
                let tokens = per_task.min(sequence.num_queries - first);
                groups.push(vec![Member { sequence, first, tokens }]);
            }
        } else if sequence.num_queries == 1 {
            let member = Member { sequence, first: 0, tokens: 1 };
            let page = sequence.block_table[0];
            match open.get(&page).map(|&group| &mut groups[group]) {
                Some(group) if group.len() < per_task => group.push(member),
                _ => {
                    open.insert(page, groups.len());
                    groups.push(vec![member]);
                }
            }
        }
    }
    let mut tasks = Vec::new();
    for members in groups {
        let shared_blocks = shared_blocks(&members, layer.page_size);
        // Who shares less than a block gains nothing by waiting for the others.
        let parts: Vec<_> =
            if shared_blocks > 0 { vec![members] } else { members.into_iter().map(|m| vec![m]).collect() };
        for members in parts {
            tasks.extend((0..layer.kv_heads).map(|kv_head| Task { kv_head, members: members.clone(), shared_blocks }));
        }
    }
    tasks
}

fn shared_blocks(members: &[Member], page_size: usize) -> usize {
    let [one, others @ ..] = members else { return 0 };
    let table = &one.sequence.block_table;
    let mut positions = if others.is_empty() { 0 } else { one.start() + 1 };
    for other in others {
        let pages = table.iter().zip(&other.sequence.block_table).take_while(|(a, b)| a == b).count();
        positions = positions.min(pages * page_size).min(other.start() + 1);
    }
    positions / BLOCK
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
    let tasks = tasks(sequences, &layer);
    let mut y = vec![0.0; rows * query_heads * width];
    let output = Output(y.as_mut_ptr());
    let attend = |scratch: &mut Scratch, task: Task| {
        simd::run(Attend { layer: &layer, task, scratch, output });
    };
    let work: usize = sequences.iter().map(|sequence| sequence.num_queries * sequence.context_length).sum();
    if work * query_heads * width <= SERIAL_WORK {
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
    /// `[rows]` which row of the queries, a head of a token, each is.
    places: Vec<usize>,
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
        let Self { layer, task: Task { kv_head, members, shared_blocks }, scratch, output } = self;
        let width = layer.width;
        let padded = width.next_multiple_of(LANES);
        let per_kv = layer.query_heads / layer.kv_heads;
        scratch.places.clear();
        for member in &members {
            for row in 0..member.tokens * per_kv {
                let token = member.sequence.query_start + member.first + row / per_kv;
                scratch.places.push(token * layer.query_heads + kv_head * per_kv + row % per_kv);
            }
        }
        let rows = scratch.places.len();
        let filled = |buffer: &mut Vec<f32>, size: usize, value: f32| {
            buffer.clear();
            buffer.resize(size, value);
        };
        filled(&mut scratch.keys, width * BLOCK, 0.0);
        filled(&mut scratch.scores, rows * BLOCK, 0.0);
        filled(&mut scratch.sums, rows * padded, 0.0);
        filled(&mut scratch.totals, rows * LANES, 0.0);
        filled(&mut scratch.largest, rows, f32::NEG_INFINITY);

        let mut next = [0usize; BLOCK];
        let shared = shared_blocks * BLOCK;
        if let Some(Member { sequence, .. }) = members.first() {
            layer.locate::<L>(sequence, kv_head, 0, shared, &mut next);
            for block in (0..shared).step_by(BLOCK) {
                let offsets = next;
                layer.locate::<L>(sequence, kv_head, block + BLOCK, shared, &mut next);
                attend_block::<L>(layer, scratch, &offsets, 0..rows, |_| BLOCK);
            }
        }
        let mut end = 0;
        for member in &members {
            let first = end;
            end += member.tokens * per_kv;
            let start = member.start();
            let positions = start + member.tokens;
            layer.locate::<L>(member.sequence, kv_head, shared, positions, &mut next);
            for block in (shared..positions).step_by(BLOCK) {
                let count = BLOCK.min(positions - block);
                let offsets = next;
                layer.locate::<L>(member.sequence, kv_head, block + BLOCK, positions, &mut next);
                // Rows before `from` stand before this block.
                let from = first + block.saturating_sub(start) * per_kv;
                // Positions of the block that a row sees.
                let seen = |row: usize| count.min(start + (row - first) / per_kv + 1 - block);
                attend_block::<L>(layer, scratch, &offsets[..count], from..end, seen);
            }
        }

        for row in 0..rows {
            // SAFETY: `sums` and `totals` have the sizes above; the output has `width` values per query row.
            unsafe {
                let total = L::splat(L::load(scratch.totals.as_ptr().add(row * LANES)).sum());
                let to = output.0.add(scratch.places[row] * width);
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

/// Takes some rows past the positions of a block, of which each sees the first `seen(row)`, never falling with the row.
#[inline(always)]
fn attend_block<L: Lanes>(
    layer: &Layer,
    scratch: &mut Scratch,
    offsets: &[usize],
    rows: Range<usize>,
    seen: impl Fn(usize) -> usize,
) {
    let (width, padded) = (layer.width, layer.width.next_multiple_of(LANES));
    // SAFETY: offsets are inside the pools, the buffers have the sizes of `Attend::run` for all rows.
    unsafe {
        transpose_keys::<L>(layer, offsets, scratch.keys.as_mut_ptr());
        let keys = scratch.keys.as_ptr();
        let scores = scratch.scores.as_mut_ptr();
        let mut row = rows.start;
        while row < rows.end {
            let query = |i: usize| layer.q.row(scratch.places[row + i]).as_ptr();
            let to = scores.add(row * BLOCK);
            if L::WIDE && row + 4 <= rows.end {
                let queries = [query(0), query(1), query(2), query(3)];
                score::<L, 4, 4>(queries, keys, width, to, layer.scale);
                row += 4;
            } else if row + 2 <= rows.end {
                let queries = [query(0), query(1)];
                score::<L, 2, 2>(queries, keys, width, to, layer.scale);
                score::<L, 2, 2>(queries, keys.add(32), width, to.add(32), layer.scale);
                row += 2;
            } else {
                score::<L, 1, 4>([query(0)], keys, width, to, layer.scale);
                row += 1;
            }
        }
        for row in rows.clone() {
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
        let mut row = rows.start;
        while row < rows.end {
            let weights = weights.add(row * BLOCK);
            let sums = sums.add(row * padded);
            if row + 4 <= rows.end {
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
