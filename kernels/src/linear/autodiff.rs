//! The backward pass: `dx = dy W`, `dW = dy^T x`, each only when asked for, or the factors of the second. A weight in eight
//! bits has no gradient, and its scales count as constants.

use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::LinearOps;
use crate::autodiff::record_one;

#[derive(Debug)]
struct Linear;

impl<B: LinearOps> Backward<B, 2> for Linear {
    /// The input, kept for the weight's gradient, and the weight, kept for the input's.
    type State = (Option<NodeId>, Option<NodeId>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, weight) = ops.state;
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<B>(&ops.node);
        if let (Some(node), Some(weight)) = (x_node, weight) {
            let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
            grads.register::<B>(node.id, B::linear_grad_input(dy.clone(), weight));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
            grads.register::<B>(node.id, B::linear_grad_weight(dy, x));
        }
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        match Linear.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let kept_x = weight_tracked.then(|| prep.checkpoint(&x));
                let kept_weight = x_tracked.then(|| prep.checkpoint(&weight));
                let y = B::linear_forward(x.into_primitive(), weight.into_primitive());
                prep.finish((kept_x, kept_weight), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_forward(x.into_primitive(), weight.into_primitive())),
        }
    }

    fn linear_deferred_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy_leaf: FloatTensor<Self>,
        x_leaf: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), dy_leaf.node(), x_leaf.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = B::linear_forward(x.clone(), weight.clone());
        record_one::<B, C, _, 3>(nodes, y, (x, weight), |(x, weight), dy| {
            [B::linear_grad_input(dy.clone(), weight), dy, x]
        })
    }

    fn linear_int8_forward(
        x: FloatTensor<Self>,
        values: IntTensor<Self>,
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (node, scales) = (x.node(), scales.into_primitive());
        let y = B::linear_int8_forward(x.into_primitive(), values.clone(), scales.clone());
        record_one::<B, C, _, 1>([node], y, (values, scales), |(values, scales), dy| {
            [B::linear_int8_grad_input(dy, values, scales)]
        })
    }
}
