//! One unit per element, in place; arithmetic in f32 whatever the storage.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rounding::{COUNTER_TAG, RUN, TILE};
use super::{AdamWOps, AdamWOptions, Factors, RoundingKey};
use crate::cube::{BLOCK, arg, block, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, writable};
use crate::sample::philox::{MULTIPLIERS, ROUNDS, WEYL};
use burn::tensor::DType;

/// Elements per unit of [`sum_of_squares_kernel`].
const ELEMENTS_PER_SUM: usize = 256;

impl AdamWOps for CubeBackend {
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (param, grad, m, v) = (writable(param), gradient(grad), writable(m), writable(v));
        let elements = param.shape().num_elements();
        if elements > 0 {
            // SAFETY: the four tensors have one shape (the public function checks); units past the end do nothing.
            unsafe {
                adamw_kernel::launch_unchecked(
                    &param.client,
                    grid_of_units(&param.client, elements),
                    block(),
                    arg(&param),
                    arg(&grad),
                    arg(&m),
                    arg(&v),
                    elements,
                    factors(step, options),
                    [param.dtype, grad.dtype, m.dtype, v.dtype].map(element_type),
                );
            }
        }
        (param, m, v)
    }

    fn adamw_master(
        param: FloatTensor<Self>,
        master: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (param, master, grad) = (writable(param), writable(master), gradient(grad));
        let (m, v) = (writable(m), writable(v));
        let elements = param.shape().num_elements();
        if elements > 0 {
            // SAFETY: the five tensors have one shape (the public function checks); units past the end do nothing.
            unsafe {
                adamw_master_kernel::launch_unchecked(
                    &param.client,
                    grid_of_units(&param.client, elements),
                    block(),
                    arg(&param),
                    arg(&master),
                    arg(&grad),
                    arg(&m),
                    arg(&v),
                    elements,
                    factors(step, options),
                    [param.dtype, grad.dtype].map(element_type),
                );
            }
        }
        (param, master, m, v)
    }

    fn adamw_stochastic(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
        key: RoundingKey,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        const { assert!(BLOCK == RUN, "a cube works on a tile, a unit on a block of random bits") };
        let (param, grad, m, v) = (writable(param), gradient(grad), writable(m), writable(v));
        let [key_low, key_high] = key.at_step(step);
        let elements = param.shape().num_elements();
        if elements > 0 {
            // SAFETY: the four tensors have one shape (the public function checks); units past the end do nothing.
            unsafe {
                adamw_stochastic_kernel::launch_unchecked(
                    &param.client,
                    grid(&param.client, elements.div_ceil(TILE)),
                    block(),
                    arg(&param),
                    arg(&grad),
                    arg(&m),
                    arg(&v),
                    elements,
                    key_low,
                    key_high,
                    factors(step, options),
                    [param.dtype, grad.dtype].map(element_type),
                );
            }
        }
        (param, m, v)
    }
}

/// [`Factors`] as a kernel's argument.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct DeviceFactors {
    keep: f32,
    beta1: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    correction2: f32,
    eps: f32,
    rate: f32,
}

fn factors(step: u64, options: AdamWOptions) -> DeviceFactorsLaunch {
    let Factors { keep, beta1, gain1, beta2, gain2, correction2, eps, rate } = Factors::new(step, options);
    DeviceFactorsLaunch::new(keep, beta1, gain1, beta2, gain2, correction2, eps, rate)
}

/// A gradient in a precision that the kernels read.
fn gradient(grad: CubeTensor) -> CubeTensor {
    match grad.dtype {
        DType::F32 | DType::F16 | DType::BF16 => contiguous(grad),
        _ => contiguous_as(grad, DType::F32),
    }
}

/// Sums of squares of runs of 256 elements, f32; for the host to add.
pub(super) fn sums_of_squares(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    let elements = tensor.shape().num_elements();
    let runs = elements.div_ceil(ELEMENTS_PER_SUM);
    let sums = empty(&tensor, [runs], DType::F32);
    if runs > 0 {
        // SAFETY: runs end with the tensor and units past them do nothing.
        unsafe {
            sum_of_squares_kernel::launch_unchecked(
                &tensor.client,
                grid_of_units(&tensor.client, runs),
                block(),
                arg(&tensor),
                arg(&sums),
                elements,
                runs,
                ELEMENTS_PER_SUM,
                element_type(tensor.dtype),
            );
        }
    }
    sums
}

