//! In which types a model is kept and computed.

use burn::tensor::DType;

use super::WeightStorage;

/// The element types of a model in memory. No operation takes one of them for another.
///
/// Norms, softmax, log-probabilities and losses are formed in f32 whatever these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtypes {
    /// How projections and experts are kept.
    pub matrices: WeightStorage,
    /// How embedding and head are kept.
    pub tables: WeightStorage,
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

    /// The types of a model whose matrices stay as they are beside adapters that are trained. Under projections in eight
    /// bits, embedding and head are kept in bf16: the head's log-probabilities are differentiated, tile by tile.
    #[must_use]
    pub fn beside_adapter(self) -> Self {
        match self.tables {
            WeightStorage::Int8 => Self { tables: WeightStorage::Bf16, ..self },
            WeightStorage::Full | WeightStorage::Bf16 => self,
        }
    }

    const fn with(matrices: WeightStorage, dtype: DType) -> Self {
        Self { matrices, tables: matrices, activations: dtype, keys_values: dtype, states: dtype }
    }

    /// The type of floats kept as `storage` says; `None` for eight bits.
    pub fn float_of(self, storage: WeightStorage) -> Option<DType> {
        match storage {
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
