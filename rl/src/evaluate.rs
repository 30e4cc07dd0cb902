//! How well a policy does on a set of tasks it is not trained on.
//!
//! Accuracy is the mean reward over all samples. It is reported for the whole set and for parts of it (what
//! was held out, domain, template, number of steps), always beside the accuracy of a policy that does
//! nothing, because some tasks are solved by leaving everything as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nemo_env::{Environment, StrictReport, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::metrics::{Metrics, insert_prefixed, rollout_metrics};
use crate::policy::api::{Policy, SamplingParams};
use crate::rollout::collector::{CollectSettings, collect};
use crate::rollout::{Renderer, RolloutError};
use crate::trajectory::Trajectory;

/// Steps of validations are counted from here for random numbers, so that no validation shares them with a
/// training step.
pub const VALIDATION_STEP_BASE: u64 = 1 << 31;

/// How the answers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// Drawn from the (validation) sampling distribution.
    Sampled,
    /// Always the most probable token.
    Greedy,
}

impl Decoding {
    /// The sampling parameters of this decoding, given those of sampling.
    pub fn sampling(self, sampled: SamplingParams) -> SamplingParams {
        match self {
            Self::Sampled => sampled,
            Self::Greedy => SamplingParams { temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: None, ..sampled },
        }
    }

    /// The prefix of its metrics' names.
    pub fn metric_prefix(self) -> &'static str {
        match self {
            Self::Sampled => "",
            Self::Greedy => "greedy_",
        }
    }
}

/// The result on a set of tasks or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Distinct tasks.
    pub num_tasks: usize,
    /// Mean reward over all samples.
    pub accuracy: f64,
    /// Share of the tasks whose reward for doing nothing is 1.
    pub do_nothing_accuracy: f64,
}

impl Score {
    fn of<'a>(trajectories: impl Iterator<Item = &'a Trajectory>) -> Self {
        let (mut tasks, mut num_samples) = (std::collections::BTreeSet::new(), 0usize);
        let (mut reward, mut do_nothing) = (0.0, 0usize);
        for trajectory in trajectories {
            tasks.insert(trajectory.task_index);
            num_samples += 1;
            reward += trajectory.outcome.reward;
            do_nothing += usize::from(trajectory.outcome.do_nothing);
        }
        let n = num_samples.max(1) as f64;
        Self { num_tasks: tasks.len(), accuracy: reward / n, do_nothing_accuracy: do_nothing as f64 / n }
    }
}

/// The result on a set of tasks, as a whole and in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// How the answers were chosen.
    pub decoding: Decoding,
    /// Samples of each task.
    pub samples_per_task: usize,
    /// The whole set.
    pub overall: Score,
    /// Share of the tasks that at least one sample solves; with several samples only.
    pub pass_k: Option<f64>,
    /// Mean number of sampled tokens.
    pub avg_length: f64,
    /// By what was held out (`unseen_fillings`, `unseen_templates`, …).
    pub by_holdout: BTreeMap<String, Score>,
    /// `single_step` (at most one call) and `multi_step`, also within each holdout
    /// (`unseen_fillings/single_step`).
    pub by_length: BTreeMap<String, Score>,
    /// By domain.
    pub by_domain: BTreeMap<String, Score>,
    /// By template.
    pub by_template: BTreeMap<String, Score>,
    /// By the number of calls of the demonstration, look-ups included.
    pub by_num_steps: BTreeMap<usize, Score>,
    /// Turns, tokens and endings.
    pub rollouts: Metrics,
    /// The same samples under the stricter scoring, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<StrictReport>,
}

impl EvaluationReport {
    /// Summarises episodes.
    pub fn new(decoding: Decoding, samples_per_task: usize, trajectories: &[Trajectory]) -> Self {
        let length = |t: &Trajectory| if t.label.num_steps <= 1 { "single_step" } else { "multi_step" };
        let mut by_length = grouped(trajectories, |t| length(t).to_owned());
        by_length.extend(grouped(trajectories, |t| format!("{}/{}", t.label.holdout, length(t))));
        let mut solved: BTreeMap<usize, bool> = BTreeMap::new();
        for trajectory in trajectories {
            *solved.entry(trajectory.task_index).or_default() |= trajectory.outcome.reward > 0.0;
        }
        let num_solved = solved.values().filter(|solved| **solved).count();
        let rollouts = rollout_metrics(trajectories);
        Self {
            decoding,
            samples_per_task,
            overall: Score::of(trajectories.iter()),
            pass_k: (samples_per_task > 1).then(|| num_solved as f64 / solved.len().max(1) as f64),
            avg_length: rollouts.get("mean_gen_tokens_per_sample").copied().unwrap_or(0.0),
            by_holdout: grouped(trajectories, |t| t.label.holdout.clone()),
            by_length,
            by_domain: grouped(trajectories, |t| t.label.domain.clone()),
            by_template: grouped(trajectories, |t| t.label.template.clone()),
            by_num_steps: grouped(trajectories, |t| t.label.num_steps),
            rollouts,
            strict: None,
        }
    }

