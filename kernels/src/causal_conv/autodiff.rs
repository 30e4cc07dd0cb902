//! Records the hand-written backward pass.

use super::{CausalConvGradient, CausalConvOps, CausalConvSaved};
use crate::autodiff::record_two;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

impl<B, C> CausalConvOps for Autodiff<B, C>
where
    B: CausalConvOps + CausalConvGradient,
    C: CheckpointStrategy,
{
    fn causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (window, window_node) = window.into_parts();
        let saved = CausalConvSaved::<B> { x, weight, bias, window, lengths };
        let outputs = B::causal_conv(
            saved.x.clone(),
            saved.weight.clone(),
            saved.bias.clone(),
            saved.window.clone(),
            saved.lengths.clone(),
        );
        record_two::<B, C, _, 4>([x_node, weight_node, bias_node, window_node], outputs, saved, B::causal_conv_backward)
    }
}
