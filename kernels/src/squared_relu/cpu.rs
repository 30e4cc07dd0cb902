//! One pass, sixteen lanes wide; in place where nothing else needs the values.

use std::mem::MaybeUninit;

use super::{SquaredReluGradient, SquaredReluOps};
use crate::cpu::{Floats, from_vec};
use crate::flex_slices::whole;
use crate::simd::{Kernel, Lanes, Row, RowMut, run};
use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use rayon::prelude::*;

/// Elements per parallel task.
const PIECE: usize = 1 << 14;

impl SquaredReluOps for Flex {
    fn squared_relu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let mut x = whole(x);
        if let Some(values) = x.try_storage_mut::<f32>() {
            if values.len() <= PIECE {
                run(InPlace { values });
            } else {
                values.par_chunks_mut(PIECE).for_each(|values| run(InPlace { values }));
            }
            return x;
        }
        let shape = x.shape();
        let x = Floats::new(x);
        let mut y = Box::<[f32]>::new_uninit_slice(x.len());
        if y.len() <= PIECE {
            run(Forward { x: &x, y: &mut y });
        } else {
            y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| run(Forward { x, y }));
        }
        // SAFETY: `y` is as long as `x`, and a task writes all of its piece.
        let y = unsafe { y.assume_init() };
        from_vec(y.into_vec(), shape)
    }
}

impl SquaredReluGradient for Flex {
    fn squared_relu_backward(x: FloatTensor<Self>, cotangent: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Floats::new(x);
        let mut gradient = whole(cotangent);
        // Copies only when another handle to the cotangent exists.
        let values = gradient.storage_mut::<f32>();
        if values.len() <= PIECE {
            run(BackwardPass { x: &x, gradient: values });
        } else {
            let pieces = values.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
            pieces.for_each(|(gradient, x)| run(BackwardPass { x, gradient }));
        }
        gradient
    }
}

/// `max(x, 0)`; NaN stays NaN.
#[inline(always)]
fn rectified<L: Lanes>(x: L) -> L {
    L::splat(0.0).max(x)
}

struct Forward<'a> {
    x: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let x = Row::new(self.x);
        RowMut::new(self.y).fill(|at| {
            let rectified = rectified::<L>(x.get(at));
            rectified.mul(rectified)
        });
    }
}

struct InPlace<'a> {
    values: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        RowMut::new(self.values).update(|_, x: L| {
            let rectified = rectified(x);
            rectified.mul(rectified)
        });
    }
}

struct BackwardPass<'a> {
    x: &'a [f32],
    /// The cotangent before, the gradient after.
    gradient: &'a mut [f32],
}

impl Kernel for BackwardPass<'_> {
    type Output = ();

    /// `2 max(x, 0) g` as the sum of the product's two equal terms, so that only the products round; exactly zero where
    /// `x <= 0`, whatever the cotangent.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let x = Row::new(self.x);
        // Below the smallest positive number is zero and less.
        let positive = L::splat(f32::from_bits(1));
        RowMut::new(self.gradient).update(|at, cotangent: L| {
            let x = x.get::<L>(at);
            let term = x.mul(cotangent);
            term.add(term).zero_below(x, positive)
        });
    }
}
