//! Chat rendering against stored prompts, and the model folders' configurations and files, byte for byte.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `model/chat_template_cases.json` and `model/<name>/config.json`; without
//! it `../shared/fixtures` beside the repository is used when present, and `tests/fixtures` always.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::path::{Path, PathBuf};

use nemo_model::checkpoint::{CheckpointError, CheckpointReader, SaveOptions, TensorValues, save_checkpoint};
use nemo_model::config::ModelConfig;
use nemo_model::text::{ChatMessage, ChatRole, ChatTemplate, RenderOptions, TokenizerSettings, parse_tool_calls};
use serde_json::Value;

/// Paths inside the `model` folder of every fixture root that `choose` accepts. Prints what is skipped.
fn find(what: &str, choose: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let search = |root: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root.join("model")).into_iter().flatten();
        let mut found: Vec<PathBuf> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| choose(path)).collect();
        found.sort();
        found
    };
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("NEMO_BURN_FIXTURES").map(PathBuf::from);
    let mut found = search(&repository.join("tests/fixtures"));
    match named {
        Some(root) => {
            let there = search(&root);
            assert!(!there.is_empty(), "NEMO_BURN_FIXTURES={} holds no {what}", root.display());
            found.extend(there);
        }
        None => found.extend(search(&repository.join("../shared/fixtures"))),
    }
    if found.is_empty() {
        println!("skipped: no {what} found; set NEMO_BURN_FIXTURES to a folder with fixtures");
    }
    found
}

fn model_folders() -> Vec<PathBuf> {
    find("model folders", |path| path.join("config.json").exists())
}

fn chat_cases() -> Vec<Value> {
    let files = find("chat cases", |path| path.file_name().is_some_and(|name| name == "chat_template_cases.json"));
    let read = |path: &PathBuf| -> Vec<Value> {
        serde_json::from_slice(&std::fs::read(path).expect("a readable file")).expect("a list of cases")
    };
    files.iter().flat_map(read).collect()
}

fn tools_of(case: &Value) -> Vec<Value> {
    case["tools"].as_array().cloned().unwrap_or_default()
}

fn options_of(case: &Value) -> RenderOptions {
    let flag = |key: &str| case["options"][key].as_bool().unwrap_or(false);
    RenderOptions {
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        ..RenderOptions::default()
    }
}

#[test]
fn the_built_in_chat_rendering_is_exact() {
    let template = ChatTemplate::nemotron_v2();
    let cases = chat_cases();
    for case in &cases {
        let messages = ChatMessage::list_from_json(&case["messages"]).expect("messages");
        let text = template.render(&messages, &tools_of(case), &options_of(case)).expect("a rendering");
        assert_eq!(text, case["rendered"].as_str().expect("text"), "case {}", case["name"]);
    }
    println!("{} chat cases", cases.len());
}

/// A folder may hold the published Jinja template itself; our Jinja surroundings must render it exactly.
#[test]
fn a_stored_jinja_template_renders_the_cases() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("NEMO_BURN_FIXTURES").map(PathBuf::from);
    let file = named.unwrap_or_else(|| repository.join("../shared/fixtures")).join("model/chat_template.jinja");
    let Ok(source) = std::fs::read_to_string(&file) else {
        println!("skipped: {} does not exist", file.display());
        return;
    };
    let template = ChatTemplate::from_jinja("chat_template.jinja", &source, None, &TokenizerSettings::default());
    let template = template.expect("a template");
    for case in chat_cases() {
        let messages = ChatMessage::list_from_json(&case["messages"]).expect("messages");
        let text = template.render(&messages, &tools_of(&case), &options_of(&case)).expect("a rendering");
        assert_eq!(text, case["rendered"].as_str().expect("text"), "case {}", case["name"]);
    }
}

/// In every stored conversation that ends with tool results, appending gives the stored prompt.
#[test]
fn appended_tool_results_equal_the_stored_prompts() {
    let template = ChatTemplate::nemotron_v2();
    let mut checked = 0;
    for case in chat_cases() {
        let messages = ChatMessage::list_from_json(&case["messages"]).expect("messages");
        let results = messages.iter().rev().take_while(|message| message.role == ChatRole::Tool).count();
        if results == 0 {
            continue;
        }
        let (history, results) = messages.split_at(messages.len() - results);
        let (call, prompt) = history.split_last().expect("an assistant turn");
        let format = template
            .tool_result_format(prompt, &tools_of(&case), "<SPECIAL_12>", &RenderOptions::default())
            .expect("the family's template appends");
        let results: Vec<&str> = results.iter().map(|message| message.content.as_str()).collect();
        let rendered = case["rendered"].as_str().expect("text");
        let tail = format.render(&results);
        let head =
            rendered.strip_suffix(&tail).unwrap_or_else(|| panic!("{}: {tail:?} ends {rendered:?}", case["name"]));
        assert!(head.ends_with("\n<SPECIAL_12>"), "{head:?}");
        let turn = head.rsplit_once("<SPECIAL_11>Assistant\n").expect("a header").1;
        let parsed = parse_tool_calls(turn);
        assert_eq!(parsed.malformed, None);
        assert_eq!(parsed.tool_calls.len(), call.tool_calls.len());
        checked += 1;
    }
    println!("{checked} tool conversations");
}

#[test]
fn both_config_styles_are_one_configuration() {
    let folders = model_folders();
    for folder in &folders {
        let mut published = ModelConfig::load(folder).expect("config.json");
        let mut resaved =
            ModelConfig::from_file(&folder.join("config_as_saved_by_transformers5.json")).expect("resaved");
        let written = ModelConfig::from_json_text(&published.to_json_text(), folder).expect("our own file");
        assert_eq!(written, published, "{}", folder.display());
        published.extra.clear();
        resaved.extra.clear();
        assert_eq!(published, resaved, "{}", folder.display());
    }
    println!("{} configurations", folders.len());
}

/// Loading, saving and loading again keeps every stored byte.
#[test]
fn checkpoints_survive_saving() {
    let folders = model_folders();
    for folder in &folders {
        let original = CheckpointReader::open(folder).expect("a fixture opens");
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("saved");
        let options = SaveOptions::default();
        save_checkpoint(&target, original.config(), &options, |tensor| -> Result<_, CheckpointError> {
            original.read_f32(&tensor.name).map(|(values, _)| TensorValues::F32(values))
        })
        .expect("saved");
        let again = CheckpointReader::open(&target).expect("our own file opens");
        assert_eq!(again.config(), original.config());
        for name in original.names() {
            assert_eq!(again.info(name).expect("info").dtype, original.info(name).expect("info").dtype);
            assert_eq!(again.raw(name).expect("bytes"), original.raw(name).expect("bytes"), "{name}");
        }
    }
    println!("{} checkpoints", folders.len());
}

#[test]
fn parameter_counts_are_the_documented_ones() {
    for readme in find("README.json", |path| path.file_name().is_some_and(|name| name == "README.json")) {
        let document: Value = serde_json::from_slice(&std::fs::read(&readme).expect("README")).expect("JSON");
        for (name, about) in document["models"].as_object().expect("models") {
            let config = ModelConfig::load(&readme.with_file_name(name)).expect("config");
            assert_eq!(Some(config.num_parameters() as u64), about["parameters"].as_u64(), "{name}");
            assert_eq!(Some(config.layers.to_string().as_str()), about["pattern"].as_str(), "{name}");
        }
    }
}
