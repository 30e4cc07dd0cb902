//! The whole loop, against a scripted policy: learning, validation, checkpoints, resuming, refusing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod scenario;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nemo_rl::config::{TRAIN_METRICS, VALIDATION_METRICS};
use nemo_rl::demonstrations::Listed;
use nemo_rl::error::TrainError;
use nemo_rl::policy::scripted::ScriptedPolicy;
use nemo_rl::rollout::episode::EpisodeLimits;
use nemo_rl::rollout::plain_text::PlainText;
use nemo_rl::run::{Limit, RunEnd, RunSummary};
use nemo_rl::sft::{demonstrate, train_supervised};
use nemo_rl::train::train;
use scenario::{Counter, Setup, StopAfter, contents, learner, open, task, tasks};

fn run(setup: &Setup, results: &Path) -> Result<RunSummary, TrainError> {
    train(&mut learner(), setup.inputs(&open(results)), &tasks(16), &mut ())
}

fn steps(folder: &Path) -> Vec<u64> {
    let mut steps: Vec<u64> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_prefix("step_")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

#[test]
fn a_run_learns_validates_and_saves() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&["grpo.max_num_steps=30", "checkpointing.save_period=10"]);
    let mut observer = StopAfter::default();
    let mut policy = learner();
    let summary = train(&mut policy, setup.inputs(&open(results.path())), &tasks(16), &mut observer).unwrap();
    assert_eq!((summary.end, summary.first_step, summary.last_step), (RunEnd::Finished, 0, 30));
    assert_eq!(observer.seen, (1..=30).collect::<Vec<_>>());
    assert_eq!(observer.validations, (0..=30).step_by(2).collect::<Vec<_>>());
    assert_eq!(observer.checkpoints, vec![10, 20, 30]);
    assert_eq!(steps(results.path()), vec![10, 20, 30]);
    assert_eq!(summary.checkpoint.unwrap(), results.path().join("step_30"));

    let reward: Vec<f64> = summary.history.iter().filter_map(|(_, m)| m.get("train/reward").copied()).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean(&reward[22..]) > mean(&reward[..8]) + 0.2, "{reward:?}");
    let last = &summary.history.last().unwrap().1;
    for name in [
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/wd",
        "train/token_mult_prob_error",
        "train/gen_kl_error",
        "train/max_log_prob_difference",
        "train/approx_entropy",
        "train/advantages/mean",
        "train/mean_prompt_length",
        "train/baseline_reward/pct_0",
        "train/turns_per_sample/mean",
        "train/natural_termination_rate",
        "train/truncation_rate",
        "train/total_num_tokens",
        "train/global_valid_toks",
        "timing/train/generation",
        "timing/train/policy_training",
        "timing/train/total_step_time",
        "performance/tokens_per_sec",
        "validation/accuracy",
        "validation/greedy_accuracy",
        "validation/do_nothing_accuracy",
        "validation/accuracy/unseen_fillings",
        "validation/accuracy/unseen_templates/multi_step",
        "validation/accuracy/single_step",
        "validation/greedy_accuracy/domain/counter",
        "validation/accuracy/template/chain",
        "validation/accuracy/num_steps/1",
        "validation/avg_length",
        "timing/validation/total_validation_time",
    ] {
        assert!(last.contains_key(name), "{name} is missing from {:?}", last.keys().collect::<Vec<_>>());
    }
    assert_eq!(last["train/token_mult_prob_error"], 1.0);
    assert_eq!(last["validation/do_nothing_accuracy"], 0.25);
    assert_eq!(last["train/turns_per_sample/mean"], 2.0);
    assert_eq!(summary.validation.len(), 2);

    let again = train(&mut learner(), setup.inputs(&open(results.path())), &tasks(16), &mut observer).unwrap();
    assert_eq!(again.end, RunEnd::AlreadyFinished(Limit::Steps));
    assert_eq!(again.history.len(), 31);
}

#[test]
fn disagreement_of_trainer_and_engine_shows_in_the_metrics() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&["grpo.max_num_steps=1"]);
    let mut policy = learner();
    policy.training_offset = 0.25;
    let summary = train(&mut policy, setup.inputs(&open(results.path())), &tasks(4), &mut ()).unwrap();
    let step = &summary.history[1].1;
    assert!((step["train/token_mult_prob_error"] - 0.25f64.exp()).abs() < 1e-6);
    assert!((step["train/max_log_prob_difference"] - 0.25).abs() < 1e-6);
}

