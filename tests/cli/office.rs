//! `nemo-burn env`: the office without a model.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::program::{repository, run, run_in};

#[test]
fn the_tools_are_listed() {
    let text = run(&["env", "list"]).succeeded();
    assert_eq!(text.lines().count(), 27, "{text}");
    assert!(
        text.contains("email_forward_email(email_id?, recipient?)") || text.contains("email_forward_email("),
        "{text}"
    );
    for line in run(&["env", "list", "--json"]).succeeded().lines() {
        let schema: Value = serde_json::from_str(line).unwrap();
        assert_eq!(schema["type"], "function");
    }
}

#[test]
fn a_tool_answers() {
    let text = run(&["env", "call", "company_directory_find_email_address", "{\"name\": \"a\"}"]).succeeded();
    assert!(text.starts_with("{\"output\":"), "{text}");
    let again =
        run(&["env", "call", "company_directory_find_email_address", "{\"name\": \"a\"}", "--office=office-0000"]);
    assert_eq!(again.succeeded(), text, "the default office");
    let other =
        run(&["env", "call", "company_directory_find_email_address", "{\"name\": \"a\"}", "--office=office-0001"]);
    assert_ne!(other.succeeded(), text);
    // Mistakes have the answer that a model would see, and the exit code of one.
    for (tool, arguments, answer, words) in [
        ("nope", "{}", "Error executing tool 'nope'", ["nope: there is no such tool", "env list"]),
        ("email_search_emails", "{oops", "JSONDecodeError", ["arguments are not JSON", "env list"]),
        ("email_search_emails", "[1]", "model_attributes_type", ["arguments are [1], not a JSON object", "env list"]),
        ("email_search_emails", "{\"text\": \"a\"}", "unexpected keyword", ["unexpected keyword", "env list"]),
        (
            "email_search_emails",
            "{\"query\": 5}",
            "has no attribute 'lower'",
            ["could not be carried out", "its answer"],
        ),
    ] {
        let wrong = run(&["env", "call", tool, arguments]);
        wrong.refused(&words);
        assert!(wrong.stdout.contains(answer), "{}", wrong.stdout);
    }
    // A tool that finds nothing has done its work.
    run(&["env", "call", "email_delete_email", "{\"email_id\": \"x\"}"]).succeeded();
    run(&["env", "call", "email_search_emails", "{}", "--office=mars"]).refused(&["mars", "office-0007"]);
}

#[test]
fn calls_are_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let calls = "{\"name\": \"email_send_email\", \"arguments\": {\"recipient\": \"a@b.c\", \"subject\": \"S\", \"body\": \"B\"}}\n\
                 {\"name\": \"email_search_emails\", \"arguments\": \"{\\\"query\\\": \\\"zzz\\\"}\"}\n";
    fs::write(folder.path().join("calls.jsonl"), calls).unwrap();
    let text = run_in(folder.path(), &["env", "replay", "calls.jsonl"]).succeeded();
    assert!(text.contains("1 row(s) new or changed") && text.contains("a@b.c"), "{text}");
    fs::write(folder.path().join("calls.jsonl"), "{\"name\": 3}\n").unwrap();
    run_in(folder.path(), &["env", "replay", "calls.jsonl"]).refused(&["calls.jsonl:1", "expected a call such as"]);
}

#[test]
fn the_full_suite_is_generated_by_difficulty() {
    let folder = tempfile::tempdir().unwrap();
    let generate =
        ["env", "generate", "--output=out", "--suite=full", "--count=60", "--num-offices=2", "--difficulty=2"];
    let text = run_in(folder.path(), &generate).succeeded();
    assert!(text.contains("60 tasks in out/full_train.jsonl") && text.contains("WorkBench"), "{text}");
    let verify = run_in(folder.path(), &["env", "verify", "out/full_train.jsonl"]).succeeded();
    assert_eq!((numbers(&verify, "records "), numbers(&verify, "ground truth scores 1")), (vec![60], vec![60]));
    let list = |suite: &str| run(&["env", "templates", suite]).succeeded().lines().count();
    assert_eq!(list("--suite=core"), 46);
    assert!(list("--suite=full") > 90);
    run(&["env", "templates", "--suite=all"]).refused(&["unknown suite", "core"]);
    run(&["env", "generate", "--output=x", "--difficulty=5"]).refused(&["--difficulty"]);
}

#[test]
fn generated_tasks_verify() {
    let folder = tempfile::tempdir().unwrap();
    let generate = ["env", "generate", "--output=out", "--split=unseen_fillings", "--count=40", "--num-offices=2"];
    let text = run_in(folder.path(), &generate).succeeded();
    assert!(text.contains("40 tasks in out/unseen_fillings.jsonl"), "{text}");
    let text = run_in(folder.path(), &["env", "verify", "--tables=out", "out/unseen_fillings.jsonl"]).succeeded();
    let number = |label: &str| numbers(&text, label);
    assert_eq!(number("records "), [40]);
    assert_eq!(number("ground truth scores 1"), [40]);
    assert_eq!(number("demonstration scores 1"), [40, 40]);
    let replayed = run_in(folder.path(), &["env", "replay", "--tables=out", "out/unseen_fillings.jsonl"]).succeeded();
    assert_eq!(replayed.lines().filter(|line| line.starts_with("task ")).count(), 40);
    // The same command writes the same bytes, and tasks need no tables: their offices are generated again.
    let before = fs::read(folder.path().join("out/unseen_fillings.jsonl")).unwrap();
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    run_in(folder.path(), &generate).succeeded();
    assert_eq!(fs::read(folder.path().join("out/unseen_fillings.jsonl")).unwrap(), before);
    run_in(folder.path(), &["env", "verify", "out/unseen_fillings.jsonl"]).succeeded();
    assert!(run(&["env", "templates"]).succeeded().lines().count() >= 12);
}

/// The numbers of the line that starts with `label`.
fn numbers(text: &str, label: &str) -> Vec<u64> {
    let line =
        text.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_else(|| panic!("{label}: {text}"));
    let rest = line.trim_start().strip_prefix(label).unwrap();
    rest.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Ground truths, empty predictions and reversed ground truths of real records on real tables.
#[test]
fn real_records_verify() {
    let named = std::env::var_os("NEMO_BURN_DATA").map(PathBuf::from);
    let data = named.clone().unwrap_or_else(|| repository().join("../shared/data")).join("workplace");
    if !data.is_dir() {
        assert!(named.is_none(), "NEMO_BURN_DATA: {} is not a folder", data.display());
        println!("skipped: {} is not there (NEMO_BURN_DATA names another place)", data.display());
        return;
    }
    let verify = |file: &str| {
        let (tables, file) = (data.join("csv_data"), data.join(file));
        run(&["env", "verify", "--tables", tables.to_str().unwrap(), file.to_str().unwrap()]).succeeded()
    };
    let text = verify("example.jsonl");
    assert_eq!((numbers(&text, "records "), numbers(&text, "ground truth scores 1")), (vec![5], vec![5]), "{text}");
    let text = verify("workbench_690.jsonl");
    println!("{text}");
    assert_eq!(numbers(&text, "records "), [690,]);
    assert_eq!(numbers(&text, "ground truth scores 1"), [690]);
    assert_eq!(numbers(&text, "empty prediction scores 1"), [124]);
    assert_eq!(numbers(&text, "records with several calls"), [152]);
    assert_eq!(numbers(&text, "reversed ground truth scores 0"), [36]);
}
