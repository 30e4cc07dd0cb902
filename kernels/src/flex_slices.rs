//! Views of Flex tensors as slices, for the host kernels.

use std::mem::MaybeUninit;

use burn::backend::flex::FlexTensor;
use burn::backend::{DType, Flex};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::cpu::from_vec;

/// Rows that a task copies.
pub(crate) const ROWS_PER_TASK: usize = 64;

/// Whether the host kernels apply; every other dtype takes the reference.
pub(crate) fn is_f32(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
}

/// The tensor itself when it covers its buffer in row-major order, a copy otherwise.
///
/// Keeps the only handle to the buffer, so that writing stays possible in place.
pub(crate) fn whole(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let covers = layout.is_contiguous()
        && layout.start_offset() == 0
        && tensor.bytes().len() == layout.num_elements() * tensor.dtype().size();
    if covers { tensor } else { tensor.to_contiguous() }
}

/// The elements of a tensor that [`whole`] returned.
pub(crate) fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor.storage()
}

/// A matrix whose rows are contiguous but may lie apart: a column range of a wider matrix needs no copy.
pub(crate) struct Rows {
    tensor: FlexTensor,
    start: usize,
    stride: usize,
    width: usize,
}

impl Rows {
    /// Takes a tensor of any rank; all axes but the last count as rows.
    pub(crate) fn new(tensor: FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape().to_vec(), layout.strides().to_vec());
        let rank = shape.len();
        let width = shape.last().copied().unwrap_or(1);
        // Row axes must collapse into one: stride[i] = stride[i + 1] * shape[i + 1], axes of size 1 aside.
        let mut row_stride = None;
        let mut expected = 0;
        let mut collapses = width <= 1 || strides[rank - 1] == 1;
        for axis in (0..rank.saturating_sub(1)).rev() {
            if shape[axis] == 1 {
                continue;
            }
            match row_stride {
                None => {
                    collapses &= strides[axis] >= width as isize;
                    row_stride = Some(strides[axis]);
                }
                Some(_) => collapses &= strides[axis] == expected,
            }
            expected = strides[axis] * shape[axis] as isize;
        }
        if collapses {
            let start = layout.start_offset();
            let stride = row_stride.unwrap_or(width as isize).unsigned_abs();
            Self { tensor, start, stride, width }
        } else {
            Self { tensor: tensor.to_contiguous(), start: 0, stride: width, width }
        }
    }

    /// The elements of `rows` rows, one after the other, copied in parallel.
    pub(crate) fn to_vec(&self, rows: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows * self.width);
        let copy = |(index, to): (usize, &mut [MaybeUninit<f32>])| {
            for (at, to) in to.chunks_exact_mut(self.width).enumerate() {
                to.write_copy_of_slice(self.row(index * ROWS_PER_TASK + at));
            }
        };
        if self.width > 0 {
            let spare = &mut values.spare_capacity_mut()[..rows * self.width];
            if rows <= ROWS_PER_TASK {
                copy((0, spare));
            } else {
                spare.par_chunks_mut(ROWS_PER_TASK * self.width).enumerate().for_each(copy);
            }
        }
        // SAFETY: the chunks cover that many elements, and every row of them was written.
        unsafe { values.set_len(rows * self.width) };
        values
    }

    /// The tensor in row-major order; a copy unless [`Rows::new`] had to make one.
    pub(crate) fn into_contiguous(self, rows: usize) -> FlexTensor {
        let layout = self.tensor.layout();
        if layout.is_contiguous() && layout.start_offset() == 0 {
            return self.tensor;
        }
        from_vec(self.to_vec(rows), [rows * self.width])
    }

    /// Row `index`.
    pub(crate) fn row(&self, index: usize) -> &[f32] {
        let from = self.start + index * self.stride;
        &self.tensor.storage()[from..from + self.width]
    }

    /// All elements from the first row's first to the last row's last.
    pub(crate) fn span(&self, rows: usize) -> &[f32] {
        self.span_of(rows, |tensor| tensor.storage())
    }

    /// The same of a tensor of another dtype, whose buffer `elements` gives.
    pub(crate) fn span_of<E>(&self, rows: usize, elements: fn(&FlexTensor) -> &[E]) -> &[E] {
        if rows == 0 {
            return &[];
        }
        let end = self.start + (rows - 1) * self.stride + self.width;
        &elements(&self.tensor)[self.start..end]
    }

    /// Elements between the starts of neighbouring rows.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }
}

/// The Flex tensor of a result that was computed from Flex tensors.
pub(crate) fn lower<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(error) => {
            unreachable!("an operation on Flex tensors gave a tensor elsewhere: {error:?}")
        }
    }
}
