//! Advantages, loss, optimizer and schedule against numbers captured from NeMo RL and PyTorch.
//!
//! Folders: `tests/fixtures` of this repository, and the one named by `NEMO_BURN_FIXTURES` (or `../shared/fixtures` when
//! present). Every case of a file is run; how many is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use nemo_model::{FloatMatrix, ParameterMut, Visitor};
use nemo_rl::advantage::relative_to_group;
use nemo_rl::config::{self, LossConfig};
use nemo_rl::loss::{
    LossInputs, LossNormalizers, LossTermValues, LossTokens, clipped_policy_gradient_loss, loss_metrics,
};
use nemo_rl::optimizer::AdamW;
use nemo_rl::policy::api::UpdateParams;
use nemo_rl::schedule::LrSchedule;
use serde_json::Value;

/// Tolerances stated by the fixtures: |found - expected| <= absolute + relative * |expected|.
#[derive(Clone, Copy)]
struct Tolerance {
    relative: f64,
    absolute: f64,
}

const F32: Tolerance = Tolerance { relative: 2e-5, absolute: 1e-6 };
const F64: Tolerance = Tolerance { relative: 1e-9, absolute: 1e-11 };

impl Tolerance {
    fn check(self, found: f64, expected: f64, what: &str) {
        if expected.is_nan() || expected.is_infinite() {
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{what}: {found}, expected {expected}");
            return;
        }
        let bound = self.absolute + self.relative * expected.abs();
        assert!((found - expected).abs() <= bound, "{what}: {found}, expected {expected} within {bound}");
    }
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![root.join("tests/fixtures")];
    match std::env::var_os("NEMO_BURN_FIXTURES") {
        Some(named) => folders.push(PathBuf::from(named)),
        None if root.join("../shared/fixtures").is_dir() => folders.push(root.join("../shared/fixtures")),
        None => println!("skipped: the full fixtures, neither NEMO_BURN_FIXTURES nor ../shared/fixtures is there"),
    }
    folders
}

