//! One sequence inside the engine: its tokens, how many of them the caches hold, and what it is waiting for.

use crate::cache::BlockId;

use super::request::{SampleKey, SamplingParams, SequenceId, TokenId};

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

    /// Whether a slot or pages are its own or shared with it.
    pub fn holds_memory(&self) -> bool {
        self.slot.is_some() || !self.pages.is_empty()
    }

    /// Leaves the tokens and nothing in the caches. Slot and pages are dropped, not released.
    pub fn forget(&mut self) {
        self.computed = 0;
        self.slot = None;
        self.pages.clear();
    }
}

/// A sequence and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub run: Run,
    pub phase: Phase,
}

/// Where a sequence stands between its begin and its end.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Its prompt waits to be computed, together with the prompt's other samples: those with the same `prompt`, which is the
    /// first of them. It holds nothing. Its first turn may have begun already.
    Queued { prompt: SequenceId, turn: Option<Turn> },
    /// It waits for a turn to begin. What it holds can be taken away from it.
    Waiting,
    /// Its turn is being sampled.
    Sampled(Turn),
}

impl Sequence {
    /// The open turn.
    pub fn turn(&self) -> Option<&Turn> {
        match &self.phase {
            Phase::Queued { turn, .. } => turn.as_ref(),
            Phase::Waiting => None,
            Phase::Sampled(turn) => Some(turn),
        }
    }

    /// Whether passes go over it.
    pub fn is_sampled(&self) -> bool {
        matches!(self.phase, Phase::Sampled(_))
    }

    /// Opens a turn; there is no other.
    pub fn begin_turn(&mut self, begun: Turn) {
        match &mut self.phase {
            Phase::Queued { turn, .. } => *turn = Some(begun),
            Phase::Waiting | Phase::Sampled(_) => self.phase = Phase::Sampled(begun),
        }
    }

    /// Closes the open turn. A queued prompt stays queued.
    pub fn end_turn(&mut self) -> Option<Turn> {
        match &mut self.phase {
            Phase::Queued { turn, .. } => turn.take(),
            Phase::Waiting => None,
            Phase::Sampled(_) => match std::mem::replace(&mut self.phase, Phase::Waiting) {
                Phase::Sampled(turn) => Some(turn),
                Phase::Queued { .. } | Phase::Waiting => None,
            },
        }
    }

    /// Puts an end to waiting in the queue; any other phase stays.
    pub fn leave_queue(&mut self) {
        if let Phase::Queued { turn, .. } = &mut self.phase {
            self.phase = turn.take().map_or(Phase::Waiting, Phase::Sampled);
        }
    }
}

/// A turn that is open.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub key: SampleKey,
    pub sampling: SamplingParams,
    pub tokens: Vec<TokenId>,
    pub log_probs: Vec<f32>,
}
