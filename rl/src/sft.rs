//! Supervised warm start: next-token training on demonstrations.
//!
//! A demonstration is replayed as an episode, turn by turn, with the rendered assistant turns in place of
//! sampled ones. Its token ids are therefore those of a rollout that makes the same calls, tool results and
//! template glue included; only a list of tools that the curriculum leaves out of the prompts is missing.

use std::fs;
use std::path::Path;

use nemo_env::{Environment, Task, ToolCall};
use nemo_model::config::CONFIG_FILE;

use crate::checkpoint::{Algorithm, CheckpointError};
use crate::demonstrations::{DemonstrationSource, Stream};
use crate::error::TrainError;
use crate::metrics::Metrics;
use crate::policy::api::{Policy, SequenceId, StopReason, SupervisedBatch, SupervisedSequence, TurnEnd, UpdateParams};
use crate::progress::{Observer, Phase};
use crate::rollout::episode::{Episode, EpisodeLimits, Next};
use crate::rollout::{Renderer, RolloutError};
use crate::run::{Limit, Run, RunEnd, RunInputs, RunSummary};
use crate::schedule::sft_learning_rate;
use crate::step_clock::StepClock;
use crate::trajectory::Ending;

/// The tokens of a task's demonstration and their weights: 1 for what the model has to write,
/// `context_loss_weight` for what it reads, 0 for the first token.
///
/// # Errors
/// A task without demonstration, or one that does not fit into the limits.
pub fn demonstrate(
    task: &Task,
    renderer: &dyn Renderer,
    environment: &dyn Environment,
    limits: EpisodeLimits,
    context_loss_weight: f64,
) -> Result<SupervisedSequence, TrainError> {
    let refused = |reason: &str| TrainError::Demonstration { task: task.id, reason: reason.to_owned() };
    let failed = |source| TrainError::Rollout { step: 0, source };
    let Some(demonstration) = &task.demonstration else {
        return Err(refused("it has no demonstration; supervised training needs one (generated tasks have them)"));
    };
    let session =
        environment.reset(task).map_err(|source| failed(RolloutError::Environment { task: task.id, source }))?;
    let prompt = renderer.prompt_ids(task).map_err(|error| failed(error.into()))?;
    if prompt.len() >= limits.max_total_sequence_length {
        return Err(refused("its prompt is longer than policy.max_total_sequence_length"));
    }
    let mut episode = Episode::new(task, (0, 0), &prompt, session, limits);
    let calls = demonstration.calls.iter().map(|call| ("", std::slice::from_ref(call)));
    let turns = calls.chain(std::iter::once((demonstration.final_text.as_str(), &[] as &[ToolCall])));
    for (content, calls) in turns {
        let tokens = renderer.assistant_turn_ids(task, content, calls).map_err(|error| failed(error.into()))?;
        if tokens.len() > episode.room() {
            return Err(refused("its demonstration is longer than policy.max_total_sequence_length"));
        }
        let log_probs = vec![0.0; tokens.len()];
        let turn = TurnEnd { sequence: SequenceId(0), tokens, log_probs, reason: StopReason::EndOfTurn };
        match episode.take_turn(&turn, renderer).map_err(failed)? {
            Next::Append(_) if calls.is_empty() => return Err(refused("its final text reads as a tool call")),
            Next::Append(_) => {}
            Next::Done(Ending::Message) if calls.is_empty() => break,
            // All turns are used: there is none left for the final text.
            Next::Done(Ending::MaxSteps) if episode.calls().len() == demonstration.calls.len() => break,
            Next::Done(Ending::MaxSteps) => {
                return Err(refused("its demonstration has more calls than an episode has turns"));
            }
            Next::Done(Ending::Message) => return Err(refused("one of its calls is not read back as a call")),
            Next::Done(Ending::Length | Ending::ContextFull | Ending::ResultsTooLong) => {
                return Err(refused("its demonstration is longer than policy.max_total_sequence_length"));
            }
        }
    }
    let read_back = episode.calls().iter().zip(&demonstration.calls).all(|(read, written)| same_call(read, written));
    if !read_back || episode.calls().len() != demonstration.calls.len() {
        return Err(refused("its calls are not read back as they were written"));
    }
    let (tokens, mask) = episode.into_tokens();
    let weights = mask
        .iter()
        .enumerate()
        .map(|(t, &written)| match (t, written) {
            (0, _) => 0.0,
            (_, true) => 1.0,
            (_, false) => context_loss_weight as f32,
        })
        .collect();
    Ok(SupervisedSequence { tokens, weights })
}

