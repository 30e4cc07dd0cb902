//! What `merge` takes.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct MergeArguments {
    /// Hugging Face folder of the model that the adapter belongs to, or its name on the hub, which is downloaded.
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// Folder of the adapter, in PEFT's format.
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder to write; it must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}
