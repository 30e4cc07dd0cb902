//! What can go wrong with an adapter. Every message names the file or the module, what was found, and what to do.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// An adapter that cannot be made, read or merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// One of its files, or its base, cannot be read or written.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A factor needs at least one row.
    #[error("the adapter's rank is 0; it has to be at least 1")]
    Rank,
    /// A target that the model has no maps for.
    #[error(
        "no block of the model ({blocks}) has a linear map called {module}; leave it out of the adapter's target modules"
    )]
    NoSuchModule {
        /// The target.
        module: &'static str,
        /// The model's blocks.
        blocks: String,
    },
    /// The folder is none that PEFT writes.
    #[error("{} is no adapter: it has no {missing}; give a folder that PEFT or a LoRA run wrote", folder.display())]
    NoAdapter {
        /// The folder.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// The configuration cannot be understood.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected.
        problem: String,
    },
    /// A setting that this program does not honour.
    #[error("{}: \"{key}\": {found} is not supported: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: String,
        /// Its value.
        found: String,
        /// Why.
        reason: &'static str,
    },
    /// A tensor whose module is not recognised. PEFT would leave it out and answer like the base model.
    #[error(
        "{}: {tensor} belongs to no module that is known here; names begin with base_model.model.model.layers (transformers) or \
         base_model.model.backbone.layers (NVIDIA's modelling code): rename the tensors", path.display()
    )]
    UnknownPrefix {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that is no factor of a linear map.
    #[error(
        "{}: {tensor} is no factor of a linear map (…lora_A.weight, …lora_B.weight); adapters of other kinds are not \
         supported", path.display()
    )]
    OtherTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A factor of a map that the model does not have.
    #[error("{}: the model has no linear map {module}; the adapter belongs to another model", path.display())]
    ForeignModule {
        /// The file.
        path: PathBuf,
        /// The map.
        module: String,
    },
    /// A factor of a shape that does not fit.
    #[error(
        "{}: {tensor} has shape {found:?}, its map and the rank of adapter_config.json give {expected:?}; the adapter belongs to \
         another model, or its \"r\" was changed", path.display()
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// A factor is not there.
    #[error("{}: {tensor} is missing, which \"target_modules\" of adapter_config.json asks for; save the adapter again", path.display())]
    MissingFactor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A factor of a map that was not to have one.
    #[error("{}: {tensor} is there, but \"target_modules\" of adapter_config.json does not name its map; add it there", path.display())]
    UntargetedModule {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A factor no model can compute with.
    #[error("{}: {tensor} holds {value}, with which no model can be run; use an earlier copy of the adapter", path.display())]
    UnusableValue {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
    /// The adapter in a folder is not the one that a model has.
    #[error("{}: found {found}, expected {expected}", folder.display())]
    Differs {
        /// The folder.
        folder: PathBuf,
        /// Rank, scale or maps of the folder.
        found: String,
        /// Those of the model.
        expected: String,
    },
    /// The model has none to save.
    #[error("the model has no adapter to save")]
    Absent,
}

impl From<CheckpointError> for AdapterError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}
