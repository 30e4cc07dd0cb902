//! Plain tensor operations over the whole logit matrix.

use super::LogProbOutput;
use crate::precision::{accumulation_dtype, cast_to};
use crate::softmax::COLDEST;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation::log_softmax};

/// See [`linear_log_prob`](super::linear_log_prob()).
pub fn linear_log_prob(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
) -> LogProbOutput {
    let log_probs = log_softmax(logits(hidden, weight, temperature), 1);
    let detached = log_probs.clone().detach();
    let entropy = (detached.clone().exp() * detached).sum_dim(1).neg();
    let log_prob = log_probs.gather(1, targets.unsqueeze_dim::<2>(1));
    LogProbOutput { log_prob: log_prob.squeeze_dim(1), entropy: entropy.squeeze_dim(1) }
}

/// See [`ScoredRows::score`](super::ScoredRows::score): the results, and the logarithms of the denominators.
pub fn scored(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
) -> (LogProbOutput, Tensor<1>) {
    let target_logits = logits(hidden.clone(), weight.clone(), temperature)
        .gather(1, targets.clone().unsqueeze_dim::<2>(1))
        .squeeze_dim::<1>(1);
    let output = linear_log_prob(hidden, weight, targets, temperature);
    let log_sum_exp = target_logits - output.log_prob.clone();
    (output, log_sum_exp)
}

/// See [`ScoredRows::backward`](super::ScoredRows::backward).
pub fn scored_backward(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
    log_sum_exp: Tensor<1>,
    cotangent: Tensor<1>,
    sum: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let slopes = slopes(hidden.clone(), weight.clone(), targets, temperature, log_sum_exp, cotangent);
    let (dtype, wide) = (hidden.dtype(), accumulation_dtype(hidden.dtype()));
    let gradient = slopes.clone().matmul(cast_to(weight, wide));
    (cast_to(gradient, dtype), sum + slopes.transpose().matmul(cast_to(hidden, wide)))
}

/// See [`ScoredRows::hidden_backward`](super::ScoredRows::hidden_backward).
pub fn hidden_backward(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
    log_sum_exp: Tensor<1>,
    cotangent: Tensor<1>,
) -> Tensor<2> {
    let (dtype, wide) = (hidden.dtype(), accumulation_dtype(hidden.dtype()));
    let slopes = slopes(hidden, weight.clone(), targets, temperature, log_sum_exp, cotangent);
    cast_to(slopes.matmul(cast_to(weight, wide)), dtype)
}

/// The gradient of the logits before the temperature, `[rows, vocabulary]`.
fn slopes(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
    log_sum_exp: Tensor<1>,
    cotangent: Tensor<1>,
) -> Tensor<2> {
    let factor = (cotangent / temperature.max(COLDEST)).unsqueeze_dim::<2>(1);
    let vocabulary = weight.dims()[0] as i64;
    let probabilities = (logits(hidden, weight, temperature) - log_sum_exp.unsqueeze_dim::<2>(1)).exp();
    let slopes = probabilities.neg() * factor.clone();
    let rows = Tensor::arange(0..targets.dims()[0] as i64, &targets.device());
    let [count, columns] = slopes.dims();
    slopes
        .reshape([count * columns])
        .select_assign(0, rows * vocabulary + targets, factor.squeeze_dim(1), IndexingUpdateOp::Add)
        .reshape([count, columns])
}

fn logits(hidden: Tensor<2>, weight: Tensor<2>, temperature: f64) -> Tensor<2> {
    let wide = accumulation_dtype(hidden.dtype());
    cast_to(hidden, wide).matmul(cast_to(weight, wide).transpose()) / temperature.max(COLDEST)
}
