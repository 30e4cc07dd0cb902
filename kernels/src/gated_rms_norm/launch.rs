//! One cube per row and group; the weight's gradient in parts of 64 rows that are then added in order.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{GatedRmsNormGradient, GatedRmsNormOps};
use crate::cube::math::{block_sum, sigmoid, silu};
use crate::cube::sum::{Parts, sum_parts};
use crate::cube::{
    BLOCK, arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, sizes,
};

/// Rows per part of the weight's gradient.
const ROWS_PER_PART: usize = 64;

impl GatedRmsNormOps for CubeBackend {
    fn gated_rms_norm(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        gated_norm(x, gate, weight, num_groups, epsilon)
    }
}

/// See [`gated_rms_norm`](fn@super::gated_rms_norm); `x` may have any rank, its last axis is as wide as `weight`.
pub(crate) fn gated_norm(
    x: CubeTensor,
    gate: CubeTensor,
    weight: CubeTensor,
    num_groups: usize,
    epsilon: f64,
) -> CubeTensor {
    let (x, gate) = (contiguous(x), contiguous(gate));
    let weight = contiguous_as(weight, DType::F32);
    let [width] = sizes(&weight);
    let y = empty(&x, x.shape(), x.dtype);
    let elements = x.shape().num_elements();
    if elements > 0 {
        let groups = elements / width * num_groups;
        // SAFETY: `x`, `gate` and `y` hold `groups` runs of the group's size and cubes past them do nothing.
        unsafe {
            gated_rms_norm_kernel::launch_unchecked(
                &x.client,
                grid(&x.client, groups),
                block(),
                arg(&x),
                arg(&gate),
                arg(&weight),
                arg(&y),
                groups,
                num_groups,
                width / num_groups,
                epsilon as f32,
                BLOCK,
                [element_type(x.dtype), element_type(gate.dtype)],
            );
        }
    }
    y
}

impl GatedRmsNormGradient for CubeBackend {
    fn gated_rms_norm_backward(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let weight_dtype = weight.dtype;
        let (x, gate) = (contiguous(x), contiguous(gate));
        let (weight, cotangent) = (contiguous_as(weight, DType::F32), contiguous_as(cotangent, x.dtype));
        let [batch, tokens, width] = sizes(&x);
        let rows = batch * tokens;
        let x_gradient = empty(&x, x.shape(), x.dtype);
        let gate_gradient = empty(&gate, gate.shape(), gate.dtype);
        let inverse = empty(&x, [rows, num_groups], DType::F32);
        let num_parts = rows.div_ceil(ROWS_PER_PART);
        let parts = empty(&x, [num_parts, width], DType::F32);
        let dtypes = [element_type(x.dtype), element_type(gate.dtype)];
        if rows * width > 0 {
            // SAFETY: the buffers have the sizes that rows, groups and the number of parts say; cubes and units past
            // the ends do nothing.
            unsafe {
                gated_rms_norm_gradient_kernel::launch_unchecked(
                    &x.client,
                    grid(&x.client, rows * num_groups),
                    block(),
                    arg(&x),
                    arg(&gate),
                    arg(&weight),
                    arg(&cotangent),
                    arg(&x_gradient),
                    arg(&gate_gradient),
                    arg(&inverse),
                    rows * num_groups,
                    num_groups,
                    width / num_groups,
                    epsilon as f32,
                    BLOCK,
                    dtypes,
                );
                gated_rms_norm_weight_gradient_kernel::launch_unchecked(
                    &x.client,
                    grid_of_units(&x.client, num_parts * width),
                    block(),
                    arg(&x),
                    arg(&gate),
                    arg(&cotangent),
                    arg(&inverse),
                    arg(&parts),
                    rows,
                    width,
                    num_groups,
                    ROWS_PER_PART,
                    dtypes,
                );
            }
        }
        let sum = Parts { count: num_parts, stride: width, offset: 0 };
        let weight_gradient = cast_to(sum_parts(&parts, sum, [width], DType::F32), weight_dtype);
        [x_gradient, gate_gradient, weight_gradient]
    }
}

