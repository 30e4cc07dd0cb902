//! Host implementation: register-blocked products straight from the tensors' own layout, nothing is packed.
//!
//! The forward product sums over `in` in sixteen lanes and one tree, the gradients sum in order. Tiles and tasks only
//! decide which elements are formed together, never how one is summed.

mod dot;
mod outer;
mod weight;

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{DType, Flex, TensorMetadata};
use burn::tensor::{Shape, bf16};
use rayon::prelude::*;

use super::{LinearOps, reference};
use crate::cpu::{Floats, add_in_order, from_vec, pieces};
use crate::flex_slices::{Rows, is_f32, whole};
use crate::simd;

pub(crate) use weight::Weight;

/// Multiplications below which splitting over threads costs more than it gains.
const SERIAL_WORK: usize = 1 << 21;
/// Rows and columns of the result per task, at most.
const TASK_ROWS: usize = 48;
const TASK_COLUMNS: usize = 256;
/// The same for outer products, which copy a part of the right operand per task: rows are worth more there.
const OUTER_TASK_ROWS: usize = 192;
/// Rows up to which a product waits for memory: every row of the right operand is read for a few multiplications.
const FEW_ROWS: usize = 16;
/// Elements of that operand from which on several threads read it faster than one.
const PARALLEL_READS: usize = 1 << 17;
/// Columns of the result per task then, so that the last tasks end together.
const FEW_ROWS_TASK_COLUMNS: usize = 64;

impl LinearOps for Flex {
    fn linear_forward(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        match (x.dtype(), weight.dtype()) {
            (DType::F32, DType::F32) => forward::<f32>(x, weight, None),
            (DType::F32, DType::BF16) => forward::<bf16>(x, weight, None),
            _ => reference::linear_primitive::<Flex>(x, weight),
        }
    }

    fn linear_int8_forward(x: FlexTensor, values: FlexTensor, scales: FlexTensor) -> FlexTensor {
        if !(is_f32(&x) && values.dtype() == DType::I8 && is_f32(&scales)) {
            return reference::linear_int8_primitive::<Flex>(x, values, scales);
        }
        forward::<i8>(x, values, Some(&Floats::new(scales)))
    }

    fn linear_grad_input(dy: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (shape, inputs) = (dy.shape(), weight.shape()[1]);
        let rows = shape[0] * shape[1];
        let multiply = match (dy.dtype(), weight.dtype()) {
            (DType::F32, DType::F32) => multiply::<f32>,
            (DType::F32, DType::BF16) => multiply::<bf16>,
            _ => return reference::linear_grad_input::<Flex>(dy, weight),
        };
        let dx = multiply(&Rows::new(dy), &Rows::new(weight), rows, inputs, shape[2]);
        from_vec(dx, [shape[0], shape[1], inputs])
    }

    fn linear_int8_grad_input(dy: FlexTensor, values: FlexTensor, scales: FlexTensor) -> FlexTensor {
        if !(is_f32(&dy) && values.dtype() == DType::I8 && is_f32(&scales)) {
            return reference::linear_int8_grad_input::<Flex>(dy, values, scales);
        }
        let (shape, inputs) = (dy.shape(), values.shape()[1]);
        let rows = shape[0] * shape[1];
        // Scaled first: the sum runs over the rows of the weight, each of which has its own scale.
        let scaled = Self::float_mul(dy, Self::float_reshape(scales, Shape::from([1, 1, shape[2]])));
        let dx = multiply::<i8>(&Rows::new(scaled), &Rows::new(values), rows, inputs, shape[2]);
        from_vec(dx, [shape[0], shape[1], inputs])
    }

    fn linear_grad_weight(dy: FlexTensor, x: FlexTensor) -> FlexTensor {
        if !(is_f32(&dy) && is_f32(&x)) {
            return reference::linear_grad_weight::<Flex>(dy, x);
        }
        let (shape, outputs) = (x.shape(), dy.shape()[2]);
        let rows = shape[0] * shape[1];
        let dw = transposed_multiply(&Rows::new(dy), &Rows::new(x), outputs, shape[2], rows);
        from_vec(dw, [outputs, shape[2]])
    }

    fn linear_add_grad_weight(sum: FlexTensor, dy: FlexTensor, x: FlexTensor) -> FlexTensor {
        if !(is_f32(&sum) && is_f32(&dy) && is_f32(&x)) {
            return Self::float_add(sum, Self::linear_grad_weight(dy, x));
        }
        let (shape, outputs) = (x.shape(), dy.shape()[2]);
        let mut sum = whole(sum);
        // `storage_mut` copies only when another handle exists.
        let total = sum.storage_mut();
        add_transposed_product(total, &Rows::new(dy), &Rows::new(x), [outputs, shape[2], shape[0] * shape[1]]);
        sum
    }
}

/// `x W^T`, its columns times `scales`.
fn forward<W: Weight>(x: FlexTensor, weight: FlexTensor, scales: Option<&[f32]>) -> FlexTensor {
    let (shape, outputs) = (x.shape(), weight.shape()[0]);
    let rows = shape[0] * shape[1];
    let y = scaled_product::<W>(&Rows::new(x), &Rows::new(weight), scales, [rows, outputs, shape[2]]);
    from_vec(y, [shape[0], shape[1], outputs])
}

