//! The scan on the host: one task per row and head, states in registers while a block of tokens passes.
//!
//! A vector holds sixteen state rows at one column, so that sums over the state axis need no sums over lanes. Their
//! order is still that of the decode step, lane by lane and then the tree of [`Lanes::sum`]: the columns that the
//! decode step adds in lane `r` are `r`, `r + 16`, ..., which make one tile here, and tiles come in the order in which
//! the tree joins their lanes. A prompt and the same tokens one by one give the same bits.

use std::mem::MaybeUninit;

use super::cpu::{Scan, Step, prefetch, run_sized};
use crate::cpu::{DisjointMut, parallel};
use crate::simd::{Kernel, LANES, Lanes, run};

/// Tokens that pass a tile before the next tile comes.
const BLOCK: usize = 32;

/// Levels of the tree over sixteen lanes.
const LEVELS: usize = LANES.ilog2() as usize;

/// Writes all of `y` within the rows' lengths, and all of every row's outgoing state.
pub(super) fn forward(scan: &Scan, y: DisjointMut<MaybeUninit<f32>>, state: DisjointMut<MaybeUninit<f32>>) {
    parallel(scan.batch * scan.heads, |task| {
        let (row, head) = (task / scan.heads, task % scan.heads);
        let size = scan.width * scan.state_size;
        // SAFETY: every task has its own state.
        let state = unsafe { state.slice(task * size, size) };
        run(Forward { scan, row, head, state, y });
    });
}

struct Forward<'a> {
    scan: &'a Scan,
    row: usize,
    head: usize,
    /// `[P, N]`, outgoing.
    state: &'a mut [MaybeUninit<f32>],
    y: DisjointMut<'a, MaybeUninit<f32>>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        run_sized!(self, L)
    }
}

/// Columns `r`, `r + 16`, ... of `R` times sixteen state rows.
type Tile<L, const V: usize, const R: usize> = [[L; V]; R];

impl Forward<'_> {
    #[inline(always)]
    fn run_sized<L: Lanes, const V: usize, const R: usize>(self) {
        let Self { scan, row, head, state, y } = self;
        let zero = L::splat(0.0);
        let skip = L::splat(scan.d[head]);
        let steps = scan.steps(row, head);
        let mut b = vec![0.0; LANES * BLOCK * V];
        let mut c = vec![0.0; LANES * BLOCK * V];
        let mut weighted = [[zero; R]; BLOCK];
        // What is summed so far, one entry for each level of the tree that waits for its other half.
        let mut sums = [[[zero; R]; BLOCK]; LEVELS];
        let mut tiles: Vec<[Tile<L, V, R>; LANES]> = load_tiles(scan.incoming(row, head), scan.state_size);
        for (start, steps) in (0..).step_by(BLOCK).zip(steps.chunks(BLOCK)) {
            split_columns::<L, V>(scan, &scan.b, [row, start, head], steps.len(), &mut b);
            split_columns::<L, V>(scan, &scan.c, [row, start, head], steps.len(), &mut c);
            // Each turn asks for some of the next block.
            let mut ahead = start + BLOCK..scan.lengths[row].min(start + 2 * BLOCK);
            let asked_per_turn = BLOCK.div_ceil(LANES * tiles.len());
            for (first, tiles) in (0..).step_by(R * LANES).zip(&mut tiles) {
                for (token, step) in steps.iter().enumerate() {
                    let x = &scan.x[scan.head_place(row, start + token, head)..][..scan.width];
                    for (r, weighted) in weighted[token].iter_mut().enumerate() {
                        *weighted = load_rows::<L>(x, first + r * LANES).mul(L::splat(step.size));
                    }
                }
                for turn in 0..LANES {
                    let lane = turn.reverse_bits() >> (usize::BITS as usize - LEVELS);
                    // Lanes join like the carries of a binary counter.
                    let (depth, joined) = (turn.count_ones() as usize, turn.trailing_ones() as usize);
                    let waiting = depth - joined..depth;
                    let columns = lane * BLOCK * V..(lane + 1) * BLOCK * V;
                    let columns = b[columns.clone()].chunks_exact(V).zip(c[columns].chunks_exact(V));
                    for token in ahead.by_ref().take(asked_per_turn) {
                        prefetch::<L>(&scan.b, scan.group_place(row, token, head), scan.state_size);
                        prefetch::<L>(&scan.c, scan.group_place(row, token, head), scan.state_size);
                        prefetch::<L>(&scan.x, scan.head_place(row, token, head), scan.width);
                    }
                    let mut tile = tiles[lane];
                    for (token, (step, (b, c))) in steps.iter().zip(columns).enumerate() {
                        let mut sum = advance(&mut tile, step, &weighted[token], b, c);
                        for level in waiting.clone().rev() {
                            for r in 0..R {
                                sum[r] = sums[level][token][r].add(sum[r]);
                            }
                        }
                        sums[waiting.start][token] = sum;
                    }
                    tiles[lane] = tile;
                }
                for (token, sums) in sums[0][..steps.len()].iter().enumerate() {
                    let place = scan.head_place(row, start + token, head);
                    let x = &scan.x[place..][..scan.width];
                    // SAFETY: this task has the row and head to itself.
                    let y = unsafe { y.slice(place, scan.width) };
                    for (r, sum) in sums.iter().enumerate() {
                        let at = first + r * LANES;
                        store_rows(skip.mul_add(load_rows(x, at), *sum), y, at);
                    }
                }
            }
        }
        store_tiles(&tiles, state, scan.state_size);
    }
}

