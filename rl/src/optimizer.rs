//! AdamW over a model's named parameters, with clipping by the global gradient norm.
//!
//! Moments are f32 and kept here by parameter name; beside them masters, the parameters in f32, of a model whose parameters
//! are rounded to bf16 after every update. Parameters of rank 1 (norm weights, biases, `A_log`, `D`, `dt_bias`) do not decay.
//! An update happens wholly or, when a gradient is not finite, not at all.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nemo_kernels::{AdamWOptions, WriteCheck, global_norm, sum_of_squares};
use nemo_model::checkpoint::{CheckpointError, StoredDtype, TensorFile, TensorHeader, TensorValues, write_tensor_file};
use nemo_model::{Dtypes, NemotronH, ParameterMut, Visitor, WeightStorage};

use crate::policy::api::{PolicyError, UpdateParams};

/// Guards the division when scaling gradients down to the maximal norm, as Megatron does.
const CLIP_EPSILON: f64 = 1e-6;

/// What is kept of one parameter, flat `[n]` f32.
#[derive(Debug)]
struct State {
    first: Tensor<1>,
    second: Tensor<1>,
    /// Of a parameter that is rounded after every update.
    master: Option<Tensor<1>>,
}

/// The optimizer's state.
#[derive(Debug, Default)]
pub struct AdamW {
    states: BTreeMap<String, State>,
    /// Masters that were read from a file; the next update moves them to the states.
    masters: BTreeMap<String, Tensor<1>>,
    /// Updates done so far.
    step: u64,
    rounds_to_bf16: bool,
}

impl AdamW {
    /// A fresh optimizer for a model of these types: parameters of a model with matrices in bf16, all of them, are bf16 numbers
    /// after every update, and have masters.
    pub fn new(dtypes: Dtypes) -> Self {
        Self { rounds_to_bf16: dtypes.matrices == WeightStorage::Bf16, ..Self::default() }
    }

