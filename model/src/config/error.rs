//! What can be wrong with a model's configuration files.

use std::path::PathBuf;

/// A configuration that cannot be used. Every message names the file and the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}; check that the folder holds a Hugging Face model and is readable", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{} is not valid JSON: {source}; repair or download the file again", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: serde_json::Error,
    },
    /// The file's JSON is not an object.
    #[error("{}: expected a JSON object, found {found}", path.display())]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// Kind of JSON value found.
        found: &'static str,
    },
    /// A key without a default is absent.
    #[error("{}: key \"{key}\" is missing; {expected}", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it should hold and why it is needed.
        expected: &'static str,
    },
    /// A key holds a value of the wrong kind.
    #[error("{}: key \"{key}\" is {found}, expected {expected}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value found, shortened.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A block of unknown kind.
    #[error("{}: key \"{key}\": unknown layer {found:?} at position {position} of \"{pattern}\"; allowed: {allowed}", path.display())]
    UnknownLayer {
        /// The file.
        path: PathBuf,
        /// `hybrid_override_pattern` or `layers_block_type`.
        key: &'static str,
        /// Index of the block, from 0.
        position: usize,
        /// The letter or name found.
        found: String,
        /// The whole pattern.
        pattern: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Values that contradict each other or leave the supported range.
    #[error("{}: {problem}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the keys and numbers, and what is expected.
        problem: String,
    },
}
