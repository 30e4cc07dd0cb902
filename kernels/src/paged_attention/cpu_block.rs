//! The arithmetic of one block of positions, the same in decode, prefill and training.

use crate::simd::{self, LANES, Lanes};

/// Positions per block.
pub(crate) const BLOCK: usize = 64;

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
        let mut total = L::load(totals.as_ptr());
        // Otherwise the factor is one.
        if block_largest > *largest {
            let rescale = L::splat(simd::exp(*largest - block_largest));
            *largest = block_largest;
            total = total.mul(rescale);
            for sum in sums.chunks_exact_mut(LANES) {
                L::load(sum.as_ptr()).mul(rescale).store(sum.as_mut_ptr());
            }
        }
        let new = *largest;
        for v in 0..BLOCK / LANES {
            let weight = L::load(scores.as_ptr().add(v * LANES)).sub(L::splat(new)).exp();
            weight.store(scores.as_mut_ptr().add(v * LANES));
            total = total.add(weight);
        }
        total.store(totals.as_mut_ptr());
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
