//! The optimizer step in its forms with moments in f32, as functions of tensors.

use burn::tensor::Tensor;
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights, adamw_step};

fn floats<const D: usize>(moments: [Moment<D>; 2]) -> [Tensor<D>; 2] {
    moments.map(|moment| match moment {
        Moment::Float(values) => values,
        Moment::Blockwise { .. } => panic!("moments come back as they went in"),
    })
}

/// Parameter and moments.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let (weights, moments) = adamw_step(Weights::Single(param), grad, [m, v].map(Moment::Float), step, options);
    let (Weights::Single(param), [m, v]) = (weights, floats(moments)) else { panic!("the form changed") };
    (param, m, v)
}

/// Parameter, master and moments.
#[allow(clippy::too_many_arguments, reason = "they are those of the operation")]
pub fn adamw_master<const D: usize>(
    rounded: Tensor<D>,
    master: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>, Tensor<D>) {
    let weights = Weights::WithMaster { rounded, master };
    let (weights, moments) = adamw_step(weights, grad, [m, v].map(Moment::Float), step, options);
    let (Weights::WithMaster { rounded, master }, [m, v]) = (weights, floats(moments)) else {
        panic!("the form changed")
    };
    (rounded, master, m, v)
}

/// Parameter and moments.
#[allow(clippy::too_many_arguments, reason = "they are those of the operation")]
pub fn adamw_stochastic<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
    key: RoundingKey,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let options = AdamWOptions { rounding: Some(key), ..options };
    let (weights, moments) = adamw_step(Weights::Rounded(param), grad, [m, v].map(Moment::Float), step, options);
    let (Weights::Rounded(param), [m, v]) = (weights, floats(moments)) else { panic!("the form changed") };
    (param, m, v)
}
