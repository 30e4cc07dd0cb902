//! Plain tensor operations, in the order of the paper.

use crate::precision::{accumulation_dtype, cast_to};
use burn::tensor::Tensor;

/// See [`rms_norm`](super::rms_norm()).
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let dtype = x.dtype();
    let wide = accumulation_dtype(dtype);
    let x = cast_to(x, wide);
    let mean_square = x.clone().square().mean_dim(2);
    let normed = x / (mean_square + epsilon).sqrt();
    cast_to(normed * cast_to(weight, wide).unsqueeze(), dtype)
}
