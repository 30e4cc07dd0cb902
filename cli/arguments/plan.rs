//! `nemo-burn plan` as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::values::{at_least_one, memory_size};

#[derive(Debug, Args)]
pub struct PlanArguments {
    /// Configuration in NeMo RL's YAML keys [default: the built-in tiny job].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings that replace those of the file. `policy.model_name` may be a folder with a config.json or such a file itself.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Memory of each device that may be used, such as 80GiB [default: the GPU's, else four fifths of what is free here].
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub device_memory: Option<usize>,
    /// Devices that each hold a part of every layer; runs use one so far.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub devices: usize,
    /// Which GPU's published memory and speed to plan with [default: this machine's, which is measured].
    #[arg(long, value_name = "GPU", value_enum)]
    pub gpu: Option<Gpu>,
    /// Sequences generated at the same time.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub max_open_sequences: usize,
}

/// A kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gpu {
    /// NVIDIA A100 SXM with 80 GB.
    A100,
    /// NVIDIA H100 SXM with 80 GB.
    H100,
    /// NVIDIA H200 SXM with 141 GB.
    H200,
}
