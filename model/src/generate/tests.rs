//! What an engine holds and reports when calls fail: memory goes back, no turn is forgotten, and others notice nothing.

mod histories;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;

use super::sequence::Phase;
use super::*;
use crate::cache::{BlockAllocator, BlockId};
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::{NemotronH, random};

const CONFIG: &str = r#"{
    "model_type": "nemotron_h", "hybrid_override_pattern": "M*", "num_hidden_layers": 2, "vocab_size": 31,
    "hidden_size": 16, "mamba_num_heads": 2, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1, "conv_kernel": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 16,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.5, "tie_word_embeddings": true, "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512
}"#;

fn model() -> NemotronH {
    let config = ModelConfig::from_json_text(CONFIG, std::path::Path::new("config.json")).unwrap();
    random(&config, 5, &Device::flex(), crate::Dtypes::F32).unwrap()
}

/// Room for 24 tokens.
fn tight() -> EngineOptions {
    EngineOptions {
        page_size: 4,
        num_pages: 6,
        num_slots: 7,
        prefill_token_budget: 8,
        min_shared_prefix: 4,
        max_cached_prefixes: 1,
        ..EngineOptions::default()
    }
}

/// `length` tokens, the first five of which are those of every prompt.
fn prompt(length: u32, salt: u32) -> Vec<TokenId> {
    (0..length).map(|i| if i < 5 { i * 3 + 1 } else { (i * 7 + salt) % 31 }).collect()
}

/// Two tokens, or an error when `damaged`: a temperature that is no number gives no numbers.
fn sampling(damaged: bool) -> SamplingParams {
    let temperature = if damaged { f64::NAN } else { 1.0 };
    SamplingParams { temperature, top_p: 1.0, min_p: 0.0, top_k: None, max_new_tokens: 2 }
}

/// Tokens of a turn and the bits of their log-probabilities.
type Sampled = (Vec<TokenId>, Vec<u32>);

fn sampled(turn: TurnEnd) -> Sampled {
    (turn.tokens, turn.log_probs.iter().map(|value| value.to_bits()).collect())
}

/// What a sequence samples in an engine of its own that never failed.
#[derive(Default)]
struct Undisturbed(BTreeMap<(Vec<TokenId>, SampleKey), Sampled>);

impl Undisturbed {
    fn turn(&mut self, model: &NemotronH, tokens: &[TokenId], key: SampleKey) -> &Sampled {
        self.0.entry((tokens.to_vec(), key)).or_insert_with(|| {
            let mut engine = Engine::new(model.clone(), EngineOptions::default());
            let id = engine.begin(tokens, 1).unwrap()[0];
            engine.begin_turn(id, &[], key, &sampling(false)).unwrap();
            loop {
                if let Some(end) = engine.step().unwrap().pop() {
                    return sampled(end);
                }
            }
        })
    }
}

/// Every block is held by as many sequences and prefixes as its count says, and none is held by nobody.
fn assert_all_memory_has_a_holder(engine: &Engine, when: &str) {
    let runs: Vec<_> = engine.sequences.values().map(|sequence| &sequence.run).chain(&engine.prefixes.runs).collect();
    let check = |allocator: &BlockAllocator, blocks: Vec<BlockId>| {
        let distinct: BTreeSet<_> = blocks.iter().copied().collect();
        assert_eq!(allocator.num_held(), distinct.len(), "blocks held after {when}");
        for block in distinct {
            let holders = blocks.iter().filter(|&&other| other == block).count();
            assert_eq!(allocator.is_shared(block), holders > 1, "{block:?} after {when}");
        }
    };
    check(&engine.memory.pages, runs.iter().flat_map(|run| run.pages.iter().copied()).collect());
    let empty_state = BlockId(crate::cache::SsmPool::EMPTY);
    check(&engine.memory.slots, runs.iter().filter_map(|run| run.slot).chain([empty_state]).collect());
    for run in runs {
        assert!(run.computed <= run.pages.len() * engine.options.page_size, "too few pages after {when}");
    }
}

/// An engine, and what is known about its sequences from outside.
struct Observed {
    engine: Engine,
    /// Tokens of every open sequence.
    tokens: BTreeMap<SequenceId, Vec<TokenId>>,
    /// Turns that were begun and not reported, and which of them are damaged.
    turns: BTreeMap<SequenceId, (SampleKey, bool)>,
    ended: BTreeMap<SequenceId, Sampled>,
    not_finite: Vec<SequenceId>,
    too_large: Vec<SequenceId>,
    num_device_errors: usize,
}

