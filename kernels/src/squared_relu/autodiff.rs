//! Records the hand-written backward pass.

use super::{SquaredReluGradient, SquaredReluOps};
use crate::autodiff::record_one;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

impl<B, C> SquaredReluOps for Autodiff<B, C>
where
    B: SquaredReluOps + SquaredReluGradient,
    C: CheckpointStrategy,
{
    fn squared_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = B::squared_relu(x.clone());
        record_one::<B, C, _, 1>([node], y, x, |x, cotangent| [B::squared_relu_backward(x, cotangent)])
    }
}
