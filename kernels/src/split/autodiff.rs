//! Records the join of the gradients.

use burn::backend::TensorMetadata;
use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;

use super::{SplitGradient, SplitOps, Three};
use crate::autodiff::record_many;

impl<B, C> SplitOps for Autodiff<B, C>
where
    B: SplitOps + SplitGradient,
    C: CheckpointStrategy,
{
    fn split_three(x: FloatTensor<Self>, widths: [usize; 3]) -> Three<Self> {
        let (x, node) = x.into_parts();
        let (shape, dtype) = ([x.shape()[0], x.shape()[1]], x.dtype());
        let (first, second, third) = B::split_three(x, widths);
        let [first, second, third] = record_many::<B, C, _, 1, 3>(
            [node],
            [first, second, third],
            (shape, widths, dtype),
            |(shape, widths, dtype), cotangents| [B::join_three(cotangents, shape, widths, dtype)],
        );
        (first, second, third)
    }
}