impl Observed {
    fn new(model: &NemotronH, options: EngineOptions) -> Self {
        Self {
            engine: Engine::new(model.clone(), options),
            tokens: BTreeMap::new(),
            turns: BTreeMap::new(),
            ended: BTreeMap::new(),
            not_finite: Vec::new(),
            too_large: Vec::new(),
            num_device_errors: 0,
        }
    }

    fn open(&mut self, prompt: &[TokenId], samples: usize) -> Vec<SequenceId> {
        let ids = self.engine.begin(prompt, samples).unwrap();
        self.tokens.extend(ids.iter().map(|&id| (id, prompt.to_vec())));
        ids
    }

    /// Opens sequences and begins a turn in each.
    fn begin(&mut self, prompt: &[TokenId], samples: usize, damaged: bool) -> Vec<SequenceId> {
        let ids = self.open(prompt, samples);
        ids.iter().for_each(|&id| self.begin_turn(id, &[], damaged));
        ids
    }

    fn begin_turn(&mut self, id: SequenceId, append: &[TokenId], damaged: bool) {
        let key = SampleKey { seed: 3, step: 1, task: 0, sample: id.0 };
        self.engine.begin_turn(id, append, key, &sampling(damaged)).unwrap();
        self.tokens.entry(id).or_default().extend(append);
        assert!(self.turns.insert(id, (key, damaged)).is_none());
    }

