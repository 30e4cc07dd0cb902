//! Log-probability of given tokens under a language-model head.
//!
//! `logits = hidden weight^T / temperature`, `log_prob[r] = log_softmax(logits[r])[targets[r]]`,
//! and the entropy of the same distribution. Formed in f32 (f64 stays f64).

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;
mod scored;

use crate::cpu::is_host_f32;
use crate::dispatch::has_kernel;
use crate::error::assert_shape;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, IntDType, Tensor};

pub use scored::ScoredRows;

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
/// - `temperature`: above 0
/// - results: `[rows]`, f32 (f64 for f64 inputs)
///
/// # Panics
/// When shapes disagree or `temperature` is not above 0. A target outside the vocabulary panics on the host; on a device,
/// where looking would cost a copy, its result means nothing.
pub fn linear_log_prob(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
) -> LogProbOutput {
    check("linear_log_prob", &hidden, &weight, &targets, temperature);
    if has_kernel(&hidden) && has_kernel(&weight) {
        let targets = kernel_targets(targets, &hidden).into_dispatch();
        let (log_prob, entropy) =
            Dispatch::linear_log_prob(hidden.into_dispatch(), weight.into_dispatch(), targets, temperature);
        return LogProbOutput { log_prob: Tensor::from_dispatch(log_prob), entropy: Tensor::from_dispatch(entropy) };
    }
    reference::linear_log_prob(hidden, weight, targets, temperature)
}

fn check(operation: &'static str, hidden: &Tensor<2>, weight: &Tensor<2>, targets: &Tensor<1, Int>, temperature: f64) {
    let [rows, width] = hidden.dims();
    let [vocabulary, _] = weight.dims();
    assert_shape(operation, "weight", &weight.dims(), &[vocabulary, width]);
    assert_shape(operation, "targets", &targets.dims(), &[rows]);
    assert!(temperature > 0.0, "{operation}: `temperature` is {temperature}, but it must be above 0");
}

/// The targets in the type that the kernels beside `hidden` take: devices without 64-bit integers exist.
fn kernel_targets(targets: Tensor<1, Int>, hidden: &Tensor<2>) -> Tensor<1, Int> {
    targets.cast(if is_host_f32(hidden) { IntDType::I64 } else { IntDType::I32 })
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait LinearLogProbOps: Backend {
    /// Log-probabilities and entropies, see [`linear_log_prob`](fn@linear_log_prob); `targets` in
    /// i64 on the host and i32 elsewhere.
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Results and softmax denominators of the rows, `[rows]` each: log-probabilities, entropies and the logarithms of the
/// denominators.
type RowScores<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

/// The gradient of [`LinearLogProbOps`]. Never differentiated itself.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait LinearLogProbGradient: Backend {
    /// Log-probabilities, entropies and the logarithms of the softmax denominators, `[rows]` each; `targets` as in
    /// [`LinearLogProbOps`].
    fn linear_log_prob_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of `hidden`, and `sum` `[vocabulary, width]` with the weight's gradient added, from the cotangent of
    /// the log-probabilities.
    fn linear_log_prob_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
        sum: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The same under a weight that is not trained: the gradient of `hidden` alone, with the same bits.
    fn linear_log_prob_hidden_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}
