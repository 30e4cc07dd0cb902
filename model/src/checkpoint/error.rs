//! What can go wrong with a checkpoint folder. Every message names the file, what was found, what was expected and
//! what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The model's configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folder does not exist or is no folder.
    #[error("{} is not a folder; give the folder of a Hugging Face model", path.display())]
    NotAFolder {
        /// The path given.
        path: PathBuf,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder holds no weights.
    #[error("{} holds no weights: expected model.safetensors or model.safetensors.index.json{hint}", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What was found instead, if that helps.
        hint: &'static str,
    },
    /// A file the index names is not there.
    #[error("{} names the shard {shard}, which is not in the folder; download the missing file", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The missing file's name.
        shard: String,
    },
    /// The index file is unusable.
    #[error("{} is not a usable index: {problem}; download it again", path.display())]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A safetensors file whose header cannot be understood.
    #[error("{} is not a usable safetensors file: {problem}; download or save it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A safetensors file shorter or longer than its header says.
    #[error("{} has {found} bytes but its header describes {expected}; it is {}, download or save it again",
        path.display(), if found < expected { "truncated" } else { "too long" })]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        found: u64,
        /// Bytes the header describes.
        expected: u64,
    },
    /// Tensors the configuration calls for are absent.
    #[error("{}: {count} tensor(s) missing: {names}; config.json describes a model that has them, use the config.json that belongs to these weights", path.display())]
    MissingTensors {
        /// The folder or file.
        path: PathBuf,
        /// How many are missing.
        count: usize,
        /// The first of them.
        names: String,
    },
    /// Tensors the configuration does not know are present.
    #[error("{}: {count} unexpected tensor(s): {names}; config.json describes a model without them, use the config.json that belongs to these weights", path.display())]
    UnexpectedTensors {
        /// The folder or file.
        path: PathBuf,
        /// How many are unexpected.
        count: usize,
        /// The first of them.
        names: String,
    },
    /// A tensor's shape is not what the configuration calls for.
    #[error("{}: tensor {tensor} has shape {found:?}, config.json calls for {expected:?}; use the config.json that belongs to these weights", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape the configuration calls for.
        expected: Vec<usize>,
    },
    /// A tensor's element type is not one that was asked for.
    #[error("{}: tensor {tensor} is stored as {found}, expected {expected}; quantised weights are not supported", path.display())]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Type in the file.
        found: String,
        /// Types that are accepted.
        expected: &'static str,
    },
    /// The same tensor is stored twice.
    #[error("{}: tensor {tensor} is also in {}; remove one of the two files", path.display(), other.display())]
    DuplicateTensor {
        /// The second file.
        path: PathBuf,
        /// The first file.
        other: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Something that must not be overwritten is already there.
    #[error("{} already exists; nothing was written, choose another folder or remove it", path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
    /// Writing failed. What was there before is untouched.
    #[error("cannot write {}: {source}; {advice}", path.display())]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The caller gave values that do not fit what was to be written.
    #[error("tensor {tensor}: {found} values given, shape {shape:?} has {expected}")]
    WrongValueCount {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Values given.
        found: usize,
        /// Values expected.
        expected: usize,
    },
}

impl CheckpointError {
    /// A failed write, with advice that fits its cause.
    pub(crate) fn unwritable(path: &Path, source: std::io::Error) -> Self {
        let advice = match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "the disk is full: free some space or choose another folder (nothing already saved was changed)"
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                "the folder is not writable: change its permissions or choose another folder"
            }
            _ => "nothing already saved was changed",
        };
        Self::Unwritable { path: path.to_owned(), source, advice }
    }

    pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }
}
