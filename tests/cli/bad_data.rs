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
fn a_ground_truth_that_cannot_be_carried_out() {
    let folder = workspace();
    let tasks = folder.path().join("tasks.jsonl");
    for (call, reason) in [
        (r#"{"name":"email_fly","arguments":"{}"}"#, "calls \"email_fly\": there is no such tool"),
        (r#"{"name":"email_delete_email","arguments":"{oops"}"#, "the arguments are not JSON"),
        (r#"{"name":"email_delete_email","arguments":"[]"}"#, "not a JSON object"),
        (r#"{"name":"email_delete_email","arguments":"{\"id\":\"1\"}"}"#, "unexpected keyword argument 'id'"),
    ] {
        let record = RECORD.replace("\"ground_truth\":[]", &format!("\"ground_truth\":[{call}]"));
        fs::write(&tasks, format!("{RECORD}\n{record}\n")).unwrap();
        refused_everywhere(folder.path(), &["tasks.jsonl:2", "`ground_truth[0]`", reason, "expected a call"]);
    }
}

/// Such a task is accepted, as the reference accepts it, and said to be one.
#[test]
fn a_ground_truth_that_its_tool_refuses() {
    let folder = workspace();
    let with = |call: &str| RECORD.replace("\"ground_truth\":[]", &format!("\"ground_truth\":[{call}]"));
    let unknown = with(r#"{"name":"email_delete_email","arguments":"{\"email_id\":\"nobody's\"}"}"#);
    let missing = with(r#"{"name":"email_send_email","arguments":"{}"}"#);
    let tasks = folder.path().join("tasks.jsonl");
    let words = [
        "warning: tasks.jsonl: 2 call(s) of ground truths are refused by their tools",
        "tasks.jsonl:3, task 7",
        "Email not found",
    ];
    let settings = ["--config=config.yaml", "checkpointing.save_period=9", "data.validation.generate.count=0"];
    for (records, num_warnings) in
        [(format!("{RECORD}\n\n{unknown}\n{missing}\n"), 1), (format!("{RECORD}\n{RECORD}"), 0)]
    {
        fs::write(&tasks, records).unwrap();
        let train = [&["train", "data.train=tasks.jsonl", "--fresh"][..], &settings].concat();
        for command in [&["eval", "--model=model", "--records=tasks.jsonl", "--max-new-tokens=2"][..], &train] {
            let finished = run_in(folder.path(), command);
            let said = &finished.stderr;
            assert_eq!(finished.code, Some(0), "{said}");
            assert_eq!(said.matches("call(s) of ground truths").count(), num_warnings, "{said}");
            assert!(num_warnings == 0 || words.iter().all(|word| said.contains(word)), "{said}");
        }
    }
}

#[test]
fn a_line_without_end() {
    let folder = workspace();
    fs::write(folder.path().join("tasks.jsonl"), format!("{RECORD}\n{}", " x".repeat(10 << 20))).unwrap();
    refused_everywhere(folder.path(), &["tasks.jsonl:2", "longer than 16 MiB"]);
    run_in(folder.path(), &["env", "replay", "tasks.jsonl"]).refused(&["tasks.jsonl:2", "longer than 16 MiB"]);
}

#[cfg(unix)]
#[test]
fn what_is_no_file() {
    use std::process::Command;

    let folder = workspace();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in ["/dev/zero", "pipe"] {
        let words = [path, "this is a pipe or a device", "expected a regular file"];
        run_in(folder.path(), &["train", "--config=config.yaml", &format!("data.train={path}")]).refused(&words);
        run_in(folder.path(), &["eval", "--model=model", &format!("--records={path}")]).refused(&words);
        for command in ["verify", "replay"] {
            run_in(folder.path(), &["env", command, path]).refused(&words);
        }
        let prepare = ["env", "prepare", "--tables=.", "--output=out", &format!("--records={path}")];
        assert_eq!(run_in(folder.path(), &prepare).code, Some(2), "{path}");
        run_in(folder.path(), &["generate", "--model=model", &format!("--messages={path}")]).refused(&words);
    }
}

#[test]
fn more_tasks_than_memory_holds() {
    let folder = tempfile::tempdir().unwrap();
    let generate = |option: &str| run_in(folder.path(), &["env", "generate", "--output=out", option]);
    generate("--count=999999999").refused(&["--count", "999999999", "1 to 1000000"]);
    generate("--count=99999999999").refused(&["--count", "99999999999", "1 to 1000000"]);
    generate("--num-offices=99999999999").refused(&["--num-offices", "99999999999", "1 to 1000"]);
}

#[test]
fn a_place_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let finished = run_in(folder.path(), &["env", "generate", "--count=2", "--output=file/x"]);
    finished.refused(&["cannot write file/x/offices/office-", "free space and permissions"]);
    assert!(!finished.stderr.contains("env fetch"), "{}", finished.stderr);
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
    refused("5", &["chat.json", "list of messages"]);
    refused(
        "[{\"role\": \"me\", \"content\": \"x\"}]",
        &["chat.json", "message 0", "expected system, user, assistant or tool"],
    );
    let request = |more: &str| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], {more}}}");
    refused(&request("\"tools\": {}"), &["chat.json", "\"tools\" is not a list"]);
    refused(&request("\"tools\": [5]"), &["chat.json", "\"tools\" holds something that is not an object"]);
    refused(&request("\"chat_template_kwargs\": 1"), &["chat.json", "\"chat_template_kwargs\" is not an object"]);
    refused(&request("\"temperature\": 0.5"), &["chat.json", "\"temperature\" has no place", "\"tools\""]);
    refused("{\"tools\": []}", &["chat.json", "found no \"messages\""]);
}
