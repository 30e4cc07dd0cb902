//! What can go wrong between text and token ids.

use std::path::PathBuf;

/// A tokenizer or chat template that cannot be used, or input it cannot take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}; check free space and permissions of the folder", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder holds no tokenizer.
    #[error("{} holds no tokenizer.json; copy the model's tokenizer files into it", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A tokenizer or template file is damaged.
    #[error("{} is not usable: {problem}; repair or download it again", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer refused a text or ids.
    #[error("the tokenizer failed: {problem}")]
    Tokenizer {
        /// What it said.
        problem: String,
    },
    /// The chat template cannot be parsed, or refused the conversation.
    #[error("chat template {name}: {problem}")]
    Template {
        /// File or built-in name of the template.
        name: String,
        /// Place and reason.
        problem: String,
    },
    /// A chat message does not have the expected form.
    #[error("chat message {index}: {problem}")]
    BadMessage {
        /// Index in the conversation, from 0.
        index: usize,
        /// What was found and expected.
        problem: String,
    },
    /// The template does not allow tool results to be appended to a conversation.
    #[error(
        "chat template {name} does not let tool results be appended: {problem}; use another template for multi-turn rollouts"
    )]
    NotAppendable {
        /// File or built-in name of the template.
        name: String,
        /// Which property does not hold.
        problem: String,
    },
    /// The vocabulary asked for is too small.
    #[error("a vocabulary of {requested} tokens was asked for, bytes and special tokens alone are {minimum}")]
    VocabularyTooSmall {
        /// Tokens asked for.
        requested: usize,
        /// Fewest possible.
        minimum: usize,
    },
}
