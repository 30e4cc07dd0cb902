//! Host implementation: one task per row, states advanced in place.
//!
//! Sums run over the state axis in sixteen lanes (see [`crate::simd`]); nothing depends on the number of rows or
//! threads.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{SsmStepInputs, SsmStepOps, SsmStepOptions, SsmStepTensors, reference};
use crate::cpu::from_vec;
use crate::flex_slices::{Rows, elements, is_f32, lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

/// State elements below which splitting over threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 16;

impl SsmStepOps for Flex {
    fn ssm_step(
        tensors: SsmStepTensors<Self>,
        options: SsmStepOptions,
        src: Vec<u32>,
        dst: Vec<u32>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if is_f32(&tensors.z) && is_f32(&tensors.ssm_pool) && is_f32(&tensors.conv_pool) {
            step_f32(tensors, options, &src, &dst)
        } else {
            step_reference(tensors, options, &src, &dst)
        }
    }
}

fn step_reference(
    tensors: SsmStepTensors<Flex>,
    options: SsmStepOptions,
    src: &[u32],
    dst: &[u32],
) -> (FlexTensor, FlexTensor, FlexTensor) {
    fn lift<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(tensor)
    }
    let inputs = SsmStepInputs {
        z: lift(tensors.z),
        xbc: lift(tensors.xbc),
        dt: lift(tensors.dt),
        conv_weight: lift(tensors.conv_weight),
        conv_bias: Some(lift(tensors.conv_bias)),
        a_log: lift(tensors.a_log),
        d: lift(tensors.d),
        dt_bias: lift(tensors.dt_bias),
        norm_weight: lift(tensors.norm_weight),
        conv_pool: lift(tensors.conv_pool),
        ssm_pool: lift(tensors.ssm_pool),
    };
    let (y, conv_pool, ssm_pool) = reference::ssm_step(inputs, options, src, dst);
    (lower(y), lower(conv_pool), lower(ssm_pool))
}

/// What every row shares.
struct Mixer<'a> {
    channels: usize,
    taps: usize,
    heads: usize,
    width: usize,
    state_size: usize,
    groups: usize,
    /// `[K, C]`, so that a vector holds one tap of sixteen channels.
    filters: Vec<f32>,
    conv_bias: &'a [f32],
    /// `-exp(a_log)` per head.
    rate: Vec<f32>,
    d: &'a [f32],
    dt_bias: &'a [f32],
    norm_weight: &'a [f32],
    dt_limit: (f32, f32),
    epsilon: f32,
}

fn step_f32(
    tensors: SsmStepTensors<Flex>,
    options: SsmStepOptions,
    src: &[u32],
    dst: &[u32],
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let pool_shape = tensors.ssm_pool.layout().shape().clone();
    let (slots, heads, width, state_size) = (pool_shape[0], pool_shape[1], pool_shape[2], pool_shape[3]);
    let channels = tensors.conv_weight.layout().shape()[0];
    let taps = tensors.conv_weight.layout().shape()[2];
    let rows = src.len();
    let inner = heads * width;

    let (z, xbc, dt) = (Rows::new(tensors.z), Rows::new(tensors.xbc), Rows::new(tensors.dt));
    let [conv_weight, conv_bias, a_log, d, dt_bias, norm_weight] =
        [tensors.conv_weight, tensors.conv_bias, tensors.a_log, tensors.d, tensors.dt_bias, tensors.norm_weight]
            .map(whole);
    let mut filters = vec![0.0; taps * channels];
    for (channel, filter) in elements(&conv_weight).chunks_exact(taps).enumerate() {
        for (tap, &weight) in filter.iter().enumerate() {
            filters[tap * channels + channel] = weight;
        }
    }
    let mixer = Mixer {
        channels,
        taps,
        heads,
        width,
        state_size,
        groups: options.num_groups,
        filters,
        conv_bias: elements(&conv_bias),
        rate: elements(&a_log).iter().map(|&a| -simd::exp(a)).collect(),
        d: elements(&d),
        dt_bias: elements(&dt_bias),
        norm_weight: elements(&norm_weight),
        dt_limit: (options.dt_limit.0 as f32, options.dt_limit.1 as f32),
        epsilon: options.epsilon as f32,
    };

    let (mut conv_pool, mut ssm_pool) = (whole(tensors.conv_pool), whole(tensors.ssm_pool));
    let mut y = vec![0.0; rows * inner];
    {
        // Copies only when another handle exists.
        let windows = SlotPool::new(conv_pool.storage_mut(), channels * (taps - 1), slots, src, dst);
        let states = SlotPool::new(ssm_pool.storage_mut(), inner * state_size, slots, src, dst);
        let scratch = || vec![0.0; (1 + taps) * channels + inner];
        let step = |scratch: &mut Vec<f32>, (row, y): (usize, &mut [f32])| {
            simd::run(Row {
                mixer: &mixer,
                z: z.row(row),
                xbc: xbc.row(row),
                dt: dt.row(row),
                window_in: windows.source(row),
                window_out: windows.destination(row),
                state_in: states.source(row),
                state_out: states.destination(row),
                scratch,
                y,
            });
        };
        if rows == 1 || rows * inner * state_size <= SERIAL_WORK {
            let mut scratch = scratch();
            for row in y.chunks_mut(inner.max(1)).enumerate() {
                step(&mut scratch, row);
            }
        } else {
            y.par_chunks_mut(inner.max(1)).enumerate().for_each_init(scratch, step);
        }
    }
    (from_vec(y, [rows, inner]), conv_pool, ssm_pool)
}

