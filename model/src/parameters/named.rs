//! Parameters as named tensors: one traversal serves loading, saving, gradient tracking and the optimizer.
//!
//! Every layer lists its tensors under the names that the checkpoint uses, in one fixed order. Whoever needs all
//! parameters (saving, switching gradients on, updating) walks that list; nothing else knows the layers' fields.

use burn::tensor::{Gradients, Tensor};
use nemo_kernels::{WeightFactors, WriteCheck};

use super::FloatMatrix;

/// A parameter of rank 1, 2 or 3, borrowed from its layer.
pub enum ParameterMut<'a> {
    /// Norm weights, biases and per-head scalars: `[n]`.
    Vector(&'a mut Tensor<1>),
    /// Linear weights and embeddings: `[out, in]`.
    Matrix(&'a mut FloatMatrix),
    /// Depthwise convolution weights: `[channels, 1, kernel]`.
    Convolution(&'a mut Tensor<3>),
}

impl ParameterMut<'_> {
    /// Shape of the tensor.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(matrix) => matrix.weight.dims().to_vec(),
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
            Self::Matrix(matrix) => check.add(&matrix.weight),
            Self::Convolution(tensor) => check.add(tensor),
        }
    }

    /// The tensor as a flat vector `[n]` that shares its storage.
    pub fn flat(&self) -> Tensor<1> {
        match self {
            Self::Vector(tensor) => (**tensor).clone(),
            Self::Matrix(matrix) => flatten(matrix.weight.clone()),
            Self::Convolution(tensor) => flatten((**tensor).clone()),
        }
    }

    /// Replaces the tensor by `update` of its flat form, in place where the handle is unique; the shape is kept.
    pub fn update_flat(&mut self, update: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        match self {
            Self::Vector(tensor) => tensor.inplace(update),
            Self::Matrix(matrix) => update_flattened(&mut matrix.weight, update),
            Self::Convolution(tensor) => update_flattened(tensor, update),
        }
    }

    /// Turns the tensor into a leaf of a fresh autodiff graph.
    pub fn require_grad(&mut self) {
        match self {
            Self::Vector(tensor) => tensor.inplace(|t| t.autodiff().require_grad()),
            Self::Matrix(matrix) => matrix.weight.inplace(|t| t.autodiff().require_grad()),
            Self::Convolution(tensor) => tensor.inplace(|t| t.autodiff().require_grad()),
        }
    }

    /// The same, but for matrices, which become constants whose gradients are left in factors. The graph may multiply with
    /// each of them once.
    pub fn trace(&mut self) {
        match self {
            Self::Matrix(matrix) => matrix.factors = Some(WeightFactors::new(&matrix.weight.device())),
            other => other.require_grad(),
        }
    }

    /// The gradient of this leaf, taken out of `gradients`; `None` where the loss does not depend on it.
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Option<ParameterGradient> {
        match self {
            Self::Vector(tensor) => tensor.grad_remove(gradients).map(ParameterGradient::Whole),
            Self::Matrix(FloatMatrix { factors: Some(factors), .. }) => {
                factors.take(gradients).map(|(dy, x)| ParameterGradient::Factors { dy, x })
            }
            Self::Matrix(matrix) => matrix.weight.grad_remove(gradients).map(flatten).map(ParameterGradient::Whole),
            Self::Convolution(tensor) => tensor.grad_remove(gradients).map(flatten).map(ParameterGradient::Whole),
        }
    }
}

/// A parameter's gradient.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors: small beside what they point to")]
pub enum ParameterGradient {
    /// Flat, `[n]`.
    Whole(Tensor<1>),
    /// `dy^T x` over all rows, of a matrix `[out, in]`.
    Factors {
        /// `[batch, tokens, out]`.
        dy: Tensor<3>,
        /// `[batch, tokens, in]`.
        x: Tensor<3>,
    },
}

impl ParameterGradient {
    /// Adds the gradient to a flat sum, in place where that is the only handle; is the sum where there is none yet.
    pub fn add_to(self, sum: Option<Tensor<1>>) -> Tensor<1> {
        match self {
            Self::Whole(gradient) => match sum {
                Some(sum) => sum + gradient,
                None => gradient,
            },
            Self::Factors { dy, x } => {
                let shape = [dy.dims()[2], x.dims()[2]];
                flatten(nemo_kernels::add_weight_gradient(sum.map(|sum| sum.reshape(shape)), dy, x))
            }
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
