//! The blocks of Nemotron-H. Each has the signature `(hidden, state, context) -> (hidden, state)`.

mod attention;
mod linear;
mod mamba2;
mod mlp;
mod moe;
mod norm;
mod residual;

use burn::tensor::Tensor;

use crate::config::{LayerKind, ModelConfig};
use crate::error::ModelError;
use crate::parallel::{ForwardContext, LayerShard};
use crate::parameters::{Visitor, WeightBuilder, join};
use crate::state::LayerState;

pub use attention::Attention;
pub use linear::Linear;
pub use mamba2::Mamba2;
pub use mlp::Mlp;
pub use moe::Moe;
pub use norm::RmsNorm;
pub use residual::Residual;

/// The sub-layer of a block.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Mamba-2 mixer.
    Mamba2(Box<Mamba2>),
    /// Grouped-query attention.
    Attention(Box<Attention>),
    /// Squared-ReLU MLP.
    Mlp(Box<Mlp>),
    /// Mixture of experts.
    Moe(Box<Moe>),
}

/// One block: `hidden + mixer(rms_norm(hidden))`.
#[derive(Clone, Debug)]
pub struct Block {
    /// Norm before the mixer.
    pub norm: RmsNorm,
    /// The sub-layer.
    pub mixer: Mixer,
}

impl Block {
    /// Builds block `index` with its tensors under `backbone.layers.{index}`.
    pub fn build(
        index: usize,
        config: &ModelConfig,
        shard: &LayerShard,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let path = format!("backbone.layers.{index}");
        let norm = RmsNorm::build(&join(&path, "norm"), config.hidden_size, config.layer_norm_epsilon, weights)?;
        let path = join(&path, "mixer");
        let mixer = match config.layers[index] {
            LayerKind::Mamba2 => Mixer::Mamba2(Box::new(Mamba2::build(&path, config, shard, weights)?)),
            LayerKind::Attention => Mixer::Attention(Box::new(Attention::build(&path, config, shard, weights)?)),
            LayerKind::Mlp => Mixer::Mlp(Box::new(Mlp::build(&path, config, shard.mlp_width, weights)?)),
            LayerKind::Moe => Mixer::Moe(Box::new(Moe::build(&path, config, shard, weights)?)),
        };
        Ok(Self { norm, mixer })
    }

    /// One pass over a run of tokens. Returns also what the run adds to the state: [`LayerState::followed_by`].
    ///
    /// # Shapes
    /// - hidden: `[batch, tokens, hidden]`, in and out
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        state: LayerState,
        context: ForwardContext<'_>,
    ) -> (Tensor<3>, LayerState) {
        let (stream, state) = self.forward_stream(Residual::new(hidden), state, context);
        (stream.into_sum(), state)
    }

    /// [`Self::forward`] on a residual stream whose last addition may be left to this block, and is left to the next.
    pub(crate) fn forward_stream(
        &self,
        stream: Residual,
        state: LayerState,
        context: ForwardContext<'_>,
    ) -> (Residual, LayerState) {
        let (hidden, normed) = stream.normalize(&self.norm);
        let (mixed, state) = match (&self.mixer, state) {
            (Mixer::Mamba2(mixer), LayerState::Mamba2 { window, ssm }) => {
                let (mixed, window, ssm) = mixer.forward(normed, window, ssm, context);
                (mixed, LayerState::Mamba2 { window, ssm })
            }
            (Mixer::Attention(mixer), LayerState::Attention { keys_values }) => {
                let (mixed, own) = mixer.forward(normed, keys_values, context);
                (mixed, LayerState::Attention { keys_values: Some(own) })
            }
            (Mixer::Mlp(mixer), state) => (mixer.forward(normed, context), state),
            (Mixer::Moe(mixer), state) => (mixer.forward(normed, context), state),
            (mixer, state) => unreachable!("{mixer:?} was given the state of another kind of layer: {state:?}"),
        };
        (Residual::after_block(hidden, mixed), state)
    }

    /// A copy whose parameters are leaves of a fresh autodiff graph, but for its matrices, whose gradients are left in
    /// factors. It shares storage with this block and serves one pass.
    #[must_use]
    pub fn traced(&self) -> Self {
        let mut block = self.clone();
        block.visit_mut("", &mut |_, mut parameter| parameter.trace());
        block
    }

    /// Visits the block's parameters in a fixed order.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.norm.visit_mut(&join(path, "norm"), visitor);
        let path = join(path, "mixer");
        match &mut self.mixer {
            Mixer::Mamba2(mixer) => mixer.visit_mut(&path, visitor),
            Mixer::Attention(mixer) => mixer.visit_mut(&path, visitor),
            Mixer::Mlp(mixer) => mixer.visit_mut(&path, visitor),
            Mixer::Moe(mixer) => mixer.visit_mut(&path, visitor),
        }
    }
}