/// A pool whose rows read one slot and write another, at the same time on several threads.
struct SlotPool<'a> {
    base: *mut f32,
    size: usize,
    src: &'a [u32],
    dst: &'a [u32],
    /// Copies of the sources that another row overwrites; `usize::MAX` for a row that reads the pool.
    saved: Vec<f32>,
    saved_at: Vec<usize>,
}

// SAFETY: destinations are distinct (checked by the public function) and a source is either the row's own destination,
// a slot nobody writes, or a saved copy; so no element is accessed by two threads of which one writes.
unsafe impl Sync for SlotPool<'_> {}

impl<'a> SlotPool<'a> {
    fn new(pool: &'a mut [f32], size: usize, slots: usize, src: &'a [u32], dst: &'a [u32]) -> Self {
        assert_eq!(pool.len(), slots * size, "ssm_step: pool of {slots} slots of {size}");
        let mut writer = vec![usize::MAX; slots];
        for (row, &slot) in dst.iter().enumerate() {
            writer[slot as usize] = row;
        }
        let mut saved = Vec::new();
        let mut saved_at = vec![usize::MAX; src.len()];
        for (row, &slot) in src.iter().enumerate() {
            let overwriting = writer[slot as usize];
            if overwriting != usize::MAX && overwriting != row {
                saved_at[row] = saved.len();
                let from = slot as usize * size;
                saved.extend_from_slice(&pool[from..from + size]);
            }
        }
        Self { base: pool.as_mut_ptr(), size, src, dst, saved, saved_at }
    }

    /// The state that the row reads.
    fn source(&self, row: usize) -> *const f32 {
        match self.saved_at[row] {
            // SAFETY: slots were checked against the pool.
            usize::MAX => unsafe { self.base.add(self.src[row] as usize * self.size) },
            at => self.saved[at..at + self.size].as_ptr(),
        }
    }

    /// The state that the row writes; equal to its source when it advances in place.
    fn destination(&self, row: usize) -> *mut f32 {
        // SAFETY: slots were checked against the pool.
        unsafe { self.base.add(self.dst[row] as usize * self.size) }
    }
}

/// One row's step.
struct Row<'a> {
    mixer: &'a Mixer<'a>,
    z: &'a [f32],
    xbc: &'a [f32],
    dt: &'a [f32],
    window_in: *const f32,
    window_out: *mut f32,
    state_in: *const f32,
    state_out: *mut f32,
    /// `[C]` convolved channels, `[K, C]` taps, `[inner]` outputs before gate and norm.
    scratch: &'a mut [f32],
    y: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mixer = self.mixer;
        let (active, rest) = self.scratch.split_at_mut(mixer.channels);
        let (history, inner) = rest.split_at_mut(mixer.taps * mixer.channels);
        // SAFETY: shapes were checked by the public function; slots hold C (K - 1) and H P N values.
        unsafe {
            // The usual width as a constant lets the compiler vectorise the strided window.
            if mixer.taps == 4 {
                convolve::<L>(mixer, 4, self.xbc, self.window_in, self.window_out, history, active);
            } else {
                let taps = mixer.taps;
                convolve::<L>(mixer, taps, self.xbc, self.window_in, self.window_out, history, active);
            }
            scan::<L>(mixer, active, self.dt, self.state_in, self.state_out, inner);
            gate_and_norm::<L>(mixer, inner, self.z, self.y);
        }
    }
}

/// Convolves one token, applies SiLU, and shifts the window by it.
///
/// The window keeps the taps of a channel together, the arithmetic wants sixteen channels of one tap: the window passes
/// through `history` (`[K, C]`), which also separates reading from writing when both are the same slot.
///
/// # Safety
/// The windows must hold `C (taps - 1)` values.
#[inline(always)]
unsafe fn convolve<L: Lanes>(
    mixer: &Mixer,
    taps: usize,
    x: &[f32],
    window_in: *const f32,
    window_out: *mut f32,
    history: &mut [f32],
    out: &mut [f32],
) {
    let channels = mixer.channels;
    let kept = taps - 1;
    // SAFETY: see above; filters and history hold `taps * channels` values.
    unsafe {
        let history = history.as_mut_ptr();
        for channel in 0..channels {
            for tap in 0..kept {
                *history.add(tap * channels + channel) = *window_in.add(channel * kept + tap);
            }
        }
        std::ptr::copy_nonoverlapping(x.as_ptr(), history.add(kept * channels), channels);
        let mut at = 0;
        while at < channels {
            let count = LANES.min(channels - at);
            let mut sum = L::load_first(mixer.conv_bias.as_ptr().add(at), count);
            for tap in 0..taps {
                let filter = L::load_first(mixer.filters.as_ptr().add(tap * channels + at), count);
                sum = L::load_first(history.add(tap * channels + at), count).mul_add(filter, sum);
            }
            sum.silu().store_first(out.as_mut_ptr().add(at), count);
            at += LANES;
        }
        for channel in 0..channels {
            for tap in 0..kept {
                *window_out.add(channel * kept + tap) = *history.add((tap + 1) * channels + channel);
            }
        }
    }
}

