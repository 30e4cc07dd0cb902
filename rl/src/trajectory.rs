//! What one episode left behind: the exact token ids the model read and wrote, and how it was judged.
//!
//! Flat arrays of equal length, entry t describing token t, so that nothing downstream has to know about
//! turns: the prompt, the tool results and the glue of the chat template are tokens with `mask` false.

use std::ops::Range;

use nemo_env::{Holdout, Outcome, Task, ToolCall};
use serde::{Deserialize, Serialize};

use crate::policy::api::TokenId;

/// Why an episode ended. All endings are scored alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The model answered without calling a tool.
    Message,
    /// The allowed number of model turns was used; the last turn's calls were still executed.
    MaxSteps,
    /// A turn ran into `max_new_tokens`.
    Length,
    /// A turn reached the longest allowed length of the sequence.
    ContextFull,
    /// The results of a turn's calls did not fit into the sequence, which is shorter than allowed.
    ResultsTooLong,
}

/// What reports group tasks by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLabel {
    /// Record id.
    pub id: u64,
    /// Template of a generated task, `dataset` for other records.
    pub template: String,
    /// `email`, `calendar`, …
    pub domain: String,
    /// Calls of the demonstration, or of the ground truth when there is none.
    pub num_steps: usize,
    /// `trained`, `unseen_fillings`, `unseen_templates`, or `dataset` for records that are not generated.
    pub holdout: String,
}

impl TaskLabel {
    /// The label of a task.
    pub fn of(task: &Task) -> Self {
        match &task.provenance {
            Some(provenance) => Self {
                id: task.id,
                template: provenance.template.clone(),
                domain: provenance.domain.clone(),
                num_steps: provenance.num_steps,
                holdout: match provenance.holdout {
                    Holdout::None => "trained",
                    Holdout::Filling => "unseen_fillings",
                    Holdout::Template => "unseen_templates",
                }
                .to_owned(),
            },
            None => Self {
                id: task.id,
                template: "dataset".to_owned(),
                domain: task.category.strip_prefix("workplace_assistant_").unwrap_or(&task.category).to_owned(),
                num_steps: task.ground_truth.len(),
                holdout: "dataset".to_owned(),
            },
        }
    }
}

/// One finished episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Position of the task among those that were asked for.
    pub task_index: usize,
    /// Which of the task's samples.
    pub sample: usize,
    /// What reports group it by.
    pub label: TaskLabel,
    /// Everything the model read and wrote.
    pub tokens: Vec<TokenId>,
    /// Entry t: token t was sampled.
    pub mask: Vec<bool>,
    /// Entry t: log-probability of token t when it was sampled, 0 elsewhere.
    pub log_probs: Vec<f32>,
    /// Tokens of the initial prompt.
    pub prompt_length: usize,
    /// The sampled tokens of each model turn; a turn may be empty when the context was full.
    pub turns: Vec<Range<usize>>,
    /// The calls that are scored, in order: see [`crate::rollout::episode`].
    pub calls: Vec<ToolCall>,
    /// How many turns looked like a tool call but could not be parsed.
    pub num_malformed_turns: usize,
    /// Why the episode ended.
    pub ending: Ending,
    /// Whether the sequence reached the longest allowed length. This is what NeMo RL calls truncated, whatever ended the
    /// episode: a last token that is the end of the turn counts too, a turn cut off by `max_new_tokens` does not.
    pub truncated: bool,
    /// The verdict of the environment.
    pub outcome: Outcome,
}

impl Trajectory {
    /// Sampled tokens.
    pub fn num_sampled_tokens(&self) -> usize {
        self.turns.iter().map(Range::len).sum()
    }

    /// Sampled tokens of the longest turn.
    pub fn longest_turn(&self) -> usize {
        self.turns.iter().map(Range::len).max().unwrap_or(0)
    }

    /// The ids of the initial prompt; samples of equal prompts form a group.
    pub fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.prompt_length]
    }
}
