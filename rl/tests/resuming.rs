//! Continuing a run: whose the results folder is, what may have changed, what is refused, what is never saved.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod scenario;

use std::fs;
use std::path::Path;

use nemo_rl::checkpoint::CheckpointError;
use nemo_rl::demonstrations::Listed;
use nemo_rl::error::TrainError;
use nemo_rl::run::{Limit, RunEnd, RunSummary};
use nemo_rl::run_folder::RunFolder;
use nemo_rl::sft::train_supervised;
use nemo_rl::train::train;
use sha2::{Digest, Sha256};

use scenario::{Setup, StopAfter, contents, learner, open, tasks};

fn run(setup: &Setup, results: &Path) -> Result<RunSummary, TrainError> {
    train(&mut learner(), setup.inputs(&open(results)), &tasks(16), &mut ())
}

/// The same, and what was said about it.
fn run_with_notices(setup: &Setup, results: &Path) -> (RunSummary, Vec<String>) {
    let mut observer = StopAfter::default();
    let summary = train(&mut learner(), setup.inputs(&open(results)), &tasks(16), &mut observer).unwrap();
    (summary, observer.notices)
}

#[test]
fn a_results_folder_belongs_to_one_holder() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("run");
    let first = open(&base);
    let message = RunFolder::open(&base, false, 5).unwrap_err().to_string();
    for part in ["run", "process 1234", "checkpointing.checkpoint_dir", "--fresh"] {
        assert!(message.contains(part), "{part} is missing from {message}");
    }
    fs::write(base.join("metrics.jsonl"), "").unwrap();
    // Beside it there is room.
    let beside = RunFolder::open(&base, true, 5).unwrap();
    assert_eq!(beside.path(), place.path().join("run-2"));
    // And beside that, if somebody else had the same wish at the same time.
    assert_eq!(RunFolder::open(&base, true, 5).unwrap().path(), place.path().join("run-3"));
    drop((first, beside));
    assert_eq!(open(&base).path(), base, "nothing was written into the folder beside it, so it is gone");
}

#[test]
fn two_fresh_starts_of_a_new_run_get_a_folder_each() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("run");
    let first = RunFolder::open(&base, true, 5).unwrap();
    let second = RunFolder::open(&base, true, 6).unwrap();
    assert_eq!((first.path(), second.path()), (base.as_path(), place.path().join("run-2").as_path()));
}

#[test]
fn a_start_that_writes_nothing_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    drop(open(&place.path().join("run")));
    assert_eq!(contents(place.path()).len(), 0);
    assert!(!place.path().join("run").exists());
}

#[test]
fn numbered_folders_are_siblings_only_if_they_were_started_beside() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("run");
    let setup = Setup::new(&["grpo.max_num_steps=2"]);
    let other = Setup::new(&["grpo.max_num_steps=2", "grpo.seed=2"]);
    // Another run that happens to have such a name.
    run(&other, &place.path().join("run-2")).unwrap();
    let before = contents(&place.path().join("run-2"));
    assert_eq!(run(&setup, &base).unwrap().folder, base);
    assert_eq!(run(&setup, &base).unwrap().end, RunEnd::AlreadyFinished(Limit::Steps));
    // `--fresh` keeps out of it too, and is found again from then on, also under another spelling.
    let start =
        |folder: RunFolder, setup: &Setup| train(&mut learner(), setup.inputs(&folder), &tasks(16), &mut ()).unwrap();
    let third = place.path().join("run-3");
    assert_eq!(start(RunFolder::open(&base, true, 5).unwrap(), &other).folder, third);
    assert_eq!(run(&other, &base).unwrap().end, RunEnd::AlreadyFinished(Limit::Steps));
    assert_eq!(open(&place.path().join("run/")).path(), third);
    assert_eq!(start(RunFolder::open(&base, true, 5).unwrap(), &setup).folder, place.path().join("run-4"));
    assert_eq!(contents(&place.path().join("run-2")), before);
}

