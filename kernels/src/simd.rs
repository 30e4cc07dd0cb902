//! Sixteen-lane f32 arithmetic for the host kernels, chosen at run time.
//!
//! Every host kernel is written once over [`Lanes`], a vector of sixteen f32. The number of lanes is fixed whatever
//! the machine: AVX-512 holds them in one register, AVX2 in two, any other machine in an array. Products are fused
//! (`mul_add`) everywhere and horizontal sums follow one fixed tree, so all three give the same bits.
//!
//! The build does not assume a CPU; [`run`] compiles a [`Kernel`] for each level and picks one when called.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every block here calls instructions of a level that `run` has found on this machine before"
)]

use std::sync::OnceLock;

/// Lanes of a [`Lanes`] vector.
pub(crate) const LANES: usize = 16;

/// `exp` saturates above this argument (`e^88` is finite in f32).
pub(crate) const EXP_MAX: f32 = 88.0;
/// `exp` gives exactly zero below this argument (results would be subnormal).
pub(crate) const EXP_MIN: f32 = -87.0;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
// ln 2 in two parts: n * LN2_HIGH is exact for |n| <= 128.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
const ROUNDING_SHIFT: f32 = 12_582_912.0;
/// Taylor coefficients of `e^r`, highest power first; |r| <= ln(2)/2 leaves a relative error of 6e-9.
const EXP_COEFFICIENTS: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// A vector of sixteen f32.
///
/// Comparisons follow `a > b ? a : b`: with a NaN the second operand is returned.
pub(crate) trait Lanes: Copy {
    /// Whether there are registers for a block of sixteen vectors.
    const WIDE: bool;
    /// All lanes equal to `value`.
    fn splat(value: f32) -> Self;
    /// Starts loading a cache line; any address will do.
    fn prefetch(from: *const f32);
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count <= 16` values, zero in the other lanes.
    /// # Safety
    /// `from` must be readable for `count` values.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// Sixteen bf16, given by their bits, as f32: exact.
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Sixteen i8 as f32: exact.
    /// # Safety
    /// `from` must be readable for 16 values.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// # Safety
    /// `to` must be writable for 16 values.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count <= 16` lanes.
    /// # Safety
    /// `to` must be writable for `count` values.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `self > other ? self : other`.
    fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`.
    fn min(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// Zero where `x < bound`, `self` elsewhere.
    fn zero_below(self, x: Self, bound: Self) -> Self;
    /// `2^n` for integral `n` in -126..=127.
    fn power_of_two(n: Self) -> Self;
    /// Lane i of the result is the tree sum (see [`Lanes::sum`]) of `rows[4 * (i % 4) + i / 4]`.
    fn sum_each(rows: [Self; 16]) -> Self;
    /// Transposes sixteen rows of sixteen.
    fn transpose(rows: [Self; 16]) -> [Self; 16];

    /// The first `count <= 16` values of [`Lanes::load_bf16`], zero in the other lanes.
    /// # Safety
    /// `from` must be readable for `count` values.
    #[inline(always)]
    unsafe fn load_first_bf16(from: *const u16, count: usize) -> Self {
        let mut values = [0; 16];
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
            Self::load_bf16(values.as_ptr())
        }
    }

    /// The first `count <= 16` values of [`Lanes::load_i8`], zero in the other lanes.
    /// # Safety
    /// `from` must be readable for `count` values.
    #[inline(always)]
    unsafe fn load_first_i8(from: *const i8, count: usize) -> Self {
        let mut values = [0; 16];
        unsafe {
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
            Self::load_i8(values.as_ptr())
        }
    }

    #[inline(always)]
    fn to_array(self) -> [f32; 16] {
        let mut out = [0.0; 16];
        unsafe { self.store(out.as_mut_ptr()) };
        out
    }

    #[inline(always)]
    fn from_array(values: &[f32; 16]) -> Self {
        unsafe { Self::load(values.as_ptr()) }
    }

    /// Horizontal sum: lanes i and i+8, then i and i+4, i+2, i+1.
    #[inline(always)]
    fn sum(self) -> f32 {
        tree_sum(self.to_array())
    }

    /// Largest lane.
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut v = self.to_array();
        let mut width = 8;
        while width > 0 {
            for i in 0..width {
                v[i] = if v[i] > v[i + width] { v[i] } else { v[i + width] };
            }
            width /= 2;
        }
        v[0]
    }

    /// `e^x` to about one unit in the last place; zero below [`EXP_MIN`], saturated above [`EXP_MAX`]; NaN stays NaN.
    #[inline(always)]
    fn exp(self) -> Self {
        // Operand order keeps NaN: the second operand is returned when the comparison is false.
        let x = Self::splat(EXP_MAX).min(Self::splat(EXP_MIN).max(self));
        let shift = Self::splat(ROUNDING_SHIFT);
        let n = x.mul_add(Self::splat(LOG2_E), shift).sub(shift);
        let r = n.mul_add(Self::splat(-LN2_HIGH), x);
        let r = n.mul_add(Self::splat(-LN2_LOW), r);
        let mut p = Self::splat(EXP_COEFFICIENTS[0]);
        for c in &EXP_COEFFICIENTS[1..] {
            p = p.mul_add(r, Self::splat(*c));
        }
        p.mul(Self::power_of_two(n)).zero_below(self, Self::splat(EXP_MIN))
    }

    /// `x / (1 + e^-x)`.
    #[inline(always)]
    fn silu(self) -> Self {
        let one = Self::splat(1.0);
        self.div(one.add(Self::splat(0.0).sub(self).exp()))
    }

    /// `1 / (1 + e^-x)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.0);
        one.div(one.add(Self::splat(0.0).sub(self).exp()))
    }
}