    /// One step; every report is about a turn that is open, and right.
    fn step(&mut self, undisturbed: &mut Undisturbed) {
        match self.engine.step() {
            Ok(ended) => {
                for end in ended {
                    let (id, (key, damaged)) = (end.sequence, self.turns.remove(&end.sequence).unwrap());
                    let (tokens, end) = (self.tokens.get_mut(&id).unwrap(), sampled(end));
                    assert!(!damaged);
                    assert_eq!(&end, undisturbed.turn(self.engine.model(), tokens, key), "{id:?}");
                    tokens.extend(&end.0);
                    self.ended.insert(id, end);
                }
            }
            Err(EngineError::NotFinite { sequence }) => {
                assert!(self.turns.remove(&sequence).unwrap().1);
                self.not_finite.push(sequence);
            }
            Err(EngineError::CacheTooSmall { sequence, tokens, capacity, .. }) => {
                self.turns.remove(&sequence).unwrap();
                assert!(tokens > capacity, "{tokens} tokens fit into {capacity}");
                self.too_large.push(sequence);
                // What it sampled before the turn failed is not reported.
                self.tokens.insert(sequence, self.engine.sequences[&sequence].run.tokens.clone());
            }
            Err(EngineError::Device(_)) => {
                let left = self.engine.memory_use();
                assert_eq!((left.pages, left.slots), (0, 0));
                self.num_device_errors += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn finish(&mut self, id: SequenceId) {
        self.engine.finish(id);
        self.tokens.remove(&id);
        self.turns.remove(&id);
    }

    /// Steps until every turn has been reported, which takes few calls.
    fn drain(&mut self, undisturbed: &mut Undisturbed) {
        let mut steps = 0;
        while self.engine.has_open_turns() {
            self.step(undisturbed);
            assert_all_memory_has_a_holder(&self.engine, "a step");
            steps += 1;
            assert!(steps < 100, "no end of steps, with {:?} open", self.turns.keys());
        }
        assert!(self.turns.is_empty(), "never reported: {:?}", self.turns.keys());
    }
}

#[test]
fn every_sequence_without_finite_values_is_reported() {
    let mut engine = Observed::new(&model(), EngineOptions::default());
    let (first, second) = (engine.begin(&prompt(6, 0), 1, true), engine.begin(&prompt(7, 1), 2, true));
    let whole = engine.begin(&prompt(8, 2), 1, false);
    engine.drain(&mut Undisturbed::default());
    assert_eq!(engine.not_finite, [first[0], second[0], second[1]]);
    assert_eq!(engine.ended.keys().copied().collect::<Vec<_>>(), whole);
}

#[test]
fn damaged_weights_end_every_turn_and_leave_an_engine() {
    let model = model();
    let mut engine = Engine::new(model.clone(), EngineOptions { min_shared_prefix: usize::MAX, ..tight() });
    engine.update_model(|model| model.visit_mut(&mut |_, mut parameter| parameter.update_flat(|x| x * f32::NAN)));
    let ids = engine.begin(&prompt(9, 0), 3).unwrap();
    for &id in &ids {
        engine.begin_turn(id, &[], SampleKey::default(), &sampling(false)).unwrap();
    }
    for &sequence in &ids {
        assert!(engine.has_open_turns());
        assert_eq!(engine.step(), Err(EngineError::NotFinite { sequence }));
    }
    assert!(!engine.has_open_turns());
    assert_eq!((engine.memory_use().pages, engine.memory_use().slots), (0, 0));
    engine.update_model(|damaged| *damaged = model.clone());
    let mut undisturbed = Undisturbed::default();
    for &id in &ids {
        engine.begin_turn(id, &[], SampleKey::default(), &sampling(false)).unwrap();
    }
    let mut ended = Vec::new();
    while engine.has_open_turns() {
        ended.extend(engine.step().unwrap());
    }
    assert_eq!(ended.len(), 3);
    for end in ended {
        assert_eq!(&sampled(end), undisturbed.turn(&model, &prompt(9, 0), SampleKey::default()));
    }
}

#[test]
fn what_is_too_large_fails_alone() {
    let (model, mut undisturbed) = (model(), Undisturbed::default());
    // The large prompt has one sample or several, and is begun before, between or after prompts that fit.
    for samples in 1..=3 {
        for place in 0..3 {
            let mut engine = Observed::new(&model, tight());
            let (mut fits, mut large) = (Vec::new(), Vec::new());
            for prompts in 0..3 {
                match prompts == place {
                    true => large = engine.begin(&prompt(26, 9), samples, false),
                    false => fits.extend(engine.begin(&prompt(6 + prompts, prompts), 2, false)),
                }
            }
            engine.drain(&mut undisturbed);
            assert_eq!(engine.too_large, large, "{samples} samples in place {place}");
            assert_eq!(engine.ended.keys().copied().collect::<Vec<_>>(), fits);
        }
    }
}

#[test]
fn a_prefix_without_room_takes_no_prompt_out_of_the_queue() {
    let (model, mut undisturbed) = (model(), Undisturbed::default());
    let mut engine = Observed::new(&model, tight());
    // A sequence between turns holds all pages, so both prompts are admitted, for it to give way to.
    let idle = engine.begin(&prompt(22, 0), 1, false)[0];
    engine.drain(&mut undisturbed);
    assert_eq!(engine.engine.memory_use().pages, 6);
    let (mut large, longer) = (engine.begin(&prompt(26, 9), 2, false), engine.begin(&prompt(27, 9), 2, false));
    engine.step(&mut undisturbed);
    assert!(longer.iter().all(|id| matches!(engine.engine.sequences[id].phase, Phase::Queued { .. })));
    let fits = engine.begin(&prompt(6, 1), 2, false);
    engine.drain(&mut undisturbed);
    large.extend(longer);
    assert_eq!(engine.too_large, large);
    assert!(fits.iter().all(|id| engine.ended.contains_key(id)));
    engine.begin_turn(idle, &[], false);
    engine.drain(&mut undisturbed);
}

#[test]
fn a_failed_device_ends_no_turn() {
    let (model, mut undisturbed) = (model(), Undisturbed::default());
    // In the pass over the shared prefix, over the two prompts, over the copied pages and over the samples; or later.
    for checks in 0..6 {
        let mut engine = Observed::new(&model, EngineOptions { min_shared_prefix: 4, ..EngineOptions::default() });
        engine.engine.checks_before_failure = Some(checks);
        engine.begin(&prompt(9, 0), 2, false);
        engine.begin(&prompt(7, 1), 2, false);
        engine.drain(&mut undisturbed);
        assert_eq!((engine.num_device_errors, engine.ended.len()), (1, 4), "after {checks} checks");
    }
}

#[test]
fn samples_may_begin_with_tokens_of_their_own() {
    let mut engine = Observed::new(&model(), EngineOptions::default());
    let ids = engine.open(&prompt(9, 0), 3);
    for (id, own) in ids.into_iter().zip([&[4, 5, 6][..], &[], &[4, 8]]) {
        engine.begin_turn(id, own, false);
    }
    engine.drain(&mut Undisturbed::default());
    assert_eq!(engine.ended.len(), 3);
}

#[test]
fn a_closed_sequence_is_not_reported() {
    // Any token ends a turn, so that all three are over after one step, of which the first is reported.
    let options = EngineOptions { stop_tokens: (0..31).collect(), ..EngineOptions::default() };
    let mut engine = Observed::new(&model(), options);
    let ids: Vec<_> = (0..3).flat_map(|salt| engine.begin(&prompt(6, salt), 1, salt < 2)).collect();
    engine.step(&mut Undisturbed::default());
    assert_eq!(engine.not_finite, [ids[0]]);
    assert!(engine.engine.has_open_turns());
    engine.finish(ids[1]);
    engine.finish(ids[2]);
    assert!(!engine.engine.has_open_turns());
    assert_eq!(engine.engine.step(), Ok(Vec::new()));
}
