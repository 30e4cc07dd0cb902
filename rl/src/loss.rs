//! The clipped policy-gradient loss with its variants, on flat vectors of trained tokens.
//!
//! With c, p, g, f the log-probs of a token under the current policy, the policy before this update, the sampling
//! engine and the reference policy, A its advantage, sg() without gradient:
//!
//!   r  = exp(c - p)                                  r' = clamp(r, 1 - ratio_clip_min, 1 + ratio_clip_max)
//!   L  = max(-A r, -A r')      (PPO, <https://arxiv.org/abs/1707.06347>)
//!      | -A sg(r') c           (CISPO, <https://arxiv.org/abs/2506.13585>)
//!   L  = min(L, -A ratio_clip_c) where A < 0         (dual clip, <https://arxiv.org/abs/1912.09729>)
//!   w  = exp(p - g), without gradient, truncated     (importance weight; 1 without the correction)
//!   loss = sum w L / N_tok + kl_penalty * sum KL / N_tok + nll_weight * mean(-c over samples with reward > 0)
//!
//! GSPO (<https://arxiv.org/abs/2507.18071>) replaces c - p by its mean over the sequence. Sequence-level losses replace
//! 1 / N_tok by 1 / (tokens of the sequence * N_seq).
//!
//! Only trained tokens are in the vectors: what a mask would remove is not there, so no log-prob of a prompt or a tool
//! result is ever computed. The denominators are of the whole optimizer step and come from outside; a part of the batch
//! then contributes its share, and the shares of any split add up to the same loss.

mod metrics;

pub use metrics::{LossTermValues, divergence, jensen_shannon, loss_metrics, merge_loss_metrics};

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::config::{KlType, LossConfig, TruncationType};

/// Added to denominators over a batch, so that one without valid tokens gives 0 and not NaN.
const DENOMINATOR_EPSILON: f64 = 1e-8;

/// What is known about the trained tokens of a part of the batch, on the host. Per-token vectors have the same length;
/// tokens may be in any order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossTokens {
    /// The sequence of each token, below `num_sequences`.
    pub sequences: Vec<usize>,
    /// Sequences of this part, those without trained tokens included.
    pub num_sequences: usize,
    pub advantages: Vec<f32>,
    /// Log-probs before this update under the training forward; `None` when the current ones are those, as in the first
    /// update on a batch.
    pub prev_log_probs: Option<Vec<f32>>,
    /// Log-probs of the sampling engine.
    pub generation_log_probs: Vec<f32>,
    /// Log-probs of the reference policy; needed with a Kullback-Leibler penalty.
    pub reference_log_probs: Option<Vec<f32>>,
    /// Reward of each sequence; needed with `positive_example_nll_weight`.
    pub rewards: Option<Vec<f32>>,
}

impl LossTokens {
    /// Log-probs before this update; `None` when the current ones count as those.
    fn prev_log_probs_under(&self, config: &LossConfig) -> Option<&[f32]> {
        // On policy by definition: whatever else was measured is not looked at, also not by weights and metrics.
        if config.force_on_policy_ratio { None } else { self.prev_log_probs.as_deref() }
    }

    /// Trained tokens of each sequence.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths = vec![0; self.num_sequences];
        for &sequence in &self.sequences {
            lengths[sequence] += 1;
        }
        lengths
    }
}

/// Denominators of the whole optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossNormalizers {
    /// Trained tokens.
    pub valid_tokens: f64,
    /// Sequences that are not masked, those without trained tokens included.
    pub valid_sequences: f64,
}

/// Inputs of the loss of a part of the batch with `R` trained tokens.
#[derive(Debug, Clone)]
pub struct LossInputs<'a> {
    /// Current log-probs, `[R]` f32 or f64; the gradient goes here.
    pub log_probs: Tensor<1>,
    /// Current log-probs of the whole distribution, `[R]`, for the Kullback-Leibler term when sampling filters the
    /// distribution (the reference is never filtered); `None` takes `log_probs`.
    pub unfiltered_log_probs: Option<Tensor<1>>,
    pub tokens: &'a LossTokens,
}

/// The loss and its parts, each `[1]`.
#[derive(Debug, Clone)]
pub struct LossTerms {
    /// Sum of all terms.
    pub loss: Tensor<1>,
    /// The Kullback-Leibler term, penalty included.
    pub kl: Option<Tensor<1>>,
    /// The negative log-likelihood of positive samples, weight not included.
    pub positive_nll: Option<Tensor<1>>,
}

