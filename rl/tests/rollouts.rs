//! Episodes and the collector, against a scripted policy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod scenario;

use nemo_env::{Environment, Task};
use nemo_rl::batch::train_batch;
use nemo_rl::metrics::rollout_metrics;
use nemo_rl::policy::api::{SamplingParams, TokenId};
use nemo_rl::policy::scripted::{Question, ScriptedPolicy};
use nemo_rl::rollout::collector::{CollectSettings, collect};
use nemo_rl::rollout::episode::{EpisodeLimits, SURPLUS_CALL_BODY};
use nemo_rl::rollout::plain_text::{ASSISTANT, PlainText, STOP, bytes};
use nemo_rl::rollout::{Renderer, RolloutError};
use nemo_rl::trajectory::{Ending, Trajectory};
use scenario::{Counter, add, learner, task, tasks, turn};

const SETTINGS: CollectSettings = CollectSettings {
    limits: EpisodeLimits { max_turns: 6, max_total_sequence_length: 400 },
    sampling: SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 60 },
    max_open_sequences: 16,
    seed: 1,
    step: 0,
};

fn run(policy: &mut ScriptedPolicy, tasks: &[Task], samples: usize, settings: &CollectSettings) -> Vec<Trajectory> {
    let tasks: Vec<&Task> = tasks.iter().collect();
    let mut last = 0;
    let mut grew = |finished| {
        assert!(finished > last);
        last = finished;
    };
    let trajectories = collect(policy, &PlainText, &Counter, &tasks, samples, settings, &mut grew).unwrap();
    assert_eq!(last, tasks.len() * samples);
    assert_eq!(policy.num_open(), 0);
    for t in &trajectories {
        assert_eq!(t.tokens.len(), t.mask.len());
        assert_eq!(t.tokens.len(), t.log_probs.len());
        let sampled: Vec<usize> = t.turns.iter().cloned().flatten().collect();
        let trained: Vec<usize> = (0..t.mask.len()).filter(|&i| t.mask[i]).collect();
        assert_eq!(sampled, trained);
        assert!(t.mask.iter().zip(&t.log_probs).all(|(trained, p)| *trained == (*p != 0.0)));
    }
    trajectories
}

