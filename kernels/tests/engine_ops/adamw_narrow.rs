//! AdamW of parameters in sixteen bits: with a master copy, and rounded at random.

use crate::adamw_forms::{adamw, adamw_master, adamw_stochastic};
use burn::tensor::{DType, Tensor, TensorData, bf16};
use nemo_kernels::adamw::reference;
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights};

use crate::harness::{Inputs, address, assert_close, bits, device, fastest_ns, values, with_threads};

const OPTIONS: AdamWOptions =
    AdamWOptions { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, rounding: None };
/// Leaves the parameter to its rounding alone.
const STILL: AdamWOptions = AdamWOptions { lr: 0.0, ..OPTIONS };
const KEY: RoundingKey = RoundingKey { seed: 5, stream: 9 };

fn narrow<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().cast(DType::BF16)
}

/// Gradient and moments.
fn others<const D: usize>(random: &mut Inputs, shape: [usize; D]) -> [Tensor<D>; 3] {
    let [g, m, v] = [(); 3].map(|()| random.tensor(shape));
    [g, m, v.abs()]
}

/// The reference of a step that is rounded at random.
fn reference_stochastic<const D: usize>(
    param: Tensor<D>,
    [grad, m, v]: [Tensor<D>; 3],
    step: u64,
    options: AdamWOptions,
    key: RoundingKey,
) -> Tensor<D> {
    let options = AdamWOptions { rounding: Some(key), ..options };
    let (weights, _) = reference::adamw_step(Weights::Rounded(param), grad, [m, v].map(Moment::Float), step, options);
    let Weights::Rounded(param) = weights else { panic!("the form changed") };
    param
}

/// The two bf16 around a value: towards zero, and away from it.
fn sides(value: f32) -> [f32; 2] {
    let low = value.to_bits() & 0xffff_0000;
    [low, if low == value.to_bits() { low } else { low + 0x1_0000 }].map(f32::from_bits)
}

/// Rounds `values` at random, without an update.
fn rounded(values: &[f32], step: u64, key: RoundingKey) -> Vec<f32> {
    let tensor = || Tensor::<1>::from_floats(values, &device());
    let zeros = || Tensor::<1>::zeros([values.len()], &device());
    let (param, ..) = adamw_stochastic(tensor(), zeros(), zeros(), zeros(), step, STILL, key);
    param.into_data().try_to_vec().unwrap()
}

#[test]
fn a_master_has_the_bits_of_adamw_and_the_parameter_is_its_rounding() {
    for shape in [[1, 1, 1], [3, 37, 129], [2, 5, 1600]] {
        let mut random = Inputs(1);
        let start = random.tensor(shape);
        let zeros = || Tensor::<3>::zeros(shape, &device());
        let mut state = (narrow(&start), start.clone(), zeros(), zeros());
        let mut single = (start.clone(), zeros(), zeros());
        let mut double = (start.cast(DType::F64), zeros().cast(DType::F64), zeros().cast(DType::F64));
        for step in 1..=5 {
            let grad = random.tensor(shape);
            state = adamw_master(state.0, state.1, grad.clone(), state.2, state.3, step, OPTIONS);
            single = adamw(single.0, grad.clone(), single.1, single.2, step, OPTIONS);
            let grad = grad.cast(DType::F64);
            double = reference::adamw(double.0, grad, double.1, double.2, step, OPTIONS);
            assert_eq!(state.0.dtype(), DType::BF16);
            let nearest: Vec<f32> = values(&state.1).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
            assert_eq!(values(&state.0), nearest);
        }
        assert_eq!(bits(&state.1), bits(&single.0));
        assert_eq!(bits(&state.2), bits(&single.1));
        assert_eq!(bits(&state.3), bits(&single.2));
        assert_close(&state.1, &double.0, 1e-6);
        assert_close(&state.2, &double.1, 1e-6);
        assert_close(&state.3, &double.2, 1e-6);
    }
}

#[test]
fn the_reference_of_a_master_rounds_alike() {
    let mut random = Inputs(2);
    let shape = [7, 200];
    let master = random.tensor(shape);
    let [grad, m, v] = others(&mut random, shape);
    let weights = Weights::WithMaster { rounded: narrow(&master), master };
    let (weights, _) = reference::adamw_step(weights, grad, [m, v].map(Moment::Float), 3, OPTIONS);
    let Weights::WithMaster { rounded: param, master } = weights else { panic!("the form changed") };
    let nearest: Vec<f32> = values(&master).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
    assert_eq!(values(&param), nearest);
}

