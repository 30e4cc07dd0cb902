//! What can keep a run from being put together.

use std::path::PathBuf;

use nemo_env::EnvError;
use nemo_env::generate::GenerateError;
use nemo_hub::HubError;
use nemo_model::ModelError;
use nemo_model::checkpoint::CheckpointError;
use nemo_model::config::ConfigError;
use nemo_model::text::TextError;

use crate::plan::PlanError;
use crate::rollout::RenderError;

/// Why a run could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The model's folder cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokenizer or chat template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The chat format cannot be used.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The texts that the tokenizer is trained on cannot be generated.
    #[error("policy.init.tokenizer: {0}")]
    Corpus(#[from] GenerateError),
    /// The offices that the tokenizer's texts are about cannot be opened.
    #[error("policy.init.tokenizer: {0}")]
    Office(#[from] EnvError),
    /// The run does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// More tokens than embeddings.
    #[error(
        "{}: vocab_size is {model}, but the tokenizer has {tokenizer} tokens; raise vocab_size or lower \
         policy.init.tokenizer.vocab_size", path.display()
    )]
    Vocabulary {
        /// The model's configuration.
        path: PathBuf,
        /// Rows of the embedding.
        model: usize,
        /// Tokens of the tokenizer.
        tokenizer: usize,
    },
    /// The tokenizer belongs to another model.
    #[error(
        "{}: its tokenizer writes token ids up to {largest}, but the model has embeddings for {vocabulary} (\"vocab_size\" \
         of config.json); use the tokenizer the model was trained with", folder.display()
    )]
    ForeignTokenizer {
        /// Folder of the tokenizer.
        folder: PathBuf,
        /// Largest id.
        largest: usize,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// An end token the model has no embedding for.
    #[error(
        "{}: \"eos_token_id\" names token {id}, but \"vocab_size\" of config.json is {vocabulary}; ids are below it",
        path.display()
    )]
    EndToken {
        /// The file.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
    /// No token ends a turn.
    #[error("{}: the tokenizer names no end-of-turn token; set \"eos_token\" in tokenizer_config.json", folder.display())]
    NoEndOfTurn {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A model that is no folder and has no name of the hub.
    #[error("model \"{name}\" not found: {reason}")]
    NotFound {
        /// As it was given.
        name: String,
        /// What is there instead, and what to do.
        reason: &'static str,
    },
    /// A model that is neither a folder nor to be had from the hub.
    #[error("{name}: there is no such folder, and of the hub: {source}")]
    Hub {
        /// As it was given.
        name: String,
        /// Why the hub did not help.
        source: HubError,
    },
    /// A file that the configuration names cannot be read.
    #[error("{}: cannot read the file: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model does not fit its files or itself, after keys of its configuration were replaced.
    #[error("with policy.hf_config_overrides ({keys}) in place of config.json's: {source}")]
    Overridden {
        /// The replaced keys with their values.
        keys: String,
        /// What does not fit.
        source: Box<AssembleError>,
    },
    /// The overrides of the model's configuration are not usable.
    #[error("policy.hf_config_overrides: {} is not a JSON object that keys could be replaced in", path.display())]
    Overrides {
        /// The model's configuration.
        path: PathBuf,
    },
}
