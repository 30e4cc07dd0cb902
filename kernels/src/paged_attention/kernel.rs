//! Cube code of paged attention.

use cubecl::prelude::*;

use super::launch::TASK_FIELDS;
use crate::cube::flash::{Tile, accumulate, online_softmax, products, start};
use crate::cube::math::LOWEST;

/// One cube per task, block of query heads, and split.
#[cube(launch_unchecked)]
pub(super) fn paged_attention_split_kernel<Q: Float, K: Float>(
    q: &[Q],
    k_pool: &[K],
    v_pool: &[K],
    tasks: &[u32],
    tables: &[u32],
    partial: &mut [f32],
    softmax: &mut [f32],
    cubes: usize,
    splits: usize,
    query_heads: usize,
    kv_heads: usize,
    page_size: usize,
    scale: f32,
    #[comptime] split_size: usize,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
    #[define(Q, K)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let rows = comptime!(shape.rows());
    let heads = comptime!(shape.heads);
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let unit = UNIT_POS as usize;
    let head_blocks = query_heads / heads;
    let split = CUBE_POS % splits;
    let head_block = (CUBE_POS / splits) % head_blocks;
    let task = CUBE_POS / splits / head_blocks * TASK_FIELDS;
    let first_row = tasks[task] as usize;
    let tokens = tasks[task + 1usize] as usize;
    let table = tasks[task + 2usize] as usize;
    let visible = tasks[task + 3usize] as usize;
    let kv_head = head_block * heads / (query_heads / kv_heads);

    let mut queries = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut tile = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut state = Shared::<[f32]>::new_slice(comptime!(3 * shape.rows()));
    let mut limits = Shared::<[u32]>::new_slice(comptime!(shape.rows()));

    // Packed row `token * heads + head`.
    let mut at = unit;
    while at < comptime!(shape.rows() * shape.width) {
        let token = at / width / heads;
        let head = head_block * heads + (at / width) % heads;
        let mut value = 0.0f32;
        if token < tokens {
            value = f32::cast_from(q[((first_row + token) * query_heads + head) * width + at % width]);
        }
        queries[at] = value;
        at += block;
    }
    let from = split * split_size;
    let mut end = 0usize;
    if visible > 0usize {
        end = min(visible + tokens - 1usize, from + split_size);
    }
    if unit < rows {
        let token = unit / heads;
        let mut limit = 0usize;
        if token < tokens && visible > 0usize {
            limit = min(visible + token, from + split_size);
        }
        limits[unit] = limit as u32;
    }
    start(&mut state, &mut sums, shape, block);
    sync_cube();

    let mut first = from;
    while first < end {
        let mut at = unit;
        while at < comptime!(shape.keys * shape.width) {
            let key = at / width;
            let position = first + key;
            let mut value = 0.0f32;
            if position < end {
                let slot = tables[table + position / page_size] as usize * page_size + position % page_size;
                value = f32::cast_from(k_pool[(slot * kv_heads + kv_head) * width + at % width]);
            }
            tile[key * stride + at % width] = value;
            at += block;
        }
        sync_cube();
        products(&queries, &tile, &mut scores, scale, shape, block);
        sync_cube();
        online_softmax(&mut scores, &limits, &mut state, first, shape);
        let mut at = unit;
        while at < comptime!(shape.keys * shape.width) {
            let key = at / width;
            let position = first + key;
            let mut value = 0.0f32;
            if position < end {
                let slot = tables[table + position / page_size] as usize * page_size + position % page_size;
                value = f32::cast_from(v_pool[(slot * kv_heads + kv_head) * width + at % width]);
            }
            tile[key * stride + at % width] = value;
            at += block;
        }
        sync_cube();
        accumulate(&scores, &tile, &state, &mut sums, shape, block);
        sync_cube();
        first += keys;
    }

    let mut at = unit;
    while at < comptime!(shape.rows() * shape.width) {
        partial[CUBE_POS * rows * width + at] = sums[at];
        at += block;
    }
    if unit < rows {
        softmax[CUBE_POS * 2usize * rows + unit] = state[unit];
        softmax[CUBE_POS * 2usize * rows + rows + unit] = state[rows + unit];
    }
}

/// One cube per task and block of query heads: adds the splits, first to last, and divides by the sums of weights.
#[cube(launch_unchecked)]
pub(super) fn paged_attention_combine_kernel<Q: Float>(
    partial: &[f32],
    softmax: &[f32],
    tasks: &[u32],
    y: &mut [Q],
    cubes: usize,
    splits: usize,
    query_heads: usize,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
    #[define(Q)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let rows = comptime!(shape.rows());
    let heads = comptime!(shape.heads);
    let width = comptime!(shape.width);
    let head_blocks = query_heads / heads;
    let head_block = CUBE_POS % head_blocks;
    let task = CUBE_POS / head_blocks * TASK_FIELDS;
    let first_row = tasks[task] as usize;
    let tokens = tasks[task + 1usize] as usize;
    let mut at = UNIT_POS as usize;
    while at < comptime!(shape.rows() * shape.width) {
        let row = at / width;
        let token = row / heads;
        if token < tokens {
            let mut highest = f32::new(LOWEST);
            for split in 0..splits {
                let place = (CUBE_POS * splits + split) * 2usize * rows + row;
                highest = max(highest, softmax[place]);
            }
            let mut total = 0.0f32;
            let mut sum = 0.0f32;
            for split in 0..splits {
                let cube = CUBE_POS * splits + split;
                let place = cube * 2usize * rows + row;
                let factor = (softmax[place] - highest).exp();
                total += softmax[place + rows] * factor;
                sum += partial[cube * rows * width + at] * factor;
            }
            let mut value = 0.0f32;
            if total > 0.0f32 {
                value = sum / total;
            }
            let head = head_block * heads + row % heads;
            y[((first_row + token) * query_heads + head) * width + at % width] = Q::cast_from(value);
        }
        at += block;
    }
}
