//! Moments in eight bits: a code per element, and the largest magnitude of every block of elements.
//!
//! A value is `table[code] * largest`, where `largest` is that of its block and the table holds what numbers between -1 and 1
//! are rounded to: seven decades, each with twice as many steps as the one below, because moments of one block differ by
//! orders of magnitude (Dettmers et al. 2022, arXiv:2110.02861; the tables are those of bitsandbytes, formed in f64). Moments of
//! either sign have one bit less than second moments, which are never negative.
//!
//! One thing differs from the paper: a positive second moment never becomes zero. Where the first moment does not, the update
//! would be divided by `eps` alone and throw the parameter far away.

use super::Order;

/// Elements that share a largest magnitude; the last block of a tensor may be shorter.
pub const BLOCK_SIZE: usize = 256;

/// Decades of the tables.
const DECADES: usize = 7;
/// Magnitudes of the tables: zero, the decades' steps, one.
const SIGNED: usize = (1 << DECADES) + 1;
const UNSIGNED: usize = (1 << (DECADES + 1)) - 2 + 2;
/// The code of zero among the codes of either sign; negative ones lie below.
const SIGNED_ZERO: usize = (1 << DECADES) - 1;
/// Upper bits of an f32 that find the neighbourhood of a magnitude: its exponent and eight bits behind it.
const BIN_SHIFT: u32 = 15;
/// The bins of numbers below this are those of zero.
const FIRST_BIN: usize = 100 << 8;
/// Bins up to the one of 1.
const BINS: usize = (127 << 8) - FIRST_BIN + 1;

/// What magnitudes are rounded to, in ascending order, and how the nearest is found.
struct Magnitudes<const N: usize> {
    values: [f32; N],
    /// Halfway between neighbours.
    borders: [f32; N],
    /// Of each bin the place of the value that its smallest number is nearest to.
    first: [u8; BINS],
}

impl<const N: usize> Magnitudes<N> {
    /// With `steps << decade` steps in each decade.
    const fn new(steps: usize) -> Self {
        let mut exact = [0.0f64; N];
        let mut power = 1e6;
        let (mut at, mut decade) = (1, 0);
        while decade < DECADES {
            let (count, mut step) = (steps << decade, 0);
            while step < count {
                exact[at] = (0.1 + 0.9 * (step as f64 + 0.5) / count as f64) / power;
                at += 1;
                step += 1;
            }
            decade += 1;
            power /= 10.0;
        }
        exact[at] = 1.0;
        let (mut values, mut borders) = ([0.0; N], [f32::INFINITY; N]);
        let mut at = 0;
        while at < N {
            values[at] = exact[at] as f32;
            if at + 1 < N {
                borders[at] = ((exact[at] as f32 as f64 + exact[at + 1] as f32 as f64) / 2.0) as f32;
            }
            at += 1;
        }
        let mut first = [0; BINS];
        let (mut bin, mut at) = (1, 0);
        while bin < BINS {
            let smallest = f32::from_bits(((FIRST_BIN + bin) as u32) << BIN_SHIFT);
            if smallest > borders[at] {
                at += 1;
            }
            assert!(smallest <= borders[at], "no bin has two borders");
            first[bin] = at as u8;
            bin += 1;
        }
        Self { values, borders, first }
    }

    /// The place of the value nearest to `magnitude`, which is between 0 and 1.
    #[inline(always)]
    fn nearest(&self, magnitude: f32) -> usize {
        let bin = ((magnitude.to_bits() >> BIN_SHIFT) as usize).saturating_sub(FIRST_BIN).min(BINS - 1);
        let at = usize::from(self.first[bin]);
        at + usize::from(magnitude > self.borders[at])
    }
}

const FIRST_MOMENTS: &Magnitudes<SIGNED> = &Magnitudes::new(1);
const SECOND_MOMENTS: &Magnitudes<UNSIGNED> = &Magnitudes::new(2);

/// What the codes of a moment stand for, as a share of their block's largest magnitude.
pub fn table(order: Order) -> &'static [f32; 256] {
    match order {
        Order::First => &SIGNED_VALUES,
        Order::Second => &SECOND_MOMENTS.values,
    }
}

/// Halfway between neighbouring magnitudes, from zero on.
#[cfg(feature = "cube")]
pub(super) fn borders(order: Order) -> Vec<f32> {
    match order {
        Order::First => FIRST_MOMENTS.borders.to_vec(),
        Order::Second => SECOND_MOMENTS.borders.to_vec(),
    }
}

/// What the codes of either sign stand for.
static SIGNED_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = if code < SIGNED_ZERO {
            -FIRST_MOMENTS.values[SIGNED_ZERO - code]
        } else {
            FIRST_MOMENTS.values[code - SIGNED_ZERO]
        };
        code += 1;
    }
    values
};

