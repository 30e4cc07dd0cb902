//! Log-probability of given tokens under a language-model head.
//!
//! `logits = hidden weight^T / temperature`, `log_prob[r] = log_softmax(logits[r])[targets[r]]`,
//! and the entropy of the same distribution. Formed in f32 (f64 stays f64).

pub mod reference;

use crate::error::assert_shape;
use burn::tensor::{Int, Tensor};

/// Result of [`linear_log_prob`].
#[derive(Clone, Debug)]
pub struct LogProbOutput {
    /// `[rows]` log-probability of each row's target, in nats.
    pub log_prob: Tensor<1>,
    /// `[rows]` entropy of each row's distribution, in nats. Never carries a gradient.
    pub entropy: Tensor<1>,
}

/// Scores each row's target token under the head `weight` at a sampling `temperature`.
///
/// # Shapes
/// - `hidden`: `[rows, width]`
/// - `weight`: `[vocabulary, width]`
/// - `targets`: `[rows]`, each in `0..vocabulary`
/// - results: `[rows]`, f32 (f64 for f64 inputs)
///
/// # Panics
/// When shapes disagree.
pub fn linear_log_prob(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
) -> LogProbOutput {
    const NAME: &str = "linear_log_prob";
    let [rows, width] = hidden.dims();
    let [vocabulary, _] = weight.dims();
    assert_shape(NAME, "weight", &weight.dims(), &[vocabulary, width]);
    assert_shape(NAME, "targets", &targets.dims(), &[rows]);
    reference::linear_log_prob(hidden, weight, targets, temperature)
}
