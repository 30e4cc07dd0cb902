//! Gate, then grouped root-mean-square normalisation: the output norm of a Mamba-2 mixer.
//!
//! `y = norm_group(x * silu(gate)) * weight`, where `norm_group` divides each run of
//! `width / num_groups` channels by its own `sqrt(mean(square) + epsilon)` (Dao and Gu 2024,
//! arXiv:2405.21060, section 7; gate before norm). Formed in f32 (f64 stays f64).

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use crate::error::{assert_shape, assert_size};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Multiplies `x` by `silu(gate)`, normalises inside each group of channels, scales by `weight`.
///
/// # Shapes
/// - `x`, `gate`: `[batch, tokens, width]`
/// - `weight`: `[width]`
/// - result: `[batch, tokens, width]`, dtype of `x`
///
/// # Panics
/// When the shapes disagree or `num_groups` does not divide `width`.
pub fn gated_rms_norm(x: Tensor<3>, gate: Tensor<3>, weight: Tensor<1>, num_groups: usize, epsilon: f64) -> Tensor<3> {
    let [_, _, width] = x.dims();
    assert_shape("gated_rms_norm", "gate", &gate.dims(), &x.dims());
    assert_shape("gated_rms_norm", "weight", &weight.dims(), &[width]);
    assert_size(
        "gated_rms_norm",
        "num_groups",
        num_groups,
        num_groups > 0 && width.is_multiple_of(num_groups),
        "it must divide the width",
    );
    if has_kernel(&x) && has_kernel(&gate) && has_kernel(&weight) {
        return Tensor::from_dispatch(Dispatch::gated_rms_norm(
            x.into_dispatch(),
            gate.into_dispatch(),
            weight.into_dispatch(),
            num_groups,
            epsilon,
        ));
    }
    reference::gated_rms_norm(x, gate, weight, num_groups, epsilon)
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait GatedRmsNormOps: Backend {
    /// See [`gated_rms_norm`](fn@gated_rms_norm).
    fn gated_rms_norm(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

/// The gradient of [`GatedRmsNormOps`].
pub trait GatedRmsNormGradient: Backend {
    /// Gradients of `x`, `gate` and `weight`.
    fn gated_rms_norm_backward(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}
