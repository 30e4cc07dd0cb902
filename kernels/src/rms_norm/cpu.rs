//! One pass over the rows, sixteen lanes wide.
//!
//! A row's arithmetic depends on that row alone, so results do not change with the batch.

use std::mem::MaybeUninit;

use super::{RmsNormGradient, RmsNormOps};
use crate::cpu::{Floats, add_in_order, from_vec, sizes};
use crate::simd::{Kernel, Lanes, Row, RowMut, run};
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

/// Rows per parallel task, and per partial sum of the weight gradient.
const ROWS_PER_TASK: usize = 64;

impl RmsNormOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let [batch, tokens, width] = sizes(&x);
        let (x, weight) = (Floats::new(x), Floats::new(weight));
        assert_eq!(weight.len(), width, "rms_norm: weight");
        let mut y = Box::<[f32]>::new_uninit_slice(x.len());
        let block = (ROWS_PER_TASK * width).max(1);
        let task = |(y, x): (&mut [MaybeUninit<f32>], &[f32])| {
            run(Forward { x, weight: &weight, epsilon: epsilon as f32, y });
        };
        if y.len() <= block {
            task((&mut y, &x));
        } else {
            y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(task);
        }
        // SAFETY: a task writes all rows of its block, and the blocks are all of the buffer.
        let y = unsafe { y.assume_init() };
        from_vec(y.into_vec(), [batch, tokens, width])
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape: [usize; 3] = sizes(&x);
        let (x, residual, weight) = (Floats::new(x), Floats::new(residual), Floats::new(weight));
        assert_eq!((weight.len(), residual.len()), (shape[2], x.len()), "add_rms_norm: weight and residual");
        let mut sum = Box::<[f32]>::new_uninit_slice(x.len());
        let mut y = Box::<[f32]>::new_uninit_slice(x.len());
        let block = (ROWS_PER_TASK * shape[2]).max(1);
        let task = |sum: &mut [MaybeUninit<f32>], y: &mut [MaybeUninit<f32>], x: &[f32], residual: &[f32]| {
            run(AddForward { x, residual, weight: &weight, epsilon: epsilon as f32, sum, y });
        };
        if y.len() <= block {
            task(&mut sum, &mut y, &x, &residual);
        } else {
            let results = sum.par_chunks_mut(block).zip(y.par_chunks_mut(block));
            let terms = x.par_chunks(block).zip(residual.par_chunks(block));
            results.zip(terms).for_each(|((sum, y), (x, residual))| task(sum, y, x, residual));
        }
        // SAFETY: a task writes all rows of its blocks, and the blocks are all of the buffers.
        let (sum, y) = unsafe { (sum.assume_init(), y.assume_init()) };
        (from_vec(sum.into_vec(), shape), from_vec(y.into_vec(), shape))
    }
}

impl RmsNormGradient for Flex {
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
        addend: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 2] {
        let [batch, tokens, width] = sizes(&x);
        let (x, weight, cotangent) = (Floats::new(x), Floats::new(weight), Floats::new(cotangent));
        let addend = addend.map(Floats::new);
        let block = (ROWS_PER_TASK * width).max(1);
        assert_eq!((weight.len(), cotangent.len()), (width, x.len()), "rms_norm_backward: weight and cotangent");
        let mut x_gradient = Box::<[f32]>::new_uninit_slice(x.len());
        let mut partial = vec![0.0; x.len().div_ceil(block) * width];
        x_gradient
            .par_chunks_mut(block)
            .zip(partial.par_chunks_mut(width.max(1)))
            .zip(x.par_chunks(block).zip(cotangent.par_chunks(block)))
            .enumerate()
            .for_each(|(index, ((x_gradient, weight_gradient), (x, cotangent)))| {
                run(BackwardPass {
                    x,
                    weight: &weight,
                    cotangent,
                    addend: addend.as_ref().map(|addend| &addend[index * block..][..x.len()]),
                    epsilon: epsilon as f32,
                    x_gradient,
                    weight_gradient,
                });
            });
        let mut weight_gradient = vec![0.0; width];
        add_in_order(&mut weight_gradient, &partial);
        // SAFETY: a task writes all rows of its block, and the blocks are all of the buffer.
        let x_gradient = unsafe { x_gradient.assume_init() };
        [from_vec(x_gradient.into_vec(), [batch, tokens, width]), from_vec(weight_gradient, [width])]
    }
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        let weight = Row::new(self.weight);
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let x = Row::new(x);
            let inverse = L::splat(inverse_rms::<L>(&x, self.epsilon));
            RowMut::new(y).fill(|at| x.get::<L>(at).mul(inverse).mul(weight.get::<L>(at)));
        }
    }
}

