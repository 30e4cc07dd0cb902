//! What an operation allocates beside its inputs and results.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and reports what it measured")]

#[path = "memory/counter.rs"]
mod counter;

use std::sync::atomic::Ordering::Relaxed;

use burn::tensor::{Device, Distribution, Int, Tensor};
use counter::{MOST, NOW};
use nemo_kernels::linear_log_prob;

/// The logits of a real vocabulary would take a gigabyte. The pass and its gradient need 64 MB at most beside what goes in
/// and comes out.
#[test]
fn linear_log_prob_never_holds_the_logits() {
    const ROWS: usize = 2048;
    const VOCABULARY: usize = 131_072;
    const WIDTH: usize = 512;
    let device = Device::flex().autodiff();
    let random =
        |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Uniform(-0.1, 0.1), &device).require_grad();
    let (hidden, weight) = (random([ROWS, WIDTH]), random([VOCABULARY, WIDTH]));
    let targets = Tensor::<1, Int>::arange(0..ROWS as i64, &device);
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let output = linear_log_prob(hidden.clone(), weight.clone(), targets, 1.0);
    let gradients = output.log_prob.sum().backward();
    let beside = MOST.load(Relaxed) - before;
    let results = 4
        * (hidden.grad(&gradients).unwrap().shape().num_elements()
            + weight.grad(&gradients).unwrap().shape().num_elements()
            + 2 * ROWS);
    assert_eq!(results, 4 * (ROWS * WIDTH + VOCABULARY * WIDTH + 2 * ROWS));
    let extra = beside - results;
    assert!(extra <= 64_000_000, "{:.1} MB beside inputs and results", extra as f64 / 1e6);
    assert!(extra > 0, "nothing was counted");
    println!("{:.1} MB beside inputs and results", extra as f64 / 1e6);
}
