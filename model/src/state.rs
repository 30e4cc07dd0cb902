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
    pub fn require_grad(self) -> Self {
        self.map(|t| t.autodiff().require_grad(), |t| t.autodiff().require_grad())
    }

    /// Every tensor taken out of its autodiff graph.
    pub fn without_autodiff(self) -> Self {
        self.map(Tensor::without_autodiff, Tensor::without_autodiff)
    }

    /// Gradients of the leaves that [`Self::require_grad`] made, taken out of `gradients`; zero where the loss does
    /// not depend on them.
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Self {
        let taken = std::cell::RefCell::new(gradients);
        self.clone().map(|t| take_gradient(t, *taken.borrow_mut()), |t| take_gradient(t, *taken.borrow_mut()))
    }

    /// Sum of the products with `cotangent`, tensor by tensor: the scalar whose gradient carries `cotangent` back.
    pub fn dot(self, cotangent: Self) -> Tensor<1> {
        let mut total: Option<Tensor<1>> = None;
        let mut add = |term: Tensor<1>| {
            total = Some(match total.take() {
                Some(total) => total + term,
                None => term,
            });
        };
        for pair in self.layers.into_iter().zip(cotangent.layers) {
            match pair {
                (LayerState::Mamba2 { window, ssm }, LayerState::Mamba2 { window: w, ssm: s }) => {
                    add((window * w.autodiff()).sum());
                    add((ssm * s.autodiff()).sum());
                }
                (
                    LayerState::Attention { keys_values: Some((keys, values)) },
                    LayerState::Attention { keys_values: Some((k, v)) },
                ) => {
                    add((keys * k.autodiff()).sum());
                    add((values * v.autodiff()).sum());
                }
                _ => {}
            }
        }
        total.unwrap_or_else(|| Tensor::zeros([1], &Device::default()))
    }

    fn map(self, window_map: impl Fn(Tensor<3>) -> Tensor<3>, map: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        let layers = self
            .layers
            .into_iter()
            .map(|layer| match layer {
                LayerState::Mamba2 { window, ssm } => LayerState::Mamba2 { window: window_map(window), ssm: map(ssm) },
                LayerState::Attention { keys_values } => {
                    LayerState::Attention { keys_values: keys_values.map(|(keys, values)| (map(keys), map(values))) }
                }
                LayerState::Stateless => LayerState::Stateless,
            })
            .collect();
        Self { layers, lengths: self.lengths }
    }
}

/// Tensor by tensor, for states of the same shapes: the gradients of several continuations add up.
impl std::ops::Add for HybridState {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let layers = self
            .layers
            .into_iter()
            .zip(other.layers)
            .map(|pair| match pair {
                (LayerState::Mamba2 { window, ssm }, LayerState::Mamba2 { window: w, ssm: s }) => {
                    LayerState::Mamba2 { window: window + w, ssm: ssm + s }
                }
                (
                    LayerState::Attention { keys_values: Some((keys, values)) },
                    LayerState::Attention { keys_values: Some((k, v)) },
                ) => LayerState::Attention { keys_values: Some((keys + k, values + v)) },
                (layer, _) => layer,
            })
            .collect();
        Self { layers, lengths: self.lengths }
    }
}

fn take_gradient<const D: usize>(leaf: Tensor<D>, gradients: &mut Gradients) -> Tensor<D> {
    leaf.grad_remove(gradients).unwrap_or_else(|| leaf.without_autodiff().zeros_like())
}

fn take_row<const D: usize>(tensor: &Tensor<D>, row: usize) -> Tensor<D> {
    let row = if tensor.dims()[0] == 1 { 0 } else { row };
    tensor.clone().narrow(0, row, 1)
}
