//! `grpo.*` and `loss_fn.*`: the algorithm.

use serde::{Deserialize, Serialize};

use crate::limits::{self, at_most};

/// The optimisation loop: batch composition, validation, reward and advantage rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrpoConfig {
    /// Passes over the training tasks; the run ends at this or at `max_num_steps`, whichever comes first.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub max_num_epochs: usize,
    #[serde(deserialize_with = "at_most::<{ limits::BATCH }, _>")]
    pub num_prompts_per_step: usize,
    /// Rollouts of one prompt, the group over which advantages are relative.
    #[serde(deserialize_with = "at_most::<{ limits::GENERATIONS_PER_PROMPT }, _>")]
    pub num_generations_per_prompt: usize,
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub max_num_steps: usize,
    /// Used for logged baselines and dynamic sampling; advantages use `adv_estimator`'s copy.
    pub normalize_rewards: bool,
    pub use_leave_one_out_baseline: bool,
    /// Steps between validations; 0 disables periodic validation.
    #[serde(deserialize_with = "at_most::<{ limits::COUNT }, _>")]
    pub val_period: usize,
    /// First step at which periodic validation may run.
    pub val_start_at: i64,
    pub val_at_start: bool,
    pub val_at_end: bool,
    /// Leave rollouts that filled the context out of the loss (not out of the baselines).
    pub overlong_filtering: bool,
    pub advantage_clip_low: Option<f32>,
    pub advantage_clip_high: Option<f32>,
    #[serde(deserialize_with = "at_most::<{ limits::GENERATIONS_PER_PROMPT }, _>")]
    pub val_num_generations_per_prompt: usize,
    /// Validate a second time with the most probable token always, reported as `greedy_...`. *Own key.*
    pub val_greedy: bool,
    /// Validation metric, one of `VALIDATION_METRICS`, that ends the run once it reaches the threshold.
    pub stop_at_validation_metric: Option<String>,
    pub stop_at_validation_threshold: Option<f64>,
    /// Root of every random choice of the run.
    pub seed: u64,
    pub use_dynamic_sampling: bool,
    pub batch_multiplier: f64,
    pub adv_estimator: AdvantageEstimatorConfig,
    pub skip_reference_policy_logprobs_calculation: bool,
    /// Mask samples whose mean `exp|generation - training log-prob|` exceeds this.
    pub seq_logprob_error_threshold: Option<f64>,
    /// Advantage written over turns with an invalid tool call.
    pub invalid_tool_call_advantage: Option<f32>,
    /// Advantage written over turns with malformed thinking tags.
    pub malformed_thinking_advantage: Option<f32>,
}

/// How rewards of a group become advantages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdvantageEstimatorConfig {
    pub name: AdvantageEstimatorName,
    pub normalize_rewards: bool,
    pub use_leave_one_out_baseline: bool,
}

/// Advantage estimators known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageEstimatorName {
    Grpo,
    ReinforcePlusPlus,
}

/// The clipped policy-gradient loss and its variants; the module `loss` of nemo-rl has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossConfig {
    /// Weight of the Kullback-Leibler term against the reference policy; 0 needs no reference policy.
    pub reference_policy_kl_penalty: f64,
    pub reference_policy_kl_type: KlType,
    /// Bound of `|reference - current log-prob|` inside the estimator; null is unbounded.
    pub kl_input_clamp_value: Option<f64>,
    /// Bound of the estimator's absolute value; null is unbounded.
    pub kl_output_clamp_value: Option<f64>,
    /// The ratio is clipped to `[1 - ratio_clip_min, 1 + ratio_clip_max]`.
    pub ratio_clip_min: f64,
    pub ratio_clip_max: f64,
    /// Dual clip: bound of the loss for negative advantages, in units of `-advantage`; more than 1.
    pub ratio_clip_c: Option<f64>,
    pub use_on_policy_kl_approximation: bool,
    pub use_importance_sampling_correction: bool,
    pub truncated_importance_sampling_type: Option<TruncationType>,
    /// Upper bound of the importance weight.
    pub truncated_importance_sampling_ratio: Option<f64>,
    /// Lower bound of the importance weight.
    pub truncated_importance_sampling_ratio_min: Option<f64>,
    /// Average over tokens of the batch; false averages over sequences.
    pub token_level_loss: bool,
    /// Plain policy gradient on the log-probs, without a ratio.
    pub disable_ppo_ratio: bool,
    /// One ratio per sequence (GSPO).
    pub sequence_level_importance_ratios: bool,
    /// The ratio is 1 by construction; its gradient is that of the current log-probs.
    pub force_on_policy_ratio: bool,
    /// Clip the weight of the log-prob instead of the objective (CISPO).
    pub use_cispo: bool,
    /// Apply the Kullback-Leibler penalty to rewards instead of the loss.
    pub use_kl_in_reward: bool,
    /// Weight of the negative log-likelihood of samples with positive reward.
    pub positive_example_nll_weight: f64,
}

/// Estimators of the Kullback-Leibler divergence from samples, <http://joschu.net/blog/kl-approx.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlType {
    K1,
    K2,
    K3,
}

/// What happens to importance weights outside their bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TruncationType {
    /// Clamp the token's weight.
    Tis,
    /// Drop the token.
    Icepop,
    /// Drop the whole sample when its geometric-mean weight is outside; other weights stay as they are.
    SeqMaskTis,
}
