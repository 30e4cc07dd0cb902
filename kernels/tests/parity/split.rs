//! The three parts of a projection.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::split_three;

/// Values and gradients are those of slices, to the bit, whichever parts carry a gradient.
#[test]
fn split_three_is_three_slices() {
    for (batch, tokens, widths) in [(1, 1, [1, 1, 1]), (2, 3, [4, 0, 5]), (3, 70, [16, 33, 8]), (2, 65, [1, 0, 40])] {
        let width = widths.iter().sum::<usize>();
        let inputs = [Noise::new(3).vector(batch * tokens * width)];
        // The tokens first in memory, so that rows lie apart.
        let x = |flat: &[Tensor<1>]| flat[0].clone().reshape([tokens, batch, width]).swap_dims(0, 1);
        let split = |flat: &[Tensor<1>]| split_three(x(flat), widths).map(|part| part.flatten(0, 2)).to_vec();
        let slices = |flat: &[Tensor<1>]| {
            let starts = [0, widths[0], widths[0] + widths[1]];
            let part =
                |index: usize| x(flat).slice([0..batch, 0..tokens, starts[index]..starts[index] + widths[index]]);
            (0..3).map(|index| part(index).flatten(0, 2)).collect::<Vec<_>>()
        };
        for which in [vec![], vec![0], vec![1, 2], vec![0, 2]] {
            for dtype in [DType::F32, DType::F64] {
                let found = evaluate(&inputs, dtype, &which, &split);
                let expected = evaluate(&inputs, dtype, &which, &slices);
                assert_eq!(found.outputs, expected.outputs, "{batch} {tokens} {widths:?} {which:?}");
                assert_eq!(found.gradients, expected.gradients, "{batch} {tokens} {widths:?} {which:?}");
            }
        }
    }
}

#[test]
fn split_three_of_nothing_is_nothing() {
    let parts = split_three(Tensor::zeros([0, 4, 6], &device()), [3, 2, 1]);
    assert_eq!(parts.map(|part| part.dims()), [[0, 4, 3], [0, 4, 2], [0, 4, 1]]);
}

#[test]
#[should_panic(expected = "the parts must make up the whole width")]
fn split_three_refuses_other_widths() {
    split_three(Tensor::zeros([1, 2, 5], &device()), [1, 1, 1]);
}
