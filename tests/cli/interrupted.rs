//! Ctrl-C.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::program::{PROGRAM, run_in};
use super::small_model::workspace;

fn start(folder: &Path) -> Child {
    Command::new(PROGRAM)
        .current_dir(folder)
        .args(["train", "--config=config.yaml", "grpo.max_num_steps=100000", "grpo.max_num_epochs=1000000"])
        .args(["checkpointing.save_period=100000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Reads lines of standard error until one contains `word`.
fn wait_for(reader: &mut impl BufRead, word: &str) -> String {
    let mut seen = String::new();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        seen.push_str(&line);
        if line.contains(word) {
            return seen;
        }
        line.clear();
    }
    panic!("`{word}` never came: {seen}");
}

#[test]
fn the_first_finishes_the_step_and_saves() {
    let folder = workspace();
    let mut child = start(folder.path());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut stderr, "step 1/");
    interrupt(&child);
    wait_for(&mut stderr, "stopping");
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(stdout.contains("stopped after") && stdout.contains("the same command goes on"), "{stdout}");
    let saved: Vec<u64> = std::fs::read_dir(folder.path().join("results"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("step_")?.parse().ok())
        .collect();
    assert_eq!(saved.len(), 1, "{saved:?}");
    // It goes on from there.
    let next = saved[0] + 1;
    let more = [
        "train".to_owned(),
        "--config=config.yaml".to_owned(),
        format!("grpo.max_num_steps={next}"),
        "grpo.max_num_epochs=1000000".to_owned(),
    ];
    run_in(folder.path(), &more).succeeded();
    assert!(folder.path().join(format!("results/step_{next}/state.json")).exists());
}

#[test]
fn the_second_ends_at_once() {
    let folder = workspace();
    let mut child = start(folder.path());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    // Before the first step: reading the tasks and the model takes longer than two signals.
    wait_for(&mut stderr, "results: ");
    interrupt(&child);
    wait_for(&mut stderr, "stopping");
    interrupt(&child);
    let status = child.wait().unwrap();
    // A step that was finished between the two signals ends the run by itself.
    assert!(status.code() == Some(130) || status.code() == Some(0), "{status:?}");
}
