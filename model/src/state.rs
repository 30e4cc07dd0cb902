//! `HybridState`: everything a hybrid model remembers at a point of a sequence.
//!
//! A Mamba-2 layer remembers the last `conv_kernel - 1` inputs of its convolution and the SSM state; an attention
//! layer the keys and values so far. A state is a value: `forward(tokens, state) -> (hidden, state)`. Its tensors
//! may have batch 1, which every operation broadcasts, so that many continuations of one prefix share it uncopied.
//! Gradients flow through it in both directions.

use burn::tensor::{DType, Device, Gradients, Tensor};

use crate::config::{LayerKind, ModelConfig};
use crate::parallel::LayerShard;

/// What one layer remembers.
#[derive(Clone, Debug)]
pub enum LayerState {
    /// Mamba-2.
    Mamba2 {
        /// Last inputs of the convolution, oldest first: `[batch, conv_channels, conv_kernel - 1]`.
        window: Tensor<3>,
        /// SSM state `[batch, heads, head_dim, state_size]`.
        ssm: Tensor<4>,
    },
    /// Attention: keys and values `[batch, tokens, kv_heads, head_dim]`; `None` before the first token.
    Attention {
        /// Keys and values.
        keys_values: Option<(Tensor<4>, Tensor<4>)>,
    },
    /// MLP and MoE blocks remember nothing.
    Stateless,
}

impl LayerState {
    /// The state after a run that left `own`: a Mamba-2 layer's state as it stands then, or an attention layer's keys and
    /// values of the run, which are appended. A state of batch 1 is spread over `batch` rows first.
    #[must_use]
    pub fn followed_by(self, own: Self, batch: usize) -> Self {
        match (self, own) {
            (Self::Attention { keys_values: Some(old) }, Self::Attention { keys_values: Some(new) }) => {
                Self::Attention { keys_values: Some((append(old.0, new.0, batch), append(old.1, new.1, batch))) }
            }
            (_, own) => own,
        }
    }

    /// Every tensor with its graph cut and made a leaf of a fresh autodiff graph.
    #[must_use]
    pub fn require_grad(self) -> Self {
        fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
            tensor.autodiff().require_grad()
        }
        match self {
            Self::Mamba2 { window, ssm } => Self::Mamba2 { window: leaf(window), ssm: leaf(ssm) },
            Self::Attention { keys_values } => {
                Self::Attention { keys_values: keys_values.map(|(keys, values)| (leaf(keys), leaf(values))) }
            }
            Self::Stateless => Self::Stateless,
        }
    }

    /// Every tensor taken out of its autodiff graph.
    #[must_use]
    pub fn without_autodiff(self) -> Self {
        match self {
            Self::Mamba2 { window, ssm } => {
                Self::Mamba2 { window: window.without_autodiff(), ssm: ssm.without_autodiff() }
            }
            Self::Attention { keys_values } => Self::Attention {
                keys_values: keys_values.map(|(keys, values)| (keys.without_autodiff(), values.without_autodiff())),
            },
            Self::Stateless => Self::Stateless,
        }
    }

    /// Number of an attention layer's keys; 0 of any other layer.
    pub fn num_keys(&self) -> usize {
        match self {
            Self::Attention { keys_values: Some((keys, _)) } => keys.dims()[1],
            _ => 0,
        }
    }

    /// The gradients of leaves that [`Self::require_grad`] made, in the form of a state, taken out of `gradients`; zero where
    /// the loss does not depend on them.
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Self {
        match self {
            Self::Mamba2 { window, ssm } => {
                Self::Mamba2 { window: take_gradient(window, gradients), ssm: take_gradient(ssm, gradients) }
            }
            Self::Attention { keys_values } => Self::Attention {
                keys_values: keys_values
                    .as_ref()
                    .map(|(keys, values)| (take_gradient(keys, gradients), take_gradient(values, gradients))),
            },
            Self::Stateless => Self::Stateless,
        }
    }

    /// A zero `[1]` whose gradient with respect to this state is `cotangent`; `None` where there is nothing to differentiate.
    pub fn carry(self, cotangent: Self) -> Option<Tensor<1>> {
        match (self, cotangent) {
            (Self::Mamba2 { window, ssm }, Self::Mamba2 { window: of_window, ssm: of_ssm }) => {
                Some(nemo_kernels::carry(window, of_window) + nemo_kernels::carry(ssm, of_ssm))
            }
            (
                Self::Attention { keys_values: Some((keys, values)) },
                Self::Attention { keys_values: Some((of_keys, of_values)) },
            ) => Some(nemo_kernels::carry(keys, of_keys) + nemo_kernels::carry(values, of_values)),
            _ => None,
        }
    }

    /// An attention layer's first `tokens` keys and values, and those behind them, in either case `None` where there are
    /// none. The state of any other layer is the last run's alone.
    pub fn split_at(self, tokens: usize) -> (Option<Self>, Option<Self>) {
        match self {
            Self::Attention { keys_values: Some((keys, values)) } => {
                let total = keys.dims()[1];
                let part = |start: usize, end: usize| {
                    let cut = |tensor: &Tensor<4>| tensor.clone().narrow(1, start, end - start);
                    (start < end).then(|| Self::Attention { keys_values: Some((cut(&keys), cut(&values))) })
                };
                (part(0, tokens), part(tokens, total))
            }
            other => (None, Some(other)),
        }
    }
}

