//! One sequence inside the engine: its tokens, how many of them the caches hold, and its open turn.

use crate::cache::BlockId;

use super::request::{SampleKey, SamplingParams, TokenId};

/// Tokens and where their state is kept. Both live sequences and cached prefixes are runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// All tokens, sampled or given.
    pub tokens: Vec<TokenId>,
    /// How many leading tokens the state slot and the pages hold.
    pub computed: usize,
    /// Slot of the state after `computed` tokens; `None` stands for the empty state.
    pub slot: Option<BlockId>,
    /// Pages of keys and values, enough for `computed` tokens.
    pub pages: Vec<BlockId>,
}

impl Run {
    /// Tokens that still have to go through the model.
    pub fn pending(&self) -> &[TokenId] {
        &self.tokens[self.computed..]
    }
}

/// A sequence with its open turn, if any.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub run: Run,
    pub turn: Option<Turn>,
}

/// A turn being sampled.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub key: SampleKey,
    pub sampling: SamplingParams,
    pub tokens: Vec<TokenId>,
    pub log_probs: Vec<f32>,
}
