//! Damaged model folders are refused by name, before anything is computed or written.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::program::{contents, run_in};
use super::small_model::{weights, workspace};

/// Rewrites the weights with one change of the list of tensors.
fn edit(folder: &Path, change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) {
    let path = weights(folder);
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Every command that loads a model refuses it with the same words and leaves all files as they are.
#[track_caller]
fn refused_everywhere(folder: &Path, words: &[&str]) {
    let before = contents(folder);
    run_in(folder, &["generate", "--model=model", "--prompt=Hello"]).refused(words);
    run_in(folder, &["eval", "--model=model", "--count=1"]).refused(words);
    run_in(folder, &["train", "--config=config.yaml"]).refused(words);
    run_in(folder, &["sft", "--config=config.yaml"]).refused(words);
    assert_eq!(contents(folder), before);
}

#[test]
fn a_truncated_file() {
    let folder = workspace();
    let path = weights(folder.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    refused_everywhere(folder.path(), &["model/model.safetensors", "truncated", "download or save it again"]);
    fs::write(&path, &bytes[..20]).unwrap();
    refused_everywhere(folder.path(), &["model/model.safetensors", "download or save it again"]);
    fs::write(&path, b"").unwrap();
    refused_everywhere(folder.path(), &["model/model.safetensors", "download or save it again"]);
}

#[test]
fn a_missing_tensor() {
    let folder = workspace();
    edit(folder.path(), |tensors| tensors.retain(|(name, ..)| name != "backbone.layers.1.mixer.k_proj.weight"));
    refused_everywhere(
        folder.path(),
        &["model", "1 tensor(s) missing", "backbone.layers.1.mixer.k_proj.weight", "download or save"],
    );
}

#[test]
fn an_extra_tensor() {
    let folder = workspace();
    edit(folder.path(), |tensors| tensors.push(("backbone.layers.7.norm.weight".to_owned(), vec![1], vec![0; 4])));
    refused_everywhere(folder.path(), &["model", "1 unexpected tensor(s)", "backbone.layers.7.norm.weight", "remove"]);
}

#[test]
fn a_wrongly_shaped_tensor() {
    let folder = workspace();
    edit(folder.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|(name, ..)| name == "backbone.layers.2.mixer.up_proj.weight").unwrap();
        tensor.1.reverse();
    });
    refused_everywhere(
        folder.path(),
        &[
            "model/model.safetensors",
            "backbone.layers.2.mixer.up_proj.weight",
            "[16, 32]",
            "[32, 16]",
            "the sizes in config.json",
        ],
    );
}

#[test]
fn an_unknown_layer_letter() {
    let folder = workspace();
    let path = folder.path().join("model/config.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"M*-\""), "{text}");
    fs::write(&path, text.replace("\"M*-\"", "\"MX-\"")).unwrap();
    refused_everywhere(
        folder.path(),
        &["model/config.json", "hybrid_override_pattern", "\"X\"", "position 1", "allowed"],
    );
}

#[test]
fn folders_that_are_none() {
    let folder = workspace();
    let generate = |model: &str| run_in(folder.path(), &["generate", "--prompt=Hello", "--model", model]);
    generate("nothing_here").refused(&["nothing_here", "check the path"]);
    generate("config.yaml").refused(&["config.yaml", "give the folder"]);
    generate("nvidia/NVIDIA-Nemotron-Nano-9B-v2").refused(&["nvidia/NVIDIA-Nemotron-Nano-9B-v2", "HF_HUB_OFFLINE"]);
    fs::create_dir(folder.path().join("empty")).unwrap();
    generate("empty").refused(&["empty/config.json", "Hugging Face"]);
    fs::remove_file(weights(folder.path())).unwrap();
    generate("model").refused(&["model", "model.safetensors"]);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = workspace();
    // A folder in the file's place cannot be read even by the superuser, who may read everything else.
    let path = folder.path().join("model/config.json");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused_everywhere(folder.path(), &["model/config.json", "readable"]);
    let folder = workspace();
    fs::write(folder.path().join("model/tokenizer.json"), "{\"version\":").unwrap();
    refused_everywhere(folder.path(), &["model/tokenizer.json", "repair or download it again"]);
}

#[test]
fn a_model_without_tokenizer_needs_token_ids() {
    let folder = workspace();
    fs::remove_file(folder.path().join("model/tokenizer.json")).unwrap();
    run_in(folder.path(), &["generate", "--model=model", "--prompt=Hello"]).refused(&[
        "model",
        "tokenizer.json",
        "--input-ids",
    ]);
    fs::write(folder.path().join("ids.jsonl"), "[1, 2, 3]\n").unwrap();
    let arguments =
        ["generate", "--model=model", "--input-ids=ids.jsonl", "--greedy", "--ignore-eos", "--max-new-tokens=3"];
    let text = run_in(folder.path(), &arguments).succeeded();
    assert_eq!(text.split_whitespace().count(), 3, "{text}");
}

#[test]
fn token_ids_that_are_none() {
    let folder = workspace();
    let ids = folder.path().join("ids.jsonl");
    let refused = |text: &str, words: &[&str]| {
        fs::write(&ids, text).unwrap();
        run_in(folder.path(), &["generate", "--model=model", "--input-ids=ids.jsonl"]).refused(words);
    };
    refused("[1, 2]\n[1, \"a\"]\n", &["ids.jsonl:2", "list of token ids"]);
    refused("[1, -2]\n", &["ids.jsonl:1", "list of token ids"]);
    refused("[1, 2\n", &["ids.jsonl:1", "not valid JSON"]);
    refused("[512]\n", &["512", "vocabulary"]);
    refused("[]\n", &["empty"]);
    refused("\n", &["ids.jsonl", "no lines"]);
}
