//! Plain tensor operations, in the order of the formula.

use burn::tensor::{DType, Tensor, TensorData};

use super::rounding::{random_bits, to_either_side, widen};
use super::{AdamWOptions, RoundingKey};
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

/// See [`adamw_master`](super::adamw_master()).
pub fn adamw_master<const D: usize>(
    param: Tensor<D>,
    master: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>, Tensor<D>) {
    let (master, m, v) = adamw(master, grad, m, v, step, options);
    (cast_to(master.clone(), param.dtype()), master, m, v)
}

/// See [`adamw_stochastic`](super::adamw_stochastic()). Rounds on the host.
pub fn adamw_stochastic<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
    key: RoundingKey,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let (dtype, shape, device) = (param.dtype(), param.dims(), param.device());
    let (updated, m, v) = adamw(cast_to(param, DType::F32), grad, m, v, step, options);
    let key = key.at_step(step);
    let round = |(element, value): (usize, f32)| widen(to_either_side(value, random_bits(key, element)));
    let rounded: Vec<f32> = updated.into_data().iter::<f32>().enumerate().map(round).collect();
    let rounded = Tensor::from_data(TensorData::new(rounded, shape), (&device, DType::F32));
    (cast_to(rounded, dtype), m, v)
}
