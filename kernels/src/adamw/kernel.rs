//! Device code: a cube updates a tile of elements, a unit the eight of it that share a block of random bits.

use cubecl::prelude::*;

use super::blockwise::BLOCK_SIZE;
use super::rounding::{RUN, TILE};
use crate::sample::philox::{MULTIPLIERS, ROUNDS, WEYL};

/// Blocks of a tile, and elements of a unit that lie in one.
const BLOCKS: usize = TILE / BLOCK_SIZE;
const PLACES_PER_BLOCK: usize = BLOCK_SIZE / RUN;

/// The step's scalars as a kernel's argument; see [`Factors`](super::Factors).
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct DeviceFactors {
    pub grad_scale: f32,
    pub keep: f32,
    pub beta1: f32,
    pub gain1: f32,
    pub beta2: f32,
    pub gain2: f32,
    pub correction2: f32,
    pub eps: f32,
    pub rate: f32,
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Forms {
    /// There is a master, of which the parameter is the rounding.
    pub has_master: bool,
    /// The parameter holds bf16 numbers, in whatever it is stored.
    pub is_bf16: bool,
    /// Without a master it is rounded at random, and not to the nearest.
    pub is_random: bool,
    /// The second moment is rounded to bf16 at random.
    pub has_random_moment: bool,
    /// The moment is in bf16.
    pub first_is_bf16: bool,
    /// The same of the second.
    pub second_is_bf16: bool,
    /// The moment is in eight bits.
    pub first_is_blockwise: bool,
    /// The same of the second.
    pub second_is_blockwise: bool,
    /// [`Purpose`](super::Purpose) of the random numbers, as they are counted.
    pub weight_purpose: u32,
    /// The same of the second moment's.
    pub moment_purpose: u32,
}

/// One step of a tensor. Of `master`, codes and magnitudes what the forms do not name is not touched. A table holds the 256
/// values of the codes, then the borders between neighbouring magnitudes, as bits of f32.
#[cube(launch_unchecked)]
pub(super) fn adamw_kernel<P: Float, G: Float, M: Float, V: Float, A: Int, B: Int>(
    param: &mut [P],
    master: &mut [f32],
    grad: &[G],
    first: &mut [M],
    second: &mut [V],
    first_codes: &mut [A],
    second_codes: &mut [B],
    first_table: &[u32],
    second_table: &[u32],
    elements: usize,
    key_low: u32,
    key_high: u32,
    factors: DeviceFactors,
    #[comptime] forms: Forms,
    #[define(P, G, M, V, A, B)] _dtypes: [ElemType; 6],
) {
    let tile = CUBE_POS;
    let unit = UNIT_POS as usize;
    if tile * TILE >= elements {
        terminate!();
    }
    let mut words = Array::<u32>::new(4usize);
    let mut moment_words = Array::<u32>::new(4usize);
    if comptime!(forms.is_random) {
        draw(&mut words, tile * RUN + unit, comptime!(forms.weight_purpose), key_low, key_high);
    }
    if comptime!(forms.has_random_moment) {
        draw(&mut moment_words, tile * RUN + unit, comptime!(forms.moment_purpose), key_low, key_high);
    }
    let mut firsts = Array::<f32>::new(PLACES_PER_BLOCK);
    let mut seconds = Array::<f32>::new(PLACES_PER_BLOCK);
    #[unroll]
    for block_of_tile in 0..BLOCKS {
        let block = tile * BLOCKS + block_of_tile;
        #[unroll]
        for held in 0..PLACES_PER_BLOCK {
            let place = block_of_tile * PLACES_PER_BLOCK + held;
            let at = tile * TILE + place * RUN + unit;
            firsts[held] = 0.0f32;
            seconds[held] = 0.0f32;
            if at < elements {
                let g = f32::cast_from(grad[at]) * factors.grad_scale;
                let old_first = if comptime!(forms.first_is_blockwise) {
                    f32::reinterpret(first_table[usize::cast_from(first_codes[at])]) * f32::cast_from(first[block])
                } else {
                    f32::cast_from(first[at])
                };
                let old_second = if comptime!(forms.second_is_blockwise) {
                    f32::reinterpret(second_table[usize::cast_from(second_codes[at])]) * f32::cast_from(second[block])
                } else {
                    f32::cast_from(second[at])
                };
                let new_first = factors.beta1 * old_first + factors.gain1 * g;
                let new_second = factors.beta2 * old_second + factors.gain2 * g * g;
                let update = new_first / ((new_second * factors.correction2).sqrt() + factors.eps) * factors.rate;
                let shift = 16u32 * u32::cast_from(place % 2);
                if comptime!(forms.has_master) {
                    let value = master[at] * factors.keep - update;
                    master[at] = value;
                    let rounded = if comptime!(forms.is_bf16) { to_nearest(value) } else { value };
                    param[at] = P::cast_from(rounded);
                } else {
                    let value = f32::cast_from(param[at]) * factors.keep - update;
                    let rounded = if comptime!(forms.is_random) {
                        to_either_side(value, (words[place / 2] >> shift) & 0xffffu32)
                    } else if comptime!(forms.is_bf16) {
                        to_nearest(value)
                    } else {
                        value
                    };
                    param[at] = P::cast_from(rounded);
                }
                if comptime!(forms.first_is_blockwise) {
                    firsts[held] = new_first;
                } else {
                    let kept = if comptime!(forms.first_is_bf16) { to_nearest(new_first) } else { new_first };
                    first[at] = M::cast_from(kept);
                }
                if comptime!(forms.second_is_blockwise) {
                    seconds[held] = new_second;
                } else {
                    let kept = if comptime!(forms.has_random_moment) {
                        to_either_side(new_second, (moment_words[place / 2] >> shift) & 0xffffu32)
                    } else if comptime!(forms.second_is_bf16) {
                        to_nearest(new_second)
                    } else {
                        new_second
                    };
                    second[at] = V::cast_from(kept);
                }
            }
        }
        if comptime!(forms.first_is_blockwise) {
            encode::<M, A>(&firsts, first, first_codes, first_table, block, elements, true);
        }
        if comptime!(forms.second_is_blockwise) {
            encode::<V, B>(&seconds, second, second_codes, second_table, block, elements, false);
        }
    }
}

/// Codes and largest magnitude of a block, from the values that each unit holds of it.
#[cube]
fn encode<F: Float, C: Int>(
    values: &Array<f32>,
    largest: &mut [F],
    codes: &mut [C],
    table: &[u32],
    block: usize,
    elements: usize,
    #[comptime] is_signed: bool,
) {
    let unit = UNIT_POS as usize;
    let mut shared = Shared::new_slice(RUN);
    let mut own = 0.0f32;
    #[unroll]
    for index in 0..PLACES_PER_BLOCK {
        own = max(own, values[index].abs());
    }
    let of_block = block_max(own, &mut shared);
    #[unroll]
    for index in 0..PLACES_PER_BLOCK {
        let at = block * BLOCK_SIZE + index * RUN + unit;
        if at < elements {
            codes[at] = C::cast_from(code(values[index], of_block, table, is_signed));
        }
    }
    if unit == 0 && block * BLOCK_SIZE < elements {
        largest[block] = F::cast_from(of_block);
    }
}

/// The largest of the units' values; all units must call it and get it.
#[cube]
fn block_max(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut half = usize::cast_from(comptime!(RUN / 2));
    while half > 0usize {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] = max(shared[unit], other);
        }
        sync_cube();
        half /= 2usize;
    }
    let largest = shared[0];
    sync_cube();
    largest
}

