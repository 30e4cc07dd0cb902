//! AdamW over a model's named parameters, with clipping by the global gradient norm.
//!
//! Moments are f32 and kept here by parameter name. Parameters of rank 1 (norm weights, biases, `A_log`, `D`,
//! `dt_bias`) do not decay. An update happens wholly or, when a gradient is not finite, not at all.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nemo_kernels::{AdamWOptions, global_norm, sum_of_squares};
use nemo_model::checkpoint::{CheckpointError, StoredDtype, TensorFile, TensorHeader, TensorValues, write_tensor_file};
use nemo_model::{NemotronH, ParameterMut, Visitor};

use crate::policy::api::{PolicyError, UpdateParams};

/// Guards the division when scaling gradients down to the maximal norm, as Megatron does.
const CLIP_EPSILON: f64 = 1e-6;

/// First and second moment of one parameter, flat `[n]`.
#[derive(Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// The optimizer's state.
#[derive(Debug, Default)]
pub struct AdamW {
    moments: BTreeMap<String, Moments>,
    /// Updates done so far.
    step: u64,
}

impl AdamW {
    /// One update of `model`; returns the gradient's norm before clipping.
    ///
    /// `gradients` are flat, by parameter name. One that is missing is zero: the loss did not depend on the parameter,
    /// and its moments decay and still move it, as those of every other parameter do (Megatron's gradient buffers are
    /// zero, never absent). A batch whose advantages are all zero is therefore an update like any other.
    ///
    /// # Errors
    /// [`PolicyError::NotFinite`] when the norm is not finite; nothing has changed then.
    pub fn update(
        &mut self,
        model: &mut NemotronH,
        gradients: BTreeMap<String, Tensor<1>>,
        params: &UpdateParams,
    ) -> Result<f64, PolicyError> {
        self.update_parameters(&mut |visitor| model.visit_mut(visitor), gradients, params)
    }

    /// [`Self::update`] of whatever parameters `visit` shows to the visitor it is given.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn update_parameters(
        &mut self,
        visit: &mut dyn FnMut(&mut Visitor<'_>),
        mut gradients: BTreeMap<String, Tensor<1>>,
        params: &UpdateParams,
    ) -> Result<f64, PolicyError> {
        let norm = global_norm(gradients.values().map(sum_of_squares));
        if !norm.is_finite() {
            return Err(PolicyError::NotFinite { what: "the gradient norm", value: norm });
        }
        let scale = params.max_grad_norm / (norm + CLIP_EPSILON);
        let scale = (params.max_grad_norm > 0.0 && scale < 1.0).then_some(scale);
        self.step += 1;
        let step = self.step;
        visit(&mut |name, mut parameter| {
            let mut gradient = gradients.remove(name).unwrap_or_else(|| zero_gradient(&parameter));
            if let Some(scale) = scale {
                gradient = gradient * scale;
            }
            let options = AdamWOptions {
                lr: params.learning_rate,
                beta1: params.betas.0,
                beta2: params.betas.1,
                eps: params.epsilon,
                weight_decay: if parameter.rank() > 1 { params.weight_decay } else { 0.0 },
            };
            let moments = self
                .moments
                .entry(name.to_owned())
                .or_insert_with(|| Moments { first: gradient.zeros_like(), second: gradient.zeros_like() });
            parameter.update_flat(|value| {
                let (value, first, second) = nemo_kernels::adamw(
                    value,
                    gradient,
                    moments.first.extract(),
                    moments.second.extract(),
                    step,
                    options,
                );
                moments.first = first;
                moments.second = second;
                value
            });
        });
        Ok(norm)
    }

    /// Writes the state to one safetensors file.
    ///
    /// # Errors
    /// The file cannot be written; an older one at `path` is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut headers = Vec::new();
        for (name, moments) in &self.moments {
            for kind in MOMENT_NAMES {
                headers.push(TensorHeader {
                    name: format!("{kind}.{name}"),
                    shape: moments.first.dims().to_vec(),
                    dtype: StoredDtype::F32,
                });
            }
        }
        write_tensor_file(path, &headers, &[(STEP_KEY, &self.step.to_string())], |header| {
            let values = header.name.split_once('.').and_then(|(kind, name)| {
                let moments = self.moments.get(name)?;
                Some(if kind == MOMENT_NAMES[0] { &moments.first } else { &moments.second })
            });
            let values = values.map(|tensor| tensor.to_data().iter::<f32>().collect()).unwrap_or_default();
            Ok::<_, CheckpointError>(TensorValues::F32(values))
        })
    }

    /// Reads a state written by [`Self::save`].
    ///
    /// # Errors
    /// The file cannot be read, or is not an optimizer state.
    pub fn load(path: &Path, device: &Device) -> Result<Self, PolicyError> {
        let model_error = |error: CheckpointError| PolicyError::Model(Box::new(error));
        let malformed = |found: String, expected: &str| PolicyError::Malformed {
            path: path.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let file = TensorFile::open(path).map_err(model_error)?;
        let step = file.metadata().get(STEP_KEY).cloned().unwrap_or_default();
        let step = step.parse().map_err(|_| malformed(format!("step {step:?}"), "a number of updates"))?;
        let mut moments = BTreeMap::new();
        let prefix = format!("{}.", MOMENT_NAMES[0]);
        for stored in file.tensors().keys() {
            let Some(name) = stored.strip_prefix(&prefix) else { continue };
            let read = |kind: &str| -> Result<Tensor<1>, PolicyError> {
                let (values, _) = file.read_f32(&format!("{kind}.{name}")).map_err(model_error)?;
                let count = values.len();
                Ok(Tensor::from_data(TensorData::new(values, [count]), device))
            };
            let (first, second) = (read(MOMENT_NAMES[0])?, read(MOMENT_NAMES[1])?);
            moments.insert(name.to_owned(), Moments { first, second });
        }
        if 2 * moments.len() != file.tensors().len() {
            return Err(malformed(format!("{} tensors", file.tensors().len()), "two moments per parameter"));
        }
        Ok(Self { moments, step })
    }
}

/// The gradient of a parameter that the loss does not depend on, flat `[n]` f32.
fn zero_gradient(parameter: &ParameterMut<'_>) -> Tensor<1> {
    let length = parameter.shape().iter().product::<usize>();
    Tensor::zeros([length], (&parameter.flat().device(), DType::F32))
}

/// Names of the two moments in files, as PyTorch calls them.
const MOMENT_NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];
/// Metadata key of the number of updates.
const STEP_KEY: &str = "step";
