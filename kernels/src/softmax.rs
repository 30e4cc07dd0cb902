//! A row of logits as a distribution.
//!
//! Sampling and [`linear_log_prob`](fn@crate::linear_log_prob) share this arithmetic: a token drawn by the engine has the
//! log-probability of the training forward, bit for bit.

use crate::simd::{self, Kernel, LANES, Lanes, tree_sum};

/// Weights whose f32 sum goes into the f64 total at once.
pub(crate) const BLOCK: usize = 128;

/// The coldest temperature there is to compute with. Below it, quotients of logits leave the range of f32; at it, whatever
/// differs from the largest logit has no weight already, so every colder one is the same distribution.
pub(crate) const COLDEST: f64 = 1e-30;

/// The reciprocal of a temperature above 0; of one that is no number, none either.
pub(crate) fn inverse_temperature(temperature: f32) -> f32 {
    1.0 / temperature.clamp(COLDEST as f32, f32::INFINITY)
}

/// What a row's normalisation needs, with `logit` scaled by the reciprocal temperature.
#[derive(Clone, Copy)]
pub(crate) struct Softmax {
    /// Largest logit.
    pub largest: f32,
    /// Sum of `exp(logit - largest)`.
    pub total: f64,
    /// Sum of `exp(logit - largest) (logit - largest)`.
    moment: f64,
}

impl Softmax {
    /// Replaces a row of unscaled logits by its weights `exp(logit - largest)`; `largest` is the row's, unscaled.
    pub(crate) fn weigh(row: &mut [f32], largest: f32, inverse_temperature: f32) -> Self {
        simd::run(Weigh { row, largest: largest * inverse_temperature, inverse_temperature })
    }

    /// Natural logarithm of the probability of a scaled logit, over weights that sum to `total`.
    pub(crate) fn log_prob(&self, logit: f32, total: f64) -> f32 {
        (f64::from(logit - self.largest) - simd::ln(total)) as f32
    }

    /// Natural logarithm of the sum of `exp(logit)`.
    pub(crate) fn log_sum_exp(&self) -> f32 {
        (f64::from(self.largest) + simd::ln(self.total)) as f32
    }

    /// In nats.
    pub(crate) fn entropy(&self) -> f32 {
        (simd::ln(self.total) - self.moment / self.total) as f32
    }
}

/// The largest value of a row, negative infinity for an empty one; a NaN may be passed over.
pub(crate) fn largest(row: &[f32]) -> f32 {
    simd::run(Largest(row))
}

/// The f32 sum of up to [`BLOCK`] weights.
pub(crate) fn block_sum(weights: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for weights in weights.chunks(LANES) {
        for (lane, weight) in lanes.iter_mut().zip(weights) {
            *lane += weight;
        }
    }
    tree_sum(lanes)
}

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let mut largest = L::splat(f32::NEG_INFINITY);
        let (blocks, rest) = self.0.as_chunks::<LANES>();
        for block in blocks {
            largest = L::from_array(block).max(largest);
        }
        let mut result = largest.largest();
        for &value in rest {
            result = if value > result { value } else { result };
        }
        result
    }
}

struct Weigh<'a> {
    row: &'a mut [f32],
    /// Scaled.
    largest: f32,
    inverse_temperature: f32,
}

impl Kernel for Weigh<'_> {
    type Output = Softmax;

    #[inline(always)]
    fn run<L: Lanes>(self) -> Softmax {
        let (largest, scale) = (L::splat(self.largest), L::splat(self.inverse_temperature));
        let (mut total, mut moment) = (0.0, 0.0);
        for block in self.row.chunks_mut(BLOCK) {
            let (mut sum, mut weighted) = (L::splat(0.0), L::splat(0.0));
            let (vectors, rest) = block.as_chunks_mut::<LANES>();
            for values in vectors {
                let shifted = shift(L::from_array(values), scale, largest);
                let weight = shifted.exp();
                *values = weight.to_array();
                sum = sum.add(weight);
                weighted = weight.mul_add(shifted, weighted);
            }
            if !rest.is_empty() {
                let mut values = [f32::NEG_INFINITY; LANES];
                values[..rest.len()].copy_from_slice(rest);
                let shifted = shift(L::from_array(&values), scale, largest);
                let weight = shifted.exp();
                rest.copy_from_slice(&weight.to_array()[..rest.len()]);
                sum = sum.add(weight);
                weighted = weight.mul_add(shifted, weighted);
            }
            total += f64::from(sum.sum());
            moment += f64::from(weighted.sum());
        }
        Softmax { largest: self.largest, total, moment }
    }
}

/// Scaled logits below the largest; bounded, so that a weight of zero times a logit of negative infinity is zero.
#[inline(always)]
fn shift<L: Lanes>(logits: L, scale: L, largest: L) -> L {
    L::splat(f32::MIN).max(logits.mul(scale).sub(largest))
}
