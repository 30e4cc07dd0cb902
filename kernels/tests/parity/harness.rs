//! Evaluates an operation with all its gradients, and compares evaluations.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Deterministic pseudo-random numbers, uniform in `[-1, 1)` (SplitMix64).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn vector(&mut self, len: usize) -> Vec<f64> {
        // Rounded to f32 so that both precisions see the same inputs.
        (0..len).map(|_| f64::from(self.next() as f32)).collect()
    }
}

/// Flat inputs in, flat outputs out.
pub type Operation<'a> = dyn Fn(&[Tensor<1>]) -> Vec<Tensor<1>> + 'a;

pub struct Evaluation {
    pub outputs: Vec<Vec<f64>>,
    pub gradients: Vec<Vec<f64>>,
}

pub fn device() -> Device {
    Device::flex()
}

pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_vec_as::<f64>().unwrap()
}

pub fn tensor(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

/// Runs without autodiff.
pub fn outputs(inputs: &[Vec<f64>], dtype: DType, operation: &Operation) -> Vec<Vec<f64>> {
    outputs_on(&device(), inputs, dtype, operation)
}

/// [`outputs`] on a device of choice.
pub fn outputs_on(device: &Device, inputs: &[Vec<f64>], dtype: DType, operation: &Operation) -> Vec<Vec<f64>> {
    let inputs: Vec<_> = inputs.iter().map(|v| tensor(v, dtype, device)).collect();
    operation(&inputs).into_iter().map(to_vec).collect()
}

/// Runs with autodiff; the loss is a fixed random weighting of every output. `which` outputs carry
/// a cotangent (all when empty).
pub fn evaluate(inputs: &[Vec<f64>], dtype: DType, which: &[usize], operation: &Operation) -> Evaluation {
    evaluate_on(device(), inputs, dtype, which, operation)
}

/// [`evaluate`] on a device of choice.
pub fn evaluate_on(
    device: Device,
    inputs: &[Vec<f64>],
    dtype: DType,
    which: &[usize],
    operation: &Operation,
) -> Evaluation {
    let device = device.autodiff();
    let inputs: Vec<_> = inputs.iter().map(|v| tensor(v, dtype, &device).require_grad()).collect();
    let outputs = operation(&inputs);
    let values: Vec<_> = outputs.iter().cloned().map(to_vec).collect();
    let loss = weighted_sum(outputs, which, dtype, &device);
    let mut gradients = loss.backward();
    let gradients = inputs
        .iter()
        .map(|input| match input.grad_remove(&mut gradients) {
            Some(gradient) => to_vec(gradient),
            None => vec![0.0; input.dims()[0]],
        })
        .collect();
    Evaluation { outputs: values, gradients }
}

fn cotangent(index: usize, len: usize) -> Vec<f64> {
    Noise::new(900 + index as u64).vector(len)
}

fn weighted_sum(outputs: Vec<Tensor<1>>, which: &[usize], dtype: DType, device: &Device) -> Tensor<1> {
    let mut loss: Option<Tensor<1>> = None;
    for (index, output) in outputs.into_iter().enumerate() {
        if !which.is_empty() && !which.contains(&index) {
            continue;
        }
        let weights = tensor(&cotangent(index, output.dims()[0]), dtype, device);
        let term = (output * weights).sum();
        loss = Some(match loss {
            Some(loss) => loss + term,
            None => term,
        });
    }
    loss.unwrap()
}

/// Central differences of the same loss in f64.
pub fn finite_differences(inputs: &[Vec<f64>], operation: &Operation) -> Vec<Vec<f64>> {
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        outputs(inputs, DType::F64, operation)
            .iter()
            .enumerate()
            .map(|(index, output)| {
                let weights = cotangent(index, output.len());
                output.iter().zip(weights).map(|(o, w)| o * w).sum::<f64>()
            })
            .sum()
    };
    let step = 1e-5;
    let mut inputs = inputs.to_vec();
    let mut gradients = Vec::new();
    for index in 0..inputs.len() {
        let mut gradient = Vec::new();
        for element in 0..inputs[index].len() {
            let value = inputs[index][element];
            inputs[index][element] = value + step;
            let above = loss(&inputs);
            inputs[index][element] = value - step;
            let below = loss(&inputs);
            inputs[index][element] = value;
            gradient.push((above - below) / (2.0 * step));
        }
        gradients.push(gradient);
    }
    gradients
}

/// L2 norm of the difference over the L2 norm of the expected values.
pub fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| (f - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    (difference / norm.max(1e-30)).sqrt()
}

pub fn assert_close(name: &str, found: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}: number of tensors");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.iter().all(|v| v.is_finite()), "{name}: tensor {index} is not finite");
        let error = relative_error(found, expected);
        assert!(error <= tolerance, "{name}: tensor {index} differs by {error:.3e} > {tolerance:.1e}");
    }
}
