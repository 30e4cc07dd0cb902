//! AdamW with decoupled weight decay, and the sum of squares for clipping by global norm.
//!
//! With `g` the gradient and `t >= 1` the step (Loshchilov and Hutter 2019, arXiv:1711.05101):
//!
//! `p = p (1 - lr wd)`, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
//! `p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`
//!
//! All of it in f32. A parameter narrower than that would lose every update smaller than one of its steps, so it either
//! has a master copy in f32 or is rounded at random ([`Weights`]). Moments may be kept in fewer bits ([`Moment`]): they are
//! widened for the step, and rounded after the parameter has been updated with the new ones as they are.

mod blockwise;
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;
mod rounding;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::error::{assert_dtype, assert_shape, assert_size};

pub use blockwise::{BLOCK_SIZE, code_of_zero, num_blocks, table};

pub use rounding::RoundingKey;

/// Scalars of [`adamw_step`].
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
    /// What the gradient is multiplied by first: 1, or less where it is clipped.
    pub grad_scale: f64,
    /// The random numbers of what is rounded at random; without them it is rounded to the nearest.
    pub rounding: Option<RoundingKey>,
}

/// The step's scalars, rounded to f32 once.
#[derive(Clone, Copy)]
struct Factors {
    grad_scale: f32,
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
        let AdamWOptions { lr, beta1, beta2, eps, weight_decay, grad_scale, rounding: _ } = options;
        Self {
            grad_scale: grad_scale as f32,
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

/// Which of the two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The mean of the gradient, of either sign.
    First,
    /// The mean of its square, never negative.
    Second,
}

/// How a parameter is kept between steps.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors: small beside what they point to")]
pub enum Weights<const D: usize> {
    /// In f32 or f64, in which it is updated.
    Single(Tensor<D>),
    /// In few bits, with a master copy in f32 that is updated; the parameter is the master rounded to the nearest bf16 (of an
    /// f16 parameter to the nearest f16). A parameter stored in f32 holds bf16 numbers then. Its own values are not read.
    WithMaster {
        /// bf16, f16 or f32.
        rounded: Tensor<D>,
        /// f32.
        master: Tensor<D>,
    },
    /// As bf16 numbers, stored in bf16 or f32, without a master copy: the update in f32 is rounded to one of the two bf16 on
    /// either side at random, so that its mean over seeds is the update. Where the update is a bf16, it is the result.
    Rounded(Tensor<D>),
}

/// How a moment is kept between steps.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors: small beside what they point to")]
pub enum Moment<const D: usize> {
    /// In f32, in bf16, or in f64 beside a parameter in f64. In bf16 the first moment is rounded to the nearest, the second
    /// at random: to the nearest, a second moment that decays by less than half a step of bf16 would never decay.
    Float(Tensor<D>),
    /// In eight bits, in blocks of [`BLOCK_SIZE`] elements of the flat tensor.
    Blockwise {
        /// Which table the codes refer to.
        order: Order,
        /// u8.
        codes: Tensor<D, Int>,
        /// Largest magnitude of each block, `[num_blocks]` f32.
        largest: Tensor<1>,
    },
}

impl<const D: usize> Moment<D> {
    /// Zeros in f32 or bf16.
    pub fn zeros(shape: [usize; D], device: &Device, dtype: DType) -> Self {
        Self::Float(Tensor::zeros(shape, (device, dtype)))
    }

    /// Zeros in eight bits.
    pub fn blockwise_zeros(order: Order, shape: [usize; D], device: &Device) -> Self {
        let codes = Tensor::full(shape, i64::from(code_of_zero(order)), (device, DType::U8));
        let blocks = num_blocks(shape.iter().product());
        Self::Blockwise { order, codes, largest: Tensor::zeros([blocks], (device, DType::F32)) }
    }

    fn into_dispatch(self) -> MomentTensors<Dispatch> {
        match self {
            Self::Float(values) => MomentTensors::Float(values.into_dispatch()),
            Self::Blockwise { order, codes, largest } => {
                MomentTensors::Blockwise { order, codes: codes.into_dispatch(), largest: largest.into_dispatch() }
            }
        }
    }

