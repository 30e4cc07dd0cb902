//! The square of the rectified input: the activation of Nemotron-H's MLPs.
//!
//! `y = max(x, 0)^2` (So et al. 2021, arXiv:2109.08668), with the derivative `2 max(x, 0)`. NaN stays NaN.

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// `max(x, 0)^2`, element by element.
///
/// For the gradient `x` alone is kept. On the host outside autodiff, `x` is overwritten when the given handle is the only one.
///
/// # Shapes
/// - `x`: any
/// - result: shape and dtype of `x`
pub fn squared_relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if has_kernel(&x) {
        return Tensor::from_dispatch(Dispatch::squared_relu(x.into_dispatch()));
    }
    reference::squared_relu(x)
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait SquaredReluOps: Backend {
    /// See [`squared_relu`](fn@squared_relu).
    fn squared_relu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The gradient of [`SquaredReluOps`].
pub trait SquaredReluGradient: Backend {
    /// Gradient of `x`.
    fn squared_relu_backward(x: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self>;
}
