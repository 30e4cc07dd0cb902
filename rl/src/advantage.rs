//! Group-relative advantages: how much better a rollout did than the others of its prompt.
//!
//! For a sample with reward `r` whose group leaves `n` rewards to compare with (all of the group, or all but its own with
//! the leave-one-out baseline):
//!
//!   baseline = mean(others)         std = sqrt(sum((others - baseline)^2) / (n - 1)), 0 for n < 2
//!   advantage = r - baseline        divided by (std + 1e-6) when normalised and std > 0
//!
//! With leave-one-out the single success (or failure) of a group has others that are all equal, hence std 0 and an
//! advantage that is not normalised, while its siblings' are. That is NeMo RL's rule and kept. Equality is decided on the
//! rewards themselves, not on a computed std: rounding of a mean would leave a tiny std and an enormous advantage.

use std::collections::HashMap;
use std::hash::Hash;

use crate::config::GrpoConfig;

/// Added to a positive std before dividing.
const STD_EPSILON: f64 = 1e-6;

/// One number per rollout, in the order of the rewards.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupAdvantages {
    pub advantages: Vec<f32>,
    pub baselines: Vec<f32>,
    pub stds: Vec<f32>,
}

/// Advantages as a configuration asks for them: estimated under `grpo.adv_estimator`, then clipped to
/// `grpo.advantage_clip_low` and `_high`. Baselines and stds, which are for logs, follow `grpo` itself, as in NeMo RL.
///
/// # Panics
/// When the lengths differ.
pub fn group_advantages<G: Eq + Hash>(rewards: &[f64], groups: &[G], grpo: &GrpoConfig) -> GroupAdvantages {
    let estimator = &grpo.adv_estimator;
    let mut result =
        relative_to_group(rewards, groups, estimator.use_leave_one_out_baseline, estimator.normalize_rewards);
    if estimator.use_leave_one_out_baseline != grpo.use_leave_one_out_baseline {
        let logged = relative_to_group(rewards, groups, grpo.use_leave_one_out_baseline, false);
        (result.baselines, result.stds) = (logged.baselines, logged.stds);
    }
    clip_advantages(&mut result.advantages, grpo.advantage_clip_low, grpo.advantage_clip_high);
    result
}

/// Advantages of rollouts within their groups, by the formula above.
///
/// `groups[i]` says to which prompt rollout `i` belongs, by whatever identifies a prompt; NeMo RL uses its token ids, so
/// that two tasks with the same prompt form one group.
///
/// # Panics
/// When the lengths differ.
pub fn relative_to_group<G: Eq + Hash>(
    rewards: &[f64],
    groups: &[G],
    use_leave_one_out_baseline: bool,
    normalize_rewards: bool,
) -> GroupAdvantages {
    assert_eq!(groups.len(), rewards.len(), "one group per reward");
    let mut members: HashMap<&G, Vec<usize>> = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(index);
    }
    let mut result = GroupAdvantages {
        advantages: vec![0.0; rewards.len()],
        baselines: vec![0.0; rewards.len()],
        stds: vec![0.0; rewards.len()],
    };
    // The order of the map does not matter: groups share nothing.
    for group in members.values() {
        for &index in group {
            // A group of one has nothing to be compared with and is its own baseline.
            let leaves_itself_out = use_leave_one_out_baseline && group.len() > 1;
            let others = || {
                group.iter().filter(move |other| !(leaves_itself_out && **other == index)).map(|other| rewards[*other])
            };
            let (baseline, std) = mean_and_std(others);
            let difference = rewards[index] - baseline;
            let advantage = match normalize_rewards && std > 0.0 {
                true => difference / (std + STD_EPSILON),
                false => difference,
            };
            result.advantages[index] = advantage as f32;
            result.baselines[index] = baseline as f32;
            result.stds[index] = std as f32;
        }
    }
    result
}

/// Bounds advantages in place; `None` leaves that side open.
pub fn clip_advantages(advantages: &mut [f32], low: Option<f32>, high: Option<f32>) {
    for advantage in advantages {
        *advantage = advantage.max(low.unwrap_or(f32::NEG_INFINITY)).min(high.unwrap_or(f32::INFINITY));
    }
}

/// Mean and sample standard deviation, summed in order. Equal values have exactly themselves as mean and 0 as std.
fn mean_and_std<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> (f64, f64) {
    let first = values().next().unwrap_or(0.0);
    if values().all(|value| value == first) {
        return (first, 0.0);
    }
    let count = values().count() as f64;
    let mean = values().sum::<f64>() / count;
    let squares: f64 = values().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_is_not_normalised() {
        let mut rewards = [0.0; 16];
        rewards[0] = 1.0;
        let result = relative_to_group(&rewards, &[7; 16], true, true);
        assert_eq!(result.advantages[0], 1.0);
        assert!((result.advantages[1] + 0.258_198).abs() < 1e-5);
    }

    #[test]
    fn a_pair_and_a_single_have_no_spread() {
        let result = relative_to_group(&[0.3, 1.0, 0.0], &["a", "b", "b"], true, true);
        assert_eq!(result.advantages, [0.0, 1.0, -1.0]);
        assert_eq!(result.baselines, [0.3, 0.0, 1.0]);
        assert_eq!(result.stds, [0.0; 3]);
    }

    #[test]
    fn order_and_names_of_groups_do_not_matter() {
        let rewards = [1.0, 0.0, 0.5, 0.25, 1.0, 0.0];
        let interleaved = relative_to_group(&rewards, &[1, 2, 1, 2, 1, 2], true, true);
        let renamed = relative_to_group(&rewards, &["x", "y", "x", "y", "x", "y"], true, true);
        assert_eq!(interleaved, renamed);
    }

    #[test]
    fn clipping_bounds_both_sides() {
        let mut advantages = [-3.0, -0.5, 0.5, 3.0];
        clip_advantages(&mut advantages, Some(-1.0), None);
        assert_eq!(advantages, [-1.0, -0.5, 0.5, 3.0]);
        clip_advantages(&mut advantages, None, Some(2.0));
        assert_eq!(advantages, [-1.0, -0.5, 0.5, 2.0]);
    }
}