    /// Adds the whole state to a check.
    pub fn add_to(&self, check: &mut WriteCheck) {
        for State { first, second, master } in self.states.values() {
            check.add(first);
            check.add(second);
            if let Some(master) = master {
                check.add(master);
            }
        }
    }

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
        self.update_parameters(&mut |visitor| model.visit_trained_mut(visitor), gradients, params)
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
            let state = self.states.entry(name.to_owned()).or_insert_with(|| State {
                first: gradient.zeros_like(),
                second: gradient.zeros_like(),
                master: None,
            });
            if self.rounds_to_bf16 && state.master.is_none() {
                let loaded = self.masters.remove(name);
                state.master = Some(loaded.unwrap_or_else(|| parameter.flat().cast(DType::F32)));
            }
            parameter.update_flat(|value| state.update(value, gradient, step, options));
        });
        Ok(norm)
    }

    /// Writes the state to one safetensors file, and beside it `masters`: the weights themselves, flat by name, of a model
    /// without masters whose own file rounds them.
    ///
    /// # Errors
    /// The file cannot be written; an older one at `path` is then untouched.
    pub fn save(&self, path: &Path, masters: &BTreeMap<String, Tensor<1>>) -> Result<(), CheckpointError> {
        let moments = self
            .states
            .iter()
            .flat_map(|(name, state)| [(MOMENT_NAMES[0], name, &state.first), (MOMENT_NAMES[1], name, &state.second)]);
        let masters = self.masters().chain(masters).map(|(name, values)| (MASTER_NAME, name, values));
        let mut tensors = BTreeMap::new();
        let mut headers = Vec::new();
        for (kind, name, values) in moments.chain(masters) {
            let name = format!("{kind}.{name}");
            headers.push(TensorHeader { name: name.clone(), shape: values.dims().to_vec(), dtype: StoredDtype::F32 });
            tensors.insert(name, values);
        }
        write_tensor_file(path, &headers, &[(STEP_KEY, &self.step.to_string())], |header| {
            let values = tensors.get(&header.name).map(|tensor| tensor.to_data().iter::<f32>().collect());
            Ok::<_, CheckpointError>(TensorValues::F32(values.unwrap_or_default()))
        })
    }

    /// Reads what [`Self::save`] wrote for a model of these types: the state, and weights that are no masters of it.
    ///
    /// # Errors
    /// The file cannot be read, or is not an optimizer state.
    pub fn load(
        path: &Path,
        device: &Device,
        dtypes: Dtypes,
    ) -> Result<(Self, BTreeMap<String, Tensor<1>>), PolicyError> {
        let model_error = |error: CheckpointError| PolicyError::Model(Box::new(error));
        let malformed = |found: String, expected: &str| PolicyError::Malformed {
            path: path.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let file = TensorFile::open(path).map_err(model_error)?;
        let step = file.metadata().get(STEP_KEY).cloned().unwrap_or_default();
        let step = step.parse().map_err(|_| malformed(format!("step {step:?}"), "a number of updates"))?;
        let read = |kind: &str, name: &str| -> Result<Tensor<1>, PolicyError> {
            let (values, _) = file.read_f32(&format!("{kind}.{name}")).map_err(model_error)?;
            let count = values.len();
            Ok(Tensor::from_data(TensorData::new(values, [count]), device))
        };
        let (mut states, mut masters) = (BTreeMap::new(), BTreeMap::new());
        for stored in file.tensors().keys() {
            match stored.split_once('.') {
                Some((kind, name)) if kind == MOMENT_NAMES[0] => {
                    let (first, second) = (read(kind, name)?, read(MOMENT_NAMES[1], name)?);
                    states.insert(name.to_owned(), State { first, second, master: None });
                }
                Some((MASTER_NAME, name)) => {
                    masters.insert(name.to_owned(), read(MASTER_NAME, name)?);
                }
                _ => {}
            }
        }
        if 2 * states.len() + masters.len() != file.tensors().len() {
            let found = format!("{} tensors", file.tensors().len());
            return Err(malformed(found, "two moments per parameter, and weights"));
        }
        let mut optimizer = Self { states, step, ..Self::new(dtypes) };
        if optimizer.rounds_to_bf16 {
            optimizer.masters = std::mem::take(&mut masters);
        }
        Ok((optimizer, masters))
    }

    /// The masters `[n]` by name.
    pub fn masters(&self) -> impl Iterator<Item = (&String, &Tensor<1>)> {
        let of_states = self.states.iter().filter_map(|(name, state)| Some((name, state.master.as_ref()?)));
        of_states.chain(&self.masters)
    }
}

impl State {
    /// One update; `value` is the parameter before, the result the parameter after it.
    fn update(&mut self, value: Tensor<1>, gradient: Tensor<1>, step: u64, options: AdamWOptions) -> Tensor<1> {
        let (first, second) = (self.first.extract(), self.second.extract());
        let Some(master) = &mut self.master else {
            let (value, first, second) = nemo_kernels::adamw(value, gradient, first, second, step, options);
            (self.first, self.second) = (first, second);
            return value;
        };
        let master = master.extract();
        if value.dtype() == DType::BF16 {
            let (value, master, first, second) =
                nemo_kernels::adamw_master(value, master, gradient, first, second, step, options);
            (self.first, self.second, self.master) = (first, second, Some(master));
            return value;
        }
        // A parameter that is kept in f32 beside matrices in bf16 is a bf16 number all the same.
        let (master, first, second) = nemo_kernels::adamw(master, gradient, first, second, step, options);
        let value = master.clone().cast(DType::BF16).cast(DType::F32);
        (self.first, self.second, self.master) = (first, second, Some(master));
        value
    }
}

/// The gradient of a parameter that the loss does not depend on, flat `[n]` f32.
fn zero_gradient(parameter: &ParameterMut<'_>) -> Tensor<1> {
    let length = parameter.shape().iter().product::<usize>();
    Tensor::zeros([length], (&parameter.flat().device(), DType::F32))
}

/// Names of the two moments in files, as PyTorch calls them.
const MOMENT_NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];
/// Name of the weights in f32, as Megatron calls them.
const MASTER_NAME: &str = "master_param";
/// Metadata key of the number of updates.
const STEP_KEY: &str = "step";
