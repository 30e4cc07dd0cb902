//! From f32 to bf16: to the nearest, or up or down at random so that the mean is right.
//!
//! A bf16 is the upper half of an f32. Stochastic rounding adds sixteen random bits to the lower half and drops it: a
//! value moves away from zero with the probability of what is dropped, so rounding adds no error to the mean, and many
//! updates too small for one step of bf16 add up (Gupta et al. 2015, arXiv:1502.02551).
//!
//! The bits come from Philox4x32 and belong to an element, never to a thread: seed, step and stream give a key, the
//! element's place in the tensor the counter. A block of 128 bits serves eight elements, which lie [`RUN`] apart, so
//! that neighbouring units of a device and neighbouring lanes of a processor work on neighbouring elements.

use crate::sample::{philox4x32, philox4x32_lanes};
use crate::simd::LANES;

/// Elements between those that share a block of random bits, and blocks of a tile.
pub(super) const RUN: usize = 128;
/// Elements that share a block.
const ELEMENTS_PER_BLOCK: usize = 8;
/// Elements whose blocks are made together.
pub(super) const TILE: usize = RUN * ELEMENTS_PER_BLOCK;

/// What is rounded. The value is the last word of the counter, where the draws of tokens have the high word of a position: no
/// two of them ever meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Purpose {
    /// A parameter without a master copy.
    Weights = 0x4164_616D,
    /// A second moment in bf16.
    SecondMoment = 0x4164_616E,
}

/// Names the random numbers of one tensor's stochastic rounding; the step is the optimizer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoundingKey {
    /// The run.
    pub seed: u64,
    /// The tensor: no two tensors of a run have the same.
    pub stream: u64,
}

impl RoundingKey {
    /// Philox's key for one step.
    pub(super) fn at_step(self, step: u64) -> [u32; 2] {
        let [step, stream, seed] = [step, self.stream, self.seed].map(|word| [word as u32, (word >> 32) as u32]);
        let words = philox4x32([step[0], step[1], stream[0], stream[1]], seed);
        [words[0], words[1]]
    }
}

/// The sixteen random bits of one element.
pub(super) fn random_bits(key: [u32; 2], purpose: Purpose, element: usize) -> u16 {
    let block = (element / TILE * RUN + element % RUN) as u64;
    let place = element % TILE / RUN;
    let words = philox4x32([block as u32, (block >> 32) as u32, 0, purpose as u32], key);
    (words[place / 2] >> (16 * (place % 2))) as u16
}

/// [`random_bits`] of the elements of a tile, sixteen blocks at a time.
#[inline(always)]
pub(super) fn tile_bits(key: [u32; 2], purpose: Purpose, tile: usize, bits: &mut [u16; TILE]) {
    for from in (0..RUN).step_by(LANES) {
        let mut low = [0; LANES];
        let mut high = [0; LANES];
        for lane in 0..LANES {
            let block = (tile * RUN + from + lane) as u64;
            low[lane] = block as u32;
            high[lane] = (block >> 32) as u32;
        }
        let words = philox4x32_lanes([low, high, [0; LANES], [purpose as u32; LANES]], key);
        for place in 0..ELEMENTS_PER_BLOCK {
            for lane in 0..LANES {
                bits[place * RUN + from + lane] = (words[place / 2][lane] >> (16 * (place % 2))) as u16;
            }
        }
    }
}

