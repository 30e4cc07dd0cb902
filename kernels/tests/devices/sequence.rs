//! Operations of training.

use burn::tensor::{Int, Tensor, TensorData};
use nemo_kernels::{
    LogProbOutput, SsdInputs, add_rms_norm, causal_conv, gated_rms_norm, linear_log_prob, rms_norm, squared_relu,
    ssd_scan,
};

use crate::check::*;
use crate::harness::*;

const EPSILON: f64 = 1e-5;

#[test]
fn rms_norm_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("rms_norm", device);
    let sizes = [[1, 1, 2], [2, 3, 5], [1, 63, 127], [1, 64, 128], [5, 13, 129], [2, 65, 256], [3, 1, 700]];
    for [batch, tokens, width] in sizes {
        let mut noise = Noise::new(1);
        let inputs = [noise.vector(batch * tokens * width), noise.vector(width)];
        let shape = [batch, tokens, width];
        let reference = nemo_kernels::rms_norm::reference::rms_norm;
        let x = |flat: &[Tensor<1>]| swapped(&flat[0], shape);
        report.with_gradients(
            &format!("{shape:?}"),
            &inputs,
            &[],
            &|flat| vec![rms_norm(x(flat), flat[1].clone(), EPSILON).flatten(0, 2)],
            &|flat| vec![reference(x(flat), flat[1].clone(), EPSILON).flatten(0, 2)],
        );
    }
    report.finish(1e-6, 2e-6);
}

#[test]
fn add_rms_norm_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("add_rms_norm", device);
    let sizes = [[1, 1, 2], [2, 3, 5], [1, 63, 127], [1, 64, 128], [5, 13, 129], [2, 65, 256], [3, 1, 700]];
    for [batch, tokens, width] in sizes {
        let mut noise = Noise::new(1);
        let size = batch * tokens * width;
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(width)];
        let shape = [batch, tokens, width];
        let run = |flat: &[Tensor<1>], add_norm: AddNorm| {
            let (x, residual) = (flat[0].clone().reshape(shape), swapped(&flat[1], shape));
            let (sum, normed) = add_norm(x, residual, flat[2].clone(), EPSILON);
            vec![sum.flatten(0, 2), normed.flatten(0, 2)]
        };
        let reference = nemo_kernels::rms_norm::reference::add_rms_norm;
        for which in [&[][..], &[0], &[1]] {
            let name = format!("{shape:?} cotangents {which:?}");
            report.with_gradients(&name, &inputs, which, &|f| run(f, add_rms_norm), &|f| run(f, reference));
        }
    }
    report.finish(1e-6, 2e-6);
}

type AddNorm = fn(Tensor<3>, Tensor<3>, Tensor<1>, f64) -> (Tensor<3>, Tensor<3>);

#[test]
fn gated_rms_norm_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("gated_rms_norm", device);
    let sizes = [[1, 1, 2, 1], [2, 3, 10, 2], [1, 64, 127, 1], [3, 43, 384, 3], [2, 65, 256, 2], [1, 2, 1032, 8]];
    for [batch, tokens, width, groups] in sizes {
        let mut noise = Noise::new(2);
        let size = batch * tokens * width;
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(width)];
        let shape = [batch, tokens, width];
        let reference = nemo_kernels::gated_rms_norm::reference::gated_rms_norm;
        let parts = |flat: &[Tensor<1>]| (swapped(&flat[0], shape), flat[1].clone().reshape(shape), flat[2].clone());
        report.with_gradients(
            &format!("{shape:?} in {groups}"),
            &inputs,
            &[],
            &|flat| {
                let (x, gate, weight) = parts(flat);
                vec![gated_rms_norm(x, gate, weight, groups, EPSILON).flatten(0, 2)]
            },
            &|flat| {
                let (x, gate, weight) = parts(flat);
                vec![reference(x, gate, weight, groups, EPSILON).flatten(0, 2)]
            },
        );
    }
    report.finish(1e-6, 2e-6);
}

#[test]
fn squared_relu_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("squared_relu", device);
    for shape in [[1, 1, 1], [2, 3, 5], [1, 1, 127], [4, 8, 4], [3, 1, 43], [5, 13, 129]] {
        let inputs = [Noise::new(3).vector(shape.iter().product())];
        let reference = nemo_kernels::squared_relu::reference::squared_relu;
        report.with_gradients(
            &format!("{shape:?}"),
            &inputs,
            &[],
            &|flat| vec![squared_relu(swapped(&flat[0], shape)).flatten(0, 2)],
            &|flat| vec![reference(swapped(&flat[0], shape)).flatten(0, 2)],
        );
    }
    report.finish(1e-7, 1e-7);
}

