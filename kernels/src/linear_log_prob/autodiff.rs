//! Records the hand-written backward pass. The entropy leaves as a constant.

use super::{LinearLogProbGradient, LinearLogProbOps, LogProbSaved};
use crate::autodiff::record_one;
use burn::backend::AutodiffBackend;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::{FloatTensor, IntTensor};

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
        let rows = B::linear_log_prob_forward(hidden.clone(), weight.clone(), targets.clone(), temperature);
        let log_sum_exp = rows.log_sum_exp;
        let log_prob = record_one::<B, C, _, 2>(
            [hidden_node, weight_node],
            rows.log_prob,
            LogProbSaved { hidden, weight, targets, temperature, log_sum_exp },
            B::linear_log_prob_backward,
        );
        (log_prob, Self::from_inner(rows.entropy))
    }
}
