//! What supervised training and reinforcement learning share: a results folder that can be resumed, the
//! metrics file, validation, and what is shown of it while it happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nemo_env::{Environment, Task};

use crate::checkpoint::{Algorithm, TrainState};
use crate::config::{RunConfig, SaveDeadline, VALIDATION_METRICS};
use crate::contents::Contents;
use crate::error::TrainError;
use crate::evaluate::{Decoding, EvaluationReport, VALIDATION_STEP_BASE, evaluate, write_episodes};
use crate::metrics::{Metrics, MetricsLog, insert_prefixed};
use crate::policy::api::{Policy, SamplingParams};
use crate::progress::{Observer, Phase, StepProgress};
use crate::resume;
use crate::retention::Retention;
use crate::rollout::Renderer;
use crate::rollout::collector::CollectSettings;
use crate::rollout::episode::EpisodeLimits;
use crate::run_folder::RunFolder;

/// How a run is started, besides its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Sequences generated at the same time; without effect on results.
    pub max_open_sequences: usize,
    /// Control experiment: permute the rewards within each group before advantages are computed.
    pub shuffle_rewards_within_groups: bool,
}

impl RunOptions {
    /// Those that change results, by name, as a checkpoint keeps them.
    pub fn named(&self) -> BTreeMap<String, String> {
        let shuffle = self.shuffle_rewards_within_groups.to_string();
        BTreeMap::from([("shuffle_rewards_within_groups".to_owned(), shuffle)])
    }
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { max_open_sequences: 128, shuffle_rewards_within_groups: false }
    }
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All steps are done.
    Finished,
    /// The run was already finished by this limit; nothing was done.
    AlreadyFinished(Limit),
    /// The validation metric reached its threshold.
    ThresholdReached,
    /// It was asked to stop; the same command continues it.
    Stopped,
}

/// What a run cannot go beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The number of steps.
    Steps,
    /// The passes over the tasks.
    Epochs,
    /// The value of the validation metric that ends the run.
    Threshold,
}

/// What a run did, earlier processes included.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// The results folder.
    pub folder: PathBuf,
    /// How it ended.
    pub end: RunEnd,
    /// Steps before this process.
    pub first_step: u64,
    /// Steps done in all.
    pub last_step: u64,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The metrics of every step.
    pub history: Vec<(u64, Metrics)>,
    /// The reports of the latest validation of this process.
    pub validation: Vec<EvaluationReport>,
}

impl RunSummary {
    /// The values of one metric by step.
    pub fn series(&self, name: &str) -> Vec<(u64, f64)> {
        self.history.iter().filter_map(|(step, metrics)| Some((*step, *metrics.get(name)?))).collect()
    }
}

/// What the loops are given.
#[derive(Clone, Copy)]
pub struct RunInputs<'a> {
    /// The resolved configuration.
    pub config: &'a RunConfig,
    /// How the run is started.
    pub options: &'a RunOptions,
    /// The results folder.
    pub folder: &'a RunFolder,
    /// What the files hold that the configuration names.
    pub contents: &'a Contents,
    /// Token ids to chat and back.
    pub renderer: &'a dyn Renderer,
    /// Where tools are executed and answers judged.
    pub environment: &'a dyn Environment,
    /// Tasks to validate on; may be empty.
    pub validation_tasks: &'a [Task],
    /// Set from outside to end the run after the running step.
    pub stop: &'a AtomicBool,
}