/// `A B^T`, its columns times `scales`: `[m, k]` and `[n, k]` to `[m, n]`.
pub(crate) fn scaled_product<W: Weight>(a: &Rows, b: &Rows, scales: Option<&[f32]>, [m, n, k]: [usize; 3]) -> Vec<f32> {
    let (a_span, b_span) = (a.span(m), b.span_of(n, W::elements));
    tasks([m, n, k], TASK_ROWS, |rows, columns, out| {
        simd::run(dot::Dot {
            a: a_span,
            a_stride: a.stride(),
            b: b_span,
            b_stride: b.stride(),
            scales,
            rows,
            columns,
            k,
            out,
            out_stride: n,
        });
    })
}

/// `A B`: `[m, k]` and `[k, n]` to `[m, n]`.
pub(crate) fn multiply<W: Weight>(a: &Rows, b: &Rows, m: usize, n: usize, k: usize) -> Vec<f32> {
    outer_product(a.span(m), [a.stride(), 1], b.span_of(k, W::elements), b.stride(), m, n, k)
}

/// `A^T B`: `[k, m]` and `[k, n]` to `[m, n]`.
fn transposed_multiply(a: &Rows, b: &Rows, m: usize, n: usize, k: usize) -> Vec<f32> {
    outer_product(a.span(k), [1, a.stride()], b.span(k), b.stride(), m, n, k)
}

/// Adds `A^T B` to `sum` `[m, n]`, of `[k, m]` and `[k, n]`: each element once, when its own sum over `k` is done.
pub(crate) fn add_transposed_product(sum: &mut [f32], a: &Rows, b: &Rows, [m, n, k]: [usize; 3]) {
    if k == 0 {
        return;
    }
    let (a_span, b_span) = (a.span(k), b.span(k));
    run_tasks(sum.as_mut_ptr(), [m, n, k], outer_task_rows(m), |rows, columns, sum| {
        let mut part = vec![0.0; rows.len() * columns.len()];
        simd::run(outer::Outer {
            a: &a_span[rows.start..],
            a_strides: [1, a.stride()],
            b: &b_span[columns.start..],
            b_stride: b.stride(),
            rows: 0..rows.len(),
            columns: 0..columns.len(),
            k,
            out: part.as_mut_ptr(),
            out_stride: columns.len(),
        });
        for (row, part) in rows.zip(part.chunks_exact(columns.len())) {
            // SAFETY: a row of this task's own rectangle.
            let sum = unsafe { std::slice::from_raw_parts_mut(sum.add(row * n + columns.start), columns.len()) };
            add_in_order(sum, part);
        }
    });
}

fn outer_product<W: Weight>(
    a: &[f32],
    a_strides: [usize; 2],
    b: &[W],
    b_stride: usize,
    m: usize,
    n: usize,
    k: usize,
) -> Vec<f32> {
    if k == 0 {
        return vec![0.0; m * n];
    }
    tasks([m, n, k], outer_task_rows(m), |rows, columns, out| {
        simd::run(outer::Outer { a, a_strides, b, b_stride, rows, columns, k, out, out_stride: n });
    })
}

/// Rows per task of an outer product of `m` rows: no more than there is parallel work for.
fn outer_task_rows(m: usize) -> usize {
    m.div_ceil(8).max(1).next_multiple_of(TASK_ROWS).min(OUTER_TASK_ROWS)
}

/// A range of rows or columns of the result.
pub(super) type Span = std::ops::Range<usize>;

/// The first element of the result; tasks write disjoint rectangles.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: every task writes its own rectangle of the result.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Through a method, so that closures capture the whole (Send) value.
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// The `[m, n]` result of `task`, as [`run_tasks`] calls it.
fn tasks([m, n, k]: [usize; 3], task_rows: usize, task: impl Fn(Span, Span, *mut f32) + Sync) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    run_tasks(out.spare_capacity_mut().as_mut_ptr().cast(), [m, n, k], task_rows, task);
    // SAFETY: the rectangles cover the result and every one was written.
    unsafe { out.set_len(m * n) };
    out
}

/// Calls `task` for rectangles that cover the `[m, n]` matrix at `target`, in parallel when there is enough to do. Each call
/// gets its rows and columns and a pointer to element (0, 0), and has that whole rectangle to itself.
fn run_tasks(target: *mut f32, [m, n, k]: [usize; 3], task_rows: usize, task: impl Fn(Span, Span, *mut f32) + Sync) {
    let target = Target(target);
    let reads = m <= FEW_ROWS && n * k >= PARALLEL_READS;
    let task_columns = if reads { FEW_ROWS_TASK_COLUMNS } else { TASK_COLUMNS };
    let (rows, columns) = (pieces(m, task_rows), pieces(n, task_columns));
    // The smaller operand is gone through again and again: it has the better chance to stay in a cache.
    let grid: Vec<(Span, Span)> = if m < n {
        columns.flat_map(|columns| rows.clone().map(move |rows| (rows, columns.clone()))).collect()
    } else {
        rows.flat_map(|rows| columns.clone().map(move |columns| (rows.clone(), columns))).collect()
    };
    if grid.len() == 1 || !reads && m * n * k <= SERIAL_WORK {
        for (rows, columns) in grid {
            task(rows, columns, target.pointer());
        }
    } else {
        grid.into_par_iter().for_each(|(rows, columns)| task(rows, columns, target.pointer()));
    }
}