/// The columns of each tile together, `[16, BLOCK, V]`, of what a head sees in a block of `b` or `c`.
#[inline(always)]
fn split_columns<L: Lanes, const V: usize>(
    scan: &Scan,
    values: &[f32],
    [row, start, head]: [usize; 3],
    count: usize,
    columns: &mut [f32],
) {
    for first in (0..count).step_by(LANES / V) {
        let mut block = [L::splat(0.0); LANES];
        for token in first..count.min(first + LANES / V) {
            let from = scan.group_place(row, start + token, head);
            for v in 0..V {
                block[(token - first) * V + v] = load_rows(&values[from..from + scan.state_size], v * LANES);
            }
        }
        for (lane, vector) in L::transpose(block).into_iter().enumerate() {
            let to = &mut columns[(lane * BLOCK + first) * V..][..LANES];
            // SAFETY: sixteen values.
            unsafe { vector.store(to.as_mut_ptr()) };
        }
    }
}

/// `S = decay S + (dt x) B`; returns the tile's part of `S . C`.
#[inline(always)]
fn advance<L: Lanes, const V: usize, const R: usize>(
    tile: &mut Tile<L, V, R>,
    step: &Step,
    weighted: &[L; R],
    b: &[f32],
    c: &[f32],
) -> [L; R] {
    let decay = L::splat(step.decay);
    let mut sum = [L::splat(0.0); R];
    for v in 0..V {
        let (b, c) = (L::splat(b[v]), L::splat(c[v]));
        for r in 0..R {
            let state = tile[r][v].mul_add(decay, weighted[r].mul(b));
            tile[r][v] = state;
            sum[r] = state.mul_add(c, sum[r]);
        }
    }
    sum
}

/// Sixteen values from `first` on, zeros behind the last.
#[inline(always)]
fn load_rows<L: Lanes>(values: &[f32], first: usize) -> L {
    let values = &values[first.min(values.len())..];
    // SAFETY: as many values as there are, sixteen at most.
    unsafe { L::load_first(values.as_ptr(), values.len().min(LANES)) }
}

/// Writes what [`load_rows`] would read.
#[inline(always)]
fn store_rows<L: Lanes>(vector: L, values: &mut [MaybeUninit<f32>], first: usize) {
    let from = first.min(values.len());
    let values = &mut values[from..];
    // SAFETY: as many values as there are, sixteen at most.
    unsafe { vector.store_first(values.as_mut_ptr().cast(), values.len().min(LANES)) }
}

/// The tiles of a `[P, N]` state, by groups of rows; rows and columns behind the last are zero.
#[inline(always)]
fn load_tiles<L: Lanes, const V: usize, const R: usize>(
    state: &[f32],
    state_size: usize,
) -> Vec<[Tile<L, V, R>; LANES]> {
    let zero = L::splat(0.0);
    let width = state.len() / state_size;
    let mut groups = vec![[[[zero; V]; R]; LANES]; width.div_ceil(R * LANES)];
    for (group, rows) in groups.iter_mut().zip(state.chunks(R * LANES * state_size)) {
        for (r, rows) in rows.chunks(LANES * state_size).enumerate() {
            for v in 0..V {
                let mut block = [zero; LANES];
                for (vector, row) in block.iter_mut().zip(rows.chunks_exact(state_size)) {
                    *vector = load_rows(row, v * LANES);
                }
                for (tile, column) in group.iter_mut().zip(L::transpose(block)) {
                    tile[r][v] = column;
                }
            }
        }
    }
    groups
}

/// Writes the tiles back to a `[P, N]` state.
#[inline(always)]
fn store_tiles<L: Lanes, const V: usize, const R: usize>(
    groups: &[[Tile<L, V, R>; LANES]],
    state: &mut [MaybeUninit<f32>],
    state_size: usize,
) {
    for (group, rows) in groups.iter().zip(state.chunks_mut(R * LANES * state_size)) {
        for (r, rows) in rows.chunks_mut(LANES * state_size).enumerate() {
            for v in 0..V {
                let mut block = [L::splat(0.0); LANES];
                for (column, tile) in block.iter_mut().zip(group) {
                    *column = tile[r][v];
                }
                for (vector, row) in L::transpose(block).into_iter().zip(rows.chunks_exact_mut(state_size)) {
                    store_rows(vector, row, v * LANES);
                }
            }
        }
    }
}
