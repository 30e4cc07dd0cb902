//! Cached prefixes: runs whose state many prompts continue (system text and tools, above all).
//!
//! Invariant: a cached run is fully computed, so a fork of it starts with nothing pending but the fork's own tokens.

use super::request::TokenId;
use super::sequence::Run;

/// The most recently used prefixes, newest last.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    pub(super) runs: Vec<Run>,
}

impl PrefixCache {
    /// The longest cached run that `tokens` starts with and goes beyond; it becomes the newest.
    pub fn longest(&mut self, tokens: &[TokenId]) -> Option<&Run> {
        let found = (0..self.runs.len())
            .filter(|&i| self.runs[i].tokens.len() < tokens.len() && tokens.starts_with(&self.runs[i].tokens))
            .max_by_key(|&i| self.runs[i].tokens.len())?;
        let run = self.runs.remove(found);
        self.runs.push(run);
        self.runs.last()
    }

    /// Adds a run as the newest; returns what falls out beyond `capacity`.
    pub fn insert(&mut self, run: Run, capacity: usize) -> Option<Run> {
        self.runs.push(run);
        (self.runs.len() > capacity).then(|| self.runs.remove(0))
    }

    /// Takes out the oldest run, to make room.
    pub fn evict(&mut self) -> Option<Run> {
        (!self.runs.is_empty()).then(|| self.runs.remove(0))
    }
}

/// Length of the longest common prefix of all of `prompts`; 0 for none.
pub(super) fn common_prefix<'a>(mut prompts: impl Iterator<Item = &'a [TokenId]>) -> usize {
    let Some(first) = prompts.next() else { return 0 };
    prompts.fold(first.len(), |length, prompt| first[..length].iter().zip(prompt).take_while(|(a, b)| a == b).count())
}
