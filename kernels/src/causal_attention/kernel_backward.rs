//! Cube code of attention's gradient, with weights recomputed tile by tile.
//!
//! With weights `w_ij = exp(scale q_i . k_j - log sum_i)` and `g` the cotangent of `y`: `dv_j = sum_i w_ij g_i`,
//! `ds_ij = scale w_ij (g_i . v_j - g_i . y_i)`, `dq_i = sum_j ds_ij k_j`, `dk_j = sum_i ds_ij q_i` (Dao et al. 2022,
//! arXiv:2205.14135). Every element has one writer that adds in a fixed order.

use cubecl::prelude::*;

use super::kernel::{Sizes, load_keys, load_rows, row_keys};
use crate::cube::flash::{Tile, products};

/// `[B, T, Hq]`: products of the cotangent with the output, one unit each.
#[cube(launch_unchecked)]
pub(super) fn attention_overlap_kernel<Q: Float>(
    y: &[Q],
    cotangent: &[Q],
    overlap: &mut [f32],
    elements: usize,
    width: usize,
    #[define(Q)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let mut sum = 0.0f32;
        for column in 0..width {
            sum += f32::cast_from(y[at * width + column]) * f32::cast_from(cotangent[at * width + column]);
        }
        overlap[at] = sum;
    }
}

/// Weights and slopes of a tile of keys: `w = exp(scale q . k - log sum)`; `slopes` holds `g . v` on entry, formed by the
/// same units, and `scale w (g . v - g . y)` on return. A row sees the keys below its limit, from `first` on.
#[cube]
fn weigh(
    queries: &Shared<[f32]>,
    keys_tile: &Shared<[f32]>,
    weights: &mut Shared<[f32]>,
    slopes: &mut Shared<[f32]>,
    limits: &Shared<[u32]>,
    statistics: &Shared<[f32]>,
    first: usize,
    scale: f32,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let rows = comptime!(shape.rows());
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let mut pair = UNIT_POS as usize;
    while pair < comptime!(shape.rows() * shape.keys) {
        let row = pair / keys;
        let key = pair % keys;
        let mut score = 0.0f32;
        for at in 0..width {
            score += queries[row * width + at] * keys_tile[key * stride + at];
        }
        let mut weight = 0.0f32;
        let mut slope = 0.0f32;
        if first + key < limits[row] as usize {
            weight = (score * scale - statistics[row]).exp();
            slope = scale * weight * (slopes[pair] - statistics[rows + row]);
        }
        weights[pair] = weight;
        slopes[pair] = slope;
        pair += block;
    }
}

/// For packed rows: logarithm of the softmax denominator and product of cotangent and output, and how many keys a row
/// sees (none past the last token).
#[cube]
fn load_statistics(
    log_sum_exp: &[f32],
    overlap: &[f32],
    statistics: &mut Shared<[f32]>,
    limits: &mut Shared<[u32]>,
    row: usize,
    first_head: usize,
    first_token: usize,
    prefix_length: usize,
    sizes: &Sizes,
    #[comptime] shape: Tile,
) {
    let rows = comptime!(shape.rows());
    let heads = comptime!(shape.heads);
    let unit = UNIT_POS as usize;
    if unit < rows {
        let token = first_token + unit / heads;
        let head = first_head + unit % heads;
        let mut limit = 0usize;
        let mut logarithm = 0.0f32;
        let mut product = 0.0f32;
        if token < sizes.tokens {
            limit = prefix_length + token + 1usize;
            logarithm = log_sum_exp[(row * sizes.query_heads + head) * sizes.tokens + token];
            product = overlap[(row * sizes.tokens + token) * sizes.query_heads + head];
        }
        limits[unit] = limit as u32;
        statistics[unit] = logarithm;
        statistics[rows + unit] = product;
    }
}

