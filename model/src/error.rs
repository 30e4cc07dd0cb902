//! Errors of the model crate.

use std::path::PathBuf;

use crate::generate::{SequenceId, TokenId};

/// Why a model could not be built, loaded, trained or saved.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The checkpoint is not usable.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// The adapter is not usable.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::AdapterError),
    /// The weights were quantised for generation.
    #[error(
        "the weights are stored in int8, for generation only: to train them, load the model in float32 or bfloat16, or train          an adapter beside them"
    )]
    NotTrainable,
    /// A model folder would hold the base alone.
    #[error(
        "the model has an adapter, which a model's folder cannot hold: save the adapter, or merge it into its base"
    )]
    HasAdapter,
    /// What was rounded to eight bits is no longer the checkpoint's.
    #[error("the weights are stored in int8, for generation only: to save them, load the model in full (float32)")]
    NotSavable,
    /// Whoever watched a long write ended it.
    #[error("stopped before {} was whole; nothing of it was kept, the same command starts anew", folder.display())]
    Stopped {
        /// The folder that would have been made.
        folder: PathBuf,
    },
}

/// Why the engine refused a request.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EngineError {
    /// A sequence needs at least one token to start from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt longer than a sequence can be.
    #[error("a prompt of {length} tokens does not fit: a sequence holds at most {limit} tokens")]
    PromptTooLong {
        /// Tokens of the prompt.
        length: usize,
        /// The longest sequence.
        limit: usize,
    },
    /// An id that the model has no embedding for.
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// The id.
        id: TokenId,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A handle that was never handed out or is already finished.
    #[error("sequence {} is not open", .0.0)]
    UnknownSequence(SequenceId),
    /// A turn was begun in a sequence that is still being sampled.
    #[error("sequence {} is still generating", .0.0)]
    TurnOpen(SequenceId),
    /// The model computed something that is no number.
    #[error("the logits of sequence {} are not finite: the weights are damaged or have diverged", .sequence.0)]
    NotFinite {
        /// The sequence.
        sequence: SequenceId,
    },
    /// The device failed. What it was computing is lost, and with it what the caches held.
    #[error(transparent)]
    Device(#[from] nemo_kernels::DeviceError),
    /// The caches cannot hold even this one sequence.
    #[error("a sequence of {tokens} tokens does not fit into the cache of {capacity} tokens and {slots} state slots")]
    CacheTooSmall {
        /// The sequence.
        sequence: SequenceId,
        /// Tokens of the sequence.
        tokens: usize,
        /// Tokens that all pages hold.
        capacity: usize,
        /// State slots.
        slots: usize,
    },
}
