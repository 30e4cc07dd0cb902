//! A tile of rows at a time: all logits never exist together, and the backward pass forms them again.
//!
//! Logits are those of [`linear`](fn@crate::linear), bit for bit.

use super::{LinearLogProbGradient, LinearLogProbOps, LogProbRows, LogProbSaved};
use crate::cpu::{Floats, add_in_order, from_vec, sizes};
use crate::error::assert_size;
use crate::flex_slices::Rows;
use crate::linear::cpu::{multiply, multiply_transposed, transposed_multiply};
use crate::simd::{self, Kernel, LANES, Lanes, run};
use burn::backend::{
    Flex,
    tensor::{FloatTensor, IntTensor},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Rows whose logits exist at a time.
const TILE_ROWS: usize = 256;

impl LinearLogProbOps for Flex {
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let rows = Self::linear_log_prob_forward(hidden, weight, targets, temperature);
        (rows.log_prob, rows.entropy)
    }
}

impl LinearLogProbGradient for Flex {
    fn linear_log_prob_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> LogProbRows<Self> {
        let head = Head::new(hidden, weight, targets, temperature);
        let mut log_prob = vec![0.0; head.rows];
        let mut entropy = vec![0.0; head.rows];
        let mut log_sum_exp = vec![0.0; head.rows];
        for first in (0..head.rows).step_by(TILE_ROWS) {
            let tile = first..(first + TILE_ROWS).min(head.rows);
            let mut logits = head.logits(tile.start, tile.len());
            logits
                .par_chunks_exact_mut(head.vocabulary)
                .zip(&head.targets[tile.clone()])
                .zip(log_prob[tile.clone()].par_iter_mut())
                .zip(entropy[tile.clone()].par_iter_mut())
                .zip(log_sum_exp[tile].par_iter_mut())
                .for_each(|((((logits, &target), log_prob), entropy), log_sum_exp)| {
                    let row = run(Softmax { logits, scale: head.scale });
                    *log_sum_exp = row.largest + row.log_total;
                    // Differences of scaled logits first: the denominator's logarithm is small.
                    *log_prob = (logits[target] - row.largest) - row.log_total;
                    *entropy = row.log_total - row.mean;
                });
        }
        LogProbRows {
            log_prob: from_vec(log_prob, [head.rows]),
            entropy: from_vec(entropy, [head.rows]),
            log_sum_exp: from_vec(log_sum_exp, [head.rows]),
        }
    }

    fn linear_log_prob_backward(saved: LogProbSaved<Self>, cotangent: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        let head = Head::new(saved.hidden, saved.weight, saved.targets, saved.temperature);
        let (log_sum_exp, cotangent) = (Floats::new(saved.log_sum_exp), Floats::new(cotangent));
        let mut hidden_gradient = Vec::with_capacity(head.rows * head.width);
        let mut weight_gradient = vec![0.0; head.vocabulary * head.width];
        for first in (0..head.rows).step_by(TILE_ROWS) {
            let tile = first..(first + TILE_ROWS).min(head.rows);
            let count = tile.len();
            let mut logits = head.logits(first, count);
            logits
                .par_chunks_exact_mut(head.vocabulary)
                .zip(&head.targets[tile.clone()])
                .zip(&log_sum_exp[tile.clone()])
                .zip(&cotangent[tile])
                .for_each(|(((logits, &target), &log_sum_exp), &cotangent)| {
                    let scale = head.scale;
                    run(Slope { logits, scale, log_sum_exp, factor: -cotangent * scale });
                    logits[target] += cotangent * scale;
                });
            let slopes = Rows::new(from_vec(logits, [count, head.vocabulary]));
            let hidden = head.hidden_tile(first, count);
            hidden_gradient.extend(multiply(&slopes, &head.weight, count, head.width, head.vocabulary));
            let part = transposed_multiply(&slopes, &hidden, head.vocabulary, head.width, count);
            add_in_order(&mut weight_gradient, &part);
        }
        [from_vec(hidden_gradient, [head.rows, head.width]), from_vec(weight_gradient, [head.vocabulary, head.width])]
    }
}

