//! Records the hand-written backward pass.

use super::{GatedRmsNormGradient, GatedRmsNormOps};
use crate::autodiff::record_one;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

impl<B, C> GatedRmsNormOps for Autodiff<B, C>
where
    B: GatedRmsNormOps + GatedRmsNormGradient,
    C: CheckpointStrategy,
{
    fn gated_rms_norm(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (gate, gate_node) = gate.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let y = B::gated_rms_norm(x.clone(), gate.clone(), weight.clone(), num_groups, epsilon);
        record_one::<B, C, _, 3>(
            [x_node, gate_node, weight_node],
            y,
            (x, gate, weight, num_groups, epsilon),
            |(x, gate, weight, num_groups, epsilon), cotangent| {
                B::gated_rms_norm_backward(x, gate, weight, num_groups, epsilon, cotangent)
            },
        )
    }
}
