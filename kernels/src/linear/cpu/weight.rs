//! What the right operand of a product may be stored as. Every kind widens to f32 exactly, in registers, so that a product
//! is that of the widened matrix.

use burn::backend::flex::FlexTensor;
use burn::tensor::bf16;

use crate::simd::{LANES, Lanes};

/// An element of a weight.
pub(crate) trait Weight: Copy + Send + Sync + 'static {
    /// Vectors of sixteen elements in a cache line.
    const VECTORS: usize = 64 / size_of::<Self>() / LANES;

    /// A tensor's buffer.
    fn elements(tensor: &FlexTensor) -> &[Self];
    /// # Safety
    /// `from` must be readable for 16 elements.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    /// The first `count <= 16` elements, zero in the other lanes.
    /// # Safety
    /// `from` must be readable for `count` elements.
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L;
}

impl Weight for f32 {
    fn elements(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { L::load(from) }
    }
    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_first(from, count) }
    }
}

impl Weight for bf16 {
    fn elements(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's; a bf16 is its sixteen bits.
        unsafe { L::load_bf16(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        // SAFETY: as above.
        unsafe { L::load_first_bf16(from.cast(), count) }
    }
}

impl Weight for i8 {
    fn elements(tensor: &FlexTensor) -> &[Self] {
        tensor.storage()
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_i8(from) }
    }
    #[inline(always)]
    unsafe fn load_first<L: Lanes>(from: *const Self, count: usize) -> L {
        // SAFETY: the caller's.
        unsafe { L::load_first_i8(from, count) }
    }
}
