//! Plain tensor operations, in the order of the paper.

use crate::precision::{accumulation_dtype, cast_to};
use burn::tensor::{Tensor, activation::silu};

/// See [`gated_rms_norm`](super::gated_rms_norm()).
pub fn gated_rms_norm(x: Tensor<3>, gate: Tensor<3>, weight: Tensor<1>, num_groups: usize, epsilon: f64) -> Tensor<3> {
    let [batch, tokens, width] = x.dims();
    let dtype = x.dtype();
    let wide = accumulation_dtype(dtype);
    let gated = cast_to(x, wide) * silu(cast_to(gate, wide));
    let grouped = gated.reshape([batch, tokens, num_groups, width / num_groups]);
    let mean_square = grouped.clone().square().mean_dim(3);
    let normed = grouped / (mean_square + epsilon).sqrt();
    let normed = normed.reshape([batch, tokens, width]);
    cast_to(normed * cast_to(weight, wide).unsqueeze(), dtype)
}
