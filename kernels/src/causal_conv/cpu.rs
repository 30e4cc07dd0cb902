//! Sixteen channels at a time, with the arithmetic of the decode step.
//!
//! Tokens behind a row's length are skipped: their outputs are zero and carry no gradient.

use std::mem::MaybeUninit;

use super::{CausalConvGradient, CausalConvOps, CausalConvSaved};
use crate::cpu::{DisjointMut, Floats, add_in_order, clear_padding, from_vec, parallel, sizes};
use crate::simd::{Kernel, Lanes, Row, RowMut, Slot, Span, for_each_span, run};
use burn::backend::{Flex, tensor::FloatTensor};

/// Tokens per parallel task, and per partial sum of the weight gradient.
const TOKENS_PER_TASK: usize = 64;

/// Taps of every published model; for this number, [`RUN`] tokens share their loads.
const USUAL_TAPS: usize = 4;
/// Neighbouring tokens computed together.
const RUN: usize = 4;

impl CausalConvOps for Flex {
    fn causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = sizes::<3>(&x);
        let [batch, tokens, channels] = shape;
        let [_, _, taps] = sizes(&weight);
        let conv = Conv::new(&Floats::new(weight), &Floats::new(bias), shape, taps);
        let history = History::new(&Floats::new(window), taps - 1, channels);
        let x = Floats::new(x);
        let mut y = Box::<[f32]>::new_uninit_slice(x.len());
        clear_padding(&mut y, &lengths, tokens, channels);
        let out = DisjointMut::new(&mut y);
        let blocks = tokens.div_ceil(TOKENS_PER_TASK);
        parallel(batch * blocks, |task| {
            let (row, from) = (task / blocks, task % blocks * TOKENS_PER_TASK);
            let to = (from + TOKENS_PER_TASK).min(lengths[row]);
            if from < to {
                let place = (row * tokens + from) * channels;
                // SAFETY: every task has its own tokens.
                let y = unsafe { out.slice(place, (to - from) * channels) };
                let source = Source::new(&conv, &x, &history, row);
                run(Forward { conv: &conv, source, from, y });
            }
        });

        let kept = taps - 1;
        let mut window = Vec::with_capacity(batch * channels * kept);
        for (row, &length) in lengths.iter().enumerate() {
            let source = Source::new(&conv, &x, &history, row);
            for channel in 0..channels {
                // Position t of the window is input `length - kept + t`.
                window.extend((0..kept).map(|t| source.tap(length + t)[channel]));
            }
        }
        // SAFETY: the tasks write all tokens within their row's length, and zeros stand behind it.
        let y = unsafe { y.assume_init() };
        (from_vec(y.into_vec(), shape), from_vec(window, [batch, channels, kept]))
    }
}

