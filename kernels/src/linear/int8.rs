//! Weights in eight bits: a whole number per element and one factor per row, for generation and for training what lies
//! beside them.
//!
//! `w[o, i] ~ scales[o] * values[o, i]` with `scales[o] = max_i |w[o, i]| / 127` (absmax quantisation, row by row;
//! [2208.07339](https://arxiv.org/abs/2208.07339)). Inputs, sums and results stay f32: a weight is off by half a step at most,
//! and nothing else is rounded more than before.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{LinearOps, add_bias};
use crate::error::assert_shape;

/// The largest value; -128 is not used, so that signs are alike.
const LARGEST: f32 = 127.0;

/// Elements that are quantised at a time.
const PIECE: usize = 8 << 20;

/// A weight matrix in eight bits.
#[derive(Clone, Debug)]
pub struct Int8Weight {
    values: Tensor<2, Int>,
    scales: Tensor<1>,
}

impl Int8Weight {
    /// Quantises `weight` on the host, row by row: `values = round(weight / scales)`, halves to even.
    ///
    /// A row of zeros stays zeros. A row with an element that is not finite gets a scale that is not a number, and so do
    /// the results, whoever looks at them.
    ///
    /// # Shapes
    /// - `weight`: `[out, in]`, any float
    #[must_use]
    pub fn quantize(weight: Tensor<2>) -> Self {
        let ([outputs, inputs], device) = (weight.dims(), weight.device().inner());
        let mut values = vec![0i8; outputs * inputs];
        let mut scales = vec![0.0; outputs];
        // Some rows at a time are widened: the matrix does not have to exist in f32.
        let rows_per_piece = (PIECE / inputs.max(1)).max(1);
        let pieces = values.chunks_mut((rows_per_piece * inputs).max(1)).zip(scales.chunks_mut(rows_per_piece));
        for (piece, (values, scales)) in pieces.enumerate() {
            let rows = weight.clone().narrow(0, piece * rows_per_piece, scales.len());
            let rows = match rows.cast(DType::F32).into_data().try_into_vec::<f32>() {
                Ok(rows) => rows,
                Err(error) => unreachable!("a tensor that was cast to f32 holds something else: {error:?}"),
            };
            let rows = values.par_chunks_mut(inputs.max(1)).zip(rows.par_chunks(inputs.max(1)));
            rows.zip(scales).for_each(|((values, weight), scale)| *scale = quantize_row(weight, values));
        }
        Self {
            values: Tensor::from_data(TensorData::new(values, [outputs, inputs]), (&device, DType::I8)),
            scales: Tensor::from_data(TensorData::new(scales, [outputs]), (&device, DType::F32)),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.values.dims()
    }

    /// `[out, in]` in i8, each in -127..=127.
    pub fn values(&self) -> Tensor<2, Int> {
        self.values.clone()
    }

    /// `[out]` in f32: what the values of a row are multiplied by.
    pub fn scales(&self) -> Tensor<1> {
        self.scales.clone()
    }

    /// The rows `indices` as f32, `[indices, in]`.
    #[must_use]
    pub fn select(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        let scales = self.scales.clone().select(0, indices.clone()).unsqueeze_dim(1);
        self.values.clone().select(0, indices).float().cast(DType::F32) * scales
    }

    /// The matrix that the products are formed with, `[out, in]` in f32.
    #[must_use]
    pub fn dequantize(&self) -> Tensor<2> {
        self.values.clone().float().cast(DType::F32) * self.scales.clone().unsqueeze_dim(1)
    }
}

/// Fills `values` and returns their scale.
fn quantize_row(weight: &[f32], values: &mut [i8]) -> f32 {
    if weight.iter().any(|w| !w.is_finite()) {
        return f32::NAN;
    }
    let scale = weight.iter().fold(0.0, |largest: f32, w| largest.max(w.abs())) / LARGEST;
    if scale > 0.0 {
        for (value, w) in values.iter_mut().zip(weight) {
            // A scale with few bits left (a subnormal one) may be too small.
            *value = (w / scale).round_ties_even().clamp(-LARGEST, LARGEST) as i8;
        }
    }
    scale
}

/// Applies `x W^T + b` with a weight in eight bits to every row of `x`:
/// `y[r, o] = scales[o] * sum_i x[r, i] values[o, i] + b[o]`.
///
/// On the host in f32 the sum has the order of [`linear`](fn@crate::linear)'s, whatever the number of rows, and values are
/// widened on the way into the registers; elsewhere it is the plain product with the widened values. Differentiable in `x`
/// (`dx[r, i] = sum_o dy[r, o] scales[o] values[o, i]`) and the bias; the weight is never trained.
///
/// # Shapes
/// - `x`: `[batch, tokens, in]`
/// - `weight`: `[out, in]`
/// - `bias`: `[out]`
/// - returns `[batch, tokens, out]`
///
/// # Panics
/// When shapes disagree.
pub fn linear_int8(x: Tensor<3>, weight: &Int8Weight, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [_, _, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    assert_shape("linear_int8", "weight", &weight.dims(), &[outputs, inputs]);
    let (values, scales) = (weight.values().into_dispatch(), weight.scales().into_dispatch());
    let y = <Dispatch as LinearOps>::linear_int8_forward(x.into_dispatch(), values, scales);
    add_bias("linear_int8", Tensor::from_dispatch(y), outputs, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_to_even_and_extremes_are_kept() {
        let row = [127.0, -127.0, 0.5, 1.5, 2.5, -0.5, 0.0];
        let mut values = [0; 7];
        assert_eq!(quantize_row(&row, &mut values), 1.0);
        assert_eq!(values, [127, -127, 0, 2, 2, 0, 0]);
        assert_eq!(quantize_row(&[0.0; 3], &mut values[..3]), 0.0);
        assert!(quantize_row(&[1.0, f32::NAN], &mut [0; 2]).is_nan());
        assert!(quantize_row(&[1.0, f32::INFINITY], &mut [0; 2]).is_nan());
        // 200 smallest subnormals over 127 is one of them, or two: the quotient would be 200 or 100.
        let tiny = f32::from_bits(180);
        let mut values = [0; 2];
        let scale = quantize_row(&[tiny, -tiny], &mut values);
        assert_eq!((scale, values), (f32::from_bits(1), [127, -127]));
    }
}
