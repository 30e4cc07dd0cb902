//! Log-probabilities now, their gradient later, without a graph: for a caller that sums the weight's gradient itself.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::{LinearLogProbGradient, LogProbOutput, check, kernel_targets, reference};
use crate::cpu::is_host_f32;
use crate::dispatch::has_kernel;

/// Rows that were scored under a head, and what their gradient is formed from.
#[derive(Clone, Debug)]
pub struct ScoredRows {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    temperature: f64,
    log_sum_exp: Tensor<1>,
}

impl ScoredRows {
    /// Scores each row's target, as [`linear_log_prob`](fn@super::linear_log_prob) does, with the same results.
    ///
    /// Beside `hidden` in f32 on the host the weight may be in bf16; it counts as widened.
    ///
    /// # Shapes and panics
    /// As those of [`linear_log_prob`](fn@super::linear_log_prob); tracked tensors panic too.
    pub fn score(
        hidden: Tensor<2>,
        weight: Tensor<2>,
        targets: Tensor<1, Int>,
        temperature: f64,
    ) -> (Self, LogProbOutput) {
        check("ScoredRows::score", &hidden, &weight, &targets, temperature);
        let (output, log_sum_exp) = if runs_kernel(&hidden, &weight) {
            let (log_prob, entropy, log_sum_exp) = Dispatch::linear_log_prob_forward(
                hidden.clone().into_dispatch(),
                weight.clone().into_dispatch(),
                kernel_targets(targets.clone(), &hidden).into_dispatch(),
                temperature,
            );
            let [log_prob, entropy, log_sum_exp] = [log_prob, entropy, log_sum_exp].map(Tensor::from_dispatch);
            (LogProbOutput { log_prob, entropy }, log_sum_exp)
        } else {
            reference::scored(hidden.clone(), weight.clone(), targets.clone(), temperature)
        };
        (Self { hidden, weight, targets, temperature, log_sum_exp }, output)
    }

    /// The logarithms of the softmax denominators `[rows]`: with them the rows can be put together again by
    /// [`ScoredRows::scored_before`], which scores nothing.
    pub fn log_sum_exp(&self) -> Tensor<1> {
        self.log_sum_exp.clone()
    }

    /// Rows that were scored before and dropped since: the same arguments, and the denominators of that time.
    pub fn scored_before(
        hidden: Tensor<2>,
        weight: Tensor<2>,
        targets: Tensor<1, Int>,
        temperature: f64,
        log_sum_exp: Tensor<1>,
    ) -> Self {
        Self { hidden, weight, targets, temperature, log_sum_exp }
    }

    /// The gradient of the hidden values, and `sum` with the gradient of the weight added, in place where `sum` is the
    /// only handle.
    ///
    /// # Shapes
    /// - `cotangent`: `[rows]`, of the log-probabilities
    /// - `sum`: `[vocabulary, width]`, f32 (f64 for f64 inputs)
    /// - results: `[rows, width]` in the dtype of `hidden`, `[vocabulary, width]`
    ///
    /// # Panics
    /// When shapes disagree.
    pub fn backward(self, cotangent: Tensor<1>, sum: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Self { hidden, weight, targets, temperature, log_sum_exp } = self;
        crate::error::assert_shape("ScoredRows::backward", "sum", &sum.dims(), &weight.dims());
        if !runs_kernel(&hidden, &weight) {
            return reference::scored_backward(hidden, weight, targets, temperature, log_sum_exp, cotangent, sum);
        }
        let targets = kernel_targets(targets, &hidden);
        let (gradient, sum) = Dispatch::linear_log_prob_backward(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
            temperature,
            log_sum_exp.into_dispatch(),
            cotangent.into_dispatch(),
            sum.into_dispatch(),
        );
        (Tensor::from_dispatch(gradient), Tensor::from_dispatch(sum))
    }

    /// The gradient of the hidden values alone, under a weight that is not trained: nothing as large as the weight is made.
    ///
    /// # Shapes and panics
    /// As those of [`Self::backward`].
    pub fn hidden_backward(self, cotangent: Tensor<1>) -> Tensor<2> {
        let Self { hidden, weight, targets, temperature, log_sum_exp } = self;
        if !runs_kernel(&hidden, &weight) {
            return reference::hidden_backward(hidden, weight, targets, temperature, log_sum_exp, cotangent);
        }
        let targets = kernel_targets(targets, &hidden);
        Tensor::from_dispatch(Dispatch::linear_log_prob_hidden_backward(
            hidden.into_dispatch(),
            weight.into_dispatch(),
            targets.into_dispatch(),
            temperature,
            log_sum_exp.into_dispatch(),
            cotangent.into_dispatch(),
        ))
    }
}

fn runs_kernel(hidden: &Tensor<2>, weight: &Tensor<2>) -> bool {
    has_kernel(hidden) && (has_kernel(weight) || is_host_f32(hidden) && weight.dtype() == DType::BF16)
}
