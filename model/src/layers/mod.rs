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
use crate::parameters::{Adapter, Visitor, WeightBuilder, join};
use crate::state::LayerState;

pub use attention::Attention;
pub use linear::{Linear, LinearMaps};
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
    /// Whether the block belongs to a model of which only adapters are trained.
    is_frozen: bool,
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
        Ok(Self { norm, mixer, is_frozen: false })
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

    /// A copy whose trained parameters are leaves of a fresh autodiff graph, but for its matrices, whose gradients are left
    /// in factors. What is not trained is a constant. It shares storage with this block and serves one pass.
    #[must_use]
    pub fn traced(&self) -> Self {
        let mut block = self.clone();
        block.visit_trained_mut("", &mut |_, mut parameter| parameter.trace());
        block
    }

    /// Gives every linear map the adapter that `adapter_of` has for its path, or none. The block's own parameters are
    /// trained only where `is_frozen` is false.
    pub(crate) fn set_adapters(
        &mut self,
        path: &str,
        is_frozen: bool,
        adapter_of: &mut dyn FnMut(&str) -> Option<Adapter>,
    ) {
        self.is_frozen = is_frozen;
        self.linear_maps(path, &mut |path, map| map.adapter = adapter_of(path));
    }

    /// Shows the linear maps that may have adapters under their paths, in a fixed order.
    pub(crate) fn linear_maps(&mut self, path: &str, show: &mut LinearMaps<'_>) {
        let path = join(path, "mixer");
        match &mut self.mixer {
            Mixer::Mamba2(mixer) => mixer.linear_maps(&path, show),
            Mixer::Attention(mixer) => mixer.linear_maps(&path, show),
            Mixer::Mlp(mixer) => mixer.linear_maps(&path, show),
            Mixer::Moe(mixer) => mixer.linear_maps(&path, show),
        }
    }

    /// Visits what training changes in a fixed order: the adapters of a model that has some, else all parameters.
    pub fn visit_trained_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        if !self.is_frozen {
            return self.visit_mut(path, visitor);
        }
        self.linear_maps(path, &mut |path, map| {
            if let Some(adapter) = &mut map.adapter {
                adapter.visit_mut(path, visitor);
            }
        });
    }

    /// Visits the block's own parameters in a fixed order, not the adapters beside them.
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