type Convolution = fn(Tensor<3>, Tensor<3>, Option<Tensor<1>>, Tensor<3>, Option<&[usize]>) -> (Tensor<3>, Tensor<3>);

#[test]
fn causal_conv_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("causal_conv", device);
    for (sizes, lengths, bias) in [
        ([1, 1, 3, 4, 1], None, true),
        ([2, 2, 5, 4, 2], None, true),
        ([2, 5, 16, 2, 1], Some(&[5, 1][..]), false),
        ([3, 65, 20, 4, 1], Some(&[65, 64, 0]), true),
        ([2, 130, 33, 3, 2], Some(&[2, 130]), true),
        ([1, 64, 129, 4, 1], None, false),
        ([2, 63, 40, 7, 2], None, true),
    ] {
        let [batch, tokens, channels, taps, window_batch] = sizes;
        let mut noise = Noise::new(5);
        let inputs = [
            noise.vector(batch * tokens * channels),
            noise.vector(channels * taps),
            noise.vector(window_batch * channels * (taps - 1)),
            noise.vector(channels),
        ];
        let run = |flat: &[Tensor<1>], convolution: Convolution| {
            let (y, window) = convolution(
                swapped(&flat[0], [batch, tokens, channels]),
                flat[1].clone().reshape([channels, 1, taps]),
                bias.then(|| flat[3].clone()),
                swapped(&flat[2], [window_batch, channels, taps - 1]),
                lengths,
            );
            vec![valid(y, lengths), window.flatten(0, 2)]
        };
        let reference = nemo_kernels::causal_conv::reference::causal_conv;
        for which in [&[][..], &[0], &[1]] {
            let name = format!("{sizes:?} lengths {lengths:?} cotangents {which:?}");
            report.with_gradients(&name, &inputs, which, &|flat| run(flat, causal_conv), &|flat| run(flat, reference));
        }
    }
    report.finish(1e-6, 2e-6);
}

/// The valid tokens of all rows, since the others are arbitrary.
fn valid<const D: usize>(y: Tensor<D>, lengths: Option<&[usize]>) -> Tensor<1> {
    let [batch, tokens] = [y.dims()[0], y.dims()[1]];
    let size = y.dims().iter().product::<usize>() / (batch * tokens);
    let y = y.reshape([batch, tokens, size]);
    let rows = (0..batch).filter_map(|row| {
        let length = lengths.map_or(tokens, |lengths| lengths[row]);
        (length > 0).then(|| y.clone().narrow(0, row, 1).narrow(1, 0, length).reshape([length * size]))
    });
    Tensor::cat(rows.collect(), 0)
}

type LogProb = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, f64) -> LogProbOutput;

#[test]
fn linear_log_prob_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("linear_log_prob", device);
    for (sizes, temperature) in [
        ([1, 1, 1], 1.0),
        ([3, 5, 7], 0.7),
        ([31, 16, 63], 1.0),
        ([32, 17, 64], 1.0),
        ([33, 40, 65], 1.3),
        ([5, 33, 1100], 1.0),
        ([65, 20, 2050], 0.6),
    ] {
        let [rows, width, vocabulary] = sizes;
        let mut noise = Noise::new(11);
        let inputs = [noise.vector(rows * width), noise.vector(vocabulary * width)];
        let run = |flat: &[Tensor<1>], head: LogProb| {
            let targets: Vec<i64> = (0..rows).map(|row| ((row * 37 + 5) % vocabulary) as i64).collect();
            let targets = Tensor::from_data(TensorData::new(targets, [rows]), &flat[0].device());
            let hidden = swapped(&flat[0], [rows, width]) * 3.0;
            let output = head(hidden, flat[1].clone().reshape([vocabulary, width]), targets, temperature);
            (output.log_prob, output.entropy)
        };
        let reference = nemo_kernels::linear_log_prob::reference::linear_log_prob;
        let both = |(log_prob, entropy): (Tensor<1>, Tensor<1>)| vec![log_prob, entropy];
        let name = format!("{sizes:?} temperature {temperature}");
        report.values(&name, &inputs, &|flat| both(run(flat, linear_log_prob)), &|flat| both(run(flat, reference)));
        report.with_gradients(&name, &inputs, &[], &|flat| vec![run(flat, linear_log_prob).0], &|flat| {
            vec![run(flat, reference).0]
        });
    }
    report.finish(2e-6, 3e-6);
}

type Scan = fn(SsdInputs, (f64, f64), Option<&[usize]>) -> (Tensor<4>, Tensor<4>);

