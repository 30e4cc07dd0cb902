//! The training forward against the engine and the reference policy: the same weights give the same log-probabilities,
//! and other weights show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule};
use nemo_model::checkpoint::TensorFile;
use nemo_model::config::ModelConfig;
use nemo_model::generate::EngineOptions;
use nemo_model::{Dtypes, NemotronH, WeightStorage};
use nemo_rl::config::load_text;
use nemo_rl::optimizer::OptimizerDtypes;
use nemo_rl::policy::api::{
    Policy, SampleKey, SamplingParams, SupervisedBatch, SupervisedSequence, TrainBatch, TrainSequence, UpdateParams,
    UpdateReport,
};
use nemo_rl::policy::{ModelPolicy, ModelPolicyOptions, PassOptions};

const MODEL: &str = r#"{
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hybrid_override_pattern": "M*-M*",
    "num_hidden_layers": 5, "vocab_size": 96, "hidden_size": 32, "mamba_num_heads": 4, "mamba_head_dim": 16,
    "ssm_state_size": 16, "n_groups": 2, "conv_kernel": 4, "chunk_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "initializer_range": 0.3,
    "tie_word_embeddings": false, "torch_dtype": "float32"
}"#;
const GROUPS: usize = 3;
const SAMPLES: usize = 4;
const TURNS: u32 = 3;

fn policy() -> ModelPolicy {
    policy_in(Dtypes::F32)
}

fn policy_in(dtypes: Dtypes) -> ModelPolicy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, MODEL).unwrap();
    let config = ModelConfig::from_file(&file).unwrap();
    around(nemo_model::random(&config, 7, &Device::flex(), dtypes).unwrap())
}

fn around(model: NemotronH) -> ModelPolicy {
    let engine = EngineOptions { num_pages: 64, num_slots: 16, max_sequence_length: 256, ..EngineOptions::default() };
    ModelPolicy::new(
        model,
        ModelPolicyOptions {
            engine,
            pass: PassOptions { max_batch_tokens: 512, chunk_tokens: 4096, kept_bytes: usize::MAX },
            optimizer: OptimizerDtypes::default(),
            rounding_seed: 0,
            sidecar_files: Vec::new(),
            base_name: String::new(),
        },
    )
}

/// Trajectories of several sampled turns with tokens of the environment between them.
fn trajectories(policy: &mut ModelPolicy) -> TrainBatch {
    let sampling = SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 9 };
    let mut sequences = Vec::new();
    for group in 0..GROUPS {
        let prompt: Vec<u32> = (0..21).map(|t| (17 * t + 5 * group as u32) % 96).collect();
        let ids = policy.begin(&prompt, SAMPLES).unwrap();
        for (sample, id) in ids.into_iter().enumerate() {
            let (mut tokens, mut mask, mut log_probs) = (prompt.clone(), vec![false; 21], vec![0.0; 21]);
            for turn in 0..TURNS {
                let append: Vec<u32> = if turn == 0 { Vec::new() } else { vec![3, 1 + turn, 60] };
                mask.extend(append.iter().map(|_| false));
                log_probs.extend(append.iter().map(|_| 0.0));
                tokens.extend(&append);
                let key = SampleKey { seed: 11, step: 1, task: group as u64, sample: sample as u64 };
                policy.begin_turn(id, &append, key, &sampling).unwrap();
                let end = std::iter::from_fn(|| Some(policy.step().unwrap())).find_map(|mut ends| ends.pop()).unwrap();
                mask.extend(end.tokens.iter().map(|_| true));
                log_probs.extend(&end.log_probs);
                tokens.extend(&end.tokens);
            }
            policy.finish(id);
            let advantage = sample as f32 - 1.5;
            sequences.push(TrainSequence { tokens, mask, advantage, generation_log_probs: log_probs });
        }
    }
    let global_valid_tokens = sequences.iter().flat_map(|s| &s.mask).filter(|trained| **trained).count();
    TrainBatch { global_valid_tokens, global_valid_sequences: sequences.len(), sequences }
}

/// An update that measures and leaves the weights as they are.
fn measure(policy: &mut ModelPolicy, batch: &TrainBatch) -> UpdateReport {
    policy.train(batch, &update(0.0, 0.0), &mut |_| {}).unwrap()
}

