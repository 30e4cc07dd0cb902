//! The generation engine: continuous batching over paged keys and values and slots of recurrent state.
//!
//! A sequence is a run of tokens of which the first `computed` are in the caches. Everything is "compute pending
//! tokens": prefill, decode, tool results and recomputation after preemption differ only in how many are pending.
//! Prefixes are computed once: what all new prompts share is cached, and the samples of one prompt fork its state.
//! A fork copies nothing; the first write goes to a slot and page of its own.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;
use nemo_kernels::{DeviceError, WriteCheck};

use super::memory::{Memory, MemoryUse, PageCopies};
use super::prefix::{PrefixCache, common_prefix};
use super::request::{SampleKey, SamplingParams, SequenceId, StopReason, TokenId, TurnEnd};
use super::scheduler::{Candidate, next_pass};
use super::sequence::{Run, Sequence, Turn};
use crate::NemotronH;
use crate::cache::{BlockAllocator, BlockId, KvPool, SsmPool};
use crate::error::EngineError;
use crate::paged::PagedRow;

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
    kv: KvPool,
    ssm: SsmPool,
    pub(super) memory: Memory,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    /// Sequences of each prompt that has not been computed yet.
    new_prompts: Vec<Vec<SequenceId>>,
    prefixes: PrefixCache,
    /// Turns that ended and were not reported yet; those of a step that failed wait here for the next one.
    pub(super) ended: Vec<TurnEnd>,
    next_id: u64,
}

impl Engine {
    /// An engine that generates with `model`.
    pub fn new(model: NemotronH, options: EngineOptions) -> Self {
        let (kv, ssm, memory) = empty_caches(&model, &options);
        Self {
            model,
            options,
            kv,
            ssm,
            memory,
            sequences: BTreeMap::new(),
            new_prompts: Vec::new(),
            prefixes: PrefixCache::default(),
            ended: Vec::new(),
            next_id: 0,
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
        while let Some(run) = self.prefixes.evict() {
            self.memory.release(run);
        }
        for sequence in self.sequences.values_mut() {
            self.memory.preempt(&mut sequence.run);
        }
        let num_preempted = self.memory.num_preempted;
        (self.kv, self.ssm, self.memory) = empty_caches(&self.model, &self.options);
        self.memory.num_preempted = num_preempted;
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
        let ids: Vec<_> = (0..samples as u64).map(|sample| SequenceId(self.next_id + sample)).collect();
        self.next_id += samples as u64;
        self.sequences.extend(ids.iter().map(|&id| (id, Sequence { run: run.clone(), turn: None })));
        self.new_prompts.push(ids.clone());
        Ok(ids)
    }

    /// Appends `tokens` to a sequence and starts sampling its next turn.
    ///
    /// # Errors
    /// The handle is unknown, its turn is still open, or an id is outside the vocabulary. A sequence that would
    /// grow too long is no error: its turn ends with [`StopReason::ContextFull`].
    pub fn begin_turn(
        &mut self,
        id: SequenceId,
        tokens: &[TokenId],
        key: SampleKey,
        sampling: &SamplingParams,
    ) -> Result<(), EngineError> {
        self.check_tokens(tokens, usize::MAX)?;
        let sequence = self.sequences.get_mut(&id).ok_or(EngineError::UnknownSequence(id))?;
        if sequence.turn.is_some() {
            return Err(EngineError::TurnOpen(id));
        }
        sequence.run.tokens.extend_from_slice(tokens);
        let turn = Turn { key, sampling: *sampling, tokens: Vec::new(), log_probs: Vec::new() };
        sequence.turn = Some(turn);
        Ok(())
    }

    /// Closes a sequence and frees what it holds; unknown handles are ignored.
    pub fn finish(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.memory.release(sequence.run);
        }
    }

