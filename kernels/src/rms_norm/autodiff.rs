//! Records the hand-written backward pass.

use super::{RmsNormGradient, RmsNormOps};
use crate::autodiff::{record_one, record_two};
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::{TensorMetadata, tensor::FloatTensor};

impl<B, C> RmsNormOps for Autodiff<B, C>
where
    B: RmsNormOps + RmsNormGradient,
    C: CheckpointStrategy,
{
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let y = B::rms_norm(x.clone(), weight.clone(), epsilon);
        record_one::<B, C, _, 2>([x_node, weight_node], y, (x, weight, epsilon), |(x, weight, epsilon), cotangent| {
            B::rms_norm_backward(x, weight, epsilon, cotangent, None)
        })
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, x_node) = x.into_parts();
        let (residual, residual_node) = residual.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let dtype = x.dtype();
        let (sum, normed) = B::add_rms_norm(x, residual, weight.clone(), epsilon);
        record_two::<B, C, _, 3>(
            [x_node, residual_node, weight_node],
            (sum.clone(), normed),
            (sum, weight, epsilon, dtype),
            |(sum, weight, epsilon, dtype), of_sum, of_normed| {
                let zeros = |like: &FloatTensor<B>| B::float_zeros(like.shape(), &like.device(), like.dtype().into());
                let [gradient, weight_gradient] = match of_normed {
                    Some(cotangent) => B::rms_norm_backward(sum, weight, epsilon, cotangent, of_sum),
                    None => [of_sum.unwrap_or_else(|| zeros(&sum)), zeros(&weight)],
                };
                // The two terms of a sum have the same gradient, each in its own precision.
                let x_gradient = gradient.clone();
                let x_gradient =
                    if dtype == gradient.dtype() { x_gradient } else { B::float_cast(x_gradient, dtype.into()) };
                [x_gradient, gradient, weight_gradient]
            },
        )
    }
}
