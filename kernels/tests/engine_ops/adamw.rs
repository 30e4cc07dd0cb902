use crate::adamw_forms::adamw;
use burn::tensor::{DType, Tensor};
use nemo_kernels::adamw::reference;
use nemo_kernels::{AdamWOptions, global_norm, sum_of_squares};

use crate::harness::{Inputs, address, assert_close, bits, device, fastest_ns, with_threads};

const OPTIONS: AdamWOptions =
    AdamWOptions { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, rounding: None };

#[test]
fn host_equals_reference_over_several_steps() {
    let mut random = Inputs(1);
    let shape = [3, 37, 129];
    let mut host = (random.tensor(shape), Tensor::<3>::zeros(shape, &device()), Tensor::zeros(shape, &device()));
    let mut plain = host.clone();
    for step in 1..=5 {
        let grad = random.tensor(shape);
        host = adamw(host.0, grad.clone(), host.1, host.2, step, OPTIONS);
        plain = reference::adamw(plain.0, grad, plain.1, plain.2, step, OPTIONS);
    }
    assert_close(&host.0, &plain.0, 1e-6);
    assert_close(&host.1, &plain.1, 1e-6);
    assert_close(&host.2, &plain.2, 1e-6);
}

#[test]
fn a_first_step_by_hand() {
    let one = |value: f32| Tensor::<1>::from_floats([value], &device());
    let (param, m, v) = adamw(one(2.0), one(-0.5), one(0.0), one(0.0), 1, OPTIONS);
    // The bias-corrected first update is the sign of the gradient.
    assert_close(&param, &one(2.0 * (1.0 - 1e-3) + 1e-2), 1e-6);
    assert_close(&m, &one(-0.05), 1e-7);
    assert_close(&v, &one(2.5e-4), 1e-7);
}

#[test]
fn f64_takes_the_reference_and_keeps_the_shape() {
    let mut random = Inputs(2);
    let [p, g, m, v] = [(); 4].map(|()| random.tensor([4, 5]));
    let v = v.abs();
    let single = adamw(p.clone(), g.clone(), m.clone(), v.clone(), 3, OPTIONS);
    let [p, g, m, v] = [p, g, m, v].map(|tensor| tensor.cast(DType::F64));
    let double = adamw(p, g, m, v, 3, OPTIONS);
    assert_eq!(double.0.dtype(), DType::F64);
    assert_eq!(double.2.dims(), [4, 5]);
    assert_close(&single.0, &double.0, 1e-6);
}

#[test]
fn in_place_when_unique_and_independent_of_threads() {
    let mut random = Inputs(3);
    let [p, g, m, v] = [(); 4].map(|()| random.tensor([100_003]));
    let v = v.abs();
    let want = with_threads(1, || adamw(p.clone(), g.clone(), m.clone(), v.clone(), 2, OPTIONS));
    let norm = with_threads(1, || sum_of_squares(&g));
    assert_eq!(with_threads(4, || sum_of_squares(&g)).to_bits(), norm.to_bits());
    let addresses = [address(&p), address(&m), address(&v)];
    let got = with_threads(4, || adamw(p, g, m, v, 2, OPTIONS));
    assert_eq!([address(&got.0), address(&got.1), address(&got.2)], addresses);
    assert_eq!(bits(&got.0), bits(&want.0));
}

#[test]
fn norms() {
    let a = Tensor::<2>::from_floats([[3.0, 0.0], [0.0, 4.0]], &device());
    let b = Tensor::<1>::from_floats([12.0], &device());
    assert_eq!(global_norm([sum_of_squares(&a), sum_of_squares(&b)]), 13.0);
    // A view counts its own elements only, f64 and f32 agree.
    assert_eq!(sum_of_squares(&a.clone().narrow(0, 1, 1)), 16.0);
    assert_eq!(sum_of_squares(&a.cast(DType::F64)), 25.0);
}

#[test]
#[ignore = "measures"]
fn time_per_element() {
    let mut random = Inputs(3);
    let [p, g, m, v] = [(); 4].map(|()| random.tensor([4_000_000]));
    let v = v.abs();
    let mut state = Some((p, m, v));
    let ns = fastest_ns(|| {
        state = state.take().map(|(p, m, v)| adamw(p, g.clone(), m, v, 2, OPTIONS));
    });
    let norm = fastest_ns(|| {
        sum_of_squares(&g);
    });
    let (ns, norm) = (ns / 4e6, norm / 4e6);
    println!("adamw {ns:.2} ns per element, sum of squares {norm:.2}");
}
