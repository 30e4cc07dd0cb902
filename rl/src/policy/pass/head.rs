//! The last cell: norm, head and log-probabilities of the trained tokens.
//!
//! Only trained tokens have logits, and those exist in tiles. The head's gradient is summed where the sink keeps it, without
//! a graph; the norm has a graph of its own, like any block.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use nemo_kernels::{LogProbOutput, ScoredRows};
use nemo_model::{NemotronH, RmsNorm};

use super::Scoring;
use super::sink::GradientSink;

/// What is asked of the head in one pass.
#[derive(Debug)]
pub(super) struct Head<'a> {
    model: &'a NemotronH,
    temperature: f64,
    /// The mean of the head's rows `[1, hidden]`, where the log-probabilities of all tokens are asked for.
    mean: Option<Tensor<2>>,
}

/// Positions of a run that predict trained tokens.
#[derive(Debug)]
pub(super) struct Targets {
    /// Indices into the run's padded tokens.
    positions: Tensor<1, Int>,
    /// The trained tokens.
    tokens: Tensor<1, Int>,
}

impl Targets {
    /// One position and one token per row.
    pub fn new(model: &NemotronH, positions: Vec<i64>, tokens: Vec<i64>) -> Self {
        let indices = |values: Vec<i64>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), &model.device())
        };
        Self { positions: indices(positions), tokens: indices(tokens) }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.dims()[0]
    }
}

/// The graph of the norm over some positions of a run.
#[derive(Debug)]
pub(super) struct NormedRows {
    norm: RmsNorm,
    hidden: Tensor<3>,
    normed: Tensor<2>,
}

/// What the head says about some rows.
#[derive(Debug)]
pub(super) struct Scores {
    pub output: LogProbOutput,
    /// See [`TrainedRows::spread`](super::TrainedRows::spread).
    pub spread: Option<Tensor<1>>,
    /// With which the rows are put together again.
    pub log_sum_exp: Tensor<1>,
}

/// Gradients of [`Scores`].
#[derive(Debug)]
pub(super) struct ScoreGradients {
    pub log_prob: Tensor<1>,
    pub spread: Option<Tensor<1>>,
}

impl<'a> Head<'a> {
    /// The model's head.
    pub fn new(model: &'a NemotronH, Scoring { temperature, spread }: Scoring) -> Self {
        let mean = spread.then(|| wide(model.head_weight()).mean_dim(0));
        Self { model, temperature, mean }
    }

    /// The normed residual stream at the targets' positions.
    pub fn normed(&self, hidden: Tensor<3>, targets: &Targets) -> NormedRows {
        let mut norm = self.model.final_norm().clone();
        if self.is_trained() {
            norm.visit_mut("", &mut |_, mut parameter| parameter.trace());
        }
        let hidden = hidden.autodiff().require_grad();
        let normed = select(&norm, hidden.clone(), targets);
        NormedRows { norm, hidden, normed }
    }

    /// Scores rows of a run that is not differentiated.
    pub fn score_plain(&self, hidden: Tensor<3>, targets: &Targets) -> Scores {
        self.score_normed(select(self.model.final_norm(), hidden, targets), targets)
    }

    /// Scores rows of a run.
    pub fn score(&self, rows: &NormedRows, targets: &Targets) -> Scores {
        self.score_normed(rows.normed.clone().without_autodiff(), targets)
    }

    fn score_normed(&self, normed: Tensor<2>, targets: &Targets) -> Scores {
        let spread =
            self.differences(targets).map(|differences| (normed.clone() * differences).sum_dim(1).squeeze_dim(1));
        let head = self.model.head_weight();
        let (scored, output) = ScoredRows::score(normed, head, targets.tokens.clone(), self.temperature);
        Scores { output, spread, log_sum_exp: scored.log_sum_exp() }
    }

    /// Whether norm and head have gradients: those of a model with an adapter have none.
    fn is_trained(&self) -> bool {
        self.model.adapter().is_none()
    }

    /// The gradient of the residual stream that `rows` were taken from; those of norm and head go to the sink, where they are
    /// trained.
    pub fn backward(
        &self,
        rows: NormedRows,
        targets: &Targets,
        log_sum_exp: Tensor<1>,
        gradients: ScoreGradients,
        sink: &mut GradientSink,
    ) -> Option<Tensor<3>> {
        let (model, name) = (self.model, self.model.head_name());
        let normed = rows.normed.clone().without_autodiff();
        let (tokens, temperature) = (targets.tokens.clone(), self.temperature);
        let scored = ScoredRows::scored_before(normed.clone(), model.head_weight(), tokens, temperature, log_sum_exp);
        let mut d_normed = None;
        if self.is_trained() {
            sink.update_table(model, name, |sum| {
                let (gradient, sum) = scored.backward(gradients.log_prob, sum);
                d_normed = Some(gradient);
                sum
            });
        } else {
            d_normed = Some(scored.hidden_backward(gradients.log_prob));
        }
        if let (Some(d_spread), Some(differences)) = (gradients.spread, self.differences(targets)) {
            let d_spread = d_spread.unsqueeze_dim::<2>(1);
            d_normed = d_normed.map(|gradient| gradient + differences * d_spread.clone());
            if self.is_trained() {
                let d_differences = normed * d_spread;
                sink.update_table(model, name, |sum| {
                    let vocabulary = sum.dims()[0] as f64;
                    let sum = sum + d_differences.clone().sum_dim(0) / vocabulary;
                    sum.select_assign(0, targets.tokens.clone(), d_differences.neg(), IndexingUpdateOp::Add)
                });
            }
        }
        let mut gradients = nemo_kernels::carry(rows.normed, d_normed?).backward();
        let mut norm = rows.norm;
        if self.is_trained() {
            sink.add_final_norm(&mut norm, &mut gradients);
        }
        rows.hidden.grad_remove(&mut gradients)
    }

    /// Mean row of the head less each target's row, `[rows, hidden]`.
    ///
    /// The mean over the vocabulary of log p(v) is log p(target) + h . (mean of W - W[target]), since the log p(v) of one
    /// position differ from each other by h . (W[v] - W[target]): it needs no logits.
    fn differences(&self, targets: &Targets) -> Option<Tensor<2>> {
        let mean = self.mean.clone()?;
        Some(mean - wide(self.model.head_weight().select(0, targets.tokens.clone())))
    }
}

/// `[targets, hidden]` of the residual stream `[rows, tokens, hidden]`, normed.
fn select(norm: &RmsNorm, hidden: Tensor<3>, targets: &Targets) -> Tensor<2> {
    let [rows, tokens, width] = hidden.dims();
    let count = targets.len();
    let hidden = hidden.reshape([rows * tokens, width]).select(0, targets.positions.clone());
    norm.forward(hidden.reshape([1, count, width])).reshape([count, width])
}

fn wide(matrix: Tensor<2>) -> Tensor<2> {
    if matrix.dtype() == DType::BF16 { matrix.cast(DType::F32) } else { matrix }
}
