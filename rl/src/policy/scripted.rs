//! A policy that answers from a function instead of a model, so that the whole loop runs without tensors.
//!
//! It has one parameter, `skill`, which the answers may depend on and which updates move along the
//! advantage, and one optimizer moment, so that checkpoints and resumed runs have something to get wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::api::{
    Policy, PolicyError, SampleKey, SamplingParams, SequenceId, StopReason, SupervisedBatch, SupervisedReport, TokenId,
    TrainBatch, TurnEnd, UpdateParams, UpdateReport,
};

/// What an answer may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Everything the sequence holds.
    pub tokens: &'a [TokenId],
    /// Turns of this sequence before this one.
    pub turn: usize,
    /// The random numbers' key.
    pub key: SampleKey,
    /// Whether the turn is greedy.
    pub greedy: bool,
    /// The policy's parameter.
    pub skill: f64,
}

/// Beyond this a skill is no longer one.
const MAX_SKILL: f64 = 1e30;

type Script = Box<dyn Fn(&Question<'_>) -> Vec<TokenId>>;
type Credit = Box<dyn Fn(&[TokenId]) -> f64>;

/// The scripted policy.
pub struct ScriptedPolicy {
    script: Script,
    credit: Credit,
    stop: TokenId,
    /// The one weight.
    pub skill: f64,
    /// The optimizer's state.
    pub moment: f64,
    /// Added to the training forward's log-probabilities: the disagreement of trainer and engine.
    pub training_offset: f32,
    next_id: u64,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// The largest number of sequences that were open at the same time.
    pub most_open: usize,
}

struct Sequence {
    tokens: Vec<TokenId>,
    turns: usize,
    /// The rest of the open turn, next token last, and what was emitted of it.
    open: Option<OpenTurn>,
}

struct OpenTurn {
    rest: Vec<TokenId>,
    emitted: Vec<TokenId>,
    limit: usize,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Bits of the number: text would not give back every one of them.
    bits: u64,
}

impl ScriptedPolicy {
    /// A policy whose turns are `script`'s answers (with or without the token `stop` at the end) and whose
    /// skill grows by the advantage of the sequences that `credit` is positive for.
    pub fn new(
        stop: TokenId,
        script: impl Fn(&Question<'_>) -> Vec<TokenId> + 'static,
        credit: impl Fn(&[TokenId]) -> f64 + 'static,
    ) -> Self {
        Self {
            script: Box::new(script),
            credit: Box::new(credit),
            stop,
            skill: 0.0,
            moment: 0.0,
            training_offset: 0.0,
            next_id: 0,
            sequences: BTreeMap::new(),
            most_open: 0,
        }
    }

    /// Sequences that are open now.
    pub fn num_open(&self) -> usize {
        self.sequences.len()
    }

    fn log_prob(token: TokenId, position: usize) -> f32 {
        -0.1 - 0.01 * ((token as usize + position) % 11) as f32
    }

    fn training_log_probs(&self, tokens: &[TokenId], trained: impl Fn(usize) -> bool) -> Vec<f32> {
        tokens
            .iter()
            .enumerate()
            .map(|(t, &token)| if trained(t) { Self::log_prob(token, t) + self.training_offset } else { 0.0 })
            .collect()
    }

    fn update(&mut self, gradient: f64, params: &UpdateParams) {
        self.moment = 0.5 * self.moment + gradient;
        self.skill += params.learning_rate * self.moment;
    }
}

impl Policy for ScriptedPolicy {
    fn begin(&mut self, prompt: &[TokenId], samples: usize) -> Result<Vec<SequenceId>, PolicyError> {
        let ids = (0..samples)
            .map(|_| {
                let id = SequenceId(self.next_id);
                self.next_id += 1;
                self.sequences.insert(id, Sequence { tokens: prompt.to_vec(), turns: 0, open: None });
                id
            })
            .collect();
        self.most_open = self.most_open.max(self.sequences.len());
        Ok(ids)
    }

    fn begin_turn(
        &mut self,
        id: SequenceId,
        append: &[TokenId],
        key: SampleKey,
        sampling: &SamplingParams,
    ) -> Result<(), PolicyError> {
        let sequence = self.sequences.get_mut(&id).ok_or(PolicyError::UnknownSequence(id))?;
        if sequence.open.is_some() {
            return Err(PolicyError::TurnOpen(id));
        }
        sequence.tokens.extend_from_slice(append);
        let mut rest = (self.script)(&Question {
            tokens: &sequence.tokens,
            turn: sequence.turns,
            key,
            greedy: sampling.temperature == 0.0,
            skill: self.skill,
        });
        if rest.is_empty() {
            return Err(PolicyError::Script(format!("turn {} of {key:?} is empty", sequence.turns)));
        }
        rest.reverse();
        sequence.open = Some(OpenTurn { rest, emitted: Vec::new(), limit: sampling.max_new_tokens });
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<TurnEnd>, PolicyError> {
        let mut ended = Vec::new();
        for (&id, sequence) in &mut self.sequences {
            let Some(turn) = &mut sequence.open else { continue };
            let next = if turn.emitted.len() < turn.limit { turn.rest.pop() } else { None };
            turn.emitted.extend(next);
            let stopped = turn.emitted.last() == Some(&self.stop);
            if !stopped && turn.emitted.len() < turn.limit && !turn.rest.is_empty() {
                continue;
            }
            let tokens = std::mem::take(&mut turn.emitted);
            let start = sequence.tokens.len();
            let log_probs = tokens.iter().enumerate().map(|(i, &t)| Self::log_prob(t, start + i)).collect();
            sequence.tokens.extend_from_slice(&tokens);
            sequence.turns += 1;
            sequence.open = None;
            let reason = if stopped { StopReason::EndOfTurn } else { StopReason::Length };
            ended.push(TurnEnd { sequence: id, tokens, log_probs, reason });
        }
        Ok(ended)
    }

    fn finish(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
    }

    fn train(&mut self, batch: &TrainBatch, params: &UpdateParams) -> Result<UpdateReport, PolicyError> {
        let gradient = batch.sequences.iter().map(|s| f64::from(s.advantage) * (self.credit)(&s.tokens)).sum::<f64>()
            / batch.global_valid_sequences.max(1) as f64;
        let log_probs = batch.sequences.iter().map(|s| self.training_log_probs(&s.tokens, |t| s.mask[t])).collect();
        self.update(gradient, params);
        Ok(UpdateReport { loss: -gradient, grad_norm: gradient.abs(), log_probs, ..UpdateReport::default() })
    }

    fn train_supervised(
        &mut self,
        batch: &SupervisedBatch,
        params: &UpdateParams,
    ) -> Result<SupervisedReport, PolicyError> {
        let gradient =
            batch.sequences.iter().map(|s| (self.credit)(&s.tokens)).sum::<f64>() / batch.sequences.len().max(1) as f64;
        let log_probs =
            batch.sequences.iter().map(|s| self.training_log_probs(&s.tokens, |t| s.weights[t] > 0.0)).collect();
        self.update(gradient, params);
        Ok(SupervisedReport { loss: (-self.skill).exp(), grad_norm: gradient.abs(), log_probs })
    }

    fn check_usable(&self) -> Result<(), PolicyError> {
        match self.skill.abs() < MAX_SKILL {
            true => Ok(()),
            false => Err(PolicyError::Unusable { tensor: "skill".to_owned(), reason: format!("holds {}", self.skill) }),
        }
    }

    fn save_weights(&self, dir: &Path) -> Result<(), PolicyError> {
        write(&dir.join("weights.json"), self.skill)
    }

    fn save_optimizer(&self, path: &Path) -> Result<(), PolicyError> {
        write(path, self.moment)
    }

    fn load_weights(&mut self, dir: &Path) -> Result<(), PolicyError> {
        self.skill = read(&dir.join("weights.json"))?;
        Ok(())
    }

    fn load_optimizer(&mut self, path: &Path) -> Result<Option<String>, PolicyError> {
        self.moment = read(path)?;
        Ok(None)
    }
}

fn write(path: &Path, value: f64) -> Result<(), PolicyError> {
    let text =
        serde_json::to_string(&Saved { bits: value.to_bits() }).map_err(|error| PolicyError::Model(Box::new(error)))?;
    fs::write(path, text).map_err(|source| PolicyError::Io { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<f64, PolicyError> {
    let text = fs::read_to_string(path).map_err(|source| PolicyError::Io { path: path.to_owned(), source })?;
    let saved: Saved = serde_json::from_str(&text).map_err(|error| PolicyError::Malformed {
        path: path.to_owned(),
        found: error.to_string(),
        expected: "{\"bits\": integer}".to_owned(),
    })?;
    Ok(f64::from_bits(saved.bits))
}
