//! AdamW with masters, without, and with moments in fewer bits, against fixtures made without this program.
//!
//! `optimizer/README.md` of the fixtures' folder says what each file holds and how close one has to come to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use nemo_kernels::adamw::{Order, table};
use nemo_kernels::{AdamWOptions, Moment, RoundingKey, Weights, adamw_step, global_norm, sum_of_squares};
use nemo_model::checkpoint::TensorFile;
use serde_json::Value;

const ORDERS: [Order; 2] = [Order::First, Order::Second];
/// Runs whose mean is compared with the expected one, and draws of one update.
const RUNS: usize = 96;
const DRAWS: usize = 2048;

fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("NEMO_BURN_FIXTURES") {
        Some(named) => PathBuf::from(named).join("optimizer"),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/optimizer"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no folder {}", folder.display());
    None
}

struct Fixtures {
    folder: PathBuf,
    cases: Value,
    inputs: TensorFile,
}

impl Fixtures {
    fn open() -> Option<Self> {
        let folder = folder()?;
        let cases = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
        let inputs = TensorFile::open(&folder.join("inputs.safetensors")).unwrap();
        Some(Self { folder, cases, inputs })
    }

    fn file(&self, name: &str) -> TensorFile {
        TensorFile::open(&self.folder.join(format!("{name}.safetensors"))).unwrap()
    }

    fn case_names(&self) -> Vec<String> {
        let names: Vec<String> = self.cases["cases"].as_object().unwrap().keys().cloned().collect();
        assert!(!names.is_empty(), "no cases in {}", self.folder.display());
        names
    }

    fn tensors(&self) -> Vec<(String, bool)> {
        let tensors = self.cases["tensors"].as_array().unwrap();
        tensors
            .iter()
            .map(|tensor| (tensor["name"].as_str().unwrap().to_owned(), tensor["decays"].as_bool().unwrap()))
            .collect()
    }

    fn steps(&self) -> usize {
        self.cases["steps"].as_u64().unwrap() as usize
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn floats(file: &TensorFile, name: &str) -> Vec<f32> {
    file.read_f32(name).unwrap().0
}

fn vector(values: &[f32], dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&Device::flex(), dtype))
}

fn host(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().cast(DType::F32).into_data().iter::<f32>().collect()
}

/// One tensor of a run.
struct Parameter {
    name: String,
    decays: bool,
    weights: Option<Weights<1>>,
    moments: Option<[Moment<1>; 2]>,
    init: Vec<f32>,
    /// Of each element the sum of its changes so far, and its largest moments' terms.
    moved: Vec<f32>,
    gradients: Vec<f32>,
}

impl Parameter {
    /// What is updated: the master where there is one.
    fn values(&self) -> Vec<f32> {
        match self.weights.as_ref().unwrap() {
            Weights::Single(values) | Weights::Rounded(values) | Weights::WithMaster { master: values, .. } => {
                host(values)
            }
        }
    }

    fn gradient(&self, step: usize) -> Tensor<1> {
        let count = self.init.len();
        vector(&self.gradients[(step - 1) * count..step * count], DType::BF16)
    }
}

/// A case's run from its start.
struct Run<'f> {
    case: &'f Value,
    parameters: Vec<Parameter>,
    key: Option<RoundingKey>,
}

impl<'f> Run<'f> {
    fn new(
        fixtures: &'f Fixtures,
        case: &str,
        weights: fn(Tensor<1>) -> Weights<1>,
        moment: fn(Order, usize) -> Moment<1>,
        seed: Option<u64>,
    ) -> Self {
        let parameters = fixtures.tensors().into_iter().map(|(name, decays)| {
            let init = floats(&fixtures.inputs, &format!("{name}.init"));
            Parameter {
                weights: Some(weights(vector(&init, DType::F32))),
                moments: Some(ORDERS.map(|order| moment(order, init.len()))),
                moved: vec![0.0; init.len()],
                gradients: floats(&fixtures.inputs, &format!("{name}.grads")),
                name,
                decays,
                init,
            }
        });
        let (case, parameters) = (&fixtures.cases["cases"][case], parameters.collect());
        Self { case, parameters, key: seed.map(|seed| RoundingKey { seed, stream: 0 }) }
    }

