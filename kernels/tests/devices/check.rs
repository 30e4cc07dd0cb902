//! The device under test, and comparisons that report the largest error seen.

use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::AdamWOptions;

use crate::device::named_device;
use crate::harness::*;

/// An optimizer step in which every scalar acts.
pub const STEP: AdamWOptions =
    AdamWOptions { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, rounding: None };

/// The device under test, or nothing and a line that says why.
pub fn test_device() -> Option<Device> {
    named_device().map(|(_, device)| device)
}

/// Largest relative L2 error of a list of tensors, which must be finite, and where it is.
fn largest_error(name: &str, found: &[Vec<f64>], expected: &[Vec<f64>]) -> (f64, String) {
    assert_eq!(found.len(), expected.len(), "{name}: number of tensors");
    let errors = found.iter().zip(expected).enumerate().map(|(index, (found, expected))| {
        assert!(found.iter().all(|v| v.is_finite()), "{name}: tensor {index} is not finite");
        let error = relative_error(found, expected);
        assert!(error < 1e-2, "{name}: tensor {index} differs by {error:.3e}");
        (error, format!("{name}, tensor {index}"))
    });
    errors.fold((0.0, String::new()), |largest, error| if error.0 > largest.0 { error } else { largest })
}

/// Largest errors of one operation over all its cases.
pub struct Report {
    operation: &'static str,
    device: Device,
    output: (f64, String),
    gradient: (f64, String),
}

impl Report {
    pub fn new(operation: &'static str, device: Device) -> Self {
        Self { operation, device, output: (0.0, String::new()), gradient: (0.0, String::new()) }
    }

    /// Compares values and gradients; `which` outputs carry a cotangent (all when empty).
    pub fn with_gradients(
        &mut self,
        name: &str,
        inputs: &[Vec<f64>],
        which: &[usize],
        fast: &Operation,
        reference: &Operation,
    ) {
        let name = format!("{} {name}", self.operation);
        let found = evaluate_on(self.device.clone(), inputs, DType::F32, which, fast);
        let expected = evaluate(inputs, DType::F64, which, reference);
        let plain = outputs_on(&self.device, inputs, DType::F32, fast);
        assert_eq!(plain, found.outputs, "{name}: the same with and without autodiff");
        keep_larger(&mut self.output, largest_error(&name, &found.outputs, &expected.outputs));
        keep_larger(&mut self.gradient, largest_error(&name, &found.gradients, &expected.gradients));
    }

    /// Compares values.
    pub fn values(&mut self, name: &str, inputs: &[Vec<f64>], fast: &Operation, reference: &Operation) {
        let name = format!("{} {name}", self.operation);
        let found = outputs_on(&self.device, inputs, DType::F32, fast);
        let expected = outputs(inputs, DType::F64, reference);
        keep_larger(&mut self.output, largest_error(&name, &found, &expected));
    }

    /// Prints the largest errors and compares them with the bounds.
    #[track_caller]
    pub fn finish(self, output_bound: f64, gradient_bound: f64) {
        let Self { operation, device, output, gradient } = self;
        println!("{operation} on {device:?}: values within {:.1e}, gradients within {:.1e}", output.0, gradient.0);
        println!("  largest at {} and {}", output.1, gradient.1);
        assert!(output.0 <= output_bound, "values of {}: {:.3e} > {output_bound:.1e}", output.1, output.0);
        assert!(gradient.0 <= gradient_bound, "gradients of {}: {:.3e} > {gradient_bound:.1e}", gradient.1, gradient.0);
    }
}

fn keep_larger(largest: &mut (f64, String), error: (f64, String)) {
    if error.0 > largest.0 {
        *largest = error;
    }
}

/// Compares operations on tensors of one dtype with those in f64 of the same rounded inputs.
pub struct InDtype<'a> {
    pub device: &'a Device,
    pub dtype: DType,
}

impl InDtype<'_> {
    /// Compares values and gradients.
    pub fn gradients(&self, name: &str, inputs: &[Vec<f64>], fast: &Operation, reference: &Operation) {
        let inputs = rounded(inputs, self.dtype);
        let found = evaluate_on(self.device.clone(), &inputs, self.dtype, &[], fast);
        let expected = evaluate(&inputs, DType::F64, &[], reference);
        self.outputs_agree(name, &found.outputs, &expected.outputs);
        // The cotangent is formed in `dtype` too.
        let name = format!("{name} in {:?}: gradient", self.dtype);
        assert_within(&name, &found.gradients, &expected.gradients, bound(self.dtype));
    }

    /// Compares values.
    pub fn values(&self, name: &str, inputs: &[Vec<f64>], fast: &Operation, reference: &Operation) {
        let inputs = rounded(inputs, self.dtype);
        let found = outputs_on(self.device, &inputs, self.dtype, fast);
        self.outputs_agree(name, &found, &outputs(&inputs, DType::F64, reference));
    }

    fn outputs_agree(&self, name: &str, found: &[Vec<f64>], expected: &[Vec<f64>]) {
        assert_within(&format!("{name} in {:?}: output", self.dtype), found, expected, bound(self.dtype) / 2.0);
    }
}

fn rounded(inputs: &[Vec<f64>], dtype: DType) -> Vec<Vec<f64>> {
    inputs.iter().map(|values| to_vec(tensor(values, dtype, &Device::flex()))).collect()
}

/// In sixteen bits a unit in the last place.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1.5e-3,
        _ => 1.2e-2,
    }
}

fn assert_within(what: &str, found: &[Vec<f64>], expected: &[Vec<f64>], bound: f64) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = relative_error(found, expected);
        assert!(error <= bound, "{what} {index} differs by {error:.2e}, allowed {bound:.1e}");
    }
}

/// The values as a tensor of the shape whose axes 0 and 1 lie swapped in memory.
pub fn swapped<const D: usize>(flat: &Tensor<1>, shape: [usize; D]) -> Tensor<D> {
    let mut memory = shape;
    memory.swap(0, 1);
    flat.clone().reshape(memory).swap_dims(0, 1)
}