#[test]
fn ssd_scan_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("ssd_scan", device);
    let unlimited = (0.0, f64::INFINITY);
    // batch, tokens, heads, width, groups, state, state batch
    for (sizes, lengths, dt_limit) in [
        ([1, 1, 2, 4, 1, 8, 1], None, unlimited),
        ([2, 5, 2, 3, 2, 5, 2], None, (0.4, 1.1)),
        ([3, 33, 4, 8, 2, 16, 1], Some(&[33, 7, 0][..]), (0.001, 0.9)),
        ([2, 64, 2, 16, 1, 16, 2], None, unlimited),
        ([2, 70, 2, 33, 1, 32, 1], Some(&[70, 41]), unlimited),
        ([1, 31, 3, 5, 3, 7, 1], None, unlimited),
        ([2, 40, 4, 32, 2, 64, 2], Some(&[1, 40]), unlimited),
        ([1, 37, 2, 17, 1, 128, 1], None, unlimited),
        ([1, 17, 3, 9, 1, 200, 1], None, unlimited),
    ] {
        let [batch, tokens, heads, width, groups, state, state_batch] = sizes;
        let mut noise = Noise::new(12);
        let inputs = [
            noise.vector(batch * tokens * heads * width),
            noise.vector(batch * tokens * heads),
            noise.vector(heads),
            noise.vector(batch * tokens * groups * state),
            noise.vector(batch * tokens * groups * state),
            noise.vector(heads),
            noise.vector(heads),
            noise.vector(state_batch * heads * width * state),
        ];
        let run = |flat: &[Tensor<1>], scan: Scan| {
            let inputs = SsdInputs {
                x: swapped(&flat[0], [batch, tokens, heads, width]),
                dt: flat[1].clone().reshape([batch, tokens, heads]),
                a_log: flat[2].clone(),
                b: swapped(&flat[3], [batch, tokens, groups, state]),
                c: flat[4].clone().reshape([batch, tokens, groups, state]),
                d: flat[5].clone(),
                dt_bias: flat[6].clone(),
                state: flat[7].clone().reshape([state_batch, heads, width, state]),
            };
            let (y, state) = scan(inputs, dt_limit, lengths);
            vec![valid(y, lengths), state.flatten(0, 3)]
        };
        let reference = nemo_kernels::ssd_scan::reference::ssd_scan;
        for which in [&[][..], &[0], &[1]] {
            let name = format!("{sizes:?} lengths {lengths:?} cotangents {which:?}");
            report.with_gradients(&name, &inputs, which, &|flat| run(flat, ssd_scan), &|flat| run(flat, reference));
        }
    }
    // Gradients of decay rates are sums over tokens that nearly cancel.
    report.finish(2e-6, 1e-5);
}

/// No tokens leave windows and states as they are; no rows give empty results and no gradient.
#[test]
fn empty_inputs() {
    let Some(device) = test_device() else { return };
    let ones = |size: usize| tensor(&vec![1.0; size], burn::tensor::DType::F32, &device);
    let x = Tensor::<3>::zeros([2, 0, 6], &device);
    let window = ones(36).reshape([2, 6, 3]);
    let (y, next) = causal_conv(x.clone(), ones(24).reshape([6, 1, 4]), None, window.clone(), None);
    assert_eq!((y.dims(), to_vec(next)), ([2, 0, 6], to_vec(window)));
    assert_eq!(squared_relu(x.clone()).dims(), [2, 0, 6]);
    let (sum, normed) = add_rms_norm(x.clone(), x.clone(), ones(6), EPSILON);
    assert_eq!((sum.dims(), normed.dims()), ([2, 0, 6], [2, 0, 6]));
    assert_eq!(rms_norm(x, ones(6), EPSILON).dims(), [2, 0, 6]);
    let state = ones(48).reshape([2, 2, 3, 4]);
    let nothing = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let inputs = SsdInputs {
        x: nothing([2, 0, 2, 3]),
        dt: Tensor::zeros([2, 0, 2], &device),
        a_log: ones(2),
        b: nothing([2, 0, 1, 4]),
        c: nothing([2, 0, 1, 4]),
        d: ones(2),
        dt_bias: ones(2),
        state: state.clone(),
    };
    let (y, last) = ssd_scan(inputs, (0.0, f64::INFINITY), None);
    assert_eq!((y.dims(), to_vec(last)), ([2, 0, 2, 3], to_vec(state)));
    let device = device.clone().autodiff();
    let head = Tensor::<2>::ones([7, 5], &device).require_grad();
    let targets = Tensor::<1, Int>::zeros([0], &device);
    let scored = linear_log_prob(Tensor::zeros([0, 5], &device), head.clone(), targets, 1.0);
    assert_eq!(scored.log_prob.dims(), [0]);
    let gradient = head.grad(&scored.log_prob.sum().backward());
    assert!(gradient.is_none_or(|gradient| to_vec(gradient).iter().all(|&v| v == 0.0)));
}
