//! Normalisations.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::{gated_rms_norm, rms_norm};

const EPSILON: f64 = 1e-5;

fn check(name: &str, inputs: &[Vec<f64>], fast: &Operation, reference: &Operation) {
    let found = evaluate(inputs, DType::F32, &[], fast);
    let expected = evaluate(inputs, DType::F64, &[], reference);
    assert_close(name, &found.outputs, &expected.outputs, 1e-6);
    assert_close(name, &found.gradients, &expected.gradients, 2e-6);
    if inputs[0].len() <= 200 {
        let slopes = finite_differences(inputs, reference);
        assert_close(name, &expected.gradients, &slopes, 1e-7);
    }
}

#[test]
fn rms_norm_is_its_reference() {
    for [batch, tokens, width] in [[1, 1, 2], [2, 3, 5], [1, 7, 16], [3, 50, 40], [2, 65, 130]] {
        let mut noise = Noise::new(1);
        let inputs = [noise.vector(batch * tokens * width), noise.vector(width)];
        let shape = [batch, tokens, width];
        let x = |flat: &[Tensor<1>]| flat[0].clone().reshape(shape);
        let reference = nemo_kernels::rms_norm::reference::rms_norm;
        check(
            &format!("{shape:?}"),
            &inputs,
            &|flat| vec![rms_norm(x(flat), flat[1].clone(), EPSILON).flatten(0, 2)],
            &|flat| vec![reference(x(flat), flat[1].clone(), EPSILON).flatten(0, 2)],
        );
    }
}

#[test]
fn gated_rms_norm_is_its_reference() {
    let sizes = [[1, 1, 2, 1], [2, 3, 10, 2], [1, 7, 16, 1], [3, 40, 96, 3], [2, 65, 256, 2]];
    for [batch, tokens, width, groups] in sizes {
        let mut noise = Noise::new(2);
        let size = batch * tokens * width;
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(width)];
        let shape = [batch, tokens, width];
        let part = |flat: &[Tensor<1>], index: usize| flat[index].clone().reshape(shape);
        let reference = nemo_kernels::gated_rms_norm::reference::gated_rms_norm;
        check(
            &format!("{shape:?} in {groups}"),
            &inputs,
            &|flat| {
                let y = gated_rms_norm(part(flat, 0), part(flat, 1), flat[2].clone(), groups, EPSILON);
                vec![y.flatten(0, 2)]
            },
            &|flat| {
                let y = reference(part(flat, 0), part(flat, 1), flat[2].clone(), groups, EPSILON);
                vec![y.flatten(0, 2)]
            },
        );
    }
}