/// `dq_i = sum_j ds_ij k_j`, with the forward kernel's cubes.
#[cube(launch_unchecked)]
pub(super) fn attention_query_gradient_kernel<Q: Float, K: Float>(
    q: &[Q],
    k: &[K],
    v: &[K],
    prefix_k: &[K],
    prefix_v: &[K],
    prefix_lengths: &[u32],
    log_sum_exp: &[f32],
    overlap: &[f32],
    cotangent: &[Q],
    gradient: &mut [Q],
    cubes: usize,
    token_blocks: usize,
    sizes: Sizes,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
    #[define(Q, K)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let heads = comptime!(shape.heads);
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let unit = UNIT_POS as usize;
    let head_blocks = sizes.query_heads / heads;
    let first_token = (CUBE_POS % token_blocks) * comptime!(shape.tokens);
    let first_head = (CUBE_POS / token_blocks) % head_blocks * heads;
    let row = CUBE_POS / token_blocks / head_blocks;
    let key_head = first_head / (sizes.query_heads / sizes.key_heads);
    let prefix_length = prefix_lengths[row] as usize;

    let mut queries = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut cotangents = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut tile = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut statistics = Shared::<[f32]>::new_slice(comptime!(2 * shape.rows()));
    let mut limits = Shared::<[u32]>::new_slice(comptime!(shape.rows()));

    load_rows::<Q>(q, &mut queries, row, first_head, first_token, &sizes, shape, block);
    load_rows::<Q>(cotangent, &mut cotangents, row, first_head, first_token, &sizes, shape, block);
    load_statistics(
        log_sum_exp,
        overlap,
        &mut statistics,
        &mut limits,
        row,
        first_head,
        first_token,
        prefix_length,
        &sizes,
        shape,
    );
    let mut at = unit;
    while at < comptime!(shape.rows() * shape.width) {
        sums[at] = 0.0f32;
        at += block;
    }
    let end = prefix_length + min(first_token + comptime!(shape.tokens), sizes.tokens);
    let row_keys = row_keys(row, key_head, prefix_length, end, &sizes);
    let mut first = 0usize;
    while first < end {
        load_keys::<K>(v, prefix_v, &mut tile, &row_keys, first, &sizes, shape, block);
        sync_cube();
        products(&cotangents, &tile, &mut slopes, 1.0f32, shape, block);
        sync_cube();
        load_keys::<K>(k, prefix_k, &mut tile, &row_keys, first, &sizes, shape, block);
        sync_cube();
        weigh(&queries, &tile, &mut weights, &mut slopes, &limits, &statistics, first, sizes.scale, shape, block);
        sync_cube();
        let mut at = unit;
        while at < comptime!(shape.rows() * shape.width) {
            let mut sum = sums[at];
            for key in 0..keys {
                sum += slopes[(at / width) * keys + key] * tile[key * stride + at % width];
            }
            sums[at] = sum;
            at += block;
        }
        sync_cube();
        first += keys;
    }
    let mut at = unit;
    while at < comptime!(shape.rows() * shape.width) {
        let token = first_token + at / width / heads;
        let head = first_head + (at / width) % heads;
        if token < sizes.tokens {
            let place = ((row * sizes.tokens + token) * sizes.query_heads + head) * width + at % width;
            gradient[place] = Q::cast_from(sums[at]);
        }
        at += block;
    }
}

