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

use crate::cpu::is_host_f32;
use crate::dispatch::has_kernel;
use crate::error::assert_shape;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, IntDType, Tensor};

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
    const NAME: &str = "linear_log_prob";
    let [rows, width] = hidden.dims();
    let [vocabulary, _] = weight.dims();
    assert_shape(NAME, "weight", &weight.dims(), &[vocabulary, width]);
    assert_shape(NAME, "targets", &targets.dims(), &[rows]);
    assert!(temperature > 0.0, "{NAME}: `temperature` is {temperature}, but it must be above 0");
    if has_kernel(&hidden) && has_kernel(&weight) {
        // Devices without 64-bit integers exist.
        let target_dtype = if is_host_f32(&hidden) { IntDType::I64 } else { IntDType::I32 };
        let (log_prob, entropy) = Dispatch::linear_log_prob(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.cast(target_dtype).into_dispatch(),
            temperature,
        );
        return LogProbOutput { log_prob: Tensor::from_dispatch(log_prob), entropy: Tensor::from_dispatch(entropy) };
    }
    reference::linear_log_prob(hidden, weight, targets, temperature)
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

/// Results and softmax denominators of the rows, `[rows]` each.
#[derive(Clone, Debug)]
pub struct LogProbRows<B: Backend> {
    log_prob: FloatTensor<B>,
    entropy: FloatTensor<B>,
    log_sum_exp: FloatTensor<B>,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub struct LogProbSaved<B: Backend> {
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
    temperature: f64,
    log_sum_exp: FloatTensor<B>,
}

/// The gradient of [`LinearLogProbOps`].
pub trait LinearLogProbGradient: Backend {
    /// The operation together with its softmax denominators.
    fn linear_log_prob_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> LogProbRows<Self>;

    /// Gradients of `hidden` and `weight` from the cotangent of the log-probabilities.
    fn linear_log_prob_backward(saved: LogProbSaved<Self>, cotangent: FloatTensor<Self>) -> [FloatTensor<Self>; 2];
}
