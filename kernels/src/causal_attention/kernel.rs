//! Cube code of attention: one cube per row, block of query heads of one key head, and run of tokens.
//!
//! Keys are numbered `0..` over the row's valid prefix and then the segment; tiles of keys start at multiples of their
//! size.

use cubecl::prelude::*;

use crate::cube::flash::{Tile, accumulate, online_softmax, products, start};

/// Sizes of the attention.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) query_heads: usize,
    pub(super) key_heads: usize,
    pub(super) prefix_batch: usize,
    pub(super) prefix_tokens: usize,
    pub(super) scale: f32,
}

/// Where the keys (or values) of a row and key head lie.
#[derive(CubeType)]
pub(super) struct RowKeys {
    key_head: usize,
    prefix_length: usize,
    /// One more than the last key.
    end: usize,
    /// Slots of the row's first token in the prefix and in the segment.
    prefix_slot: usize,
    own_slot: usize,
}

#[cube]
pub(super) fn row_keys(row: usize, key_head: usize, prefix_length: usize, end: usize, sizes: &Sizes) -> RowKeys {
    RowKeys {
        key_head,
        prefix_length,
        end,
        prefix_slot: (row % sizes.prefix_batch) * sizes.prefix_tokens,
        own_slot: row * sizes.tokens,
    }
}

/// Stages a tile of a row's keys (or values), from `first`; zero past the last.
#[cube]
pub(super) fn load_keys<F: Float>(
    own: &[F],
    prefix: &[F],
    tile: &mut Shared<[f32]>,
    keys: &RowKeys,
    first: usize,
    sizes: &Sizes,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let mut at = UNIT_POS as usize;
    while at < comptime!(shape.keys * shape.width) {
        let key = first + at / width;
        let mut value = 0.0f32;
        if key < keys.end {
            if key < keys.prefix_length {
                let slot = keys.prefix_slot + key;
                value = f32::cast_from(prefix[(slot * sizes.key_heads + keys.key_head) * width + at % width]);
            } else {
                let slot = keys.own_slot + key - keys.prefix_length;
                value = f32::cast_from(own[(slot * sizes.key_heads + keys.key_head) * width + at % width]);
            }
        }
        tile[(at / width) * stride + at % width] = value;
        at += block;
    }
}

/// Stages a tensor `[B, T, Hq, P]` for the packed rows `token * heads + head` of a cube; zero past the last token.
#[cube]
pub(super) fn load_rows<F: Float>(
    values: &[F],
    staged: &mut Shared<[f32]>,
    row: usize,
    first_head: usize,
    first_token: usize,
    sizes: &Sizes,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let heads = comptime!(shape.heads);
    let width = comptime!(shape.width);
    let mut at = UNIT_POS as usize;
    while at < comptime!(shape.rows() * shape.width) {
        let token = first_token + at / width / heads;
        let head = first_head + (at / width) % heads;
        let mut value = 0.0f32;
        if token < sizes.tokens {
            value =
                f32::cast_from(values[((row * sizes.tokens + token) * sizes.query_heads + head) * width + at % width]);
        }
        staged[at] = value;
        at += block;
    }
}

/// Attention and `[B, Hq, T]` logarithms of the softmax denominators.
#[cube(launch_unchecked)]
pub(super) fn attention_kernel<Q: Float, K: Float>(
    q: &[Q],
    k: &[K],
    v: &[K],
    prefix_k: &[K],
    prefix_v: &[K],
    prefix_lengths: &[u32],
    y: &mut [Q],
    log_sum_exp: &mut [f32],
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
    let rows = comptime!(shape.rows());
    let heads = comptime!(shape.heads);
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let unit = UNIT_POS as usize;
    let head_blocks = sizes.query_heads / heads;
    let first_token = (CUBE_POS % token_blocks) * comptime!(shape.tokens);
    let first_head = (CUBE_POS / token_blocks) % head_blocks * heads;
    let row = CUBE_POS / token_blocks / head_blocks;
    let key_head = first_head / (sizes.query_heads / sizes.key_heads);
    let prefix_length = prefix_lengths[row] as usize;

    let mut queries = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut tile = Shared::<[f32]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.keys));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.rows() * shape.width));
    let mut state = Shared::<[f32]>::new_slice(comptime!(3 * shape.rows()));
    let mut limits = Shared::<[u32]>::new_slice(comptime!(shape.rows()));

    load_rows::<Q>(q, &mut queries, row, first_head, first_token, &sizes, shape, block);
    let end = prefix_length + min(first_token + comptime!(shape.tokens), sizes.tokens);
    let row_keys = row_keys(row, key_head, prefix_length, end, &sizes);
    if unit < rows {
        limits[unit] = min(prefix_length + first_token + unit / heads + 1usize, end) as u32;
    }
    start(&mut state, &mut sums, shape, block);
    sync_cube();
    let mut first = 0usize;
    while first < end {
        load_keys::<K>(k, prefix_k, &mut tile, &row_keys, first, &sizes, shape, block);
        sync_cube();
        products(&queries, &tile, &mut scores, sizes.scale, shape, block);
        sync_cube();
        online_softmax(&mut scores, &limits, &mut state, first, shape);
        load_keys::<K>(v, prefix_v, &mut tile, &row_keys, first, &sizes, shape, block);
        sync_cube();
        accumulate(&scores, &tile, &state, &mut sums, shape, block);
        sync_cube();
        first += keys;
    }

    let mut at = unit;
    while at < comptime!(shape.rows() * shape.width) {
        let packed = at / width;
        let token = first_token + packed / heads;
        let head = first_head + packed % heads;
        if token < sizes.tokens {
            let place = ((row * sizes.tokens + token) * sizes.query_heads + head) * width + at % width;
            y[place] = Q::cast_from(sums[at] / state[rows + packed]);
        }
        at += block;
    }
    if unit < rows {
        let token = first_token + unit / heads;
        let head = first_head + unit % heads;
        if token < sizes.tokens {
            log_sum_exp[(row * sizes.query_heads + head) * sizes.tokens + token] =
                state[unit] + state[rows + unit].ln();
        }
    }
}
