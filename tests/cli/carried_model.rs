//! The model the repository carries: it is the one its card describes, and it can do something.

use std::fs;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::program::{repository, run};

const FOLDER: &str = "configs/models/tiny";
const MAX_BYTES: u64 = 10_000_000;

#[test]
fn the_card_names_the_weights_and_the_folder_is_small() {
    let folder = repository().join(FOLDER);
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let hash = Sha256::digest(fs::read(folder.join(file)).unwrap());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(card.contains(&hash), "the card does not have {file}'s SHA-256, {hash}");
    }
    let bytes: u64 = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= MAX_BYTES, "{bytes} bytes");
}

#[test]
fn it_solves_tasks_that_doing_nothing_does_not() {
    let arguments = ["eval", "--model", FOLDER, "--split", "unseen_fillings", "--count", "128", "--greedy", "--json"];
    let report: Value = serde_json::from_str(&run(&arguments).succeeded()).unwrap();
    let accuracy = report["overall"]["accuracy"].as_f64().unwrap();
    let do_nothing = report["overall"]["do_nothing_accuracy"].as_f64().unwrap();
    assert!(accuracy > do_nothing + 0.05, "{accuracy} against {do_nothing}");
}
