//! Records the hand-written backward pass.

use super::{RmsNormGradient, RmsNormOps};
use crate::autodiff::record_one;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

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
            B::rms_norm_backward(x, weight, epsilon, cotangent)
        })
    }
}
