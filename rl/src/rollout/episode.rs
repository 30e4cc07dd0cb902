//! One episode: a model and a session of the environment take turns.
//!
//! # Which calls are executed and scored
//! The score replays a list of calls from the initial state, so what is scored must be what was executed:
//! * A task with `parallel_tool_calls: false` executes the first call of a turn and answers the others with
//!   an error that says so; only the executed call is scored.
//!   (The reference agent executes every call whatever the flag says; the flag is honoured here because demonstrations and
//!   tasks are made for it.)
//! * A turn that was cut off (length, context) is not answered any more. The complete calls in it are scored
//!   under the same rule, as the reference agent does: whether the model would have seen the result does not
//!   change the state the call leaves.
//! * The calls of the last allowed turn are executed and scored, but their results are not appended: the
//!   model cannot answer them, so they would only be untrained tokens.

use nemo_env::{EnvSession, Outcome, Task, ToolCall};

use super::{Renderer, RolloutError};
use crate::policy::api::{StopReason, TokenId, TurnEnd};
use crate::trajectory::{Ending, TaskLabel, Trajectory};

/// The bounds of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpisodeLimits {
    /// Model turns.
    pub max_turns: usize,
    /// Tokens of prompt, turns and tool results together.
    pub max_total_sequence_length: usize,
}

/// What the model is told about a call beyond the first of a turn of a task without parallel calls.
pub const SURPLUS_CALL_BODY: &str = "{\"error\":\"Only one tool call per turn is allowed: this call was not executed. Repeat it in your next turn if it is still needed.\"}";

/// What comes after a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The model goes on after reading these ids.
    Append(Vec<TokenId>),
    /// The episode is over.
    Done(Ending),
}

/// An episode in progress.
pub struct Episode<'a> {
    task: &'a Task,
    task_index: usize,
    sample: usize,
    session: Box<dyn EnvSession>,
    limits: EpisodeLimits,
    tokens: Vec<TokenId>,
    mask: Vec<bool>,
    log_probs: Vec<f32>,
    prompt_length: usize,
    turns: Vec<std::ops::Range<usize>>,
    calls: Vec<ToolCall>,
    num_malformed_turns: usize,
    ending: Option<Ending>,
}

impl<'a> Episode<'a> {
    /// An episode whose sequence holds `prompt` and whose session is fresh.
    pub fn new(
        task: &'a Task,
        (task_index, sample): (usize, usize),
        prompt: &[TokenId],
        session: Box<dyn EnvSession>,
        limits: EpisodeLimits,
    ) -> Self {
        Self {
            task,
            task_index,
            sample,
            session,
            limits,
            tokens: prompt.to_vec(),
            mask: vec![false; prompt.len()],
            log_probs: vec![0.0; prompt.len()],
            prompt_length: prompt.len(),
            turns: Vec::new(),
            calls: Vec::new(),
            num_malformed_turns: 0,
            ending: None,
        }
    }

    /// Position of the task and the number of the sample.
    pub fn key(&self) -> (usize, usize) {
        (self.task_index, self.sample)
    }

    /// Tokens that still fit into the sequence.
    pub fn room(&self) -> usize {
        self.limits.max_total_sequence_length.saturating_sub(self.tokens.len())
    }

    /// Takes in a turn the model has written and acts on it.
    ///
    /// # Errors
    /// A turn whose arrays disagree or whose log-probabilities are no numbers, a renderer that fails.
    pub fn take_turn(&mut self, turn: &TurnEnd, renderer: &dyn Renderer) -> Result<Next, RolloutError> {
        self.append_turn(turn)?;
        let parsed = renderer.parse(&renderer.decode(&turn.tokens));
        self.num_malformed_turns += usize::from(parsed.malformed);
        let num_executed = if self.task.parallel_tool_calls { parsed.calls.len() } else { parsed.calls.len().min(1) };
        self.calls.extend_from_slice(&parsed.calls[..num_executed]);
        let ending = match turn.reason {
            StopReason::EndOfTurn if parsed.calls.is_empty() => Some(Ending::Message),
            StopReason::EndOfTurn if self.turns.len() >= self.limits.max_turns => Some(Ending::MaxSteps),
            StopReason::EndOfTurn => None,
            // A turn whose allowance was what was left of the sequence ends with `Length` in the engine.
            StopReason::Length if self.room() == 0 => Some(Ending::ContextFull),
            StopReason::Length => Some(Ending::Length),
            StopReason::ContextFull => Some(Ending::ContextFull),
        };
        if let Some(ending) = ending {
            self.ending = Some(ending);
            return Ok(Next::Done(ending));
        }
        let results: Vec<String> = parsed
            .calls
            .iter()
            .enumerate()
            .map(|(i, call)| if i < num_executed { self.session.call(call) } else { SURPLUS_CALL_BODY.to_owned() })
            .collect();
        let append = renderer.tool_results_ids(self.task, &results)?;
        // At least one token must be left to sample.
        if append.len() >= self.room() {
            self.ending = Some(Ending::ResultsTooLong);
            return Ok(Next::Done(Ending::ResultsTooLong));
        }
        self.append(&append);
        Ok(Next::Append(append))
    }

    fn append(&mut self, context: &[TokenId]) {
        self.tokens.extend_from_slice(context);
        self.mask.resize(self.tokens.len(), false);
        self.log_probs.resize(self.tokens.len(), 0.0);
    }

    fn append_turn(&mut self, turn: &TurnEnd) -> Result<(), RolloutError> {
        let broken = |what: String| RolloutError::Engine { task: self.task.id, what };
        if turn.tokens.len() != turn.log_probs.len() {
            return Err(broken(format!(
                "returned {} tokens with {} log-probabilities",
                turn.tokens.len(),
                turn.log_probs.len()
            )));
        }
        if let Some(position) = turn.log_probs.iter().position(|p| !p.is_finite()) {
            return Err(broken(format!(
                "returned the log-probability {} for token {} of turn {}",
                turn.log_probs[position],
                position,
                self.turns.len()
            )));
        }
        if turn.tokens.len() > self.room() {
            return Err(broken(format!("sampled {} tokens where {} were allowed", turn.tokens.len(), self.room())));
        }
        let start = self.tokens.len();
        self.tokens.extend_from_slice(&turn.tokens);
        self.mask.resize(self.tokens.len(), true);
        self.log_probs.extend_from_slice(&turn.log_probs);
        self.turns.push(start..self.tokens.len());
        Ok(())
    }

    /// The calls to be scored.
    pub fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// The task of the episode.
    pub fn task(&self) -> &'a Task {
        self.task
    }

    /// The tokens so far and which of them the model wrote.
    pub fn into_tokens(self) -> (Vec<TokenId>, Vec<bool>) {
        (self.tokens, self.mask)
    }

    /// The finished episode with its verdict.
    pub fn into_trajectory(self, outcome: Outcome) -> Trajectory {
        Trajectory {
            truncated: self.room() == 0,
            task_index: self.task_index,
            sample: self.sample,
            label: TaskLabel::of(self.task),
            tokens: self.tokens,
            mask: self.mask,
            log_probs: self.log_probs,
            prompt_length: self.prompt_length,
            turns: self.turns,
            calls: self.calls,
            num_malformed_turns: self.num_malformed_turns,
            ending: self.ending.unwrap_or(Ending::ContextFull),
            outcome,
        }
    }
}