/// Place of the row whose sum is to be lane `lane` among the arguments of [`Lanes::sum_each`]; its own inverse.
#[inline(always)]
pub(crate) const fn sum_place(lane: usize) -> usize {
    4 * (lane % 4) + lane / 4
}

/// Lanes i and i+8, then i and i+4, i+2, i+1.
#[inline(always)]
pub(crate) fn tree_sum(mut v: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

/// One value's [`Lanes::exp`], bit for bit.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    let clamped = if EXP_MAX < x { EXP_MAX } else { x };
    let n = clamped.mul_add(LOG2_E, ROUNDING_SHIFT) - ROUNDING_SHIFT;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = EXP_COEFFICIENTS[0];
    for c in &EXP_COEFFICIENTS[1..] {
        p = p.mul_add(r, *c);
    }
    p * f32::from_bits((((n as i32) + 127) as u32) << 23)
}

/// `ln(1 + e^x)` as `max(x, 0) + log1p(e^-|x|)`, from this module's own arithmetic.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let u = exp(-x.abs());
    let base = if x > 0.0 { x } else { 0.0 };
    // ln(1 + u) = 2 atanh(u / (2 + u)), |t| <= 1/3.
    let t = u / (2.0 + u);
    let s = t * t;
    let mut p = 1.0 / 15.0;
    for c in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0f32] {
        p = f32::mul_add(p, s, c);
    }
    base + 2.0 * t * p
}

/// `x` within bounds; NaN stays NaN, unlike with `f32::max`.
#[inline(always)]
pub(crate) fn clip(x: f32, low: f32, high: f32) -> f32 {
    if x < low {
        low
    } else if x > high {
        high
    } else {
        x
    }
}

/// Natural logarithm of a positive normal f64 by basic operations only, so that every machine agrees.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let s = t * t;
    let mut p = 0.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * s + 1.0 / odd;
    }
    2.0 * t * p + exponent as f64 * std::f64::consts::LN_2
}

/// The level that [`run`] uses: the best there is, unless the program chose one before the first operation.
static LEVEL: OnceLock<Level> = OnceLock::new();

/// Makes the host kernels use the instructions of a level: `portable`, `avx2` or `avx512`. No result depends on it; this is
/// for finding that out, and for measuring.
///
/// # Errors
/// One line that says so if this machine has no such level, or if an operation has run already.
pub fn choose_simd_level(name: &str) -> Result<(), String> {
    let names: Vec<&str> = Level::available().iter().map(|level| level.name()).collect();
    let Some(index) = names.iter().position(|&known| known == name) else {
        return Err(format!("no SIMD level `{name}` on this machine; it has {}", names.join(", ")));
    };
    LEVEL.set(Level::available()[index]).map_err(|_| "the SIMD level is in use already".to_owned())
}

/// Which instructions [`run`] uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }

    /// The levels this machine can run, slowest first.
    pub(crate) fn available() -> &'static [Level] {
        static AVAILABLE: OnceLock<Vec<Level>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            #[allow(unused_mut, reason = "only x86-64 adds levels")]
            let mut levels = vec![Level::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    levels.push(Level::Avx2);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                {
                    levels.push(Level::Avx512);
                }
            }
            levels
        })
    }
}

/// A computation written over [`Lanes`]; `run` must be `#[inline(always)]`, as must everything it calls with lanes.
pub(crate) trait Kernel {
    type Output;
    fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs `kernel` at the chosen level, else at the best of this machine.
#[inline]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    if let Some(level) = tests::FORCED_LEVEL.get() {
        return run_at(level, kernel);
    }
    let best = || Level::available().last().copied().unwrap_or(Level::Portable);
    run_at(*LEVEL.get_or_init(best), kernel)
}

/// Runs `kernel` at `level`, which must be one of [`Level::available`].
#[inline]
pub(crate) fn run_at<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        Level::Portable => kernel.run::<portable::Array>(),
        // SAFETY: `available` lists a level only after detecting its features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_avx512(kernel) },
    }
}

mod portable;
mod row;
pub(crate) use row::{Row, RowMut, Slot, Span, for_each_span};
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
pub(crate) mod tests;