#[test]
fn a_run_that_is_stopped_and_continued_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let setup = Setup::new(&[]);
    run(&setup, whole.path()).unwrap();
    for stop_after in 1..6 {
        let parts = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(&[]);
        let mut observer = StopAfter { steps: stop_after, flag: Some(&setup.stop), ..StopAfter::default() };
        let stopped = train(&mut learner(), setup.inputs(&open(parts.path())), &tasks(16), &mut observer).unwrap();
        assert_eq!((stopped.end, stopped.last_step), (RunEnd::Stopped, stop_after));
        setup.stop = false.into();
        let continued = run(&setup, parts.path()).unwrap();
        assert_eq!((continued.end, continued.first_step), (RunEnd::Finished, stop_after));
        assert_eq!(continued.history.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (0..=6).collect::<Vec<_>>());
        assert_eq!(contents(&whole.path().join("step_6")), contents(&parts.path().join("step_6")));
        assert_eq!(contents(&whole.path().join("step_4")), contents(&parts.path().join("step_4")));
    }
}

#[test]
fn a_stop_before_the_first_step_is_continued_like_any_other() {
    let whole = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(&[]);
    run(&setup, whole.path()).unwrap();
    let parts = tempfile::tempdir().unwrap();
    setup.stop = true.into();
    let stopped = run(&setup, parts.path()).unwrap();
    assert_eq!((stopped.end, stopped.last_step), (RunEnd::Stopped, 0));
    setup.stop = false.into();
    let continued = run(&setup, parts.path()).unwrap();
    assert_eq!(continued.history.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (0..=6).collect::<Vec<_>>());
    assert_eq!(contents(&whole.path().join("step_6")), contents(&parts.path().join("step_6")));
}

#[test]
fn a_run_that_was_killed_continues_from_its_last_checkpoint() {
    let whole = tempfile::tempdir().unwrap();
    let setup = Setup::new(&[]);
    run(&setup, whole.path()).unwrap();
    let killed = tempfile::tempdir().unwrap();
    run(&setup, killed.path()).unwrap();
    // As after a kill while step 6 was being saved: its checkpoint unfinished, its metrics written.
    fs::rename(killed.path().join("step_6"), killed.path().join("tmp_step_6")).unwrap();
    fs::remove_file(killed.path().join("tmp_step_6/state.json")).unwrap();
    let summary = run(&setup, killed.path()).unwrap();
    assert_eq!(summary.first_step, 4);
    assert_eq!(contents(&whole.path().join("step_6")), contents(&killed.path().join("step_6")));
    assert_eq!(summary.history.len(), 7);
    let old = fs::read_to_string(killed.path().join("metrics.superseded.jsonl")).unwrap();
    assert_eq!(old.lines().count(), 2);
    assert!(!killed.path().join("tmp_step_6").exists());
}

#[test]
fn the_control_has_the_same_budget_and_learns_nothing() {
    let learn = |shuffle_rewards_within_groups| {
        let results = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(&["grpo.max_num_steps=30", "grpo.val_period=0", "checkpointing.enabled=false"]);
        setup.options.shuffle_rewards_within_groups = shuffle_rewards_within_groups;
        let mut policy = learner();
        let summary = train(&mut policy, setup.inputs(&open(results.path())), &tasks(16), &mut ()).unwrap();
        assert_eq!(summary.checkpoint, None);
        policy.skill
    };
    let (real, control) = (learn(false), learn(true));
    assert!(real > 0.3, "{real}");
    assert!(control.abs() < 0.1, "{control}");
}

#[test]
fn too_few_tasks_are_one_error_before_the_first_step() {
    let results = tempfile::tempdir().unwrap();
    let mut policy = learner();
    let setup = Setup::new(&[]);
    let few = train(&mut policy, setup.inputs(&open(results.path())), &tasks(3), &mut ()).unwrap_err().to_string();
    assert!(few.contains("num_prompts_per_step") && few.contains('3') && few.contains('4'), "{few}");
    assert_eq!(policy.skill, 0.0);
}

