//! The same adapters in PEFT: our folders there, its folders here.
//!
//! The oracle is a Python with PyTorch, transformers 5 and PEFT: the one that NEMO_BURN_PYTHON names, else `python3`. Without
//! them the tests say that they are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod python;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule, save_adapter};
use nemo_model::checkpoint::SaveOptions;
use nemo_model::config::ModelConfig;
use nemo_model::{Dtypes, NemotronH, load, random, save};
use python::{log_probs, rows};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Largest difference of a log-probability, both programs computing in f32.
const TOLERANCE: f64 = 1e-5;

fn python() -> Option<PathBuf> {
    python::interpreter(&["torch", "transformers", "peft"])
}

fn ask(python: &Path, request: &Value) -> Value {
    python::ask(python, "peft/oracle.py", request)
}

/// A folder with a model of every block that PEFT adapts, in `model`.
fn base() -> TempDir {
    let text = json!({
        "model_type": "nemotron_h", "hybrid_override_pattern": "M*-M", "vocab_size": 70, "hidden_size": 32,
        "intermediate_size": 48, "mamba_num_heads": 4, "mamba_head_dim": 12, "ssm_state_size": 8, "n_groups": 2,
        "conv_kernel": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "initializer_range": 0.5,
        "use_bias": true, "tie_word_embeddings": false, "time_step_min": 1e-6, "time_step_max": 0.1,
        "time_step_floor": 1e-7
    });
    let config = ModelConfig::from_json_text(&text.to_string(), Path::new("config.json")).unwrap();
    let model = random(&config, 3, &Device::flex(), Dtypes::F32).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save(&model, &folder.path().join("model"), &SaveOptions::default()).unwrap();
    folder
}

fn loaded(folder: &TempDir) -> NemotronH {
    load(&folder.path().join("model"), &Device::flex(), Dtypes::F32).unwrap()
}

/// The model with an adapter whose factors are all other than zero.
fn adapted(folder: &TempDir, targets: impl IntoIterator<Item = TargetModule>) -> NemotronH {
    let mut model = loaded(folder);
    let adapter = FreshAdapter {
        settings: LoraSettings { rank: 4, alpha: 6.0 },
        targets: targets.into_iter().collect(),
        initialization: FactorInitialization::Kaiming,
        seed: 5,
    };
    model.add_adapter(&adapter).unwrap();
    model.visit_trained_mut(&mut |_, mut parameter| {
        parameter.update_flat(|values| {
            let count = values.dims()[0];
            let wave: Vec<f32> = (0..count).map(|i| 0.1 * (i as f32 * 0.7).sin()).collect();
            values + Tensor::from_data(TensorData::new(wave, [count]), &Device::flex())
        });
    });
    model
}

/// The largest difference between our log-probabilities and PEFT's.
fn difference(python: &Path, folder: &TempDir, adapter: &Path, model: &NemotronH) -> f64 {
    let rows = rows(model.config().vocab_size);
    let request = json!({
        "command": "evaluate", "folder": folder.path().join("model"), "adapter": adapter, "rows": rows
    });
    let answer = ask(python, &request);
    let (mut largest, mut effect) = (0.0_f64, 0.0_f64);
    let plain = model.without_adapter();
    for (row, expected) in rows.iter().zip(answer["log_probs"].as_array().unwrap()) {
        let expected = expected.as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
        for ((found, expected), plain) in log_probs(model, row).into_iter().zip(expected).zip(log_probs(&plain, row)) {
            largest = largest.max((found - expected).abs());
            effect = effect.max((found - plain).abs());
        }
    }
    assert!(effect > 0.1, "the adapter changes next to nothing: {effect}");
    largest
}

fn without_out_proj() -> impl Iterator<Item = TargetModule> {
    TargetModule::ALL.into_iter().filter(|target| *target != TargetModule::OutProj)
}

#[test]
fn our_adapter_is_the_same_in_peft() {
    let Some(python) = python() else { return };
    let folder = base();
    let model = adapted(&folder, without_out_proj());
    let adapter = folder.path().join("adapter");
    save_adapter(&model, &adapter, "model").unwrap();
    let largest = difference(&python, &folder, &adapter, &model);
    println!("our adapter in PEFT: log-probabilities differ by at most {largest:.2e}");
    assert!(largest <= TOLERANCE, "{largest}");
}

#[test]
fn an_adapter_of_peft_is_the_same_here() {
    let Some(python) = python() else { return };
    let targets = without_out_proj().map(TargetModule::name).collect::<Vec<_>>();
    for (case, targets) in
        [json!(targets), json!(["q_proj", "layers.3.mixer.in_proj"]), json!(".*layers\\.[02]\\..*(in|up)_proj")]
            .into_iter()
            .enumerate()
    {
        let folder = base();
        let adapter = folder.path().join("adapter");
        let make = json!({
            "command": "make", "folder": folder.path().join("model"), "adapter": adapter, "targets": targets, "rank": 3,
            "alpha": 5
        });
        ask(&python, &make);
        let mut model = loaded(&folder);
        assert_eq!(model.load_adapter(&adapter).unwrap(), Vec::<String>::new());
        let largest = difference(&python, &folder, &adapter, &model);
        println!("adapter {case} of PEFT: log-probabilities differ by at most {largest:.2e}");
        assert!(largest <= TOLERANCE, "{largest}");
        // And back.
        let again = folder.path().join("again");
        save_adapter(&model, &again, "model").unwrap();
        let largest = difference(&python, &folder, &again, &model);
        assert!(largest <= TOLERANCE, "{targets}: {largest}");
    }
}

/// What is said of adapters with `out_proj` is so.
#[test]
fn peft_refuses_what_we_say_it_refuses() {
    let Some(python) = python() else { return };
    let folder = base();
    for (name, targets, refused) in
        [("with", TargetModule::ALL.to_vec(), true), ("without", without_out_proj().collect(), false)]
    {
        let adapter = folder.path().join(name);
        save_adapter(&adapted(&folder, targets), &adapter, "model").unwrap();
        let said = loaded(&folder).load_adapter(&adapter).unwrap();
        assert_eq!(said.iter().any(|notice| notice.contains("out_proj")), refused, "{said:?}");
        let request = json!({"command": "load", "folder": folder.path().join("model"), "adapter": adapter});
        let answer = ask(&python, &request)["error"].clone();
        println!("PEFT on an adapter {name} out_proj: {answer}");
        assert_eq!(answer.as_str().is_some_and(|error| error.contains("out_proj")), refused, "{answer}");
    }
}
