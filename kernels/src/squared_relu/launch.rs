//! One unit per element.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::{SquaredReluGradient, SquaredReluOps};
use crate::cube::{arg, block, contiguous, contiguous_as, element_type, empty, grid_of_units};

impl SquaredReluOps for CubeBackend {
    fn squared_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(x);
        let y = empty(&x, x.shape(), x.dtype);
        let elements = x.shape().num_elements();
        if elements > 0 {
            // SAFETY: `x` and `y` hold `elements` elements and units past them do nothing.
            unsafe {
                squared_relu_kernel::launch_unchecked(
                    &x.client,
                    grid_of_units(&x.client, elements),
                    block(),
                    arg(&x),
                    arg(&y),
                    elements,
                    element_type(x.dtype),
                );
            }
        }
        y
    }
}

impl SquaredReluGradient for CubeBackend {
    fn squared_relu_backward(x: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(x);
        let cotangent = contiguous_as(cotangent, x.dtype);
        let gradient = empty(&x, x.shape(), x.dtype);
        let elements = x.shape().num_elements();
        if elements > 0 {
            // SAFETY: the three tensors hold `elements` elements and units past them do nothing.
            unsafe {
                squared_relu_gradient_kernel::launch_unchecked(
                    &x.client,
                    grid_of_units(&x.client, elements),
                    block(),
                    arg(&x),
                    arg(&cotangent),
                    arg(&gradient),
                    elements,
                    element_type(x.dtype),
                );
            }
        }
        gradient
    }
}

#[cube(launch_unchecked)]
fn squared_relu_kernel<F: Float>(x: &[F], y: &mut [F], elements: usize, #[define(F)] _dtype: ElemType) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let value = f32::cast_from(x[at]);
        // The comparison is false for NaN, which stays.
        let rectified = select(value <= 0.0f32, 0.0f32, value);
        y[at] = F::cast_from(rectified * rectified);
    }
}

/// `2 max(x, 0) g`.
#[cube(launch_unchecked)]
fn squared_relu_gradient_kernel<F: Float>(
    x: &[F],
    cotangent: &[F],
    gradient: &mut [F],
    elements: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let value = f32::cast_from(x[at]);
        let slope = 2.0f32 * value * f32::cast_from(cotangent[at]);
        gradient[at] = F::cast_from(select(value <= 0.0f32, 0.0f32, slope));
    }
}
