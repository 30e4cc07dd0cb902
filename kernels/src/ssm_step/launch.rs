//! Three kernels: convolution (a unit per channel), state update (a cube per eight rows of a head's state), gated norm.
//!
//! States are read and written in place. A slot that one row reads and another row overwrites is copied aside first.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{SsmStepOps, SsmStepOptions, SsmStepTensors};
use crate::cube::math::{silu, softplus};
use crate::cube::{
    Numbers, arg, block, cast_to, contiguous_as, element_type, empty, grid, grid_of_units, sizes, writable,
};
use crate::gated_rms_norm::launch::gated_norm;

/// Units that share a row of a state, and rows of a cube.
const LANES: usize = 16;
const ROWS: usize = 8;

/// Marks a row that reads its state from the pool.
const NOT_SAVED: u32 = u32::MAX;

impl SsmStepOps for CubeBackend {
    fn ssm_step(
        tensors: SsmStepTensors<Self>,
        options: SsmStepOptions,
        src: Vec<u32>,
        dst: Vec<u32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = tensors.z.dtype;
        let wide = |tensor| contiguous_as(tensor, DType::F32);
        let (z, xbc, dt) = (wide(tensors.z), wide(tensors.xbc), wide(tensors.dt));
        let (conv_weight, conv_bias) = (wide(tensors.conv_weight), wide(tensors.conv_bias));
        let (a_log, d, dt_bias) = (wide(tensors.a_log), wide(tensors.d), wide(tensors.dt_bias));
        let (conv_pool, ssm_pool) = (writable(tensors.conv_pool), writable(tensors.ssm_pool));
        let [_, heads, width, state_size] = sizes(&ssm_pool);
        let [channels, _, taps] = sizes(&conv_weight);
        let rows = src.len();
        let client = z.client.clone();
        let active = empty(&z, [rows, channels], DType::F32);
        let scanned = empty(&z, [rows, heads * width], DType::F32);
        if rows == 0 {
            return (cast_to(scanned, dtype), conv_pool, ssm_pool);
        }

        let (saved_slots, saved_at) = overwritten_sources(&src, &dst);
        let windows = save(&conv_pool, &saved_slots);
        let states = save(&ssm_pool, &saved_slots);
        let [src, dst, saved_at] = [src, dst, saved_at].map(|numbers| Numbers::new(&client, &numbers));
        // SAFETY: slots are inside the pools (the public function checks), saved copies exist where `saved_at` says, and
        // cubes and units past the ends do nothing.
        unsafe {
            ssm_step_conv_kernel::launch_unchecked(
                &client,
                grid_of_units(&client, rows * channels),
                block(),
                arg(&xbc),
                arg(&conv_weight),
                arg(&conv_bias),
                arg(&windows),
                src.arg(),
                dst.arg(),
                saved_at.arg(),
                arg(&conv_pool),
                arg(&active),
                rows * channels,
                channels,
                taps,
                element_type(conv_pool.dtype),
            );
            let tiles = width.div_ceil(ROWS);
            ssm_step_state_kernel::launch_unchecked(
                &client,
                grid(&client, rows * heads * tiles),
                CubeDim::new_1d((ROWS * LANES) as u32),
                arg(&active),
                arg(&dt),
                arg(&a_log),
                arg(&d),
                arg(&dt_bias),
                arg(&states),
                src.arg(),
                dst.arg(),
                saved_at.arg(),
                arg(&ssm_pool),
                arg(&scanned),
                rows * heads * tiles,
                tiles,
                heads,
                width,
                state_size,
                options.num_groups,
                options.dt_limit.0 as f32,
                options.dt_limit.1.min(f64::from(f32::MAX)) as f32,
                element_type(ssm_pool.dtype),
            );
        }
        let y = gated_norm(scanned, z, tensors.norm_weight, options.num_groups, options.epsilon);
        (cast_to(y, dtype), conv_pool, ssm_pool)
    }
}

/// Slots that a row reads and another row writes, and for each row which of them it reads.
fn overwritten_sources(src: &[u32], dst: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut slots = Vec::new();
    let saved_at = src
        .iter()
        .enumerate()
        .map(|(row, &slot)| {
            let overwritten = dst.iter().enumerate().any(|(other, &to)| other != row && to == slot);
            if !overwritten {
                return NOT_SAVED;
            }
            slots.push(slot);
            slots.len() as u32 - 1
        })
        .collect();
    (slots, saved_at)
}

