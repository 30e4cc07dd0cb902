//! What can go wrong with a checkpoint folder. Every message names the file, what was found, what was expected and
//! what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::usable::LARGEST_WEIGHT;
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
    /// A tensor that was asked for by name is not there.
    #[error("{}: no tensor is called {tensor}; check that the file is complete and belongs here", path.display())]
    NoSuchTensor {
        /// The folder or file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// Tensors the model is made of are absent.
    #[error("{}: {count} tensor(s) missing: {names}; {hint}", path.display())]
    MissingTensors {
        /// The folder.
        path: PathBuf,
        /// How many are missing.
        count: usize,
        /// The first of them.
        names: String,
        /// What was found in their place, and what to do.
        hint: String,
    },
    /// Tensors the model does not have are present.
    #[error("{}: {count} unexpected tensor(s): {names}; {hint}", path.display())]
    UnexpectedTensors {
        /// The folder.
        path: PathBuf,
        /// How many are unexpected.
        count: usize,
        /// The first of them.
        names: String,
        /// What they may be, and what to do.
        hint: String,
    },
    /// A tensor of a quantisation scheme.
    #[error("{}: {tensor} is a part of quantised weights, which are not supported; use the release in bf16, f16 or f32", path.display())]
    Quantised {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The head of a model with tied embeddings is not the embedding.
    #[error("{}: config.json ties the head to the embedding, but {tensor} differs from {embeddings}; set \"tie_word_embeddings\" to false to use the head as it is stored (transformers and vLLM do), or remove it from the file to use the embedding", path.display())]
    UntiedHead {
        /// The file.
        path: PathBuf,
        /// The head.
        tensor: String,
        /// The embedding.
        embeddings: String,
    },
    /// A weight no model can compute with.
    #[error("{}: tensor {tensor} of shape {shape:?} holds {value} at position {position}; every weight has to be a number of at most {LARGEST_WEIGHT:e}, use an undamaged copy or an earlier checkpoint", path.display())]
    UnusableValue {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Index of the value, row-major.
        position: usize,
        /// The value.
        value: f32,
    },
    /// A tensor's shape is not the one that the model's sizes give.
    #[error("{}: tensor {tensor} has shape {found:?}, the sizes in config.json give {expected:?}", path.display())]
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
    #[error("{}: tensor {tensor} is stored as {found}, expected {expected}; quantised weights are not supported, use the release in bf16, f16 or f32", path.display())]
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
    /// The same tensor is stored twice, under one name or two.
    #[error("{}: tensor {stored} is also in {} as {other_stored}: both are {tensor}; remove one of the two", path.display(), other.display())]
    DuplicateTensor {
        /// The second file.
        path: PathBuf,
        /// Name of the tensor there.
        stored: String,
        /// The first file.
        other: PathBuf,
        /// Name of the tensor there.
        other_stored: String,
        /// The published name.
        tensor: String,
    },
    /// Something that must not be overwritten is already there.
    #[error("{} already exists; nothing was written, choose another folder or remove it", path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
    /// A path that ends in no name, so that nothing can be made beside it and renamed.
    #[error("{} does not end in the name of a folder; give the path of the folder to make, such as models/random", path.display())]
    NoFolderName {
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
