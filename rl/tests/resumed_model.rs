//! A model that is saved, loaded and trained on is the model that was never saved, whatever type it is stored in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule};
use nemo_model::config::ModelConfig;
use nemo_model::generate::EngineOptions;
use nemo_model::{Dtypes, NemotronH, WeightStorage};
use nemo_rl::config::{MomentDtype, Precision, load_text};
use nemo_rl::optimizer::OptimizerDtypes;
use nemo_rl::policy::api::{
    Policy, SupervisedBatch, SupervisedSequence, TrainBatch, TrainSequence, UpdateParams, UpdateReport,
};
use nemo_rl::policy::{ModelPolicy, ModelPolicyOptions, PassOptions};

const MODEL: &str = r#"{
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hybrid_override_pattern": "M*-",
    "num_hidden_layers": 3, "vocab_size": 64, "hidden_size": 16, "mamba_num_heads": 2, "mamba_head_dim": 8,
    "ssm_state_size": 4, "n_groups": 1, "conv_kernel": 4, "chunk_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24, "initializer_range": 0.3,
    "tie_word_embeddings": TIED, "torch_dtype": "DTYPE"
}"#;

/// The policy a run starts with; nothing of it is exact in 16 bits.
fn start(dtype: &str, dtypes: Dtypes, tied: bool) -> ModelPolicy {
    policy_around(model(dtype, dtypes, tied), OptimizerDtypes::default())
}

fn model(dtype: &str, dtypes: Dtypes, tied: bool) -> NemotronH {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, MODEL.replace("DTYPE", dtype).replace("TIED", &tied.to_string())).unwrap();
    let config = ModelConfig::from_file(&file).unwrap();
    nemo_model::random(&config, 7, &Device::flex(), dtypes).unwrap()
}

fn policy_around(model: NemotronH, optimizer: OptimizerDtypes) -> ModelPolicy {
    let engine = EngineOptions { num_pages: 16, num_slots: 8, max_sequence_length: 64, ..EngineOptions::default() };
    let options = ModelPolicyOptions {
        engine,
        pass: PassOptions { max_batch_tokens: 256, chunk_tokens: 4096, kept_bytes: usize::MAX },
        optimizer,
        rounding_seed: 3,
        sidecar_files: Vec::new(),
        base_name: String::new(),
    };
    ModelPolicy::new(model, options).with_reference()
}

fn params(learning_rate: f64, kl_penalty: f64) -> UpdateParams {
    let task = ["data.train.generate.count=1".to_owned()];
    let mut loss = load_text("policy: {model_name: test}", Path::new("test"), &task).unwrap().config.loss_fn;
    loss.reference_policy_kl_penalty = kl_penalty;
    UpdateParams {
        learning_rate,
        weight_decay: 0.1,
        betas: (0.9, 0.98),
        epsilon: 1e-8,
        max_grad_norm: 1.0,
        temperature: 1.0,
        loss,
    }
}

fn tokens(step: u32, row: u32) -> Vec<u32> {
    (0..24).map(|t| (t * (5 + 2 * row) + 11 * step + row) % 64).collect()
}

/// One step whose gradients are not zero.
fn step(policy: &mut ModelPolicy, step: u32, kl_penalty: f64) -> UpdateReport {
    let sequences: Vec<TrainSequence> = (0..4)
        .map(|row| TrainSequence {
            tokens: tokens(step, row),
            mask: (0..24).map(|t| t > 7).collect(),
            advantage: row as f32 - 1.5,
            generation_log_probs: (0..24).map(|t| if t > 7 { -4.0 } else { 0.0 }).collect(),
        })
        .collect();
    let batch = TrainBatch { global_valid_tokens: 64, global_valid_sequences: 4, sequences };
    let report = policy.train(&batch, &params(1e-4, kl_penalty), &mut |_| {}).unwrap();
    assert!(report.grad_norm > 0.0, "the step has to have something to learn");
    report
}

fn supervised_step(policy: &mut ModelPolicy, step: u32) {
    let weights = |t| if t > 7 { 1.0 } else { 0.0 };
    let sequences = (0..3)
        .map(|row| SupervisedSequence { tokens: tokens(step, row), weights: (0..24).map(weights).collect() })
        .collect();
    let report =
        policy.train_supervised(&SupervisedBatch { sequences, label_smoothing: 0.0 }, &params(1e-4, 0.0), &mut |_| {});
    assert!(report.unwrap().grad_norm > 0.0);
}

/// Every bit of every weight, by name.
fn weights(policy: &ModelPolicy) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    policy.model().clone().visit_mut(&mut |name, parameter| {
        let bits = parameter.flat().into_data().iter::<f32>().map(f32::to_bits).collect();
        all.insert(name.to_owned(), bits);
    });
    all
}

fn save(policy: &ModelPolicy, folder: &Path) {
    std::fs::create_dir(folder.join("policy")).unwrap();
    policy.save_weights(&folder.join("policy")).unwrap();
    policy.save_optimizer(&folder.join("optimizer.safetensors")).unwrap();
}