/// Runs every case of `grpo/<name>.json` in every folder.
fn each_case(name: &str, mut run: impl FnMut(&str, &Value)) {
    for folder in folders() {
        let path = folder.join("grpo").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let cases = file["cases"].as_array().expect("cases");
        assert!(!cases.is_empty(), "{} has no cases", path.display());
        for case in cases {
            run(case["name"].as_str().expect("name"), case);
        }
        println!("{}: {} cases", path.display(), cases.len());
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => match text.as_str() {
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            "nan" => f64::NAN,
            other => panic!("not a number: {other}"),
        },
        value => value.as_f64().unwrap_or_else(|| panic!("not a number: {value}")),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("array").iter().map(number).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("array of arrays").iter().map(numbers).collect()
}

#[test]
fn advantages() {
    each_case("advantages_grpo", |name, case| {
        let groups: Vec<Vec<u64>> =
            rows(&case["prompt_ids"]).into_iter().map(|row| row.into_iter().map(|id| id as u64).collect()).collect();
        let rewards = numbers(&case["rewards"]);
        for (setting, expected) in case["expected"].as_object().expect("settings") {
            let leave_one_out = setting.contains("loo=true");
            let found = relative_to_group(&rewards, &groups, leave_one_out, setting.contains("norm=true"));
            for (key, found) in [("baseline", &found.baselines), ("std", &found.stds), ("advantage", &found.advantages)]
            {
                for (index, (found, expected)) in found.iter().zip(numbers(&expected[key])).enumerate() {
                    F32.check(f64::from(*found), expected, &format!("{name} {setting} {key}[{index}]"));
                }
            }
        }
    });
    each_case("advantages_float_residue", |name, case| {
        let rewards = numbers(&case["rewards"]);
        let found = relative_to_group(&rewards, &vec![0; rewards.len()], true, true);
        for (found, expected) in found.advantages.iter().zip(numbers(&case["recommended"])) {
            F32.check(f64::from(*found), expected, name);
        }
    });
}

/// The trained tokens of a case: flat values and their places in `[B, S - 1]`.
struct LossCase {
    tokens: LossTokens,
    places: Vec<(usize, usize)>,
    log_probs: Vec<f32>,
    unfiltered: Option<Vec<f32>>,
    num_valid_sequences: usize,
}

fn loss_case(inputs: &Value) -> LossCase {
    let token_mask = rows(&inputs["token_mask"]);
    let sample_mask = numbers(&inputs["sample_mask"]);
    let mut places = Vec::new();
    for (row, mask) in token_mask.iter().enumerate() {
        // Column 0 has no predecessor and is dropped; position `t` of the rest is token `t + 1`.
        places.extend((1..mask.len()).filter(|t| mask[*t] * sample_mask[row] != 0.0).map(|t| (row, t - 1)));
    }
    let pick = |key: &str, shift: usize| -> Option<Vec<f32>> {
        let values = inputs.get(key).map(rows)?;
        let flat: Vec<f32> = places.iter().map(|(row, t)| values[*row][t + shift] as f32).collect();
        for ((row, t), value) in places.iter().zip(&flat) {
            assert_eq!(f64::from(*value), values[*row][t + shift], "{key} is not exact in f32");
        }
        Some(flat)
    };
    LossCase {
        tokens: LossTokens {
            sequences: places.iter().map(|(row, _)| *row).collect(),
            num_sequences: token_mask.len(),
            advantages: pick("advantages", 1).expect("advantages"),
            prev_log_probs: pick("prev_logprobs", 1),
            generation_log_probs: pick("generation_logprobs", 1).expect("generation_logprobs"),
            reference_log_probs: pick("reference_policy_logprobs", 1),
            rewards: inputs
                .get("rewards")
                .map(|rewards| numbers(rewards).into_iter().map(|reward| reward as f32).collect()),
        },
        log_probs: pick("curr_logprobs", 0).expect("curr_logprobs"),
        unfiltered: pick("curr_logprobs_unfiltered", 0),
        places,
        num_valid_sequences: sample_mask.iter().filter(|mask| **mask != 0.0).count(),
    }
}

fn vector(values: &[f32], dtype: DType, device: &Device) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

fn host(tensor: Tensor<1>) -> Vec<f64> {
    tensor.into_data_as::<f64>().try_to_vec::<f64>().expect("f64")
}

#[test]
fn loss_gradients_and_metrics() {
    each_case("loss_clipped_pg", |name, case| {
        let config: LossConfig = serde_json::from_value(case["config"].clone()).expect("loss config");
        config.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        let LossCase { tokens, places, log_probs, unfiltered, num_valid_sequences } = loss_case(&case["inputs"]);
        for (dtype, expected, tolerance) in
            [(DType::F32, &case["expected"], F32), (DType::F64, &case["expected_f64"], F64)]
        {
            let what = format!("{name} {dtype:?}");
            let scalars = &case["expected"];
            let normalizers = LossNormalizers {
                valid_tokens: number(&scalars["global_valid_toks"]),
                valid_sequences: number(&scalars["global_valid_seqs"]),
            };
            let device = Device::flex().autodiff();
            let current = vector(&log_probs, dtype, &device).require_grad();
            let inputs = LossInputs {
                log_probs: current.clone(),
                unfiltered_log_probs: unfiltered.as_deref().map(|values| vector(values, dtype, &device)),
                tokens: &tokens,
            };
            let terms = clipped_policy_gradient_loss(&config, inputs, normalizers);
            let value = |term: &Tensor<1>| host(term.clone())[0];
            tolerance.check(value(&terms.loss), number(&expected["loss"]), &format!("{what} loss"));

            let gradients = terms.loss.backward();
            let gradient = current.grad(&gradients).map(host).unwrap_or_else(|| vec![0.0; places.len()]);
            let mut found: BTreeMap<(usize, usize), f64> = places.iter().copied().zip(gradient).collect();
            for (row, values) in rows(&expected["grad_curr_logprobs"]).into_iter().enumerate() {
                for (t, expected) in values.into_iter().enumerate() {
                    let found = found.remove(&(row, t)).unwrap_or(0.0);
                    tolerance.check(found, expected, &format!("{what} gradient[{row}, {t}]"));
                }
            }

            let values = LossTermValues {
                loss: value(&terms.loss),
                kl: terms.kl.as_ref().map(value),
                positive_nll: terms.positive_nll.as_ref().map(value),
            };
            let metrics = loss_metrics(&config, &tokens, &log_probs, values, normalizers, num_valid_sequences);
            let expected = expected["metrics"].as_object().expect("metrics");
            for (key, expected) in expected {
                let found = metrics.get(key).unwrap_or_else(|| panic!("{what}: no metric {key}"));
                tolerance.check(*found, number(expected), &format!("{what} metric {key}"));
            }
            assert_eq!(metrics.len(), expected.len(), "{what}: {:?}", metrics.keys());
        }
    });
}

/// Any split of a batch gives the same loss, gradients and metrics.
#[test]
fn parts_of_a_batch_add_up() {
    each_case("loss_clipped_pg", |name, case| {
        let config: LossConfig = serde_json::from_value(case["config"].clone()).expect("loss config");
        // The mean over positive samples is over the part, by definition; the sequence-weight metric multiplies sums.
        if config.positive_example_nll_weight > 0.0 || case["inputs"].get("curr_logprobs_unfiltered").is_some() {
            return;
        }
        let whole = loss_case(&case["inputs"]);
        let normalizers = LossNormalizers {
            valid_tokens: number(&case["expected"]["global_valid_toks"]),
            valid_sequences: number(&case["expected"]["global_valid_seqs"]),
        };
        let device = Device::flex().autodiff();
        let mut loss = 0.0;
        for row in 0..whole.tokens.num_sequences {
            let chosen: Vec<usize> = (0..whole.places.len()).filter(|index| whole.places[*index].0 == row).collect();
            let pick = |values: &[f32]| -> Vec<f32> { chosen.iter().map(|index| values[*index]).collect() };
            let tokens = LossTokens {
                sequences: vec![0; chosen.len()],
                num_sequences: 1,
                advantages: pick(&whole.tokens.advantages),
                prev_log_probs: whole.tokens.prev_log_probs.as_deref().map(pick),
                generation_log_probs: pick(&whole.tokens.generation_log_probs),
                reference_log_probs: whole.tokens.reference_log_probs.as_deref().map(pick),
                rewards: None,
            };
            if chosen.is_empty() {
                continue;
            }
            let inputs = LossInputs {
                log_probs: vector(&pick(&whole.log_probs), DType::F64, &device).require_grad(),
                unfiltered_log_probs: None,
                tokens: &tokens,
            };
            loss += host(clipped_policy_gradient_loss(&config, inputs, normalizers).loss)[0];
        }
        F64.check(loss, number(&case["expected_f64"]["loss"]), name);
    });
}

#[test]
fn refused_loss_settings() {
    each_case("loss_config_errors", |name, case| {
        let mut overrides = vec!["policy.model_name=tiny".to_owned()];
        for (key, value) in case["config"].as_object().expect("config") {
            overrides.push(format!("loss_fn.{key}={value}"));
        }
        let message = match config::load_text("", Path::new("run.yaml"), &overrides) {
            Ok(_) => panic!("{name} has to be refused: {}", case["upstream_message"]),
            Err(error) => error.to_string(),
        };
        assert!(message.contains("loss_fn."), "{name}: {message}");
    });
}

#[test]
fn learning_rates() {
    each_case("lr_schedule", |name, case| {
        let schedule = LrSchedule {
            warmup_init: number(&case["lr_warmup_init"]),
            warmup_steps: number(&case["lr_warmup_iters"]) as u64,
            lr: number(&case["lr"]),
            min_lr: number(&case["min_lr"]),
            decay_style: serde_json::from_value(case["lr_decay_style"].clone()).expect("style"),
            decay_steps: number(&case["lr_decay_iters"]) as u64,
        };
        for (step, expected) in numbers(&case["lr_used_at_step_0_based"]).into_iter().enumerate() {
            F64.check(schedule.lr_at(step as u64), expected, &format!("{name} step {step}"));
        }
    });
}

/// A nested array as a flat vector and its number of axes.
fn flat(value: &Value) -> (Vec<f32>, usize) {
    match value.as_array() {
        None => (vec![number(value) as f32], 0),
        Some(items) => {
            let parts: Vec<_> = items.iter().map(flat).collect();
            let rank = 1 + parts.first().map_or(0, |(_, rank)| *rank);
            (parts.into_iter().flat_map(|(values, _)| values).collect(), rank)
        }
    }
}

/// A nested array as a parameter of its rank.
enum Parameter {
    Vector(Tensor<1>),
    Matrix(Box<FloatMatrix>),
    Convolution(Tensor<3>),
}

impl Parameter {
    fn new(value: &Value, device: &Device) -> Self {
        let (values, rank) = flat(value);
        let tensor = vector(&values, DType::F32, device);
        match rank {
            1 => Self::Vector(tensor),
            2 => {
                Self::Matrix(Box::new(tensor.reshape::<2, _>([value.as_array().map_or(0, Vec::len) as i32, -1]).into()))
            }
            3 => Self::Convolution(tensor.reshape([value.as_array().map_or(0, Vec::len) as i32, 1, -1])),
            other => panic!("a parameter of rank {other}"),
        }
    }

    fn borrow(&mut self) -> ParameterMut<'_> {
        match self {
            Self::Vector(tensor) => ParameterMut::Vector(tensor),
            Self::Matrix(matrix) => ParameterMut::Matrix(matrix),
            Self::Convolution(tensor) => ParameterMut::Convolution(tensor),
        }
    }
}

