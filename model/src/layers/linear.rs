//! A linear map with Hugging Face's weight layout `[out, in]`, and the adapter that it may have.

use burn::tensor::Tensor;

use crate::error::ModelError;
use crate::parameters::{Adapter, Initialization, Matrix, ParameterMut, Visitor, WeightBuilder, join};

/// What is shown the linear maps of a block, under the paths that checkpoints have.
pub type LinearMaps<'v> = dyn FnMut(&str, &mut Linear) + 'v;

/// `y = x W^T + b`, and the change of an adapter if there is one.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Matrix,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// What is trained in place of the weight.
    pub adapter: Option<Adapter>,
}

impl Linear {
    /// Builds the map with its tensors under `path`; fresh weights are those of the family's own code.
    pub fn build(
        path: &str,
        [out_size, in_size]: [usize; 2],
        bias: bool,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        Self::build_from(path, [out_size, in_size], bias, Initialization::fan_in(in_size), weights)
    }

    /// The same with another initialization.
    pub fn build_from(
        path: &str,
        [out_size, in_size]: [usize; 2],
        bias: bool,
        initialization: Initialization,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            weight: weights.matrix(&join(path, "weight"), [out_size, in_size], initialization)?,
            bias: weights.optional(bias, &join(path, "bias"), [out_size], Initialization::Zeros)?,
            adapter: None,
        })
    }

    /// # Shapes
    /// - x: `[batch, tokens, in]`
    /// - result: `[batch, tokens, out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.adapter {
            None => self.weight.linear(x, self.bias.clone()),
            Some(adapter) => self.weight.linear(x.clone(), self.bias.clone()) + adapter.change(x),
        }
    }

    /// Visits weight (unless it is in eight bits), then bias; an adapter is none of the map's own parameters.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.weight.visit_mut(&join(path, "weight"), visitor);
        if let Some(bias) = &mut self.bias {
            visitor(&join(path, "bias"), ParameterMut::Vector(bias));
        }
    }
}