/// Blocks of a moment of so many elements.
pub fn num_blocks(elements: usize) -> usize {
    elements.div_ceil(BLOCK_SIZE)
}

/// The code of zero.
pub fn code_of_zero(order: Order) -> u8 {
    match order {
        Order::First => SIGNED_ZERO as u8,
        Order::Second => 0,
    }
}

/// Fills `values` with what `codes` stand for; all of them have one length, and `largest` one entry per block.
#[inline(always)]
pub(super) fn decode(order: Order, codes: &[u8], largest: &[f32], values: &mut [f32]) {
    let table = table(order);
    for ((codes, values), &largest) in codes.chunks(BLOCK_SIZE).zip(values.chunks_mut(BLOCK_SIZE)).zip(largest) {
        for (&code, value) in codes.iter().zip(values) {
            *value = table[usize::from(code)] * largest;
        }
    }
}

/// Fills `codes` and `largest` from `values`; see [`decode`].
#[inline(always)]
pub(super) fn encode(order: Order, values: &[f32], codes: &mut [u8], largest: &mut [f32]) {
    for ((codes, values), largest) in codes.chunks_mut(BLOCK_SIZE).zip(values.chunks(BLOCK_SIZE)).zip(largest) {
        // Magnitudes are ordered as their bits are, which a processor compares many at a time.
        let bits = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
        *largest = f32::from_bits(bits);
        if bits == 0 {
            codes.fill(code_of_zero(order));
            continue;
        }
        let mut shares = [0.0; BLOCK_SIZE];
        for (share, &value) in shares.iter_mut().zip(values) {
            *share = value / *largest;
        }
        for (code, &share) in codes.iter_mut().zip(&shares) {
            *code = match order {
                Order::First => {
                    let place = FIRST_MOMENTS.nearest(share.abs());
                    // Nothing negative is rounded to -1, which the table lacks.
                    let below = SIGNED_ZERO - place.min(SIGNED_ZERO);
                    (if share < 0.0 { below } else { SIGNED_ZERO + place }) as u8
                }
                Order::Second => SECOND_MOMENTS.nearest(share).max(usize::from(share > 0.0)) as u8,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest by looking at all of them, in f64.
    fn nearest(order: Order, share: f32) -> Vec<u8> {
        let table = table(order);
        let distance = |code: usize| (f64::from(table[code]) - f64::from(share)).abs();
        let least = (0..256).map(distance).fold(f64::INFINITY, f64::min);
        // In f32 a border is off by half a unit at most.
        let close = least + 1e-7 * f64::from(share.abs());
        (0..256).filter(|&code| distance(code) <= close).map(|code| code as u8).collect()
    }

    #[test]
    fn tables_ascend_from_minus_one_and_zero_to_one() {
        for order in [Order::First, Order::Second] {
            let table = table(order);
            assert!(table.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!((table[usize::from(code_of_zero(order))], table[255]), (0.0, 1.0));
        }
        assert_eq!(table(Order::First)[126], -5.5e-7);
        assert!(table(Order::First)[0] > -1.0 && table(Order::Second)[1] > 0.0);
    }

    #[test]
    fn codes_are_the_nearest() {
        let shares = |count: usize| {
            (0..count)
                .map(|i| f32::from_bits((i as u32).wrapping_mul(0x9E37_79B9) % 0x3f80_0001))
                .chain([0.0, 1.0, 1e-9])
        };
        for order in [Order::First, Order::Second] {
            let signs: &[f32] = if order == Order::First { &[1.0, -1.0] } else { &[1.0] };
            for share in shares(20_000).flat_map(|share| signs.iter().map(move |sign| sign * share)) {
                let (mut codes, mut largest) = ([0; 2], [0.0]);
                encode(order, &[share, 1.0], &mut codes, &mut largest);
                let allowed = nearest(order, share);
                let is_kept = order == Order::Second && share > 0.0 && codes[0] == 1 && allowed == [0];
                assert!(largest == [1.0] && (allowed.contains(&codes[0]) || is_kept), "{order:?} {share:e}: {codes:?}");
            }
        }
    }

    /// The magnitudes of a table with the largest of every block survive coding.
    #[test]
    fn what_was_coded_is_coded_alike() {
        for order in [Order::First, Order::Second] {
            let mut values: Vec<f32> = table(order).iter().map(|value| value * 3.0).collect();
            values.push(-0.0);
            let (mut codes, mut largest) = (vec![9; values.len()], vec![9.0; 2]);
            encode(order, &values, &mut codes, &mut largest);
            assert_eq!(codes[..256], (0..=255).collect::<Vec<u8>>()[..]);
            assert_eq!((largest[0], largest[1], codes[256]), (3.0, 0.0, code_of_zero(order)));
            let mut decoded = vec![9.0; values.len()];
            decode(order, &codes, &largest, &mut decoded);
            assert_eq!(decoded, values);
        }
    }
}