fn update(learning_rate: f64, kl_penalty: f64) -> UpdateParams {
    let task = ["data.train.generate.count=1".to_owned()];
    let mut loss = load_text("policy: {model_name: test}", Path::new("test"), &task).unwrap().config.loss_fn;
    loss.reference_policy_kl_penalty = kl_penalty;
    UpdateParams {
        learning_rate,
        weight_decay: 0.0,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        max_grad_norm: 1.0,
        temperature: 1.0,
        loss,
    }
}

/// Weights other than those that were sampled from.
fn perturb(policy: &mut ModelPolicy) {
    policy.update_model(|model| {
        model.visit_mut(&mut |name, mut parameter| {
            if name == "backbone.layers.1.mixer.q_proj.weight" {
                parameter.update_flat(|weights| weights * 1.5);
            }
        });
    });
}

fn largest_difference(batch: &TrainBatch, report: &UpdateReport) -> f32 {
    let pairs = batch.sequences.iter().zip(&report.log_probs);
    let differences = pairs.flat_map(|(sequence, trained)| {
        let generated = sequence.generation_log_probs.iter().zip(trained).zip(&sequence.mask);
        generated.filter(|(_, trained)| **trained).map(|((g, p), _)| (g - p).abs()).collect::<Vec<_>>()
    });
    differences.fold(0.0, f32::max)
}

#[test]
fn training_sees_the_probabilities_that_were_sampled_from_and_notices_other_weights() {
    for dtypes in [Dtypes::F32, Dtypes::stored(WeightStorage::Bf16)] {
        let mut policy = policy_in(dtypes);
        // Weights that an update has made are sampled from with the same bits, too.
        for _ in 0..2 {
            let batch = trajectories(&mut policy);
            assert!(batch.global_valid_tokens > GROUPS * SAMPLES * TURNS as usize, "turns of several tokens");

            let same = measure(&mut policy, &batch);
            assert_eq!(largest_difference(&batch, &same), 0.0, "the same bits");
            // Its denominator is a hair above the number of tokens.
            assert!((same.metrics["token_mult_prob_error"] - 1.0).abs() < 1e-9, "{:?}", same.metrics);
            assert!(same.grad_norm > 0.0);
            policy.train(&batch, &update(1e-2, 0.0), &mut |_| {}).unwrap();
            assert!(largest_difference(&batch, &measure(&mut policy, &batch)) > 1e-3, "the update changed nothing");
        }

        let batch = trajectories(&mut policy);
        perturb(&mut policy);
        let other = measure(&mut policy, &batch);
        assert!(other.metrics["token_mult_prob_error"] > 1.0 + 1e-3, "{:?}", other.metrics);
        assert!(largest_difference(&batch, &other) > 1e-2);
    }
}

/// A policy whose adapter is trained beside a base of this storage.
fn policy_beside(storage: WeightStorage) -> ModelPolicy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, MODEL.replace("M*-M*", "M*-M-")).unwrap();
    let config = ModelConfig::from_file(&file).unwrap();
    let dtypes = Dtypes::stored(storage).beside_adapter();
    let mut model = nemo_model::random(&config, 7, &Device::flex(), dtypes).unwrap();
    let adapter = FreshAdapter {
        settings: LoraSettings { rank: 5, alpha: 20.0 },
        targets: TargetModule::ALL.into_iter().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 9,
    };
    model.add_adapter(&adapter).unwrap();
    around(model)
}

/// The engine samples with the adapter beside the base, as training computes it.
#[test]
fn training_sees_the_probabilities_that_an_adapter_was_sampled_with() {
    for storage in [WeightStorage::Full, WeightStorage::Bf16, WeightStorage::Int8] {
        let mut policy = policy_beside(storage);
        for _ in 0..3 {
            let batch = trajectories(&mut policy);
            let same = measure(&mut policy, &batch);
            assert_eq!(largest_difference(&batch, &same), 0.0, "{storage:?}: the same bits");
            assert!(same.grad_norm > 0.0);
            policy.train(&batch, &update(1e-2, 0.0), &mut |_| {}).unwrap();
            let moved = largest_difference(&batch, &measure(&mut policy, &batch));
            assert!(moved > 1e-3, "{storage:?}: the update changed nothing");
        }
        let batch = trajectories(&mut policy);
        policy.update_model(|model| {
            model.visit_trained_mut(&mut |name, mut parameter| {
                if name == "backbone.layers.1.mixer.q_proj.lora_B.weight" {
                    parameter.update_flat(|factor| factor * -30.0);
                }
            });
        });
        assert!(largest_difference(&batch, &measure(&mut policy, &batch)) > 1e-3, "{storage:?}");
    }
}