/// Gradients may come in sixteen bits, parameters in the other sixteen bits, and any of them as a view.
#[test]
fn other_precisions_and_views() {
    let mut random = Inputs(3);
    let [start, m] = [(); 2].map(|()| random.tensor([5, 40]));
    let v = random.tensor([40, 5]).abs().swap_dims(0, 1);
    let grad = narrow(&random.tensor([40, 5])).swap_dims(0, 1);
    let wide = grad.clone().cast(DType::F32);
    let want = adamw(start.clone(), wide.clone(), m.clone(), v.clone(), 3, OPTIONS);
    for dtype in [DType::BF16, DType::F16] {
        let param = start.clone().swap_dims(0, 1).cast(dtype).swap_dims(0, 1);
        let got = adamw_master(param, start.clone(), grad.clone(), m.clone(), v.clone(), 3, OPTIONS);
        assert_eq!((got.0.dtype(), got.0.dims()), (dtype, [5, 40]));
        assert_eq!(bits(&got.1), bits(&want.0));
        assert_eq!(bits(&got.2), bits(&want.1));
        assert_eq!(values(&got.0), values(&want.0.clone().cast(dtype)));
    }
    let param = narrow(&start.swap_dims(0, 1)).swap_dims(0, 1);
    let narrow = adamw_stochastic(param.clone(), grad, m.clone(), v.clone(), 3, OPTIONS, KEY);
    let plain = adamw_stochastic(param.cast(DType::F32), wide, m, v, 3, OPTIONS, KEY);
    assert_eq!((narrow.0.dtype(), plain.0.dtype()), (DType::BF16, DType::F32));
    assert_eq!(values(&narrow.0), values(&plain.0));
    assert_eq!(bits(&narrow.1), bits(&want.1));
    assert_eq!(bits(&narrow.2), bits(&plain.2));
}

/// Moments follow the f64 formula, and the parameter is one of the two bf16 around what the formula gives.
#[test]
fn a_stochastic_step_is_next_to_the_formula() {
    for shape in [[1], [1023], [1025], [20_000]] {
        let mut random = Inputs(4);
        let param = narrow(&random.tensor(shape));
        let [grad, m, v] = others(&mut random, shape);
        let double = [&param, &grad, &m, &v].map(|tensor| tensor.clone().cast(DType::F64));
        let [p64, g64, m64, v64] = double;
        let (got, m_got, v_got) = adamw_stochastic(param.clone(), grad.clone(), m.clone(), v.clone(), 3, OPTIONS, KEY);
        let (p64, m64, v64) = reference::adamw(p64, g64, m64, v64, 3, OPTIONS);
        assert_close(&m_got, &m64, 1e-6);
        assert_close(&v_got, &v64, 1e-6);
        let plain = reference_stochastic(param, [grad, m, v], 3, OPTIONS, KEY);
        let (got, plain) = (values(&got), values(&plain));
        let exact: Vec<f64> = p64.into_data().iter::<f64>().collect();
        let mut differing = 0;
        for (at, &exact) in exact.iter().enumerate() {
            // The f32 in which the formula is evaluated may lie on the other side of a bf16.
            let slack = 1e-6 * exact.abs().max(1.0);
            let [toward, away] = sides(exact as f32).map(f64::from);
            let (low, high) = (toward.min(away) - slack, toward.max(away) + slack);
            assert!((low..=high).contains(&f64::from(got[at])), "{at}: {} for {exact}", got[at]);
            differing += usize::from(got[at] != plain[at]);
        }
        // The same random bits; the last bits of f32 rarely decide.
        assert!(differing <= shape[0] / 500, "{differing} of {}", shape[0]);
    }
}

