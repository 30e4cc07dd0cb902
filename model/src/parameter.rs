//! Parameters as named tensors: one traversal serves loading, saving, gradient tracking and the optimizer.
//!
//! Every layer lists its tensors under the names that the checkpoint uses, in one fixed order. Whoever needs all
//! parameters (saving, switching gradients on, updating) walks that list; nothing else knows the layers' fields.

use burn::tensor::{Gradients, Tensor};
use nemo_kernels::WriteCheck;

/// A parameter of rank 1, 2 or 3, borrowed from its layer.
pub enum ParameterMut<'a> {
    /// Norm weights, biases and per-head scalars: `[n]`.
    Vector(&'a mut Tensor<1>),
    /// Linear weights and embeddings: `[out, in]`.
    Matrix(&'a mut Tensor<2>),
    /// Depthwise convolution weights: `[channels, 1, kernel]`.
    Convolution(&'a mut Tensor<3>),
}

impl ParameterMut<'_> {
    /// Shape of the tensor.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(tensor) => tensor.dims().to_vec(),
            Self::Convolution(tensor) => tensor.dims().to_vec(),
        }
    }

    /// Number of dimensions; weight decay spares rank 1.
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Adds the tensor to a check.
    pub fn add_to(&self, check: &mut WriteCheck) {
        match self {
            Self::Vector(tensor) => check.add(tensor),
            Self::Matrix(tensor) => check.add(tensor),
            Self::Convolution(tensor) => check.add(tensor),
        }
    }

    /// The tensor as a flat vector `[n]` that shares its storage.
    pub fn flat(&self) -> Tensor<1> {
        match self {
            Self::Vector(tensor) => (**tensor).clone(),
            Self::Matrix(tensor) => flatten((**tensor).clone()),
            Self::Convolution(tensor) => flatten((**tensor).clone()),
        }
    }

    /// Replaces the tensor by `update` of its flat form, in place where the handle is unique; the shape is kept.
    pub fn update_flat(&mut self, update: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        match self {
            Self::Vector(tensor) => tensor.inplace(update),
            Self::Matrix(tensor) => update_flattened(tensor, update),
            Self::Convolution(tensor) => update_flattened(tensor, update),
        }
    }

    /// Turns the tensor into a leaf of a fresh autodiff graph.
    pub fn require_grad(&mut self) {
        match self {
            Self::Vector(tensor) => tensor.inplace(|t| t.autodiff().require_grad()),
            Self::Matrix(tensor) => tensor.inplace(|t| t.autodiff().require_grad()),
            Self::Convolution(tensor) => tensor.inplace(|t| t.autodiff().require_grad()),
        }
    }

    /// The gradient of this leaf, flat `[n]`, taken out of `gradients`; `None` where the loss does not depend on it.
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        match self {
            Self::Vector(tensor) => tensor.grad_remove(gradients),
            Self::Matrix(tensor) => tensor.grad_remove(gradients).map(flatten),
            Self::Convolution(tensor) => tensor.grad_remove(gradients).map(flatten),
        }
    }
}

fn flatten<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let length = tensor.dims().iter().product::<usize>();
    tensor.reshape([length])
}

fn update_flattened<const D: usize>(tensor: &mut Tensor<D>, update: impl FnOnce(Tensor<1>) -> Tensor<1>) {
    let shape = tensor.dims();
    tensor.inplace(|tensor| update(flatten(tensor)).reshape(shape));
}

/// Joins a path and a name with a dot, as checkpoints do.
pub(crate) fn join(path: &str, name: &str) -> String {
    format!("{path}.{name}")
}

/// What a visitor of parameters looks like: it gets the checkpoint name and the tensor.
pub type Visitor<'v> = dyn FnMut(&str, ParameterMut<'_>) + 'v;