/// All parameters of a model that is trained in bf16 are bf16 numbers after every update, and add up what is less than a step
/// of theirs.
#[test]
fn bf16_weights_are_rounded_and_their_masters_are_not() {
    let mut policy = policy_in(Dtypes::stored(WeightStorage::Bf16));
    let batch = trajectories(&mut policy);
    let weights = |policy: &mut ModelPolicy| -> BTreeMap<String, Vec<f32>> {
        let mut weights = BTreeMap::new();
        policy.update_model(|model| {
            model.visit_mut(&mut |name, parameter| {
                weights.insert(name.to_owned(), parameter.flat().into_data().iter::<f32>().collect());
            });
        });
        weights
    };
    let train = |policy: &mut ModelPolicy| policy.train(&batch, &update(1e-5, 0.0), &mut |_| {}).unwrap();
    train(&mut policy);
    let before = weights(&mut policy);
    train(&mut policy);
    let moved = |after: &BTreeMap<String, Vec<f32>>| {
        let pairs = before.iter().flat_map(|(name, before)| before.iter().zip(&after[name]));
        pairs.filter(|(before, after)| before != after).count()
    };
    let first = weights(&mut policy);
    for (name, values) in &first {
        assert!(values.iter().all(|value| value.to_bits() & 0xffff == 0), "{name} holds more than bf16");
    }
    for _ in 0..40 {
        train(&mut policy);
    }
    let many = weights(&mut policy);
    assert!(moved(&many) > 4 * moved(&first), "{} of them have moved, and {} at once", moved(&many), moved(&first));
}

#[test]
fn the_penalty_measures_the_distance_from_the_reference_and_shortens_it() {
    let mut policy = policy();
    let mut batch = trajectories(&mut policy);
    assert!(policy.train(&batch, &update(0.0, 0.5), &mut |_| {}).is_err(), "there is no reference");
    let mut policy = policy.with_reference();
    // Without advantages nothing but the penalty moves the weights.
    batch.sequences.iter_mut().for_each(|sequence| sequence.advantage = 0.0);
    let at_reference = policy.train(&batch, &update(0.0, 0.5), &mut |_| {}).unwrap();
    assert!(at_reference.metrics["kl_penalty"].abs() < 1e-9, "{:?}", at_reference.metrics);

    perturb(&mut policy);
    let away = policy.train(&batch, &update(1e-5, 0.5), &mut |_| {}).unwrap();
    let pairs = at_reference.log_probs.iter().zip(&away.log_probs).zip(&batch.sequences);
    let k3 = pairs.flat_map(|((reference, current), sequence)| {
        let tokens = reference.iter().zip(current).zip(&sequence.mask).filter(|(_, trained)| **trained);
        tokens.map(|((r, c), _)| f64::from(r - c)).map(|x| x.exp() - x - 1.0).collect::<Vec<_>>()
    });
    let expected = k3.sum::<f64>() / batch.global_valid_tokens as f64;
    let found = away.metrics["kl_penalty"];
    assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
    assert!(away.grad_norm > 0.0);
    let nearer = policy.train(&batch, &update(0.0, 0.5), &mut |_| {}).unwrap().metrics["kl_penalty"];
    assert!(nearer < 0.95 * found, "{nearer} {found}");
}

