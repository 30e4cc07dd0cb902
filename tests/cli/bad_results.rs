//! Results that cannot be written: the run ends with one error, and what was written before stays whole.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::program::{Finished, PROGRAM, contents, finish, run_in};
use super::small_model::workspace;

const TRAIN: [&str; 2] = ["train", "--config=config.yaml"];

/// Runs a shell script in which `disk` is a file system of its own, mounted with `options`.
pub fn with_disk(folder: &Path, options: &str, script: &str) -> Option<Finished> {
    let can_mount =
        Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|output| output.status.success());
    if !can_mount {
        println!("skipped: mounting a small disk needs `unshare --mount` (run the tests as root)");
        return None;
    }
    fs::create_dir_all(folder.join("disk")).unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs -o {options} tmpfs disk || exit 77\n{script}");
    command.current_dir(folder).args(["--mount", "sh", "-c", &script]).env("PROGRAM", PROGRAM);
    let finished = finish(command);
    if finished.code == Some(77) {
        println!("skipped: mounting is not allowed: {}", finished.stderr);
        return None;
    }
    Some(finished)
}

#[test]
fn a_results_folder_that_cannot_be_one() {
    let folder = workspace();
    let before = contents(folder.path());
    let with = |place: &str| {
        let place = format!("checkpointing.checkpoint_dir={place}");
        run_in(folder.path(), &[TRAIN[0], TRAIN[1], &place])
    };
    with("config.yaml/results").refused(&["config.yaml/results", "checkpointing.checkpoint_dir"]);
    with("config.yaml").refused(&["config.yaml", "checkpointing.checkpoint_dir"]);
    with("/proc/results").refused(&["/proc/results", "results folder"]);
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_read_only_disk() {
    let folder = workspace();
    let script = "exec $PROGRAM train --config=config.yaml checkpointing.checkpoint_dir=disk/results";
    if let Some(finished) = with_disk(folder.path(), "ro", script) {
        finished.refused(&[
            "disk/results",
            "make the folder writable",
            "checkpointing.checkpoint_dir",
            "Nothing was overwritten",
        ]);
    }
}

#[test]
fn a_full_disk_keeps_the_checkpoint_before() {
    let folder = workspace();
    let script = "
        run() { $PROGRAM train --config=config.yaml checkpointing.checkpoint_dir=disk/results $1; }
        run grpo.max_num_steps=1 || exit 78
        cp -a disk/results before
        cat /dev/zero > disk/fill 2>/dev/null
        run grpo.max_num_steps=2 2> errors
        code=$?
        rm disk/fill
        cp -a disk/results after
        run grpo.max_num_steps=2 || exit 79
        cat errors >&2
        exit $code";
    let Some(finished) = with_disk(folder.path(), "size=6m", script) else { return };
    // What the successful runs said belongs to no error.
    let errors = fs::read_to_string(folder.path().join("errors")).unwrap();
    Finished { code: finished.code, stdout: String::new(), stderr: errors }.refused(&["disk/results", "space"]);
    let step = |folder: &Path| {
        let files = contents(&folder.join("step_1"));
        files
            .into_iter()
            .map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(step(&folder.path().join("before")), step(&folder.path().join("after")));
    assert!(!folder.path().join("after/step_2").exists());
}

#[test]
fn metrics_that_cannot_be_written() {
    let folder = workspace();
    // Names still fit on this disk, contents do not; the number of the last process is written over.
    let script = "
        mkdir disk/results
        echo 1 > disk/results/.lock
        cat /dev/zero > disk/fill 2>/dev/null
        $PROGRAM train --config=config.yaml checkpointing.checkpoint_dir=disk/results \\
            data.validation.generate.count=0
        code=$?
        ls disk/results
        exit $code";
    let Some(finished) = with_disk(folder.path(), "size=1m", script) else { return };
    finished.refused(&["disk/results/metrics.jsonl", "No space left", "the same command goes on"]);
    assert!(!finished.stdout.contains("step_1"), "{}", finished.stdout);
}

#[test]
fn standard_output_that_cannot_be_written() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(PROGRAM).args(["env", "list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("standard output") && error.contains("No space left"), "{error}");
    // A reader that has seen enough is no error.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(PROGRAM).args(["env", "list"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let folder = workspace();
    run_in(folder.path(), &TRAIN).succeeded();
    let path = folder.path().join("results/step_1/policy/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = contents(folder.path());
    let more = || run_in(folder.path(), &["train", "--config=config.yaml", "grpo.max_num_steps=2"]);
    more().refused(&["results/step_1/policy/model.safetensors", "damaged", "SHA-256", "remove the folder"]);
    fs::write(&path, &bytes[..last]).unwrap();
    more().refused(&["results/step_1/policy/model.safetensors", "damaged", "bytes"]);
    fs::remove_file(&path).unwrap();
    more().refused(&["results/step_1/policy/model.safetensors", "missing"]);
    assert_eq!(contents(folder.path()).len(), before.len() - 1);
}

#[test]
fn a_model_folder_is_not_overwritten_by_other_outputs() {
    let folder = workspace();
    let before = contents(folder.path());
    run_in(
        folder.path(),
        &[
            "eval",
            "--model=model",
            "--count=1",
            "--split=train",
            "--max-new-tokens=4",
            "--episodes=model/config.json/x",
        ],
    )
    .refused(&["model/config.json/x", "cannot write"]);
    assert_eq!(contents(folder.path()), before);
}
