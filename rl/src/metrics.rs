//! The numbers of a step, under NeMo RL's names, and the file they are written to.
//!
//! `metrics.jsonl` holds one JSON object per step. After a resume it continues behind the checkpoint's step:
//! lines of steps that will be computed again are moved to `metrics.superseded.jsonl`, so no step appears
//! twice and nothing that was written is lost.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::KlType;
use crate::loss::{divergence, jensen_shannon};
use crate::policy::api::{TrainBatch, UpdateReport};
use crate::trajectory::{Ending, Trajectory};

/// Metric names and values.
pub type Metrics = BTreeMap<String, f64>;

/// Adds `metrics` under `prefix`, for example `train/`.
pub fn insert_prefixed(into: &mut Metrics, prefix: &str, metrics: &Metrics) {
    into.extend(metrics.iter().map(|(name, value)| (format!("{prefix}{name}"), *value)));
}

/// Mean, extrema, median, sample standard deviation and two percentiles of some numbers, as
/// `name/mean`, …; nothing for no numbers. The deviation of a single number is NaN. The percentiles are the
/// elements at index `floor(q · n)` of the sorted numbers.
pub fn single_metric_stats(name: &str, values: &[f64]) -> Metrics {
    let n = values.len();
    if n == 0 {
        return Metrics::new();
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / n as f64;
    let squares = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    let stddev = if n < 2 { f64::NAN } else { (squares / (n - 1) as f64).sqrt() };
    let percentile = |q: f64| sorted[((q * n as f64) as usize).min(n - 1)];
    [
        ("mean", mean),
        ("min", sorted[0]),
        ("max", sorted[n - 1]),
        ("median", (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0),
        ("stddev", stddev),
        ("p95", percentile(0.95)),
        ("p99", percentile(0.99)),
    ]
    .into_iter()
    .map(|(statistic, value)| (format!("{name}/{statistic}"), value))
    .collect()
}

/// Metrics of a set of episodes, without prefix; nothing for no episodes.
pub fn rollout_metrics(trajectories: &[Trajectory]) -> Metrics {
    let n = trajectories.len();
    if n == 0 {
        return Metrics::new();
    }
    let values = |f: &dyn Fn(&Trajectory) -> f64| trajectories.iter().map(f).collect::<Vec<f64>>();
    let mut metrics = Metrics::new();
    for (name, values) in [
        ("turns_per_sample", values(&|t| t.turns.len() as f64)),
        ("total_tokens_per_sample", values(&|t| t.tokens.len() as f64)),
        ("gen_tokens_per_sample", values(&|t| t.num_sampled_tokens() as f64)),
        ("max_gen_tokens_per_turn", values(&|t| t.longest_turn() as f64)),
        ("total_reward", values(&|t| t.outcome.reward)),
    ] {
        metrics.extend(single_metric_stats(name, &values));
    }
    let share = |f: &dyn Fn(&Trajectory) -> bool| trajectories.iter().filter(|t| f(t)).count() as f64 / n as f64;
    let sampled: usize = trajectories.iter().map(Trajectory::num_sampled_tokens).sum();
    metrics.extend([
        ("natural_termination_rate".to_owned(), share(&|t| t.ending == Ending::Message)),
        ("truncation_rate".to_owned(), share(&|t| t.truncated)),
        ("max_new_tokens_rate".to_owned(), share(&|t| t.ending == Ending::Length)),
        ("results_too_long_rate".to_owned(), share(&|t| t.ending == Ending::ResultsTooLong)),
        ("max_steps_rate".to_owned(), share(&|t| t.ending == Ending::MaxSteps)),
        ("malformed_call_rate".to_owned(), share(&|t| t.num_malformed_turns > 0)),
        ("mean_gen_tokens_per_sample".to_owned(), sampled as f64 / n as f64),
        ("calls_per_sample".to_owned(), trajectories.iter().map(|t| t.calls.len()).sum::<usize>() as f64 / n as f64),
    ]);
    metrics
}

/// How well the training forward agrees with the engine that sampled, over the trained tokens of a batch.
///
/// p is the training forward's own log-probability before the update, g the engine's. With one update per
/// batch p is also the current log-probability of the loss. `kind` is the estimator of the two divergences.
pub fn fidelity_metrics(batch: &TrainBatch, report: &UpdateReport, kind: KlType) -> Metrics {
    let mut num_tokens = 0usize;
    let (mut mult_error, mut gen_kl, mut policy_kl, mut js, mut entropy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let mut largest = 0.0f64;
    for (sequence, own) in batch.sequences.iter().zip(&report.log_probs) {
        for ((&g, &p), _) in
            sequence.generation_log_probs.iter().zip(own).zip(&sequence.mask).filter(|(_, trained)| **trained)
        {
            let (g, p) = (f64::from(g), f64::from(p));
            num_tokens += 1;
            mult_error += (g - p).abs().exp();
            gen_kl += divergence(kind, p - g);
            policy_kl += divergence(kind, g - p);
            js += jensen_shannon(p, g);
            entropy -= (p - g).exp() * p;
            // A NaN must not hide behind `max`.
            largest = if (g - p).is_nan() { f64::NAN } else { largest.max((g - p).abs()) };
        }
    }
    let n = num_tokens.max(1) as f64;
    [
        ("token_mult_prob_error", mult_error / n),
        ("gen_kl_error", gen_kl / n),
        ("policy_kl_error", policy_kl / n),
        ("js_divergence_error", js / n),
        ("approx_entropy", entropy / n),
        ("max_log_prob_difference", largest),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Why the metrics could not be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: the metrics could not be {action}: {source}; make room or check permissions, then the same command goes on \
     from the last checkpoint", path.display()
)]
pub struct MetricsError {
    /// The file.
    pub path: PathBuf,
    /// `read` or `written`.
    pub action: &'static str,
    /// What the operating system said.
    pub source: std::io::Error,
}

/// The open `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    history: Vec<(u64, Metrics)>,
}

impl MetricsLog {
    /// Opens the log of a run that continues behind `resumed_step`, or starts one (`None`).
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(folder: &Path, resumed_step: Option<u64>) -> Result<Self, MetricsError> {
        let path = folder.join("metrics.jsonl");
        let failed = |action| {
            let path = path.clone();
            move |source| MetricsError { path, action, source }
        };
        let old = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read")(error)),
        };
        let mut history = Vec::new();
        let (mut kept, mut superseded) = (String::new(), String::new());
        for line in old.split_inclusive('\n') {
            match parse_line(line).filter(|(step, _)| resumed_step.is_some_and(|last| *step <= last)) {
                Some(entry) => {
                    kept.push_str(line);
                    history.push(entry);
                }
                // Also a line torn by a kill: its step comes again.
                None => superseded.push_str(line.trim_end_matches('\n')),
            }
            if !superseded.is_empty() && !superseded.ends_with('\n') {
                superseded.push('\n');
            }
        }
        if !superseded.is_empty() {
            append(&folder.join("metrics.superseded.jsonl"), &superseded).map_err(failed("written"))?;
            let aside = folder.join("metrics.jsonl.tmp");
            fs::write(&aside, kept).map_err(failed("written"))?;
            fs::rename(&aside, &path).map_err(failed("written"))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed("written"))?;
        Ok(Self { path, file, history })
    }

    /// Writes the line of a step; numbers that are not finite become `null`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricsError> {
        let mut line = Map::new();
        line.insert("step".to_owned(), step.into());
        line.extend(metrics.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        let line = format!("{}\n", Value::Object(line));
        self.file.write_all(line.as_bytes()).map_err(|source| MetricsError {
            path: self.path.clone(),
            action: "written",
            source,
        })?;
        self.history.push((step, metrics.clone()));
        Ok(())
    }

    /// All lines of the run so far, those of earlier processes included.
    pub fn history(&self) -> &[(u64, Metrics)] {
        &self.history
    }

    /// The values of one metric by step.
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        self.history.iter().filter_map(|(step, metrics)| Some((*step, *metrics.get(name)?))).collect()
    }
}

