//! Admission: which new prompts are computed, and what they share.
//!
//! What all new prompts start with is cached as a prefix, and each prompt of several samples is computed once, up to the token
//! whose logits its samples need. Everything after that point is a fork: it copies nothing, and its first write goes to a
//! slot and a page of its own.
//!
//! A prompt leaves the queue only when its samples have their place in the caches. Whatever keeps it from that, it waits in
//! the queue as before.

use std::collections::BTreeMap;

use nemo_kernels::DeviceError;

use super::engine::Engine;
use super::prefix::common_prefix;
use super::request::{SequenceId, TokenId};
use super::sequence::{Phase, Run, Sequence};

impl Engine {
    /// Gives the sequences of new prompts their place in the caches, as far as there is room.
    ///
    /// # Errors
    /// When the device fails; the prompts are still queued then.
    pub(super) fn admit_new_prompts(&mut self) -> Result<(), DeviceError> {
        let prompts = self.admissible_prompts();
        self.cache_shared_prefix(&prompts)?;
        let (mut shared, mut nodes) = (Vec::new(), Vec::new());
        for samples in &prompts {
            if let [id] = samples[..] {
                let run = self.fork_prefix(self.sequences[&id].run.tokens.clone());
                self.place(id, run);
            } else {
                let node = self.fork_prefix(self.shared_tokens(samples));
                shared.push(samples);
                nodes.push(node);
            }
        }
        self.compute(&mut nodes)?;
        // The first that could not be computed, and had the caches to itself, will never be.
        let waits = nodes.iter().position(|node| !node.pending().is_empty());
        let too_large = waits.filter(|&first| !nodes[..first].iter().any(Run::holds_memory));
        for (samples, node) in shared.iter().zip(nodes) {
            if node.pending().is_empty() {
                for &id in *samples {
                    let tokens = self.sequences[&id].run.tokens.clone();
                    let run = Run { tokens, ..self.memory.fork(&node) };
                    self.place(id, run);
                }
            }
            self.memory.release(node);
        }
        if let Some(first) = too_large {
            for &id in shared[first] {
                self.fail(id, self.too_large(id));
            }
        }
        Ok(())
    }

    /// As many queued prompts as there is room for, each as its samples: at least one when nothing is being sampled.
    fn admissible_prompts(&self) -> Vec<Vec<SequenceId>> {
        let mut queue: BTreeMap<SequenceId, Vec<SequenceId>> = BTreeMap::new();
        for (&id, sequence) in &self.sequences {
            if let Phase::Queued { prompt, .. } = sequence.phase {
                queue.entry(prompt).or_default().push(id);
            }
        }
        let idle = !self.sequences.values().any(Sequence::is_sampled);
        // Half of the slots stay free for the forks, which need one each.
        let mut slots = (self.memory.slots.num_free() / 2).max(usize::from(idle));
        let mut pages = self.memory.pages.num_free();
        let fits = |samples: &Vec<SequenceId>| {
            let needed = self.sequences[&samples[0]].run.tokens.len().div_ceil(self.options.page_size) + 1;
            let fits = slots > 0 && (pages >= needed || (idle && pages == self.memory.pages.num_free()));
            slots = slots.saturating_sub(1);
            pages = pages.saturating_sub(needed);
            fits
        };
        queue.into_values().take_while(fits).collect()
    }

    /// Computes and caches what several prompts start with, if that is long enough. When it finds no room, the prompts do
    /// without.
    fn cache_shared_prefix(&mut self, prompts: &[Vec<SequenceId>]) -> Result<(), DeviceError> {
        let prompt = |samples: &Vec<SequenceId>| self.sequences[&samples[0]].run.tokens.as_slice();
        let shared = shared_length(prompts.iter().map(prompt));
        if prompts.len() < 2 || shared < self.options.min_shared_prefix {
            return Ok(());
        }
        let cached = self.prefixes.longest(prompt(&prompts[0])).map_or(0, |run| run.tokens.len());
        if cached < shared {
            let tokens = prompt(&prompts[0])[..shared].to_vec();
            let mut prefix = [self.fork_prefix(tokens)];
            self.compute(&mut prefix)?;
            let [prefix] = prefix;
            let superfluous = match prefix.pending().is_empty() {
                true => self.prefixes.insert(prefix, self.options.max_cached_prefixes),
                false => Some(prefix),
            };
            superfluous.into_iter().for_each(|run| self.memory.release(run));
        }
        Ok(())
    }

    /// What all samples of a prompt start with: the prompt but for its last token, unless their first turns have begun with
    /// tokens of their own.
    fn shared_tokens(&self, samples: &[SequenceId]) -> Vec<TokenId> {
        let mut tokens = samples.iter().map(|id| self.sequences[id].run.tokens.as_slice());
        let length = shared_length(tokens.clone());
        tokens.next().map_or_else(Vec::new, |first| first[..length].to_vec())
    }

    /// A run of `tokens` that starts from the longest cached prefix.
    fn fork_prefix(&mut self, tokens: Vec<TokenId>) -> Run {
        match self.prefixes.longest(&tokens) {
            Some(prefix) => Run { tokens, ..self.memory.fork(prefix) },
            None => Run { tokens, ..Run::default() },
        }
    }

    /// Runs what is pending in `runs` through the model until nothing is, or no run can get the memory for more.
    ///
    /// # Errors
    /// When the device fails; the runs then hold nothing.
    fn compute(&mut self, runs: &mut [Run]) -> Result<(), DeviceError> {
        while self.advance(runs)?.is_some() {}
        Ok(())
    }

    /// Takes a sequence out of the queue and has it go on as `run`.
    fn place(&mut self, id: SequenceId, run: Run) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.run = run;
            sequence.leave_queue();
        }
    }
}

/// How many tokens all of `sequences` start with, but for the last token of each, whose logits it is there to give.
fn shared_length<'a>(sequences: impl Iterator<Item = &'a [TokenId]> + Clone) -> usize {
    let shortest = sequences.clone().map(|tokens| tokens.len() - 1).min().unwrap_or(0);
    common_prefix(sequences).min(shortest)
}