/// Whether two calls mean the same; how the JSON of the arguments is spaced does not matter.
fn same_call(a: &ToolCall, b: &ToolCall) -> bool {
    let arguments = |call: &ToolCall| serde_json::from_str::<serde_json::Value>(&call.arguments).ok();
    a.name == b.name && (a.arguments == b.arguments || arguments(a).is_some_and(|parsed| Some(parsed) == arguments(b)))
}

/// Trains `policy` on demonstrations; continues the run in the results folder if there is one.
///
/// # Errors
/// Whatever ends the run early. The checkpoints before it are intact.
pub fn train_supervised(
    policy: &mut dyn Policy,
    inputs: RunInputs<'_>,
    source: &dyn DemonstrationSource,
    observer: &mut dyn Observer,
) -> Result<RunSummary, TrainError> {
    let sft = &inputs.config.sft;
    if source.chunk_size() == 0 {
        return Err(TrainError::TooFewTasks { key: "data.train", found: 0, expected: 1 });
    }
    let max_steps = sft.max_num_steps as u64;
    if let Some(folder) = &sft.output_dir
        && inputs.folder.steps()?.is_empty()
    {
        check_output(folder)?;
    }
    let mut run = Run::open(inputs, Algorithm::Sft, sft.seed, policy, observer)?;
    observer.on_start(run.folder(), run.state.step, max_steps);
    if run.state.step >= max_steps {
        return Ok(run.summary(RunEnd::AlreadyFinished(Limit::Steps)));
    }
    let mut stream = Stream::new(source, sft.seed);
    loop {
        if inputs.stop_requested() {
            run.save(policy, observer)?;
            return Ok(run.summary(RunEnd::Stopped));
        }
        let mut metrics = match supervised_step(policy, &inputs, &mut stream, &mut run, observer) {
            Ok(metrics) => metrics,
            Err(error) => return Err(run.explain(policy, error)),
        };
        let (step, last) = (run.state.step, run.state.step == max_steps);
        let save = run.save_is_due() || last;
        let periodic = sft.val_period > 0 && step.is_multiple_of(sft.val_period as u64);
        if periodic || last || (save && run.ranks_by_validation()) {
            match run.validate(policy, observer) {
                Ok(measured) => metrics.extend(measured),
                Err(error) => return Err(run.explain(policy, error)),
            }
        }
        run.log(metrics, max_steps, observer)?;
        let stop = !last && run.must_stop();
        // Before the checkpoint: a run that is killed in between does its last steps again instead of never publishing.
        if last && let Some(folder) = &sft.output_dir {
            run.check_usable(policy)?;
            publish(policy, folder)?;
        }
        if save || stop {
            run.save(policy, observer)?;
        }
        if last || stop {
            return Ok(run.summary(if last { RunEnd::Finished } else { RunEnd::Stopped }));
        }
    }
}

