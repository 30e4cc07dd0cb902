//! One unit per element, in place; arithmetic in f32 whatever the storage.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{AdamWOps, AdamWOptions};
use crate::cube::{arg, block, contiguous, element_type, empty, grid_of_units, writable};
use burn::tensor::DType;

/// Elements per unit of [`sum_of_squares_kernel`].
const ELEMENTS_PER_SUM: usize = 256;

impl AdamWOps for CubeBackend {
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: u64,
        options: AdamWOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = options;
        let (param, grad, m, v) = (writable(param), contiguous(grad), writable(m), writable(v));
        let elements = param.shape().num_elements();
        if elements > 0 {
            // SAFETY: the four tensors have one shape (the public function checks); units past the end do nothing.
            unsafe {
                adamw_kernel::launch_unchecked(
                    &param.client,
                    grid_of_units(&param.client, elements),
                    block(),
                    arg(&param),
                    arg(&grad),
                    arg(&m),
                    arg(&v),
                    elements,
                    (1.0 - lr * weight_decay) as f32,
                    beta1 as f32,
                    (1.0 - beta1) as f32,
                    beta2 as f32,
                    (1.0 - beta2) as f32,
                    (1.0 / (1.0 - beta2.powf(step as f64))) as f32,
                    eps as f32,
                    (lr / (1.0 - beta1.powf(step as f64))) as f32,
                    [param.dtype, grad.dtype, m.dtype, v.dtype].map(element_type),
                );
            }
        }
        (param, m, v)
    }
}

/// Sums of squares of runs of 256 elements, f32; for the host to add.
pub(super) fn sums_of_squares(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    let elements = tensor.shape().num_elements();
    let runs = elements.div_ceil(ELEMENTS_PER_SUM);
    let sums = empty(&tensor, [runs], DType::F32);
    if runs > 0 {
        // SAFETY: runs end with the tensor and units past them do nothing.
        unsafe {
            sum_of_squares_kernel::launch_unchecked(
                &tensor.client,
                grid_of_units(&tensor.client, runs),
                block(),
                arg(&tensor),
                arg(&sums),
                elements,
                runs,
                ELEMENTS_PER_SUM,
                element_type(tensor.dtype),
            );
        }
    }
    sums
}

#[cube(launch_unchecked)]
fn adamw_kernel<P: Float, G: Float, M: Float, V: Float>(
    param: &mut [P],
    grad: &[G],
    m: &mut [M],
    v: &mut [V],
    elements: usize,
    keep: f32,
    beta1: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    correction2: f32,
    eps: f32,
    rate: f32,
    #[define(P, G, M, V)] _dtypes: [ElemType; 4],
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let g = f32::cast_from(grad[at]);
        let first = beta1 * f32::cast_from(m[at]) + gain1 * g;
        let second = beta2 * f32::cast_from(v[at]) + gain2 * g * g;
        m[at] = M::cast_from(first);
        v[at] = V::cast_from(second);
        let update = first / ((second * correction2).sqrt() + eps) * rate;
        param[at] = P::cast_from(f32::cast_from(param[at]) * keep - update);
    }
}

/// One unit per run; neighbouring units read neighbouring elements, a run is every `runs`-th of them.
#[cube(launch_unchecked)]
fn sum_of_squares_kernel<F: Float>(
    values: &[F],
    sums: &mut [f32],
    elements: usize,
    runs: usize,
    #[comptime] per_sum: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < runs {
        let mut sum = 0.0f32;
        for index in 0..per_sum {
            let at = index * runs + ABSOLUTE_POS;
            if at < elements {
                let value = f32::cast_from(values[at]);
                sum += value * value;
            }
        }
        sums[ABSOLUTE_POS] = sum;
    }
}
