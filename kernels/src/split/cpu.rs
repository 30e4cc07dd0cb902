//! The parts' rows copied side by side, in parallel.

use std::mem::MaybeUninit;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use rayon::prelude::*;

use super::{SplitGradient, SplitOps, reference};
use crate::cpu::from_vec;
use crate::flex_slices::{ROWS_PER_TASK, Rows};

impl SplitOps for Flex {}

impl SplitGradient for Flex {
    fn join_three(
        parts: [Option<FloatTensor<Self>>; 3],
        shape: [usize; 2],
        widths: [usize; 3],
        dtype: DType,
    ) -> FloatTensor<Self> {
        if dtype != DType::F32 {
            return reference::join_three::<Self>(parts, shape, widths, dtype);
        }
        let parts = parts.map(|part| part.map(Rows::new));
        let (rows, width) = (shape[0] * shape[1], widths.iter().sum::<usize>());
        let mut whole = Vec::with_capacity(rows * width);
        let write = |(task, to): (usize, &mut [MaybeUninit<f32>])| {
            for (row, mut to) in to.chunks_exact_mut(width).enumerate() {
                for (part, width) in parts.iter().zip(widths) {
                    let (here, rest) = to.split_at_mut(width);
                    match part {
                        Some(part) => {
                            here.write_copy_of_slice(part.row(task * ROWS_PER_TASK + row));
                        }
                        None => here.fill(MaybeUninit::new(0.0)),
                    }
                    to = rest;
                }
            }
        };
        if width > 0 {
            let to = &mut whole.spare_capacity_mut()[..rows * width];
            to.par_chunks_mut(ROWS_PER_TASK * width).enumerate().for_each(write);
        }
        // SAFETY: the chunks cover that many elements, and every row of them was written.
        unsafe { whole.set_len(rows * width) };
        from_vec(whole, [shape[0], shape[1], width])
    }
}