/// Copies slots out of a pool.
fn save(pool: &CubeTensor, slots: &[u32]) -> CubeTensor {
    let shape = pool.shape();
    let size = shape.num_elements() / shape[0].max(1);
    let saved = empty(pool, [slots.len(), size], pool.dtype);
    let elements = slots.len() * size;
    if elements > 0 {
        // SAFETY: slots are inside the pool (the public function checks); units past the elements do nothing.
        unsafe {
            ssm_step_save_kernel::launch_unchecked(
                &pool.client,
                grid_of_units(&pool.client, elements),
                block(),
                arg(pool),
                Numbers::new(&pool.client, slots).arg(),
                arg(&saved),
                elements,
                size,
                element_type(pool.dtype),
            );
        }
    }
    saved
}

#[cube(launch_unchecked)]
fn ssm_step_save_kernel<F: Float>(
    pool: &[F],
    slots: &[u32],
    saved: &mut [F],
    elements: usize,
    size: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        saved[at] = pool[slots[at / size] as usize * size + at % size];
    }
}

/// One unit per row and channel: convolves one token, applies SiLU, and shifts the window by it.
#[cube(launch_unchecked)]
fn ssm_step_conv_kernel<F: Float>(
    xbc: &[f32],
    weight: &[f32],
    bias: &[f32],
    saved: &[F],
    src: &[u32],
    dst: &[u32],
    saved_at: &[u32],
    pool: &mut [F],
    active: &mut [f32],
    elements: usize,
    channels: usize,
    taps: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let row = at / channels;
        let channel = at % channels;
        let kept = taps - 1usize;
        let copy = saved_at[row];
        let from = (src[row] as usize * channels + channel) * kept;
        let to = (dst[row] as usize * channels + channel) * kept;
        let x = xbc[at];
        let mut sum = bias[channel];
        for tap in 0..kept {
            let value = if copy == NOT_SAVED {
                f32::cast_from(pool[from + tap])
            } else {
                f32::cast_from(saved[(copy as usize * channels + channel) * kept + tap])
            };
            sum += value * weight[channel * taps + tap];
            if tap > 0usize {
                pool[to + tap - 1usize] = F::cast_from(value);
            }
        }
        pool[to + kept - 1usize] = F::cast_from(x);
        active[at] = silu(sum + x * weight[channel * taps + kept]);
    }
}

/// One cube per row, head and eight rows of the head's state; sixteen units share a row of the state.
#[cube(launch_unchecked)]
fn ssm_step_state_kernel<F: Float>(
    active: &[f32],
    dt: &[f32],
    a_log: &[f32],
    d: &[f32],
    dt_bias: &[f32],
    saved: &[F],
    src: &[u32],
    dst: &[u32],
    saved_at: &[u32],
    pool: &mut [F],
    y: &mut [f32],
    cubes: usize,
    tiles: usize,
    heads: usize,
    width: usize,
    state_size: usize,
    groups: usize,
    dt_low: f32,
    dt_high: f32,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(ROWS * LANES));
    let tile = CUBE_POS % tiles;
    let head = (CUBE_POS / tiles) % heads;
    let row = CUBE_POS / tiles / heads;
    let unit = UNIT_POS as usize;
    let lane = unit % LANES;
    let p = tile * ROWS + unit / LANES;
    let inner = heads * width;
    let channels = inner + 2usize * groups * state_size;
    let group = head / (heads / groups);
    let x_at = row * channels + head * width + p;
    let b_at = row * channels + inner + group * state_size;
    let c_at = b_at + groups * state_size;
    let step = min(max(softplus(dt[row * heads + head] + dt_bias[head]), dt_low), dt_high);
    let decay = (-step * a_log[head].exp()).exp();
    let copy = saved_at[row];
    let mut sum = 0.0f32;
    if p < width {
        let weighted = step * active[x_at];
        let from = ((src[row] as usize * heads + head) * width + p) * state_size;
        let to = ((dst[row] as usize * heads + head) * width + p) * state_size;
        let mut n = lane;
        while n < state_size {
            let before = if copy == NOT_SAVED {
                f32::cast_from(pool[from + n])
            } else {
                f32::cast_from(saved[((copy as usize * heads + head) * width + p) * state_size + n])
            };
            let after = decay * before + weighted * active[b_at + n];
            pool[to + n] = F::cast_from(after);
            sum += after * active[c_at + n];
            n += LANES;
        }
    }
    shared[unit] = sum;
    sync_cube();
    let mut half = usize::cast_from(comptime!(LANES / 2));
    while half > 0usize {
        if lane < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2usize;
    }
    if lane == 0usize && p < width {
        y[row * inner + head * width + p] = shared[unit] + d[head] * active[x_at];
    }
}
