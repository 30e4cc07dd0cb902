//! The generation engine as its callers see it: continuous batching over paged keys and values and slots of recurrent state.
//!
//! A sequence is a run of tokens of which the first `computed` are in the caches. Everything is "compute pending
//! tokens": prefill, decode, tool results and recomputation after preemption differ only in how many are pending.
//! A step first admits new prompts (`admission`), then advances the sequences that are being sampled (`step`), and draws a
//! token for those that have nothing pending any more (`sample`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::memory::{Memory, MemoryUse};
use super::prefix::PrefixCache;
use super::request::{SampleKey, SamplingParams, SequenceId, TokenId, TurnEnd};
use super::sequence::{Phase, Run, Sequence, Turn};
use crate::NemotronH;
use crate::cache::{KvPool, SsmPool};
use crate::error::EngineError;

/// Sizes of the engine's memory and batches.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Tokens per page of keys and values.
    pub page_size: usize,
    /// Most pages; memory is taken as they come into use.
    pub num_pages: usize,
    /// Most state slots, likewise: sequences that can be under way at once, plus cached prefixes, plus one.
    pub num_slots: usize,
    /// Longest sequence, prompt and samples together, in tokens.
    pub max_sequence_length: usize,
    /// Most tokens (rows times padded length) of one prefill pass.
    pub prefill_token_budget: usize,
    /// Shortest prefix worth caching, in tokens.
    pub min_shared_prefix: usize,
    /// Most prefixes kept.
    pub max_cached_prefixes: usize,
    /// Tokens that end a turn.
    pub stop_tokens: BTreeSet<TokenId>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            page_size: 16,
            num_pages: 2048,
            num_slots: 72,
            max_sequence_length: 4096,
            prefill_token_budget: 4096,
            min_shared_prefix: 32,
            max_cached_prefixes: 4,
            stop_tokens: BTreeSet::new(),
        }
    }
}

/// Generates for many sequences at once with one copy of the weights.
#[derive(Debug)]
pub struct Engine {
    pub(super) model: NemotronH,
    pub(super) options: EngineOptions,
    pub(super) kv: KvPool,
    pub(super) ssm: SsmPool,
    pub(super) memory: Memory,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    pub(super) prefixes: PrefixCache,
    /// Turns that ended and were not reported yet; those of a step that failed wait here for the next one.
    pub(super) ended: Vec<TurnEnd>,
    /// Errors that ended a turn and were not reported yet, the first one first.
    pub(super) failed: VecDeque<(SequenceId, EngineError)>,
    next_id: u64,
    /// Checks for a failed device that find none before the one that does. The CPU never fails by itself.
    #[cfg(test)]
    pub(super) checks_before_failure: Option<usize>,
}

impl Engine {
    /// An engine that generates with `model`.
    pub fn new(model: NemotronH, options: EngineOptions) -> Self {
        let (kv, ssm) = empty_pools(&model, &options);
        Self {
            memory: Memory::new(&options),
            model,
            options,
            kv,
            ssm,
            sequences: BTreeMap::new(),
            prefixes: PrefixCache::default(),
            ended: Vec::new(),
            failed: VecDeque::new(),
            next_id: 0,
            #[cfg(test)]
            checks_before_failure: None,
        }
    }

    /// The model the engine generates with.
    pub fn model(&self) -> &NemotronH {
        &self.model
    }

    /// Changes the weights. Everything cached under the old ones is dropped; open sequences are recomputed.
    pub fn update_model<R>(&mut self, change: impl FnOnce(&mut NemotronH) -> R) -> R {
        self.release_caches();
        change(&mut self.model)
    }

    /// Gives back the memory of the caches, which something else may need in the meantime; open sequences are recomputed.
    pub fn release_caches(&mut self) {
        self.prefixes = PrefixCache::default();
        self.sequences.values_mut().for_each(|sequence| sequence.run.forget());
        let num_preempted = self.memory.num_preempted;
        self.memory = Memory { num_preempted, ..Memory::new(&self.options) };
        (self.kv, self.ssm) = empty_pools(&self.model, &self.options);
    }