/// The inputs, readable by rows.
struct Head {
    rows: usize,
    width: usize,
    vocabulary: usize,
    hidden: FlexTensor,
    weight: Rows,
    targets: Vec<usize>,
    /// Reciprocal of the temperature.
    scale: f32,
}

impl Head {
    fn new(hidden: FlexTensor, weight: FlexTensor, targets: IntTensor<Flex>, temperature: f64) -> Self {
        let [rows, width] = sizes(&hidden);
        let [vocabulary, _] = sizes(&weight);
        let targets = targets.to_contiguous();
        let to_index = |&target: &i64| {
            let index = usize::try_from(target).unwrap_or(usize::MAX);
            let rule = "a target must be a token of the vocabulary";
            assert_size("linear_log_prob", "targets", index, index < vocabulary, rule);
            index
        };
        Self {
            rows,
            width,
            vocabulary,
            hidden,
            weight: Rows::new(weight),
            targets: targets.storage::<i64>().iter().map(to_index).collect(),
            scale: (1.0 / temperature) as f32,
        }
    }

    fn hidden_tile(&self, first: usize, count: usize) -> Rows {
        let layout = self.hidden.layout().narrow(0, first, count);
        Rows::new(self.hidden.clone().with_layout(layout))
    }

    /// `[count, vocabulary]`, before the temperature.
    fn logits(&self, first: usize, count: usize) -> Vec<f32> {
        let hidden = self.hidden_tile(first, count);
        multiply_transposed(&hidden, &self.weight, count, self.vocabulary, self.width)
    }
}

struct SoftmaxRow {
    largest: f32,
    /// Logarithm of the sum of `exp(logit - largest)`.
    log_total: f32,
    /// Expected `logit - largest`.
    mean: f32,
}

/// Scales a row of logits in place and sums its exponentials.
struct Softmax<'a> {
    logits: &'a mut [f32],
    scale: f32,
}

impl Kernel for Softmax<'_> {
    type Output = SoftmaxRow;

    #[inline(always)]
    fn run<L: Lanes>(self) -> SoftmaxRow {
        let scale = L::splat(self.scale);
        let mut largest = L::splat(f32::NEG_INFINITY);
        let (blocks, rest) = self.logits.as_chunks_mut::<LANES>();
        for block in blocks.iter_mut() {
            let logits = L::from_array(block).mul(scale);
            *block = logits.to_array();
            largest = logits.max(largest);
        }
        let mut largest = largest.largest();
        for logit in rest.iter_mut() {
            *logit *= self.scale;
            largest = if *logit > largest { *logit } else { largest };
        }
        let shift = L::splat(largest);
        let mut totals = [L::splat(0.0); 2];
        let mut moments = [L::splat(0.0); 2];
        for (index, block) in blocks.iter().enumerate() {
            let logits = L::from_array(block).sub(shift);
            let weights = logits.exp();
            totals[index % 2] = totals[index % 2].add(weights);
            moments[index % 2] = weights.mul_add(logits, moments[index % 2]);
        }
        let mut total = totals[0].add(totals[1]).sum();
        let mut moment = moments[0].add(moments[1]).sum();
        for &mut logit in rest {
            let weight = simd::exp(logit - largest);
            total += weight;
            moment += weight * (logit - largest);
        }
        let log_total = simd::ln(f64::from(total)) as f32;
        SoftmaxRow { largest, log_total, mean: moment / total }
    }
}

/// Replaces logits by `factor * probability`.
struct Slope<'a> {
    logits: &'a mut [f32],
    scale: f32,
    log_sum_exp: f32,
    factor: f32,
}

impl Kernel for Slope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (scale, shift) = (L::splat(self.scale), L::splat(self.log_sum_exp));
        let factor = L::splat(self.factor);
        let (blocks, rest) = self.logits.as_chunks_mut::<LANES>();
        for block in blocks {
            let weights = L::from_array(block).mul(scale).sub(shift).exp();
            *block = weights.mul(factor).to_array();
        }
        for logit in rest {
            *logit = self.factor * simd::exp(*logit * self.scale - self.log_sum_exp);
        }
    }
}
