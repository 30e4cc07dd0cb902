//! The same models in transformers: our folders there, its folders here.
//!
//! The oracle is a Python with PyTorch and transformers 5: the one that NEMO_BURN_PYTHON names, else `python3`. Without
//! them the tests say that they are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[allow(dead_code, reason = "only the folders are of interest here, not the cases in them")]
mod fixture;
mod python;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nemo_model::checkpoint::{SaveOptions, StoredDtype};
use nemo_model::config::ModelConfig;
use nemo_model::text::{ChatMessage, ChatTemplate, RenderOptions, Tokenizer};
use nemo_model::{Dtypes, NemotronH, WeightStorage, load, random, save};
use python::{log_probs, rows};
use serde_json::{Value, json};

/// Largest difference of a log-probability, both programs computing in f32.
const TOLERANCE: f64 = 1e-5;

fn ask(python: &Path, request: &Value) -> Value {
    python::ask(python, "transformers/oracle.py", request)
}

fn python() -> Option<PathBuf> {
    python::interpreter(&["torch", "transformers"])
}

/// The largest difference between our log-probabilities of a folder and transformers'.
fn difference(python: &Path, folder: &Path) -> f64 {
    let model = load(folder, &Device::flex(), Dtypes::F32).expect("the folder loads here");
    let rows = rows(model.config().vocab_size);
    let answer = ask(python, &json!({"command": "evaluate", "folder": folder, "rows": rows, "chats": []}));
    let mut largest = 0.0_f64;
    for (row, expected) in rows.iter().zip(answer["log_probs"].as_array().expect("rows")) {
        let expected = expected.as_array().expect("numbers").iter().map(|value| value.as_f64().expect("a number"));
        for (found, expected) in log_probs(&model, row).into_iter().zip(expected) {
            largest = largest.max((found - expected).abs());
        }
    }
    largest
}

fn exported(model: &NemotronH, folder: &Path) -> PathBuf {
    let target = folder.join("exported");
    let narrow = model.dtypes().matrices == WeightStorage::Bf16;
    let dtype = if narrow { StoredDtype::Bf16 } else { StoredDtype::F32 };
    let options = SaveOptions { dtype: Some(dtype), ..SaveOptions::default() };
    save(model, &target, &options).expect("saved");
    target
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/models/tiny")
}

#[test]
fn the_shipped_model_is_the_same_model_in_transformers() {
    let Some(python) = python() else { return };
    let largest = difference(&python, &shipped());
    println!("configs/models/tiny: log-probabilities differ by at most {largest:.2e}");
    assert!(largest <= TOLERANCE, "{largest}");
}

#[test]
fn exports_are_the_same_models_in_transformers() {
    let Some(python) = python() else { return };
    for folder in fixture::model_folders() {
        let model = load(&folder, &Device::flex(), Dtypes::F32).expect("a fixture loads");
        let (name, high) = (folder.file_name().expect("a name").to_string_lossy(), model.config().time_step_limit.1);
        if high.is_finite() {
            println!("skipped: {name}, whose time step is at most {high}, which transformers does not know");
            continue;
        }
        let parent = tempfile::tempdir().expect("a folder");
        let largest = difference(&python, &exported(&model, parent.path()));
        println!("{name}: log-probabilities differ by at most {largest:.2e}");
        assert!(largest <= TOLERANCE, "{name}: {largest}");
    }
}

/// Models in bf16, whose exports transformers widens.
#[test]
fn exports_in_bf16_are_the_same_models_in_transformers() {
    let Some(python) = python() else { return };
    for folder in fixture::folders("bf16") {
        let model = load(&folder, &Device::flex(), Dtypes::stored(WeightStorage::Bf16)).expect("a fixture loads");
        let parent = tempfile::tempdir().expect("a folder");
        let largest = difference(&python, &exported(&model, parent.path()));
        println!("{}: log-probabilities differ by at most {largest:.2e}", folder.display());
        assert!(largest <= TOLERANCE, "{}: {largest}", folder.display());
    }
}

#[test]
fn fresh_models_of_every_kind_of_block_are_the_same_in_transformers() {
    let Some(python) = python() else { return };
    for tied in [false, true] {
        let text = json!({
            "hybrid_override_pattern": "ME*-ME", "vocab_size": 70, "hidden_size": 32, "intermediate_size": 48,
            "mamba_num_heads": 4, "mamba_head_dim": 12, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 20, "moe_shared_expert_intermediate_size": 24,
            "moe_latent_size": 16, "initializer_range": 0.5, "tie_word_embeddings": tied,
            "time_step_min": 1e-6, "time_step_max": 0.1, "time_step_floor": 1e-7
        });
        let config = ModelConfig::from_json_text(&text.to_string(), Path::new("config.json")).expect("a configuration");
        let model = random(&config, 3, &Device::flex(), Dtypes::F32).expect("a model");
        let parent = tempfile::tempdir().expect("a folder");
        let largest = difference(&python, &exported(&model, parent.path()));
        println!("fresh mixture of experts, tied head {tied}: log-probabilities differ by at most {largest:.2e}");
        assert!(largest <= TOLERANCE, "{largest}");
    }
}

#[test]
fn what_transformers_saves_is_the_same_model_here() {
    let Some(python) = python() else { return };
    for pattern in ["M-*M", "ME*-ME"] {
        for published in [true, false] {
            let parent = tempfile::tempdir().expect("a folder");
            let folder = parent.path().join("saved");
            ask(&python, &json!({"command": "save", "folder": folder, "pattern": pattern, "published": published}));
            let largest = difference(&python, &folder);
            println!("{pattern}, published names {published}: log-probabilities differ by at most {largest:.2e}");
            assert!(largest <= TOLERANCE, "{pattern}: {largest}");
        }
    }
}

#[test]
fn chats_have_the_same_ids_in_transformers() {
    let Some(python) = python() else { return };
    let chats = json!([
        {"messages": [{"role": "user", "content": "Hello"}], "tools": null},
        {
            "messages": [
                {"role": "system", "content": "You manage an office. It is 2023-11-30."},
                {"role": "user", "content": "Mail Anna's naïve café ☕ plan to bob@example.com"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"type": "function", "id": "1", "function": {"name": "mail", "arguments": {"to": "bob", "n": 2}}}
                ]},
                {"role": "tool", "content": "sent", "tool_call_id": "1"}
            ],
            "tools": [{"type": "function", "function": {
                "name": "mail", "description": "Sends <mail> & more", "parameters": {
                    "type": "object", "required": ["to"],
                    "properties": {"to": {"type": "string", "description": "address"}, "n": {"type": "integer"}}
                }
            }}]
        }
    ]);
    let folder = shipped();
    let answer = ask(&python, &json!({"command": "evaluate", "folder": folder, "rows": [], "chats": chats}));
    let tokenizer = Tokenizer::load(&folder).expect("a tokenizer");
    let template = ChatTemplate::load(&folder).expect("a template");
    for (chat, expected) in chats.as_array().expect("chats").iter().zip(answer["chat_ids"].as_array().expect("ids")) {
        let messages = ChatMessage::list_from_json(&chat["messages"]).expect("messages");
        let tools = chat["tools"].as_array().cloned().unwrap_or_default();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let text = template.render(&messages, &tools, &options).expect("rendered");
        let ids = tokenizer.encode(&text).expect("ids");
        assert_eq!(json!(ids), *expected, "{text}");
        println!("{} ids of a chat are equal", ids.len());
    }
}
