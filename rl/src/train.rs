//! Group relative policy optimization (Shao et al., 2024, "DeepSeekMath"): the loop.
//!
//! One step: tasks → rollouts → rewards → group advantages → one optimizer step → metrics → validation and
//! checkpoint when due. Every random choice is a function of seed and step, so a run that is resumed from a
//! checkpoint ends with the same bytes as one that was never interrupted.

use nemo_env::Task;

use crate::advantage::group_advantages;
use crate::batch::{batch_metrics, prompt_groups, shuffle_rewards_within_groups, train_batch};
use crate::checkpoint::Algorithm;
use crate::config::{RunConfig, TRAIN_METRICS};
use crate::error::TrainError;
use crate::metrics::{Metrics, fidelity_metrics, insert_prefixed, rollout_metrics};
use crate::policy::api::{Policy, UpdateParams};
use crate::progress::{Observer, Phase};
use crate::rollout::collector::collect;
use crate::run::{Limit, Run, RunEnd, RunInputs, RunSummary};
use crate::schedule::learning_rate;
use crate::shuffle::TaskOrder;
use crate::step_clock::StepClock;

/// The step that ends a run over `num_tasks` tasks, and which limit that is.
///
/// # Errors
/// [`TrainError::TooFewTasks`] when there are not enough for one step.
pub fn last_step(config: &RunConfig, num_tasks: usize) -> Result<(u64, Limit), TrainError> {
    let grpo = &config.grpo;
    let per_epoch = task_order(config, num_tasks).steps_per_epoch();
    if per_epoch == 0 {
        return Err(TrainError::TooFewTasks {
            key: "grpo.num_prompts_per_step",
            found: num_tasks,
            expected: grpo.num_prompts_per_step,
        });
    }
    let of_epochs = grpo.max_num_epochs.saturating_mul(per_epoch);
    Ok(match of_epochs < grpo.max_num_steps {
        true => (of_epochs as u64, Limit::Epochs),
        false => (grpo.max_num_steps as u64, Limit::Steps),
    })
}

fn task_order(config: &RunConfig, num_tasks: usize) -> TaskOrder {
    TaskOrder {
        seed: config.grpo.seed,
        num_tasks,
        batch_size: config.grpo.num_prompts_per_step,
        shuffle: config.data.shuffle,
    }
}

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
    let order = task_order(inputs.config, tasks.len());
    let (max_steps, limit) = last_step(inputs.config, tasks.len())?;
    let mut run = Run::open(inputs, Algorithm::Grpo, grpo.seed, policy, observer)?;
    observer.on_start(run.folder(), run.state.step, max_steps);
    if run.threshold_reached() {
        return Ok(run.summary(RunEnd::AlreadyFinished(Limit::Threshold)));
    }
    if run.state.step >= max_steps {
        return Ok(run.summary(RunEnd::AlreadyFinished(limit)));
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
        let mut metrics = match train_step(policy, &inputs, tasks, &order, &mut run, observer) {
            Ok(metrics) => metrics,
            Err(error) => return Err(run.explain(policy, error)),
        };
        let (step, last) = (run.state.step, run.state.step == max_steps);
        let save = run.save_is_due() || last;
        let periodic = grpo.val_period > 0
            && step.is_multiple_of(grpo.val_period as u64)
            && i64::try_from(step).is_ok_and(|step| step >= grpo.val_start_at);
        if periodic || (last && grpo.val_at_end) || (save && run.ranks_by_validation()) {
            match run.validate(policy, observer) {
                Ok(measured) => metrics.extend(measured),
                Err(error) => return Err(run.explain(policy, error)),
            }
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
    let mut clock = StepClock::start();
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
        &mut |finished| observer.on_progress(Phase::Rollouts, finished, total),
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
    let report = policy
        .train(&batch, &params, &mut |done| observer.on_progress(Phase::Training, done, batch.global_valid_tokens))
        .map_err(|source| TrainError::Policy { step: step + 1, source })?;
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
