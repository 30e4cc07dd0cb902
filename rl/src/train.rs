//! Group relative policy optimization (Shao et al., 2024, "DeepSeekMath"): the loop.
//!
//! One step: tasks → rollouts → rewards → group advantages → one optimizer step → metrics → validation and
//! checkpoint when due. Every random choice is a function of seed and step, so a run that is resumed from a
//! checkpoint ends with the same bytes as one that was never interrupted.

use std::time::Instant;

use nemo_env::Task;

use crate::advantage::group_advantages;
use crate::batch::{batch_metrics, prompt_groups, shuffle_rewards_within_groups, train_batch};
use crate::config::TRAIN_METRICS;
use crate::error::TrainError;
use crate::metrics::{Metrics, fidelity_metrics, insert_prefixed, rollout_metrics};
use crate::policy::api::{Policy, UpdateParams};
use crate::progress::Observer;
use crate::rollout::collector::collect;
use crate::run::{Run, RunEnd, RunInputs, RunSummary};
use crate::schedule::learning_rate;
use crate::shuffle::TaskOrder;

/// Trains `policy` on `tasks` until the configured number of steps is reached, a threshold or a stop request
/// ends the run; continues the run in the results folder if there is one.
///
/// # Errors
/// Whatever ends the run early. The checkpoints before it are intact.
pub fn train(
    policy: &mut dyn Policy,
    inputs: RunInputs<'_>,
    tasks: &[Task],
    observer: &mut dyn Observer,
) -> Result<RunSummary, TrainError> {
    let grpo = &inputs.config.grpo;
    let order = TaskOrder {
        seed: grpo.seed,
        num_tasks: tasks.len(),
        batch_size: grpo.num_prompts_per_step,
        shuffle: inputs.config.data.shuffle,
    };
    if order.steps_per_epoch() == 0 {
        return Err(TrainError::TooFewTasks {
            key: "grpo.num_prompts_per_step",
            found: tasks.len(),
            expected: grpo.num_prompts_per_step,
        });
    }
    let max_steps = grpo.max_num_steps.min(grpo.max_num_epochs.saturating_mul(order.steps_per_epoch())) as u64;
    let mut run = Run::open(inputs, "grpo", grpo.seed, policy, observer)?;
    observer.on_start(run.folder(), run.state.step, max_steps);
    if run.state.step >= max_steps || run.threshold_reached() {
        return Ok(run.summary(RunEnd::AlreadyFinished));
    }
    if !run.is_resumed() && grpo.val_at_start {
        let metrics = run.validate(policy, observer)?;
        run.log(metrics, max_steps, observer)?;
        if run.threshold_reached() {
            // Kept, so that the same command finds the run finished.
            run.save(policy, observer)?;
            return Ok(run.summary(RunEnd::ThresholdReached));
        }
    }
    loop {
        if inputs.stop_requested() {
            run.save(policy, observer)?;
            return Ok(run.summary(RunEnd::Stopped));
        }
        let mut metrics = train_step(policy, &inputs, tasks, &order, &mut run, observer)?;
        let (step, last) = (run.state.step, run.state.step == max_steps);
        let save = run.save_is_due() || last;
        let periodic = grpo.val_period > 0
            && step.is_multiple_of(grpo.val_period as u64)
            && i64::try_from(step).is_ok_and(|step| step >= grpo.val_start_at);
        if periodic || (last && grpo.val_at_end) || (save && run.ranks_by_validation()) {
            metrics.extend(run.validate(policy, observer)?);
        }
        run.log(metrics, max_steps, observer)?;
        let threshold = run.threshold_reached();
        let stop = !last && run.must_stop();
        if save || threshold || stop {
            run.save(policy, observer)?;
        }
        if last || threshold || stop {
            return Ok(run.summary(match (last, threshold) {
                (true, _) => RunEnd::Finished,
                (false, true) => RunEnd::ThresholdReached,
                (false, false) => RunEnd::Stopped,
            }));
        }
    }
}

