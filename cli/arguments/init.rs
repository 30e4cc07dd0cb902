//! What `init` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::values::number;

#[derive(Debug, Args)]
pub struct InitArguments {
    /// Shape of the model: a config.json, such as configs/models/hybrid_1b.json.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Seed of the weights: the same gives the same values.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = number)]
    pub seed: u64,
    /// What the weights are stored in [default: the configuration's torch_dtype].
    #[arg(long, value_name = "TYPE", value_enum)]
    pub dtype: Option<CheckpointDtype>,
    /// Folder to write; it must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

/// What a checkpoint's weights are stored in, in PyTorch's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointDtype {
    /// Four bytes an element; the values as they were drawn.
    Float32,
    /// Two bytes, with the range of float32.
    Bfloat16,
    /// Two bytes, with more digits and less range.
    Float16,
}