/// The bits of the nearest bf16, of the even one of two equally near; NaN stays NaN.
#[inline(always)]
pub(super) fn to_nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff + odd) >> 16;
    // Dropping bits must not turn a NaN into an infinity.
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// The bits of the bf16 on either side of `value`, chosen by sixteen random bits; of `value` where it is one.
///
/// Infinities stay, NaN stays NaN. Above the largest bf16 the side away from zero is infinity.
#[inline(always)]
pub(super) fn to_either_side(value: f32, random: u16) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(u32::from(random)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// The value of a bf16's bits.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::bf16;

    const EDGES: [u32; 12] = [
        0,
        0x8000_0000,
        1,
        0x8000_8000,
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_7fff,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7f80_0001,
        0xffff_ffff,
    ];

    fn values() -> impl Iterator<Item = f32> {
        EDGES.into_iter().chain((0..200_000u32).map(|i| i.wrapping_mul(0x9E37_79B9))).map(f32::from_bits)
    }

    #[test]
    fn the_nearest_is_that_of_the_type() {
        for value in values() {
            let (found, expected) = (to_nearest(value), bf16::from_f32(value));
            assert!(found == expected.to_bits() || widen(found).is_nan() && value.is_nan(), "{value}: {found:#x}");
        }
    }

    #[test]
    fn either_side_is_a_neighbour() {
        for (index, value) in values().enumerate() {
            let truncated = (value.to_bits() >> 16) as u16;
            if value.is_nan() {
                assert!(widen(to_either_side(value, u16::MAX)).is_nan());
                continue;
            }
            assert_eq!(to_either_side(value, 0), truncated, "{value}");
            let low = value.to_bits() & 0xffff;
            let away = if low == 0 { truncated } else { truncated + 1 };
            assert_eq!(to_either_side(value, u16::MAX), away, "{value}");
            // Exactly as many of the random numbers lead away from zero as the dropped bits say.
            if low > 0 && index < 100 {
                let count = (0..=u16::MAX).filter(|&random| to_either_side(value, random) == away).count();
                assert_eq!(count, low as usize, "{value}");
            }
        }
    }

    #[test]
    fn tiles_hold_every_element_s_bits() {
        let key = RoundingKey { seed: 3 << 40, stream: 5 }.at_step(7);
        let mut bits = [0; TILE];
        for tile in [0, 1, 5, 1 << 26] {
            tile_bits(key, Purpose::Weights, tile, &mut bits);
            for (place, &found) in bits.iter().enumerate() {
                assert_eq!(found, random_bits(key, Purpose::Weights, tile * TILE + place), "{tile} {place}");
            }
        }
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let key = RoundingKey { seed: 1, stream: 2 };
        let high = 1 << 32;
        let first = key.at_step(3);
        assert_ne!(first, key.at_step(4));
        assert_ne!(first, key.at_step(3 + high));
        assert_ne!(first, RoundingKey { seed: 1 + high, ..key }.at_step(3));
        assert_ne!(first, RoundingKey { stream: 2 + high, ..key }.at_step(3));
        assert_ne!(first, RoundingKey { stream: 3, ..key }.at_step(2));
        let of = |purpose| [0, 1, 2, 3].map(|element| random_bits(first, purpose, element));
        assert_ne!(of(Purpose::Weights), of(Purpose::SecondMoment));
        // Neighbours, elements of one block, and of the next tile.
        let several = |elements: [usize; 8]| elements.map(|element| random_bits(first, Purpose::Weights, element));
        assert_ne!(several([0, 1, 2, 3, 4, 5, 6, 7]), several([128, 129, 130, 131, 132, 133, 134, 135]));
        assert_ne!(several([0, 1, 2, 3, 4, 5, 6, 7]), several([1024, 1025, 1026, 1027, 1028, 1029, 1030, 1031]));
    }

    /// Chi squared of the upper and lower byte over 2^18 elements; 255 degrees of freedom have a deviation of 23.
    #[test]
    fn bits_are_even() {
        let key = RoundingKey { seed: 11, stream: 0 }.at_step(1);
        let elements = 1 << 18;
        let mut counts = [[0u32; 256]; 2];
        for element in 0..elements {
            let bits = random_bits(key, Purpose::Weights, element);
            counts[0][usize::from(bits & 255)] += 1;
            counts[1][usize::from(bits >> 8)] += 1;
        }
        let expected = f64::from(elements as u32) / 256.0;
        for counts in counts {
            let chi: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
            assert!((chi - 255.0).abs() < 5.0 * 23.0, "{chi}");
        }
    }
}