#[test]
fn the_best_checkpoints_stay_and_each_save_step_is_validated() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&["grpo.max_num_steps=9", "grpo.val_period=4", "checkpointing.keep_top_k=2"]);
    let mut observer = StopAfter::default();
    let summary = train(&mut learner(), setup.inputs(&open(results.path())), &tasks(16), &mut observer).unwrap();
    assert_eq!(observer.validations, vec![0, 2, 4, 6, 8, 9]);
    let accuracy: BTreeMap<u64, f64> = summary.series("validation/accuracy").into_iter().collect();
    let mut ranked: Vec<u64> = vec![8, 6, 4, 2];
    ranked.sort_by(|a, b| accuracy[b].total_cmp(&accuracy[a]));
    let mut kept = vec![ranked[0], ranked[1], 9];
    kept.sort_unstable();
    assert_eq!(steps(results.path()), kept);
}

#[test]
fn a_threshold_ends_the_run_for_good() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&[
        "grpo.stop_at_validation_metric=accuracy",
        "grpo.stop_at_validation_threshold=0.1",
        "grpo.val_at_start=false",
        "data.validation=validation.jsonl",
    ]);
    let summary = run(&setup, results.path()).unwrap();
    assert_eq!((summary.end, summary.last_step), (RunEnd::ThresholdReached, 2));
    assert_eq!(run(&setup, results.path()).unwrap().end, RunEnd::AlreadyFinished(Limit::Threshold));
}

/// What ended a run is what has to be raised to go on.
#[test]
fn a_finished_run_knows_its_limit() {
    let results = tempfile::tempdir().unwrap();
    // Of 16 tasks, 4 a step: one pass takes 4 steps.
    let epochs = ["grpo.max_num_epochs=1", "grpo.max_num_steps=9"];
    assert_eq!(run(&Setup::new(&epochs), results.path()).unwrap().last_step, 4);
    assert_eq!(run(&Setup::new(&epochs), results.path()).unwrap().end, RunEnd::AlreadyFinished(Limit::Epochs));
    let steps = ["grpo.max_num_epochs=2", "grpo.max_num_steps=5"];
    assert_eq!(run(&Setup::new(&steps), results.path()).unwrap().last_step, 5);
    assert_eq!(run(&Setup::new(&steps), results.path()).unwrap().end, RunEnd::AlreadyFinished(Limit::Steps));
}

/// The validation before the first step counts as any other; nothing is trained then.
#[test]
fn a_threshold_that_is_reached_at_the_start_ends_the_run_there() {
    for metric in ["accuracy", "pass_k", "greedy_accuracy", "avg_length"] {
        let results = tempfile::tempdir().unwrap();
        let metric = format!("grpo.stop_at_validation_metric={metric}");
        let setup = Setup::new(&[
            &metric,
            // Whatever is measured reaches it, and what is not measured does not.
            "grpo.stop_at_validation_threshold=0",
            "grpo.val_num_generations_per_prompt=2",
            "data.validation=validation.jsonl",
        ]);
        let first = run(&setup, results.path()).unwrap();
        assert_eq!((first.end, first.last_step), (RunEnd::ThresholdReached, 0), "{metric}");
        assert_eq!(steps(results.path()), vec![0]);
        let again = run(&setup, results.path()).unwrap();
        assert_eq!((again.end, again.last_step), (RunEnd::AlreadyFinished(Limit::Threshold), 0), "{metric}");
    }
}

