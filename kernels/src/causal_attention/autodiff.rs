//! Records the hand-written backward pass.

use super::{AttentionSaved, AttentionTensors, CausalAttentionGradient, CausalAttentionOps};
use crate::autodiff::record_one;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

impl<B, C> CausalAttentionOps for Autodiff<B, C>
where
    B: CausalAttentionOps + CausalAttentionGradient,
    C: CheckpointStrategy,
{
    fn causal_attention(tensors: AttentionTensors<Self>, prefix_lengths: Vec<usize>, scale: f64) -> FloatTensor<Self> {
        let (q, q_node) = tensors.q.into_parts();
        let (k, k_node) = tensors.k.into_parts();
        let (v, v_node) = tensors.v.into_parts();
        let (prefix_k, prefix_k_node) = tensors.prefix_k.into_parts();
        let (prefix_v, prefix_v_node) = tensors.prefix_v.into_parts();
        let tensors = AttentionTensors::<B> { q, k, v, prefix_k, prefix_v };
        let (y, log_sum_exp) = B::causal_attention_forward(tensors.clone(), &prefix_lengths, scale);
        record_one::<B, C, _, 5>(
            [q_node, k_node, v_node, prefix_k_node, prefix_v_node],
            y.clone(),
            AttentionSaved { tensors, prefix_lengths, scale, y, log_sum_exp },
            B::causal_attention_backward,
        )
    }
}