/// The optimizer that trains, with its clipping and its rule of what decays.
#[test]
fn adamw_after_clipping() {
    each_case("adamw_clip", |name, case| {
        let device = Device::flex();
        let tensors = |value: &Value| value.as_array().expect("tensors").clone();
        let mut parameters: Vec<Parameter> =
            tensors(&case["init"]).iter().map(|value| Parameter::new(value, &device)).collect();
        let mut optimizer = AdamW::default();
        let loss = config::load_text("", Path::new("run.yaml"), &["policy.model_name=tiny".to_owned()]);
        let params = UpdateParams {
            learning_rate: number(&case["lr"]),
            weight_decay: number(&case["weight_decay"]),
            betas: (number(&case["beta1"]), number(&case["beta2"])),
            epsilon: number(&case["eps"]),
            max_grad_norm: number(&case["clip_grad"]),
            temperature: 1.0,
            loss: loss.expect("loads").config.loss_fn,
        };
        for (index, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            let gradients: BTreeMap<String, Tensor<1>> = tensors(&step["grads"])
                .iter()
                .enumerate()
                .map(|(tensor, gradient)| (tensor.to_string(), vector(&flat(gradient).0, DType::F32, &device)))
                .collect();
            let mut visit = |visitor: &mut Visitor<'_>| {
                for (tensor, parameter) in parameters.iter_mut().enumerate() {
                    visitor(&tensor.to_string(), parameter.borrow());
                }
            };
            let norm = optimizer.update_parameters(&mut visit, gradients, &params).expect("finite");
            F32.check(norm, number(&step["grad_norm_before_clip"]), &format!("{name} step {index} norm"));
            for (tensor, (parameter, expected)) in parameters.iter_mut().zip(tensors(&step["params_after"])).enumerate()
            {
                for (found, expected) in host(parameter.borrow().flat()).into_iter().zip(flat(&expected).0) {
                    F32.check(found, f64::from(expected), &format!("{name} step {index} tensor {tensor}"));
                }
            }
        }
    });
}