#[cube(launch_unchecked)]
fn gated_rms_norm_kernel<F: Float, G: Float>(
    x: &[F],
    gate: &[G],
    weight: &[f32],
    y: &mut [F],
    groups: usize,
    groups_per_row: usize,
    size: usize,
    epsilon: f32,
    #[comptime] block: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let group = CUBE_POS;
    if group >= groups {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let start = group * size;
    let weight_start = (group % groups_per_row) * size;
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < size {
        let gated = f32::cast_from(x[start + at]) * silu(f32::cast_from(gate[start + at]));
        squares += gated * gated;
        at += block;
    }
    let total = block_sum(squares, &mut shared, block);
    let inverse = 1.0f32 / (total / f32::cast_from(size as u32) + epsilon).sqrt();
    let mut at = UNIT_POS as usize;
    while at < size {
        let gated = f32::cast_from(x[start + at]) * silu(f32::cast_from(gate[start + at]));
        y[start + at] = F::cast_from(gated * inverse * weight[weight_start + at]);
        at += block;
    }
}

/// With `u = x silu(gate)`, `r = 1 / rms(u)`, `g = weight * cotangent`: `du = r g - u r^3 mean(g u)`,
/// `dx = du silu(gate)`, `dgate = du x silu'(gate)`.
#[cube(launch_unchecked)]
fn gated_rms_norm_gradient_kernel<F: Float, G: Float>(
    x: &[F],
    gate: &[G],
    weight: &[f32],
    cotangent: &[F],
    x_gradient: &mut [F],
    gate_gradient: &mut [G],
    inverses: &mut [f32],
    groups: usize,
    groups_per_row: usize,
    size: usize,
    epsilon: f32,
    #[comptime] block: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let group = CUBE_POS;
    if group >= groups {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(block);
    let start = group * size;
    let weight_start = (group % groups_per_row) * size;
    let mut squares = 0.0f32;
    let mut products = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < size {
        let gated = f32::cast_from(x[start + at]) * silu(f32::cast_from(gate[start + at]));
        squares += gated * gated;
        products += gated * weight[weight_start + at] * f32::cast_from(cotangent[start + at]);
        at += block;
    }
    let count = f32::cast_from(size as u32);
    let square_sum = block_sum(squares, &mut shared, block);
    let projection = block_sum(products, &mut shared, block);
    let inverse = 1.0f32 / (square_sum / count + epsilon).sqrt();
    let pull = inverse * inverse * inverse * projection / count;
    if UNIT_POS == 0u32 {
        inverses[group] = inverse;
    }
    let mut at = UNIT_POS as usize;
    while at < size {
        let value = f32::cast_from(x[start + at]);
        let z = f32::cast_from(gate[start + at]);
        let s = sigmoid(z);
        let opened = z * s;
        let scaled = weight[weight_start + at] * f32::cast_from(cotangent[start + at]);
        let gradient = inverse * scaled - pull * value * opened;
        x_gradient[start + at] = F::cast_from(gradient * opened);
        gate_gradient[start + at] = G::cast_from(gradient * value * s * (1.0f32 + z * (1.0f32 - s)));
        at += block;
    }
}

/// One unit per part and column: `sum of cotangent u r` over the part's rows.
#[cube(launch_unchecked)]
fn gated_rms_norm_weight_gradient_kernel<F: Float, G: Float>(
    x: &[F],
    gate: &[G],
    cotangent: &[F],
    inverses: &[f32],
    parts: &mut [f32],
    rows: usize,
    width: usize,
    groups_per_row: usize,
    #[comptime] rows_per_part: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let part = ABSOLUTE_POS / width;
    let column = ABSOLUTE_POS % width;
    let group = column / (width / groups_per_row);
    let from = part * rows_per_part;
    if from < rows {
        let to = min(from + rows_per_part, rows);
        let mut sum = 0.0f32;
        for row in from..to {
            let at = row * width + column;
            let gated = f32::cast_from(x[at]) * silu(f32::cast_from(gate[at]));
            sum += f32::cast_from(cotangent[at]) * gated * inverses[row * groups_per_row + group];
        }
        parts[ABSOLUTE_POS] = sum;
    }
}
