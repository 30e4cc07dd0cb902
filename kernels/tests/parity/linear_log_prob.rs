//! The language-model head.

use crate::harness::*;
use burn::tensor::{DType, Int, Tensor, TensorData};
use nemo_kernels::{LogProbOutput, RandomKey, SamplingOptions, ScoredRows, linear_log_prob, sample};

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

/// Under a head that is not trained the gradient of the hidden values is the same, and no other is formed.
#[test]
fn the_gradient_of_hidden_values_alone_has_the_bits_of_both_gradients() {
    let device = device();
    for ([rows, width, vocabulary], head_dtype, dtype) in [
        ([3, 5, 7], DType::F32, DType::F32),
        ([300, 24, 130], DType::BF16, DType::F32),
        ([2050, 8, 4099], DType::F32, DType::F32),
        ([20, 16, 40], DType::F64, DType::F64),
    ] {
        let mut noise = Noise::new(10);
        let tensor = |values: Vec<f64>, shape: [usize; 2], dtype| {
            Tensor::<2>::from_data(TensorData::new(values, shape), (&device, DType::F64)).cast(dtype)
        };
        let hidden = tensor(noise.vector(rows * width), [rows, width], dtype);
        let weight = tensor(noise.vector(vocabulary * width), [vocabulary, width], head_dtype);
        let cotangent = tensor(noise.vector(rows), [rows, 1], dtype).squeeze_dim::<1>(1);
        let targets: Vec<i64> = (0..rows).map(|row| (row * 7 % vocabulary) as i64).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &device);
        let (scored, _) = ScoredRows::score(hidden, weight, targets, 0.9);
        let sum = Tensor::zeros([vocabulary, width], (&device, dtype));
        let (both, sum) = scored.clone().backward(cotangent.clone(), sum);
        let alone = scored.hidden_backward(cotangent);
        let values = |tensor: Tensor<2>| tensor.into_data().iter::<f64>().collect::<Vec<_>>();
        assert!(values(sum).iter().any(|slope| *slope != 0.0));
        assert_eq!(values(alone), values(both), "{rows} rows");
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

/// What is sampled at a temperature has the log-probability it is trained with, down to the smallest temperatures, where
/// everything but the largest logit is impossible.
#[test]
fn cold_temperatures_are_those_of_sampling() {
    let device = device();
    let (width, vocabulary) = (4, 50);
    let mut noise = Noise::new(9);
    let (hidden, weight) = (noise.vector(width), noise.vector(vocabulary * width));
    let tensor = |values: &[f64], shape: [usize; 2]| {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        Tensor::<2>::from_data(TensorData::new(values, shape), (&device, DType::F32))
    };
    let (hidden, weight) = (tensor(&hidden, [1, width]), tensor(&weight, [vocabulary, width]));
    let logits = nemo_kernels::linear(hidden.clone().unsqueeze::<3>(), weight.clone(), None)
        .into_data()
        .try_into_vec_as::<f32>()
        .unwrap();
    for temperature in [1.0, 0.3, 1e-3, 1e-20, 1e-37, 1e-38, 2e-39, 1e-45] {
        let options = SamplingOptions { temperature: temperature as f32, top_k: None, top_p: 1.0, min_p: 0.0 };
        let key = RandomKey { seed: 1, step: 2, task: 3, sample: 4, position: 5 };
        let token = sample(&logits, &options, key).unwrap();
        let targets = Tensor::from_data(TensorData::new(vec![i64::from(token.id)], [1]), &device);
        let output = linear_log_prob(hidden.clone(), weight.clone(), targets, temperature);
        let trained = output.log_prob.into_data().try_into_vec_as::<f32>().unwrap();
        assert_eq!(trained, [token.log_prob], "{temperature}");
        assert!(temperature > 1e-10 || token.log_prob == 0.0, "{temperature}");
    }
}