/// What a configuration may name is what every step and every validation measure.
#[test]
fn metrics_that_can_be_named_are_measured() {
    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&["grpo.max_num_steps=2", "grpo.val_num_generations_per_prompt=2"]);
    run(&setup, results.path()).unwrap();
    let state = fs::read_to_string(results.path().join("step_2/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let named = VALIDATION_METRICS.map(|name| format!("val:{name}")).into_iter();
    for name in named.chain(TRAIN_METRICS.map(|name| format!("train:{name}"))) {
        assert!(state["metrics"][&name].is_number(), "{name} is not in {}", state["metrics"]);
    }

    let results = tempfile::tempdir().unwrap();
    let setup = Setup::new(&["grpo.max_num_steps=2", "grpo.val_greedy=false"]);
    let summary = run(&setup, results.path()).unwrap();
    let names: Vec<&String> = summary.history.iter().flat_map(|(_, metrics)| metrics.keys()).collect();
    assert!(names.iter().any(|name| *name == "validation/accuracy"));
    assert!(!names.iter().any(|name| name.contains("greedy")), "{names:?}");
}

#[test]
fn demonstrations_have_the_ids_of_rollouts_that_make_the_same_calls() {
    use nemo_env::Task;
    use nemo_rl::policy::api::SamplingParams;
    use nemo_rl::rollout::collector::{CollectSettings, collect};
    use nemo_rl::rollout::plain_text::STOP;
    use scenario::turn;

    let limits = EpisodeLimits { max_turns: 6, max_total_sequence_length: 400 };
    for steps in [0, 1, 3, 6] {
        let task: Task = task(3, 7 * steps as i64, steps);
        let calls = task.demonstration.as_ref().unwrap().calls.clone();
        let mut policy = ScriptedPolicy::new(
            STOP,
            move |q| match calls.get(q.turn) {
                Some(call) => turn(&format!("call {} {}", call.name, call.arguments)),
                None => turn("done"),
            },
            |_| 0.0,
        );
        let settings = CollectSettings {
            limits,
            sampling: SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 100 },
            max_open_sequences: 1,
            seed: 0,
            step: 0,
        };
        let rollout =
            collect(&mut policy, &PlainText, &Counter, &[&task], 1, &settings, &mut |_| ()).unwrap().remove(0);
        assert_eq!(rollout.outcome.reward, 1.0);
        let shown = demonstrate(&task, &PlainText, &Counter, limits, 0.1).unwrap();
        assert_eq!(shown.tokens, rollout.tokens);
        assert_eq!(shown.weights[0], 0.0);
        for t in 1..shown.tokens.len() {
            assert_eq!(shown.weights[t], if rollout.mask[t] { 1.0 } else { 0.1 });
        }
    }
    let short = EpisodeLimits { max_total_sequence_length: 30, ..limits };
    let error = demonstrate(&task(3, 9, 2), &PlainText, &Counter, short, 0.1).unwrap_err().to_string();
    assert!(error.contains("task 3") && error.contains("max_total_sequence_length"), "{error}");
    let long = demonstrate(&task(3, 9, 7), &PlainText, &Counter, limits, 0.1).unwrap_err().to_string();
    assert!(long.contains("more calls"), "{long}");
}

#[test]
fn supervised_training_resumes_to_the_same_bytes_and_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    fs::create_dir(&output).unwrap();
    fs::write(output.join("NOTES"), "kept").unwrap();
    let overrides = [format!("sft.output_dir={}", output.display())];
    let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
    let source = Listed(tasks(16));
    let mut setup = Setup::new(&overrides);
    let whole = folder.path().join("whole");
    let summary = train_supervised(&mut learner(), setup.inputs(&open(&whole)), &source, &mut ()).unwrap();
    assert_eq!((summary.end, summary.last_step), (RunEnd::Finished, 6));
    assert_eq!(summary.series("train/loss").len(), 6);
    assert_eq!(summary.series("validation/accuracy").iter().map(|(s, _)| *s).collect::<Vec<_>>(), vec![3, 6]);
    assert_eq!(fs::read_to_string(output.join("NOTES")).unwrap(), "kept");
    assert_eq!(
        fs::read(output.join("weights.json")).unwrap(),
        fs::read(whole.join("step_6/policy/weights.json")).unwrap()
    );
    let demonstrations = summary.series("train/global_valid_seqs");
    assert!(demonstrations.iter().all(|(_, count)| *count == 6.0), "{demonstrations:?}");

    let parts = folder.path().join("parts");
    let mut observer = StopAfter { steps: 3, flag: Some(&setup.stop), ..StopAfter::default() };
    let stopped = train_supervised(&mut learner(), setup.inputs(&open(&parts)), &source, &mut observer).unwrap();
    assert_eq!(stopped.end, RunEnd::Stopped);
    setup.stop = false.into();
    train_supervised(&mut learner(), setup.inputs(&open(&parts)), &source, &mut ()).unwrap();
    assert_eq!(contents(&whole.join("step_6")), contents(&parts.join("step_6")));
}