impl RunInputs<'_> {
    /// How the episodes of a step are run.
    pub fn collect_settings(&self, seed: u64, step: u64, sampling: SamplingParams) -> CollectSettings {
        CollectSettings {
            limits: EpisodeLimits {
                max_turns: self.config.max_rollout_steps(),
                max_total_sequence_length: self.config.policy.max_total_sequence_length,
            },
            sampling,
            max_open_sequences: self.options.max_open_sequences,
            seed,
            step,
        }
    }

    /// Sampling of training rollouts.
    pub fn train_sampling(&self) -> SamplingParams {
        let generation = &self.config.policy.generation;
        SamplingParams {
            temperature: generation.temperature,
            top_p: generation.top_p,
            min_p: 0.0,
            top_k: generation.top_k,
            max_new_tokens: generation.max_new_tokens,
        }
    }

    /// Sampling of validation rollouts.
    pub fn validation_sampling(&self) -> SamplingParams {
        let generation = &self.config.policy.generation;
        SamplingParams {
            temperature: generation.val_temperature,
            top_p: generation.val_top_p,
            min_p: 0.0,
            top_k: generation.val_top_k,
            max_new_tokens: generation.max_new_tokens,
        }
    }

    /// What is said where checkpoints are to be ranked by a validation that has nothing to validate on.
    fn missing_ranking(&self) -> Option<String> {
        let checkpointing = &self.config.checkpointing;
        let most = checkpointing.keep_top_k.filter(|_| checkpointing.enabled && self.validation_tasks.is_empty())?;
        let metric = checkpointing.metric_name.as_ref().filter(|name| name.starts_with("val:"))?;
        Some(format!(
            "checkpointing.metric_name: {metric} is not measured without data.validation; the newest {most} checkpoints \
             are kept instead of the best"
        ))
    }

    /// Whether the run was asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Whether the validation metric of a step has reached the threshold that ends the run.
pub fn threshold_reached(config: &RunConfig, state: &TrainState) -> bool {
    let grpo = &config.grpo;
    let value = grpo.stop_at_validation_metric.as_ref().and_then(|name| {
        let name = name.strip_prefix("val:").unwrap_or(name);
        state.metrics.get(&format!("val:{name}"))
    });
    value.zip(grpo.stop_at_validation_threshold).is_some_and(|(value, threshold)| *value >= threshold)
}

/// A run in progress.
pub struct Run<'a> {
    inputs: RunInputs<'a>,
    log: MetricsLog,
    config_yaml: String,
    /// Counters; saved with each checkpoint.
    pub state: TrainState,
    first_step: u64,
    saved: Option<(u64, PathBuf)>,
    started: Instant,
    deadline: Option<Duration>,
    accuracy: Option<f64>,
    validation: Vec<EvaluationReport>,
    /// Seconds of the latest checkpoint; part of the next step's metrics, since a step's line is written
    /// before its checkpoint (a checkpoint must never be ahead of the metrics).
    checkpoint_seconds: Option<f64>,
}

impl<'a> Run<'a> {
    /// Puts the checkpoint that the results folder holds, if there is one, into the policy.
    ///
    /// # Errors
    /// When the folder's checkpoint is damaged, or belongs to a different run.
    pub fn open(
        inputs: RunInputs<'a>,
        algorithm: Algorithm,
        seed: u64,
        policy: &mut dyn Policy,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let folder = inputs.folder;
        let config_yaml = inputs.config.to_yaml().map_err(|source| TrainError::Config(Box::new(source)))?;
        let mut state = TrainState::start(algorithm, seed, inputs.options.named(), inputs.contents.clone());
        let mut saved = None;
        if let Some(checkpoint) = folder.latest()? {
            let mut notices = resume::compare(&checkpoint, &state, inputs.config)?;
            notices.extend(checkpoint.load_into(policy)?);
            notices.iter().for_each(|notice| observer.on_notice(notice));
            // Of a checkpoint that did not record them, the present contents are the first that are known.
            state = TrainState { contents: state.contents, ..checkpoint.state };
            saved = Some((state.step, checkpoint.path));
        }
        if let Some(notice) = inputs.missing_ranking() {
            observer.on_notice(&notice);
        }
        let log = MetricsLog::open(folder.path(), saved.as_ref().map(|(step, _)| *step))?;
        let accuracy = log.series("validation/accuracy").last().map(|(_, accuracy)| *accuracy);
        Ok(Self {
            inputs,
            log,
            config_yaml,
            first_step: state.step,
            state,
            saved,
            started: Instant::now(),
            deadline: inputs.config.checkpointing.checkpoint_must_save_by.as_ref().map(SaveDeadline::duration),
            accuracy,
            validation: Vec::new(),
            checkpoint_seconds: None,
        })
    }

