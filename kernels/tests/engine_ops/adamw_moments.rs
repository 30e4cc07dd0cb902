//! AdamW with moments in bf16 and in eight bits, beside parameters in every form.

use burn::tensor::{DType, Int, Tensor};
use nemo_kernels::adamw::{Order, code_of_zero, reference, table};
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights, adamw_step};

use crate::harness::{Inputs, address, device, fastest_ns, values, with_threads};

const OPTIONS: AdamWOptions = AdamWOptions {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weight_decay: 0.1,
    grad_scale: 0.7,
    rounding: Some(RoundingKey { seed: 5, stream: 9 }),
};
const ORDERS: [Order; 2] = [Order::First, Order::Second];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    F32,
    Bf16,
    Blockwise,
}

fn zeros(order: Order, kept: Kept, size: usize) -> Moment<1> {
    match kept {
        Kept::F32 => Moment::zeros([size], &device(), DType::F32),
        Kept::Bf16 => Moment::zeros([size], &device(), DType::BF16),
        Kept::Blockwise => Moment::blockwise_zeros(order, [size], &device()),
    }
}

fn forms(param: &Tensor<1>) -> [Weights<1>; 4] {
    let rounded = param.clone().cast(DType::BF16);
    [
        Weights::Single(param.clone()),
        Weights::WithMaster { rounded: rounded.clone(), master: param.clone() },
        Weights::WithMaster { rounded: rounded.clone().cast(DType::F32), master: param.clone() },
        Weights::Rounded(rounded),
    ]
}

/// What is kept of weights and moments, as numbers.
fn numbers(weights: &Weights<1>, moments: &[Moment<1>; 2]) -> Vec<Vec<f32>> {
    let mut all = match weights {
        Weights::Single(param) | Weights::Rounded(param) => vec![values(param)],
        Weights::WithMaster { rounded, master } => vec![values(rounded), values(master)],
    };
    for moment in moments {
        match moment {
            Moment::Float(kept) => all.push(values(kept)),
            Moment::Blockwise { codes, largest, .. } => {
                all.push(codes.clone().into_data().iter::<f32>().collect());
                all.push(values(largest));
            }
        }
    }
    all
}

/// Each step starts from where the host's kernel is, so that what is rounded differently once does not spread.
#[test]
fn every_form_is_its_reference() {
    for size in [1, 255, 257, 1025, 5000, 70_000] {
        let start = Inputs(1).tensor([size]);
        for form in 0..4 {
            for kept in [
                [Kept::Bf16, Kept::Bf16],
                [Kept::Blockwise, Kept::Blockwise],
                [Kept::F32, Kept::Blockwise],
                [Kept::Blockwise, Kept::Bf16],
            ] {
                let mut weights = forms(&start)[form].clone();
                let mut moments = [0, 1].map(|which| zeros(ORDERS[which], kept[which], size));
                let mut random = Inputs(2);
                for step in 1..=4 {
                    let grad: Tensor<1> = random.tensor([size]);
                    // Some have no gradient, some of them never.
                    let grad = grad.mask_fill(Inputs(step).tensor([size]).lower_elem(-0.3), 0.0);
                    let grad = if step == 3 { grad.cast(DType::BF16) } else { grad };
                    let (plain, plain_moments) =
                        reference::adamw_step(weights.clone(), grad.clone(), moments.clone(), step, OPTIONS);
                    (weights, moments) = adamw_step(weights, grad, moments, step, OPTIONS);
                    let (found, expected) = (numbers(&weights, &moments), numbers(&plain, &plain_moments));
                    for (what, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let differing =
                            found.iter().zip(expected).filter(|(a, b)| (*a - *b).abs() > 1e-5 * b.abs().max(1e-6));
                        let (differing, length) = (differing.count(), found.len());
                        assert!(
                            length == expected.len() && differing <= 1 + length / 500,
                            "{size} form {form} {kept:?} step {step}: {differing} of {length} of tensor {what}"
                        );
                    }
                }
            }
        }
    }
}

/// In two bytes and one, memory moved is not what an update is limited by; threads and places do not change a bit.
#[test]
fn threads_do_not_change_a_bit() {
    let size = 200_003;
    let (start, grad): (Tensor<1>, Tensor<1>) = (Inputs(3).tensor([size]), Inputs(4).tensor([size]));
    for kept in [Kept::Bf16, Kept::Blockwise] {
        let run = || {
            let moments = ORDERS.map(|order| zeros(order, kept, size));
            let weights = Weights::Rounded(start.clone().cast(DType::BF16));
            let (weights, moments) = adamw_step(weights, grad.clone(), moments, 1, OPTIONS);
            let (weights, moments) = adamw_step(weights, grad.clone(), moments, 2, OPTIONS);
            numbers(&weights, &moments)
        };
        let expected = with_threads(1, run);
        for threads in [2, 3, 7] {
            assert_eq!(with_threads(threads, run), expected, "{kept:?} {threads}");
        }
    }
}

