//! AdamW with decoupled weight decay, and the sum of squares for clipping by global norm.
//!
//! With `g` the gradient and `t >= 1` the step (Loshchilov and Hutter 2019, arXiv:1711.05101):
//!
//! `p = p (1 - lr wd)`, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
//! `p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`

mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};

use crate::error::{assert_shape, assert_size};

/// Scalars of [`adamw`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay; the caller passes 0 for parameters that must not decay.
    pub weight_decay: f64,
}

/// Backends that can run [`adamw`]. Never differentiated, so there is no autodiff implementation.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AdamWOps: Backend {
    /// See [`adamw`](super::adamw()); returns parameter, first and second moment.
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// One optimizer step of one tensor, in f32 whatever the dtype of the gradient; element by element.
///
/// Parameter and moments are changed in place when the given handles are the only ones, copied otherwise.
///
/// # Shapes
/// - `param` (the f32 master), `grad`, `m`, `v`: the same shape
/// - `step`: 1 for the first update
/// - result: parameter, first moment, second moment
///
/// # Panics
/// When shapes disagree, `step` is 0, or a tensor is tracked by autodiff.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    for (argument, tensor) in [("grad", &grad), ("m", &m), ("v", &v)] {
        assert_shape("adamw", argument, &tensor.dims(), &param.dims());
    }
    assert_size("adamw", "step", step as usize, step > 0, "the first step is 1");
    let (param, m, v) = <Dispatch as AdamWOps>::adamw(
        param.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step,
        options,
    );
    (Tensor::from_dispatch(param), Tensor::from_dispatch(m), Tensor::from_dispatch(v))
}

/// Sum of the squares of all elements, in a fixed order: the same bits whatever the thread count. Formed in f64, on a
/// device in f32 for runs of 256 elements and in f64 over the runs.
///
/// Reads the tensor back to the host; not differentiable.
pub fn sum_of_squares<const D: usize>(tensor: &Tensor<D>) -> f64 {
    if tensor.dtype() == DType::F32
        && let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>()
    {
        return cpu::sum_of_squares(tensor);
    }
    #[cfg(feature = "cube")]
    if crate::dispatch::is_on_cube(tensor)
        && let Ok(tensor) = tensor.clone().try_into_primitive::<burn_cubecl::CubeBackend>()
    {
        let sums = Tensor::<1>::from_primitive::<burn_cubecl::CubeBackend>(launch::sums_of_squares(tensor));
        return sums.into_data().iter::<f64>().sum();
    }
    let values = tensor.clone().into_data();
    values.iter::<f64>().map(|value| value * value).sum()
}

/// L2 norm over several tensors from their [`sum_of_squares`], added in the order given.
pub fn global_norm(sums_of_squares: impl IntoIterator<Item = f64>) -> f64 {
    sums_of_squares.into_iter().sum::<f64>().sqrt()
}
