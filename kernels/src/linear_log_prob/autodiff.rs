//! Records the hand-written backward pass. The entropy leaves as a constant.

use super::{LinearLogProbGradient, LinearLogProbOps};
use crate::autodiff::record_one;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{AutodiffBackend, TensorMetadata};
use burn::tensor::DType;

impl<B, C> LinearLogProbOps for Autodiff<B, C>
where
    B: LinearLogProbOps + LinearLogProbGradient,
    C: CheckpointStrategy,
{
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (hidden, hidden_node) = hidden.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (log_prob, entropy, log_sum_exp) =
            B::linear_log_prob_forward(hidden.clone(), weight.clone(), targets.clone(), temperature);
        let log_prob = record_one::<B, C, _, 2>(
            [hidden_node, weight_node],
            log_prob,
            (hidden, weight, targets, temperature, log_sum_exp),
            |(hidden, weight, targets, temperature, log_sum_exp), cotangent| {
                let dtype = weight.dtype();
                // The host's own zeros exist twice for a moment.
                let sum = B::float_full(weight.shape(), 0.0.into(), &weight.device(), DType::F32.into());
                let (hidden_gradient, weight_gradient) =
                    B::linear_log_prob_backward(hidden, weight, targets, temperature, log_sum_exp, cotangent, sum);
                let narrow = dtype != DType::F32;
                [hidden_gradient, if narrow { B::float_cast(weight_gradient, dtype.into()) } else { weight_gradient }]
            },
        );
        (log_prob, Self::from_inner(entropy))
    }
}
