//! In which types a model is kept and computed.

use burn::tensor::DType;

use super::WeightStorage;

/// The element types of a model in memory. No operation takes one of them for another.
///
/// Norms, softmax, log-probabilities and losses are formed in f32 whatever these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtypes {
    /// How projections, experts, embedding and head are kept.
    pub matrices: WeightStorage,
    /// The residual stream, what blocks compute from it, and all parameters but the matrices, which are small.
    pub activations: DType,
    /// Keys and values of attention.
    pub keys_values: DType,
    /// Convolution windows and SSM states.
    pub states: DType,
}

impl Dtypes {
    /// Everything in f32.
    pub const F32: Self = Self::with(WeightStorage::Full, DType::F32);

    /// Matrices kept as `matrices` says, everything else in f32: what is narrow is widened on the way into a product.
    pub const fn stored(matrices: WeightStorage) -> Self {
        Self::with(matrices, DType::F32)
    }

    /// Everything in one type, which has to be as wide as the states are to be: f32 or f64.
    pub const fn uniform(dtype: DType) -> Self {
        Self::with(WeightStorage::Full, dtype)
    }

    const fn with(matrices: WeightStorage, dtype: DType) -> Self {
        Self { matrices, activations: dtype, keys_values: dtype, states: dtype }
    }

    /// The type of a matrix of floats; `None` for eight bits.
    pub fn matrix_float(self) -> Option<DType> {
        match self.matrices {
            WeightStorage::Full => Some(self.activations),
            WeightStorage::Bf16 => Some(DType::BF16),
            WeightStorage::Int8 => None,
        }
    }

    /// The type of sums of gradients: f32, or f64 where activations are.
    pub fn gradients(self) -> DType {
        if self.activations == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
