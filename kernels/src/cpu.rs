//! Host access to Flex tensors, and parallel loops whose partition never depends on the machine.

use burn::backend::{DispatchTensorKind, TensorMetadata};
use burn::tensor::{DType, Shape, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};

use crate::flex_slices::Rows;

/// Whether a tensor lives on the host (Flex) in f32, tracked by autodiff or not.
pub(crate) fn is_host_f32<const D: usize>(tensor: &Tensor<D>) -> bool {
    fn on_flex(kind: &DispatchTensorKind) -> bool {
        match kind {
            DispatchTensorKind::Flex(_) => true,
            DispatchTensorKind::Autodiff(inner) => on_flex(inner),
            #[allow(unreachable_patterns, reason = "other backends are optional")]
            _ => false,
        }
    }
    tensor.dtype() == DType::F32 && on_flex(&tensor.clone().into_dispatch().kind)
}

/// A tensor's elements as one contiguous slice; copies only what is not contiguous already.
pub(crate) struct Floats {
    tensor: FlexTensor,
    range: Range<usize>,
}

impl Floats {
    pub(crate) fn new(tensor: FlexTensor) -> Self {
        if let Some((start, end)) = tensor.layout().contiguous_offsets() {
            return Self { tensor, range: start..end };
        }
        let count = tensor.layout().num_elements();
        let rows = count / tensor.shape().last().copied().unwrap_or(1).max(1);
        Self { tensor: Rows::new(tensor).into_contiguous(rows), range: 0..count }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.tensor.storage::<f32>()[self.range.clone()]
    }
}

/// The ranges that cut `0..count` into pieces of `size`.
pub(crate) fn pieces(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..count).step_by(size).map(move |first| first..count.min(first + size))
}

/// Wraps values as a contiguous tensor.
pub(crate) fn from_vec(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Writes zeros to the tokens of a `[B, T, width]` buffer that lie behind their row's length.
pub(crate) fn clear_padding(values: &mut [MaybeUninit<f32>], lengths: &[usize], tokens: usize, width: usize) {
    for (row, &length) in values.chunks_exact_mut((tokens * width).max(1)).zip(lengths) {
        row[length * width..].fill(MaybeUninit::new(0.0));
    }
}

/// The sizes of a tensor whose rank is known.
pub(crate) fn sizes<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let shape = tensor.shape();
    std::array::from_fn(|axis| shape[axis])
}

/// Runs `task(0..count)`, in parallel when there is more than one.
pub(crate) fn parallel(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// A buffer that parallel tasks write at places they know to be disjoint.
#[derive(Clone, Copy)]
pub(crate) struct DisjointMut<'a, T = f32> {
    start: *mut T,
    len: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose contract rules out overlapping use.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), buffer: PhantomData }
    }

    /// The elements `from..from + len`.
    ///
    /// # Safety
    /// No two live slices may overlap.
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from + len <= self.len, "write past the end of a buffer");
        // SAFETY: inside the buffer by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Adds `parts` (each `total.len()` long) to `total`, first to last, element by element.
pub(crate) fn add_in_order(total: &mut [f32], parts: &[f32]) {
    for part in parts.chunks_exact(total.len().max(1)) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
}
