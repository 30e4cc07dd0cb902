//! Processor time per token of every operation beside its reference, on one thread:
//! `cargo test --release -p nemo-kernels --test parity -- --ignored --nocapture timing`.

use crate::causal_attention::Shape as AttentionShape;
use crate::harness::*;
use crate::ssd_scan::Shape as ScanShape;
use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::*;

/// Seconds this thread has run on a processor, so that other work on the machine counts little.
fn thread_seconds() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = statistics.split_whitespace().next().unwrap().parse().unwrap();
    nanoseconds * 1e-9
}

/// Seconds of one run, the fastest of three averages; the clock ticks every few milliseconds.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = thread_seconds();
        let mut runs = 0.0;
        while thread_seconds() - start < 0.1 {
            run();
            runs += 1.0;
        }
        best = best.min((thread_seconds() - start) / runs);
    }
    best
}

fn forward(inputs: &[Vec<f64>], operation: &Operation) -> f64 {
    let device = device();
    let inputs: Vec<_> = inputs.iter().map(|v| tensor(v, DType::F32, &device)).collect();
    fastest(|| drop(operation(&inputs)))
}

fn both(inputs: &[Vec<f64>], operation: &Operation) -> f64 {
    let device: Device = device().autodiff();
    let plain: Vec<_> = inputs.iter().map(|v| tensor(v, DType::F32, &device)).collect();
    fastest(|| {
        let inputs: Vec<_> = plain.iter().map(|t| t.clone().detach().require_grad()).collect();
        let mut outputs = operation(&inputs).into_iter().map(|y| y.sum());
        let first = outputs.next().unwrap();
        drop(outputs.fold(first, |sum, y| sum + y).backward());
    })
}

fn report(name: &str, tokens: usize, inputs: &[Vec<f64>], fast: &Operation, slow: &Operation) {
    let per_token = |seconds: f64| 1e9 * seconds / tokens as f64;
    let [a, b] = [forward(inputs, fast), forward(inputs, slow)].map(per_token);
    let [c, d] = [both(inputs, fast), both(inputs, slow)].map(per_token);
    println!("{name:<58} {a:>8.0} {b:>8.0} {:>6.1}x {c:>8.0} {d:>8.0} {:>6.1}x", b / a, d / c);
}

#[test]
#[ignore = "a measurement"]
fn timing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(measure);
}

fn measure() {
    println!("{:<58} {:>25} {:>25}", "ns per token", "forward, reference", "with backward, reference");
    for sizes in [
        [16, 256, 8, 32, 1, 32, 1],
        [16, 256, 8, 64, 1, 64, 1],
        [16, 256, 8, 32, 1, 16, 1],
        [64, 64, 8, 64, 2, 64, 1],
        [1, 700, 8, 64, 1, 64, 1],
    ] {
        let shape = ScanShape::new(sizes, None);
        let [b, t, h, p, g, n, _] = sizes;
        report(
            &format!("ssd_scan B={b} T={t} H={h} P={p} G={g} N={n}"),
            b * t,
            &shape.inputs(1),
            &|flat| shape.fast(flat),
            &|flat| shape.reference(flat),
        );
    }
    for sizes in
        [[16, 256, 4, 2, 64, 1, 600], [16, 256, 4, 1, 32, 1, 600], [64, 64, 4, 2, 64, 1, 600], [1, 700, 4, 2, 64, 1, 0]]
    {
        let shape = AttentionShape::new(sizes, None);
        let [b, t, hq, hk, p, _, s] = sizes;
        report(
            &format!("causal_attention B={b} T={t} Hq={hq} Hk={hk} P={p} S={s}"),
            b * t,
            &shape.inputs(),
            &|flat| shape.run(flat, causal_attention),
            &|flat| shape.run(flat, causal_attention::reference::causal_attention),
        );
    }
    let mut noise = Noise::new(1);
    for [b, t, d] in [[16, 256, 256], [1, 700, 256]] {
        let inputs = [noise.vector(b * t * d), noise.vector(d), noise.vector(b * t * d)];
        let part = |flat: &[Tensor<1>], i: usize| flat[i].clone().reshape([b, t, d]);
        let flatten = |y: Tensor<3>| vec![y.flatten(0, 2)];
        report(
            &format!("rms_norm B={b} T={t} D={d}"),
            b * t,
            &inputs,
            &|f| flatten(rms_norm(part(f, 0), f[1].clone(), 1e-5)),
            &|f| flatten(rms_norm::reference::rms_norm(part(f, 0), f[1].clone(), 1e-5)),
        );
        report(
            &format!("gated_rms_norm B={b} T={t} D={d}"),
            b * t,
            &inputs,
            &|f| flatten(gated_rms_norm(part(f, 0), part(f, 2), f[1].clone(), 1, 1e-5)),
            &|f| {
                let reference = gated_rms_norm::reference::gated_rms_norm;
                flatten(reference(part(f, 0), part(f, 2), f[1].clone(), 1, 1e-5))
            },
        );
    }
    for [b, t, c] in [[16, 256, 640], [1, 700, 640]] {
        let inputs = [noise.vector(b * t * c), noise.vector(c * 4), noise.vector(c * 3), noise.vector(c)];
        let convolve = |f: &[Tensor<1>], fast: bool| {
            let x = f[0].clone().reshape([b, t, c]);
            let weight = f[1].clone().reshape([c, 1, 4]);
            let window = f[2].clone().reshape([1, c, 3]);
            let convolution = if fast { causal_conv } else { causal_conv::reference::causal_conv };
            let (y, window) = convolution(x, weight, Some(f[3].clone()), window, None);
            vec![y.flatten(0, 2), window.flatten(0, 2)]
        };
        report(&format!("causal_conv B={b} T={t} C={c} K=4"), b * t, &inputs, &|f| convolve(f, true), &|f| {
            convolve(f, false)
        });
    }
    for [r, d, v] in [[2048, 256, 4096], [2048, 128, 1536]] {
        let inputs = [noise.vector(r * d), noise.vector(v * d)];
        let head = |f: &[Tensor<1>], fast: bool| {
            let targets = Tensor::ones([r], &f[0].device());
            let head = if fast { linear_log_prob } else { linear_log_prob::reference::linear_log_prob };
            let (hidden, weight) = (f[0].clone().reshape([r, d]), f[1].clone().reshape([v, d]));
            vec![head(hidden, weight, targets, 1.0).log_prob]
        };
        report(&format!("linear_log_prob R={r} D={d} V={v}"), r, &inputs, &|f| head(f, true), &|f| head(f, false));
    }
}