/// A second moment that nothing adds to any more: to the nearest bf16 it would stay where it is, as a thousandth is less than
/// half a step; at random it decays as it should in the mean.
#[test]
fn a_second_moment_in_bf16_decays() {
    let size = 4096;
    let none: Tensor<1> = Tensor::zeros([size], &device());
    let options = AdamWOptions { beta2: 0.999, ..OPTIONS };
    let start: Tensor<1> = Tensor::full([size], 3.0, (&device(), DType::BF16));
    let mut moments = [zeros(Order::First, Kept::F32, size), Moment::Float(start)];
    let mut weights = Weights::Single(none.clone());
    for step in 1..=1000 {
        (weights, moments) = adamw_step(weights, none.clone(), moments, step, options);
    }
    let Moment::Float(second) = &moments[1] else { panic!("the form changed") };
    let mean = values(second).iter().sum::<f32>() / size as f32;
    let expected = 3.0 * 0.999_f32.powi(1000);
    assert!((mean / expected - 1.0).abs() < 0.01, "{mean} for {expected}");
}

/// A first moment must not outlive the second: the update would be divided by `eps` alone.
#[test]
fn no_update_explodes_in_eight_bits() {
    let size = 2048;
    let mut random = Inputs(6);
    let scale: Tensor<1> = (random.tensor([size]) * 8.0).exp();
    let mut weights = Weights::Single(Tensor::zeros([size], &device()));
    let mut moments = ORDERS.map(|order| zeros(order, Kept::Blockwise, size));
    let options = AdamWOptions { weight_decay: 0.0, grad_scale: 1.0, beta2: 0.95, ..OPTIONS };
    let mut before = vec![0.0; size];
    for step in 1..=60 {
        // Heavy tails, and nothing at all half of the time.
        let grad = (random.tensor([size]) * scale.clone()).mask_fill(random.tensor([size]).lower_elem(0.0), 0.0);
        (weights, moments) = adamw_step(weights, grad, moments, step, options);
        let Weights::Single(param) = &weights else { panic!("the form changed") };
        let now = values(param);
        let largest = now.iter().zip(&before).map(|(now, before)| (now - before).abs()).fold(0.0, f32::max);
        assert!(largest < 4.0 * options.lr as f32, "step {step}: {largest}");
        before = now;
    }
}

#[test]
fn a_moment_without_gradients_stays_nothing() {
    for (order, size) in ORDERS.into_iter().zip([300, 256]) {
        let Moment::Blockwise { codes, largest, .. } = zeros(order, Kept::Blockwise, size) else { panic!("codes") };
        let (codes, largest) = (codes.into_data().iter::<u8>().collect::<Vec<_>>(), values(&largest));
        assert_eq!((codes, largest.len()), (vec![code_of_zero(order); size], size.div_ceil(256)));
        assert_eq!(table(order)[usize::from(code_of_zero(order))], 0.0);
    }
    let none: Tensor<1> = Tensor::zeros([300], &device());
    let moments = ORDERS.map(|order| zeros(order, Kept::Blockwise, 300));
    let (weights, moments) = adamw_step(Weights::Single(none.clone()), none, moments, 1, OPTIONS);
    let found = numbers(&weights, &moments);
    assert_eq!(found[0], vec![0.0; 300]);
    for (which, order) in [(1, Order::First), (3, Order::Second)] {
        assert_eq!((&found[which], &found[which + 1]), (&vec![f32::from(code_of_zero(order)); 300], &vec![0.0; 2]));
    }
}

/// Everything is changed where it lies.
#[test]
fn nothing_is_copied() {
    let size = 3000;
    let codes: Tensor<1, Int> = Tensor::full([size], 127, (&device(), DType::U8));
    let largest: Tensor<1> = Tensor::zeros([12], &device());
    let first = Moment::Blockwise { order: Order::First, codes, largest };
    let moments = [first, zeros(Order::Second, Kept::Bf16, size)];
    let grad = Inputs(7).tensor([size]);
    let places = |moments: &[Moment<1>; 2]| {
        let Moment::Blockwise { codes, largest, .. } = &moments[0] else { panic!("codes") };
        let Moment::Float(second) = &moments[1] else { panic!("floats") };
        let codes = codes.clone().try_into_primitive::<burn::backend::Flex>().unwrap();
        [codes.bytes().as_ptr() as usize, address(largest), address(second)]
    };
    let before = places(&moments);
    let weights = Weights::Rounded(Inputs(8).tensor([size]).cast(DType::BF16));
    let (_, moments) = adamw_step(weights, grad, moments, 1, OPTIONS);
    assert_eq!(places(&moments), before);
}

#[test]
#[ignore = "a measurement"]
fn time() {
    let size = 16 << 20;
    let grad: Tensor<1> = Inputs(9).tensor([size]);
    for kept in [Kept::F32, Kept::Bf16, Kept::Blockwise] {
        let moments = ORDERS.map(|order| zeros(order, kept, size));
        let mut state = Some((Weights::Rounded(grad.clone().cast(DType::BF16)), moments));
        let ns = fastest_ns(|| {
            state = state.take().map(|(weights, moments)| adamw_step(weights, grad.clone(), moments, 2, OPTIONS));
        });
        println!("moments in {kept:?}: {:.2} ns per element", ns / size as f64);
    }
}