    /// The numbers of the report by name, without `validation/`: `accuracy`, `accuracy/unseen_fillings`,
    /// `accuracy/domain/email`, `do_nothing_accuracy`, …; greedy ones as `greedy_accuracy`, ….
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::new();
        let mut add = |part: String, score: &Score| {
            metrics.insert(format!("accuracy{part}"), score.accuracy);
            metrics.insert(format!("do_nothing_accuracy{part}"), score.do_nothing_accuracy);
        };
        add(String::new(), &self.overall);
        for (name, score) in self.by_holdout.iter().chain(&self.by_length) {
            add(format!("/{name}"), score);
        }
        for (part, scores) in [("domain", &self.by_domain), ("template", &self.by_template)] {
            for (name, score) in scores {
                add(format!("/{part}/{name}"), score);
            }
        }
        for (steps, score) in &self.by_num_steps {
            add(format!("/num_steps/{steps}"), score);
        }
        metrics.insert("avg_length".to_owned(), self.avg_length);
        metrics.extend(self.pass_k.map(|share| ("pass_k".to_owned(), share)));
        if let Some(strict) = &self.strict {
            metrics.insert("strict_accuracy".to_owned(), strict.strict_accuracy);
            metrics.insert("strict_do_nothing_accuracy".to_owned(), strict.strict_do_nothing_accuracy);
        }
        metrics.extend(self.rollouts.clone());
        let mut prefixed = Metrics::new();
        insert_prefixed(&mut prefixed, self.decoding.metric_prefix(), &metrics);
        prefixed
    }
}

fn grouped<K: Ord>(trajectories: &[Trajectory], key: impl Fn(&Trajectory) -> K) -> BTreeMap<K, Score> {
    let mut groups: BTreeMap<K, Vec<&Trajectory>> = BTreeMap::new();
    for trajectory in trajectories {
        groups.entry(key(trajectory)).or_default().push(trajectory);
    }
    groups.into_iter().map(|(key, group)| (key, Score::of(group.into_iter()))).collect()
}

/// Runs the policy on `tasks`. `settings.sampling` is that of sampling, whatever the decoding.
///
/// # Errors
/// As [`collect`].
pub fn evaluate(
    policy: &mut dyn Policy,
    renderer: &dyn Renderer,
    environment: &dyn Environment,
    tasks: &[Task],
    (decoding, samples_per_task): (Decoding, usize),
    settings: &CollectSettings,
    on_finished: &mut dyn FnMut(usize),
) -> Result<(EvaluationReport, Vec<Trajectory>), RolloutError> {
    // Greedy answers are all the same.
    let samples = if decoding == Decoding::Greedy { 1 } else { samples_per_task };
    let settings = CollectSettings { sampling: decoding.sampling(settings.sampling), ..*settings };
    let tasks: Vec<&Task> = tasks.iter().collect();
    let trajectories = collect(policy, renderer, environment, &tasks, samples, &settings, on_finished)?;
    Ok((EvaluationReport::new(decoding, samples, &trajectories), trajectories))
}

/// Writes one JSON line per episode: the task's label, the verdict, the scored calls and what the model
/// wrote and read after the prompt.
///
/// # Errors
/// When the file cannot be written.
pub fn write_episodes(
    path: &Path,
    reports: &[(Decoding, &[Trajectory])],
    renderer: &dyn Renderer,
) -> std::io::Result<()> {
    let mut text = String::new();
    for (decoding, trajectories) in reports {
        for t in *trajectories {
            let line = json!({
                "id": t.label.id,
                "template": t.label.template,
                "domain": t.label.domain,
                "num_steps": t.label.num_steps,
                "holdout": t.label.holdout,
                "decoding": decoding,
                "sample": t.sample,
                "reward": t.outcome.reward,
                "do_nothing": t.outcome.do_nothing,
                "ending": t.ending,
                "num_turns": t.turns.len(),
                "calls": t.calls,
                "text": renderer.decode(&t.tokens[t.prompt_length..]),
            });
            text.push_str(&line.to_string());
            text.push('\n');
        }
    }
    let aside = path.with_extension("jsonl.tmp");
    fs::write(&aside, text)?;
    fs::rename(&aside, path)
}
