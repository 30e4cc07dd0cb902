//! How much memory the program takes at most.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::program::{PROGRAM, finish, repository};

const MEGABYTE: u64 = 1_000_000;

/// Peak resident memory of a run of the program in `folder`, in bytes, as GNU time reports it; `None`, and a word about it,
/// where there is no such program.
fn peak(folder: &Path, arguments: &[&str]) -> Option<u64> {
    let time = Path::new("/usr/bin/time");
    if !time.exists() {
        println!("skipped: GNU time is not installed");
        return None;
    }
    let report = folder.join("peak-memory.txt");
    let mut command = Command::new(time);
    command.current_dir(repository()).args(["--format=%M", "--output"]).arg(&report).arg(PROGRAM).args(arguments);
    finish(command).succeeded();
    let kilobytes = fs::read_to_string(&report).unwrap();
    Some(kilobytes.trim().parse::<u64>().unwrap() * 1024)
}

#[track_caller]
fn assert_at_most(found: Option<u64>, megabytes: u64) {
    if let Some(found) = found {
        assert!(found <= megabytes * MEGABYTE, "{} MB at the peak", found / MEGABYTE);
    }
}

#[test]
fn an_evaluation_of_few_tasks_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["eval", "--model=configs/models/tiny", "--split=unseen_fillings", "--count=5"];
    assert_at_most(peak(folder.path(), &arguments), 200);
}

#[test]
fn the_tiny_job_and_its_finished_start_are_small() {
    let folder = tempfile::tempdir().unwrap();
    let results = format!("checkpointing.checkpoint_dir={}", folder.path().join("results").display());
    // A whole step, and a validation long enough that as many episodes are open at once as ever are; what is left out is
    // only time.
    let arguments = [
        "train",
        "--config=configs/grpo_workplace_tiny.yaml",
        "grpo.max_num_steps=1",
        "grpo.val_at_start=false",
        "data.validation.generate.count=160",
        "policy.megatron_cfg.scheduler.lr_warmup_iters=0",
        "policy.megatron_cfg.scheduler.lr_decay_iters=1",
        &results,
    ];
    assert_at_most(peak(folder.path(), &arguments), 400);
    assert_at_most(peak(folder.path(), &arguments), 200);
}

/// The model has 206 MB.
#[test]
fn random_weights_are_written_without_being_held() {
    let folder = tempfile::tempdir().unwrap();
    let output = format!("--output={}", folder.path().join("model").display());
    let arguments = ["init", "--config=configs/models/hybrid_103m.json", "--dtype=bfloat16", &output];
    assert_at_most(peak(folder.path(), &arguments), 60);
}
