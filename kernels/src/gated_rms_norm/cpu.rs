//! One pass over the rows, sixteen lanes wide, with the arithmetic of the decode step.
//!
//! A row's arithmetic depends on that row alone, so results do not change with the batch.

use std::mem::MaybeUninit;

use super::{GatedRmsNormGradient, GatedRmsNormOps};
use crate::cpu::{Floats, add_in_order, from_vec, sizes};
use crate::simd::{Kernel, Lanes, Row, RowMut, run};
use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

/// Rows per parallel task, and per partial sum of the weight gradient.
const ROWS_PER_TASK: usize = 32;

impl GatedRmsNormOps for Flex {
    fn gated_rms_norm(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let [batch, tokens, width] = sizes(&x);
        let (x, gate, weight) = (Floats::new(x), Floats::new(gate), Floats::new(weight));
        assert_eq!((weight.len(), gate.len()), (width, x.len()), "gated_rms_norm: weight and gate");
        assert!(width.is_multiple_of(num_groups), "gated_rms_norm: groups");
        let mut y = Box::<[f32]>::new_uninit_slice(x.len());
        let block = (ROWS_PER_TASK * width).max(1);
        let epsilon = epsilon as f32;
        let task = |y: &mut [MaybeUninit<f32>], x: &[f32], gate: &[f32]| {
            run(Forward { x, gate, weight: &weight, num_groups, epsilon, y });
        };
        if y.len() <= block {
            task(&mut y, &x, &gate);
        } else {
            let inputs = x.par_chunks(block).zip(gate.par_chunks(block));
            y.par_chunks_mut(block).zip(inputs).for_each(|(y, (x, gate))| task(y, x, gate));
        }
        // SAFETY: a task writes all groups of its block, and the blocks are all of the buffer.
        let y = unsafe { y.assume_init() };
        from_vec(y.into_vec(), [batch, tokens, width])
    }
}

impl GatedRmsNormGradient for Flex {
    fn gated_rms_norm_backward(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        num_groups: usize,
        epsilon: f64,
        cotangent: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let shape: [usize; 3] = sizes(&x);
        let width = shape[2];
        let (x, gate) = (Floats::new(x), Floats::new(gate));
        let (weight, cotangent) = (Floats::new(weight), Floats::new(cotangent));
        let block = (ROWS_PER_TASK * width).max(1);
        let lengths = (weight.len(), gate.len(), cotangent.len());
        assert_eq!(lengths, (width, x.len(), x.len()), "gated_rms_norm_backward: weight, gate and cotangent");
        assert!(width.is_multiple_of(num_groups), "gated_rms_norm_backward: groups");
        let mut x_gradient = Box::<[f32]>::new_uninit_slice(x.len());
        let mut gate_gradient = Box::<[f32]>::new_uninit_slice(x.len());
        let mut partial = vec![0.0; x.len().div_ceil(block) * width];
        let inputs = x.par_chunks(block).zip(gate.par_chunks(block)).zip(cotangent.par_chunks(block));
        x_gradient
            .par_chunks_mut(block)
            .zip(gate_gradient.par_chunks_mut(block))
            .zip(partial.par_chunks_mut(width.max(1)))
            .zip(inputs)
            .for_each_init(
                || vec![0.0; 3 * width / num_groups],
                |scratch, (((x_gradient, gate_gradient), weight_gradient), ((x, gate), cotangent))| {
                    run(BackwardPass {
                        x,
                        gate,
                        weight: &weight,
                        cotangent,
                        num_groups,
                        epsilon: epsilon as f32,
                        scratch,
                        x_gradient,
                        gate_gradient,
                        weight_gradient,
                    });
                },
            );
        let mut weight_gradient = vec![0.0; width];
        add_in_order(&mut weight_gradient, &partial);
        // SAFETY: a task writes all groups of its blocks, and the blocks are all of the buffers.
        let (x_gradient, gate_gradient) = unsafe { (x_gradient.assume_init(), gate_gradient.assume_init()) };
        [
            from_vec(x_gradient.into_vec(), shape),
            from_vec(gate_gradient.into_vec(), shape),
            from_vec(weight_gradient, [width]),
        ]
    }
}

