//! One cube per row; the weight's gradient in parts of 64 rows that are then added in order.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{RmsNormGradient, RmsNormOps};
use crate::cube::math::block_sum;
use crate::cube::sum::{Parts, sum_parts};
use crate::cube::{
    BLOCK, arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, optional, sizes,
};

/// Rows per part of the weight's gradient.
const ROWS_PER_PART: usize = 64;

impl RmsNormOps for CubeBackend {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, weight) = (contiguous(x), contiguous_as(weight, DType::F32));
        let (rows, width) = rows(&x);
        let y = empty(&x, x.shape(), x.dtype);
        if rows * width > 0 {
            // SAFETY: `x` and `y` hold `rows * width` elements and cubes past `rows` do nothing.
            unsafe {
                rms_norm_kernel::launch_unchecked(
                    &x.client,
                    grid(&x.client, rows),
                    block(),
                    arg(&x),
                    arg(&weight),
                    arg(&y),
                    rows,
                    width,
                    epsilon as f32,
                    BLOCK,
                    element_type(x.dtype),
                );
            }
        }
        y
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, residual, weight) = (contiguous(x), contiguous(residual), contiguous_as(weight, DType::F32));
        let (rows, width) = rows(&x);
        let sum = empty(&x, x.shape(), residual.dtype);
        let y = empty(&x, x.shape(), x.dtype);
        if rows * width > 0 {
            // SAFETY: the four tensors hold `rows * width` elements and cubes past `rows` do nothing.
            unsafe {
                add_rms_norm_kernel::launch_unchecked(
                    &x.client,
                    grid(&x.client, rows),
                    block(),
                    arg(&x),
                    arg(&residual),
                    arg(&weight),
                    arg(&sum),
                    arg(&y),
                    rows,
                    width,
                    epsilon as f32,
                    BLOCK,
                    [x.dtype, residual.dtype].map(element_type),
                );
            }
        }
        (sum, y)
    }
}

impl RmsNormGradient for CubeBackend {
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
        addend: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 2] {
        let weight_dtype = weight.dtype;
        let (x, weight) = (contiguous(x), contiguous_as(weight, DType::F32));
        let cotangent = contiguous(cotangent);
        let has_addend = addend.is_some();
        // Never read when there is none.
        let addend = optional(addend, &x, x.dtype);
        let dtypes = [x.dtype, cotangent.dtype].map(element_type);
        let (rows, width) = rows(&x);
        let x_gradient = empty(&x, x.shape(), x.dtype);
        let inverse = empty(&x, [rows], DType::F32);
        let num_parts = rows.div_ceil(ROWS_PER_PART);
        let parts = empty(&x, [num_parts, width], DType::F32);
        if rows * width > 0 {
            // SAFETY: the buffers have the sizes that `rows`, `width` and the number of parts say; cubes and units
            // past the ends do nothing.
            unsafe {
                rms_norm_gradient_kernel::launch_unchecked(
                    &x.client,
                    grid(&x.client, rows),
                    block(),
                    arg(&x),
                    arg(&weight),
                    arg(&cotangent),
                    arg(&addend),
                    arg(&x_gradient),
                    arg(&inverse),
                    rows,
                    width,
                    epsilon as f32,
                    has_addend,
                    BLOCK,
                    dtypes,
                );
                rms_norm_weight_gradient_kernel::launch_unchecked(
                    &x.client,
                    grid_of_units(&x.client, num_parts * width),
                    block(),
                    arg(&x),
                    arg(&cotangent),
                    arg(&inverse),
                    arg(&parts),
                    rows,
                    width,
                    ROWS_PER_PART,
                    dtypes,
                );
            }
        }
        let sum = Parts { count: num_parts, stride: width, offset: 0 };
        [x_gradient, cast_to(sum_parts(&parts, sum, [width], DType::F32), weight_dtype)]
    }
}

/// Rows and width of `[batch, tokens, width]`.
fn rows(x: &CubeTensor) -> (usize, usize) {
    let [batch, tokens, width] = sizes(x);
    (batch * tokens, width)
}

