//! Rollouts: the model acts in the environment and leaves trajectories behind.
//!
//! [`collector`] drives many [`episode`]s at once against a [`Policy`](crate::policy::api::Policy);
//! [`Renderer`] is the seam between token ids and chat: the collector itself knows no text format.

pub mod chat;
pub mod collector;
pub mod episode;
pub mod plain_text;

use nemo_env::{EnvError, Task, ToolCall};

use crate::policy::api::{PolicyError, TokenId};

/// What a model's turn says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedTurn {
    /// Visible text.
    pub content: String,
    /// The requested calls in order.
    pub calls: Vec<ToolCall>,
    /// The turn looks like a tool call but is none; `calls` is then empty.
    pub malformed: bool,
}

/// Why text and token ids could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The chat template or the tokenizer failed; its own error says what happened.
    #[error(transparent)]
    Text(Box<dyn std::error::Error + Send + Sync>),
    /// The stop token is not in the vocabulary.
    #[error("the tokenizer has no token {token:?}, which ends the turns of the chat template")]
    StopToken {
        /// Its text.
        token: String,
    },
    /// The chat template cannot be used for rollouts or demonstrations.
    #[error("chat template {name}: {reason}")]
    Template {
        /// File or built-in name.
        name: String,
        /// What is missing.
        reason: String,
    },
}

/// The chat format of a model, in token ids.
///
/// The ids of a whole conversation are `prompt_ids`, then alternately an assistant turn and
/// `tool_results_ids`. Sampled turns are kept as they were sampled; nothing is re-tokenised.
pub trait Renderer {
    /// System text, tools and messages of a task, up to and including the header of the assistant's turn.
    fn prompt_ids(&self, task: &Task) -> Result<Vec<TokenId>, RenderError>;

    /// What follows an assistant turn that ended with its stop token: the rest of the template's glue, the
    /// results in call order, and the header of the next assistant turn.
    fn tool_results_ids(&self, task: &Task, results: &[String]) -> Result<Vec<TokenId>, RenderError>;

    /// An assistant turn as the model should write it, including the stop token.
    fn assistant_turn_ids(&self, task: &Task, content: &str, calls: &[ToolCall]) -> Result<Vec<TokenId>, RenderError>;

    /// The text of some ids, special tokens included. Ids that are no text become replacement characters.
    fn decode(&self, ids: &[TokenId]) -> String;

    /// Reads the text of an assistant turn, with or without its stop token. Total: every text is something.
    fn parse(&self, text: &str) -> ParsedTurn;
}

/// Why rollouts could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The policy failed.
    #[error("generation failed: {0}")]
    Policy(#[from] PolicyError),
    /// The environment failed (a tool error is not one: it is a message to the model).
    #[error("task {task}: the environment failed: {source}")]
    Environment {
        /// Record id.
        task: u64,
        /// Its own error.
        source: EnvError,
    },
    /// Text and ids could not be converted.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// A prompt that leaves no room for an answer.
    #[error(
        "task {task}: its prompt has {length} tokens, which leaves no room for an answer within the {limit} tokens that a \
         sequence may have; raise that limit (policy.max_total_sequence_length of a run, --max-length of an evaluation) or \
         leave the task out"
    )]
    PromptTooLong {
        /// Record id.
        task: u64,
        /// Tokens of the prompt.
        length: usize,
        /// The longest sequence.
        limit: usize,
    },
    /// The engine returned something it promised not to.
    #[error("task {task}: the generation engine {what}")]
    Engine {
        /// Record id.
        task: u64,
        /// What it did.
        what: String,
    },
}
