//! AdamW with moments in bf16 and in eight bits, step by step against the host.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nemo_kernels::adamw::{Order, num_blocks};
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights, adamw_step};

use crate::check::*;
use crate::harness::*;

const ORDERS: [Order; 2] = [Order::First, Order::Second];
const OPTIONS: AdamWOptions = AdamWOptions {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weight_decay: 0.1,
    grad_scale: 0.7,
    rounding: Some(RoundingKey { seed: 5, stream: 9 }),
};

/// What is kept of a tensor, on the host.
#[derive(Clone, Debug)]
enum Kept {
    Floats(DType, Vec<f64>),
    Codes(Vec<u8>, Vec<f64>),
}

impl Kept {
    fn moment(&self, order: Order, device: &Device) -> Moment<1> {
        match self {
            Self::Floats(dtype, values) => Moment::Float(tensor(values, DType::F32, device).cast(*dtype)),
            Self::Codes(codes, largest) => Moment::Blockwise {
                order,
                codes: Tensor::<1, Int>::from_data(TensorData::new(codes.clone(), [codes.len()]), (device, DType::U8)),
                largest: tensor(largest, DType::F32, device),
            },
        }
    }

    fn of(moment: Moment<1>) -> Self {
        match moment {
            Moment::Float(values) => Self::Floats(values.dtype(), to_vec(values)),
            Moment::Blockwise { codes, largest, .. } => {
                Self::Codes(codes.into_data().iter::<u8>().collect(), to_vec(largest))
            }
        }
    }

    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Floats(_, values) => values.clone(),
            Self::Codes(codes, largest) => codes.iter().map(|&code| f64::from(code)).chain(largest.clone()).collect(),
        }
    }
}

/// One step on `device` from what is given; parameters, then moments.
fn step(
    device: &Device,
    form: usize,
    param: &[f64],
    grad: &[f64],
    moments: &[Kept; 2],
    number: u64,
) -> (Vec<f64>, [Kept; 2]) {
    let param = tensor(param, DType::F32, device);
    let weights = match form {
        0 => Weights::Single(param),
        1 => Weights::WithMaster { rounded: param.clone() * 1.0, master: param },
        _ => Weights::Rounded(param),
    };
    let [first, second] = [0, 1].map(|which| moments[which].moment(ORDERS[which], device));
    let (weights, moments) = adamw_step(weights, tensor(grad, DType::F32, device), [first, second], number, OPTIONS);
    let values = match weights {
        Weights::Single(values) | Weights::Rounded(values) => to_vec(values),
        Weights::WithMaster { rounded, master } => [to_vec(rounded), to_vec(master)].concat(),
    };
    (values, moments.map(Kept::of))
}

#[test]
fn moments_in_fewer_bits_are_the_host_s() {
    let Some(device) = test_device() else { return };
    let host = Device::flex();
    let mut kinds = Vec::new();
    for (dtype, pair) in [(DType::BF16, [true, true]), (DType::U8, [true, true]), (DType::U8, [false, true])] {
        match device.supports_dtype(dtype) {
            true => kinds.push((dtype, pair)),
            false => println!("skipped: {device:?} does not store {dtype:?}"),
        }
    }
    for size in [1, 255, 257, 1024, 1025, 5000] {
        for &(dtype, narrow) in &kinds {
            for form in 0..3 {
                let mut noise = Noise::new(12);
                let mut param = noise.vector(size);
                let zero = |which: usize| match (dtype, narrow[which]) {
                    (DType::U8, true) => {
                        Kept::Codes(vec![if which == 0 { 127 } else { 0 }; size], vec![0.0; num_blocks(size)])
                    }
                    (_, true) => Kept::Floats(dtype, vec![0.0; size]),
                    _ => Kept::Floats(DType::F32, vec![0.0; size]),
                };
                let mut moments = [zero(0), zero(1)];
                for number in 1..=3 {
                    // Some have no gradient.
                    let grad: Vec<f64> =
                        noise.vector(size).into_iter().map(|value| if value < -0.5 { 0.0 } else { value }).collect();
                    let found = step(&device, form, &param, &grad, &moments, number);
                    let expected = step(&host, form, &param, &grad, &moments, number);
                    let all = |(values, moments): &(Vec<f64>, [Kept; 2])| {
                        [values.clone(), moments[0].numbers(), moments[1].numbers()]
                    };
                    for (what, (found, expected)) in all(&found).iter().zip(all(&expected)).enumerate() {
                        let far = |(a, b): &(&f64, &f64)| (*a - *b).abs() > 1e-5 * b.abs().max(1e-3);
                        let differing = found.iter().zip(&expected).filter(far).count();
                        // The last bits of f32 rarely decide about a code or a rounding.
                        assert!(
                            found.len() == expected.len() && differing <= 1 + size / 200,
                            "{size} elements, {dtype:?}, form {form}, step {number}, tensor {what}: {differing} differ"
                        );
                    }
                    param = expected.0[expected.0.len() - size..].to_vec();
                    moments = expected.1;
                }
            }
        }
    }
}
