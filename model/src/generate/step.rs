//! One pass: which sequences advance by how many tokens, the memory they need for it, and the pass through the model.

use burn::tensor::Tensor;
use nemo_kernels::{DeviceError, WriteCheck};

use super::engine::Engine;
use super::memory::PageCopies;
use super::request::{SequenceId, StopReason};
use super::scheduler::{Candidate, next_pass};
use super::sequence::Run;
use crate::cache::{BlockId, SsmPool};
use crate::paged::PagedRow;

impl Engine {
    /// Ends turns of sequences that have no room for another token.
    pub(super) fn end_full_sequences(&mut self) {
        let limit = self.options.max_sequence_length;
        let full = self.sequences.iter_mut().filter(|(_, sequence)| sequence.run.tokens.len() >= limit);
        self.ended
            .extend(full.filter_map(|(&id, sequence)| Some(sequence.end_turn()?.end(id, StopReason::ContextFull))));
    }

    /// One pass over the sequences that are being sampled. When none of them can get the memory it needs, the oldest one
    /// fails, for which all others have made room.
    ///
    /// # Errors
    /// When the device fails; no turn ends then.
    pub(super) fn advance_open_turns(&mut self) -> Result<(), DeviceError> {
        let sampled = self.sequences.iter().filter(|(_, sequence)| sequence.is_sampled());
        let open: Vec<SequenceId> = sampled.map(|(&id, _)| id).collect();
        let Some(&oldest) = open.first() else { return Ok(()) };
        let mut runs: Vec<Run> = open.iter().map(|id| self.take_run(*id)).collect();
        let advanced = self.advance(&mut runs);
        let ready: Vec<bool> = runs.iter().map(|run| run.pending().is_empty()).collect();
        for (id, run) in open.iter().zip(runs) {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.run = run;
            }
        }
        let Some((rows, hidden)) = advanced? else {
            self.fail(oldest, self.too_large(oldest));
            return Ok(());
        };
        let to_sample: Vec<(SequenceId, usize)> = rows
            .iter()
            .enumerate()
            .filter(|&(_, &index)| ready[index])
            .map(|(row, &index)| (open[index], row))
            .collect();
        self.sample(&to_sample, hidden)
    }

    /// One pass over some of `runs`: which ones, and their normed hidden values `[rows, hidden]` at their last new
    /// token. When memory is short, idle prefixes go first, then younger runs; a run for which neither helps waits.
    /// `None` when nothing is pending, or every run with pending tokens waits.
    ///
    /// # Errors
    /// When the device fails; the runs and everything else then hold nothing.
    pub(super) fn advance(&mut self, runs: &mut [Run]) -> Result<Option<(Vec<usize>, Tensor<2>)>, DeviceError> {
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
                self.check_written(None).map_err(|error| self.lose(runs, error))?;
            }
            if !rows.is_empty() {
                return self.run_pass(runs, &rows).map(Some);
            }
            let oldest = pass.rows.iter().map(|row| row.0).min().unwrap_or(0);
            if self.make_room(runs, oldest) {
                continue;
            }
            candidates.retain(|candidate| candidate.index != oldest);
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
        let idle = self.sequences.values_mut().rev().map(|sequence| &mut sequence.run).find(|run| run.holds_memory());
        let victim = match idle {
            Some(run) => Some(run),
            None => runs[wanted + 1..].iter_mut().rev().find(|run| run.holds_memory()),
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
    ) -> Result<(Vec<usize>, Tensor<2>), DeviceError> {
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
        self.check_written(Some(&hidden)).map_err(|error| self.lose(runs, error))?;
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
    fn check_written(&mut self, hidden: Option<&Tensor<2>>) -> Result<(), DeviceError> {
        #[cfg(test)]
        match self.checks_before_failure.take() {
            Some(0) => return Err(DeviceError::Failed("as a test has it".to_owned())),
            left => self.checks_before_failure = left.map(|left| left - 1),
        }
        let mut check = WriteCheck::default();
        hidden.into_iter().for_each(|hidden| check.add(hidden));
        self.kv.add_to(&mut check);
        self.ssm.add_to(&mut check);
        check.finish()
    }

    /// Drops the caches after the device has failed: nobody knows which parts of them it has lost. `runs` are those that no
    /// sequence holds at the moment.
    pub(super) fn lose(&mut self, runs: &mut [Run], error: DeviceError) -> DeviceError {
        runs.iter_mut().for_each(Run::forget);
        self.release_caches();
        error
    }

    fn take_run(&mut self, id: SequenceId) -> Run {
        self.sequences.get_mut(&id).map(|sequence| std::mem::take(&mut sequence.run)).unwrap_or_default()
    }
}