/// One optimizer step and its counters; the step's metrics under `train/`, `timing/train/`, `performance/`.
fn train_step(
    policy: &mut dyn Policy,
    inputs: &RunInputs<'_>,
    tasks: &[Task],
    order: &TaskOrder,
    run: &mut Run<'_>,
    observer: &mut dyn Observer,
) -> Result<Metrics, TrainError> {
    let grpo = &inputs.config.grpo;
    let step = run.state.step;
    let mut clock = StepClock::new();
    let batch_tasks: Vec<&Task> = order.batch(step).into_iter().map(|index| &tasks[index]).collect();
    let settings = inputs.collect_settings(grpo.seed, step, inputs.train_sampling());
    clock.lap("data_processing");

    let total = batch_tasks.len() * grpo.num_generations_per_prompt;
    let trajectories = collect(
        policy,
        inputs.renderer,
        inputs.environment,
        &batch_tasks,
        grpo.num_generations_per_prompt,
        &settings,
        &mut |finished| observer.on_rollouts(finished, total),
    )
    .map_err(|source| TrainError::Rollout { step: step + 1, source })?;
    clock.lap("generation");

    let mut rewards: Vec<f64> = trajectories.iter().map(|t| t.outcome.reward).collect();
    let groups = prompt_groups(&trajectories);
    if inputs.options.shuffle_rewards_within_groups {
        shuffle_rewards_within_groups(&mut rewards, &groups, grpo.seed, step);
    }
    clock.lap("reward_calculation");
    let advantages = group_advantages(&rewards, &groups, grpo);
    clock.lap("advantage_calculation");
    let batch = train_batch(&trajectories, &advantages.advantages, grpo.overlong_filtering);
    let params = update_params(inputs, step);
    clock.lap("training_prep");
    let report = policy.train(&batch, &params).map_err(|source| TrainError::Policy { step: step + 1, source })?;
    clock.lap("policy_training");

    run.state.step += 1;
    run.state.consumed_samples += batch_tasks.len() as u64;
    run.state.current_epoch = order.epoch(run.state.step);
    run.state.total_valid_tokens += batch.global_valid_tokens as u64;
    run.state.metrics.clear();

    let mut metrics = batch_metrics(&batch, &trajectories, &advantages.baselines);
    metrics.extend(rollout_metrics(&trajectories));
    metrics.extend(report.metrics.clone());
    // After the loss's own, which have a hair more than the number of tokens in their denominators.
    metrics.extend(fidelity_metrics(&batch, &report, params.loss.reference_policy_kl_type));
    let reward = rewards.iter().sum::<f64>() / rewards.len().max(1) as f64;
    metrics.extend(
        [
            ("reward", reward),
            ("loss", report.loss),
            ("grad_norm", report.grad_norm),
            ("entropy", report.entropy),
            ("lr", params.learning_rate),
            ("wd", params.weight_decay),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    for name in TRAIN_METRICS {
        run.state.metrics.extend(metrics.get(name).map(|value| (format!("train:{name}"), *value)));
    }
    let mut prefixed = Metrics::new();
    insert_prefixed(&mut prefixed, "train/", &metrics);
    let tokens: usize = batch.sequences.iter().map(|s| s.tokens.len()).sum();
    prefixed.extend(clock.metrics(trajectories.len(), tokens, batch.global_valid_tokens));
    Ok(prefixed)
}

/// The hyper-parameters of a step, counted from 0.
fn update_params(inputs: &RunInputs<'_>, step: u64) -> UpdateParams {
    let megatron = &inputs.config.policy.megatron_cfg;
    let optimizer = &megatron.optimizer;
    UpdateParams {
        learning_rate: learning_rate(optimizer, &megatron.scheduler, step),
        weight_decay: optimizer.weight_decay,
        betas: (optimizer.adam_beta1, optimizer.adam_beta2),
        epsilon: optimizer.adam_eps,
        max_grad_norm: optimizer.clip_grad,
        temperature: inputs.config.policy.generation.temperature,
        loss: inputs.config.loss_fn.clone(),
    }
}

/// Times the parts of a step.
pub(crate) struct StepClock {
    began: Instant,
    lap: Instant,
    parts: Vec<(&'static str, f64)>,
}

impl StepClock {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, lap: now, parts: Vec::new() }
    }

    /// The part that just ended.
    pub(crate) fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.parts.push((name, (now - self.lap).as_secs_f64()));
        self.lap = now;
    }

    /// `timing/train/…` in seconds and `performance/…` in units per second, of a step with this many
    /// samples, tokens (prompts, answers and tool results) and trained tokens. One device, so the figures
    /// per device are those of the run.
    pub(crate) fn metrics(&self, samples: usize, tokens: usize, valid_tokens: usize) -> Metrics {
        let total = self.began.elapsed().as_secs_f64();
        let mut metrics = Metrics::new();
        let mut rate = |name: &str, count: usize, seconds: f64| {
            if seconds > 0.0 {
                metrics.insert(format!("performance/{name}"), count as f64 / seconds);
                metrics.insert(format!("performance/{name}_per_gpu"), count as f64 / seconds);
            }
        };
        let part = |name: &str| self.parts.iter().filter(|(n, _)| *n == name).map(|(_, s)| s).sum::<f64>();
        rate("samples_per_sec", samples, total);
        rate("tokens_per_sec", tokens, total);
        rate("generation_tokens_per_sec", tokens, part("generation"));
        rate("policy_training_tokens_per_sec", tokens, part("policy_training"));
        for (name, seconds) in &self.parts {
            metrics.insert(format!("timing/train/{name}"), *seconds);
        }
        metrics.insert("timing/train/total_step_time".to_owned(), total);
        if total > 0.0 {
            metrics.insert("timing/train/valid_tokens_per_sec_per_gpu".to_owned(), valid_tokens as f64 / total);
        }
        metrics
    }
}