impl CausalConvGradient for Flex {
    fn causal_conv_backward(
        saved: CausalConvSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        window_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 4] {
        let shape = sizes::<3>(&saved.x);
        let [batch, tokens, channels] = shape;
        let [_, _, taps] = sizes(&saved.weight);
        let [window_batch, _, kept] = sizes(&saved.window);
        let conv = Conv::new(&Floats::new(saved.weight), &Floats::new(saved.bias), shape, taps);
        let history = History::new(&Floats::new(saved.window), kept, channels);
        let x = Floats::new(saved.x);
        let lengths = saved.lengths;

        // Gradient of [window | x] per row; the rows of x land in their own tensor.
        let mut x_gradient = Box::<[f32]>::new_uninit_slice(x.len());
        clear_padding(&mut x_gradient, &lengths, tokens, channels);
        let mut history_gradient = vec![0.0; batch * kept * channels];
        let blocks = tokens.div_ceil(TOKENS_PER_TASK);
        let partial_size = (taps + 1) * channels;
        let mut partial = vec![0.0; batch * blocks * partial_size];
        if let Some(cotangent) = y_cotangent {
            let cotangent = Floats::new(cotangent);
            let x_out = DisjointMut::new(&mut x_gradient);
            let history_out = DisjointMut::new(&mut history_gradient);
            let partial_out = DisjointMut::new(&mut partial);
            parallel(batch * blocks, |task| {
                let (row, block) = (task / blocks, task % blocks);
                let from = block * TOKENS_PER_TASK;
                let to = (from + TOKENS_PER_TASK).min(lengths[row]);
                let at_start = from == 0;
                if from >= to {
                    return;
                }
                // SAFETY: every task has its own tokens and partial sums; the first task of a row
                // has its window.
                let (x_gradient, history_gradient, partial) = unsafe {
                    (
                        x_out.slice((row * tokens + from) * channels, (to - from) * channels),
                        history_out.slice(row * kept * channels, kept * channels * usize::from(at_start)),
                        partial_out.slice(task * partial_size, partial_size),
                    )
                };
                run(BackwardPass {
                    conv: &conv,
                    source: Source::new(&conv, &x, &history, row),
                    cotangent: &cotangent[row * tokens * channels..][..lengths[row] * channels],
                    from,
                    to,
                    length: lengths[row],
                    x_gradient,
                    history_gradient,
                    partial,
                });
            });
        } else {
            x_gradient.fill(MaybeUninit::new(0.0));
        }
        // SAFETY: the tasks wrote all tokens within their row's length, behind which zeros stand; or zeros stand everywhere.
        let mut x_gradient = unsafe { x_gradient.assume_init() };
        if let Some(cotangent) = window_cotangent {
            let cotangent = Floats::new(cotangent);
            for (row, &length) in lengths.iter().enumerate() {
                for channel in 0..channels {
                    for t in 0..kept {
                        let value = cotangent[(row * channels + channel) * kept + t];
                        let position = length + t;
                        if position < kept {
                            history_gradient[(row * kept + position) * channels + channel] += value;
                        } else {
                            let token = row * tokens + position - kept;
                            x_gradient[token * channels + channel] += value;
                        }
                    }
                }
            }
        }

        let mut sums = vec![0.0; partial_size];
        add_in_order(&mut sums, &partial);
        let mut window_gradient = vec![0.0; window_batch * channels * kept];
        for row in 0..batch {
            let to = if window_batch == 1 { 0 } else { row };
            for t in 0..kept {
                for channel in 0..channels {
                    window_gradient[(to * channels + channel) * kept + t] +=
                        history_gradient[(row * kept + t) * channels + channel];
                }
            }
        }
        let bias_gradient = sums.split_off(taps * channels);
        let weight_gradient = transpose(&sums, taps, channels);
        [
            from_vec(x_gradient.into_vec(), shape),
            from_vec(weight_gradient, [channels, 1, taps]),
            from_vec(bias_gradient, [channels]),
            from_vec(window_gradient, [window_batch, channels, kept]),
        ]
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for row in 0..rows {
        for column in 0..columns {
            out[column * rows + row] = values[row * columns + column];
        }
    }
    out
}

/// What every row shares.
struct Conv {
    tokens: usize,
    channels: usize,
    taps: usize,
    /// `[K, C]`, so that a vector holds one tap of sixteen channels.
    filters: Vec<f32>,
    bias: Vec<f32>,
}

impl Conv {
    fn new(weight: &[f32], bias: &[f32], shape: [usize; 3], taps: usize) -> Self {
        let [_, tokens, channels] = shape;
        let filters = transpose(weight, channels, taps);
        Self { tokens, channels, taps, filters, bias: bias.to_vec() }
    }

    /// One tap of all channels.
    #[inline(always)]
    fn filter(&self, tap: usize) -> Row<'_> {
        Row::new(&self.filters[tap * self.channels..][..self.channels])
    }
}

/// The incoming windows as tokens, `[1 or B, K - 1, C]`.
struct History {
    batch: usize,
    tokens: Vec<f32>,
}

impl History {
    fn new(window: &[f32], kept: usize, channels: usize) -> Self {
        let size = kept * channels;
        let tokens = window.chunks_exact(size).flat_map(|row| transpose(row, channels, kept));
        Self { batch: window.len() / size, tokens: tokens.collect() }
    }
}

/// The inputs of one row, window first.
struct Source<'a> {
    window: &'a [f32],
    x: &'a [f32],
    kept: usize,
    channels: usize,
}

impl<'a> Source<'a> {
    fn new(conv: &Conv, x: &'a [f32], history: &'a History, row: usize) -> Self {
        let kept = conv.taps - 1;
        let from = if history.batch == 1 { 0 } else { row };
        let size = conv.tokens * conv.channels;
        Self {
            window: &history.tokens[from * kept * conv.channels..][..kept * conv.channels],
            x: &x[row * size..][..size],
            kept,
            channels: conv.channels,
        }
    }

