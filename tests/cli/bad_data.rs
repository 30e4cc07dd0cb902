//! Datasets and tables with mistakes are refused with file and line.

use std::fs;
use std::path::Path;

use super::program::{contents, run_in};
use super::small_model::workspace;

const RECORD: &str = r#"{"id":7,"responses_create_params":{"input":[{"role":"user","content":"Hi"}],"tools":[]},"ground_truth":[],"office":"office-0001"}"#;

/// Every command that reads records refuses the file with the same words.
#[track_caller]
fn refused_everywhere(folder: &Path, words: &[&str]) {
    let before = contents(folder);
    run_in(folder, &["train", "--config=config.yaml", "data.train=tasks.jsonl"]).refused(words);
    run_in(folder, &["train", "--config=config.yaml", "data.validation=tasks.jsonl"]).refused(words);
    run_in(folder, &["sft", "--config=config.yaml", "data.train=tasks.jsonl"]).refused(words);
    run_in(folder, &["generate", "--model=model", "--records=tasks.jsonl"]).refused(words);
    run_in(folder, &["eval", "--model=model", "--records=tasks.jsonl"]).refused(words);
    run_in(folder, &["env", "verify", "tasks.jsonl"]).refused(words);
    assert_eq!(contents(folder), before);
}

#[test]
fn a_malformed_line() {
    let folder = workspace();
    let tasks = folder.path().join("tasks.jsonl");
    fs::write(&tasks, format!("{RECORD}\n{}\n", &RECORD[..RECORD.len() - 1])).unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl:2", "not valid JSON", "one JSON object per line"]);
    fs::write(&tasks, format!("{RECORD}\n\n{}\n", RECORD.replace("\"ground_truth\":[]", "\"ground_truth\":\"[]\"")))
        .unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl:3", "`ground_truth` is a string", "expected a list"]);
    fs::write(&tasks, RECORD.replace("\"id\":7,", "")).unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl:1", "`id` is missing"]);
}

#[test]
fn an_empty_dataset() {
    let folder = workspace();
    fs::write(folder.path().join("tasks.jsonl"), "\n \n").unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl", "found no records", "expected at least one"]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = workspace();
    refused_everywhere(folder.path(), &["tasks.jsonl", "expected a readable JSONL file"]);
    fs::create_dir(folder.path().join("tasks.jsonl")).unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl", "expected a readable JSONL file"]);
    fs::remove_dir(folder.path().join("tasks.jsonl")).unwrap();
    fs::write(folder.path().join("tasks.jsonl"), b"\xff\xfe{}").unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl:1", "not UTF-8", "expected one JSON object per line"]);
}

#[test]
fn no_tasks_at_all() {
    let folder = workspace();
    run_in(folder.path(), &["train", "--config=config.yaml", "data.train.generate.count=0"]).refused(&[
        "data.train",
        "data_path",
        "generate.count",
    ]);
    run_in(folder.path(), &["train", "--config=config.yaml", "data.train.generate.count=1"]).refused(&[
        "grpo.num_prompts_per_step",
        "found 1 tasks",
        "at least 2",
    ]);
}

#[test]
fn records_without_an_office() {
    let folder = workspace();
    fs::write(folder.path().join("tasks.jsonl"), RECORD.replace(",\"office\":\"office-0001\"", "")).unwrap();
    run_in(folder.path(), &["env", "verify", "tasks.jsonl"]).refused(&["task 7", "--tables DIR"]);
    run_in(folder.path(), &["eval", "--model=model", "--records=tasks.jsonl"]).refused(&["task 7", "--tables DIR"]);
    fs::write(folder.path().join("tasks.jsonl"), RECORD.replace("office-0001", "mars")).unwrap();
    run_in(folder.path(), &["env", "verify", "tasks.jsonl"]).refused(&[
        "task 7",
        "unknown office \"mars\"",
        "office-0007",
    ]);
}

#[test]
fn tables_that_are_none() {
    let folder = workspace();
    fs::write(folder.path().join("tasks.jsonl"), RECORD).unwrap();
    let verify = || run_in(folder.path(), &["env", "verify", "--tables=tables", "tasks.jsonl"]);
    verify().refused(&["tables"]);
    let processed = folder.path().join("tables/processed");
    fs::create_dir_all(&processed).unwrap();
    verify().refused(&["tables/processed/emails.csv"]);
    fs::write(processed.join("emails.csv"), "id,subject\n1,x\n").unwrap();
    verify().refused(&["tables/processed/emails.csv", "found the columns", "expected"]);
    let header = "email_id,inbox/outbox,sender/recipient,subject,sent_datetime,body\n";
    fs::write(processed.join("emails.csv"), format!("{header}1,inbox\n")).unwrap();
    verify().refused(&["tables/processed/emails.csv:2", "found 2 cells, expected 6"]);
}

#[test]
fn conversations_that_are_none() {
    let folder = workspace();
    let refused = |text: &str, words: &[&str]| {
        fs::write(folder.path().join("chat.json"), text).unwrap();
        run_in(folder.path(), &["generate", "--model=model", "--messages=chat.json"]).refused(words);
    };
    refused("[{]", &["chat.json", "not valid JSON"]);
    refused("{\"role\": \"user\"}", &["chat.json", "list of messages"]);
    refused(
        "[{\"role\": \"me\", \"content\": \"x\"}]",
        &["chat.json", "message 0", "expected system, user, assistant or tool"],
    );
}
