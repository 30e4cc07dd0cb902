//! Where a command computes, and with how much memory.

use clap::Args;

use crate::device::DeviceName;
use crate::values::memory_size;

#[derive(Debug, Args)]
pub struct ComputeArguments {
    /// Where to compute: cpu, cuda:N or wgpu.
    #[arg(long, default_value_t)]
    pub device: DeviceName,
    /// Memory of the device that may be used, such as 80GiB [default: of cpu, four fifths of what is free; else 16GiB].
    /// What a run takes is planned within it, and what does not fit is refused.
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    pub device_memory: Option<usize>,
}