struct Forward<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    weight: &'a [f32],
    num_groups: usize,
    epsilon: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let size = self.weight.len() / self.num_groups;
        let groups = self.x.chunks_exact(size).zip(self.gate.chunks_exact(size));
        let weights = self.weight.chunks_exact(size).cycle();
        for (((x, gate), weight), y) in groups.zip(weights).zip(self.y.chunks_exact_mut(size)) {
            let (x, gate, weight) = (Row::new(x), Row::new(gate), Row::new(weight));
            let y = RowMut::new(y).fill(|at| x.get::<L>(at).mul(gate.get::<L>(at).silu()));
            let gated = Row::new(y);
            let square_sum = gated.sum::<L>(|at| (gated.get(at), gated.get(at)));
            let inverse = L::splat(inverse_rms(square_sum, size, self.epsilon));
            RowMut::new(y).update(|at, gated: L| gated.mul(inverse).mul(weight.get(at)));
        }
    }
}

/// `1 / sqrt(mean square + epsilon)`.
#[inline(always)]
fn inverse_rms(square_sum: f32, size: usize, epsilon: f32) -> f32 {
    1.0 / (square_sum / size as f32 + epsilon).sqrt()
}

struct BackwardPass<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    weight: &'a [f32],
    cotangent: &'a [f32],
    num_groups: usize,
    epsilon: f32,
    /// Three rows of one group.
    scratch: &'a mut [f32],
    x_gradient: &'a mut [MaybeUninit<f32>],
    gate_gradient: &'a mut [MaybeUninit<f32>],
    weight_gradient: &'a mut [f32],
}

impl Kernel for BackwardPass<'_> {
    type Output = ();

    /// With `u = x silu(gate)`, `r = 1 / rms(u)`, `g = weight * cotangent`:
    /// `du = r g - u r^3 mean(g u)`, `dx = du silu(gate)`, `dgate = du x silu'(gate)` where
    /// `silu'(z) = sigmoid(z) (1 + z (1 - sigmoid(z)))`; `dweight` sums `cotangent u r` over rows.
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let size = self.weight.len() / self.num_groups;
        let (gated_row, rest) = self.scratch.split_at_mut(size);
        let (sigmoid_row, scaled_row) = rest.split_at_mut(size);
        let one = L::splat(1.0);
        for (index, x) in self.x.chunks_exact(size).enumerate() {
            let here = index * size..(index + 1) * size;
            let group = index % self.num_groups * size;
            let x = Row::new(x);
            let gate = Row::new(&self.gate[here.clone()]);
            let cotangent = Row::new(&self.cotangent[here.clone()]);
            let weight = Row::new(&self.weight[group..group + size]);

            RowMut::new(sigmoid_row).fill(|at| gate.get::<L>(at).sigmoid());
            let sigmoid = Row::new(sigmoid_row);
            RowMut::new(gated_row).fill(|at| x.get::<L>(at).mul(gate.get::<L>(at).mul(sigmoid.get(at))));
            let gated = Row::new(gated_row);
            RowMut::new(scaled_row).fill(|at| weight.get::<L>(at).mul(cotangent.get(at)));
            let scaled = Row::new(scaled_row);

            let square_sum = gated.sum::<L>(|at| (gated.get(at), gated.get(at)));
            let inverse = inverse_rms(square_sum, size, self.epsilon);
            let projection = gated.sum::<L>(|at| (scaled.get(at), gated.get(at)));
            let pull = L::splat(-inverse * inverse * inverse * projection / size as f32);
            let inverse = L::splat(inverse);
            RowMut::new(scaled_row).update(|at, scaled: L| pull.mul_add(gated.get(at), inverse.mul(scaled)));
            let gated_gradient = Row::new(scaled_row);

            RowMut::new(&mut self.x_gradient[here.clone()]).fill(|at| {
                let silu = gate.get::<L>(at).mul(sigmoid.get(at));
                gated_gradient.get::<L>(at).mul(silu)
            });
            RowMut::new(&mut self.gate_gradient[here]).fill(|at| {
                let sigmoid = sigmoid.get::<L>(at);
                let slope = gate.get::<L>(at).mul_add(one.sub(sigmoid), one).mul(sigmoid);
                gated_gradient.get::<L>(at).mul(x.get(at)).mul(slope)
            });
            RowMut::new(&mut self.weight_gradient[group..group + size])
                .update(|at, sum: L| cotangent.get::<L>(at).mul_add(gated.get::<L>(at).mul(inverse), sum));
        }
    }
}