    /// Opens `samples` sequences that all hold `prompt`, which is computed once.
    ///
    /// # Errors
    /// The prompt is empty, longer than a sequence can be, or holds an id outside the vocabulary.
    pub fn begin(&mut self, prompt: &[TokenId], samples: usize) -> Result<Vec<SequenceId>, EngineError> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.check_tokens(prompt, 0)?;
        let run = Run { tokens: prompt.to_vec(), ..Run::default() };
        let first = SequenceId(self.next_id);
        self.next_id += samples as u64;
        let ids: Vec<_> = (first.0..self.next_id).map(SequenceId).collect();
        let phase = Phase::Queued { prompt: first, turn: None };
        self.sequences.extend(ids.iter().map(|&id| (id, Sequence { run: run.clone(), phase: phase.clone() })));
        Ok(ids)
    }

    /// Appends `tokens` to a sequence and starts sampling its next turn.
    ///
    /// # Errors
    /// The handle is unknown, its turn is still open, or an id is outside the vocabulary. A sequence that would
    /// grow too long is no error: its turn ends with [`StopReason::ContextFull`](super::StopReason::ContextFull).
    pub fn begin_turn(
        &mut self,
        id: SequenceId,
        tokens: &[TokenId],
        key: SampleKey,
        sampling: &SamplingParams,
    ) -> Result<(), EngineError> {
        self.check_tokens(tokens, usize::MAX)?;
        let sequence = self.sequences.get_mut(&id).ok_or(EngineError::UnknownSequence(id))?;
        if sequence.turn().is_some() {
            return Err(EngineError::TurnOpen(id));
        }
        sequence.run.tokens.extend_from_slice(tokens);
        sequence.begin_turn(Turn { key, sampling: *sampling, tokens: Vec::new(), log_probs: Vec::new() });
        Ok(())
    }

    /// Closes a sequence and frees what it holds; what became of its turn is not reported any more. Unknown handles are
    /// ignored.
    pub fn finish(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.memory.release(sequence.run);
        }
        self.ended.retain(|turn| turn.sequence != id);
        self.failed.retain(|(failed, _)| *failed != id);
    }

    /// Whether any turn is open, or one that is over waits to be reported.
    pub fn has_open_turns(&self) -> bool {
        !self.ended.is_empty()
            || !self.failed.is_empty()
            || self.sequences.values().any(|sequence| sequence.turn().is_some())
    }

    /// What the caches hold, and how often they were too small.
    pub fn memory_use(&self) -> MemoryUse {
        self.memory.in_use()
    }

    /// Handles that are open, with or without a turn.
    pub fn num_open_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// One pass through the model; the turns that ended with it, possibly none.
    ///
    /// Every turn of a sequence that stays open is reported exactly once: among the results of a step, or by an error that
    /// names its sequence.
    ///
    /// # Errors
    /// - [`EngineError::NotFinite`] and [`EngineError::CacheTooSmall`] end the turn of the sequence they name and no other:
    ///   the model gave it values that are not finite, or it does not fit into the caches even when it has them to itself.
    ///   The sequence stays open with all tokens it has, holds no memory, and another turn of it can begin. What the others
    ///   sampled in this step is kept, and the next call reports those of their turns that ended. When several turns fail in
    ///   one step, each call reports one of them, the first first, before anything else is computed.
    /// - [`EngineError::Device`] ends no turn. Nobody knows which parts of the caches the device has lost, so they hold
    ///   nothing afterwards. No token is lost: the next call computes the states again.
    pub fn step(&mut self) -> Result<Vec<TurnEnd>, EngineError> {
        if self.failed.is_empty() {
            self.end_full_sequences();
            self.admit_new_prompts()?;
            self.advance_open_turns()?;
        }
        match self.failed.pop_front() {
            Some((_, error)) => Err(error),
            None => Ok(std::mem::take(&mut self.ended)),
        }
    }

    /// Frees what a sequence holds and has it wait for its next turn. When a turn was open, the error is what it came to.
    pub(super) fn fail(&mut self, id: SequenceId, error: EngineError) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        self.memory.preempt(&mut sequence.run);
        sequence.leave_queue();
        if sequence.end_turn().is_some() {
            self.failed.push_back((id, error));
        }
    }

    /// The error of a sequence that does not fit into the caches even when it has them to itself.
    pub(super) fn too_large(&self, id: SequenceId) -> EngineError {
        EngineError::CacheTooSmall {
            sequence: id,
            tokens: self.sequences.get(&id).map_or(0, |sequence| sequence.run.tokens.len()),
            capacity: self.options.num_pages.saturating_mul(self.options.page_size),
            slots: self.options.num_slots,
        }
    }

    fn check_tokens(&self, tokens: &[TokenId], already: usize) -> Result<(), EngineError> {
        let vocabulary = self.model.config().vocab_size;
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::TokenOutOfRange { id, vocabulary });
        }
        let limit = self.options.max_sequence_length;
        if already == 0 && tokens.len() >= limit {
            return Err(EngineError::PromptTooLong { length: tokens.len(), limit });
        }
        Ok(())
    }
}

/// Pools of as few blocks as there can be.
fn empty_pools(model: &NemotronH, options: &EngineOptions) -> (KvPool, SsmPool) {
    let (device, dtypes) = (model.device(), model.dtypes());
    let (config, shard) = (model.config(), model.shard());
    let kv = KvPool::new(
        config.num_attention_layers(),
        [options.page_size, shard.kv_heads, config.head_dim],
        &device,
        dtypes.keys_values,
    );
    let ssm = SsmPool::new(
        config.num_mamba_layers(),
        [shard.conv_channels, config.conv_kernel - 1],
        [shard.mamba_heads, config.mamba_head_dim, config.ssm_state_size],
        &device,
        dtypes.states,
    );
    (kv, ssm)
}
