//! Plain tensor operations, in the order of the paper.

use crate::precision::{accumulation_dtype, cast_to};
use burn::tensor::{DType, Tensor};

/// See [`rms_norm`](super::rms_norm()).
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let dtype = x.dtype();
    normalize(x, weight, epsilon, dtype)
}

/// See [`add_rms_norm`](super::add_rms_norm()).
pub fn add_rms_norm(x: Tensor<3>, residual: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> (Tensor<3>, Tensor<3>) {
    let (dtype, stored) = (x.dtype(), residual.dtype());
    let wide = accumulation_dtype(stored);
    let sum = cast_to(cast_to(residual, wide) + cast_to(x, wide), stored);
    let normed = normalize(sum.clone(), weight, epsilon, dtype);
    (sum, normed)
}

fn normalize(x: Tensor<3>, weight: Tensor<1>, epsilon: f64, dtype: DType) -> Tensor<3> {
    let wide = accumulation_dtype(x.dtype());
    let x = cast_to(x, wide);
    let mean_square = x.clone().square().mean_dim(2);
    let normed = x / (mean_square + epsilon).sqrt();
    cast_to(normed * cast_to(weight, wide).unsqueeze(), dtype)
}