/// The loss of a part of the batch. Settings are those that `LossConfig::check` accepts.
///
/// # Panics
/// When vectors differ in length, or a vector that a setting needs is missing.
pub fn clipped_policy_gradient_loss(
    config: &LossConfig,
    inputs: LossInputs<'_>,
    normalizers: LossNormalizers,
) -> LossTerms {
    let LossInputs { log_probs, unfiltered_log_probs, tokens } = inputs;
    let context = Context::new(tokens, &log_probs, normalizers);
    let detached = log_probs.clone().detach();
    let prev = match tokens.prev_log_probs_under(config) {
        Some(values) => context.per_token(values),
        None => detached.clone(),
    };
    let generation = context.per_token(&tokens.generation_log_probs);
    let advantages = context.per_token(&tokens.advantages);
    let weights = context.reduction_weights(config.token_level_loss);

    let objective = token_objective(config, &context, log_probs.clone(), prev.clone(), advantages);
    let objective = match config.use_importance_sampling_correction {
        true => objective * importance_weights(config, &context, prev - generation.clone()),
        false => objective,
    };
    let mut loss = sum_in_order(objective * weights.clone());

    let mut kl = None;
    if let Some(reference) = context.reference(config) {
        let current = unfiltered_log_probs.unwrap_or_else(|| log_probs.clone());
        let log_weight = match config.use_on_policy_kl_approximation {
            true => current.clone() - generation,
            false => current.clone() - current.clone().detach(),
        };
        let term = sum_in_order(kl_per_token(config, current, reference, log_weight) * weights)
            * config.reference_policy_kl_penalty;
        loss = loss + term.clone();
        kl = Some(term);
    }
    let mut positive_nll = None;
    if config.positive_example_nll_weight > 0.0 {
        let term = sum_in_order(log_probs * context.positive_weights()).neg();
        loss = loss + term.clone() * config.positive_example_nll_weight;
        positive_nll = Some(term);
    }
    LossTerms { loss, kl, positive_nll }
}

/// The sum of all elements, `[1]`. Not Burn's `sum`, which on devices adds with atomics, in another order every time.
pub(crate) fn sum_in_order(values: Tensor<1>) -> Tensor<1> {
    match values.dims() {
        [0] => values.sum(),
        [count] => values.reshape([1, count]).sum_dim(1).reshape([1]),
    }
}

/// Whether the loss of a sequence with this advantage can move the weights.
pub fn has_gradient(config: &LossConfig, advantage: f32) -> bool {
    advantage != 0.0 || config.reference_policy_kl_penalty != 0.0 || config.positive_example_nll_weight != 0.0
}

/// The clipped objective of each token, `[R]`, before importance weights and denominators.
fn token_objective(
    config: &LossConfig,
    context: &Context<'_>,
    log_probs: Tensor<1>,
    prev: Tensor<1>,
    advantages: Tensor<1>,
) -> Tensor<1> {
    let negative = advantages.clone().neg();
    if config.disable_ppo_ratio {
        return negative * log_probs;
    }
    let log_ratio = log_probs.clone() - prev;
    let ratio = match config.sequence_level_importance_ratios {
        true => context.spread(context.sequence_means(log_ratio)).exp(),
        false => log_ratio.exp(),
    };
    let clamped = ratio.clone().clamp(1.0 - config.ratio_clip_min, 1.0 + config.ratio_clip_max);
    let objective = match config.use_cispo {
        true => negative.clone() * clamped.detach() * log_probs,
        false => (negative.clone() * ratio).max_pair(negative.clone() * clamped),
    };
    match config.ratio_clip_c {
        None => objective,
        Some(bound) => {
            let bounded = objective.clone().min_pair(negative * bound);
            objective.mask_where(advantages.lower_elem(0.0), bounded)
        }
    }
}

/// Weights `exp(p - g)` that correct for the engine's arithmetic, truncated as configured, `[R]`.
fn importance_weights(config: &LossConfig, context: &Context<'_>, difference: Tensor<1>) -> Tensor<1> {
    let difference = difference.detach();
    let raw = match config.sequence_level_importance_ratios {
        true => context.spread(context.sequence_sums(difference.clone())).exp(),
        false => difference.clone().exp(),
    };
    // A token the engine or the trainer holds for impossible has no meaningful weight.
    let broken = raw.clone().is_nan().bool_or(raw.clone().is_inf());
    let raw = raw.mask_fill(broken, 0.0);
    let (Some(kind), Some(max)) =
        (config.truncated_importance_sampling_type, config.truncated_importance_sampling_ratio)
    else {
        return raw;
    };
    let min = config.truncated_importance_sampling_ratio_min.unwrap_or(0.0);
    let outside = |weights: &Tensor<1>| weights.clone().lower_elem(min).bool_or(weights.clone().greater_elem(max));
    match kind {
        TruncationType::Tis => raw.clamp(min, max),
        TruncationType::Icepop => {
            let mask = outside(&raw);
            raw.mask_fill(mask, 0.0)
        }
        TruncationType::SeqMaskTis => {
            let mask = outside(&context.spread(context.sequence_means(difference)).exp());
            raw.mask_fill(mask, 0.0)
        }
    }
}