#[test]
fn stochastic_rounding_without_an_update_is_the_reference_s() {
    let mut random = Inputs(5);
    let [param, zeros] = [random.tensor([20_011]), Tensor::<1>::zeros([20_011], &device())];
    let run = |step: u64, key: RoundingKey| {
        let others = [(); 3].map(|()| zeros.clone());
        let [g, m, v] = others.clone();
        let (host, ..) = adamw_stochastic(param.clone(), g, m, v, step, STILL, key);
        let plain = reference_stochastic(param.clone(), others, step, STILL, key);
        assert_eq!(bits(&host), bits(&plain));
        bits(&host)
    };
    let first = run(3, KEY);
    assert_eq!(run(3, KEY), first);
    let others = [
        run(4, KEY),
        run(3, RoundingKey { seed: 6, ..KEY }),
        run(3, RoundingKey { stream: 8, ..KEY }),
        run(9, RoundingKey { stream: 3, ..KEY }),
    ];
    for other in others {
        // Half of the elements move on average where the parts are unlike; a tenth is far below.
        let differing = first.iter().zip(&other).filter(|(a, b)| a != b).count();
        assert!(differing > first.len() / 10, "{differing}");
    }
}

/// Over n seeds the mean of an element rounded up with probability q has the deviation `step sqrt(q (1 - q) / n)`. Six
/// of them are exceeded once in 5e8; here are 300 elements.
#[test]
fn stochastic_rounding_is_unbiased() {
    const SEEDS: u64 = 4000;
    let mut random = Inputs(6);
    let exact: Vec<f32> = (0..300).map(|index| random.value() * 2f32.powi(index % 40 - 20)).collect();
    let mut sums = vec![0.0; exact.len()];
    for seed in 0..SEEDS {
        let rounded = rounded(&exact, 1, RoundingKey { seed, stream: 2 });
        for ((&exact, &rounded), sum) in exact.iter().zip(&rounded).zip(&mut sums) {
            assert!(sides(exact).contains(&rounded), "{rounded} is not next to {exact}");
            *sum += f64::from(rounded);
        }
    }
    for (&exact, sum) in exact.iter().zip(sums) {
        let [toward, away] = sides(exact).map(f64::from);
        let (exact, step) = (f64::from(exact), away - toward);
        let share = if step == 0.0 { 0.0 } else { (exact - toward) / step };
        let deviation = step.abs() * (share * (1.0 - share) / SEEDS as f64).sqrt();
        let mean = sum / SEEDS as f64;
        // The last term is for sums in f64.
        assert!((mean - exact).abs() <= 6.0 * deviation + 1e-12 * exact.abs(), "{mean} for {exact}, {deviation}");
    }
}

/// Updates far below one step of bf16 add up: rounding to the nearest would lose each of them.
#[test]
fn small_updates_add_up() {
    const STEPS: u64 = 400;
    let size = 4096;
    let options =
        AdamWOptions { lr: 1e-4, beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0, grad_scale: 1.0, rounding: None };
    let full = |value: f32| Tensor::<1>::full([size], value, &device());
    let mut state = (narrow(&full(1.5)), full(0.0), full(0.0));
    for step in 1..=STEPS {
        state = adamw_stochastic(state.0, full(1.0), state.1, state.2, step, options, KEY);
    }
    let mean = values(&state.0).into_iter().map(f64::from).sum::<f64>() / size as f64;
    // Each step moves by 2^-7 with probability 1e-4 * 2^7, by nothing otherwise.
    let [exact, step] = [1.5 - 1e-4 * STEPS as f64, 2f64.powi(-7)];
    let share = 1e-4 / step;
    let deviation = step * (STEPS as f64 * share * (1.0 - share) / size as f64).sqrt();
    assert!((mean - exact).abs() < 6.0 * deviation, "{mean} for {exact}, deviation {deviation}");
}

#[test]
fn values_of_the_type_and_its_edges_stay() {
    let mut exact: Vec<f32> = (0..1u32 << 16).step_by(7).map(|high| f32::from_bits(high << 16)).collect();
    exact.retain(|value| value.is_finite());
    let got = rounded(&exact, 2, KEY);
    for (&exact, got) in exact.iter().zip(got) {
        assert_eq!(exact.to_bits(), got.to_bits(), "{exact}");
    }
    let edges = rounded(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7f80_0001)], 2, KEY);
    assert_eq!(edges[..2], [f32::INFINITY, f32::NEG_INFINITY]);
    assert!(edges[2].is_nan() && edges[3].is_nan());
}