#[cube(launch_unchecked)]
fn adamw_kernel<P: Float, G: Float, M: Float, V: Float>(
    param: &mut [P],
    grad: &[G],
    m: &mut [M],
    v: &mut [V],
    elements: usize,
    factors: DeviceFactors,
    #[define(P, G, M, V)] _dtypes: [ElemType; 4],
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let g = f32::cast_from(grad[at]);
        let first = factors.beta1 * f32::cast_from(m[at]) + factors.gain1 * g;
        let second = factors.beta2 * f32::cast_from(v[at]) + factors.gain2 * g * g;
        m[at] = M::cast_from(first);
        v[at] = V::cast_from(second);
        param[at] = P::cast_from(updated(f32::cast_from(param[at]), first, second, &factors));
    }
}

/// The parameter after the step, from the new moments.
#[cube]
fn updated(param: f32, first: f32, second: f32, factors: &DeviceFactors) -> f32 {
    let update = first / ((second * factors.correction2).sqrt() + factors.eps) * factors.rate;
    param * factors.keep - update
}

#[cube(launch_unchecked)]
fn adamw_master_kernel<P: Float, G: Float>(
    param: &mut [P],
    master: &mut [f32],
    grad: &[G],
    m: &mut [f32],
    v: &mut [f32],
    elements: usize,
    factors: DeviceFactors,
    #[define(P, G)] _dtypes: [ElemType; 2],
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let g = f32::cast_from(grad[at]);
        let first = factors.beta1 * m[at] + factors.gain1 * g;
        let second = factors.beta2 * v[at] + factors.gain2 * g * g;
        m[at] = first;
        v[at] = second;
        let value = updated(master[at], first, second, &factors);
        master[at] = value;
        param[at] = P::cast_from(value);
    }
}

/// One cube per tile; a unit draws one block of random bits and updates the eight elements that share it.
#[cube(launch_unchecked)]
fn adamw_stochastic_kernel<P: Float, G: Float>(
    param: &mut [P],
    grad: &[G],
    m: &mut [f32],
    v: &mut [f32],
    elements: usize,
    key_low: u32,
    key_high: u32,
    factors: DeviceFactors,
    #[define(P, G)] _dtypes: [ElemType; 2],
) {
    let tile = CUBE_POS;
    let unit = UNIT_POS as usize;
    if tile * TILE + unit >= elements {
        terminate!();
    }
    let mut words = Array::<u32>::new(4usize);
    words[0] = u32::cast_from(tile * RUN + unit);
    words[1] = 0u32;
    words[2] = 0u32;
    words[3] = COUNTER_TAG;
    philox(&mut words, key_low, key_high);
    for place in 0..TILE / RUN {
        let at = tile * TILE + place * RUN + unit;
        if at < elements {
            let g = f32::cast_from(grad[at]);
            let first = factors.beta1 * m[at] + factors.gain1 * g;
            let second = factors.beta2 * v[at] + factors.gain2 * g * g;
            m[at] = first;
            v[at] = second;
            let value = updated(f32::cast_from(param[at]), first, second, &factors);
            let random = words[place / 2] >> (16u32 * u32::cast_from(place % 2));
            param[at] = P::cast_from(to_either_side(value, random & 0xffffu32));
        }
    }
}

/// Ten rounds of Philox4x32 on `words` as counter.
#[cube]
fn philox(words: &mut Array<u32>, key_low: u32, key_high: u32) {
    let mut key_low = key_low;
    let mut key_high = key_high;
    for _ in 0..ROUNDS {
        let (first, third) = (words[0], words[2]);
        words[0] = third.mul_hi(comptime!(MULTIPLIERS[1])) ^ words[1] ^ key_low;
        words[1] = third * comptime!(MULTIPLIERS[1]);
        words[2] = first.mul_hi(comptime!(MULTIPLIERS[0])) ^ words[3] ^ key_high;
        words[3] = first * comptime!(MULTIPLIERS[0]);
        key_low += comptime!(WEYL[0]);
        key_high += comptime!(WEYL[1]);
    }
}

/// The value of the bf16 on either side of `value`, chosen by sixteen random bits.
#[cube]
fn to_either_side(value: f32, random: u32) -> f32 {
    let bits = u32::reinterpret(value);
    let rounded = (bits + random) & 0xffff_0000u32;
    // Neither an infinity nor a NaN is moved; comparing bits, as devices may assume that there are none.
    let finite = (bits & 0x7f80_0000u32) != 0x7f80_0000u32;
    select(finite, f32::reinterpret(rounded), value)
}

/// One unit per run; neighbouring units read neighbouring elements, a run is every `runs`-th of them.
#[cube(launch_unchecked)]
fn sum_of_squares_kernel<F: Float>(
    values: &[F],
    sums: &mut [f32],
    elements: usize,
    runs: usize,
    #[comptime] per_sum: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < runs {
        let mut sum = 0.0f32;
        for index in 0..per_sum {
            let at = index * runs + ABSOLUTE_POS;
            if at < elements {
                let value = f32::cast_from(values[at]);
                sum += value * value;
            }
        }
        sums[ABSOLUTE_POS] = sum;
    }
}