fn one(script: impl Fn(&Question<'_>) -> Vec<TokenId> + 'static, task: Task) -> Trajectory {
    let mut policy = ScriptedPolicy::new(STOP, script, |_| 0.0);
    run(&mut policy, &[task], 1, &SETTINGS).remove(0)
}

#[test]
fn a_multi_turn_episode_appends_ids_and_scores_all_calls() {
    let t = one(
        |q| match q.turn {
            0 => turn("call add {\"n\":3}"),
            1 => turn("call add {\"n\":4}"),
            _ => turn("done"),
        },
        task(5, 7, 2),
    );
    let expected = [
        bytes("reach 7"),
        vec![ASSISTANT],
        turn("call add {\"n\":3}"),
        PlainText.tool_results_ids(&task(5, 7, 2), &["{\"output\":3}".to_owned()]).unwrap(),
        turn("call add {\"n\":4}"),
        PlainText.tool_results_ids(&task(5, 7, 2), &["{\"output\":7}".to_owned()]).unwrap(),
        turn("done"),
    ]
    .concat();
    assert_eq!(t.tokens, expected);
    assert_eq!(t.prompt_length, 8);
    assert_eq!(t.calls, vec![add(3), add(4)]);
    assert_eq!((t.ending, t.turns.len(), t.outcome.reward), (Ending::Message, 3, 1.0));
    assert_eq!(t.num_sampled_tokens(), t.mask.iter().filter(|m| **m).count());
}

#[test]
fn only_the_first_of_several_calls_is_executed_and_scored() {
    let two = |q: &Question<'_>| if q.turn == 0 { turn("call add {\"n\":3}\ncall add {\"n\":4}") } else { turn("ok") };
    let t = one(two, task(1, 3, 1));
    assert_eq!(t.calls, vec![add(3)]);
    assert_eq!(t.outcome.reward, 1.0);
    assert!(PlainText.decode(&t.tokens).contains(SURPLUS_CALL_BODY));
    let parallel = Task { parallel_tool_calls: true, ..task(1, 7, 1) };
    let t = one(two, parallel);
    assert_eq!(t.calls, vec![add(3), add(4)]);
    assert_eq!(t.outcome.reward, 1.0);
    assert!(!PlainText.decode(&t.tokens).contains("not executed"));
}

#[test]
fn max_turns_executes_the_last_calls_without_appending_their_results() {
    let t = one(|_| turn("call add {\"n\":1}"), task(1, 6, 1));
    assert_eq!((t.ending, t.turns.len(), t.calls.len()), (Ending::MaxSteps, 6, 6));
    assert_eq!(t.outcome.reward, 1.0);
    assert_eq!(t.tokens.last(), Some(&STOP));
}

#[test]
fn a_truncated_turn_ends_the_episode_and_its_complete_call_is_scored() {
    let script = |_: &Question<'_>| turn(&format!("call add {{\"n\":3}}\n{}", "x".repeat(100)));
    let t = one(script, task(1, 3, 1));
    assert_eq!((t.ending, t.turns.len(), t.num_sampled_tokens()), (Ending::Length, 1, 60));
    assert_eq!((t.calls.len(), t.outcome.reward), (1, 1.0));
    assert!(!t.truncated, "a turn that ran into max_new_tokens is not a sequence that is full");
}

#[test]
fn the_sequence_limit_bounds_turns_and_results() {
    let limit = |max_total_sequence_length| CollectSettings {
        limits: EpisodeLimits { max_turns: 6, max_total_sequence_length },
        ..SETTINGS
    };
    // Prompt 8, call 17 + stop, result 1 + 12 + 1: the result fills 39 of the tokens.
    let script = |_: &Question<'_>| turn("call add {\"n\":3}");
    for (total, ending, tokens, turns) in [
        (20, Ending::ContextFull, 20, 1),
        (25, Ending::ResultsTooLong, 25, 1),
        (26, Ending::ResultsTooLong, 25, 1),
        (39, Ending::ResultsTooLong, 25, 1),
        (45, Ending::ContextFull, 45, 2),
    ] {
        let mut policy = ScriptedPolicy::new(STOP, script, |_| 0.0);
        let t = run(&mut policy, &[task(1, 7, 1)], 1, &limit(total)).remove(0);
        assert_eq!((t.ending, t.tokens.len(), t.turns.len()), (ending, tokens, turns), "limit {total}");
        // What upstream filters and counts: the length alone, whatever ended the episode.
        assert_eq!(t.truncated, tokens == total, "limit {total}");
        let full = f64::from(u8::from(tokens == total));
        let results = f64::from(u8::from(ending == Ending::ResultsTooLong));
        let metrics = rollout_metrics(std::slice::from_ref(&t));
        assert_eq!((metrics["truncation_rate"], metrics["results_too_long_rate"]), (full, results), "limit {total}");
        let batch = train_batch(&[t], &[1.0], true);
        assert_eq!(batch.global_valid_sequences, usize::from(tokens != total), "limit {total}");
        assert_eq!(batch.global_valid_tokens == 0, tokens == total, "limit {total}");
    }
    let mut policy = learner();
    let error = collect(&mut policy, &PlainText, &Counter, &[&task(9, 7, 1)], 1, &limit(8), &mut |_| ()).unwrap_err();
    assert!(matches!(error, RolloutError::PromptTooLong { task: 9, length: 8, limit: 8 }), "{error}");
}

#[test]
fn malformed_calls_end_the_episode_as_text() {
    let t = one(|_| turn("call add"), task(1, 3, 1));
    assert_eq!((t.ending, t.num_malformed_turns, t.calls.len()), (Ending::Message, 1, 0));
    assert_eq!(t.outcome.reward, 0.0);
}

#[test]
fn results_are_in_input_order_and_do_not_depend_on_how_many_run_at_once() {
    let tasks = tasks(7);
    let collect_with = |max_open_sequences| {
        let mut policy = learner();
        let result = run(&mut policy, &tasks, 3, &CollectSettings { max_open_sequences, ..SETTINGS });
        (result, policy.most_open)
    };
    let (all, most_open) = collect_with(1000);
    assert_eq!(most_open, 21);
    let positions: Vec<(usize, usize)> = all.iter().map(|t| (t.task_index, t.sample)).collect();
    let expected: Vec<(usize, usize)> = (0..7).flat_map(|task| (0..3).map(move |sample| (task, sample))).collect();
    assert_eq!(positions, expected);
    let lengths: std::collections::BTreeSet<usize> = all.iter().map(|t| t.tokens.len()).collect();
    assert!(lengths.len() > 3, "endings should be ragged: {lengths:?}");
    for max_open in [1, 3, 8, 9] {
        let (some, most_open) = collect_with(max_open);
        assert_eq!(some, all);
        assert_eq!(most_open, max_open.max(3));
    }
}

#[test]
fn a_broken_engine_is_an_error_and_leaves_nothing_open() {
    let mut policy = ScriptedPolicy::new(STOP, |q| if q.key.task == 1 { Vec::new() } else { turn("a") }, |_| 0.0);
    let tasks = tasks(3);
    let tasks: Vec<&Task> = tasks.iter().collect();
    let error = collect(&mut policy, &PlainText, &Counter, &tasks, 2, &SETTINGS, &mut |_| ()).unwrap_err();
    assert!(matches!(error, RolloutError::Policy(_)), "{error}");
    assert_eq!(policy.num_open(), 0);
}

#[test]
fn doing_nothing_is_scored_by_the_environment() {
    assert_eq!(Counter.score(&task(0, 0, 0), &[]).map(|o| (o.reward, o.do_nothing)).unwrap(), (1.0, true));
    assert_eq!(one(|_| turn("done"), task(0, 0, 0)).outcome.reward, 1.0);
}
