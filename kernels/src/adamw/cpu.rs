//! Host implementation: one pass over the four arrays, in place.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{AdamWOps, AdamWOptions, reference};
use crate::flex_slices::{elements, is_f32, lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

/// Elements per task; fixed, so that sums do not depend on the thread count.
const CHUNK: usize = 8192;

impl AdamWOps for Flex {
    fn adamw(
        param: FlexTensor,
        grad: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        step: u64,
        options: AdamWOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if [&param, &grad, &m, &v].into_iter().all(is_f32) {
            return adamw_f32(param, grad, m, v, step, options);
        }
        // The shape only matters to the rank-generic tensor type: the operation is element by element.
        let shape = param.layout().shape().clone();
        let [param, grad, m, v] = [param, grad, m, v].map(vector);
        let (param, m, v) = reference::adamw(param, grad, m, v, step, options);
        let restore = |tensor: Tensor<1>| lower(tensor).to_contiguous().with_layout(Layout::contiguous(shape.clone()));
        (restore(param), restore(m), restore(v))
    }
}

/// Any tensor as a vector.
fn vector(tensor: FlexTensor) -> Tensor<1> {
    let tensor = tensor.to_contiguous();
    let size = tensor.layout().num_elements();
    let layout = Layout::contiguous([size].into());
    Tensor::from_primitive::<Flex>(tensor.with_layout(layout))
}

/// The step's scalars, rounded to f32 once.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    /// `1 / (1 - beta2^t)`
    correction2: f32,
    eps: f32,
    /// `lr / (1 - beta1^t)`
    rate: f32,
}

fn adamw_f32(
    param: FlexTensor,
    grad: FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    step: u64,
    options: AdamWOptions,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let AdamWOptions { lr, beta1, beta2, eps, weight_decay } = options;
    let factors = Factors {
        keep: (1.0 - lr * weight_decay) as f32,
        beta1: beta1 as f32,
        gain1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        gain2: (1.0 - beta2) as f32,
        correction2: (1.0 / (1.0 - power(beta2, step))) as f32,
        eps: eps as f32,
        rate: (lr / (1.0 - power(beta1, step))) as f32,
    };
    let (mut param, grad, mut m, mut v) = (whole(param), whole(grad), whole(m), whole(v));
    {
        // `storage_mut` copies only when another handle exists.
        let (param, m, v) = (param.storage_mut(), m.storage_mut(), v.storage_mut());
        let grad = elements(&grad);
        if param.len() <= CHUNK {
            simd::run(Update { param, grad, m, v, factors });
        } else {
            let chunks =
                (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
            chunks.into_par_iter().for_each(|(param, grad, m, v)| {
                simd::run(Update { param, grad, m, v, factors });
            });
        }
    }
    (param, m, v)
}

/// `base^exponent` by squaring: the same bits on every machine, unlike the C library's `pow`.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
        square *= square;
        exponent >>= 1;
    }
    result
}

struct Update<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: Factors,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let f = self.factors;
        let mut at = 0;
        while at < self.param.len() {
            let count = LANES.min(self.param.len() - at);
            // SAFETY: the four slices have one length and `count` values remain.
            unsafe {
                let grad = L::load_first(self.grad.as_ptr().add(at), count);
                let m = L::load_first(self.m.as_ptr().add(at), count);
                let m = L::splat(f.gain1).mul_add(grad, L::splat(f.beta1).mul(m));
                m.store_first(self.m.as_mut_ptr().add(at), count);
                let v = L::load_first(self.v.as_ptr().add(at), count);
                let v = L::splat(f.gain2).mul(grad).mul_add(grad, L::splat(f.beta2).mul(v));
                v.store_first(self.v.as_mut_ptr().add(at), count);
                let root = v.mul(L::splat(f.correction2)).sqrt().add(L::splat(f.eps));
                let update = m.div(root).mul(L::splat(f.rate));
                let param = L::load_first(self.param.as_ptr().add(at), count);
                let param = param.mul(L::splat(f.keep)).sub(update);
                param.store_first(self.param.as_mut_ptr().add(at), count);
            }
            at += LANES;
        }
    }
}

/// Chunks added in order.
pub(super) fn sum_of_squares(tensor: FlexTensor) -> f64 {
    let tensor = whole(tensor);
    let elements = elements(&tensor);
    if elements.len() <= CHUNK {
        return chunk_sum_of_squares(elements);
    }
    let partial: Vec<f64> = elements.par_chunks(CHUNK).map(chunk_sum_of_squares).collect();
    partial.iter().sum()
}

/// In sixteen f64 lanes.
fn chunk_sum_of_squares(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for values in chunk.chunks(LANES) {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}
