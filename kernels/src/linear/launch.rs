//! Device matrix products: all rows of a batch are one matrix.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;

use super::LinearOps;
use super::reference::{linear_grad_input, linear_grad_weight, linear_primitive};
use crate::cube::product::{multiplies, product};
use crate::cube::sizes;

impl LinearOps for CubeBackend {
    fn linear_forward(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !multiplies(x.dtype) {
            return linear_primitive::<Self>(x, weight);
        }
        let ([batch, tokens, _], [outputs, _]) = (sizes(&x), sizes(&weight));
        let y = product(rows(x), Self::float_transpose(weight));
        Self::float_reshape(y, Shape::from([batch, tokens, outputs]))
    }

    fn linear_grad_input(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !multiplies(dy.dtype) {
            return linear_grad_input::<Self>(dy, weight);
        }
        let ([batch, tokens, _], [_, inputs]) = (sizes(&dy), sizes(&weight));
        Self::float_reshape(product(rows(dy), weight), Shape::from([batch, tokens, inputs]))
    }

    fn linear_grad_weight(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !multiplies(dy.dtype) {
            return linear_grad_weight::<Self>(dy, x);
        }
        product(CubeBackend::float_transpose(rows(dy)), rows(x))
    }
}

/// `[batch, tokens, width]` to `[batch * tokens, width]`.
fn rows(x: FloatTensor<CubeBackend>) -> FloatTensor<CubeBackend> {
    let [batch, tokens, width] = sizes(&x);
    CubeBackend::float_reshape(x, Shape::from([batch * tokens, width]))
}
