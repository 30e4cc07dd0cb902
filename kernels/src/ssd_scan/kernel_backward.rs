//! Cube code of the scan's gradient: one cube per row and head, chunks in reverse.
//!
//! With the names of the forward kernel, `E_i = exp(L_i)`, `w_j = exp(L_last - L_j)`, `g` the cotangent of `y`, `G` that
//! of the state after the chunk, and `M_ij = exp(L_i - L_j) dt_j (C_i . B_j)(g_i . x_j)` for `j <= i`:
//!
//! - `dC_i = sum_{j <= i} exp(L_i - L_j) dt_j (g_i . x_j) B_j + E_i S^T g_i`
//! - `dB_j = sum_{i >= j} exp(L_i - L_j) dt_j (g_i . x_j) C_i + w_j dt_j G^T x_j`
//! - `u_j = sum_{i >= j} exp(L_i - L_j) (C_i . B_j) g_i + w_j G B_j`, `dx_j = dt_j u_j + d g_j`
//! - `dL_j = sum_k M_jk - sum_i M_ij + E_j g_j . S C_j - w_j dt_j x_j . G B_j`, and to the last one also
//!   `sum_j w_j dt_j x_j . G B_j + E_last <G, S>`
//! - `d dt_j = x_j . u_j + A sum_{i >= j} dL_i`, `dA = sum_j dt_j sum_{i >= j} dL_i`
//! - `dS = E_last G + sum_i E_i g_i C_i^T`
//!
//! A first walk over the chunks keeps the states they start from. All sums have a fixed order.

use cubecl::prelude::*;

use super::kernel::{Chunk, Sizes, UNITS, advance, load_projection, load_state, load_steps, load_vectors};
use crate::cube::math::{block_sum, sigmoid, softplus};