    /// Whether any sequence is being sampled, or a turn that ended waits to be reported.
    pub fn has_open_turns(&self) -> bool {
        !self.ended.is_empty() || self.sequences.values().any(|sequence| sequence.turn.is_some())
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
    /// # Errors
    /// The caches cannot hold even one sequence, or the model gave one sequence values that are not finite: its turn is
    /// over then. All else is as after any step: the engine can go on, and the next call reports the turns that ended
    /// with this one.
    pub fn step(&mut self) -> Result<Vec<TurnEnd>, EngineError> {
        self.end_full_sequences();
        self.compute_new_prompts()?;
        self.advance_open_turns()?;
        Ok(std::mem::take(&mut self.ended))
    }

    /// One pass over the sequences that are being sampled.
    fn advance_open_turns(&mut self) -> Result<(), EngineError> {
        let queued: BTreeSet<SequenceId> = self.new_prompts.iter().flatten().copied().collect();
        let under_way = |(id, sequence): &(&SequenceId, &Sequence)| sequence.turn.is_some() && !queued.contains(id);
        let open: Vec<SequenceId> = self.sequences.iter().filter(under_way).map(|(&id, _)| id).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut runs: Vec<Run> = open.iter().map(|id| self.take_run(*id)).collect();
        let computed = self.advance(&mut runs);
        let mut to_sample = Vec::new();
        for (index, run) in runs.into_iter().enumerate() {
            let ready = run.pending().is_empty();
            if let Some(sequence) = self.sequences.get_mut(&open[index]) {
                sequence.run = run;
                if ready {
                    to_sample.push(index);
                }
            }
        }
        let Some((rows, hidden)) = computed? else { return Ok(()) };
        let sampled: Vec<(SequenceId, usize)> = rows
            .iter()
            .enumerate()
            .filter(|(_, index)| to_sample.contains(index))
            .map(|(row, &index)| (open[index], row))
            .collect();
        self.sample(&sampled, hidden)
    }

    /// Ends turns of sequences that have no room for another token.
    fn end_full_sequences(&mut self) {
        let limit = self.options.max_sequence_length;
        let full = self.sequences.iter_mut().filter(|(_, s)| s.turn.is_some() && s.run.tokens.len() >= limit);
        self.ended.extend(
            full.filter_map(|(&id, sequence)| sequence.turn.take().map(|turn| turn.end(id, StopReason::ContextFull))),
        );
    }

    /// Computes what new prompts share, and each prompt that several sequences share, and forks.
    fn compute_new_prompts(&mut self) -> Result<(), EngineError> {
        let groups = self.admit_new_prompts();
        if groups.is_empty() {
            return Ok(());
        }
        let prompt = |group: &Vec<SequenceId>| self.sequences[&group[0]].run.tokens.as_slice();
        // The last token is left to each fork, whose logits it gives.
        let shortest = groups.iter().map(|group| prompt(group).len() - 1).min().unwrap_or(0);
        let shared = common_prefix(groups.iter().map(prompt)).min(shortest);
        if groups.len() > 1 && shared >= self.options.min_shared_prefix {
            let tokens = prompt(&groups[0])[..shared].to_vec();
            let cached = self.prefixes.longest(prompt(&groups[0])).map_or(0, |run| run.tokens.len());
            if cached < shared {
                let prefix = self.fork_prefix(tokens);
                for prefix in self.compute(vec![prefix])? {
                    if let Some(oldest) = self.prefixes.insert(prefix, self.options.max_cached_prefixes) {
                        self.memory.release(oldest);
                    }
                }
            }
        }
        let mut nodes: Vec<Run> = Vec::new();
        for group in &groups {
            let tokens = self.sequences[&group[0]].run.tokens.clone();
            if group.len() == 1 {
                let run = self.fork_prefix(tokens);
                self.put_run(group[0], run);
            } else {
                nodes.push(self.fork_prefix(tokens[..tokens.len() - 1].to_vec()));
            }
        }
        let nodes = self.compute(nodes)?;
        for (group, node) in groups.iter().filter(|group| group.len() > 1).zip(nodes) {
            for &id in group {
                let mut run = self.memory.fork(&node);
                if let Some(sequence) = self.sequences.get(&id) {
                    run.tokens.extend_from_slice(&sequence.run.tokens[node.tokens.len()..]);
                }
                self.put_run(id, run);
            }
            self.memory.release(node);
        }
        Ok(())
    }

    /// Takes as many new prompts off the queue as there is room for, at least one when nothing else is under way.
    fn admit_new_prompts(&mut self) -> Vec<Vec<SequenceId>> {
        self.new_prompts.retain_mut(|group| {
            group.retain(|id| self.sequences.contains_key(id));
            !group.is_empty()
        });
        let queued: BTreeSet<SequenceId> = self.new_prompts.iter().flatten().copied().collect();
        let idle = !self.sequences.iter().any(|(id, sequence)| sequence.turn.is_some() && !queued.contains(id));
        // Half of the slots stay free for the forks, which need one each.
        let mut slots = (self.memory.slots.num_free() / 2).max(usize::from(idle));
        let mut pages = self.memory.pages.num_free();
        let admitted = self
            .new_prompts
            .iter()
            .take_while(|group| {
                let needed = self.sequences[&group[0]].run.tokens.len().div_ceil(self.options.page_size) + 1;
                let fits = slots > 0 && (pages >= needed || (idle && pages == self.memory.pages.num_free()));
                slots = slots.saturating_sub(1);
                pages = pages.saturating_sub(needed);
                fits
            })
            .count();
        self.new_prompts.drain(..admitted).collect()
    }

    /// A run of `tokens` that starts from the longest cached prefix.
    fn fork_prefix(&mut self, tokens: Vec<TokenId>) -> Run {
        match self.prefixes.longest(&tokens) {
            Some(prefix) => {
                let mut run = self.memory.fork(prefix);
                run.tokens = tokens;
                run
            }
            None => Run { tokens, ..Run::default() },
        }
    }

    /// Runs everything pending in `runs` through the model. When that fails, what they held is free again.
    fn compute(&mut self, mut runs: Vec<Run>) -> Result<Vec<Run>, EngineError> {
        while runs.iter().any(|run| !run.pending().is_empty()) {
            if let Err(error) = self.advance(&mut runs) {
                runs.into_iter().for_each(|run| self.memory.release(run));
                return Err(error);
            }
        }
        Ok(runs)
    }

    /// One pass over some of `runs`: which ones, and their normed hidden values `[rows, hidden]` at their last new
    /// token. When memory is short, idle prefixes go first, then younger runs; a run for which neither helps waits.
    fn advance(&mut self, runs: &mut [Run]) -> Result<Option<(Vec<usize>, Tensor<2>)>, EngineError> {
        let mut candidates: Vec<Candidate> = runs
            .iter()
            .enumerate()
            .filter(|(_, run)| !run.pending().is_empty())
            .map(|(index, run)| Candidate { index, pending: run.pending().len() })
            .collect();
        while let Some(pass) = next_pass(&candidates, self.options.prefill_token_budget) {
            let mut copies = PageCopies::default();
            let mut rows = Vec::with_capacity(pass.rows.len());
            for &(index, tokens) in &pass.rows {
                if let Some(destination) = self.memory.reserve(&mut runs[index], tokens, &mut copies) {
                    rows.push((index, tokens, destination));
                }
            }
            self.kv.grow(self.memory.pages.num_touched(), self.options.num_pages);
            self.ssm.grow(self.memory.slots.num_touched(), self.options.num_slots);
            if !copies.from.is_empty() {
                self.kv.copy(&copies.from, &copies.to);
                // Before the pass writes beside them.
                self.check_written(None).map_err(|error| self.lose(runs, &rows, error))?;
            }
            if !rows.is_empty() {
                return self.run_pass(runs, &rows).map(Some);
            }
            let oldest = pass.rows.iter().map(|row| row.0).min().unwrap_or(0);
            if self.make_room(runs, oldest) {
                continue;
            }
            candidates.retain(|candidate| candidate.index != oldest);
            if candidates.is_empty() {
                return Err(EngineError::CacheTooSmall {
                    tokens: runs[oldest].tokens.len(),
                    capacity: self.options.num_pages.saturating_mul(self.options.page_size),
                    slots: self.options.num_slots,
                });
            }
        }
        Ok(None)
    }

    /// Frees something for `runs[wanted]`: a cached prefix, a sequence between turns, or the youngest run younger
    /// than it (never an older one: the oldest always gets through). False when there is nothing to free.
    fn make_room(&mut self, runs: &mut [Run], wanted: usize) -> bool {
        if let Some(prefix) = self.prefixes.evict() {
            self.memory.release(prefix);
            return true;
        }
        let holds = |run: &Run| run.slot.is_some() || !run.pages.is_empty();
        let idle = self.sequences.values_mut().rev().map(|sequence| &mut sequence.run).find(|run| holds(run));
        let victim = match idle {
            Some(run) => Some(run),
            None => runs[wanted + 1..].iter_mut().rev().find(|run| holds(run)),
        };
        if let Some(run) = victim {
            tracing::debug!(tokens = run.computed, "a sequence is preempted and will be recomputed");
            self.memory.preempt(run);
            self.memory.num_preempted += 1;
            return true;
        }
        false
    }

    /// The pass itself, once every row has its memory.
    fn run_pass(
        &mut self,
        runs: &mut [Run],
        rows: &[(usize, usize, BlockId)],
    ) -> Result<(Vec<usize>, Tensor<2>), EngineError> {
        let paged: Vec<PagedRow<'_>> = rows
            .iter()
            .map(|&(index, tokens, destination)| {
                let run = &runs[index];
                PagedRow {
                    tokens: &run.tokens[run.computed..run.computed + tokens],
                    context_length: run.computed + tokens,
                    pages: run.pages.iter().map(|page| page.0).collect(),
                    source_slot: run.slot.map_or(SsmPool::EMPTY, |slot| slot.0),
                    destination_slot: destination.0,
                }
            })
            .collect();
        let hidden = self.model.forward_paged(&paged, &mut self.kv, &mut self.ssm);
        // Before the next pass writes to other places of the pools, which would hide that this one's were lost.
        self.check_written(Some(&hidden)).map_err(|error| self.lose(runs, rows, error))?;
        for &(index, tokens, destination) in rows {
            let run = &mut runs[index];
            run.computed += tokens;
            if run.slot != Some(destination)
                && let Some(source) = run.slot.replace(destination)
            {
                self.memory.slots.release(source);
            }
        }
        Ok((rows.iter().map(|row| row.0).collect(), hidden))
    }

    /// Checks that a pass's hidden values and the pools are what was to be written.
    fn check_written(&self, hidden: Option<&Tensor<2>>) -> Result<(), DeviceError> {
        let mut check = WriteCheck::default();
        hidden.into_iter().for_each(|hidden| check.add(hidden));
        self.kv.add_to(&mut check);
        self.ssm.add_to(&mut check);
        check.finish()
    }

    /// Frees what the runs of a pass that a device lost hold, and what was reserved for it.
    fn lose(&mut self, runs: &mut [Run], rows: &[(usize, usize, BlockId)], error: DeviceError) -> EngineError {
        for &(index, _, destination) in rows {
            if runs[index].slot != Some(destination) {
                self.memory.slots.release(destination);
            }
        }
        runs.iter_mut().for_each(|run| self.memory.preempt(run));
        EngineError::Device(error)
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

    fn take_run(&mut self, id: SequenceId) -> Run {
        self.sequences.get_mut(&id).map(|sequence| std::mem::take(&mut sequence.run)).unwrap_or_default()
    }

    fn put_run(&mut self, id: SequenceId, run: Run) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            let old = std::mem::replace(&mut sequence.run, run);
            self.memory.release(old);
        }
    }
}

/// Pools of as few blocks as there can be, and who holds them: nobody.
fn empty_caches(model: &NemotronH, options: &EngineOptions) -> (KvPool, SsmPool, Memory) {
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
    let mut slots = BlockAllocator::new(options.num_slots);
    // The empty state is held for ever and never written.
    let empty = slots.allocate();
    debug_assert_eq!(empty, Some(BlockId(SsmPool::EMPTY)));
    // A token's place in the pool is a `u32`.
    let num_pages = options.num_pages.min(u32::MAX as usize / options.page_size.max(1));
    let pages = BlockAllocator::new(num_pages);
    let memory = Memory { pages, slots, page_size: options.page_size, num_preempted: 0 };
    (kv, ssm, memory)
}
