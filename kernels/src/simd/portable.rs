//! [`Lanes`] on any machine: an array, with the same roundings as the vector versions.

use super::{Lanes, tree_sum};

#[derive(Clone, Copy)]
pub(super) struct Array([f32; 16]);

impl Array {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Array {
    const WIDE: bool = false;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 16])
    }
    #[inline(always)]
    fn prefetch(_from: *const f32) {}
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { std::ptr::read_unaligned(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut out = [0.0; 16];
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), count) };
        Self(out)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let values: [u16; 16] = unsafe { std::ptr::read_unaligned(from.cast()) };
        Self(values.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let values: [i8; 16] = unsafe { std::ptr::read_unaligned(from.cast()) };
        Self(values.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { std::ptr::write_unaligned(to.cast(), self.0) };
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) };
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| f32::mul_add(self.0[i], factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn zero_below(self, x: Self, bound: Self) -> Self {
        Self(std::array::from_fn(|i| if x.0[i] < bound.0[i] { 0.0 } else { self.0[i] }))
    }
    #[inline(always)]
    fn power_of_two(n: Self) -> Self {
        Self(n.0.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)))
    }
    #[inline(always)]
    fn sum_each(rows: [Self; 16]) -> Self {
        Self(std::array::from_fn(|i| tree_sum(rows[4 * (i % 4) + i / 4].0)))
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        std::array::from_fn(|i| Self(std::array::from_fn(|j| rows[j].0[i])))
    }
}
