//! Sums over parts, element by element and first to last.

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{arg, block, element_type, empty, grid_of_units, rows_of, sizes};

/// Where the parts of a sum lie in a buffer.
pub(crate) struct Parts {
    /// Number of parts.
    pub(crate) count: usize,
    /// Elements between the starts of neighbouring parts.
    pub(crate) stride: usize,
    /// Elements before the first part.
    pub(crate) offset: usize,
}

/// Adds `parts` of the f32 buffer `values`, each as large as `shape`.
pub(crate) fn sum_parts(values: &CubeTensor, parts: Parts, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let sums = empty(values, shape, dtype);
    let size = sums.meta.shape().num_elements();
    if size == 0 {
        return sums;
    }
    // SAFETY: the caller's parts lie inside the buffer, and units past `size` do nothing.
    unsafe {
        sum_parts_kernel::launch_unchecked(
            &values.client,
            grid_of_units(&values.client, size),
            block(),
            arg(values),
            arg(&sums),
            parts.count,
            parts.stride,
            parts.offset,
            size,
            element_type(dtype),
        );
    }
    sums
}

#[cube(launch_unchecked)]
fn sum_parts_kernel<F: Float>(
    values: &[f32],
    sums: &mut [F],
    count: usize,
    stride: usize,
    offset: usize,
    size: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < size {
        let mut sum = 0.0f32;
        for part in 0..count {
            sum += values[part * stride + offset + at];
        }
        sums[at] = F::cast_from(sum);
    }
}

/// Adds `part` to the rows of the f32 matrix `sum` that begin at `first`, where they lie; `first` as for [`rows_of`].
pub(crate) fn add_to_rows(sum: &CubeTensor, first: usize, part: &CubeTensor) {
    let [count, width] = sizes(part);
    let size = count * width;
    if size == 0 {
        return;
    }
    // SAFETY: the rows have as many elements as the part, and units past `size` do nothing.
    unsafe {
        add_kernel::launch_unchecked(
            &sum.client,
            grid_of_units(&sum.client, size),
            block(),
            arg(&rows_of(sum, first, count)),
            arg(part),
            size,
        );
    }
}

#[cube(launch_unchecked)]
fn add_kernel(sum: &mut [f32], part: &[f32], size: usize) {
    let at = ABSOLUTE_POS;
    if at < size {
        sum[at] += part[at];
    }
}