    /// Input number `position`, where number 0 is the window's oldest: the input that tap 0 of
    /// token `position` multiplies.
    #[inline(always)]
    fn tap(&self, position: usize) -> &'a [f32] {
        let (from, position) =
            if position < self.kept { (self.window, position) } else { (self.x, position - self.kept) };
        &from[position * self.channels..][..self.channels]
    }

    /// All inputs of the run of tokens that starts at `token`, with the usual number of taps.
    #[inline(always)]
    fn run(&self, token: usize) -> [Row<'a>; RUN + USUAL_TAPS - 1] {
        std::array::from_fn(|index| Row::new(self.tap(token + index)))
    }
}

struct Forward<'a> {
    conv: &'a Conv,
    source: Source<'a>,
    from: usize,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { conv, source, from, y } = self;
        let mut token = from;
        let mut runs = y.chunks_exact_mut(RUN * conv.channels);
        if conv.taps == USUAL_TAPS {
            for y in &mut runs {
                let inputs = source.run(token);
                let mut rows = rows_of_run(y, conv.channels);
                for_each_span(conv.channels, |at| {
                    let values = preactivations::<L>(conv, &inputs, at);
                    for index in 0..RUN {
                        rows[index].set(at, values[index].silu());
                    }
                });
                token += RUN;
            }
        }
        // What is left of whole runs, or everything.
        let done = (token - from) * conv.channels;
        for y in y[done..].chunks_exact_mut(conv.channels) {
            RowMut::new(y).fill(|at| preactivation::<L>(conv, &source, token, at).silu());
            token += 1;
        }
    }
}

/// The rows of a run of tokens.
#[inline(always)]
fn rows_of_run<T: Slot>(values: &mut [T], channels: usize) -> [RowMut<'_, T>; RUN] {
    let (first, second) = values.split_at_mut(2 * channels);
    let ((a, b), (c, d)) = (first.split_at_mut(channels), second.split_at_mut(channels));
    [RowMut::new(a), RowMut::new(b), RowMut::new(c), RowMut::new(d)]
}

/// What [`preactivation`] gives for each token of a run.
#[inline(always)]
fn preactivations<L: Lanes>(conv: &Conv, inputs: &[Row; RUN + USUAL_TAPS - 1], at: Span) -> [L; RUN] {
    let mut values = [L::splat(0.0); RUN + USUAL_TAPS - 1];
    for (value, input) in values.iter_mut().zip(inputs) {
        *value = input.get(at);
    }
    let mut sums = [Row::new(&conv.bias).get::<L>(at); RUN];
    for tap in 0..USUAL_TAPS {
        let filter = conv.filter(tap).get::<L>(at);
        for index in 0..RUN {
            sums[index] = values[index + tap].mul_add(filter, sums[index]);
        }
    }
    sums
}

/// `bias + sum over taps` of one span of channels.
#[inline(always)]
fn preactivation<L: Lanes>(conv: &Conv, source: &Source, token: usize, at: Span) -> L {
    let mut sum = Row::new(&conv.bias).get::<L>(at);
    for (tap, filter) in conv.filters.chunks_exact(conv.channels).enumerate() {
        let input = Row::new(source.tap(token + tap)).get::<L>(at);
        sum = input.mul_add(Row::new(filter).get(at), sum);
    }
    sum
}

struct BackwardPass<'a> {
    conv: &'a Conv,
    source: Source<'a>,
    /// Cotangents of the row's valid tokens.
    cotangent: &'a [f32],
    from: usize,
    to: usize,
    length: usize,
    /// Tokens `from..to` of the row.
    x_gradient: &'a mut [MaybeUninit<f32>],
    /// The row's window, `[K - 1, C]`; empty except for the row's first task.
    history_gradient: &'a mut [f32],
    /// `[K + 1, C]`: gradients of the filters, then of the bias.
    partial: &'a mut [f32],
}

