//! The chunked (state-space dual) form in plain tensor operations.
//!
//! Inside a chunk the scan is a masked attention with decaying weights; between chunks the states
//! are chained. Decays are exponentials of differences of a running sum that are never positive,
//! so nothing overflows whatever the step sizes.

use super::SsdInputs;
use crate::precision::{accumulation_dtype, cast_to};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Tokens per chunk. The result does not depend on it beyond rounding.
const CHUNK_SIZE: usize = 32;

/// See [`ssd_scan`](super::ssd_scan()).
pub fn ssd_scan(inputs: SsdInputs, dt_limit: (f64, f64), lengths: Option<&[usize]>) -> (Tensor<4>, Tensor<4>) {
    let SsdInputs { x, dt, a_log, b, c, d, dt_bias, state } = inputs;
    let [batch, tokens, heads, width] = x.dims();
    let [_, _, groups, state_size] = b.dims();
    let per_group = heads / groups;
    let (y_dtype, state_dtype) = (x.dtype(), state.dtype());
    let wide = accumulation_dtype(y_dtype);
    let device = x.device();

    let x = cast_to(x, wide);
    let mut dt = softplus(cast_to(dt, wide) + cast_to(dt_bias, wide).unsqueeze());
    if dt_limit.0 > 0.0 {
        dt = dt.clamp_min(dt_limit.0);
    }
    if dt_limit.1.is_finite() {
        dt = dt.clamp_max(dt_limit.1);
    }
    let mut masked_x = x.clone();
    if let Some(padding) = padding_mask(lengths, tokens, &device) {
        // After softplus and clipping: a raw step of zero is not a step size of zero. The input is
        // masked as well so that even an infinite one cannot reach the state.
        dt = dt.mask_fill(padding.clone().expand([batch, tokens, heads]), 0.0);
        masked_x = masked_x.mask_fill(padding.unsqueeze_dim::<4>(3).expand([batch, tokens, heads, width]), 0.0);
    }
    let log_decay = dt.clone() * cast_to(a_log, wide).exp().neg().unsqueeze();
    let weighted_x = masked_x.clone() * dt.unsqueeze_dim::<4>(3);

    // Pad the tail to whole chunks: zero step, zero input, state untouched.
    let chunk = CHUNK_SIZE.min(tokens.max(1));
    let chunks = tokens.div_ceil(chunk);
    let tail = chunks * chunk - tokens;
    let chunked = |t: Tensor<4>| -> Tensor<5> {
        let [_, _, outer, inner] = t.dims();
        pad_tokens(t, tail).reshape([batch, chunks, chunk, outer, inner]).swap_dims(2, 3) // [B, chunks, outer, chunk, inner]
    };
    let x_chunks = chunked(weighted_x); // [B, M, H, Q, P]
    let running = chunked(log_decay.unsqueeze_dim::<4>(3)).cumsum(3); // [B, M, H, Q, 1]
    let b_chunks = per_head(chunked(cast_to(b, wide)), per_group); // [B, M, H, Q, N]
    let c_chunks = per_head(chunked(cast_to(c, wide)), per_group);

    // Inside the chunk: y_i += sum_{j <= i} (C_i . B_j) exp(L_i - L_j) dt_j x_j
    let difference = running.clone() - running.clone().swap_dims(3, 4); // [B, M, H, Q, Q]
    let future = Tensor::<2, Bool>::tril_mask([chunk, chunk], 0, &device)
        .reshape([1, 1, 1, chunk, chunk])
        .expand([batch, chunks, heads, chunk, chunk]);
    let decay = difference.mask_fill(future, f64::NEG_INFINITY).exp();
    let scores = c_chunks.clone().matmul(b_chunks.clone().swap_dims(3, 4)) * decay;
    let inside = scores.matmul(x_chunks.clone());

    // What each chunk adds to the state, and by how much the chunk decays the state it meets.
    let total = running.clone().narrow(3, chunk - 1, 1); // [B, M, H, 1, 1]
    let to_end = (total.clone() - running.clone()).exp();
    let added = (x_chunks * to_end).swap_dims(3, 4).matmul(b_chunks); // [B, M, H, P, N]
    let chunk_decay = total.exp();

    let mut state = cast_to(state, wide).expand([batch, heads, width, state_size]);
    let mut entering = Vec::with_capacity(chunks);
    for index in 0..chunks {
        entering.push(state.clone());
        let decay = chunk_decay.clone().narrow(1, index, 1).squeeze_dim::<4>(1);
        state = state * decay + added.clone().narrow(1, index, 1).squeeze_dim::<4>(1);
    }
    let entering: Tensor<5> = Tensor::stack(entering, 1);
    let across = (c_chunks * running.exp()).matmul(entering.swap_dims(3, 4));

    let y = (inside + across).swap_dims(2, 3).reshape([batch, chunks * chunk, heads, width]).narrow(1, 0, tokens);
    let y = y + x * cast_to(d, wide).reshape([1, 1, heads, 1]);
    (cast_to(y, y_dtype), cast_to(state, state_dtype))
}

/// `log(1 + exp(x))` that is exact for both signs and differentiable at zero.
fn softplus(x: Tensor<3>) -> Tensor<3> {
    let positive = x.clone().greater_elem(0.0);
    let minus_abs = x.clone().mask_where(positive.clone(), x.clone().neg());
    x.mask_fill(positive.bool_not(), 0.0) + minus_abs.exp().log1p()
}

/// `[B, T, 1]`, true at padding; `None` when no row is padded.
fn padding_mask(lengths: Option<&[usize]>, tokens: usize, device: &Device) -> Option<Tensor<3, Bool>> {
    let lengths = lengths?;
    if lengths.iter().all(|&length| length == tokens) {
        return None;
    }
    let batch = lengths.len();
    let lengths: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
    let lengths =
        Tensor::<3, Int>::from_data(TensorData::new(lengths, [batch, 1, 1]), device).expand([batch, tokens, 1]);
    let position =
        Tensor::<1, Int>::arange(0..tokens as i64, device).reshape([1, tokens, 1]).expand([batch, tokens, 1]);
    Some(position.greater_equal(lengths))
}

/// Appends `tail` zero tokens on axis 1.
fn pad_tokens(t: Tensor<4>, tail: usize) -> Tensor<4> {
    if tail == 0 {
        return t;
    }
    let [batch, _, outer, inner] = t.dims();
    let zeros = Tensor::zeros([batch, tail, outer, inner], (&t.device(), t.dtype()));
    Tensor::cat(vec![t, zeros], 1)
}

/// Repeats each group for the heads that share it: `[B, M, G, Q, N]` to `[B, M, H, Q, N]`.
fn per_head(t: Tensor<5>, per_group: usize) -> Tensor<5> {
    if per_group == 1 {
        return t;
    }
    let [batch, chunks, groups, chunk, state_size] = t.dims();
    t.unsqueeze_dim::<6>(3).expand([batch, chunks, groups, per_group, chunk, state_size]).reshape([
        batch,
        chunks,
        groups * per_group,
        chunk,
        state_size,
    ])
}
