//! Stored greedy continuations of the fixture models, against what the program writes on some device.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::program::{repository, run};

/// Folders with stored continuations: those of the repository, and those of a folder named by the environment or
/// found beside the repository. A model that is in both is there once.
pub fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("NEMO_BURN_FIXTURES").map(PathBuf::from);
    let beside = repository().join("../shared/fixtures");
    let roots = [repository().join("tests/fixtures"), named.clone().unwrap_or(beside)];
    let mut folders = Vec::new();
    for root in &roots {
        let entries = fs::read_dir(root.join("model")).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.join("cases.safetensors").exists()).collect();
        if found.is_empty() {
            assert!(named.as_ref() != Some(root), "NEMO_BURN_FIXTURES={} holds no model cases", root.display());
            println!("skipped: {} holds no model cases", root.join("model").display());
        }
        found.sort();
        folders.extend(found);
    }
    let mut seen = BTreeSet::new();
    folders.retain(|folder| {
        let cases = fs::read(folder.join("cases.safetensors")).unwrap();
        seen.insert((folder.file_name().map(ToOwned::to_owned), cases))
    });
    folders
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Option<Vec<u64>> {
    let view = file.tensor(name).ok()?;
    let bytes = view.data();
    Some(match view.dtype() {
        safetensors::Dtype::I64 => {
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u64).collect()
        }
        safetensors::Dtype::I32 => {
            bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u64).collect()
        }
        other => panic!("{name} is stored as {other:?}"),
    })
}

/// Compares the continuations of one model, `portion` prompts to a call of the program; counts them.
///
/// Nothing but the model is in a greedy continuation, so prompts that are answered together have the same ones.
pub fn check(folder: &Path, device: &str, portion: usize) -> usize {
    let bytes = fs::read(folder.join("cases.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = Vec::new();
    while let Some(prompt) = integers(&file, &format!("gen_{}.prompt", cases.len())) {
        let tokens = integers(&file, &format!("gen_{}.tokens", cases.len())).unwrap();
        cases.push((prompt, tokens));
    }
    assert!(!cases.is_empty(), "{} holds no continuations", folder.display());
    let scratch = tempfile::tempdir().unwrap();
    let input = scratch.path().join("ids.jsonl");
    for cases in cases.chunks(portion) {
        let lines: Vec<String> =
            cases.iter().map(|(prompt, _)| format!("{}\n", Value::from(prompt.as_slice()))).collect();
        fs::write(&input, lines.concat()).unwrap();
        let longest = cases.iter().map(|(_, tokens)| tokens.len()).max().unwrap();
        let text = run(&[
            "generate",
            "--model",
            folder.to_str().unwrap(),
            "--input-ids",
            input.to_str().unwrap(),
            "--greedy",
            "--ignore-eos",
            "--json",
            "--device",
            device,
            "--max-new-tokens",
            &longest.to_string(),
        ])
        .succeeded();
        assert_eq!(text.lines().count(), cases.len(), "{text}");
        for ((_, tokens), line) in cases.iter().zip(text.lines()) {
            let answer: Value = serde_json::from_str(line).unwrap();
            let found = &answer["token_ids"].as_array().unwrap()[..tokens.len()];
            assert_eq!(Value::from(found), Value::from(tokens.as_slice()), "{} on {device}", folder.display());
            let log_probs = answer["log_probs"].as_array().unwrap();
            assert_eq!(log_probs.len(), longest);
            assert!(log_probs.iter().all(|p| p.as_f64().is_some_and(|p| p <= 0.0)), "{line}");
        }
    }
    cases.len()
}
