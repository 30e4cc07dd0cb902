//! Plain tensor operations, in the order of the formula.

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::blockwise::{self, BLOCK_SIZE, num_blocks};
use super::rounding::{Purpose, random_bits, to_either_side, to_nearest, widen};
use super::{AdamWOptions, Moment, Order, Weights};
use crate::precision::cast_to;

/// See [`adamw_step`](super::adamw_step()). Rounds on the host.
pub fn adamw_step<const D: usize>(
    weights: Weights<D>,
    grad: Tensor<D>,
    moments: [Moment<D>; 2],
    step: u64,
    options: AdamWOptions,
) -> (Weights<D>, [Moment<D>; 2]) {
    let dtype = match &weights {
        Weights::Single(param) => param.dtype(),
        _ => DType::F32,
    };
    let key = options.rounding.map(|key| key.at_step(step));
    let [first, second] = moments;
    let before = match &weights {
        Weights::Single(param) | Weights::WithMaster { master: param, .. } | Weights::Rounded(param) => param.clone(),
    };
    let (first, second) = (first.keeping(dtype), second.keeping(dtype));
    let (param, m, v) = adamw(cast_to(before, dtype), grad, first.0, second.0, step, options);
    let weights = match weights {
        Weights::Single(_) => Weights::Single(param),
        Weights::WithMaster { rounded, .. } => Weights::WithMaster {
            rounded: round(param.clone(), rounded.dtype(), None, Purpose::Weights),
            master: param,
        },
        Weights::Rounded(old) => Weights::Rounded(round(param, old.dtype(), key, Purpose::Weights)),
    };
    (weights, [first.1.store(m, Order::First, None), second.1.store(v, Order::Second, key)])
}

/// The formula in the precision of `param`: parameter, first and second moment.
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
    step: u64,
    options: AdamWOptions,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let AdamWOptions { lr, beta1, beta2, eps, weight_decay, grad_scale, rounding: _ } = options;
    let grad = cast_to(grad, param.dtype()) * grad_scale;
    let param = param * (1.0 - lr * weight_decay);
    let m = m * beta1 + grad.clone() * (1.0 - beta1);
    let v = v * beta2 + grad.clone() * grad * (1.0 - beta2);
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    let update = m.clone() / ((v.clone() / correction2).sqrt() + eps);
    (param - update * (lr / correction1), m, v)
}

/// bf16 numbers, stored in `dtype`.
fn round<const D: usize>(values: Tensor<D>, dtype: DType, key: Option<[u32; 2]>, purpose: Purpose) -> Tensor<D> {
    let (shape, device) = (values.dims(), values.device());
    let round = |(element, value): (usize, f32)| {
        widen(match key {
            Some(key) => to_either_side(value, random_bits(key, purpose, element)),
            None => to_nearest(value),
        })
    };
    let rounded: Vec<f32> = values.into_data().iter::<f32>().enumerate().map(round).collect();
    cast_to(Tensor::from_data(TensorData::new(rounded, shape), (&device, DType::F32)), dtype)
}

/// How a moment is stored.
#[derive(Clone, Copy)]
enum Storage {
    Float(DType),
    Blockwise,
}

impl<const D: usize> Moment<D> {
    /// The moment in `dtype`, and how to store it again.
    fn keeping(self, dtype: DType) -> (Tensor<D>, Storage) {
        match self {
            Self::Float(values) => {
                let stored = values.dtype();
                (cast_to(values, dtype), Storage::Float(stored))
            }
            Self::Blockwise { order, codes, largest } => {
                let table = blockwise::table(order);
                let (shape, device) = (codes.dims(), codes.device());
                let largest: Vec<f32> = largest.into_data().iter::<f32>().collect();
                let codes = codes.into_data();
                let value = |(at, code): (usize, u8)| table[usize::from(code)] * largest[at / BLOCK_SIZE];
                let values: Vec<f32> = codes.iter::<u8>().enumerate().map(value).collect();
                (Tensor::from_data(TensorData::new(values, shape), (&device, dtype)), Storage::Blockwise)
            }
        }
    }
}

impl Storage {
    fn store<const D: usize>(self, values: Tensor<D>, order: Order, key: Option<[u32; 2]>) -> Moment<D> {
        match self {
            Self::Float(DType::BF16) => Moment::Float(round(values, DType::BF16, key, Purpose::SecondMoment)),
            Self::Float(dtype) => Moment::Float(cast_to(values, dtype)),
            Self::Blockwise => {
                let (shape, device) = (values.dims(), values.device());
                let values: Vec<f32> = values.into_data().iter::<f32>().collect();
                let (mut codes, mut largest) = (vec![0; values.len()], vec![0.0; num_blocks(values.len())]);
                blockwise::encode(order, &values, &mut codes, &mut largest);
                let count = largest.len();
                Moment::Blockwise {
                    order,
                    codes: Tensor::<D, Int>::from_data(TensorData::new(codes, shape), (&device, DType::U8)),
                    largest: Tensor::from_data(TensorData::new(largest, [count]), (&device, DType::F32)),
                }
            }
        }
    }
}
