//! Plain tensor operations over the whole logit matrix.

use super::LogProbOutput;
use crate::precision::{accumulation_dtype, cast_to};
use crate::softmax::COLDEST;
use burn::tensor::{Int, Tensor, activation::log_softmax};

/// See [`linear_log_prob`](super::linear_log_prob()).
pub fn linear_log_prob(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
) -> LogProbOutput {
    let wide = accumulation_dtype(hidden.dtype());
    let logits = cast_to(hidden, wide).matmul(cast_to(weight, wide).transpose()) / temperature.max(COLDEST);
    let log_probs = log_softmax(logits, 1);
    let detached = log_probs.clone().detach();
    let entropy = (detached.clone().exp() * detached).sum_dim(1).neg();
    let log_prob = log_probs.gather(1, targets.unsqueeze_dim::<2>(1));
    LogProbOutput { log_prob: log_prob.squeeze_dim(1), entropy: entropy.squeeze_dim(1) }
}