fn saved_bytes(folder: &Path) -> [Vec<u8>; 2] {
    ["policy/model.safetensors", "optimizer.safetensors"].map(|name| std::fs::read(folder.join(name)).unwrap())
}

#[test]
fn a_resumed_model_is_the_uninterrupted_one_in_every_stored_type() {
    let in_bf16 = Dtypes::stored(WeightStorage::Bf16);
    let all_f32 = OptimizerDtypes::default();
    let narrow = |main_params, exp_avg, exp_avg_sq| OptimizerDtypes { main_params, exp_avg, exp_avg_sq };
    let (none, kept) = (Precision::Bfloat16, Precision::Float32);
    for (dtype, dtypes, optimizer) in [
        ("bfloat16", Dtypes::F32, all_f32),
        ("float16", Dtypes::F32, all_f32),
        ("float32", Dtypes::F32, all_f32),
        ("bfloat16", in_bf16, all_f32),
        ("float32", Dtypes::F32, narrow(kept, MomentDtype::Uint8, MomentDtype::Bfloat16)),
        ("bfloat16", in_bf16, narrow(kept, MomentDtype::Bfloat16, MomentDtype::Uint8)),
        ("bfloat16", in_bf16, narrow(kept, MomentDtype::Uint8, MomentDtype::Uint8)),
        ("bfloat16", in_bf16, narrow(none, MomentDtype::Float32, MomentDtype::Float32)),
        ("bfloat16", in_bf16, narrow(none, MomentDtype::Bfloat16, MomentDtype::Bfloat16)),
        ("bfloat16", in_bf16, narrow(none, MomentDtype::Uint8, MomentDtype::Uint8)),
    ] {
        for (tied, kl_penalty, supervised) in [(false, 0.0, false), (true, 0.05, false), (true, 0.0, true)] {
            let go = |policy: &mut ModelPolicy, steps: std::ops::Range<u32>| -> Vec<UpdateReport> {
                let mut reports = Vec::new();
                for number in steps {
                    match supervised {
                        true => supervised_step(policy, number),
                        false => reports.push(step(policy, number, kl_penalty)),
                    }
                }
                reports
            };
            let (whole, parts, end) =
                (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut uninterrupted = policy_around(model(dtype, dtypes, tied), optimizer);
            let begin = weights(&uninterrupted);
            go(&mut uninterrupted, 0..2);
            save(&uninterrupted, parts.path());
            let half_way = weights(&uninterrupted);
            let expected = go(&mut uninterrupted, 2..4);
            save(&uninterrupted, whole.path());
            for (name, bits) in &begin {
                // Of weights in bf16 none but the smallest move at once.
                let moves = dtypes == Dtypes::F32 || name.ends_with("proj.weight");
                assert!(!moves || &half_way[name] != bits, "{name} has not moved");
            }

            // As a new process: the starting policy first, then the checkpoint.
            let mut resumed = policy_around(model(dtype, dtypes, tied), optimizer);
            resumed.load_weights(&parts.path().join("policy")).unwrap();
            let is_rounded = weights(&resumed) != half_way;
            assert_eq!(is_rounded, dtype != "float32" && dtypes == Dtypes::F32, "what the model's folder holds");
            assert_eq!(resumed.load_optimizer(&parts.path().join("optimizer.safetensors")).unwrap(), None);
            assert!(weights(&resumed) == half_way, "{dtype}");
            let found = go(&mut resumed, 2..4);
            // The penalty compares with the policy that the run started from.
            assert_eq!(found, expected, "{dtype}, penalty {kl_penalty}");
            save(&resumed, end.path());
            assert!(saved_bytes(end.path()) == saved_bytes(whole.path()), "{dtype}, {optimizer:?}, tied {tied}");
        }
    }
}

/// State in one type is no state in another.
#[test]
fn an_optimizer_of_other_types_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut wide = start("float32", Dtypes::F32, true);
    step(&mut wide, 0, 0.0);
    save(&wide, folder.path());
    let optimizer = OptimizerDtypes { exp_avg_sq: MomentDtype::Uint8, ..OptimizerDtypes::default() };
    let mut narrow = policy_around(model("float32", Dtypes::F32, true), optimizer);
    let message = narrow.load_optimizer(&folder.path().join("optimizer.safetensors")).unwrap_err().to_string();
    for part in ["optimizer.safetensors", "exp_avg_sq.", "F32", "U8", "exp_avg_sq_dtype"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_checkpoint_of_rounded_weights_alone_says_that_it_is_not_exact() {
    let folder = tempfile::tempdir().unwrap();
    let mut wide = start("float32", Dtypes::F32, true);
    step(&mut wide, 0, 0.0);
    save(&wide, folder.path());
    // The state as it was written before: moments without weights.
    for dtypes in [Dtypes::F32, Dtypes::stored(WeightStorage::Bf16)] {
        let mut narrow = start("bfloat16", dtypes, true);
        let lacks = narrow.load_optimizer(&folder.path().join("optimizer.safetensors")).unwrap().unwrap();
        assert!(lacks.contains("BF16") && lacks.contains("rounded"), "{lacks}");
        step(&mut narrow, 1, 0.0);
    }
}

#[test]
fn weights_are_usable_only_if_the_model_runs_with_them_and_its_file_can_hold_them() {
    let message = |dtype: &str, tensor: &'static str, value: f32| {
        let mut policy = start(dtype, Dtypes::F32, true);
        policy.check_usable().unwrap();
        policy.update_model(|model| {
            model.visit_mut(&mut |name, mut parameter| {
                if name == tensor {
                    parameter.update_flat(|weights| weights.zeros_like() + value);
                }
            });
        });
        policy.check_usable().err().map(|error| error.to_string())
    };
    let (up, embeddings) = ("backbone.layers.2.mixer.up_proj.weight", "backbone.embeddings.weight");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        for tensor in [up, embeddings, "backbone.layers.0.mixer.A_log", "backbone.norm_f.weight"] {
            let message = message("float32", tensor, value).unwrap();
            assert!(message.starts_with(tensor), "{message}");
        }
    }
    // Every weight has a square; what the blocks make of them has none.
    let overflow = message("float32", up, 1e15).unwrap();
    assert!(overflow.contains(up) && overflow.contains("1e15") && overflow.contains("not finite"), "{overflow}");
    assert_eq!(message("float16", up, 6e4), None);
    let wide = message("float16", up, 7e4).unwrap();
    assert!(wide.contains(up) && wide.contains("F16") && wide.contains("torch_dtype"), "{wide}");
    assert_eq!(message("bfloat16", up, 7e4), None);
}