fn parse_line(line: &str) -> Option<(u64, Metrics)> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else {
        return None;
    };
    let step = object.get("step")?.as_u64()?;
    let metrics = object
        .iter()
        .filter(|(name, _)| *name != "step")
        .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
        .collect();
    Some((step, metrics))
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::api::TrainSequence;

    fn batch(generation: Vec<f32>) -> TrainBatch {
        let n = generation.len();
        TrainBatch {
            sequences: vec![TrainSequence {
                tokens: vec![0; n],
                mask: (0..n).map(|t| t > 0).collect(),
                advantage: 1.0,
                generation_log_probs: generation,
            }],
            global_valid_tokens: n - 1,
            global_valid_sequences: 1,
        }
    }

    #[test]
    fn equal_log_probs_are_perfect_and_a_difference_shows() {
        let batch = batch(vec![0.0, -1.0, -2.0]);
        let report = |own: Vec<f32>| UpdateReport { log_probs: vec![own], ..UpdateReport::default() };
        let perfect = fidelity_metrics(&batch, &report(vec![9.0, -1.0, -2.0]), KlType::K3);
        assert_eq!(perfect["token_mult_prob_error"], 1.0);
        assert_eq!(perfect["gen_kl_error"], 0.0);
        assert_eq!(perfect["max_log_prob_difference"], 0.0);
        assert_eq!(perfect["approx_entropy"], 1.5);
        let off = fidelity_metrics(&batch, &report(vec![0.0, -1.5, -2.0]), KlType::K3);
        assert!((off["token_mult_prob_error"] - (0.5f64.exp() + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(off["max_log_prob_difference"], 0.5);
        assert!(off["js_divergence_error"] > 0.0);
        // x = p - g = -0.5 for the first token and 0 for the second; the policy's divergence is that of -x.
        for (kind, generation, policy) in [
            (KlType::K1, 0.25, -0.25),
            (KlType::K2, 0.0625, 0.0625),
            (KlType::K3, ((-0.5f64).exp() - 0.5) / 2.0, (0.5f64.exp() - 1.5) / 2.0),
        ] {
            let off = fidelity_metrics(&batch, &report(vec![0.0, -1.5, -2.0]), kind);
            assert!((off["gen_kl_error"] - generation).abs() < 1e-12, "{kind:?}: {}", off["gen_kl_error"]);
            assert!((off["policy_kl_error"] - policy).abs() < 1e-12, "{kind:?}: {}", off["policy_kl_error"]);
        }
    }

    #[test]
    fn resuming_moves_the_lines_of_later_steps_and_torn_lines_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        for step in 0..5 {
            log.append(step, &[("train/reward".to_owned(), step as f64 / 8.0)].into()).unwrap();
        }
        drop(log);
        let path = folder.path().join("metrics.jsonl");
        append(&path, "{\"step\":5,\"train/rew").unwrap();
        let mut log = MetricsLog::open(folder.path(), Some(3)).unwrap();
        assert_eq!(log.series("train/reward"), vec![(0, 0.0), (1, 0.125), (2, 0.25), (3, 0.375)]);
        log.append(4, &[("train/reward".to_owned(), f64::NAN)].into()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5);
        assert!(text.ends_with("{\"step\":4,\"train/reward\":null}\n"));
        let old = fs::read_to_string(folder.path().join("metrics.superseded.jsonl")).unwrap();
        assert_eq!(old, "{\"step\":4,\"train/reward\":0.5}\n{\"step\":5,\"train/rew\n");
    }

    #[test]
    fn statistics_of_four_numbers() {
        let stats = single_metric_stats("k", &[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((stats["k/mean"], stats["k/median"], stats["k/p95"]), (2.5, 2.5, 4.0));
        assert!((stats["k/stddev"] - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(single_metric_stats("k", &[1.0])["k/stddev"].is_nan());
    }
}