#[test]
fn weights_that_were_quantised_for_generation_act_but_do_not_learn() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("model");
    policy().save_weights(&saved).unwrap();
    let mut policy = around(nemo_model::load(&saved, &Device::flex(), Dtypes::stored(WeightStorage::Int8)).unwrap());
    let batch = trajectories(&mut policy);
    let message = policy.train(&batch, &update(0.1, 0.0), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("int8") && message.contains("float32"), "{message}");
    let weighted = |sequence: &TrainSequence| SupervisedSequence {
        tokens: sequence.tokens.clone(),
        weights: sequence.mask.iter().map(|&trained| f32::from(u8::from(trained))).collect(),
    };
    let sequences = batch.sequences.iter().map(weighted).collect();
    let batch = SupervisedBatch { sequences, label_smoothing: 0.0 };
    let message = policy.train_supervised(&batch, &update(0.1, 0.0), &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("int8") && message.contains("float32"), "{message}");
}

/// Every weight and both its moments, by name.
fn optimizer_state(policy: &mut ModelPolicy) -> (u64, BTreeMap<String, [Vec<f32>; 3]>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    policy.save_optimizer(&path).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let mut state = BTreeMap::new();
    policy.update_model(|model| {
        model.visit_mut(&mut |name, parameter| {
            let moment = |kind: &str| file.read_f32(&format!("{kind}.{name}")).unwrap().0;
            let weights = parameter.flat().into_data().iter::<f32>().collect();
            state.insert(name.to_owned(), [weights, moment("exp_avg"), moment("exp_avg_sq")]);
        });
    });
    (file.metadata()["step"].parse().unwrap(), state)
}

/// Without a gradient Adam still moves the weights by what its moments remember, and they fade: the arithmetic is that of
/// a step whose gradient is zero.
#[test]
fn a_step_without_advantages_is_a_step_with_a_gradient_of_zero() {
    let mut policy = policy();
    let batch = trajectories(&mut policy);
    let params = UpdateParams { weight_decay: 0.1, ..update(1e-3, 0.0) };
    policy.train(&batch, &params, &mut |_| {}).unwrap();
    let (step, before) = optimizer_state(&mut policy);
    assert_eq!(step, 1);

    let mut none = batch.clone();
    none.sequences.iter_mut().for_each(|sequence| sequence.advantage = 0.0);
    // Without advantages, and without anything that is trained.
    let mut masked = none.clone();
    masked.sequences.iter_mut().for_each(|sequence| sequence.mask.fill(false));
    (masked.global_valid_tokens, masked.global_valid_sequences) = (0, 0);
    let mut expected: BTreeMap<String, [Vec<f64>; 3]> = before
        .into_iter()
        .map(|(name, parts)| (name, parts.map(|part| part.into_iter().map(f64::from).collect())))
        .collect();
    for (step, batch) in [(2, &none), (3, &masked), (4, &none)] {
        let report = policy.train(batch, &params, &mut |_| {}).unwrap();
        assert_eq!((report.loss, report.grad_norm), (0.0, 0.0));
        if batch.global_valid_tokens > 0 {
            assert!(report.entropy > 0.0 && report.metrics["token_mult_prob_error"] > 0.99, "still measured");
            assert!(report.log_probs.iter().flatten().any(|log_prob| *log_prob < 0.0));
        }
        let (found_step, found) = optimizer_state(&mut policy);
        assert_eq!(found_step, step);
        let mut moved = 0.0f64;
        for (name, [weights, first, second]) in &mut expected {
            let decay = if name.ends_with("weight") && !name.contains("norm") && !name.contains("conv1d.bias") {
                0.1
            } else {
                0.0
            };
            for i in 0..weights.len() {
                first[i] *= 0.9;
                second[i] *= 0.999;
                let (m, v) =
                    (first[i] / (1.0 - 0.9f64.powi(step as i32)), second[i] / (1.0 - 0.999f64.powi(step as i32)));
                let after = weights[i] - 1e-3 * (m / (v.sqrt() + 1e-8) + decay * weights[i]);
                moved = moved.max((after - weights[i]).abs());
                weights[i] = after;
            }
            for (part, (found, expected)) in found[name].iter().zip([&*weights, first, second]).enumerate() {
                for (found, expected) in found.iter().zip(expected) {
                    let bound = 1e-6 * expected.abs() + [1e-7, 1e-12, 1e-16][part];
                    assert!(
                        (f64::from(*found) - expected).abs() <= bound,
                        "{name} part {part}: {found}, expected {expected}"
                    );
                }
            }
        }
        assert!(moved > 1e-5, "step {step} moved the weights by {moved}");
    }
}
