//! How a model is cut over ranks, and where its layers talk to each other.
//!
//! Layers take their local sizes from a [`LayerShard`], never from the configuration, and put [`ForwardContext::enter`]
//! and [`ForwardContext::leave`] around each pair of a column-cut and a row-cut linear. With one rank a shard is the
//! whole layer and both hooks are the identity.

mod plan;

use burn::tensor::Tensor;

pub use plan::LayerShard;

/// What a forward pass needs beside hidden values and state.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForwardContext<'a> {
    /// Valid tokens per row of a right-padded batch; `None` when every token counts. Padded tokens get arbitrary
    /// finite outputs and leave their row's outgoing state untouched.
    pub lengths: Option<&'a [usize]>,
}

impl ForwardContext<'_> {
    /// Before a column-parallel linear: identity forward, sum over ranks backward.
    pub fn enter<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x
    }

    /// After a row-parallel linear: sum over ranks forward, identity backward.
    pub fn leave<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x
    }
}