    /// One step of all tensors; `between` may change the moments that are kept.
    fn step(&mut self, step: usize, between: &mut dyn FnMut(&mut [Moment<1>; 2])) {
        let norm = global_norm(self.parameters.iter().map(|parameter| sum_of_squares(&parameter.gradient(step))));
        let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-6;
        assert!(close(norm, number(&self.case["grad_norms"][step - 1])), "step {step}: norm {norm}");
        let clip = number(&self.case["clip"]);
        let scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        assert!(close(scale, number(&self.case["clip_coefficients"][step - 1])), "step {step}: coefficient {scale}");
        for (stream, parameter) in self.parameters.iter_mut().enumerate() {
            let options = AdamWOptions {
                lr: number(&self.case["lr"][step - 1]),
                beta1: number(&self.case["beta1"]),
                beta2: number(&self.case["beta2"]),
                eps: number(&self.case["eps"]),
                weight_decay: if parameter.decays { number(&self.case["weight_decay"]) } else { 0.0 },
                grad_scale: scale,
                rounding: self.key.map(|key| RoundingKey { stream: stream as u64, ..key }),
            };
            let before = parameter.values();
            let (weights, moments) = (parameter.weights.take().unwrap(), parameter.moments.take().unwrap());
            let gradient = parameter.gradient(step);
            let (weights, mut moments) = adamw_step(weights, gradient, moments, step as u64, options);
            between(&mut moments);
            (parameter.weights, parameter.moments) = (Some(weights), Some(moments));
            let changes = parameter.values().into_iter().zip(before).map(|(now, before)| (now - before).abs());
            parameter.moved.iter_mut().zip(changes).for_each(|(moved, change)| *moved += change);
        }
    }

    /// Compares the parameters with those that a file has of this step.
    fn check_parameters(&self, file: &TensorFile, step: usize) {
        for parameter in &self.parameters {
            let stored = format!("{}.step{step}.param", parameter.name);
            if !file.tensors().contains_key(&stored) {
                continue;
            }
            let expected = floats(file, &stored);
            for (at, (found, expected)) in parameter.values().into_iter().zip(expected).enumerate() {
                let bound =
                    (step as f32 + 4.0) * 2f32.powi(-24) * parameter.init[at].abs() + 8e-6 * parameter.moved[at];
                assert!(
                    (found - expected).abs() <= bound,
                    "{stored} {at}: {found}, expected {expected} within {bound}"
                );
            }
        }
    }
}

fn single(values: Tensor<1>) -> Weights<1> {
    Weights::Single(values)
}

fn with_master(values: Tensor<1>) -> Weights<1> {
    Weights::WithMaster { rounded: values.clone().cast(DType::BF16), master: values }
}

fn rounded(values: Tensor<1>) -> Weights<1> {
    Weights::Rounded(values.cast(DType::BF16))
}

fn in_f32(_: Order, count: usize) -> Moment<1> {
    Moment::zeros([count], &Device::flex(), DType::F32)
}

fn in_bf16(_: Order, count: usize) -> Moment<1> {
    Moment::zeros([count], &Device::flex(), DType::BF16)
}

fn in_eight_bits(order: Order, count: usize) -> Moment<1> {
    Moment::blockwise_zeros(order, [count], &Device::flex())
}

#[test]
fn masters_and_single_parameters() {
    let Some(fixtures) = Fixtures::open() else { return };
    for case in fixtures.case_names() {
        let file = fixtures.file(&format!("{case}.f32"));
        for weights in [single, with_master] {
            let mut run = Run::new(&fixtures, &case, weights, in_f32, None);
            for step in 1..=fixtures.steps() {
                run.step(step, &mut |_| {});
                run.check_parameters(&file, step);
                for parameter in &run.parameters {
                    let name = format!("{}.step{step}.param_bf16", parameter.name);
                    let Weights::WithMaster { rounded, master } = parameter.weights.as_ref().unwrap() else { continue };
                    let nearest: Vec<f32> =
                        host(master).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
                    assert_eq!(host(rounded), nearest);
                    if file.tensors().contains_key(&name) {
                        assert_eq!(host(rounded), floats(&file, &name), "{case} {name}");
                    }
                }
            }
            for parameter in &run.parameters {
                for (moment, letter) in parameter.moments.as_ref().unwrap().iter().zip(["m", "v"]) {
                    let name = format!("{}.step{}.{letter}", parameter.name, fixtures.steps());
                    let (Moment::Float(found), expected) = (moment, floats(&file, &name)) else { panic!("floats") };
                    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                    for (found, expected) in host(found).into_iter().zip(expected) {
                        let bound = 2e-6 * expected.abs() + 1.2e-7 * largest;
                        assert!((found - expected).abs() <= bound, "{case} {name}: {found}, expected {expected}");
                    }
                }
            }
        }
        println!("{case}: {} steps with masters and without", fixtures.steps());
    }
}

