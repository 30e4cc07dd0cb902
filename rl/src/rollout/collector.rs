//! Many episodes at once.
//!
//! The collector keeps as many sequences open as allowed, starts the next task as soon as there is room for
//! all its samples, and answers each turn when it ends, so the engine's batch never waits for the slowest
//! episode. Results come back in input order. Since sampling is keyed (see
//! [`SampleKey`]), they do not depend on the number of open sequences.

use std::collections::BTreeMap;

use nemo_env::{Environment, Task};

use super::episode::{Episode, EpisodeLimits, Next};
use super::{Renderer, RolloutError};
use crate::policy::api::{Policy, SampleKey, SamplingParams, SequenceId};
use crate::trajectory::Trajectory;

/// How episodes are run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectSettings {
    /// Bounds of each episode.
    pub limits: EpisodeLimits,
    /// Sampling of each turn; `max_new_tokens` is lowered to what still fits into the sequence.
    pub sampling: SamplingParams,
    /// Sequences open at the same time. A task's samples are opened together, so a task with more samples
    /// than this runs alone.
    pub max_open_sequences: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Keys the random numbers together with the seed, the task's position and the sample.
    pub step: u64,
}

/// Runs `num_samples` episodes of each task and returns them task by task, sample by sample.
///
/// `on_finished` is called with the number of finished episodes whenever it grows.
///
/// # Errors
/// The first failure of policy, renderer or environment; all sequences are closed before it is returned.
pub fn collect(
    policy: &mut dyn Policy,
    renderer: &dyn Renderer,
    environment: &dyn Environment,
    tasks: &[&Task],
    num_samples: usize,
    settings: &CollectSettings,
    on_finished: &mut dyn FnMut(usize),
) -> Result<Vec<Trajectory>, RolloutError> {
    let mut run = Collection {
        renderer,
        environment,
        settings,
        open: BTreeMap::new(),
        finished: (0..tasks.len() * num_samples).map(|_| None).collect(),
        num_finished: 0,
        num_samples,
    };
    let outcome = run.drive(policy, tasks, on_finished);
    for id in run.open.keys() {
        policy.finish(*id);
    }
    outcome?;
    Ok(run.finished.into_iter().flatten().collect())
}

struct Collection<'a> {
    renderer: &'a dyn Renderer,
    environment: &'a dyn Environment,
    settings: &'a CollectSettings,
    open: BTreeMap<SequenceId, Episode<'a>>,
    /// Slot `task * num_samples + sample`.
    finished: Vec<Option<Trajectory>>,
    num_finished: usize,
    num_samples: usize,
}

impl<'a> Collection<'a> {
    fn drive(
        &mut self,
        policy: &mut dyn Policy,
        tasks: &[&'a Task],
        on_finished: &mut dyn FnMut(usize),
    ) -> Result<(), RolloutError> {
        let mut waiting = tasks.iter().copied().enumerate();
        let mut next = waiting.next();
        while self.num_finished < self.finished.len() {
            while let Some((index, task)) = next {
                if !self.open.is_empty() && self.open.len() + self.num_samples > self.settings.max_open_sequences {
                    break;
                }
                self.start(policy, index, task)?;
                next = waiting.next();
            }
            for turn in policy.step()? {
                let Some(mut episode) = self.open.remove(&turn.sequence) else {
                    policy.finish(turn.sequence);
                    continue;
                };
                match episode.take_turn(&turn, self.renderer) {
                    Ok(Next::Append(append)) => {
                        let begun = self.begin_turn(policy, turn.sequence, &append, &episode);
                        self.open.insert(turn.sequence, episode);
                        begun?;
                    }
                    Ok(Next::Done(_)) => {
                        policy.finish(turn.sequence);
                        self.score(episode)?;
                        on_finished(self.num_finished);
                    }
                    Err(error) => {
                        policy.finish(turn.sequence);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, policy: &mut dyn Policy, index: usize, task: &'a Task) -> Result<(), RolloutError> {
        let prompt = self.renderer.prompt_ids(task)?;
        let limits = self.settings.limits;
        if prompt.len() >= limits.max_total_sequence_length {
            return Err(RolloutError::PromptTooLong {
                task: task.id,
                length: prompt.len(),
                limit: limits.max_total_sequence_length,
            });
        }
        let ids = policy.begin(&prompt, self.num_samples)?;
        if ids.len() != self.num_samples {
            for id in &ids {
                policy.finish(*id);
            }
            return Err(RolloutError::Engine {
                task: task.id,
                what: format!("opened {} sequences instead of {}", ids.len(), self.num_samples),
            });
        }
        // All handles are registered before anything can fail, so that a failure closes all of them.
        for (sample, id) in ids.iter().enumerate() {
            let session =
                self.environment.reset(task).map_err(|source| RolloutError::Environment { task: task.id, source });
            match session {
                Ok(session) => {
                    self.open.insert(*id, Episode::new(task, (index, sample), &prompt, session, limits));
                }
                Err(error) => {
                    ids[sample..].iter().for_each(|id| policy.finish(*id));
                    return Err(error);
                }
            }
        }
        for id in ids {
            if let Some(episode) = self.open.get(&id) {
                self.begin_turn(policy, id, &[], episode)?;
            }
        }
        Ok(())
    }

    fn begin_turn(
        &self,
        policy: &mut dyn Policy,
        id: SequenceId,
        append: &[u32],
        episode: &Episode<'_>,
    ) -> Result<(), RolloutError> {
        let (task, sample) = episode.key();
        let key =
            SampleKey { seed: self.settings.seed, step: self.settings.step, task: task as u64, sample: sample as u64 };
        let sampling = SamplingParams {
            max_new_tokens: self.settings.sampling.max_new_tokens.min(episode.room()),
            ..self.settings.sampling
        };
        Ok(policy.begin_turn(id, append, key, &sampling)?)
    }

    fn score(&mut self, episode: Episode<'a>) -> Result<(), RolloutError> {
        let task = episode.task();
        let outcome = self
            .environment
            .score(task, episode.calls())
            .map_err(|source| RolloutError::Environment { task: task.id, source })?;
        let (index, sample) = episode.key();
        self.finished[index * self.num_samples + sample] = Some(episode.into_trajectory(outcome));
        self.num_finished += 1;
        Ok(())
    }
}
