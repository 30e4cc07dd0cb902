//! The engine against itself: what a sequence samples depends on its tokens and its key, never on its company.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::collections::BTreeMap;

use burn::tensor::Device;
use nemo_model::config::ModelConfig;
use nemo_model::generate::{Engine, EngineOptions, SampleKey, SamplingParams, SequenceId, StopReason, TurnEnd};
use nemo_model::{Dtypes, EngineError, NemotronH, random};

const CONFIG: &str = r#"{
    "model_type": "nemotron_h", "hybrid_override_pattern": "M*-M*", "num_hidden_layers": 5, "vocab_size": 97,
    "hidden_size": 32, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.3, "tie_word_embeddings": true, "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512
}"#;

/// Tokens and log-probs by task and sample.
type Samples = BTreeMap<(u64, u64), (Vec<u32>, Vec<f32>)>;

fn model() -> NemotronH {
    let config = ModelConfig::from_json_text(CONFIG, std::path::Path::new("config.json")).expect("a valid config");
    random(&config, 5, &Device::flex(), Dtypes::F32).expect("a model")
}

fn sampling(max_new_tokens: usize) -> SamplingParams {
    SamplingParams { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens }
}

fn key(task: u64, sample: u64) -> SampleKey {
    SampleKey { seed: 3, step: 1, task, sample }
}

/// A prompt of 40 shared tokens and a few of its own.
fn prompt(task: u64) -> Vec<u32> {
    let own = (0..3 + task as u32 * 5).map(|i| (i * 7 + task as u32 * 13) % 97);
    (0..40).map(|i| (i * 11 + 5) % 97).chain(own).collect()
}

fn run(engine: &mut Engine) -> BTreeMap<SequenceId, TurnEnd> {
    let mut ended = BTreeMap::new();
    while engine.has_open_turns() {
        ended.extend(engine.step().expect("a step").into_iter().map(|turn| (turn.sequence, turn)));
    }
    ended
}

fn conversations(options: EngineOptions, tasks: &[u64], samples: u64) -> Samples {
    converse(&mut Engine::new(model(), options), tasks, samples)
}

/// Two turns of every sample of three tasks; tokens and log-probs by task and sample.
fn converse(engine: &mut Engine, tasks: &[u64], samples: u64) -> Samples {
    let mut open = BTreeMap::new();
    for &task in tasks {
        let ids = engine.begin(&prompt(task), samples as usize).expect("the prompt fits");
        for (sample, id) in ids.into_iter().enumerate() {
            engine.begin_turn(id, &[], key(task, sample as u64), &sampling(9)).expect("a turn");
            open.insert(id, (task, sample as u64));
        }
    }
    let mut results: Samples = BTreeMap::new();
    for turn in 0..2 {
        for (id, end) in run(engine) {
            assert_eq!(end.tokens.len(), end.log_probs.len());
            let result = results.entry(open[&id]).or_default();
            result.0.extend(end.tokens);
            result.1.extend(end.log_probs);
            if turn == 0 {
                let (task, sample) = open[&id];
                let tool_result: Vec<u32> = (0..6 + sample as u32 * 4).map(|i| (i * 3 + task as u32) % 97).collect();
                engine.begin_turn(id, &tool_result, key(task, sample), &sampling(9)).expect("a second turn");
            }
        }
    }
    for &id in open.keys() {
        engine.finish(id);
    }
    assert_eq!(engine.num_open_sequences(), 0);
    results
}

/// Tokens equal, log-probs equal to the bit.
fn assert_same(found: &Samples, expected: &Samples) {
    for (id, (tokens, log_probs)) in found {
        assert_eq!(tokens, &expected[id].0, "tokens of {id:?}");
        let bits = |log_probs: &[f32]| log_probs.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(log_probs), bits(&expected[id].1), "log-probs of {id:?}");
    }
}

#[test]
fn company_changes_nothing() {
    let together = conversations(EngineOptions::default(), &[0, 1, 2], 3);
    assert_eq!(together.len(), 9);
    let samples_differ = (1..3).any(|sample| together[&(0, sample)].0 != together[&(0, 0)].0);
    assert!(samples_differ, "the samples of a prompt have keys of their own");
    for task in 0..3 {
        assert_same(&conversations(EngineOptions::default(), &[task], 3), &together);
        assert_same(&conversations(EngineOptions::default(), &[task], 1), &together);
    }
}