/// Estimate of the divergence from the reference policy at each token, `[R]`, penalty not included.
///
/// The weight `exp(log_weight)` is 1 in value on policy; its gradient is the score term that makes the estimate's gradient
/// unbiased.
fn kl_per_token(config: &LossConfig, current: Tensor<1>, reference: Tensor<1>, log_weight: Tensor<1>) -> Tensor<1> {
    let mut x = reference - current;
    if let Some(bound) = config.kl_input_clamp_value {
        x = x.clamp(-bound, bound);
    }
    let estimate = match config.reference_policy_kl_type {
        KlType::K1 => x.neg(),
        KlType::K2 => x.clone() * x * 0.5,
        KlType::K3 => x.clone().exp() - x - 1.0,
    };
    let weighted = log_weight.exp() * estimate;
    match config.kl_output_clamp_value {
        Some(bound) => weighted.clamp(-bound, bound),
        None => weighted,
    }
}

/// Host knowledge on the device of the log-probs.
struct Context<'a> {
    tokens: &'a LossTokens,
    like: Tensor<1>,
    lengths: Vec<usize>,
    normalizers: LossNormalizers,
}

impl<'a> Context<'a> {
    fn new(tokens: &'a LossTokens, log_probs: &Tensor<1>, normalizers: LossNormalizers) -> Self {
        let num_tokens = tokens.sequences.len();
        assert_eq!(log_probs.dims(), [num_tokens], "one log-prob per trained token");
        Context { tokens, like: log_probs.clone().detach(), lengths: tokens.lengths(), normalizers }
    }

    fn per_token(&self, values: &[f32]) -> Tensor<1> {
        assert_eq!(values.len(), self.tokens.sequences.len(), "one value per trained token");
        self.constant(values.iter().map(|value| f64::from(*value)).collect())
    }

    fn constant(&self, values: Vec<f64>) -> Tensor<1> {
        let length = values.len();
        let data = TensorData::new(values, [length]).convert_dtype(self.like.dtype());
        Tensor::from_data(data, (&self.like.device(), self.like.dtype()))
    }

    /// What each token's objective is multiplied by so that the sum is the loss.
    fn reduction_weights(&self, token_level: bool) -> Tensor<1> {
        let LossNormalizers { valid_tokens, valid_sequences } = self.normalizers;
        let weight = |sequence: &usize| match token_level {
            true => 1.0 / (valid_tokens + DENOMINATOR_EPSILON),
            false => {
                let length = self.lengths[*sequence] as f64;
                1.0 / length / (valid_sequences + DENOMINATOR_EPSILON)
            }
        };
        self.constant(self.tokens.sequences.iter().map(weight).collect())
    }

    /// Mean over the tokens of samples with positive reward; over this part of the batch only, as in NeMo RL.
    fn positive_weights(&self) -> Tensor<1> {
        let rewards = self.tokens.rewards.as_deref();
        let is_positive = |sequence: &usize| rewards.is_some_and(|rewards| rewards[*sequence] > 0.0);
        let count = self.tokens.sequences.iter().filter(|sequence| is_positive(sequence)).count();
        let weight = 1.0 / (count as f64 + DENOMINATOR_EPSILON);
        let weights = self.tokens.sequences.iter().map(|sequence| if is_positive(sequence) { weight } else { 0.0 });
        self.constant(weights.collect())
    }

    fn reference(&self, config: &LossConfig) -> Option<Tensor<1>> {
        let applies = config.reference_policy_kl_penalty != 0.0 && !config.use_kl_in_reward;
        let values = self.tokens.reference_log_probs.as_deref().filter(|_| applies);
        assert!(values.is_some() || !applies, "a Kullback-Leibler penalty needs the reference policy's log-probs");
        values.map(|values| self.per_token(values))
    }

    fn indices(&self) -> Tensor<1, Int> {
        let indices: Vec<i64> = self.tokens.sequences.iter().map(|sequence| *sequence as i64).collect();
        let length = indices.len();
        Tensor::from_data(TensorData::new(indices, [length]), &self.like.device())
    }

    /// `[R]` to `[num_sequences]`.
    fn sequence_sums(&self, values: Tensor<1>) -> Tensor<1> {
        self.constant(vec![0.0; self.lengths.len()]).select_assign(0, self.indices(), values, IndexingUpdateOp::Add)
    }

    /// `[R]` to `[num_sequences]`.
    fn sequence_means(&self, values: Tensor<1>) -> Tensor<1> {
        // A sequence without tokens has sum 0; any divisor but 0 gives its mean, 0.
        let lengths = self.lengths.iter().map(|length| (*length).max(1) as f64).collect();
        self.sequence_sums(values) / self.constant(lengths)
    }

    /// `[num_sequences]` to `[R]`.
    fn spread(&self, values: Tensor<1>) -> Tensor<1> {
        values.select(0, self.indices())
    }
}
