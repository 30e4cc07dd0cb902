//! Plain tensor operations, in the order of the formula.

use burn::tensor::Tensor;

use super::AdamWOptions;
use crate::precision::cast_to;

/// See [`adamw`](super::adamw()).
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = options;
    let grad = cast_to(grad, param.dtype());
    let param = param * (1.0 - lr * weight_decay);
    let m = m * beta1 + grad.clone() * (1.0 - beta1);
    let v = v * beta2 + grad.clone() * grad * (1.0 - beta2);
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    let update = m.clone() / ((v.clone() / correction2).sqrt() + eps);
    (param - update * (lr / correction1), m, v)
}
