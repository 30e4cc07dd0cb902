//! A low-rank adapter beside a linear map: `y = x W^T + b + s (x A^T) B^T` (Hu et al. 2021,
//! [2106.09685](https://arxiv.org/abs/2106.09685)).
//!
//! The adapter is never merged into the map it belongs to: sampling and training form the same three products, each of
//! which has the same bits for a token whatever the other rows are.

use burn::tensor::{DType, Tensor};

use super::{FloatMatrix, ParameterMut, Visitor, join};

/// Last parts of the names of the two factors, as PEFT has them.
pub(crate) const FACTOR_NAMES: [&str; 2] = ["lora_A.weight", "lora_B.weight"];

/// The two factors of a change of rank `r` to a matrix `[out, in]`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, in]`.
    a: FloatMatrix,
    /// `[out, r]`.
    b: FloatMatrix,
    /// What the product of the two is multiplied by.
    scale: f64,
}

impl Adapter {
    /// The change `scale * B A`.
    ///
    /// # Shapes
    /// - a: `[r, in]`
    /// - b: `[out, r]`
    ///
    /// # Panics
    /// When the ranks differ.
    pub fn new(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        let ([rank, _], [_, other]) = (a.dims(), b.dims());
        assert_eq!(rank, other, "the factors have shapes {:?} and {:?}, of different ranks", a.dims(), b.dims());
        Self { a: a.into(), b: b.into(), scale }
    }

    /// `s (x A^T) B^T` in the dtype of `x`. The scale goes to the narrow product, which is the smaller of the two.
    ///
    /// # Shapes
    /// - x: `[batch, tokens, in]`
    /// - result: `[batch, tokens, out]`
    pub fn change(&self, x: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        // The factors are in f32 whatever activations are.
        let narrow = self.a.linear(in_dtype(x, self.a.weight.dtype()), None) * self.scale;
        in_dtype(self.b.linear(narrow, None), dtype)
    }

    /// Numbers in both factors.
    pub fn num_parameters(&self) -> usize {
        let ([rank, inputs], [outputs, _]) = (self.a.weight.dims(), self.b.weight.dims());
        rank * (inputs + outputs)
    }

    /// Visits A, then B, under the path of the map that they belong to.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        for (factor, name) in [&mut self.a, &mut self.b].into_iter().zip(FACTOR_NAMES) {
            visitor(&join(path, name), ParameterMut::Matrix(factor));
        }
    }
}

/// Casts only what differs.
fn in_dtype(tensor: Tensor<3>, dtype: DType) -> Tensor<3> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