impl Kernel for BackwardPass<'_> {
    type Output = ();

    /// With `g = cotangent * silu'(v)`: `dx[i] = sum_j g[i - j] w_j` over inputs `i` counted from
    /// the window's oldest, `dw_j = sum_t g[t] x[t + j]`, `dbias = sum_t g[t]`.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { conv, source, from, to, length, .. } = self;
        let (channels, taps, kept) = (conv.channels, conv.taps, conv.taps - 1);
        // The inputs of tokens `from..to` reach the outputs up to K - 1 tokens later.
        let end = (to + kept).min(length);
        let mut slopes = vec![0.0; (end - from) * channels];
        let cotangent = |token: usize| Row::new(&self.cotangent[token * channels..][..channels]);
        let mut token = from;
        if taps == USUAL_TAPS {
            for slopes in slopes.chunks_exact_mut(RUN * channels) {
                let inputs = source.run(token);
                let mut rows = rows_of_run(slopes, channels);
                for_each_span(channels, |at| {
                    let values = preactivations::<L>(conv, &inputs, at);
                    for index in 0..RUN {
                        let cotangent = cotangent(token + index).get::<L>(at);
                        rows[index].set(at, cotangent.mul(silu_slope(values[index])));
                    }
                });
                token += RUN;
            }
        }
        for slopes in slopes[(token - from) * channels..].chunks_exact_mut(channels) {
            RowMut::new(slopes).fill(|at| {
                let value = preactivation::<L>(conv, &source, token, at);
                cotangent(token).get::<L>(at).mul(silu_slope(value))
            });
            token += 1;
        }
        let slopes = |token: usize| Row::new(&slopes[(token - from) * channels..][..channels]);
        let filter = |tap: usize| conv.filter(tap);

        for (token, gradient) in (from..to).zip(self.x_gradient.chunks_exact_mut(channels)) {
            // Input `token + kept` is what tap K - 1 multiplies at `token`.
            let first = (token + kept + 1).saturating_sub(end);
            RowMut::new(gradient).fill(|at| {
                let mut sum = L::splat(0.0);
                for tap in first..taps {
                    sum = slopes(token + kept - tap).get::<L>(at).mul_add(filter(tap).get(at), sum);
                }
                sum
            });
        }
        for (position, gradient) in self.history_gradient.chunks_exact_mut(channels).enumerate() {
            let first = (position + 1).saturating_sub(end);
            RowMut::new(gradient).fill(|at| {
                let mut sum = L::splat(0.0);
                for tap in first..=position {
                    sum = slopes(position - tap).get::<L>(at).mul_add(filter(tap).get(at), sum);
                }
                sum
            });
        }
        let mut token = from;
        if taps == USUAL_TAPS {
            let (filters, bias) = self.partial.split_at_mut(taps * channels);
            let (mut filters, mut bias) = (rows_of_run(filters, channels), RowMut::new(bias));
            while token + RUN <= to {
                let inputs = source.run(token);
                for_each_span(channels, |at| {
                    let mut values = [L::splat(0.0); RUN];
                    for (index, value) in values.iter_mut().enumerate() {
                        *value = slopes(token + index).get(at);
                    }
                    for (tap, sums) in filters.iter_mut().enumerate() {
                        let mut sum = sums.get::<L>(at);
                        for (index, value) in values.iter().enumerate() {
                            sum = value.mul_add(inputs[tap + index].get(at), sum);
                        }
                        sums.set(at, sum);
                    }
                    let mut sum = bias.get::<L>(at);
                    for value in &values {
                        sum = value.add(sum);
                    }
                    bias.set(at, sum);
                });
                token += RUN;
            }
        }
        for token in token..to {
            let slopes = slopes(token);
            for (tap, sums) in self.partial.chunks_exact_mut(channels).enumerate() {
                if tap < taps {
                    let input = Row::new(source.tap(token + tap));
                    RowMut::new(sums).update(|at, sum: L| slopes.get::<L>(at).mul_add(input.get(at), sum));
                } else {
                    RowMut::new(sums).update(|at, sum: L| slopes.get::<L>(at).add(sum));
                }
            }
        }
    }
}

/// The derivative of `v / (1 + e^-v)`.
#[inline(always)]
fn silu_slope<L: Lanes>(v: L) -> L {
    let (one, sigmoid) = (L::splat(1.0), v.sigmoid());
    v.mul_add(one.sub(sigmoid), one).mul(sigmoid)
}