struct AddForward<'a> {
    x: &'a [f32],
    residual: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    sum: &'a mut [MaybeUninit<f32>],
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for AddForward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        let weight = Row::new(self.weight);
        let terms = self.x.chunks_exact(width).zip(self.residual.chunks_exact(width));
        let results = self.sum.chunks_exact_mut(width).zip(self.y.chunks_exact_mut(width));
        for ((x, residual), (sum, y)) in terms.zip(results) {
            let (x, residual) = (Row::new(x), Row::new(residual));
            let sum = RowMut::new(sum).fill(|at| residual.get::<L>(at).add(x.get(at)));
            // As above: a closure that two kernels share would not be inlined.
            let sum = Row::new(sum);
            let inverse = L::splat(inverse_rms::<L>(&sum, self.epsilon));
            RowMut::new(y).fill(|at| sum.get::<L>(at).mul(inverse).mul(weight.get::<L>(at)));
        }
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)`.
#[inline(always)]
fn inverse_rms<L: Lanes>(x: &Row, epsilon: f32) -> f32 {
    let square_sum = x.sum::<L>(|at| (x.get(at), x.get(at)));
    1.0 / (square_sum / x.len() as f32 + epsilon).sqrt()
}

struct BackwardPass<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    cotangent: &'a [f32],
    /// What else `x` gets.
    addend: Option<&'a [f32]>,
    epsilon: f32,
    x_gradient: &'a mut [MaybeUninit<f32>],
    weight_gradient: &'a mut [f32],
}

impl Kernel for BackwardPass<'_> {
    type Output = ();

    /// With `r = 1 / rms` and `g = weight * cotangent`:
    /// `dx = r g - x r^3 mean(g x)`, `dweight = sum over rows of cotangent x r`.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.weight.len();
        let weight = Row::new(self.weight);
        let mut weight_gradient = RowMut::new(self.weight_gradient);
        let rows = self.x.chunks_exact(width).zip(self.cotangent.chunks_exact(width));
        for (row, ((x, cotangent), x_gradient)) in rows.zip(self.x_gradient.chunks_exact_mut(width)).enumerate() {
            let (x, cotangent) = (Row::new(x), Row::new(cotangent));
            let scaled = |at| weight.get::<L>(at).mul(cotangent.get::<L>(at));
            let inverse = inverse_rms::<L>(&x, self.epsilon);
            let projection = x.sum::<L>(|at| (scaled(at), x.get(at)));
            let pull = -inverse * inverse * inverse * projection / width as f32;
            let (inverse, pull) = (L::splat(inverse), L::splat(pull));
            let x_gradient = RowMut::new(x_gradient).fill(|at| pull.mul_add(x.get(at), inverse.mul(scaled(at))));
            if let Some(addend) = self.addend {
                let addend = Row::new(&addend[row * width..][..width]);
                RowMut::new(x_gradient).update(|at, gradient: L| gradient.add(addend.get(at)));
            }
            weight_gradient.update(|at, sum: L| cotangent.get::<L>(at).mul_add(x.get::<L>(at).mul(inverse), sum));
        }
    }
}