fn supervised_step(
    policy: &mut dyn Policy,
    inputs: &RunInputs<'_>,
    stream: &mut Stream<'_>,
    run: &mut Run<'_>,
    observer: &mut dyn Observer,
) -> Result<Metrics, TrainError> {
    let sft = &inputs.config.sft;
    let step = run.state.step;
    let mut clock = StepClock::start();
    let limits = inputs.collect_settings(sft.seed, step, inputs.train_sampling()).limits;
    let mut batch = SupervisedBatch { sequences: Vec::new(), label_smoothing: sft.label_smoothing };
    for position in (run.state.consumed_samples..).take(sft.batch_size) {
        let task = stream.get(position, sft.stage(step));
        let task = task.map_err(|source| TrainError::Generate { step: step + 1, source })?;
        let sequence = demonstrate(task, inputs.renderer, inputs.environment, limits, sft.context_loss_weight)?;
        batch.sequences.push(sequence);
    }
    let num_tokens = batch.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
    drop_shared_context(&mut batch);
    clock.lap("data_processing");
    let optimizer = &inputs.config.policy.megatron_cfg.optimizer;
    let params = UpdateParams {
        learning_rate: sft_learning_rate(sft, step),
        weight_decay: sft.weight_decay,
        betas: (optimizer.adam_beta1, optimizer.adam_beta2),
        epsilon: optimizer.adam_eps,
        max_grad_norm: sft.max_grad_norm,
        temperature: 1.0,
        loss: inputs.config.loss_fn.clone(),
    };
    let num_trained = batch.num_trained_tokens();
    let report = policy
        .train_supervised(&batch, &params, &mut |done| observer.on_progress(Phase::Training, done, num_trained))
        .map_err(|source| TrainError::Policy { step: step + 1, source })?;
    clock.lap("policy_training");

    let num_sequences = batch.sequences.len();
    let written = batch.sequences.iter().flat_map(|s| &s.weights).filter(|weight| **weight == 1.0).count();
    run.state.step += 1;
    run.state.consumed_samples += num_sequences as u64;
    run.state.current_epoch = run.state.consumed_samples / stream.chunk_size() as u64;
    run.state.total_valid_tokens += written as u64;
    run.state.metrics = [("train:loss".to_owned(), report.loss)].into();

    let mut metrics = clock.metrics(num_sequences, num_tokens, written);
    metrics.extend(
        [
            ("train/loss", report.loss),
            ("train/grad_norm", report.grad_norm),
            ("train/lr", params.learning_rate),
            ("train/wd", params.weight_decay),
            ("train/global_valid_seqs", num_sequences as f64),
            ("train/global_valid_toks", written as f64),
            ("train/total_num_tokens", num_tokens as f64),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if !report.log_probs.is_empty() {
        metrics.extend(written_fit(&batch, &report.log_probs));
    }
    Ok(metrics)
}

/// How well the policy fits what it has to write: the mean loss of a written token, and the mean probability of a
/// whole demonstration (about the accuracy of sampled answers, were there one right answer).
fn written_fit(batch: &SupervisedBatch, log_probs: &[Vec<f32>]) -> Metrics {
    let (mut sum, mut num_tokens, mut probability) = (0.0, 0.0, 0.0);
    for (sequence, log_probs) in batch.sequences.iter().zip(log_probs) {
        let written = sequence.weights.iter().zip(log_probs).filter(|(weight, _)| **weight == 1.0);
        let (count, log_prob) = written.fold((0.0, 0.0), |(n, sum), (_, &value)| (n + 1.0, sum + f64::from(value)));
        sum += log_prob;
        num_tokens += count;
        probability += log_prob.exp();
    }
    let values = [
        ("train/written_loss", -sum / f64::max(num_tokens, 1.0)),
        ("train/demonstration_probability", probability / batch.sequences.len().max(1) as f64),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Takes the text that all demonstrations start with (system text and tools) out of the loss: it is the same in every
/// batch, and tokens without loss can be computed once for all.
fn drop_shared_context(batch: &mut SupervisedBatch) {
    let Some((first, others)) = batch.sequences.split_first() else { return };
    let shared = others.iter().fold(first.tokens.len(), |shared, other| {
        first.tokens[..shared].iter().zip(&other.tokens).take_while(|(a, b)| a == b).count()
    });
    let written = |sequence: &SupervisedSequence| sequence.weights.iter().position(|weight| *weight == 1.0);
    let shared = batch.sequences.iter().filter_map(written).fold(shared, usize::min);
    for sequence in &mut batch.sequences {
        sequence.weights[..shared].fill(0.0);
    }
}

/// Checks that a new run would not write its finished model over another.
///
/// # Errors
/// [`TrainError::OutputTaken`] when the folder holds a model.
pub fn check_output(folder: &Path) -> Result<(), TrainError> {
    let is_model = |entry: fs::DirEntry| {
        entry.file_name() == CONFIG_FILE || entry.path().extension().is_some_and(|end| end == "safetensors")
    };
    // What cannot be listed has nothing that could be lost.
    match fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_model)) {
        true => Err(TrainError::OutputTaken { folder: folder.to_owned() }),
        false => Ok(()),
    }
}

/// Writes the finished model into a folder of its own. Files of the same names are replaced one by one once
/// all are written; others in the folder stay.
fn publish(policy: &dyn Policy, folder: &Path) -> Result<(), TrainError> {
    let failed = |source| CheckpointError::Io { path: folder.to_owned(), action: "write the finished model", source };
    let aside = folder.join(".unfinished");
    let written = || -> Result<(), CheckpointError> {
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(failed)?;
        }
        fs::create_dir_all(&aside).map_err(failed)?;
        policy.save_weights(&aside).map_err(|source| CheckpointError::Policy { path: folder.to_owned(), source })?;
        for entry in fs::read_dir(&aside).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            fs::rename(entry.path(), folder.join(entry.file_name())).map_err(failed)?;
        }
        fs::remove_dir(&aside).map_err(failed)
    };
    Ok(written()?)
}
