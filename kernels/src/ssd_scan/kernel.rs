//! Cube code of the scan: one cube per row, head and tile of the head's width walks the chunks in order.
//!
//! Inside a chunk the scan is a masked attention with decaying weights; the state of the tile stays in shared memory
//! between chunks. With `L_i` the running sum of `dt A` in the chunk:
//!
//! `y_i = sum_{j <= i} exp(L_i - L_j) dt_j (C_i . B_j) x_j + exp(L_i) S C_i + d x_i`
//!
//! `S' = exp(L_last) S + sum_j exp(L_last - L_j) dt_j x_j B_j^T`
//!
//! Exponents are never positive.

use cubecl::prelude::*;

use crate::cube::math::softplus;

/// Sizes of a chunk. Functions of the state size only, so that a split of a sequence at a multiple of the chunk gives
/// the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Chunk {
    /// Tokens per chunk.
    pub(super) tokens: usize,
    /// Rows of the state per cube.
    pub(super) rows: usize,
    /// Columns of the state.
    pub(super) state: usize,
}

impl Chunk {
    /// Numbers between neighbouring rows of projections and states; odd, against bank conflicts.
    pub(super) fn stride(&self) -> usize {
        self.state | 1
    }
}

/// Units of a cube.
pub(super) const UNITS: usize = 128;

/// Sizes of the scan.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) groups: usize,
    pub(super) state_batch: usize,
    pub(super) dt_low: f32,
    pub(super) dt_high: f32,
}

/// Step sizes of a chunk and the running sum of their products with the decay rate; zero past the row's length.
#[cube]
pub(super) fn load_steps(
    dt: &[f32],
    steps: &mut Shared<[f32]>,
    running: &mut Shared<[f32]>,
    row: usize,
    head: usize,
    first: usize,
    length: usize,
    bias: f32,
    rate: f32,
    sizes: &Sizes,
    #[comptime] chunk: Chunk,
) {
    let count = comptime!(chunk.tokens);
    let unit = UNIT_POS as usize;
    if unit < count {
        let token = first + unit;
        let mut step = 0.0f32;
        if token < length {
            let raw = dt[(row * sizes.tokens + token) * sizes.heads + head] + bias;
            step = min(max(softplus(raw), sizes.dt_low), sizes.dt_high);
        }
        steps[unit] = step;
    }
    sync_cube();
    if unit == 0usize {
        let mut sum = 0.0f32;
        for at in 0..count {
            sum += steps[at] * rate;
            running[at] = sum;
        }
    }
}

/// Stages a chunk's `[tokens, N]` projections of one group; zero past the row's length.
#[cube]
pub(super) fn load_projection<F: Float>(
    projection: &[F],
    staged: &mut Shared<[f32]>,
    row: usize,
    group: usize,
    first: usize,
    length: usize,
    sizes: &Sizes,
    #[comptime] chunk: Chunk,
) {
    let state = comptime!(chunk.state);
    let stride = comptime!(chunk.stride());
    let mut at = UNIT_POS as usize;
    while at < comptime!(chunk.tokens * chunk.state) {
        let token = first + at / state;
        let n = at % state;
        let mut value = 0.0f32;
        if token < length {
            value = f32::cast_from(projection[((row * sizes.tokens + token) * sizes.groups + group) * state + n]);
        }
        staged[(at / state) * stride + n] = value;
        at += UNITS;
    }
}

/// Stages a chunk's `[tokens, rows]` of a `[B, T, H, P]` tensor; zero past the row's length and the head's width.
#[cube]
pub(super) fn load_vectors<F: Float>(
    vectors: &[F],
    staged: &mut Shared<[f32]>,
    row: usize,
    head: usize,
    first: usize,
    first_p: usize,
    length: usize,
    sizes: &Sizes,
    #[comptime] chunk: Chunk,
) {
    let rows = comptime!(chunk.rows);
    let mut at = UNIT_POS as usize;
    while at < comptime!(chunk.tokens * chunk.rows) {
        let token = first + at / rows;
        let p = first_p + at % rows;
        let mut value = 0.0f32;
        if token < length && p < sizes.width {
            value = f32::cast_from(vectors[((row * sizes.tokens + token) * sizes.heads + head) * sizes.width + p]);
        }
        staged[at] = value;
        at += UNITS;
    }
}

/// Stages a tile of the incoming state.
#[cube]
pub(super) fn load_state<F: Float>(
    state: &[F],
    staged: &mut Shared<[f32]>,
    row: usize,
    head: usize,
    first_p: usize,
    sizes: &Sizes,
    #[comptime] chunk: Chunk,
) {
    let size = comptime!(chunk.state);
    let stride = comptime!(chunk.stride());
    let mut at = UNIT_POS as usize;
    while at < comptime!(chunk.rows * chunk.state) {
        let p = first_p + at / size;
        let n = at % size;
        let mut value = 0.0f32;
        if p < sizes.width {
            value = f32::cast_from(state[((row * sizes.heads + head) * sizes.width + p) * size + n]);
        }
        staged[(at / size) * stride + n] = value;
        at += UNITS;
    }
}

