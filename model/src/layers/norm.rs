//! RMSNorm: `w * x / sqrt(mean(x^2) + eps)`, statistics in at least f32.

use burn::tensor::Tensor;

use crate::error::ModelError;
use crate::parameters::{Initialization, ParameterMut, Visitor, WeightBuilder, join};

/// Root-mean-square normalisation over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Gain `[width]`, used as stored.
    pub weight: Tensor<1>,
    epsilon: f64,
}

impl RmsNorm {
    /// Builds the norm with its gain under `path`.
    pub fn build(path: &str, width: usize, epsilon: f64, weights: &mut WeightBuilder<'_>) -> Result<Self, ModelError> {
        Ok(Self { weight: weights.tensor(&join(path, "weight"), [width], Initialization::Ones)?, epsilon })
    }

    /// # Shapes
    /// - x: `[batch, tokens, width]`, in and out
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        nemo_kernels::rms_norm(x, self.weight.clone(), self.epsilon)
    }

    /// The norm of `residual + x`, and that sum: `(sum, normed)`.
    ///
    /// # Shapes
    /// - all: `[batch, tokens, width]`
    pub fn forward_sum(&self, x: Tensor<3>, residual: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        nemo_kernels::add_rms_norm(x, residual, self.weight.clone(), self.epsilon)
    }

    /// Visits the gain.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        visitor(&join(path, "weight"), ParameterMut::Vector(&mut self.weight));
    }
}
