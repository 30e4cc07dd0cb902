//! From judged trajectories to the batch of an optimizer step.

use std::collections::HashMap;

use crate::metrics::Metrics;
use crate::policy::api::{TokenId, TrainBatch, TrainSequence};
use crate::shuffle::{KeyedRng, Purpose};
use crate::trajectory::Trajectory;

/// The group of each trajectory: trajectories whose prompts are the same token ids belong together, also
/// when they come from different records. Groups are numbered in order of appearance.
pub fn prompt_groups(trajectories: &[Trajectory]) -> Vec<usize> {
    let mut numbers: HashMap<&[TokenId], usize> = HashMap::new();
    trajectories
        .iter()
        .map(|trajectory| {
            let next = numbers.len();
            *numbers.entry(trajectory.prompt()).or_insert(next)
        })
        .collect()
}

/// Permutes the rewards within each group: the control experiment, in which the advantages have the right
/// sizes and no meaning.
pub fn shuffle_rewards_within_groups(rewards: &mut [f64], groups: &[usize], seed: u64, step: u64) {
    let num_groups = groups.iter().max().map_or(0, |last| last + 1);
    for group in 0..num_groups {
        let members: Vec<usize> = (0..rewards.len()).filter(|&i| groups[i] == group).collect();
        let mut values: Vec<f64> = members.iter().map(|&i| rewards[i]).collect();
        KeyedRng::new(Purpose::RewardControl, &[seed, step, group as u64]).shuffle(&mut values);
        for (&i, value) in members.iter().zip(values) {
            rewards[i] = value;
        }
    }
}

/// The batch of an optimizer step. With `overlong_filtering`, trajectories that reached the longest allowed length take
/// no part in the loss (they did in the baselines).
pub fn train_batch(trajectories: &[Trajectory], advantages: &[f32], overlong_filtering: bool) -> TrainBatch {
    assert_eq!(trajectories.len(), advantages.len(), "one advantage per trajectory");
    let mut batch = TrainBatch { sequences: Vec::new(), global_valid_tokens: 0, global_valid_sequences: 0 };
    for (trajectory, &advantage) in trajectories.iter().zip(advantages) {
        let filtered = overlong_filtering && trajectory.truncated;
        let mask = if filtered { vec![false; trajectory.mask.len()] } else { trajectory.mask.clone() };
        batch.global_valid_sequences += usize::from(!filtered);
        batch.global_valid_tokens += mask.iter().filter(|trained| **trained).count();
        batch.sequences.push(TrainSequence {
            tokens: trajectory.tokens.clone(),
            generation_log_probs: if filtered { vec![0.0; mask.len()] } else { trajectory.log_probs.clone() },
            mask,
            advantage,
        });
    }
    batch
}

/// Sizes and advantages of a batch, under NeMo RL's names without prefix. Statistics of advantages are over
/// trained tokens.
pub fn batch_metrics(batch: &TrainBatch, trajectories: &[Trajectory], baselines: &[f32]) -> Metrics {
    let n = batch.sequences.len().max(1) as f64;
    let (mut sum, mut num_tokens) = (0.0, 0usize);
    let (mut lowest, mut highest) = (f64::INFINITY, f64::NEG_INFINITY);
    for sequence in &batch.sequences {
        let trained = sequence.mask.iter().filter(|trained| **trained).count();
        let advantage = f64::from(sequence.advantage);
        if trained > 0 {
            sum += advantage * trained as f64;
            num_tokens += trained;
            lowest = lowest.min(advantage);
            highest = highest.max(advantage);
        }
    }
    let percent = |value: f32| 100.0 * baselines.iter().filter(|b| **b == value).count() as f64 / n;
    let (none, all) = (percent(0.0), percent(1.0));
    let prompts: usize = trajectories.iter().map(|t| t.prompt_length).sum();
    let tokens: usize = batch.sequences.iter().map(|s| s.tokens.len()).sum();
    let mut metrics: Metrics = [
        ("global_valid_seqs", batch.global_valid_sequences as f64),
        ("global_valid_toks", batch.global_valid_tokens as f64),
        ("mean_prompt_length", prompts as f64 / n),
        ("total_num_tokens", tokens as f64),
        ("baseline_reward/pct_0", none),
        ("baseline_reward/pct_1", all),
        ("baseline_reward/pct_mixed", 100.0 - none - all),
        ("advantages/sum", sum),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if num_tokens > 0 {
        metrics.insert("advantages/mean".to_owned(), sum / num_tokens as f64);
        metrics.insert("advantages/min".to_owned(), lowest);
        metrics.insert("advantages/max".to_owned(), highest);
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_permutes_within_groups_only() {
        let groups: Vec<usize> = (0..60).map(|i| i % 3).collect();
        let before: Vec<f64> = (0..60).map(|i| f64::from(i / 30) + f64::from(i % 3) * 10.0).collect();
        let mut after = before.clone();
        shuffle_rewards_within_groups(&mut after, &groups, 1, 2);
        assert_ne!(before, after);
        for group in 0..3 {
            let sorted = |rewards: &[f64]| {
                let mut values: Vec<f64> =
                    rewards.iter().zip(&groups).filter(|(_, g)| **g == group).map(|(r, _)| *r).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            assert_eq!(sorted(&before), sorted(&after));
        }
        let mut again = before.clone();
        shuffle_rewards_within_groups(&mut again, &groups, 1, 2);
        assert_eq!(after, again);
        shuffle_rewards_within_groups(&mut again, &groups, 1, 3);
        assert_ne!(after, again);
    }
}
