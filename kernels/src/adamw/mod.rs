//! AdamW with decoupled weight decay, and the sum of squares for clipping by global norm.
//!
//! With `g` the gradient and `t >= 1` the step (Loshchilov and Hutter 2019, arXiv:1711.05101):
//!
//! `p = p (1 - lr wd)`, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
//! `p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`
//!
//! All of it in f32. A parameter narrower than that would lose every update smaller than one of its steps, so it either
//! has a master copy in f32 ([`adamw_master`]) or is rounded at random ([`adamw_stochastic`]).

mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;
mod rounding;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};

use crate::error::{assert_dtype, assert_shape, assert_size};

pub use rounding::RoundingKey;

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

/// The step's scalars, rounded to f32 once.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    /// `1 / (1 - beta2^t)`
    correction2: f32,
    eps: f32,
    /// `lr / (1 - beta1^t)`
    rate: f32,
}

impl Factors {
    fn new(step: u64, options: AdamWOptions) -> Self {
        let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = options;
        Self {
            keep: (1.0 - lr * weight_decay) as f32,
            beta1: beta1 as f32,
            gain1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            gain2: (1.0 - beta2) as f32,
            correction2: (1.0 / (1.0 - power(beta2, step))) as f32,
            eps: eps as f32,
            rate: (lr / (1.0 - power(beta1, step))) as f32,
        }
    }
}

/// `base^exponent` by squaring: the same bits on every machine, unlike the C library's `pow`.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
        square *= square;
        exponent >>= 1;
    }
    result
}

/// Backends that can run [`adamw`] and its forms for narrow parameters. Never differentiated, so there is no autodiff
/// implementation.
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

    /// See [`adamw_master`](super::adamw_master()); returns parameter, master, first and second moment.
    fn adamw_master(
        param: FloatTensor<Self>,
        master: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`adamw_stochastic`](super::adamw_stochastic()); returns parameter, first and second moment.
    fn adamw_stochastic(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
        key: RoundingKey,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// One optimizer step of one tensor, in its own precision whatever that of the gradient; element by element.
///
/// Parameter and moments are changed in place when the given handles are the only ones, copied otherwise.
///
/// # Shapes
/// - `param`, `m`, `v` (f32, or all f64), `grad` (any precision): the same shape
/// - `step`: 1 for the first update
/// - result: parameter, first moment, second moment
///
/// # Panics
/// When shapes disagree, `step` is 0, a precision is not as above, or a tensor is tracked by autodiff.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    const NAME: &str = "adamw";
    assert_step(NAME, step);
    assert_shapes(NAME, &param, [("grad", &grad), ("m", &m), ("v", &v)]);
    assert_dtype(NAME, "param", param.dtype(), &[DType::F32, DType::F64], "F32 or F64");
    for (argument, moment) in [("m", &m), ("v", &v)] {
        assert_dtype(NAME, argument, moment.dtype(), &[param.dtype()], "the precision of `param`");
    }
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

/// [`adamw`] of a parameter in few bits with a master copy in f32: the update happens in the master, with the bits of
/// [`adamw`], and the parameter becomes the master rounded to the nearest (to the even of two equally near). Its own
/// values are not read.
///
/// All but the gradient are changed in place when the given handles are the only ones, copied otherwise; an f16 parameter
/// on the CPU is always new.
///
/// # Shapes
/// - `param` (bf16 or f16), `master`, `m`, `v` (f32), `grad` (any precision): the same shape
/// - `step`: 1 for the first update
/// - result: parameter, master, first moment, second moment
///
/// # Panics
/// When shapes disagree, `step` is 0, a precision is not as above, or a tensor is tracked by autodiff.
pub fn adamw_master<const D: usize>(
    param: Tensor<D>,
    master: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>, Tensor<D>) {
    const NAME: &str = "adamw_master";
    assert_step(NAME, step);
    assert_shapes(NAME, &param, [("master", &master), ("grad", &grad), ("m", &m), ("v", &v)]);
    assert_dtype(NAME, "param", param.dtype(), &[DType::BF16, DType::F16], "BF16 or F16");
    assert_f32(NAME, [("master", &master), ("m", &m), ("v", &v)]);
    let (param, master, m, v) = <Dispatch as AdamWOps>::adamw_master(
        param.into_dispatch(),
        master.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step,
        options,
    );
    let [param, master, m, v] = [param, master, m, v].map(Tensor::from_dispatch);
    (param, master, m, v)
}

/// [`adamw`] of a bf16 parameter without a master copy: the update in f32 is rounded to one of the two bf16 on either
/// side at random, so that its mean over seeds is the update. Where the update is a bf16, it is the result.
///
/// The random numbers are those of `key`, `step` and the element's place: the same on every device, whatever the
/// number of threads. The parameter may also be stored in f32, for devices that do not store bf16; its new values are
/// bf16 all the same.
///
/// Parameter and moments are changed in place when the given handles are the only ones, copied otherwise.
///
/// # Shapes
/// - `param` (bf16, or f32), `m`, `v` (f32), `grad` (any precision): the same shape
/// - `step`: 1 for the first update
/// - result: parameter, first moment, second moment
///
/// # Panics
/// When shapes disagree, `step` is 0, a precision is not as above, or a tensor is tracked by autodiff.
pub fn adamw_stochastic<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
    key: RoundingKey,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    const NAME: &str = "adamw_stochastic";
    assert_step(NAME, step);
    assert_shapes(NAME, &param, [("grad", &grad), ("m", &m), ("v", &v)]);
    assert_dtype(NAME, "param", param.dtype(), &[DType::BF16, DType::F32], "BF16 or F32");
    assert_f32(NAME, [("m", &m), ("v", &v)]);
    let (param, m, v) = <Dispatch as AdamWOps>::adamw_stochastic(
        param.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step,
        options,
        key,
    );
    (Tensor::from_dispatch(param), Tensor::from_dispatch(m), Tensor::from_dispatch(v))
}

#[track_caller]
fn assert_step(operation: &'static str, step: u64) {
    assert_size(operation, "step", step as usize, step > 0, "the first step is 1");
}

#[track_caller]
fn assert_shapes<const D: usize, const N: usize>(
    operation: &'static str,
    param: &Tensor<D>,
    others: [(&'static str, &Tensor<D>); N],
) {
    for (argument, tensor) in others {
        assert_shape(operation, argument, &tensor.dims(), &param.dims());
    }
}

#[track_caller]
fn assert_f32<const D: usize, const N: usize>(operation: &'static str, tensors: [(&'static str, &Tensor<D>); N]) {
    for (argument, tensor) in tensors {
        assert_dtype(operation, argument, tensor.dtype(), &[DType::F32], "F32");
    }
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
