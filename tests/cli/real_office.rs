//! `nemo-burn env fetch` and `nemo-burn env prepare`: the real tables and tasks.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::program::{repository, run_in};

/// The folder with real tables and records.
pub fn data() -> Option<PathBuf> {
    let named = std::env::var_os("NEMO_BURN_DATA").map(PathBuf::from);
    let data = named.clone().unwrap_or_else(|| repository().join("../shared/data")).join("workplace");
    if !data.is_dir() {
        assert!(named.is_none(), "NEMO_BURN_DATA: {} is not a folder", data.display());
        println!("skipped: {} is not there (NEMO_BURN_DATA names another place)", data.display());
        return None;
    }
    Some(data.canonicalize().unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn from_tables_and_records_to_files_for_training() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = format!("--folder={}", data.join("csv_data").display());
    let text = run_in(folder.path(), &["env", "fetch", &from]).succeeded();
    assert!(text.contains("tables: 6 file(s) written, 0 there already") && text.contains("Apache License"), "{text}");
    let text = run_in(folder.path(), &["env", "fetch", &from]).succeeded();
    assert!(text.contains("0 file(s) written, 6 there already"), "{text}");

    let records = format!("--records={}", data.join("example.jsonl").display());
    let text = run_in(folder.path(), &["env", "prepare", "--output=out", &records]).succeeded();
    assert!(text.contains("5 records, 0 broken") && text.contains("4 for training in out/train.jsonl"), "{text}");
    let written = lines(&folder.path().join("out/train.jsonl"));
    assert_eq!(written.len(), 4);
    assert!(written.iter().all(|record| record["agent_ref"]["name"] == "workplace_assistant_simple_agent"));
    assert_eq!(lines(&folder.path().join("out/validation.jsonl")).len(), 1);
    let verify = ["env", "verify", "--tables=tables", "out/train.jsonl", "out/validation.jsonl"];
    run_in(folder.path(), &verify).succeeded();
}

#[test]
fn what_is_missing_is_said_with_the_command_that_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["env", "prepare", "--output=out"]).refused(&["tables", "nemo-burn env fetch"]);
    run_in(folder.path(), &["env", "verify", "tasks.jsonl"]).refused(&["tasks.jsonl", "nemo-burn env prepare"]);
    run_in(folder.path(), &["env", "fetch", "--wheel=x.whl"]).refused(&["x.whl"]);
    run_in(folder.path(), &["env", "fetch", "--folder=nowhere"]).refused(&["nowhere", "csv_data"]);
}
