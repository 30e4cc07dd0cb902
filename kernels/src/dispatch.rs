//! Where hand-written kernels exist.

use burn::tensor::Tensor;

use crate::cpu::is_host_f32;

/// Whether a tensor is where, and in the precision that, a hand-written kernel works on: f32 on the host, or f32, f16
/// and bf16 on a CubeCL device. Everything else takes the reference.
pub(crate) fn has_kernel<const D: usize>(tensor: &Tensor<D>) -> bool {
    is_host_f32(tensor) || is_on_cube(tensor)
}

/// Whether a tensor lives on a CubeCL device in a precision its kernels store, tracked by autodiff or not.
#[cfg(feature = "cube")]
pub(crate) fn is_on_cube<const D: usize>(tensor: &Tensor<D>) -> bool {
    use burn::backend::DispatchTensorKind;
    use burn::tensor::DType;

    fn on_cube(kind: &DispatchTensorKind) -> bool {
        match kind {
            DispatchTensorKind::Cube(_) => true,
            DispatchTensorKind::Autodiff(inner) => on_cube(inner),
            #[allow(unreachable_patterns, reason = "other backends are optional")]
            _ => false,
        }
    }
    matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) && on_cube(&tensor.clone().into_dispatch().kind)
}

/// Whether a tensor lives on a CubeCL device: never, without a feature that offers one.
#[cfg(not(feature = "cube"))]
pub(crate) fn is_on_cube<const D: usize>(_: &Tensor<D>) -> bool {
    false
}
