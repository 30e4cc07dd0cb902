//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a random function of key and
//! counter without state, in 32-bit arithmetic that every device has.

use super::RandomKey;
use crate::simd::{self, Kernel, LANES, Lanes};

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
pub(crate) const ROUNDS: usize = 10;

/// Ten rounds of Philox on a 128-bit counter under a 64-bit key, words in little-endian order.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox4x32_lanes(counter.map(|word| [word]), key).map(|[word]| word)
}

/// [`philox4x32`] of `N` counters under one key; word `i` of every counter is in `counters[i]`.
#[inline(always)]
pub(crate) fn philox4x32_lanes<const N: usize>(mut counters: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..ROUNDS {
        let mut next = [[0; N]; 4];
        for lane in 0..N {
            let products = [
                u64::from(MULTIPLIERS[0]) * u64::from(counters[0][lane]),
                u64::from(MULTIPLIERS[1]) * u64::from(counters[2][lane]),
            ];
            next[0][lane] = (products[1] >> 32) as u32 ^ counters[1][lane] ^ key[0];
            next[1][lane] = products[1] as u32;
            next[2][lane] = (products[0] >> 32) as u32 ^ counters[3][lane] ^ key[1];
            next[3][lane] = products[0] as u32;
        }
        counters = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counters
}

/// A number in `[0, 1)` with 24 random bits: `(word >> 8) / 2^24`, the same map on every device.
///
/// The five words of the key do not fit one counter, so step and task under the seed give a second key, under which
/// sample and position are the counter.
pub fn uniform(key: RandomKey) -> f32 {
    let words = philox4x32(join(key.sample, key.position), derived(key));
    to_unit(words[0])
}

/// [`uniform`] of consecutive positions: of `first`, and of as many that follow it as `values` has room for.
pub fn uniforms(first: RandomKey, values: &mut [f32]) {
    simd::run(Uniforms { first, values });
}

struct Uniforms<'a> {
    first: RandomKey,
    values: &'a mut [f32],
}

impl Kernel for Uniforms<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let key = derived(self.first);
        let sample = split(self.first.sample).map(|word| [word; LANES]);
        for (block, values) in self.values.chunks_mut(LANES).enumerate() {
            let (mut low, mut high) = ([0; LANES], [0; LANES]);
            for lane in 0..LANES {
                [low[lane], high[lane]] = split(self.first.position.wrapping_add((block * LANES + lane) as u64));
            }
            let words = philox4x32_lanes([sample[0], sample[1], low, high], key);
            for (value, word) in values.iter_mut().zip(words[0]) {
                *value = to_unit(word);
            }
        }
    }
}

/// The key under which sample and position are the counter.
fn derived(key: RandomKey) -> [u32; 2] {
    let words = philox4x32(join(key.step, key.task), split(key.seed));
    [words[0], words[1]]
}

fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn join(a: u64, b: u64) -> [u32; 4] {
    let ([a0, a1], [b0, b1]) = (split(a), split(b));
    [a0, a1, b0, b1]
}

#[inline(always)]
fn to_unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    /// Across a carry into the high word of the position, and at lengths that fill no vector.
    #[test]
    fn consecutive_numbers_are_those_of_single_keys() {
        crate::simd::tests::at_every_level(|| {
            for length in [0, 1, 15, 16, 17, 100] {
                let key = RandomKey { seed: 1, step: 2, task: 3, sample: 1 << 40, position: (1 << 32) - 20 };
                let mut values = vec![0.0; length];
                uniforms(key, &mut values);
                for (index, value) in values.into_iter().enumerate() {
                    let position = key.position + index as u64;
                    assert_eq!(value, uniform(RandomKey { position, ..key }), "{index} of {length}");
                }
            }
        });
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let key = RandomKey { seed: 1, step: 2, task: 3, sample: 4, position: 5 };
        let high = 1 << 32;
        let others = [
            RandomKey { seed: 1 + high, ..key },
            RandomKey { step: 2 + high, ..key },
            RandomKey { task: 3 + high, ..key },
            RandomKey { sample: 4 + high, ..key },
            RandomKey { position: 5 + high, ..key },
            RandomKey { task: 2, step: 3, ..key },
            RandomKey { position: 4, sample: 5, ..key },
        ];
        for other in others {
            assert_ne!(uniform(key), uniform(other), "{other:?}");
        }
        let mean = (0..100_000).map(|position| f64::from(uniform(RandomKey { position, ..key }))).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
    }
}
