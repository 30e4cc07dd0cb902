//! What the loss reports, under NeMo RL's names, computed in f64 from plain slices.
//!
//! Most values are sums over the tokens of this part of the batch divided by the denominator of the whole optimizer step:
//! the values of all parts, merged by [`merge_loss_metrics`], are the values of the step.

use std::collections::BTreeMap;

use super::{DENOMINATOR_EPSILON, LossNormalizers, LossTokens};
use crate::config::{KlType, LossConfig, TruncationType};

/// The loss terms read back from the device.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossTermValues {
    pub loss: f64,
    pub kl: Option<f64>,
    pub positive_nll: Option<f64>,
}

/// Metrics of a part of the batch by name, without prefix.
///
/// `log_probs` are the current ones, one per trained token; `num_valid_sequences` counts the sequences of this part that
/// are not masked.
///
/// # Panics
/// When vectors differ in length.
pub fn loss_metrics(
    config: &LossConfig,
    tokens: &LossTokens,
    log_probs: &[f32],
    terms: LossTermValues,
    normalizers: LossNormalizers,
    num_valid_sequences: usize,
) -> BTreeMap<String, f64> {
    let current: Vec<f64> = log_probs.iter().map(|value| f64::from(*value)).collect();
    let prev: Vec<f64> = match tokens.prev_log_probs_under(config) {
        Some(values) => values.iter().map(|value| f64::from(*value)).collect(),
        None => current.clone(),
    };
    let generation: Vec<f64> = tokens.generation_log_probs.iter().map(|value| f64::from(*value)).collect();
    let num_tokens = tokens.sequences.len();
    assert!([current.len(), prev.len(), generation.len()] == [num_tokens; 3], "one value per trained token");
    let valid_tokens = normalizers.valid_tokens + DENOMINATOR_EPSILON;
    let valid_sequences = normalizers.valid_sequences + DENOMINATOR_EPSILON;
    let mean = |value: &dyn Fn(usize) -> f64| (0..num_tokens).map(value).sum::<f64>() / valid_tokens;
    let differences: Vec<f64> = (0..num_tokens).map(|t| prev[t] - generation[t]).collect();

    let ratios = ratios(config, tokens, &current, &prev);
    let clamped: Vec<f64> = match config.disable_ppo_ratio {
        true => ratios.clone(),
        false => {
            let (low, high) = (1.0 - config.ratio_clip_min, 1.0 + config.ratio_clip_max);
            ratios.iter().map(|ratio| ratio.clamp(low, high)).collect()
        }
    };
    let (weight, out_of_bounds) = importance_weight(config, tokens, &differences, valid_tokens, valid_sequences);
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let penalty = config.reference_policy_kl_penalty;
    let divergence = |x: f64| divergence(config.reference_policy_kl_type, x);
    let metrics = [
        ("loss", terms.loss),
        ("kl_penalty", terms.kl.filter(|kl| *kl != 0.0).map_or(0.0, |kl| kl / penalty)),
        ("positive_nll_loss", terms.positive_nll.unwrap_or(0.0)),
        ("probs_ratio", mean(&|t| ratios[t])),
        ("probs_ratio_clamped", mean(&|t| clamped[t])),
        ("probs_ratio_min", least(&ratios)),
        ("probs_ratio_max", most(&ratios)),
        ("probs_ratio_clamped_min", least(&clamped)),
        ("probs_ratio_clamped_max", most(&clamped)),
        ("token_mult_prob_error", mean(&|t| differences[t].abs().exp())),
        ("gen_kl_error", mean(&|t| divergence(differences[t]))),
        ("policy_kl_error", mean(&|t| divergence(-differences[t]))),
        ("js_divergence_error", mean(&|t| jensen_shannon(prev[t], generation[t]))),
        ("approx_entropy", -mean(&|t| (current[t] - generation[t]).exp() * current[t])),
        ("sampling_importance_ratio", weight),
        ("num_valid_samples", num_valid_sequences as f64),
    ];
    let mut metrics: BTreeMap<String, f64> =
        metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if config.sequence_level_importance_ratios {
        // NeMo RL multiplies the sum of the sequences' weights by the number of valid sequences; kept, since values are
        // compared with its logs.
        let sums = sequence_sums(tokens, &differences).into_iter().map(|sum| finite(sum.exp())).sum::<f64>();
        let value = sums * num_valid_sequences as f64 / valid_sequences;
        metrics.insert("sampling_importance_ratio".to_owned(), value);
    }
    if let Some(share) = out_of_bounds {
        metrics.insert("is_oob_ratio".to_owned(), share);
    }
    metrics
}

