//! Tiles of logits at a time: all of them never exist together, and the backward pass forms them again.
//!
//! Forward takes all logits of some rows. Backward takes tiles of rows and vocabulary, vocabulary outermost, so that the
//! gradient of a part of the weight is finished before the next part begins.
//!
//! Logits are those of [`linear`](fn@crate::linear), bit for bit.

use super::{LinearLogProbGradient, LinearLogProbOps, RowScores};
use crate::cpu::{Floats, add_in_order, from_vec, pieces, sizes};
use crate::error::assert_size;
use crate::flex_slices::{Rows, is_f32, whole};
use crate::linear::cpu::{add_transposed_product, multiply, scaled_product};
use crate::simd::{self, Kernel, LANES, Lanes, run};
use crate::softmax::{Softmax, inverse_temperature, largest};
use burn::backend::ops::FloatTensorOps;
use burn::backend::{
    Flex,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{FloatDType, bf16};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::ops::Range;

/// Logits that exist at a time (32 MiB).
const TILE_LOGITS: usize = 8 << 20;
/// Rows of a forward tile at most: with a small vocabulary its logits stay in the cache.
const FORWARD_ROWS: usize = 256;
/// Rows and vocabulary of a backward tile.
const BACKWARD_ROWS: usize = 2048;
const BACKWARD_VOCABULARY: usize = TILE_LOGITS / BACKWARD_ROWS;

impl LinearLogProbOps for Flex {
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (log_prob, entropy, _) = Self::linear_log_prob_forward(hidden, weight, targets, temperature);
        (log_prob, entropy)
    }
}

impl LinearLogProbGradient for Flex {
    fn linear_log_prob_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> RowScores<Self> {
        let head = Head::new(hidden, weight, targets, temperature);
        let mut log_prob = vec![0.0; head.rows];
        let mut entropy = vec![0.0; head.rows];
        let mut log_sum_exp = vec![0.0; head.rows];
        for tile in pieces(head.rows, (TILE_LOGITS / head.vocabulary.max(1)).clamp(1, FORWARD_ROWS)) {
            let mut logits = head.logits(tile.clone());
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
        let [log_prob, entropy, log_sum_exp] =
            [log_prob, entropy, log_sum_exp].map(|values| from_vec(values, [head.rows]));
        (log_prob, entropy, log_sum_exp)
    }

    fn linear_log_prob_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
        sum: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let head = Head::new(hidden, weight, targets, temperature);
        let mut sum = whole(sum);
        // `storage_mut` copies only when another handle exists.
        let gradient = head.backward(log_sum_exp, cotangent, Some(sum.storage_mut()));
        (gradient, sum)
    }

    fn linear_log_prob_hidden_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Head::new(hidden, weight, targets, temperature).backward(log_sum_exp, cotangent, None)
    }
}

/// Some rows of a matrix.
fn tile_of(matrix: &FlexTensor, rows: &Range<usize>) -> FlexTensor {
    let layout = matrix.layout().narrow(0, rows.start, rows.len());
    matrix.clone().with_layout(layout)
}

/// A tile in f32; one in bf16 is widened, which changes no value.
fn in_f32(tile: FlexTensor) -> FlexTensor {
    if is_f32(&tile) { tile } else { Flex::float_cast(tile, FloatDType::F32) }
}

/// The inputs, readable by rows.
struct Head {
    rows: usize,
    width: usize,
    vocabulary: usize,
    hidden: FlexTensor,
    weight: FlexTensor,
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
            weight,
            targets: targets.storage::<i64>().iter().map(to_index).collect(),
            // Rounded as the sampler does.
            scale: inverse_temperature(temperature as f32),
        }
    }

    /// `[rows, vocabulary]`, before the temperature.
    fn logits(&self, rows: Range<usize>) -> Vec<f32> {
        let (hidden, weight) = (Rows::new(tile_of(&self.hidden, &rows)), Rows::new(self.weight.clone()));
        let sizes = [rows.len(), self.vocabulary, self.width];
        if is_f32(&self.weight) {
            return scaled_product::<f32>(&hidden, &weight, None, sizes);
        }
        scaled_product::<bf16>(&hidden, &weight, None, sizes)
    }

    /// The gradient of the hidden values `[rows, width]`; that of the weight is added to `weight_sums`, if there are any.
    fn backward(
        &self,
        log_sum_exp: FlexTensor,
        cotangent: FlexTensor,
        mut weight_sums: Option<&mut [f32]>,
    ) -> FlexTensor {
        let (log_sum_exp, cotangent) = (Floats::new(log_sum_exp), Floats::new(cotangent));
        let mut hidden_gradient = vec![0.0; self.rows * self.width];
        for tokens in pieces(self.vocabulary, BACKWARD_VOCABULARY) {
            let weight = Rows::new(in_f32(tile_of(&self.weight, &tokens)));
            let mut weight_sums =
                weight_sums.as_deref_mut().map(|sums| &mut sums[tokens.start * self.width..tokens.end * self.width]);
            // Rows of several tiles are summed before they join what is there: the sum of a batch does not depend on it.
            let num_sums = weight_sums.as_ref().filter(|_| self.rows > BACKWARD_ROWS).map(|sums| sums.len());
            let mut of_tiles = num_sums.map(|count| vec![0.0; count]);
            for rows in pieces(self.rows, BACKWARD_ROWS) {
                let hidden = Rows::new(tile_of(&self.hidden, &rows));
                let mut logits = scaled_product::<f32>(&hidden, &weight, None, [rows.len(), tokens.len(), self.width]);
                logits
                    .par_chunks_exact_mut(tokens.len())
                    .zip(&self.targets[rows.clone()])
                    .zip(&log_sum_exp[rows.clone()])
                    .zip(&cotangent[rows.clone()])
                    .for_each(|(((logits, &target), &log_sum_exp), &cotangent)| {
                        let scale = self.scale;
                        run(Slope { logits, scale, log_sum_exp, factor: -cotangent * scale });
                        if tokens.contains(&target) {
                            logits[target - tokens.start] += cotangent * scale;
                        }
                    });
                let slopes = Rows::new(from_vec(logits, [rows.len(), tokens.len()]));
                let part = multiply::<f32>(&slopes, &weight, rows.len(), self.width, tokens.len());
                add_in_order(&mut hidden_gradient[rows.start * self.width..rows.end * self.width], &part);
                if let Some(target) = of_tiles.as_deref_mut().or(weight_sums.as_deref_mut()) {
                    add_transposed_product(target, &slopes, &hidden, [tokens.len(), self.width, rows.len()]);
                }
            }
            if let (Some(weight_sums), Some(of_tiles)) = (weight_sums, of_tiles) {
                add_in_order(weight_sums, &of_tiles);
            }
        }
        from_vec(hidden_gradient, [self.rows, self.width])
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
