//! Where tensors live: `--device cpu|cuda:N|wgpu`. The only place that knows which devices were compiled in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use nemo_rl::plan::Machine;

use crate::arguments::ComputeArguments;

/// A device as it is written on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// A GPU through the system's graphics interface.
    Wgpu,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "wgpu" => Ok(Self::Wgpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => match index.parse() {
                Ok(index) => Ok(Self::Cuda(index)),
                Err(_) => Err(format!("`{index}` is not the number of a GPU; write for example cuda:0")),
            },
            _ => Err("expected cpu, cuda:N or wgpu".to_owned()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu => f.write_str("wgpu"),
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// When this program was built without it, or the machine does not have it.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
            Self::Wgpu => open_wgpu(),
        }
    }
}

/// Part of the free memory that a run on the processor may use. A tenth of it is for what the plan may be wrong by, which is
/// what `rl/tests/memory.rs` allows, and as much for everything that is no tensor: texts, tables, freed memory that is kept.
const HOST_SHARE: f64 = 0.8;
/// Memory of a device that nothing was said of: no interface here tells it, and current graphics cards have as much.
const DEVICE_MEMORY: usize = 16 << 30;
/// Memory of a host whose system does not tell it.
const UNKNOWN_HOST_MEMORY: usize = 8 << 30;

/// What a run may use.
pub fn machine(compute: &ComputeArguments) -> Machine {
    let mut machine = match compute.device {
        DeviceName::Cpu => host_machine(),
        _ => Machine { device_memory: DEVICE_MEMORY, devices: 1, threads: 0 },
    };
    machine.device_memory = compute.device_memory.unwrap_or(machine.device_memory);
    machine
}

/// What a run may use of this machine's processor and memory.
pub fn host_machine() -> Machine {
    let free = nemo_model::available_memory().map(|bytes| (bytes as f64 * HOST_SHARE) as usize);
    let device_memory = free.unwrap_or(UNKNOWN_HOST_MEMORY);
    Machine { device_memory, devices: 1, threads: rayon::current_num_threads() }
}

/// Headers of the CUDA toolkit that device kernels include; they are compiled when they are first used.
#[cfg(feature = "cuda")]
const CUDA_HEADERS: [&str; 5] = ["cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h", "mma.h", "crt/mma.h"];
/// The header of CCCL that those include, in one of these places below `include`.
#[cfg(feature = "cuda")]
const CCCL_HEADER: [&str; 2] = ["cccl/nv/target", "nv/target"];

/// Checks that kernels can be compiled.
#[cfg(feature = "cuda")]
fn check_cuda_toolkit() -> anyhow::Result<()> {
    const REMEDY: &str = "install NVIDIA's CUDA toolkit (of a distribution's packages, those with the compiler NVRTC and the \
                          headers of the runtime and of CCCL), and set CUDA_PATH to its folder if that is not /usr/local/cuda";
    let Some(toolkit) = cubecl_cuda::install::cuda_path() else {
        anyhow::bail!("--device cuda: found no CUDA toolkit, whose headers the kernels need; {REMEDY}");
    };
    let include = toolkit.join("include");
    let is_there = |header: &&str| include.join(header).exists();
    let missing_cccl = if CCCL_HEADER.iter().any(is_there) { None } else { CCCL_HEADER.first() };
    if let Some(missing) = CUDA_HEADERS.iter().find(|header| !is_there(header)).or(missing_cccl) {
        anyhow::bail!(
            "--device cuda: {} is missing, which the kernels need; {REMEDY}",
            include.join(missing).display()
        );
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> anyhow::Result<Device> {
    let found = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().len();
    anyhow::ensure!(
        index < found,
        "--device cuda:{index}: this machine has {found} CUDA device(s); check the driver with nvidia-smi, or use --device cpu"
    );
    check_cuda_toolkit()?;
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> anyhow::Result<Device> {
    anyhow::bail!(
        "--device cuda:{index}: this program was built without CUDA; build it with `cargo build --release --features cuda`, \
         or use --device cpu"
    )
}

#[cfg(feature = "wgpu")]
fn open_wgpu() -> anyhow::Result<Device> {
    let found = Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec().len();
    anyhow::ensure!(
        found > 0,
        "--device wgpu: this machine has no device for it; install a graphics driver (Debian: mesa-vulkan-drivers for a \
         software one), or use --device cpu"
    );
    Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu() -> anyhow::Result<Device> {
    anyhow::bail!(
        "--device wgpu: this program was built without it; build it with `cargo build --release --features wgpu`, or use \
         --device cpu"
    )
}

/// Lets products of f32 matrices be TF32 ones; false where that means nothing.
pub fn allow_tf32(device: DeviceName) -> bool {
    #[cfg(feature = "cuda")]
    if matches!(device, DeviceName::Cuda(_)) {
        nemo_kernels::allow_tf32();
        return true;
    }
    let _ = device;
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["cpu", "cuda:0", "cuda:13", "wgpu"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CPU"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
