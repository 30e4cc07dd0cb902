//! Squared-ReLU MLP without a gate: `down(relu(up(x))^2)`.

use burn::tensor::Tensor;

use super::{Linear, LinearMaps};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parallel::ForwardContext;
use crate::parameters::{Visitor, WeightBuilder, join};

/// An MLP block, also the shape of every expert.
#[derive(Clone, Debug)]
pub struct Mlp {
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    /// Builds an MLP of the given inner width with its tensors under `path`.
    pub fn build(
        path: &str,
        config: &ModelConfig,
        width: usize,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        Self::build_sized(path, config.hidden_size, width, config, weights)
    }

    /// The same for an outer width other than the model's (latent experts).
    pub fn build_sized(
        path: &str,
        hidden: usize,
        width: usize,
        config: &ModelConfig,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            up_proj: Linear::build(&join(path, "up_proj"), [width, hidden], config.mlp_bias, weights)?,
            down_proj: Linear::build(&join(path, "down_proj"), [hidden, width], config.mlp_bias, weights)?,
        })
    }

    /// # Shapes
    /// - x: `[batch, tokens, hidden]`, in and out
    pub fn forward(&self, x: Tensor<3>, context: ForwardContext<'_>) -> Tensor<3> {
        let inner = nemo_kernels::squared_relu(self.up_proj.forward(context.enter(x)));
        context.leave(self.down_proj.forward(inner))
    }

    /// Shows both projections under their paths.
    pub fn linear_maps(&mut self, path: &str, show: &mut LinearMaps<'_>) {
        show(&join(path, "up_proj"), &mut self.up_proj);
        show(&join(path, "down_proj"), &mut self.down_proj);
    }

    /// Visits both projections.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.up_proj.visit_mut(&join(path, "up_proj"), visitor);
        self.down_proj.visit_mut(&join(path, "down_proj"), visitor);
    }
}