#[cube(launch_unchecked)]
pub(super) fn ssd_scan_reverse_kernel<X: Float, B: Float, S: Float>(
    x: &[X],
    dt: &[f32],
    a_log: &[f32],
    b: &[B],
    c: &[B],
    d: &[f32],
    dt_bias: &[f32],
    state: &[S],
    lengths: &[u32],
    y_cotangent: &[X],
    state_cotangent: &[S],
    entering: &mut [f32],
    x_gradient: &mut [f32],
    b_partial: &mut [f32],
    c_partial: &mut [f32],
    per_token: &mut [f32],
    state_gradient: &mut [f32],
    first_pair: usize,
    pairs: usize,
    chunks: usize,
    has_y: u32,
    has_state: u32,
    sizes: Sizes,
    #[comptime] chunk: Chunk,
    #[define(X, B, S)] _dtypes: [ElemType; 3],
) {
    if CUBE_POS >= pairs {
        terminate!();
    }
    let count = comptime!(chunk.tokens);
    let rows = comptime!(chunk.rows);
    let size = comptime!(chunk.state);
    let stride = comptime!(chunk.stride());
    let unit = UNIT_POS as usize;
    let local = CUBE_POS;
    let head = (first_pair + local) % sizes.heads;
    let row = (first_pair + local) / sizes.heads;
    let group = head / (sizes.heads / sizes.groups);
    let length = lengths[row] as usize;
    let rate = -a_log[head].exp();
    let bias = dt_bias[head];
    let skip = d[head];

    let mut staged_b = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.stride()));
    let mut staged_c = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.stride()));
    let mut staged_x = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut staged_g = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut before = Shared::<[f32]>::new_slice(comptime!(chunk.rows * chunk.stride()));
    let mut after = Shared::<[f32]>::new_slice(comptime!(chunk.rows * chunk.stride()));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.tokens));
    let mut products = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.tokens));
    let mut decays = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.tokens));
    let mut inputs = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut added = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut read = Shared::<[f32]>::new_slice(comptime!(chunk.tokens * chunk.rows));
    let mut steps = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut running = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut slopes = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut totals = Shared::<[f32]>::new_slice(comptime!(chunk.tokens));
    let mut overlaps = Shared::<[f32]>::new_slice(comptime!(chunk.rows));

    let mut first_p = 0usize;
    while first_p < sizes.width {
        load_state::<S>(state, &mut before, row % sizes.state_batch, head, first_p, &sizes, chunk);
        sync_cube();
        for index in 0..chunks {
            let first = index * count;
            let mut at = unit;
            while at < comptime!(chunk.rows * chunk.state) {
                let p = first_p + at / size;
                if p < sizes.width {
                    let place = ((local * chunks + index) * sizes.width + p) * size + at % size;
                    entering[place] = before[(at / size) * stride + at % size];
                }
                at += UNITS;
            }
            load_projection::<B>(b, &mut staged_b, row, group, first, length, &sizes, chunk);
            load_vectors::<X>(x, &mut staged_x, row, head, first, first_p, length, &sizes, chunk);
            load_steps(dt, &mut steps, &mut running, row, head, first, length, bias, rate, &sizes, chunk);
            sync_cube();
            let total = running[count - 1usize];
            if unit < count {
                weights[unit] = (total - running[unit]).exp() * steps[unit];
            }
            sync_cube();
            advance(&mut before, &staged_b, &staged_x, &weights, total.exp(), chunk);
            sync_cube();
        }

        // `after` is the cotangent of the state after the chunk.
        if has_state != 0u32 {
            load_state::<S>(state_cotangent, &mut after, row, head, first_p, &sizes, chunk);
        } else {
            let mut at = unit;
            while at < comptime!(chunk.rows * chunk.stride()) {
                after[at] = 0.0f32;
                at += UNITS;
            }
        }
        for backwards in 0..chunks {
            let index = chunks - 1usize - backwards;
            let first = index * count;
            load_projection::<B>(b, &mut staged_b, row, group, first, length, &sizes, chunk);
            load_projection::<B>(c, &mut staged_c, row, group, first, length, &sizes, chunk);
            load_vectors::<X>(x, &mut staged_x, row, head, first, first_p, length, &sizes, chunk);
            if has_y != 0u32 {
                load_vectors::<X>(y_cotangent, &mut staged_g, row, head, first, first_p, length, &sizes, chunk);
            } else {
                let mut at = unit;
                while at < comptime!(chunk.tokens * chunk.rows) {
                    staged_g[at] = 0.0f32;
                    at += UNITS;
                }
            }
            let mut at = unit;
            while at < comptime!(chunk.rows * chunk.state) {
                let p = first_p + at / size;
                let mut value = 0.0f32;
                if p < sizes.width {
                    value = entering[((local * chunks + index) * sizes.width + p) * size + at % size];
                }
                before[(at / size) * stride + at % size] = value;
                at += UNITS;
            }
            load_steps(dt, &mut steps, &mut running, row, head, first, length, bias, rate, &sizes, chunk);
            sync_cube();
            let total = running[count - 1usize];
            if unit < count {
                weights[unit] = (total - running[unit]).exp();
            }
            // Pairs of tokens: `exp(L_i - L_j) C_i . B_j`, `dt_j g_i . x_j`, and the decay itself.
            let mut at = unit;
            while at < comptime!(chunk.tokens * chunk.tokens) {
                let i = at / count;
                let j = at % count;
                let mut score = 0.0f32;
                let mut product = 0.0f32;
                let mut decay = 0.0f32;
                if j <= i {
                    decay = (running[i] - running[j]).exp();
                    for n in 0..size {
                        score += staged_c[i * stride + n] * staged_b[j * stride + n];
                    }
                    for p in 0..rows {
                        product += staged_g[i * rows + p] * staged_x[j * rows + p];
                    }
                }
                scores[at] = score * decay;
                products[at] = product * steps[j];
                decays[at] = decay;
                at += UNITS;
            }
            sync_cube();

            // Tokens and rows: `x u`, `w dt x (G B)`, `E g (S C)`; the input's gradient.
            let mut at = unit;
            while at < comptime!(chunk.tokens * chunk.rows) {
                let j = at / rows;
                let p = at % rows;
                let mut carried = 0.0f32;
                let mut seen = 0.0f32;
                for n in 0..size {
                    carried += after[p * stride + n] * staged_b[j * stride + n];
                    seen += before[p * stride + n] * staged_c[j * stride + n];
                }
                carried *= weights[j];
                let mut u = carried;
                for i in j..count {
                    u += scores[i * count + j] * staged_g[i * rows + p];
                }
                inputs[at] = staged_x[at] * u;
                added[at] = steps[j] * staged_x[at] * carried;
                read[at] = running[j].exp() * staged_g[at] * seen;
                let token = first + j;
                if token < sizes.tokens && first_p + p < sizes.width {
                    let place = ((row * sizes.tokens + token) * sizes.heads + head) * sizes.width + first_p + p;
                    x_gradient[place] = steps[j] * u + skip * staged_g[at];
                }
                at += UNITS;
            }
            // Tokens and columns: what this tile adds to the gradients of the projections.
            let mut at = unit;
            while at < comptime!(chunk.tokens * chunk.state) {
                let t = at / size;
                let n = at % size;
                let token = first + t;
                if token < sizes.tokens {
                    let mut to_c = 0.0f32;
                    let mut to_b = 0.0f32;
                    for p in 0..rows {
                        to_c += before[p * stride + n] * staged_g[t * rows + p];
                        to_b += after[p * stride + n] * staged_x[t * rows + p];
                    }
                    to_c *= running[t].exp();
                    to_b *= weights[t] * steps[t];
                    for j in 0..t + 1usize {
                        to_c += decays[t * count + j] * products[t * count + j] * staged_b[j * stride + n];
                    }
                    for i in t..count {
                        to_b += decays[i * count + t] * products[i * count + t] * staged_c[i * stride + n];
                    }
                    let place = (local * sizes.tokens + token) * size + n;
                    if first_p > 0usize {
                        to_c += c_partial[place];
                        to_b += b_partial[place];
                    }
                    c_partial[place] = to_c;
                    b_partial[place] = to_b;
                }
                at += UNITS;
            }
            if unit < rows {
                let mut sum = 0.0f32;
                for n in 0..size {
                    sum += after[unit * stride + n] * before[unit * stride + n];
                }
                overlaps[unit] = sum;
            }
            sync_cube();

            if unit < count {
                let mut slope = 0.0f32;
                let mut given = 0.0f32;
                for p in 0..rows {
                    slope += read[unit * rows + p] - added[unit * rows + p];
                    given += added[unit * rows + p];
                }
                for j in 0..unit {
                    slope += scores[unit * count + j] * products[unit * count + j];
                }
                for i in unit + 1usize..count {
                    slope -= scores[i * count + unit] * products[i * count + unit];
                }
                slopes[unit] = slope;
                totals[unit] = given;
            }
            sync_cube();

            if unit < count && first + unit < sizes.tokens {
                let mut to_last = 0.0f32;
                for p in 0..rows {
                    to_last += overlaps[p];
                }
                to_last *= total.exp();
                for j in 0..count {
                    to_last += totals[j];
                }
                for i in unit..count {
                    to_last += slopes[i];
                }
                let mut direct = 0.0f32;
                let mut skipped = 0.0f32;
                for p in 0..rows {
                    direct += inputs[unit * rows + p];
                    skipped += staged_x[unit * rows + p] * staged_g[unit * rows + p];
                }
                let place = (local * sizes.tokens + first + unit) * 3usize;
                let mut step_gradient = direct + rate * to_last;
                let mut rate_gradient = steps[unit] * to_last;
                if first_p > 0usize {
                    step_gradient += per_token[place];
                    rate_gradient += per_token[place + 1usize];
                    skipped += per_token[place + 2usize];
                }
                per_token[place] = step_gradient;
                per_token[place + 1usize] = rate_gradient;
                per_token[place + 2usize] = skipped;
            }
            let mut at = unit;
            while at < comptime!(chunk.rows * chunk.state) {
                let p = at / size;
                let n = at % size;
                let mut sum = after[p * stride + n] * total.exp();
                for i in 0..count {
                    sum += running[i].exp() * staged_g[i * rows + p] * staged_c[i * stride + n];
                }
                after[p * stride + n] = sum;
                at += UNITS;
            }
            sync_cube();
        }
        let mut at = unit;
        while at < comptime!(chunk.rows * chunk.state) {
            let p = first_p + at / size;
            if p < sizes.width {
                let place = ((row * sizes.heads + head) * sizes.width + p) * size + at % size;
                state_gradient[place] = after[(at / size) * stride + at % size];
            }
            at += UNITS;
        }
        sync_cube();
        first_p += rows;
    }
}