/// Moves a staged state over a chunk. The steps' weights must be in `weights`.
#[cube]
pub(super) fn advance(
    state: &mut Shared<[f32]>,
    b: &Shared<[f32]>,
    x: &Shared<[f32]>,
    weights: &Shared<[f32]>,
    decay: f32,
    #[comptime] chunk: Chunk,
) {
    let rows = comptime!(chunk.rows);
    let size = comptime!(chunk.state);
    let stride = comptime!(chunk.stride());
    let mut at = UNIT_POS as usize;
    while at < comptime!(chunk.rows * chunk.state) {
        let p = at / size;
        let n = at % size;
        let mut sum = state[p * stride + n] * decay;
        for token in 0..comptime!(chunk.tokens) {
            sum += weights[token] * x[token * rows + p] * b[token * stride + n];
        }
        state[p * stride + n] = sum;
        at += UNITS;
    }
}

#[cube(launch_unchecked)]
pub(super) fn ssd_scan_kernel<X: Float, B: Float, S: Float>(
    x: &[X],
    dt: &[f32],
    a_log: &[f32],
    b: &[B],
    c: &[B],
    d: &[f32],
    dt_bias: &[f32],
    state: &[S],
    lengths: &[u32],
    y: &mut [X],
    outgoing: &mut [S],
    cubes: usize,
    tiles: usize,
    sizes: Sizes,
    #[comptime] chunk: Chunk,
    #[define(X, B, S)] _dtypes: [ElemType; 3],
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let count = comptime!(chunk.tokens);
    let rows = comptime!(chunk.rows);
    let size = comptime!(chunk.state);
    let stride = comptime!(chunk.stride());
    let unit = UNIT_POS as usize;
    let first_p = (CUBE_POS % tiles) * rows;
    let head = (CUBE_POS / tiles) % sizes.heads;
    let row = CUBE_POS / tiles / sizes.heads;
    let group = head / (sizes.heads / sizes.groups);
    let length = lengths[row] as usize;
    let rate = -a_log[head].exp();
    let bias = dt_bias[head];
    let skip = d[head];

    let mut staged_b = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.stride()));
    let mut staged_c = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.stride()));
    let mut staged_x = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut tile = Shared::<[f32]>::new_slice(comptime!(chunk.rows * chunk.stride()));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.tokens));
    let mut steps = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut running = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    load_state::<S>(state, &mut tile, row % sizes.state_batch, head, first_p, &sizes, chunk);

    let mut first = 0usize;
    while first < sizes.tokens {
        load_projection::<B>(b, &mut staged_b, row, group, first, length, &sizes, chunk);
        load_projection::<B>(c, &mut staged_c, row, group, first, length, &sizes, chunk);
        load_vectors::<X>(x, &mut staged_x, row, head, first, first_p, length, &sizes, chunk);
        load_steps(dt, &mut steps, &mut running, row, head, first, length, bias, rate, &sizes, chunk);
        sync_cube();
        let total = running[count - 1usize];
        if unit < count {
            weights[unit] = (total - running[unit]).exp() * steps[unit];
        }
        let mut at = unit;
        while at < comptime!(chunk.tokens * chunk.tokens) {
            let i = at / count;
            let j = at % count;
            let mut score = 0.0f32;
            if j <= i {
                let mut sum = 0.0f32;
                for n in 0..size {
                    sum += staged_c[i * stride + n] * staged_b[j * stride + n];
                }
                score = sum * (running[i] - running[j]).exp() * steps[j];
            }
            scores[at] = score;
            at += UNITS;
        }
        sync_cube();
        let mut at = unit;
        while at < comptime!(chunk.tokens * chunk.rows) {
            let i = at / rows;
            let p = at % rows;
            let token = first + i;
            if token < sizes.tokens && first_p + p < sizes.width {
                let mut across = 0.0f32;
                for n in 0..size {
                    across += staged_c[i * stride + n] * tile[p * stride + n];
                }
                let mut sum = across * running[i].exp() + skip * staged_x[at];
                for j in 0..i + 1usize {
                    sum += scores[i * count + j] * staged_x[j * rows + p];
                }
                let place = ((row * sizes.tokens + token) * sizes.heads + head) * sizes.width + first_p + p;
                y[place] = X::cast_from(sum);
            }
            at += UNITS;
        }
        sync_cube();
        advance(&mut tile, &staged_b, &staged_x, &weights, total.exp(), chunk);
        sync_cube();
        first += count;
    }

    let mut at = unit;
    while at < comptime!(chunk.rows * chunk.state) {
        let p = first_p + at / size;
        if p < sizes.width {
            let place = ((row * sizes.heads + head) * sizes.width + p) * size + at % size;
            outgoing[place] = S::cast_from(tile[(at / size) * stride + at % size]);
        }
        at += UNITS;
    }
}
