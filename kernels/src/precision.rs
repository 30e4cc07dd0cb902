//! Which precision the references accumulate in.

use burn::tensor::{DType, Tensor};

/// The dtype in which statistics, states and softmaxes of inputs of `dtype` are formed:
/// f64 for f64, f32 for everything narrower.
pub(crate) fn accumulation_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Casts only when the dtype differs, so that no operation enters the graph otherwise.
pub(crate) fn cast_to<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