/// The policy a run with an adapter starts with, on a base of every storage.
fn start_beside(dtypes: Dtypes) -> ModelPolicy {
    let mut model = model("bfloat16", dtypes.beside_adapter(), false);
    let adapter = FreshAdapter {
        settings: LoraSettings { rank: 4, alpha: 32.0 },
        targets: TargetModule::ALL.into_iter().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 3,
    };
    model.add_adapter(&adapter).unwrap();
    policy_around(model, OptimizerDtypes::default())
}

/// Every bit of every factor, by name.
fn factors(policy: &ModelPolicy) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    policy.model().clone().visit_trained_mut(&mut |name, parameter| {
        let bits = parameter.flat().into_data().iter::<f32>().map(f32::to_bits).collect();
        all.insert(name.to_owned(), bits);
    });
    all
}

#[test]
fn a_resumed_adapter_is_the_uninterrupted_one_beside_every_base() {
    for storage in [WeightStorage::Full, WeightStorage::Bf16, WeightStorage::Int8] {
        let dtypes = Dtypes::stored(storage);
        let (whole, parts, end) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes = |folder: &Path| {
            ["policy/adapter_model.safetensors", "policy/adapter_config.json", "optimizer.safetensors"]
                .map(|name| std::fs::read(folder.join(name)).unwrap())
        };
        let mut uninterrupted = start_beside(dtypes);
        let (base, begin) = (weights(&uninterrupted), factors(&uninterrupted));
        let at_start = step(&mut uninterrupted, 0, 0.05);
        // The reference is the base, which is what a fresh adapter is.
        assert!(at_start.metrics["kl_penalty"].abs() < 1e-9, "{storage:?}: {:?}", at_start.metrics);
        assert!(step(&mut uninterrupted, 1, 0.05).metrics["kl_penalty"] > 0.0, "{storage:?}");
        supervised_step(&mut uninterrupted, 2);
        save(&uninterrupted, parts.path());
        let half_way = factors(&uninterrupted);
        for (name, bits) in &begin {
            assert_ne!(&half_way[name], bits, "{storage:?}: {name} has not moved");
            // Factors are f32 whatever they lie beside.
            assert!(half_way[name].iter().any(|bits| bits & 0xffff != 0), "{storage:?}: {name} is rounded to bf16");
        }
        let expected = [step(&mut uninterrupted, 3, 0.05), step(&mut uninterrupted, 4, 0.05)];
        save(&uninterrupted, whole.path());
        assert!(weights(&uninterrupted) == base, "{storage:?}: the base has moved");
        let names = std::fs::read_dir(whole.path().join("policy")).unwrap().count();
        assert_eq!(names, 2, "the base is not written");

        // As a new process: the starting policy first, then the checkpoint.
        let mut resumed = start_beside(dtypes);
        resumed.load_weights(&parts.path().join("policy")).unwrap();
        assert_eq!(resumed.load_optimizer(&parts.path().join("optimizer.safetensors")).unwrap(), None);
        assert!(factors(&resumed) == half_way, "{storage:?}");
        let found = [step(&mut resumed, 3, 0.05), step(&mut resumed, 4, 0.05)];
        assert_eq!(found, expected, "{storage:?}");
        save(&resumed, end.path());
        assert!(bytes(end.path()) == bytes(whole.path()), "{storage:?}");
        resumed.check_usable().unwrap();
    }
}