    /// The results folder.
    pub fn folder(&self) -> &Path {
        self.inputs.folder.path()
    }

    /// Whether the run continues a checkpoint, be it one of step 0.
    pub fn is_resumed(&self) -> bool {
        self.saved.is_some()
    }

    /// Evaluates the policy after `state.step` steps; the metrics under `validation/` and
    /// `timing/validation/`. Nothing without validation tasks.
    ///
    /// # Errors
    /// When episodes cannot be run or written.
    pub fn validate(&mut self, policy: &mut dyn Policy, observer: &mut dyn Observer) -> Result<Metrics, TrainError> {
        let inputs = self.inputs;
        let tasks = inputs.validation_tasks;
        if tasks.is_empty() {
            return Ok(Metrics::new());
        }
        let began = Instant::now();
        let step = self.state.step;
        let samples = inputs.config.grpo.val_num_generations_per_prompt;
        let settings =
            inputs.collect_settings(self.state.seed, VALIDATION_STEP_BASE + step, inputs.validation_sampling());
        let mut metrics = Metrics::new();
        let (mut reports, mut episodes) = (Vec::new(), Vec::new());
        let decodings = [Some(Decoding::Sampled), inputs.config.grpo.val_greedy.then_some(Decoding::Greedy)];
        for decoding in decodings.into_iter().flatten() {
            let total = tasks.len() * if decoding == Decoding::Greedy { 1 } else { samples };
            let (report, trajectories) = evaluate(
                policy,
                inputs.renderer,
                inputs.environment,
                tasks,
                (decoding, samples),
                &settings,
                &mut |finished| observer.on_progress(Phase::Validation(decoding), finished, total),
            )
            .map_err(|source| TrainError::Rollout { step, source })?;
            insert_prefixed(&mut metrics, "validation/", &report.metrics());
            reports.push(report);
            episodes.push((decoding, trajectories));
        }
        let path = self.inputs.folder.path().join(format!("val_data_step{step}.jsonl"));
        let episodes: Vec<_> = episodes.iter().map(|(decoding, list)| (*decoding, list.as_slice())).collect();
        write_episodes(&path, &episodes, inputs.renderer).map_err(|source| TrainError::Episodes { path, source })?;
        for name in VALIDATION_METRICS {
            if let Some(value) = metrics.get(&format!("validation/{name}")) {
                self.state.metrics.insert(format!("val:{name}"), *value);
            }
        }
        self.accuracy = metrics.get("validation/accuracy").copied().or(self.accuracy);
        metrics.insert("timing/validation/total_validation_time".to_owned(), began.elapsed().as_secs_f64());
        observer.on_validation(step, &reports);
        self.validation = reports;
        Ok(metrics)
    }

    /// Whether checkpoints are ranked by a validation metric, which then has to be measured when one is
    /// written.
    pub fn ranks_by_validation(&self) -> bool {
        let checkpointing = &self.inputs.config.checkpointing;
        checkpointing.enabled
            && checkpointing.keep_top_k.is_some()
            && checkpointing.metric_name.as_deref().is_some_and(|name| name.starts_with("val:"))
            && !self.inputs.validation_tasks.is_empty()
    }

    /// Whether the step that is now finished is one of the periodic saves.
    pub fn save_is_due(&self) -> bool {
        let checkpointing = &self.inputs.config.checkpointing;
        let due = |period: usize| period > 0 && self.state.step.is_multiple_of(period as u64);
        checkpointing.enabled && (due(checkpointing.save_period) || checkpointing.ft_save_period.is_some_and(due))
    }