/// Adds the metrics of another part of the batch: extrema by extremum, everything else as a sum.
pub fn merge_loss_metrics(into: &mut BTreeMap<String, f64>, part: &BTreeMap<String, f64>) {
    for (name, value) in part {
        let merged = match into.get(name) {
            None => *value,
            Some(known) if name.ends_with("_min") => known.min(*value),
            Some(known) if name.ends_with("_max") => known.max(*value),
            Some(known) => known + value,
        };
        into.insert(name.clone(), merged);
    }
}

/// The ratio of each token as the loss uses it.
fn ratios(config: &LossConfig, tokens: &LossTokens, current: &[f64], prev: &[f64]) -> Vec<f64> {
    let log_ratios: Vec<f64> = current.iter().zip(prev).map(|(c, p)| c - p).collect();
    if config.disable_ppo_ratio {
        return current.to_vec();
    }
    if config.sequence_level_importance_ratios {
        let means = sequence_means(tokens, &log_ratios);
        return tokens.sequences.iter().map(|sequence| means[*sequence].exp()).collect();
    }
    log_ratios.into_iter().map(f64::exp).collect()
}

/// Mean importance weight after truncation, and the share of tokens or sequences outside the bounds if there are any.
fn importance_weight(
    config: &LossConfig,
    tokens: &LossTokens,
    differences: &[f64],
    valid_tokens: f64,
    valid_sequences: f64,
) -> (f64, Option<f64>) {
    let raw: Vec<f64> = differences.iter().map(|difference| finite(difference.exp())).collect();
    let mean = |weights: &[f64]| weights.iter().sum::<f64>() / valid_tokens;
    let (Some(kind), Some(max)) =
        (config.truncated_importance_sampling_type, config.truncated_importance_sampling_ratio)
    else {
        return (mean(&raw), None);
    };
    let min = config.truncated_importance_sampling_ratio_min.unwrap_or(0.0);
    let is_outside = |weight: f64| weight < min || weight > max;
    let share = raw.iter().filter(|weight| is_outside(**weight)).count() as f64 / valid_tokens;
    match kind {
        TruncationType::Tis => {
            let weights: Vec<f64> = raw.iter().map(|weight| weight.clamp(min, max)).collect();
            (mean(&weights), Some(share))
        }
        TruncationType::Icepop => {
            let weights: Vec<f64> = raw.iter().map(|weight| if is_outside(*weight) { 0.0 } else { *weight }).collect();
            (mean(&weights), Some(share))
        }
        TruncationType::SeqMaskTis => {
            let means: Vec<f64> = sequence_means(tokens, differences).into_iter().map(f64::exp).collect();
            let weights: Vec<f64> = tokens
                .sequences
                .iter()
                .zip(&raw)
                .map(|(sequence, weight)| if is_outside(means[*sequence]) { 0.0 } else { *weight })
                .collect();
            let outside = means.iter().filter(|mean| is_outside(**mean)).count() as f64;
            (mean(&weights), Some(outside / valid_sequences))
        }
    }
}

/// A weight that is not a number counts as 0, as it does in the loss.
fn finite(weight: f64) -> f64 {
    if weight.is_finite() { weight } else { 0.0 }
}

/// Estimate of a Kullback-Leibler divergence from one sample whose log-prob differs by `x`, in nats.
pub fn divergence(kind: KlType, x: f64) -> f64 {
    match kind {
        KlType::K1 => -x,
        KlType::K2 => x * x / 2.0,
        KlType::K3 => x.exp_m1() - x,
    }
}

/// Jensen-Shannon divergence estimated at one token from its two log-probs.
pub fn jensen_shannon(a: f64, b: f64) -> f64 {
    let middle = ((a.exp() + b.exp()) / 2.0).ln();
    let half = |x: f64| x.exp_m1() - x;
    0.5 * half(a - middle) + 0.5 * half(b - middle)
}

fn sequence_sums(tokens: &LossTokens, values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; tokens.num_sequences];
    for (sequence, value) in tokens.sequences.iter().zip(values) {
        sums[*sequence] += value;
    }
    sums
}

fn sequence_means(tokens: &LossTokens, values: &[f64]) -> Vec<f64> {
    let sums = sequence_sums(tokens, values);
    sums.iter().zip(tokens.lengths()).map(|(sum, length)| sum / length.max(1) as f64).collect()
}