#[test]
fn memory_changes_nothing() {
    let roomy = conversations(EngineOptions::default(), &[0, 1, 2], 3);
    let without_sharing = EngineOptions { min_shared_prefix: usize::MAX, ..EngineOptions::default() };
    assert_same(&roomy, &conversations(without_sharing, &[0, 1, 2], 3));
    let small_chunks = EngineOptions { prefill_token_budget: 7, ..EngineOptions::default() };
    assert_same(&roomy, &conversations(small_chunks, &[0, 1, 2], 3));
    // Room for little more than one sequence: everything else waits or is preempted and recomputed.
    let tight = EngineOptions { page_size: 4, num_pages: 36, num_slots: 6, ..EngineOptions::default() };
    let mut engine = Engine::new(model(), tight);
    assert_same(&roomy, &converse(&mut engine, &[0, 1, 2], 3));
    assert!(engine.memory_use().num_preempted > 0, "nothing was preempted, so nothing was tested");
}

#[test]
fn released_caches_are_computed_again() {
    let whole = conversations(EngineOptions::default(), &[0, 1], 2);
    let mut engine = Engine::new(model(), EngineOptions::default());
    converse(&mut engine, &[2], 1);
    engine.release_caches();
    assert_eq!((engine.memory_use().pages, engine.memory_use().slots), (0, 0));
    assert_same(&whole, &converse(&mut engine, &[0, 1], 2));
    // In the middle of a turn.
    let mut turns = [Engine::new(model(), EngineOptions::default()), Engine::new(model(), EngineOptions::default())];
    let ended = turns.each_mut().map(|engine| {
        let id = engine.begin(&prompt(0), 1).expect("the prompt fits")[0];
        engine.begin_turn(id, &[], key(0, 0), &sampling(9)).expect("a turn");
        (id, engine.step().expect("a first token"))
    });
    turns[1].release_caches();
    let [kept, released] = turns.each_mut().map(run);
    assert!(ended.iter().all(|(_, ended)| ended.is_empty()));
    assert_eq!(released[&ended[1].0].tokens, kept[&ended[0].0].tokens);
    assert_eq!(released[&ended[1].0].log_probs, kept[&ended[0].0].log_probs);
}

#[test]
fn bounds_cost_nothing_until_they_are_reached() {
    let boundless = EngineOptions {
        num_pages: usize::MAX,
        num_slots: usize::MAX,
        max_sequence_length: usize::MAX,
        ..EngineOptions::default()
    };
    assert_same(&conversations(boundless, &[0, 1], 2), &conversations(EngineOptions::default(), &[0, 1], 2));
}

#[test]
fn a_failed_step_keeps_no_memory() {
    // The first of two prompts fails for want of pages in the first case, the only one in the second.
    for (num_pages, tasks) in [(5, &[0, 1][..]), (11, &[2])] {
        let options = EngineOptions { page_size: 4, num_pages, prefill_token_budget: 8, ..EngineOptions::default() };
        let mut engine = Engine::new(model(), options);
        let mut open = Vec::new();
        for &task in tasks {
            open.extend(engine.begin(&prompt(task), 2).expect("the prompt is short enough"));
        }
        for (sample, &id) in open.iter().enumerate() {
            engine.begin_turn(id, &[], key(0, sample as u64), &sampling(2)).expect("a turn");
        }
        assert!(matches!(engine.step(), Err(EngineError::CacheTooSmall { .. })));
        open.into_iter().for_each(|id| engine.finish(id));
        let left = engine.memory_use();
        assert_eq!((left.pages, left.slots), (0, 0), "with {num_pages} pages");
        // What was freed is there for others.
        let id = engine.begin(&[1, 2, 3], 1).expect("a sequence")[0];
        engine.begin_turn(id, &[], key(0, 0), &sampling(2)).expect("a turn");
        assert_eq!(run(&mut engine)[&id].tokens.len(), 2);
    }
}

