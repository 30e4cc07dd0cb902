//! AdamW over a model's named parameters, with clipping by the global gradient norm.
//!
//! What is kept of a parameter between updates is a choice ([`OptimizerDtypes`]): moments in f32, bf16 or eight bits, and of
//! parameters that are bf16 numbers a master in f32 or none. Parameters of rank 1 (norm weights, biases, `A_log`, `D`,
//! `dt_bias`) do not decay. An update happens wholly or, when a gradient is not finite, not at all.

mod file;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::adamw::Order;
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights, WriteCheck, adamw_step, global_norm, sum_of_squares};
use nemo_model::{Dtypes, NemotronH, ParameterMut, Visitor, WeightStorage};

use crate::config::{MomentDtype, OptimizerConfig, Precision};
use crate::policy::api::{PolicyError, UpdateParams};

/// Guards the division when scaling gradients down to the maximal norm, as Megatron does.
const CLIP_EPSILON: f64 = 1e-6;

/// What the optimizer keeps its state in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptimizerDtypes {
    /// Copies of parameters that are bf16 numbers: in f32, or none, where every update is rounded at random.
    pub main_params: Precision,
    /// First moments.
    pub exp_avg: MomentDtype,
    /// Second moments.
    pub exp_avg_sq: MomentDtype,
}

impl Default for OptimizerDtypes {
    /// Everything in f32.
    fn default() -> Self {
        let (main_params, exp_avg, exp_avg_sq) = (Precision::Float32, MomentDtype::Float32, MomentDtype::Float32);
        Self { main_params, exp_avg, exp_avg_sq }
    }
}

impl OptimizerDtypes {
    /// As a configuration asks for.
    pub fn of_config(config: &OptimizerConfig) -> Self {
        Self {
            main_params: config.main_params_dtype,
            exp_avg: config.exp_avg_dtype,
            exp_avg_sq: config.exp_avg_sq_dtype,
        }
    }

    fn moments(self) -> [(Order, MomentDtype); 2] {
        [(Order::First, self.exp_avg), (Order::Second, self.exp_avg_sq)]
    }
}

/// What is kept of one parameter, flat `[n]`.
#[derive(Debug)]
struct State {
    /// The first and the second.
    moments: [Moment<1>; 2],
    /// f32, of a parameter that is rounded after every update.
    master: Option<Tensor<1>>,
}

/// The optimizer and its state.
#[derive(Debug, Default)]
pub struct AdamW {
    dtypes: OptimizerDtypes,
    /// Seed of the numbers by which updates are rounded at random.
    seed: u64,
    /// Whether parameters are bf16 numbers after every update.
    rounds_to_bf16: bool,
    states: BTreeMap<String, State>,
    /// Masters that were read from a file; the next update moves them to the states.
    masters: BTreeMap<String, Tensor<1>>,
    /// Updates done so far.
    step: u64,
}

impl AdamW {
    /// A fresh optimizer for a model of these types: parameters of a model with matrices in bf16, all of them, are bf16 numbers
    /// after every update.
    pub fn new(model: Dtypes, dtypes: OptimizerDtypes, seed: u64) -> Self {
        Self { dtypes, seed, rounds_to_bf16: model.matrices == WeightStorage::Bf16, ..Self::default() }
    }

    /// Whether there are masters of the parameters.
    pub fn has_masters(&self) -> bool {
        self.rounds_to_bf16 && self.dtypes.main_params == Precision::Float32
    }

    /// Whether parameters are bf16 numbers after every update.
    pub fn rounds_to_bf16(&self) -> bool {
        self.rounds_to_bf16
    }

    /// Adds the whole state to a check.
    pub fn add_to(&self, check: &mut WriteCheck) {
        for State { moments, master } in self.states.values() {
            for moment in moments {
                match moment {
                    Moment::Float(values) => check.add(values),
                    // Codes are written with them.
                    Moment::Blockwise { largest, .. } => check.add(largest),
                }
            }
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

    /// [`Self::update`] of whatever parameters `visit` shows to the visitor it is given, in the same order every time.
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
        let scale = if params.max_grad_norm > 0.0 { scale.min(1.0) } else { 1.0 };
        self.step += 1;
        let step = self.step;
        let mut stream = 0;
        visit(&mut |name, mut parameter| {
            let gradient = gradients.remove(name).unwrap_or_else(|| zero_gradient(&parameter));
            let options = AdamWOptions {
                lr: params.learning_rate,
                beta1: params.betas.0,
                beta2: params.betas.1,
                eps: params.epsilon,
                weight_decay: if parameter.rank() > 1 { params.weight_decay } else { 0.0 },
                grad_scale: scale,
                rounding: Some(RoundingKey { seed: self.seed, stream }),
            };
            stream += 1;
            let mut state = self.states.remove(name).unwrap_or_else(|| State::new(self.dtypes, &gradient));
            if self.has_masters() && state.master.is_none() {
                let loaded = self.masters.remove(name);
                state.master = Some(loaded.unwrap_or_else(|| parameter.flat().cast(DType::F32)));
            }
            let rounds = self.rounds_to_bf16;
            let states = &mut self.states;
            parameter.update_flat(|value| {
                let (value, state) = state.updated(value, rounds, gradient, step, options);
                states.insert(name.to_owned(), state);
                value
            });
        });
        Ok(norm)
    }

    /// The masters `[n]` by name.
    pub fn masters(&self) -> impl Iterator<Item = (&String, &Tensor<1>)> {
        let of_states = self.states.iter().filter_map(|(name, state)| Some((name, state.master.as_ref()?)));
        of_states.chain(&self.masters)
    }
}

impl State {
    /// Before the first update of a parameter with this gradient.
    fn new(dtypes: OptimizerDtypes, gradient: &Tensor<1>) -> Self {
        let (shape, device) = (gradient.dims(), gradient.device());
        let moments = dtypes.moments().map(|(order, dtype)| match dtype {
            // A model in f64 keeps everything in it.
            MomentDtype::Float32 if gradient.dtype() == DType::F64 => Moment::Float(gradient.zeros_like()),
            MomentDtype::Float32 => Moment::zeros(shape, &device, DType::F32),
            MomentDtype::Bfloat16 => Moment::zeros(shape, &device, DType::BF16),
            MomentDtype::Uint8 => Moment::blockwise_zeros(order, shape, &device),
        });
        Self { moments, master: None }
    }

    /// One update; `value` is the parameter before, the first result the parameter after it.
    fn updated(
        self,
        value: Tensor<1>,
        rounds_to_bf16: bool,
        gradient: Tensor<1>,
        step: u64,
        options: AdamWOptions,
    ) -> (Tensor<1>, Self) {
        let weights = match self.master {
            Some(master) => Weights::WithMaster { rounded: value, master },
            None if rounds_to_bf16 => Weights::Rounded(value),
            None => Weights::Single(value),
        };
        let (weights, moments) = adamw_step(weights, gradient, self.moments, step, options);
        match weights {
            Weights::WithMaster { rounded, master } => (rounded, Self { moments, master: Some(master) }),
            Weights::Single(value) | Weights::Rounded(value) => (value, Self { moments, master: None }),
        }
    }
}

/// The gradient of a parameter that the loss does not depend on, flat `[n]` f32.
fn zero_gradient(parameter: &ParameterMut<'_>) -> Tensor<1> {
    let length = parameter.shape().iter().product::<usize>();
    let device: Device = parameter.flat().device();
    Tensor::zeros([length], (&device, DType::F32))
}