/// The code of a value in a block with this largest magnitude.
#[cube]
fn code(value: f32, largest: f32, table: &[u32], #[comptime] is_signed: bool) -> u32 {
    let share = select(largest > 0.0f32, value / largest, 0.0f32);
    let magnitude = share.abs();
    // Places of magnitudes: of those with a sign 0 to 128, of others 0 to 255.
    let mut low = 0u32;
    let mut high = comptime!(if is_signed { 128u32 } else { 255u32 }).runtime();
    for _ in 0..8u32 {
        if low < high {
            let middle = (low + high) / 2u32;
            let border = f32::reinterpret(table[256usize + usize::cast_from(middle)]);
            if magnitude > border {
                low = middle + 1u32;
            } else {
                high = middle;
            }
        }
    }
    if comptime!(is_signed) {
        // Nothing negative is rounded to -1, which the table lacks.
        select(share < 0.0f32, 127u32 - min(low, 127u32), 127u32 + low)
    } else {
        // A positive second moment stays positive.
        max(low, u32::cast_from(share > 0.0f32))
    }
}

/// The words of a block of random bits.
#[cube]
fn draw(words: &mut Array<u32>, block: usize, #[comptime] purpose: u32, key_low: u32, key_high: u32) {
    words[0] = u32::cast_from(block);
    words[1] = 0u32;
    words[2] = 0u32;
    words[3] = purpose;
    philox(words, key_low, key_high);
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

/// The value of the bf16 nearest to `value`, of the even one of two equally near.
#[cube]
fn to_nearest(value: f32) -> f32 {
    let odd = (u32::reinterpret(value) >> 16u32) & 1u32;
    to_either_side(value, 0x7fffu32 + odd)
}

/// One unit per run; neighbouring units read neighbouring elements, a run is every `runs`-th of them.
#[cube(launch_unchecked)]
pub(super) fn sum_of_squares_kernel<F: Float>(
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