    /// Writes the line of a step and tells the observer.
    ///
    /// # Errors
    /// When the metrics cannot be written.
    pub fn log(&mut self, mut metrics: Metrics, max_steps: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if let Some(seconds) = self.checkpoint_seconds.take() {
            metrics.insert("timing/train/checkpointing".to_owned(), seconds);
        }
        let step = self.state.step;
        self.log.append(step, &metrics)?;
        if step > 0 {
            let value = |name: &str| metrics.get(name).copied();
            observer.on_step(&StepProgress {
                step,
                max_steps,
                metrics: &metrics,
                reward: value("train/reward"),
                accuracy: self.accuracy,
                tokens_per_second: value("performance/tokens_per_sec").unwrap_or(0.0),
                remaining: self.step_time().saturating_mul((max_steps.saturating_sub(step)) as u32),
            });
        }
        Ok(())
    }

    /// Writes a checkpoint of the present step unless it is there already, and removes those that are not
    /// to be kept.
    ///
    /// # Errors
    /// When something cannot be written or removed.
    pub fn save(&mut self, policy: &dyn Policy, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let checkpointing = &self.inputs.config.checkpointing;
        let step = self.state.step;
        if !checkpointing.enabled || self.saved.as_ref().is_some_and(|(saved, _)| *saved == step) {
            return Ok(());
        }
        let began = Instant::now();
        observer.on_progress(Phase::Saving, 0, 0);
        self.check_usable(policy)?;
        let folder = self.inputs.folder;
        let path = folder.save(&self.state, &self.config_yaml, policy, checkpointing.save_optimizer)?;
        let rule = Retention {
            save_period: checkpointing.save_period,
            keep_top_k: checkpointing.keep_top_k,
            keep_latest_k: checkpointing.ft_keep_latest_k,
            higher_is_better: checkpointing.higher_is_better,
        };
        folder.prune(&rule, checkpointing.metric_name.as_deref())?;
        self.checkpoint_seconds = Some(began.elapsed().as_secs_f64());
        observer.on_checkpoint(step, &path);
        self.saved = Some((step, path));
        Ok(())
    }

    /// Checks that the policy could act with the weights of this step; others are kept nowhere.
    ///
    /// # Errors
    /// [`TrainError::Unusable`] with the checkpoint that is still good.
    pub fn check_usable(&self, policy: &dyn Policy) -> Result<(), TrainError> {
        policy.check_usable().map_err(|source| TrainError::Unusable {
            step: self.state.step,
            source,
            checkpoint: self.saved.as_ref().map(|(_, path)| path.clone()),
        })
    }

    /// Why the run failed after the present step, if `error` is no more than a consequence: weights that the policy cannot
    /// act with.
    pub fn explain(&self, policy: &dyn Policy, error: TrainError) -> TrainError {
        match (self.state.step > self.first_step, self.check_usable(policy)) {
            (true, Err(cause)) => cause,
            _ => error,
        }
    }

    /// Whether the run has to end after this step: it was asked to, or the next step might end after
    /// `checkpoint_must_save_by`.
    pub fn must_stop(&self) -> bool {
        let late = self.deadline.is_some_and(|deadline| self.started.elapsed() + self.step_time() >= deadline);
        self.inputs.stop_requested() || late
    }

    /// Whether the validation metric of this step has reached the threshold that ends the run.
    pub fn threshold_reached(&self) -> bool {
        threshold_reached(self.inputs.config, &self.state)
    }

    /// Mean duration of this process's steps, validations and checkpoints included.
    fn step_time(&self) -> Duration {
        match u32::try_from(self.state.step - self.first_step) {
            Ok(0) | Err(_) => Duration::ZERO,
            Ok(steps) => self.started.elapsed() / steps,
        }
    }

    /// What the run did.
    pub fn summary(self, end: RunEnd) -> RunSummary {
        RunSummary {
            folder: self.inputs.folder.path().to_owned(),
            end,
            first_step: self.first_step,
            last_step: self.state.step,
            checkpoint: self.saved.map(|(_, path)| path),
            history: self.log.history().to_vec(),
            validation: self.validation,
        }
    }
}