    fn from_dispatch(tensors: MomentTensors<Dispatch>) -> Self {
        match tensors {
            MomentTensors::Float(values) => Self::Float(Tensor::from_dispatch(values)),
            MomentTensors::Blockwise { order, codes, largest } => {
                Self::Blockwise { order, codes: Tensor::from_dispatch(codes), largest: Tensor::from_dispatch(largest) }
            }
        }
    }
}

/// [`Weights`] as a backend's own tensors.
#[derive(Clone, Debug, ExtensionType)]
pub enum WeightTensors<B: Backend> {
    /// See [`Weights::Single`].
    Single(FloatTensor<B>),
    /// See [`Weights::WithMaster`].
    WithMaster {
        /// The parameter.
        rounded: FloatTensor<B>,
        /// Its master copy.
        master: FloatTensor<B>,
    },
    /// See [`Weights::Rounded`].
    Rounded(FloatTensor<B>),
}

/// [`Moment`] as a backend's own tensors.
#[derive(Clone, Debug, ExtensionType)]
pub enum MomentTensors<B: Backend> {
    /// See [`Moment::Float`].
    Float(FloatTensor<B>),
    /// See [`Moment::Blockwise`].
    Blockwise {
        /// Which moment.
        order: Order,
        /// The codes.
        codes: IntTensor<B>,
        /// The blocks' largest magnitudes.
        largest: FloatTensor<B>,
    },
}

/// A parameter with its moments.
#[derive(Clone, Debug, ExtensionType)]
pub struct StepTensors<B: Backend> {
    /// The parameter.
    #[extension_type]
    pub weights: WeightTensors<B>,
    /// Its first moment.
    #[extension_type]
    pub first: MomentTensors<B>,
    /// Its second moment.
    #[extension_type]
    pub second: MomentTensors<B>,
}

/// Backends that can run [`adamw_step`]. Never differentiated, so there is no autodiff implementation.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AdamWOps: Backend {
    /// See [`adamw_step`](super::adamw_step()).
    fn adamw_step(
        grad: FloatTensor<Self>,
        #[extension_type] tensors: StepTensors<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> StepTensors<Self>;
}

/// One optimizer step of one tensor, element by element, whatever it and its moments are kept in.
///
/// Random numbers are those of `options.rounding`, `step` and the element's place: the same on every device, whatever the
/// number of threads. Everything but the gradient is changed in place when the given handles are the only ones, copied
/// otherwise; an f16 parameter on the CPU is always new.
///
/// # Shapes
/// - all tensors but the blocks' magnitudes: the same shape; `grad` in any precision
/// - `moments`: the first and the second
/// - `step`: 1 for the first update
///
/// # Panics
/// When shapes disagree, `step` is 0, a precision is not one that [`Weights`] and [`Moment`] name, or a tensor is tracked by
/// autodiff.
pub fn adamw_step<const D: usize>(
    weights: Weights<D>,
    grad: Tensor<D>,
    moments: [Moment<D>; 2],
    step: u64,
    options: AdamWOptions,
) -> (Weights<D>, [Moment<D>; 2]) {
    const NAME: &str = "adamw_step";
    const BF16: [DType; 2] = [DType::BF16, DType::F32];
    assert_step(NAME, step);
    let shape = grad.dims();
    let check = |argument: &'static str, tensor: &Tensor<D>, dtypes: &[DType], names: &'static str| {
        assert_shape(NAME, argument, &tensor.dims(), &shape);
        assert_dtype(NAME, argument, tensor.dtype(), dtypes, names);
    };
    let mut in_double = false;
    match &weights {
        Weights::Single(param) => {
            check("param", param, &[DType::F32, DType::F64], "F32 or F64");
            in_double = param.dtype() == DType::F64;
        }
        Weights::WithMaster { rounded, master } => {
            check("param", rounded, &[DType::BF16, DType::F16, DType::F32], "BF16, F16 or F32");
            check("master", master, &[DType::F32], "F32");
        }
        Weights::Rounded(param) => check("param", param, &BF16, "BF16 or F32"),
    }
    for (moment, order) in moments.iter().zip([Order::First, Order::Second]) {
        match moment {
            Moment::Float(values) if in_double => check("moment", values, &[DType::F64], "the precision of `param`"),
            Moment::Float(values) => check("moment", values, &BF16, "BF16 or F32, or the precision of `param`"),
            Moment::Blockwise { order: found, codes, largest } => {
                assert!(*found == order && !in_double, "{NAME}: codes of the {found:?} moment as the {order:?}");
                assert_shape(NAME, "codes", &codes.dims(), &shape);
                assert_dtype(NAME, "codes", codes.dtype(), &[DType::U8], "U8");
                assert_shape(NAME, "largest", &largest.dims(), &[num_blocks(shape.iter().product())]);
                assert_dtype(NAME, "largest", largest.dtype(), &[DType::F32], "F32");
            }
        }
    }
    let [first, second] = moments.map(Moment::into_dispatch);
    let weights = match weights {
        Weights::Single(param) => WeightTensors::Single(param.into_dispatch()),
        Weights::WithMaster { rounded, master } => {
            WeightTensors::WithMaster { rounded: rounded.into_dispatch(), master: master.into_dispatch() }
        }
        Weights::Rounded(param) => WeightTensors::Rounded(param.into_dispatch()),
    };
    let tensors = StepTensors { weights, first, second };
    let StepTensors { weights, first, second } =
        <Dispatch as AdamWOps>::adamw_step(grad.into_dispatch(), tensors, step, options);
    let weights = match weights {
        WeightTensors::Single(param) => Weights::Single(Tensor::from_dispatch(param)),
        WeightTensors::WithMaster { rounded, master } => {
            Weights::WithMaster { rounded: Tensor::from_dispatch(rounded), master: Tensor::from_dispatch(master) }
        }
        WeightTensors::Rounded(param) => Weights::Rounded(Tensor::from_dispatch(param)),
    };
    (weights, [first, second].map(Moment::from_dispatch))
}

#[track_caller]
fn assert_step(operation: &'static str, step: u64) {
    assert_size(operation, "step", step as usize, step > 0, "the first step is 1");
}

/// Sum of the squares of all elements, in a fixed order: the same bits whatever the thread count. Formed in f64, on a
/// device in f32 for runs of 256 elements and in f64 over the runs.
///
/// Reads the tensor back to the host; not differentiable.
pub fn sum_of_squares<const D: usize>(tensor: &Tensor<D>) -> f64 {
    if matches!(tensor.dtype(), DType::F32 | DType::BF16)
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
