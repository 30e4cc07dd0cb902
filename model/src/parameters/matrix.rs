//! Weight matrices as they are kept in memory: in full, or narrower for a model that only generates.
//!
//! What is narrow is widened on the way into a product, so activations, states and sums are the same whatever the storage.

use burn::tensor::{DType, Device, Int, Tensor};
use nemo_kernels::{Int8Weight, WeightFactors};

use super::{ParameterMut, Visitor};

/// How a model keeps its projections, experts, embedding and head. Everything else (norms, biases, convolutions, parameters
/// of the state space, routers) is small and always kept in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightStorage {
    /// In the type that the model computes in.
    #[default]
    Full,
    /// In bf16, rounded to nearest even: two bytes an element. Loses nothing of a checkpoint in bf16.
    Bf16,
    /// In eight bits with a scale per row ([`Int8Weight`]): one byte an element, which cannot be trained but may lie beside
    /// adapters that are.
    Int8,
}

/// A matrix `[out, in]` of floats: those that the model computes in, or bf16.
#[derive(Clone, Debug)]
pub struct FloatMatrix {
    /// The elements.
    pub weight: Tensor<2>,
    /// In a graph that does not form the weight's gradient: where the factors of that gradient are left.
    pub(super) factors: Option<WeightFactors>,
}

impl From<Tensor<2>> for FloatMatrix {
    fn from(weight: Tensor<2>) -> Self {
        Self { weight, factors: None }
    }
}

impl FloatMatrix {
    /// See [`Matrix::linear`].
    pub(super) fn linear(&self, x: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
        match &self.factors {
            None => nemo_kernels::linear(x, self.weight.clone(), bias),
            Some(factors) => nemo_kernels::linear_deferred(x, self.weight.clone(), bias, factors),
        }
    }
}

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors: small beside what they point to")]
pub enum Matrix {
    /// Floats.
    Float(FloatMatrix),
    /// Eight bits.
    Int8(Int8Weight),
}

impl Matrix {
    /// Takes a matrix into storage.
    pub fn store(weight: Tensor<2>, storage: WeightStorage) -> Self {
        match storage {
            WeightStorage::Full => Self::Float(weight.into()),
            WeightStorage::Bf16 => Self::Float(in_dtype(weight, DType::BF16).into()),
            WeightStorage::Int8 => Self::Int8(Int8Weight::quantize(weight)),
        }
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        match self {
            Self::Float(matrix) => matrix.weight.device(),
            Self::Int8(weight) => weight.scales().device(),
        }
    }

    /// `x W^T + b`.
    ///
    /// # Shapes
    /// - x: `[batch, tokens, in]`
    /// - bias: `[out]`
    /// - result: `[batch, tokens, out]`
    pub fn linear(&self, x: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
        match self {
            Self::Float(matrix) => matrix.linear(x, bias),
            Self::Int8(weight) => nemo_kernels::linear_int8(x, weight, bias),
        }
    }

    /// The rows `indices` in `dtype`: `[indices, in]`.
    pub fn select(&self, indices: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
        in_dtype(
            match self {
                Self::Float(matrix) => matrix.weight.clone().select(0, indices),
                Self::Int8(weight) => weight.select(indices),
            },
            dtype,
        )
    }

    /// The whole matrix; a wide copy of one in eight bits.
    pub fn tensor(&self) -> Tensor<2> {
        match self {
            Self::Float(matrix) => matrix.weight.clone(),
            Self::Int8(weight) => weight.dequantize(),
        }
    }

    /// Shows the matrix as a parameter called `name`; eight bits are none.
    pub fn visit_mut(&mut self, name: &str, visitor: &mut Visitor<'_>) {
        match self {
            Self::Float(matrix) => visitor(name, ParameterMut::Matrix(matrix)),
            Self::Int8(_) => {}
        }
    }
}

/// Casts only what differs.
fn in_dtype(tensor: Tensor<2>, dtype: DType) -> Tensor<2> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
