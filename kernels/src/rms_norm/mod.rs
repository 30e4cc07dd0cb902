//! Root-mean-square normalisation over the last axis, alone or of a residual stream to which something is added first.
//!
//! `y = w * x / sqrt(mean(x^2) + epsilon)` (Zhang and Sennrich 2019, arXiv:1910.07467). Statistics
//! are formed in f32 whatever the input's precision (f64 stays f64).

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use crate::error::{assert_shape, assert_size};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Normalises every vector of the last axis to unit root mean square and scales it by `weight`.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`
/// - `weight`: `[width]`, used as stored (not `1 + weight`)
/// - result: `[batch, tokens, width]`, dtype of `x`
///
/// # Panics
/// When `weight` is not as wide as `x`, or both are empty.
pub fn rms_norm(x: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let [_, _, width] = x.dims();
    assert_shape("rms_norm", "weight", &weight.dims(), &[width]);
    assert_size("rms_norm", "width", width, width > 0, "there must be something to normalise");
    if has_kernel(&x) && has_kernel(&weight) {
        let y = Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon);
        return Tensor::from_dispatch(y);
    }
    reference::rms_norm(x, weight, epsilon)
}

/// Adds to a residual stream and normalises what comes out: `(sum, rms_norm(sum, weight, epsilon))` with
/// `sum = residual + x`, in one pass over the memory.
///
/// The sum is normalised as it is stored, so the results are those of an addition and a [`rms_norm`](fn@rms_norm).
/// Gradients reach all three inputs through both results.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`
/// - `residual`: the shape of `x`, in its own dtype
/// - `weight`: `[width]`, used as stored (not `1 + weight`)
/// - results: the sum in the dtype of `residual`, its norm in the dtype of `x`
///
/// # Panics
/// When `residual` has another shape than `x`, or `weight` is not as wide, or the width is 0.
pub fn add_rms_norm(x: Tensor<3>, residual: Tensor<3>, weight: Tensor<1>, epsilon: f64) -> (Tensor<3>, Tensor<3>) {
    let [_, _, width] = x.dims();
    assert_shape("add_rms_norm", "residual", &residual.dims(), &x.dims());
    assert_shape("add_rms_norm", "weight", &weight.dims(), &[width]);
    assert_size("add_rms_norm", "width", width, width > 0, "there must be something to normalise");
    if has_kernel(&x) && has_kernel(&residual) && has_kernel(&weight) {
        let (sum, normed) =
            Dispatch::add_rms_norm(x.into_dispatch(), residual.into_dispatch(), weight.into_dispatch(), epsilon);
        return (Tensor::from_dispatch(sum), Tensor::from_dispatch(normed));
    }
    reference::add_rms_norm(x, residual, weight, epsilon)
}

/// The operations on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait RmsNormOps: Backend {
    /// See [`rms_norm`](fn@rms_norm).
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// See [`add_rms_norm`](fn@add_rms_norm); returns the sum and its norm.
    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// The gradient of [`RmsNormOps`].
pub trait RmsNormGradient: Backend {
    /// Gradients of `x` and `weight`. What `x` gets from its other uses, if given, is added to its gradient.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
        addend: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 2];
}
