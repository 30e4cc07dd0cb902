//! Affine projection with weights in checkpoint layout `[out, in]`.
//!
//! `y = x W^T + b`. The layout is that of published checkpoints, so weights enter and leave unchanged. On the host every
//! element of a result is formed by one fixed order of additions, whatever the number of rows, so that a token gives
//! the same bits alone, in a batch and in a prefill chunk.

mod autodiff;
pub(crate) mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::error::assert_shape;

/// Backends that can run [`linear`].
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait LinearOps: Backend {
    /// `x W^T`: `[batch, tokens, in]`, `[out, in]` to `[batch, tokens, out]`.
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_primitive::<Self>(x, weight)
    }

    /// `dy W`: `[batch, tokens, out]`, `[out, in]` to `[batch, tokens, in]`.
    fn linear_grad_input(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_grad_input::<Self>(dy, weight)
    }

    /// `dy^T x` over all rows: `[batch, tokens, out]`, `[batch, tokens, in]` to `[out, in]`.
    fn linear_grad_weight(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_grad_weight::<Self>(dy, x)
    }
}

/// Applies `x W^T + b` to every row of `x`. Differentiable in all three arguments.
///
/// # Shapes
/// - `x`: `[batch, tokens, in]`
/// - `weight`: `[out, in]`
/// - `bias`: `[out]`
/// - returns `[batch, tokens, out]`
///
/// # Panics
/// When shapes disagree.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [_, _, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    assert_shape("linear", "weight", &weight.dims(), &[outputs, inputs]);
    let y = <Dispatch as LinearOps>::linear_forward(x.into_dispatch(), weight.into_dispatch());
    let y = Tensor::from_dispatch(y);
    match bias {
        None => y,
        Some(bias) => {
            assert_shape("linear", "bias", &bias.dims(), &[outputs]);
            y + bias.unsqueeze()
        }
    }
}
