//! A tile of rows at a time: all logits never exist together, and the backward pass forms them again.
//!
//! Logits are those of [`linear`](fn@crate::linear), bit for bit.

use super::{LinearLogProbGradient, LinearLogProbOps, LogProbRows, LogProbSaved};
use crate::cpu::{Floats, add_in_order, from_vec, sizes};
use crate::error::assert_size;
use crate::flex_slices::Rows;
use crate::linear::cpu::{multiply, multiply_transposed, transposed_multiply};
use crate::simd::{self, Kernel, LANES, Lanes, run};
use crate::softmax::{Softmax, largest};
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
                    let logit = logits[target] * head.scale;
                    let row = Softmax::weigh(logits, largest(logits), head.scale);
                    *log_sum_exp = row.log_sum_exp();
                    *log_prob = row.log_prob(logit, row.total);
                    *entropy = row.entropy();
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
            // Rounded as the sampler does.
            scale: 1.0 / temperature as f32,
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