#[cube(launch_unchecked)]
fn rms_norm_kernel<F: Float>(
    x: &[F],
    weight: &[f32],
    y: &mut [F],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let start = row * width;
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < width {
        let value = f32::cast_from(x[start + at]);
        squares += value * value;
        at += block;
    }
    let inverse = inverse_rms(block_sum(squares, &mut shared, block), width, epsilon);
    let mut at = UNIT_POS as usize;
    while at < width {
        y[start + at] = F::cast_from(f32::cast_from(x[start + at]) * inverse * weight[at]);
        at += block;
    }
}

/// Every unit adds and stores its elements of the row, then normalises them as stored.
#[cube(launch_unchecked)]
fn add_rms_norm_kernel<F: Float, R: Float>(
    x: &[F],
    residual: &[R],
    weight: &[f32],
    sum: &mut [R],
    y: &mut [F],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] block: usize,
    #[define(F, R)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let start = row * width;
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < width {
        let stored = R::cast_from(f32::cast_from(residual[start + at]) + f32::cast_from(x[start + at]));
        sum[start + at] = stored;
        let value = f32::cast_from(stored);
        squares += value * value;
        at += block;
    }
    let inverse = inverse_rms(block_sum(squares, &mut shared, block), width, epsilon);
    let mut at = UNIT_POS as usize;
    while at < width {
        y[start + at] = F::cast_from(f32::cast_from(sum[start + at]) * inverse * weight[at]);
        at += block;
    }
}

/// `1 / sqrt(mean square + epsilon)`.
#[cube]
fn inverse_rms(square_sum: f32, width: usize, epsilon: f32) -> f32 {
    1.0f32 / (square_sum / f32::cast_from(width as u32) + epsilon).sqrt()
}

/// With `r = 1 / rms` and `g = weight * cotangent`: `dx = r g - x r^3 mean(g x)`, plus the addend where there is one.
#[cube(launch_unchecked)]
fn rms_norm_gradient_kernel<F: Float, C: Float>(
    x: &[F],
    weight: &[f32],
    cotangent: &[C],
    addend: &[F],
    x_gradient: &mut [F],
    inverses: &mut [f32],
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] has_addend: bool,
    #[comptime] block: usize,
    #[define(F, C)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let start = row * width;
    let mut squares = 0.0f32;
    let mut products = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < width {
        let value = f32::cast_from(x[start + at]);
        squares += value * value;
        products += value * weight[at] * f32::cast_from(cotangent[start + at]);
        at += block;
    }
    let count = f32::cast_from(width as u32);
    let square_sum = block_sum(squares, &mut shared, block);
    let projection = block_sum(products, &mut shared, block);
    let inverse = inverse_rms(square_sum, width, epsilon);
    let pull = inverse * inverse * inverse * projection / count;
    if UNIT_POS == 0u32 {
        inverses[row] = inverse;
    }
    let mut at = UNIT_POS as usize;
    while at < width {
        let scaled = weight[at] * f32::cast_from(cotangent[start + at]);
        let mut gradient = inverse * scaled - pull * f32::cast_from(x[start + at]);
        if comptime!(has_addend) {
            gradient += f32::cast_from(addend[start + at]);
        }
        x_gradient[start + at] = F::cast_from(gradient);
        at += block;
    }
}

/// One unit per part and column: `sum of cotangent x r` over the part's rows.
#[cube(launch_unchecked)]
fn rms_norm_weight_gradient_kernel<F: Float, C: Float>(
    x: &[F],
    cotangent: &[C],
    inverses: &[f32],
    parts: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] rows_per_part: usize,
    #[define(F, C)] _dtypes: [ElemType; 2],
) {
    let part = ABSOLUTE_POS / width;
    let column = ABSOLUTE_POS % width;
    let from = part * rows_per_part;
    if from < rows {
        let to = min(from + rows_per_part, rows);
        let mut sum = 0.0f32;
        let mut row = from;
        while row < to {
            let at = row * width + column;
            sum += f32::cast_from(cotangent[at]) * f32::cast_from(x[at]) * inverses[row];
            row += 1usize;
        }
        parts[ABSOLUTE_POS] = sum;
    }
}
