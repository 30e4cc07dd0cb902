//! Affine projection with weights in checkpoint layout `[out, in]`.
//!
//! `y = x W^T + b`. The layout is that of published checkpoints, so weights enter and leave unchanged. On the host every
//! element of a result is formed by one fixed order of additions, whatever the number of rows, so that a token gives
//! the same bits alone, in a batch and in a prefill chunk. Weights may be stored in bf16, or in eight bits where they are not trained.

mod autodiff;
pub(crate) mod cpu;
mod deferred;
mod int8;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, DispatchTensorKind, backend_extension};
use burn::tensor::{DType, Tensor};

use crate::cpu::is_host_f32;
use crate::error::{assert_dtype, assert_shape};

pub use deferred::{WeightFactors, add_weight_gradient, linear_deferred};
pub use int8::{Int8Weight, linear_int8};

/// Backends that can run [`linear`] and [`linear_int8`].
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait LinearOps: Backend {
    /// `x W^T`: `[batch, tokens, in]`, `[out, in]` to `[batch, tokens, out]`.
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_primitive::<Self>(x, weight)
    }

    /// The same, with the factors of the weight's gradient left at `dy_leaf` and `x_leaf` as their gradients.
    fn linear_deferred_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        _dy_leaf: FloatTensor<Self>,
        _x_leaf: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::linear_forward(x, weight)
    }

    /// `(x V^T) * s`: `[batch, tokens, in]`, i8 `[out, in]`, `[out]` to `[batch, tokens, out]`.
    fn linear_int8_forward(
        x: FloatTensor<Self>,
        values: IntTensor<Self>,
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::linear_int8_primitive::<Self>(x, values, scales)
    }

    /// `dy W`: `[batch, tokens, out]`, `[out, in]` to `[batch, tokens, in]`.
    fn linear_grad_input(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_grad_input::<Self>(dy, weight)
    }

    /// `(dy * s) V`: `[batch, tokens, out]`, i8 `[out, in]`, `[out]` to `[batch, tokens, in]`.
    fn linear_int8_grad_input(
        dy: FloatTensor<Self>,
        values: IntTensor<Self>,
        scales: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::linear_int8_grad_input::<Self>(dy, values, scales)
    }

    /// `dy^T x` over all rows: `[batch, tokens, out]`, `[batch, tokens, in]` to `[out, in]`.
    fn linear_grad_weight(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear_grad_weight::<Self>(dy, x)
    }

    /// `sum + dy^T x` over all rows: `[out, in]`, `[batch, tokens, out]`, `[batch, tokens, in]` to `[out, in]`.
    fn linear_add_grad_weight(
        sum: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::float_add(sum, Self::linear_grad_weight(dy, x))
    }
}

/// Applies `x W^T + b` to every row of `x`. Differentiable in all three arguments.
///
/// The weight may be stored as bf16 beside an f32 (or f64) input, for half the memory: the result is that of the weight
/// widened to the input's type. On the host, where `x` is f32 and the weight no parameter of a graph, it is widened on the
/// way into the registers and the bits are those of the f32 product; everywhere else a wide copy is made for the call.
///
/// # Shapes
/// - `x`: `[batch, tokens, in]`
/// - `weight`: `[out, in]`
/// - `bias`: `[out]`
/// - returns `[batch, tokens, out]`
///
/// # Panics
/// When shapes disagree, or the weight's dtype is neither that of `x` nor bf16 beside f32 or f64.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let outputs = check_weight("linear", &x, &weight);
    let weight = if must_widen(&x, &weight) { weight.cast(x.dtype()) } else { weight };
    let y = <Dispatch as LinearOps>::linear_forward(x.into_dispatch(), weight.into_dispatch());
    add_bias("linear", Tensor::from_dispatch(y), outputs, bias)
}

/// Asserts that the weight fits `x` in shape and dtype; returns its number of outputs.
fn check_weight(operation: &'static str, x: &Tensor<3>, weight: &Tensor<2>) -> usize {
    let [_, _, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    assert_shape(operation, "weight", &weight.dims(), &[outputs, inputs]);
    if weight.dtype() != x.dtype() {
        let wide = matches!(x.dtype(), DType::F32 | DType::F64);
        let narrow: &[DType] = if wide { &[DType::BF16] } else { &[] };
        assert_dtype(operation, "weight", weight.dtype(), narrow, "the dtype of `x`, or BF16 beside F32 or F64");
    }
    outputs
}

/// Whether a product needs a wide copy of its weight.
fn must_widen(x: &Tensor<3>, weight: &Tensor<2>) -> bool {
    let narrow = weight.dtype() == DType::BF16 && matches!(x.dtype(), DType::F32 | DType::F64);
    // A tracked weight gets its gradient in its own type, which is the cast's to see to.
    narrow && !(is_host_f32(x) && is_plain(weight))
}

/// Whether a tensor is no part of a graph.
fn is_plain(tensor: &Tensor<2>) -> bool {
    !matches!(tensor.clone().into_dispatch().kind, DispatchTensorKind::Autodiff(_))
}

/// `y + b`, if there is one.
fn add_bias(operation: &'static str, y: Tensor<3>, outputs: usize, bias: Option<Tensor<1>>) -> Tensor<3> {
    match bias {
        None => y,
        Some(bias) => {
            assert_shape(operation, "bias", &bias.dims(), &[outputs]);
            y + bias.unsqueeze()
        }
    }
}
