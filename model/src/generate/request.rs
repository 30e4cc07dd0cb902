//! What callers say to the engine and what it answers.

use serde::{Deserialize, Serialize};

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// Handle of one open sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceId(pub u64);

/// What the random numbers of one sampled sequence depend on, besides the position of the token in it.
///
/// Randomness is keyed and never positional, so a sequence's tokens do not depend on which other sequences shared
/// the batch, nor on the order in which they finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleKey {
    /// Seed of the run.
    pub seed: u64,
    /// Training step; evaluations use their own disjoint range.
    pub step: u64,
    /// Position of the task in the step.
    pub task: u64,
    /// Which of the samples of the task.
    pub sample: u64,
}

/// How the tokens of one turn are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy (the most probable token, the lower id among equals).
    pub temperature: f64,
    /// Nucleus sampling; 1 keeps every token.
    pub top_p: f64,
    /// Keeps only tokens with at least this share of the largest probability; 0 keeps every token.
    pub min_p: f64,
    /// Keeps only the k most probable tokens; `None` keeps every token.
    pub top_k: Option<usize>,
    /// The turn ends with [`StopReason::Length`] after this many tokens.
    pub max_new_tokens: usize,
}

impl SamplingParams {
    /// The temperature as kernels take it. One too small for f32 is still above 0: only 0 itself means greedy. What is no number stays none.
    pub(super) fn temperature_f32(&self) -> f32 {
        if self.temperature <= 0.0 { 0.0 } else { (self.temperature as f32).clamp(f32::MIN_POSITIVE, f32::INFINITY) }
    }
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model sampled a stop token, which is the last of the turn's tokens.
    EndOfTurn,
    /// `max_new_tokens` were sampled and none of them was a stop token.
    Length,
    /// The sequence reached the longest length the engine can hold; the turn may have no tokens at all.
    ContextFull,
}

/// A turn that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnEnd {
    /// The sequence the turn belongs to.
    pub sequence: SequenceId,
    /// The sampled tokens, including the stop token when there is one.
    pub tokens: Vec<TokenId>,
    /// Log-probability of each of `tokens` under the distribution it was drawn from (for greedy turns: under
    /// temperature 1), natural logarithm, same length as `tokens`.
    pub log_probs: Vec<f32>,
    /// Why the turn ended.
    pub reason: StopReason,
}
