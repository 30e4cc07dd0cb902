//! Cube code of the convolution and its gradient.
//!
//! Inputs are counted from the oldest of the incoming window: number `i < K - 1` is in the window, number `K - 1 + t` is
//! token `t`, and token `t` multiplies tap `j` with input `t + j`.

use cubecl::prelude::*;

use crate::cube::math::{silu, silu_slope};

/// Where one row's input of one channel lies.
#[cube]
fn input<F: Float>(
    x: &[F],
    window: &[F],
    number: usize,
    row: usize,
    window_row: usize,
    channel: usize,
    tokens: usize,
    channels: usize,
    kept: usize,
) -> f32 {
    if number < kept {
        f32::cast_from(window[(window_row * channels + channel) * kept + number])
    } else {
        f32::cast_from(x[(row * tokens + number - kept) * channels + channel])
    }
}

/// `bias + sum over taps` at one token.
#[cube]
fn preactivation<F: Float>(
    x: &[F],
    weight: &[f32],
    bias: &[f32],
    window: &[F],
    at: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
) -> f32 {
    let channel = at % channels;
    let token = (at / channels) % tokens;
    let row = at / channels / tokens;
    let window_row = row % window_batch;
    let mut sum = bias[channel];
    for tap in 0..taps {
        let value = input::<F>(x, window, token + tap, row, window_row, channel, tokens, channels, taps - 1usize);
        sum += value * weight[channel * taps + tap];
    }
    sum
}

#[cube(launch_unchecked)]
pub(super) fn causal_conv_kernel<F: Float>(
    x: &[F],
    weight: &[f32],
    bias: &[f32],
    window: &[F],
    y: &mut [F],
    elements: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let sum = preactivation::<F>(x, weight, bias, window, at, tokens, channels, taps, window_batch);
        y[at] = F::cast_from(silu(sum));
    }
}

/// The inputs after the last valid token of each row.
#[cube(launch_unchecked)]
pub(super) fn causal_conv_window_kernel<F: Float>(
    x: &[F],
    window: &[F],
    lengths: &[u32],
    outgoing: &mut [F],
    elements: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let kept = taps - 1usize;
        let place = at % kept;
        let channel = (at / kept) % channels;
        let row = at / kept / channels;
        let number = lengths[row] as usize + place;
        let window_row = row % window_batch;
        let value = input::<F>(x, window, number, row, window_row, channel, tokens, channels, kept);
        outgoing[at] = F::cast_from(value);
    }
}

/// Cotangents of the sums before SiLU, zero at padded tokens.
#[cube(launch_unchecked)]
pub(super) fn causal_conv_slope_kernel<F: Float>(
    x: &[F],
    weight: &[f32],
    bias: &[f32],
    window: &[F],
    lengths: &[u32],
    cotangent: &[F],
    slopes: &mut [f32],
    elements: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
    has_cotangent: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let token = (at / channels) % tokens;
        let row = at / channels / tokens;
        let mut slope = 0.0f32;
        if has_cotangent != 0u32 && token < lengths[row] as usize {
            let sum = preactivation::<F>(x, weight, bias, window, at, tokens, channels, taps, window_batch);
            slope = f32::cast_from(cotangent[at]) * silu_slope(sum);
        }
        slopes[at] = slope;
    }
}

/// What the tokens of one row, and its outgoing window, give input `number` of one channel.
#[cube]
fn input_gradient<F: Float>(
    weight: &[f32],
    slopes: &[f32],
    window_cotangent: &[F],
    number: usize,
    row: usize,
    length: usize,
    channel: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    has_window: u32,
) -> f32 {
    let kept = taps - 1usize;
    let mut sum = 0.0f32;
    for tap in 0..taps {
        // Token `number - tap` multiplies this input with `tap`.
        if tap <= number && number - tap < length {
            let token = number - tap;
            sum += slopes[(row * tokens + token) * channels + channel] * weight[channel * taps + tap];
        }
    }
    if has_window != 0u32 && number >= length && number < length + kept {
        sum += f32::cast_from(window_cotangent[(row * channels + channel) * kept + number - length]);
    }
    sum
}

#[cube(launch_unchecked)]
pub(super) fn causal_conv_input_gradient_kernel<F: Float>(
    weight: &[f32],
    lengths: &[u32],
    slopes: &[f32],
    window_cotangent: &[F],
    x_gradient: &mut [F],
    elements: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    has_window: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let channel = at % channels;
        let token = (at / channels) % tokens;
        let row = at / channels / tokens;
        let length = lengths[row] as usize;
        let number = token + taps - 1usize;
        let sum = input_gradient::<F>(
            weight,
            slopes,
            window_cotangent,
            number,
            row,
            length,
            channel,
            tokens,
            channels,
            taps,
            has_window,
        );
        x_gradient[at] = F::cast_from(sum);
    }
}

#[cube(launch_unchecked)]
pub(super) fn causal_conv_window_gradient_kernel<F: Float>(
    weight: &[f32],
    lengths: &[u32],
    slopes: &[f32],
    window_cotangent: &[F],
    window_gradient: &mut [F],
    elements: usize,
    rows_per_window: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    has_window: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let kept = taps - 1usize;
        let number = at % kept;
        let channel = (at / kept) % channels;
        let window_row = at / kept / channels;
        let mut total = 0.0f32;
        for index in 0..rows_per_window {
            let row = window_row * rows_per_window + index;
            total += input_gradient::<F>(
                weight,
                slopes,
                window_cotangent,
                number,
                row,
                lengths[row] as usize,
                channel,
                tokens,
                channels,
                taps,
                has_window,
            );
        }
        window_gradient[at] = F::cast_from(total);
    }
}

/// One unit per part and channel: gradients of the channel's filter and bias from the part's tokens.
#[cube(launch_unchecked)]
pub(super) fn causal_conv_filter_gradient_kernel<F: Float>(
    x: &[F],
    window: &[F],
    slopes: &[f32],
    parts: &mut [f32],
    units: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
    parts_per_row: usize,
    #[comptime] tokens_per_part: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < units {
        let channel = ABSOLUTE_POS % channels;
        let part = ABSOLUTE_POS / channels;
        let row = part / parts_per_row;
        let from = (part % parts_per_row) * tokens_per_part;
        let to = min(from + tokens_per_part, tokens);
        let window_row = row % window_batch;
        let start = part * channels * (taps + 1usize);
        for tap in 0..taps {
            let mut sum = 0.0f32;
            for token in from..to {
                let value =
                    input::<F>(x, window, token + tap, row, window_row, channel, tokens, channels, taps - 1usize);
                sum += slopes[(row * tokens + token) * channels + channel] * value;
            }
            parts[start + channel * taps + tap] = sum;
        }
        let mut sum = 0.0f32;
        for token in from..to {
            sum += slopes[(row * tokens + token) * channels + channel];
        }
        parts[start + channels * taps + channel] = sum;
    }
}