#[test]
fn in_place_when_unique_and_independent_of_threads() {
    let mut random = Inputs(7);
    let shape = [100_003];
    let master = random.tensor(shape);
    let param = narrow(&master);
    let [g, m, v] = others(&mut random, shape);
    let with_master = |threads: usize| {
        let [param, master, g, m, v] = [&param, &master, &g, &m, &v].map(Tensor::clone);
        let (p, w, m, v) = with_threads(threads, || adamw_master(param, master, g, m, v, 2, OPTIONS));
        [p, w, m, v].map(|tensor| bits(&tensor))
    };
    let alone = |threads: usize| {
        let [param, g, m, v] = [&param, &g, &m, &v].map(Tensor::clone);
        let (p, m, v) = with_threads(threads, || adamw_stochastic(param, g, m, v, 2, OPTIONS, KEY));
        [p, m, v].map(|tensor| bits(&tensor))
    };
    let (want, want_alone) = (with_master(1), alone(1));
    for threads in [2, 3, 4] {
        assert!(with_master(threads) == want, "{threads} threads");
        assert!(alone(threads) == want_alone, "{threads} threads");
    }
    let addresses = [&param, &master, &m, &v].map(address);
    let (param, master, m, v) = adamw_master(param, master, g.clone(), m, v, 2, OPTIONS);
    assert_eq!([&param, &master, &m, &v].map(address), addresses);
    let addresses = [&param, &m, &v].map(address);
    let (param, m, v) = adamw_stochastic(param, g, m, v, 2, OPTIONS, KEY);
    assert_eq!([&param, &m, &v].map(address), addresses);
}

#[test]
fn nothing_to_update() {
    let empty = || Tensor::<2>::zeros([0, 3], &device());
    let (param, master, ..) = adamw_master(narrow(&empty()), empty(), empty(), empty(), empty(), 1, OPTIONS);
    assert_eq!((param.dims(), master.dims()), ([0, 3], [0, 3]));
    let (param, ..) = adamw_stochastic(narrow(&empty()), empty(), empty(), empty(), 1, OPTIONS, KEY);
    assert_eq!((param.dims(), param.dtype()), ([0, 3], DType::BF16));
}

fn one(dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::from([1.0f32]), (&device(), dtype))
}

#[test]
#[should_panic(expected = "adamw_step: `master` is BF16, expected F32")]
fn a_narrow_master_is_refused() {
    let (narrow, wide) = (one(DType::BF16), one(DType::F32));
    adamw_master(narrow.clone(), narrow, wide.clone(), wide.clone(), wide, 1, OPTIONS);
}

#[test]
#[should_panic(expected = "adamw_step: `param` is F16, expected BF16 or F32")]
fn stochastic_rounding_is_for_bf16() {
    let wide = one(DType::F32);
    adamw_stochastic(one(DType::F16), wide.clone(), wide.clone(), wide, 1, OPTIONS, KEY);
}

#[test]
#[should_panic(expected = "adamw_step: `moment` has shape [2], expected [1]")]
fn a_wrong_shape_is_named() {
    let wide = one(DType::F32);
    adamw_stochastic(one(DType::BF16), wide.clone(), wide.clone(), wide.repeat_dim(0, 2), 1, OPTIONS, KEY);
}

#[test]
#[should_panic(expected = "adamw_step: `step` is 0, but the first step is 1")]
fn step_zero_is_refused() {
    let wide = one(DType::F32);
    adamw_master(one(DType::BF16), wide.clone(), wide.clone(), wide.clone(), wide, 0, OPTIONS);
}

#[test]
#[ignore = "measures"]
fn time_per_element() {
    let mut random = Inputs(8);
    let shape = [4_000_000];
    let grad = random.tensor(shape);
    // Only one handle to each tensor, so that nothing is copied.
    let mut state = {
        let master = random.tensor(shape);
        Some((narrow(&master), master, random.tensor(shape), random.tensor(shape).abs()))
    };
    let mut update = || state = state.take().map(|(p, w, m, v)| adamw_master(p, w, grad.clone(), m, v, 2, OPTIONS));
    // The first call touches all of the memory for the first time.
    update();
    let with_master = fastest_ns(update);
    let mut state = state.map(|(p, _, m, v)| (p, m, v));
    let alone = fastest_ns(|| {
        state = state.take().map(|(p, m, v)| adamw_stochastic(p, grad.clone(), m, v, 2, OPTIONS, KEY));
    });
    println!("with a master {:.2} ns per element, rounded at random {:.2}", with_master / 4e6, alone / 4e6);
}
