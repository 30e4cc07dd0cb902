//! Normalisations.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::{add_rms_norm, gated_rms_norm, rms_norm};

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

fn flatten((sum, normed): (Tensor<3>, Tensor<3>)) -> Vec<Tensor<1>> {
    vec![sum.flatten(0, 2), normed.flatten(0, 2)]
}

/// An addition and a norm in two operations.
fn add_then_norm(x: Tensor<3>, residual: Tensor<3>, weight: Tensor<1>) -> (Tensor<3>, Tensor<3>) {
    let sum = residual + x;
    (sum.clone(), rms_norm(sum, weight, EPSILON))
}

/// Against the reference in f64, and bit for bit against the two operations it replaces.
#[test]
fn add_rms_norm_is_its_reference_and_an_addition_with_a_norm() {
    for [batch, tokens, width] in [[1, 1, 2], [2, 3, 5], [1, 7, 16], [3, 50, 40], [2, 65, 130]] {
        let mut noise = Noise::new(1);
        let size = batch * tokens * width;
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(width)];
        let shape = [batch, tokens, width];
        // The second term lies in memory with its axes swapped.
        let x = |flat: &[Tensor<1>]| flat[0].clone().reshape(shape);
        let residual = |flat: &[Tensor<1>]| flat[1].clone().reshape([tokens, batch, width]).swap_dims(0, 1);
        let reference = nemo_kernels::rms_norm::reference::add_rms_norm;
        let fast = |flat: &[Tensor<1>]| flatten(add_rms_norm(x(flat), residual(flat), flat[2].clone(), EPSILON));
        let plain = |flat: &[Tensor<1>]| flatten(reference(x(flat), residual(flat), flat[2].clone(), EPSILON));
        let separate = |flat: &[Tensor<1>]| flatten(add_then_norm(x(flat), residual(flat), flat[2].clone()));
        let name = format!("{shape:?}");
        check(&name, &inputs, &fast, &plain);
        for which in [&[][..], &[0], &[1]] {
            let found = evaluate(&inputs, DType::F32, which, &fast);
            let expected = evaluate(&inputs, DType::F32, which, &separate);
            assert_eq!(found.outputs, expected.outputs, "{name}: values");
            assert_eq!(found.gradients, expected.gradients, "{name}: gradients from {which:?}");
        }
    }
}

/// The residual stream of a few blocks: every sum is used twice, by its norm and by the next addition.
#[test]
fn add_rms_norm_in_a_chain_has_the_bits_of_the_separate_operations() {
    let shape = [3, 50, 40];
    let mut noise = Noise::new(3);
    let inputs = [noise.vector(6000), noise.vector(40), noise.vector(40), noise.vector(40)];
    type AddNorm = fn(Tensor<3>, Tensor<3>, Tensor<1>) -> (Tensor<3>, Tensor<3>);
    let chain = |flat: &[Tensor<1>], add_norm: AddNorm| {
        let mut stream = flat[0].clone().reshape(shape);
        let mut normed = rms_norm(stream.clone(), flat[1].clone(), EPSILON);
        for weight in &flat[1..] {
            (stream, normed) = add_norm(normed.tanh() * 0.7, stream, weight.clone());
        }
        flatten((stream, normed))
    };
    let fused: AddNorm = |x, residual, weight| add_rms_norm(x, residual, weight, EPSILON);
    let found = evaluate(&inputs, DType::F32, &[], &|flat| chain(flat, fused));
    let expected = evaluate(&inputs, DType::F32, &[], &|flat| chain(flat, add_then_norm));
    assert_eq!(found.outputs, expected.outputs);
    assert_eq!(found.gradients, expected.gradients);
}

/// What is not tracked gets no gradient and changes none.
#[test]
fn add_rms_norm_with_one_tracked_input() {
    let shape = [2, 9, 33];
    let device = device().autodiff();
    let mut noise = Noise::new(4);
    let flat = [594, 594, 33].map(|size| tensor(&noise.vector(size), DType::F32, &device));
    let run = |tracked: usize, fused: bool| {
        let mut flat = flat.clone();
        flat[tracked] = flat[tracked].clone().detach().require_grad();
        let [x, residual] = [0, 1].map(|index: usize| flat[index].clone().reshape(shape));
        let (sum, normed) = if fused {
            add_rms_norm(x, residual, flat[2].clone(), EPSILON)
        } else {
            add_then_norm(x, residual, flat[2].clone())
        };
        let gradients = (sum.tanh() + normed.tanh()).sum().backward();
        to_vec(flat[tracked].grad(&gradients).unwrap())
    };
    for tracked in 0..3 {
        assert_eq!(run(tracked, true), run(tracked, false), "input {tracked}");
    }
}

#[test]
fn add_rms_norm_of_nothing() {
    let empty = Tensor::<3>::zeros([2, 0, 6], &device());
    let (sum, normed) = add_rms_norm(empty.clone(), empty, Tensor::ones([6], &device()), EPSILON);
    assert_eq!((sum.dims(), normed.dims()), ([2, 0, 6], [2, 0, 6]));
}

/// Sixteen bits take the reference, whose sum is rounded before it is normalised.
#[test]
fn add_rms_norm_keeps_each_dtype() {
    let shape = [2, 3, 8];
    let mut noise = Noise::new(5);
    let [x, residual] = [(); 2].map(|()| tensor(&noise.vector(48), DType::F32, &device()).reshape(shape));
    let weight = tensor(&noise.vector(8), DType::F32, &device());
    let narrow = x.clone().cast(DType::BF16);
    let (sum, normed) = add_rms_norm(narrow.clone(), residual.clone(), weight.clone(), EPSILON);
    assert_eq!((sum.dtype(), normed.dtype()), (DType::F32, DType::BF16));
    let (expected, _) = add_then_norm(narrow.clone().cast(DType::F32), residual.clone(), weight.clone());
    assert_eq!(to_vec(sum), to_vec(expected));
    let residual = residual.cast(DType::BF16);
    let weight = weight.cast(DType::BF16);
    let (sum, normed) = add_rms_norm(narrow.clone(), residual.clone(), weight.clone(), EPSILON);
    let expected = add_then_norm(narrow, residual, weight);
    assert_eq!(to_vec(sum), to_vec(expected.0));
    assert_eq!(to_vec(normed), to_vec(expected.1));
}

#[test]
#[should_panic(expected = "add_rms_norm: `residual` has shape [1, 2, 4], expected [2, 2, 4]")]
fn add_rms_norm_names_a_wrong_shape() {
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device());
    add_rms_norm(zeros([2, 2, 4]), zeros([1, 2, 4]), Tensor::ones([4], &device()), EPSILON);
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