/// `dk_j = sum_i ds_ij q_i` and `dv_j = sum_i w_ij g_i`: one cube per row, key head and tile of keys walks the tokens
/// that see the tile. Results are f32, `[B, T, Hk, P]` for the segment and `[B, S, Hk, P]` for the prefix.
#[cube(launch_unchecked)]
pub(super) fn attention_key_gradient_kernel<Q: Float, K: Float>(
    q: &[Q],
    k: &[K],
    v: &[K],
    prefix_k: &[K],
    prefix_v: &[K],
    prefix_lengths: &[u32],
    log_sum_exp: &[f32],
    overlap: &[f32],
    cotangent: &[Q],
    k_gradient: &mut [f32],
    v_gradient: &mut [f32],
    prefix_k_gradient: &mut [f32],
    prefix_v_gradient: &mut [f32],
    cubes: usize,
    key_tiles: usize,
    sizes: Sizes,
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
    let tokens = comptime!(shape.tokens);
    let unit = UNIT_POS as usize;
    let first = (CUBE_POS % key_tiles) * keys;
    let key_head = (CUBE_POS / key_tiles) % sizes.key_heads;
    let row = CUBE_POS / key_tiles / sizes.key_heads;
    let heads_per_key = sizes.query_heads / sizes.key_heads;
    let prefix_length = prefix_lengths[row] as usize;
    let end = prefix_length + sizes.tokens;
    let row_keys = row_keys(row, key_head, prefix_length, end, &sizes);

    let mut queries = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut cotangents = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut value_tile = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut key_sums = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.width));
    let mut value_sums = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.width));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut statistics = Shared::<[f32]>::new_slice(comptime!(2 * shape.rows()));
    let mut limits = Shared::<[u32]>::new_slice(comptime!(shape.rows()));

    load_keys::<K>(k, prefix_k, &mut key_tile, &row_keys, first, &sizes, shape, block);
    load_keys::<K>(v, prefix_v, &mut value_tile, &row_keys, first, &sizes, shape, block);
    let mut at = unit;
    while at < comptime!(shape.keys * shape.width) {
        key_sums[at] = 0.0f32;
        value_sums[at] = 0.0f32;
        at += block;
    }
    // The first token that sees the tile, rounded down to a run of tokens.
    let mut first_run = 0usize;
    if first > prefix_length {
        first_run = (first - prefix_length) / tokens * tokens;
    }
    let mut group = 0usize;
    while group < heads_per_key {
        let first_head = key_head * heads_per_key + group;
        let mut first_token = first_run;
        while first_token < sizes.tokens && first < end {
            load_rows::<Q>(q, &mut queries, row, first_head, first_token, &sizes, shape, block);
            load_rows::<Q>(cotangent, &mut cotangents, row, first_head, first_token, &sizes, shape, block);
            load_statistics(
                log_sum_exp,
                overlap,
                &mut statistics,
                &mut limits,
                row,
                first_head,
                first_token,
                prefix_length,
                &sizes,
                shape,
            );
            sync_cube();
            products(&cotangents, &value_tile, &mut slopes, 1.0f32, shape, block);
            weigh(
                &queries,
                &key_tile,
                &mut weights,
                &mut slopes,
                &limits,
                &statistics,
                first,
                sizes.scale,
                shape,
                block,
            );
            sync_cube();
            let mut at = unit;
            while at < comptime!(shape.keys * shape.width) {
                let key = at / width;
                let column = at % width;
                let mut key_sum = key_sums[at];
                let mut value_sum = value_sums[at];
                for packed in 0..rows {
                    key_sum += slopes[packed * keys + key] * queries[packed * width + column];
                    value_sum += weights[packed * keys + key] * cotangents[packed * width + column];
                }
                key_sums[at] = key_sum;
                value_sums[at] = value_sum;
                at += block;
            }
            sync_cube();
            first_token += tokens;
        }
        group += heads;
    }

    let mut at = unit;
    while at < comptime!(shape.keys * shape.width) {
        let key = first + at / width;
        if key < prefix_length {
            let slot = row * sizes.prefix_tokens + key;
            let place = (slot * sizes.key_heads + key_head) * width + at % width;
            prefix_k_gradient[place] = key_sums[at];
            prefix_v_gradient[place] = value_sums[at];
        } else if key < end {
            let slot = row * sizes.tokens + key - prefix_length;
            let place = (slot * sizes.key_heads + key_head) * width + at % width;
            k_gradient[place] = key_sums[at];
            v_gradient[place] = value_sums[at];
        }
        at += block;
    }
}

/// One unit per element: zeroes what a row's padded prefix slots, which no cube visits, would have got.
#[cube(launch_unchecked)]
pub(super) fn attention_clear_padding_kernel(
    k_gradient: &mut [f32],
    v_gradient: &mut [f32],
    prefix_lengths: &[u32],
    elements: usize,
    prefix_tokens: usize,
    slot_size: usize,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let slot = (at / slot_size) % prefix_tokens;
        let row = at / slot_size / prefix_tokens;
        if slot >= prefix_lengths[row] as usize {
            k_gradient[at] = 0.0f32;
            v_gradient[at] = 0.0f32;
        }
    }
}