/// Advances every head's state by one token and reads it out.
///
/// # Safety
/// The states must hold `H P N` values.
#[inline(always)]
unsafe fn scan<L: Lanes>(
    mixer: &Mixer,
    active: &[f32],
    dt: &[f32],
    state_in: *const f32,
    state_out: *mut f32,
    out: &mut [f32],
) {
    let (width, state_size) = (mixer.width, mixer.state_size);
    let inner = mixer.heads * width;
    let per_group = mixer.heads / mixer.groups;
    for head in 0..mixer.heads {
        let group = head / per_group;
        let x = &active[head * width..(head + 1) * width];
        let b = &active[inner + group * state_size..][..state_size];
        let c = &active[inner + (mixer.groups + group) * state_size..][..state_size];
        let (low, high) = mixer.dt_limit;
        let step = simd::clip(simd::softplus(dt[head] + mixer.dt_bias[head]), low, high);
        let decay = L::splat(simd::exp(step * mixer.rate[head]));
        let out = &mut out[head * width..(head + 1) * width];
        let mut first = 0;
        while first < width {
            let block = LANES.min(width - first);
            let mut sums = [L::splat(0.0); LANES];
            for lane in 0..block {
                let offset = (head * width + first + lane) * state_size;
                let weighted = L::splat(step * x[first + lane]);
                // SAFETY: `offset + state_size` is within the slot.
                let sum = unsafe { advance::<L>(state_in.add(offset), state_out.add(offset), decay, weighted, b, c) };
                sums[simd::sum_place(lane)] = sum;
            }
            // SAFETY: `block` values remain in x and out.
            unsafe {
                let x = L::load_first(x.as_ptr().add(first), block);
                let y = L::splat(mixer.d[head]).mul_add(x, L::sum_each(sums));
                y.store_first(out.as_mut_ptr().add(first), block);
            }
            first += LANES;
        }
    }
}

/// One state row: `S = decay S + (dt x) B`; returns the lanes of `S . C`.
#[inline(always)]
unsafe fn advance<L: Lanes>(
    state_in: *const f32,
    state_out: *mut f32,
    decay: L,
    weighted: L,
    b: &[f32],
    c: &[f32],
) -> L {
    let mut sum = L::splat(0.0);
    let mut at = 0;
    // SAFETY: the caller's rows hold as many values as b and c.
    unsafe {
        while at + LANES <= b.len() {
            let added = weighted.mul(L::load(b.as_ptr().add(at)));
            let state = L::load(state_in.add(at)).mul_add(decay, added);
            state.store(state_out.add(at));
            sum = state.mul_add(L::load(c.as_ptr().add(at)), sum);
            at += LANES;
        }
        if at < b.len() {
            let rest = b.len() - at;
            let added = weighted.mul(L::load_first(b.as_ptr().add(at), rest));
            let state = L::load_first(state_in.add(at), rest).mul_add(decay, added);
            state.store_first(state_out.add(at), rest);
            sum = state.mul_add(L::load_first(c.as_ptr().add(at), rest), sum);
        }
    }
    sum
}

/// `norm_group(x silu(z)) weight`.
#[inline(always)]
unsafe fn gate_and_norm<L: Lanes>(mixer: &Mixer, x: &mut [f32], z: &[f32], y: &mut [f32]) {
    let size = x.len() / mixer.groups;
    for group in 0..mixer.groups {
        let from = group * size;
        let mut squares = L::splat(0.0);
        let mut at = 0;
        // SAFETY: `count` values remain in each slice.
        unsafe {
            while at < size {
                let count = LANES.min(size - at);
                let to = x.as_mut_ptr().add(from + at);
                let gate = L::load_first(z.as_ptr().add(from + at), count).silu();
                let gated = L::load_first(to, count).mul(gate);
                gated.store_first(to, count);
                squares = gated.mul_add(gated, squares);
                at += LANES;
            }
            let mean = squares.sum() / size as f32;
            let scale = L::splat(1.0 / (mean + mixer.epsilon).sqrt());
            at = 0;
            while at < size {
                let count = LANES.min(size - at);
                let weight = L::load_first(mixer.norm_weight.as_ptr().add(from + at), count);
                L::load_first(x.as_ptr().add(from + at), count)
                    .mul(scale)
                    .mul(weight)
                    .store_first(y.as_mut_ptr().add(from + at), count);
                at += LANES;
            }
        }
    }
}