/// Tensor by tensor, for states of the same shapes: the gradients of several continuations add up.
impl std::ops::Add for LayerState {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        match (self, other) {
            (Self::Mamba2 { window, ssm }, Self::Mamba2 { window: w, ssm: s }) => {
                Self::Mamba2 { window: window + w, ssm: ssm + s }
            }
            (Self::Attention { keys_values: Some((keys, values)) }, Self::Attention { keys_values: Some((k, v)) }) => {
                Self::Attention { keys_values: Some((keys + k, values + v)) }
            }
            (state, _) => state,
        }
    }
}

fn take_gradient<const D: usize>(leaf: &Tensor<D>, gradients: &mut Gradients) -> Tensor<D> {
    leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().without_autodiff().zeros_like())
}

/// Appends along the token axis; a prefix of batch 1 is spread over the rows first.
fn append(prefix: Tensor<4>, new: Tensor<4>, batch: usize) -> Tensor<4> {
    let prefix = if prefix.dims()[0] == batch { prefix } else { prefix.repeat_dim(0, batch) };
    Tensor::cat(vec![prefix, new], 1)
}

/// What a model remembers after a run of tokens; one entry per block.
#[derive(Clone, Debug)]
pub struct HybridState {
    /// The blocks' states, in order.
    pub layers: Vec<LayerState>,
    /// Tokens seen so far by each row; one entry per row, or a single one shared by all rows.
    pub lengths: Vec<usize>,
}

impl HybridState {
    /// The state before the first token, batch 1.
    pub fn empty(config: &ModelConfig, shard: &LayerShard, device: &Device, dtype: DType) -> Self {
        let layers = config
            .layers
            .iter()
            .map(|kind| match kind {
                LayerKind::Mamba2 => LayerState::Mamba2 {
                    window: Tensor::zeros([1, shard.conv_channels, config.conv_kernel - 1], (device, dtype)),
                    ssm: Tensor::zeros(
                        [1, shard.mamba_heads, config.mamba_head_dim, config.ssm_state_size],
                        (device, dtype),
                    ),
                },
                LayerKind::Attention => LayerState::Attention { keys_values: None },
                LayerKind::Mlp | LayerKind::Moe => LayerState::Stateless,
            })
            .collect();
        Self { layers, lengths: vec![0] }
    }

    /// The state of one row as a state of batch 1, its keys cut at the row's own length.
    pub fn row(&self, row: usize) -> Self {
        let length = self.lengths[if self.lengths.len() == 1 { 0 } else { row }];
        let layers = self
            .layers
            .iter()
            .map(|layer| match layer {
                LayerState::Mamba2 { window, ssm } => {
                    LayerState::Mamba2 { window: take_row(window, row), ssm: take_row(ssm, row) }
                }
                LayerState::Attention { keys_values } => LayerState::Attention {
                    keys_values: keys_values.as_ref().map(|(keys, values)| {
                        (take_row(keys, row).narrow(1, 0, length), take_row(values, row).narrow(1, 0, length))
                    }),
                },
                LayerState::Stateless => LayerState::Stateless,
            })
            .collect();
        Self { layers, lengths: vec![length] }
    }

    /// Every tensor with its graph cut and made a leaf of a fresh autodiff graph.
    #[must_use]
    pub fn require_grad(self) -> Self {
        Self { layers: self.layers.into_iter().map(LayerState::require_grad).collect(), lengths: self.lengths }
    }
}

fn take_row<const D: usize>(tensor: &Tensor<D>, row: usize) -> Tensor<D> {
    let row = if tensor.dims()[0] == 1 { 0 } else { row };
    tensor.clone().narrow(0, row, 1)
}
