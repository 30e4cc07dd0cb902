//! Plain tensor operations: matrix products over all rows.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Tensor};

use super::{Int8Weight, LinearOps};
use crate::precision::cast_to;

/// See [`linear`](super::linear()). A weight of another dtype takes that of `x`.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [batch, tokens, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    let weight = cast_to(weight, x.dtype());
    let mut y = x.reshape([batch * tokens, inputs]).matmul(weight.transpose());
    if let Some(bias) = bias {
        y = y + bias.unsqueeze();
    }
    y.reshape([batch, tokens, outputs])
}

/// See [`linear_int8`](super::linear_int8()), in the dtype of `x`.
pub fn linear_int8(x: Tensor<3>, weight: &Int8Weight, bias: Option<Tensor<1>>) -> Tensor<3> {
    let dtype = x.dtype();
    let y = linear(x, weight.values().float().cast(dtype), None) * cast_to(weight.scales(), dtype).unsqueeze();
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// [`LinearOps::linear_forward`](super::LinearOps::linear_forward) on a backend's own tensors.
pub(super) fn linear_primitive<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, outputs) = (x.shape(), weight.shape()[0]);
    let y = B::float_matmul(rows::<B>(x), B::float_transpose(weight));
    B::float_reshape(y, Shape::from([shape[0], shape[1], outputs]))
}

/// [`LinearOps::linear_int8_forward`](super::LinearOps::linear_int8_forward).
pub(super) fn linear_int8_primitive<B: LinearOps>(
    x: FloatTensor<B>,
    values: IntTensor<B>,
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, outputs) = (FloatDType::from(x.dtype()), values.shape()[0]);
    let y = B::linear_forward(x, B::int_into_float(values, dtype));
    B::float_mul(y, B::float_reshape(B::float_cast(scales, dtype), Shape::from([1, 1, outputs])))
}

/// [`LinearOps::linear_grad_input`](super::LinearOps::linear_grad_input).
pub(super) fn linear_grad_input<B: Backend>(dy: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let (shape, inputs) = (dy.shape(), weight.shape()[1]);
    let dx = B::float_matmul(rows::<B>(dy), weight);
    B::float_reshape(dx, Shape::from([shape[0], shape[1], inputs]))
}

/// [`LinearOps::linear_int8_grad_input`](super::LinearOps::linear_int8_grad_input).
pub(super) fn linear_int8_grad_input<B: LinearOps>(
    dy: FloatTensor<B>,
    values: IntTensor<B>,
    scales: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, outputs) = (FloatDType::from(dy.dtype()), values.shape()[0]);
    let scales = B::float_reshape(B::float_cast(scales, dtype), Shape::from([1, 1, outputs]));
    B::linear_grad_input(B::float_mul(dy, scales), B::int_into_float(values, dtype))
}

/// [`LinearOps::linear_grad_weight`](super::LinearOps::linear_grad_weight).
pub(super) fn linear_grad_weight<B: Backend>(dy: FloatTensor<B>, x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(rows::<B>(dy)), rows::<B>(x))
}

/// `[batch, tokens, width]` as `[batch * tokens, width]`.
fn rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    B::float_reshape(x, Shape::from([shape[0] * shape[1], shape[2]]))
}