/// One cube per pair: through bias, softplus and limits, and the pair's sums over its tokens.
#[cube(launch_unchecked)]
pub(super) fn ssd_scan_step_gradient_kernel(
    dt: &[f32],
    a_log: &[f32],
    dt_bias: &[f32],
    lengths: &[u32],
    per_token: &[f32],
    dt_gradient: &mut [f32],
    per_head: &mut [f32],
    first_pair: usize,
    pairs: usize,
    sizes: Sizes,
    #[comptime] block: usize,
) {
    if CUBE_POS >= pairs {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let head = (first_pair + CUBE_POS) % sizes.heads;
    let row = (first_pair + CUBE_POS) / sizes.heads;
    let length = lengths[row] as usize;
    let mut rates = 0.0f32;
    let mut skips = 0.0f32;
    let mut biases = 0.0f32;
    let mut token = UNIT_POS as usize;
    while token < sizes.tokens {
        let mut gradient = 0.0f32;
        let place = (row * sizes.tokens + token) * sizes.heads + head;
        if token < length {
            let from = (CUBE_POS * sizes.tokens + token) * 3usize;
            let raw = dt[place] + dt_bias[head];
            let step = softplus(raw);
            // Outside the limits the step size is constant.
            if step >= sizes.dt_low && step <= sizes.dt_high {
                gradient = per_token[from] * sigmoid(raw);
            }
            rates += per_token[from + 1usize];
            skips += per_token[from + 2usize];
            biases += gradient;
        }
        dt_gradient[place] = gradient;
        token += block;
    }
    let rate_sum = block_sum(rates, &mut shared, block);
    let skip_sum = block_sum(skips, &mut shared, block);
    let bias_sum = block_sum(biases, &mut shared, block);
    if UNIT_POS == 0u32 {
        let place = row * 3usize * sizes.heads + head;
        // A = -exp(a_log) is its own derivative.
        per_head[place] = -a_log[head].exp() * rate_sum;
        per_head[place + sizes.heads] = skip_sum;
        per_head[place + 2usize * sizes.heads] = bias_sum;
    }
}

/// One unit per element of `[B, T, G, N]`: adds what the pairs of this launch give it, first head to last.
#[cube(launch_unchecked)]
pub(super) fn ssd_scan_add_heads_kernel(
    partial: &[f32],
    gradient: &mut [f32],
    elements: usize,
    first_pair: usize,
    pairs: usize,
    state_size: usize,
    sizes: Sizes,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let n = at % state_size;
        let group = (at / state_size) % sizes.groups;
        let token = (at / state_size / sizes.groups) % sizes.tokens;
        let row = at / state_size / sizes.groups / sizes.tokens;
        let heads = sizes.heads / sizes.groups;
        let first_head = row * sizes.heads + group * heads;
        // The launch with the group's first head starts the sum.
        let mut sum = 0.0f32;
        if first_head < first_pair {
            sum = gradient[at];
        }
        for head in 0..heads {
            let pair = first_head + head;
            if pair >= first_pair && pair < first_pair + pairs {
                sum += partial[((pair - first_pair) * sizes.tokens + token) * state_size + n];
            }
        }
        if first_head < first_pair + pairs {
            gradient[at] = sum;
        }
    }
}
