//! `nemo-burn env play`: a task solved line by line.

use std::fs;

use super::program::{run_in, run_with_input};

#[test]
fn a_task_is_played_to_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["env", "generate", "--output=out", "--count=1", "--num-offices=1"]).succeeded();
    let record = folder.path().join("out/train.jsonl");
    let task: serde_json::Value = serde_json::from_str(fs::read_to_string(&record).unwrap().trim()).unwrap();
    // The demonstration is what a person would type.
    let demonstration: String = task["demonstration"]["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| format!("{} {}\n", call["name"].as_str().unwrap(), call["arguments"].as_str().unwrap()))
        .collect();
    let records = format!("--records={}", record.display());
    let play = |input: &str| run_with_input(&["env", "play", &records], input).succeeded();
    let text = play(&format!("help\n{demonstration}changes\ndone\n"));
    assert!(text.contains("solved: reward 1 after ") && !text.contains("not solved"), "{text}");
    let text = play("email_fly\nemail_delete_email email_id=00000007\nrestart\nchanges\ntools\nquit\n");
    assert!(text.contains("\"email_fly\" is neither a tool nor a command"), "{text}");
    assert!(text.contains("  email - \"00000007\"") && text.contains("nothing has changed"), "{text}");
    assert!(text.contains("email_delete_email(email_id)") && !text.contains("reward"), "{text}");
    // The end of the input is the end of the task.
    assert!(!play("task\n").contains("reward"));
}
