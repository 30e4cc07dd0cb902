//! `nemo-burn plan`: what a configuration's run takes of each device, whether it fits, and how long a step takes at least.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use nemo_model::ModelError;
use nemo_rl::assemble;
use nemo_rl::plan::{FLOAT32_BYTES, Machine, Plan, PlanError, PlanInput, Rates};

use super::places::places;
use super::run::load;
use super::train::BUILT_IN;
use crate::arguments::{Gpu, PlanArguments};
use crate::device::host_machine;
use crate::output;
use crate::report::plan::{figures, table};

/// Time for each of the two measurements.
const MEASURING: Duration = Duration::from_millis(400);

pub fn run(arguments: PlanArguments) -> anyhow::Result<()> {
    let config = load(arguments.config.as_deref(), &arguments.overrides, &BUILT_IN)?;
    let model = assemble::planned_model_config(&config, &places(arguments.config.as_deref())?)?;
    let here = host_machine();
    let device_memory = arguments.device_memory.or(arguments.gpu.map(memory)).unwrap_or(here.device_memory);
    let threads = if arguments.gpu.is_some() { 0 } else { here.threads };
    let machine = Machine { device_memory, devices: arguments.devices, threads };
    let input =
        PlanInput::of_config(&config, &model, arguments.max_open_sequences, machine).map_err(ModelError::from)?;
    let plan = Plan::new(&input).ok_or(PlanError::Devices { devices: arguments.devices })?;
    let (rates, of) = match arguments.gpu {
        Some(gpu) => published(gpu, input.settings.element_bytes.parameters),
        None => (measured(), "measured here, in f32"),
    };
    if let Some(coverage) = assemble::coverage(&config, &model)? {
        output::line(&format!("{coverage}\n"))?;
    }
    output::line(&format!("{}\n\n{}", table(&plan), figures(&plan, rates, of)))?;
    // What does not fit ends the command like any other input that cannot be used.
    Plan::fitting(&input)?;
    output::line("\nThe run fits.")
}

/// Memory of a GPU, less what its driver and the program's kernels take.
fn memory(gpu: Gpu) -> usize {
    match gpu {
        Gpu::A100 | Gpu::H100 => 78 << 30,
        Gpu::H200 => 139 << 30,
    }
}

/// Dense matrix products and memory traffic of a GPU. In f32 products are formed without tensor cores, which would round.
///
/// Sources: NVIDIA's data sheets of A100 (80 GB SXM: 19.5 and 312 TFLOP/s, 2039 GB/s), H100 (SXM: 67 and 989 TFLOP/s without
/// sparsity, 3.35 TB/s) and H200 (SXM: the same products, 4.8 TB/s).
fn published(gpu: Gpu, parameter_bytes: usize) -> (Rates, &'static str) {
    let is_wide = parameter_bytes >= FLOAT32_BYTES;
    let (f32, bf16, memory_bytes) = match gpu {
        Gpu::A100 => (19.5e12, 312e12, 2.039e12),
        Gpu::H100 => (67e12, 989e12, 3.35e12),
        Gpu::H200 => (67e12, 989e12, 4.8e12),
    };
    let of = if is_wide { "the data sheet's, in f32" } else { "the data sheet's, in bfloat16" };
    (Rates { matmul_flops: if is_wide { f32 } else { bf16 }, memory_bytes }, of)
}

/// What this machine does: a product of large matrices, and a copy that no cache holds.
fn measured() -> Rates {
    const SIZE: usize = 1024;
    const COPIED: usize = 64 << 20;
    let device = Device::flex();
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &device);
    let (x, weight) = (random([SIZE, SIZE]).unsqueeze_dim::<3>(0), random([SIZE, SIZE]));
    let matmul_flops = per_second(2.0 * (SIZE * SIZE * SIZE) as f64, || {
        std::hint::black_box(nemo_kernels::linear(x.clone(), weight.clone(), None));
    });
    let source = vec![1_u8; COPIED];
    let mut copy = vec![0_u8; COPIED];
    let memory_bytes = per_second(2.0 * COPIED as f64, || {
        copy.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&mut copy);
    });
    Rates { matmul_flops, memory_bytes }
}

/// `amount` per second of `work`, at its best.
fn per_second(amount: f64, mut work: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut best = f64::INFINITY;
    while began.elapsed() < MEASURING {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    amount / best.max(f64::MIN_POSITIVE)
}