/// To the nearest, as the fixture has it; the second moment is rounded at random where there is a key.
#[test]
fn moments_in_bf16() {
    let Some(fixtures) = Fixtures::open() else { return };
    for case in fixtures.case_names() {
        let file = fixtures.file(&format!("{case}.moments_bf16"));
        let mut run = Run::new(&fixtures, &case, single, in_bf16, None);
        let mut compared = 0;
        for step in 1..=fixtures.steps() {
            run.step(step, &mut |_| {});
            run.check_parameters(&file, step);
            for parameter in &run.parameters {
                for (moment, letter) in parameter.moments.as_ref().unwrap().iter().zip(["m", "v"]) {
                    let name = format!("{}.step{step}.{letter}", parameter.name);
                    if let (true, Moment::Float(found)) = (file.tensors().contains_key(&name), moment) {
                        assert_eq!(host(found), floats(&file, &name), "{case} {name}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 0);
        println!("{case}: {compared} moments in bf16");
    }
}

/// Codes and magnitudes that a file has of this step; how many tensors it has.
fn check_codes(file: &TensorFile, name: &str, step: usize, found: &[(Vec<u8>, Vec<f32>); 2]) -> usize {
    let mut compared = 0;
    for ((codes, largest), letter) in found.iter().zip(["m", "v"]) {
        let place = format!("{name}.step{step}.{letter}");
        let stored = format!("{place}_codes");
        if file.tensors().contains_key(&stored) {
            assert!(codes[..] == file.raw(&stored).unwrap()[..], "{stored}");
            compared += 1;
        }
        for (found, expected) in largest.iter().zip(floats(file, &format!("{place}_absmax"))) {
            assert!((found - expected).abs() <= 3e-6 * expected, "{place}: magnitude {found}, expected {expected}");
        }
    }
    compared
}

#[test]
fn moments_in_eight_bits_that_stay_positive() {
    let Some(fixtures) = Fixtures::open() else { return };
    for case in fixtures.case_names() {
        let file = fixtures.file(&format!("{case}.moments_8bit_block256_nonzero"));
        let mut run = Run::new(&fixtures, &case, single, in_eight_bits, None);
        let mut compared = 0;
        for step in 1..=fixtures.steps() {
            run.step(step, &mut |_| {});
            run.check_parameters(&file, step);
            for parameter in &run.parameters {
                let found = parameter.moments.clone().unwrap().map(|moment| {
                    let Moment::Blockwise { codes, largest, .. } = moment else { panic!("codes") };
                    (codes.into_data().iter::<u8>().collect::<Vec<_>>(), host(&largest))
                });
                compared += check_codes(&file, &parameter.name, step, &found);
            }
        }
        assert!(compared > 0);
        println!("{case}: codes of {compared} moments");
    }
}

/// The tables and the paper's plain rounding, by looking at all codes.
#[test]
fn tables_and_nearest_codes() {
    let Some(fixtures) = Fixtures::open() else { return };
    let tables = fixtures.file("tables");
    for (order, name) in ORDERS.into_iter().zip(["m_table", "v_table"]) {
        assert_eq!(table(order)[..], floats(&tables, name)[..], "{name}");
    }
    let code = |order: Order, share: f32| {
        let distance = |code: &usize| (f64::from(table(order)[*code]) - f64::from(share)).abs();
        (0..256).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() as u8
    };
    for case in fixtures.case_names() {
        for block in [256, 2048] {
            let file = fixtures.file(&format!("{case}.moments_8bit_block{block}"));
            let mut run = Run::new(&fixtures, &case, single, in_f32, None);
            let mut compared = 0;
            for step in 1..=fixtures.steps() {
                let mut kept = Vec::new();
                run.step(step, &mut |moments| {
                    let mut coded = ORDERS.map(|_| (Vec::new(), Vec::new()));
                    for ((moment, order), coded) in moments.iter_mut().zip(ORDERS).zip(&mut coded) {
                        let Moment::Float(values) = moment else { panic!("floats") };
                        let mut decoded = Vec::new();
                        for values in host(values).chunks(block) {
                            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                            let share = |value: f32| if largest > 0.0 { value / largest } else { 0.0 };
                            let codes = values.iter().map(|&value| code(order, share(value)));
                            for code in codes {
                                decoded.push(table(order)[usize::from(code)] * largest);
                                coded.0.push(code);
                            }
                            coded.1.push(largest);
                        }
                        *moment = Moment::Float(vector(&decoded, DType::F32));
                    }
                    kept.push(coded);
                });
                run.check_parameters(&file, step);
                for (parameter, coded) in run.parameters.iter().zip(&kept) {
                    compared += check_codes(&file, &parameter.name, step, coded);
                }
            }
            assert!(compared > 0);
            println!("{case}, blocks of {block}: codes of {compared} moments");
        }
    }
}

/// How far a mean of `count` draws with this expectation and deviation is from it, in deviations of the mean.
fn deviations(mean: f64, expected: f64, deviation: f64, count: usize) -> f64 {
    (mean - expected) * (count as f64).sqrt() / deviation
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn one_update_rounded_at_random() {
    let Some(fixtures) = Fixtures::open() else { return };
    let file = fixtures.file("stochastic_one_update");
    let [param, grad, m, v] = ["param", "grad", "m", "v"].map(|name| floats(&file, name));
    for (name, case) in fixtures.cases["stochastic_one_update"].as_object().unwrap() {
        let of = |what: &str| floats(&file, &format!("{name}.{what}"));
        let (toward, away, probability) = (of("toward_zero"), of("away_from_zero"), of("probability_away"));
        let (expected, deviation) = (of("expected_mean"), of("std_of_one_draw"));
        let step = case["step"].as_u64().unwrap();
        let mut counts = vec![0; param.len()];
        let mut sums = vec![0.0; param.len()];
        for seed in 0..DRAWS {
            let options = AdamWOptions {
                lr: number(&case["lr"]),
                beta1: number(&case["beta1"]),
                beta2: number(&case["beta2"]),
                eps: number(&case["eps"]),
                weight_decay: number(&case["weight_decay"]),
                grad_scale: 1.0,
                rounding: Some(RoundingKey { seed: seed as u64, stream: 3 }),
            };
            let moments = [&m, &v].map(|values| Moment::Float(vector(values, DType::F32)));
            let weights = Weights::Rounded(vector(&param, DType::BF16));
            let (weights, _) = adamw_step(weights, vector(&grad, DType::BF16), moments, step, options);
            let Weights::Rounded(found) = weights else { panic!("the form changed") };
            for (at, found) in host(&found).into_iter().enumerate() {
                assert!(found == toward[at] || found == away[at], "{name} {at}: {found}");
                counts[at] += usize::from(found == away[at] && away[at] != toward[at]);
                sums[at] += f64::from(found);
            }
        }
        let mut scores = Vec::new();
        for at in 0..param.len() {
            let (probability, drawn) = (f64::from(probability[at]), counts[at] as f64 / DRAWS as f64);
            if (0.02..0.98).contains(&probability) {
                let mean = sums[at] / DRAWS as f64;
                scores.push(deviations(mean, f64::from(expected[at]), f64::from(deviation[at]), DRAWS));
            } else {
                // Rare events are not normal; in the mean they come as often as they should.
                assert!((drawn - probability).abs() < 0.02, "{name} {at}: {drawn} for {probability}");
            }
        }
        let (rms, largest) = (root_mean_square(&scores), scores.iter().fold(0f64, |a, b| a.max(b.abs())));
        println!("{name}: {} elements, {DRAWS} draws: rms of deviations {rms:.3}, largest {largest:.2}", scores.len());
        assert!((0.9..1.1).contains(&rms) && largest < 5.5);
    }
}

#[test]
fn runs_rounded_at_random_have_the_right_mean() {
    let Some(fixtures) = Fixtures::open() else { return };
    for case in fixtures.case_names() {
        let (exact, spread) = (fixtures.file(&format!("{case}.f32")), fixtures.file(&format!("{case}.stochastic")));
        let last = fixtures.steps();
        let mut sums: Vec<Vec<f64>> = Vec::new();
        for seed in 0..RUNS {
            let mut run = Run::new(&fixtures, &case, rounded, in_f32, Some(seed as u64));
            (1..=last).for_each(|step| run.step(step, &mut |_| {}));
            sums.resize_with(run.parameters.len(), Vec::new);
            for (sums, parameter) in sums.iter_mut().zip(&run.parameters) {
                sums.resize(parameter.init.len(), 0.0);
                sums.iter_mut().zip(parameter.values()).for_each(|(sum, value)| *sum += f64::from(value));
            }
        }
        let mut scores = Vec::new();
        for (sums, (name, _)) in sums.iter().zip(fixtures.tensors()) {
            let expected = floats(&exact, &format!("{name}.step{last}.param"));
            let deviation = floats(&spread, &format!("{name}.step{last}.std_of_one_run"));
            for ((sum, expected), deviation) in sums.iter().zip(expected).zip(deviation) {
                if deviation > 0.0 {
                    scores.push(deviations(sum / RUNS as f64, f64::from(expected), f64::from(deviation), RUNS));
                }
            }
        }
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let (rms, largest) = (root_mean_square(&scores), scores.iter().fold(0f64, |a, b| a.max(b.abs())));
        println!("{case}: {RUNS} runs, {} elements: rms {rms:.3}, mean {mean:.3}, largest {largest:.2}", scores.len());
        assert!((0.94..1.06).contains(&rms) && mean.abs() < 0.08 && largest < 6.0);
    }
}
