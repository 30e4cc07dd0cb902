//! The language-model head.

use crate::harness::*;
use burn::tensor::{DType, Int, Tensor, TensorData};
use nemo_kernels::{LogProbOutput, linear_log_prob};

type Head = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, f64) -> LogProbOutput;

fn head(flat: &[Tensor<1>], sizes: [usize; 3], temperature: f64, head: Head) -> Vec<Tensor<1>> {
    let [rows, width, vocabulary] = sizes;
    let targets: Vec<i64> = (0..rows).map(|row| (row * 7 % vocabulary) as i64).collect();
    let device = flat[0].device();
    let output = head(
        flat[0].clone().reshape([rows, width]),
        flat[1].clone().reshape([vocabulary, width]),
        Tensor::from_data(TensorData::new(targets, [rows]), &device),
        temperature,
    );
    vec![output.log_prob, output.entropy]
}

#[test]
fn fast_form_is_the_reference() {
    let reference = nemo_kernels::linear_log_prob::reference::linear_log_prob;
    // The last has several tiles of rows and of vocabulary.
    for (sizes, temperature) in [
        ([1, 1, 2], 1.0),
        ([3, 5, 7], 0.7),
        ([20, 16, 40], 1.0),
        ([300, 24, 130], 1.3),
        ([513, 48, 64], 1.0),
        ([2050, 8, 4099], 1.0),
    ] {
        let [rows, width, vocabulary] = sizes;
        let mut noise = Noise::new(8);
        let inputs = [noise.vector(rows * width), noise.vector(vocabulary * width).iter().map(|w| 3.0 * w).collect()];
        let name = format!("{sizes:?} at {temperature}");
        let fast = |flat: &[Tensor<1>]| head(flat, sizes, temperature, linear_log_prob);
        let slow = |flat: &[Tensor<1>]| head(flat, sizes, temperature, reference);
        // The entropy is a constant; only the log-probability carries a cotangent.
        let found = evaluate(&inputs, DType::F32, &[0], &fast);
        let expected = evaluate(&inputs, DType::F64, &[0], &slow);
        assert_close(&name, &found.outputs, &expected.outputs, 1e-6);
        assert_close(&name, &found.gradients, &expected.gradients, 3e-6);
        if inputs[0].len() < 50 {
            let only_log_prob = |flat: &[Tensor<1>]| vec![slow(flat).swap_remove(0)];
            let slopes = finite_differences(&inputs, &only_log_prob);
            assert_close(&name, &expected.gradients, &slopes, 1e-7);
        }
    }
}

#[test]
fn no_rows_give_no_results() {
    let device = device();
    let output = linear_log_prob(
        Tensor::zeros([0, 4], &device),
        Tensor::zeros([5, 4], &device),
        Tensor::zeros([0], &device),
        1.0,
    );
    assert_eq!(output.log_prob.dims(), [0]);
    assert_eq!(output.entropy.dims(), [0]);
}