#[test]
fn a_sequence_without_finite_values_fails_alone() {
    let prompts = |engine: &mut Engine| -> Vec<SequenceId> {
        (0..3).map(|task| engine.begin(&prompt(task), 1).expect("the prompt fits")[0]).collect()
    };
    let mut undisturbed = Engine::new(model(), EngineOptions::default());
    let mut engine = Engine::new(model(), EngineOptions::default());
    let (whole, open) = (prompts(&mut undisturbed), prompts(&mut engine));
    // The first turn ends in the very step that fails.
    for (task, tokens) in [(0, 1), (1, 5), (2, 5)] {
        undisturbed.begin_turn(whole[task], &[], key(task as u64, 0), &sampling(tokens)).expect("a turn");
        let temperature = if task == 1 { f64::NAN } else { 1.0 };
        let sampling = SamplingParams { temperature, ..sampling(tokens) };
        engine.begin_turn(open[task], &[], key(task as u64, 0), &sampling).expect("a turn");
    }
    let expected = run(&mut undisturbed);
    assert_eq!(engine.step(), Err(EngineError::NotFinite { sequence: open[1] }));
    let ended = run(&mut engine);
    assert_eq!(ended.keys().copied().collect::<Vec<_>>(), [open[0], open[2]]);
    for task in [0, 2] {
        assert_eq!(ended[&open[task]].tokens, expected[&whole[task]].tokens);
        assert_eq!(ended[&open[task]].log_probs, expected[&whole[task]].log_probs);
    }
    // Its next turn starts from its tokens, as if there had been no other.
    engine.begin_turn(open[1], &[], key(1, 0), &sampling(5)).expect("another turn");
    assert_eq!(run(&mut engine)[&open[1]].tokens, expected[&whole[1]].tokens);
}

#[test]
fn turns_end_for_the_right_reason() {
    let all = EngineOptions { stop_tokens: (0..97).collect(), ..EngineOptions::default() };
    let mut engine = Engine::new(model(), all);
    let id = engine.begin(&prompt(0), 1).expect("a sequence")[0];
    engine.begin_turn(id, &[], key(0, 0), &sampling(5)).expect("a turn");
    let end = &run(&mut engine)[&id];
    assert_eq!((end.reason, end.tokens.len()), (StopReason::EndOfTurn, 1));

    let short = EngineOptions { max_sequence_length: 46, ..EngineOptions::default() };
    let mut engine = Engine::new(model(), short);
    let id = engine.begin(&prompt(0), 1).expect("a sequence")[0];
    engine.begin_turn(id, &[], key(0, 0), &sampling(5)).expect("a turn");
    let end = &run(&mut engine)[&id];
    assert_eq!((end.reason, end.tokens.len()), (StopReason::ContextFull, 3));
}

#[test]
fn misuse_is_refused() {
    let mut engine = Engine::new(model(), EngineOptions { max_sequence_length: 60, ..EngineOptions::default() });
    assert_eq!(engine.begin(&[], 1), Err(EngineError::EmptyPrompt));
    assert_eq!(engine.begin(&[97], 1), Err(EngineError::TokenOutOfRange { id: 97, vocabulary: 97 }));
    assert_eq!(engine.begin(&[1; 60], 1), Err(EngineError::PromptTooLong { length: 60, limit: 60 }));
    let id = engine.begin(&[1, 2], 1).expect("a sequence")[0];
    engine.begin_turn(id, &[], key(0, 0), &sampling(2)).expect("a turn");
    assert_eq!(engine.begin_turn(id, &[], key(0, 0), &sampling(2)), Err(EngineError::TurnOpen(id)));
    engine.finish(id);
    assert_eq!(engine.begin_turn(id, &[], key(0, 0), &sampling(2)), Err(EngineError::UnknownSequence(id)));

    let tiny = EngineOptions { page_size: 4, num_pages: 5, ..EngineOptions::default() };
    let mut engine = Engine::new(model(), tiny);
    let id = engine.begin(&prompt(0), 1).expect("a sequence")[0];
    engine.begin_turn(id, &[], key(0, 0), &sampling(2)).expect("a turn");
    assert!(matches!(engine.step(), Err(EngineError::CacheTooSmall { .. })));
}