#[test]
fn what_a_step_computes_from_may_not_change_and_is_named() {
    let results = tempfile::tempdir().unwrap();
    let base = results.path().join("run");
    run(&Setup::new(&["grpo.max_num_steps=2"]), &base).unwrap();
    let before = contents(&base);
    let refused = |setup: &Setup| match run(setup, &base) {
        Err(error @ TrainError::Changed { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let message = refused(&Setup::new(&["policy.megatron_cfg.optimizer.adam_beta2=0.9", "grpo.seed=2"]));
    for part in ["adam_beta2", "then 0.999, now 0.9", "grpo.seed", "--fresh", "checkpointing.checkpoint_dir", "run"] {
        assert!(message.contains(part), "{part} is missing from {message}");
    }
    let mut control = Setup::new(&[]);
    control.options.shuffle_rewards_within_groups = true;
    assert!(refused(&control).contains("shuffle_rewards_within_groups"));
    let setup = Setup::new(&[]);
    let sft = train_supervised(&mut learner(), setup.inputs(&open(&base)), &Listed(tasks(4)), &mut ());
    assert!(matches!(sft, Err(TrainError::Changed { .. })));
    assert_eq!(contents(&base), before);
}

#[test]
fn what_a_user_changes_on_purpose_may_change_and_is_said_in_one_line() {
    let results = tempfile::tempdir().unwrap();
    let style = "policy.megatron_cfg.scheduler.lr_decay_style=cosine";
    let derived = [
        style,
        "policy.megatron_cfg.scheduler.lr_decay_iters=${grpo.max_num_steps}",
        "policy.megatron_cfg.scheduler.lr_warmup_iters=${div:${grpo.max_num_steps},2}",
        "checkpointing.save_period=${grpo.max_num_steps}",
    ];
    let with = |more: &[&'static str]| Setup::new(&[&derived[..], more].concat());
    run(&with(&["grpo.max_num_steps=2"]), results.path()).unwrap();
    // A finished run goes on; what follows from the number of steps follows it.
    let (longer, notices) = run_with_notices(&with(&["grpo.max_num_steps=4"]), results.path());
    assert_eq!((longer.first_step, longer.last_step), (2, 4));
    assert_eq!(notices.len(), 1, "{notices:?}");
    for part in ["grpo.max_num_steps: then 2, now 4", "lr_decay_iters", "lr_warmup_iters", "save_period", "next step"] {
        assert!(notices[0].contains(part), "{part}: {notices:?}");
    }
    let more = [
        "grpo.max_num_steps=6",
        "policy.megatron_cfg.optimizer.lr=0.01",
        "grpo.val_period=3",
        "checkpointing.save_optimizer=false",
        "logger.num_val_samples_to_print=1",
    ];
    let (changed, notices) = run_with_notices(&with(&more), results.path());
    assert_eq!(notices.len(), 1, "{notices:?}");
    for part in ["optimizer.lr: then 0.05, now 0.01", "val_period", "num_val_samples", "save_optimizer"] {
        assert!(notices[0].contains(part), "{part}: {notices:?}");
    }
    let rates = changed.series("train/lr");
    assert!(rates[4].1 <= 0.01 && rates[3].1 > 0.01, "{rates:?}");
    // The other algorithm's settings are nobody's business here, and the same ones again are no news.
    let sft = [&more[..], &["sft.lr=1", "sft.batch_size=2"]].concat();
    let (_, notices) = run_with_notices(&with(&sft), results.path());
    assert!(notices.iter().all(|notice| !notice.contains("changed since")), "{notices:?}");
}

#[test]
fn files_of_a_run_may_not_change_what_they_hold() {
    let results = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(&["grpo.max_num_steps=2"]);
    setup.contents.insert("data.train.data_path".to_owned(), "aaaa".to_owned());
    run(&setup, results.path()).unwrap();
    let mut setup = Setup::new(&[]);
    for (key, value) in [("data.train.data_path", "bbbb"), ("env.tables_dir", "cccc")] {
        setup.contents.clear();
        setup.contents.insert(key.to_owned(), value.to_owned());
        let message = run(&setup, results.path()).unwrap_err().to_string();
        for part in [key, "data.train.data_path", "aaaa", "--fresh", "files"] {
            assert!(message.contains(part), "{part} is missing from {message}");
        }
    }
    setup.contents = [("data.train.data_path".to_owned(), "aaaa".to_owned())].into();
    assert_eq!(run(&setup, results.path()).unwrap().first_step, 2);
}

#[test]
fn contents_that_an_old_checkpoint_does_not_know_are_said_to_be_unchecked() {
    let results = tempfile::tempdir().unwrap();
    run(&Setup::new(&["grpo.max_num_steps=2"]), results.path()).unwrap();
    let mut setup = Setup::new(&[]);
    setup.contents.insert("data.train.data_path".to_owned(), "aaaa".to_owned());
    let (summary, notices) = run_with_notices(&setup, results.path());
    assert_eq!(summary.last_step, 6);
    assert!(notices.iter().any(|n| n.contains("data.train.data_path") && n.contains("not be checked")), "{notices:?}");
    // From now on they are known.
    setup.contents.insert("data.train.data_path".to_owned(), "bbbb".to_owned());
    assert!(matches!(run(&setup, results.path()), Err(TrainError::Changed { .. })));
}

#[test]
fn a_run_without_saved_optimizer_goes_on_with_its_weights() {
    let results = tempfile::tempdir().unwrap();
    let without = ["checkpointing.save_optimizer=false", "grpo.max_num_steps=4"];
    let mut first = learner();
    train(&mut first, Setup::new(&without).inputs(&open(results.path())), &tasks(16), &mut ()).unwrap();
    assert!(first.skill != 0.0 && first.moment != 0.0);
    let mut second = learner();
    let mut observer = StopAfter::default();
    let setup = Setup::new(&[without[0], "grpo.max_num_steps=4"]);
    let summary = train(&mut second, setup.inputs(&open(results.path())), &tasks(16), &mut observer).unwrap();
    assert_eq!((summary.end, second.skill, second.moment), (RunEnd::AlreadyFinished(Limit::Steps), first.skill, 0.0));
    assert!(
        observer.notices.iter().any(|n| n.contains("save_optimizer") && n.contains("anew")),
        "{:?}",
        observer.notices
    );
    assert_eq!(run(&Setup::new(&[without[0]]), results.path()).unwrap().last_step, 6);
    // A file that was written and is gone is another matter.
    let kept = tempfile::tempdir().unwrap();
    run(&Setup::new(&["grpo.max_num_steps=2"]), kept.path()).unwrap();
    fs::remove_file(kept.path().join("step_2/optimizer.safetensors")).unwrap();
    let message = run(&Setup::new(&[]), kept.path()).unwrap_err().to_string();
    assert!(message.contains("optimizer.safetensors") && message.contains("missing"), "{message}");
}

#[test]
fn damaged_and_missing_files_are_named() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&[]);
    run(&setup, results.path()).unwrap();
    let step = results.path().join("step_6");
    let message = || run(&setup, results.path()).unwrap_err().to_string();
    let weights = step.join("policy/weights.json");
    let whole = fs::read(&weights).unwrap();

    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    let torn = message();
    assert!(torn.contains("weights.json") && torn.contains(&format!("{} bytes", whole.len() - 1)), "{torn}");
    let mut flipped = whole.clone();
    flipped[9] ^= 1;
    fs::write(&weights, &flipped).unwrap();
    assert!(message().contains("SHA-256"), "{}", message());
    fs::remove_file(&weights).unwrap();
    assert!(message().contains("weights.json") && message().contains("missing"), "{}", message());
    fs::write(&weights, &whole).unwrap();
    fs::remove_file(step.join("manifest.json")).unwrap();
    assert!(message().contains("manifest.json"), "{}", message());
    fs::remove_dir_all(&step).unwrap();
    assert_eq!(run(&setup, results.path()).unwrap().first_step, 4);
}

#[test]
fn an_unusable_results_folder_is_one_error() {
    let results = tempfile::tempdir().unwrap();
    let file = results.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = RunFolder::open(&file, false, 5).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("file") && error.contains("folder"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn weights_that_cannot_act_are_neither_saved_nor_loaded() {
    let results = tempfile::tempdir().unwrap();
    run(&Setup::new(&["grpo.max_num_steps=2"]), results.path()).unwrap();
    let before = contents(&results.path().join("step_2"));
    let wild =
        Setup::new(&["policy.megatron_cfg.optimizer.lr=1e308", "policy.megatron_cfg.scheduler.lr_warmup_init=1e308"]);
    let message = run(&wild, results.path()).unwrap_err().to_string();
    for part in ["skill holds", "step 4", "not saved", "step_2", "intact"] {
        assert!(message.contains(part), "{part} is missing from {message}");
    }
    assert!(!results.path().join("step_4").exists());
    assert_eq!(contents(&results.path().join("step_2")), before);
    assert_eq!(run(&Setup::new(&[]), results.path()).unwrap().last_step, 6);
}

#[test]
fn a_checkpoint_that_cannot_be_used_says_which_folder_to_remove() {
    let results = tempfile::tempdir().unwrap();
    run(&Setup::new(&["grpo.max_num_steps=4"]), results.path()).unwrap();
    let step = results.path().join("step_4");
    // As a version wrote it that saved whatever came: whole, and of no use.
    let rewrite = |bytes: &[u8]| {
        fs::write(step.join("policy/weights.json"), bytes).unwrap();
        let manifest = step.join("manifest.json");
        let mut files: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        files["policy/weights.json"] = serde_json::json!({ "bytes": bytes.len(), "sha256": hash });
        fs::write(manifest, files.to_string()).unwrap();
    };
    for bits in [1e40f64.to_bits().to_string(), f64::NAN.to_bits().to_string(), "\"none\"".to_owned()] {
        rewrite(format!("{{\"bits\":{bits}}}").as_bytes());
        let message = run(&Setup::new(&[]), results.path()).unwrap_err().to_string();
        let remove = format!("remove the folder {}", step.display());
        assert!(message.contains(&remove) && message.contains("checkpoint before it"), "{message}");
    }
    fs::remove_dir_all(&step).unwrap();
    assert_eq!(run(&Setup::new(&[]), results.path()).unwrap().first_step, 2);
}
