//! The residual stream between blocks: a sum, and the output of the last block, which the next norm adds in its pass.

use burn::tensor::Tensor;

use super::RmsNorm;

/// The residual stream `[batch, tokens, hidden]` after some blocks.
#[derive(Clone, Debug)]
pub struct Residual {
    sum: Tensor<3>,
    /// Belongs to the stream, but is not in the sum yet.
    pending: Option<Tensor<3>>,
}

impl Residual {
    /// The stream before the first block.
    pub fn new(hidden: Tensor<3>) -> Self {
        Self { sum: hidden, pending: None }
    }

    /// The stream after a block that read the norm of `sum` and gave `output`.
    pub fn after_block(sum: Tensor<3>, output: Tensor<3>) -> Self {
        Self { sum, pending: Some(output) }
    }

    /// The stream in one tensor, and its norm.
    pub fn normalize(self, norm: &RmsNorm) -> (Tensor<3>, Tensor<3>) {
        match self.pending {
            Some(pending) => norm.forward_sum(pending, self.sum),
            None => (self.sum.clone(), norm.forward(self.sum)),
        }
    }

    /// The stream in one tensor.
    pub fn into_sum(self) -> Tensor<3> {
        match self.pending {
            Some(pending) => self.sum + pending,
            None => self.sum,
        }
    }
}
