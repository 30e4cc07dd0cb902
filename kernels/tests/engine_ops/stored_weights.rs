//! Weights that are stored narrower than they are multiplied.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nemo_kernels::linear::reference;
use nemo_kernels::{Int8Weight, linear, linear_int8};

use crate::harness::{Inputs, bits, device, values, with_threads};

/// Few, many, and all that a tile or a task may have left over.
fn row_counts() -> impl Iterator<Item = usize> {
    (1..=20).chain(47..=50)
}

fn f64s<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.cast(DType::F64).into_data().try_to_vec().unwrap()
}

#[test]
fn bf16_has_the_bits_of_the_widened_matrix() {
    let mut random = Inputs(11);
    for (inputs, outputs) in [(1, 1), (15, 7), (16, 16), (33, 45), (83, 70), (128, 33), (131, 300)] {
        let weight = random.tensor([outputs, inputs]).cast(DType::BF16);
        let wide = weight.clone().cast(DType::F32);
        let bias = random.tensor([outputs]);
        for rows in row_counts() {
            let x = random.tensor([1, rows, inputs]);
            let found = linear(x.clone(), weight.clone(), Some(bias.clone()));
            assert_eq!(found.dtype(), DType::F32);
            let expected = linear(x, wide.clone(), Some(bias.clone()));
            assert_eq!(bits(&found), bits(&expected), "{rows} rows, {inputs} to {outputs}");
        }
    }
}

#[test]
fn bf16_reads_strided_weights_and_inputs() {
    let mut random = Inputs(12);
    let table = random.tensor([60, 90]).cast(DType::BF16);
    let weights = [
        table.clone().narrow(0, 7, 21).narrow(1, 5, 41),
        table.clone().narrow(1, 3, 60).transpose().narrow(1, 2, 41),
        table.slice([0..60, 0..41]),
    ];
    let wide = random.tensor([2, 30, 77]);
    for x in [wide.clone().narrow(2, 9, 41), wide.swap_dims(0, 1).narrow(2, 30, 41)] {
        for weight in &weights {
            let found = linear(x.clone(), weight.clone(), None);
            assert_eq!(bits(&found), bits(&linear(x.clone(), weight.clone().cast(DType::F32), None)));
        }
    }
}

#[test]
fn bf16_is_differentiable() {
    let mut random = Inputs(13);
    let autodiff: Device = device().autodiff();
    let tracked = |data: TensorData, dtype| Tensor::<3>::from_data(data, (&autodiff, dtype)).require_grad();
    let (x, dy) = (random.tensor([2, 9, 41]), random.tensor([2, 9, 23]));
    let weight = random.tensor([23, 41]).cast(DType::BF16);
    let cotangent = Tensor::<3>::from_data(dy.into_data(), &autodiff);

    // A plain weight: only the input has a gradient, that of the widened matrix.
    let gradient = |weight: Tensor<2>| {
        let x = tracked(x.clone().into_data(), DType::F32);
        let grads = (linear(x.clone(), weight, None) * cotangent.clone()).sum().backward();
        x.grad(&grads).unwrap()
    };
    assert_eq!(bits(&gradient(weight.clone())), bits(&gradient(weight.clone().cast(DType::F32))));

    // A tracked one gets a gradient in its own type.
    let of_weight = |dtype| {
        let weight = Tensor::<2>::from_data(weight.clone().into_data(), (&autodiff, dtype)).require_grad();
        let x = Tensor::<3>::from_data(x.clone().into_data(), &autodiff);
        let y = linear(x, weight.clone(), None);
        let grads = (y.clone() * cotangent.clone()).sum().backward();
        (y.inner(), weight.grad(&grads).unwrap())
    };
    let ((y, narrow), (y_wide, wide)) = (of_weight(DType::BF16), of_weight(DType::F32));
    assert_eq!(bits(&y), bits(&y_wide));
    assert_eq!(narrow.dtype(), DType::BF16);
    assert_eq!(bits(&narrow), bits(&wide.cast(DType::BF16)));
}

#[test]
fn bf16_beside_f64_takes_the_reference() {
    let mut random = Inputs(14);
    let x = random.tensor([1, 3, 17]).cast(DType::F64);
    let weight = random.tensor([5, 17]).cast(DType::BF16);
    let expected = reference::linear(x.clone(), weight.clone().cast(DType::F64), None);
    assert_eq!(f64s(linear(x, weight, None)), f64s(expected));
}

/// `|x| |w|^T`: what the rounding errors of a sum are measured by.
fn magnitudes(x: &Tensor<3>, weight: &Tensor<2>) -> Vec<f64> {
    f64s(reference::linear(x.clone().cast(DType::F64).abs(), weight.clone().cast(DType::F64).abs(), None))
}

#[test]
fn int8_is_near_the_reference_and_the_matrix_it_came_from() {
    let mut random = Inputs(15);
    for (inputs, outputs) in [(1, 1), (15, 7), (33, 45), (128, 33), (513, 70)] {
        // Rows of different sizes, so that a scale of the wrong row shows.
        let sizes = random.tensor([outputs, 1]).exp();
        let weight = random.tensor([outputs, inputs]) * sizes;
        let bias = random.tensor([outputs]);
        let stored = Int8Weight::quantize(weight.clone());
        let steps = f64s(stored.scales());
        for rows in row_counts() {
            let x = random.tensor([1, rows, inputs]);
            let found = f64s(linear_int8(x.clone(), &stored, Some(bias.clone())));
            let wide = x.clone().cast(DType::F64);
            let exact = f64s(reference::linear_int8(wide.clone(), &stored, Some(bias.clone().cast(DType::F64))));
            let original = weight.clone().cast(DType::F64);
            let unrounded = f64s(reference::linear(wide, original, Some(bias.clone().cast(DType::F64))));
            // A sum in sixteen lanes rounds at most inputs / 16 + 5 times on the way of any summand; then the scale and
            // the bias.
            let summed = magnitudes(&x, &stored.dequantize());
            let roundings = (inputs / 16 + 8) as f64 * f64::from(f32::EPSILON) / 2.0;
            let halves: Vec<f64> = f64s(x.abs().sum_dim(2));
            for (index, (found, exact)) in found.iter().zip(&exact).enumerate() {
                let bound = roundings * (summed[index] + 1.0);
                assert!((found - exact).abs() <= bound, "{rows} rows, {inputs} to {outputs}: {found} {exact} {bound}");
                // Every weight is off by half a step at most.
                let step = steps[index % outputs] / 2.0 * (1.0 + 1e-5);
                let off = (found - unrounded[index]).abs();
                assert!(off <= step * halves[index / outputs] + bound, "{rows} rows, {inputs} to {outputs}: {off}");
            }
        }
    }
}

#[test]
fn int8_bits_depend_neither_on_threads_nor_on_the_rows() {
    let mut random = Inputs(16);
    let (x, weight) = (random.tensor([1, 203, 131]), Int8Weight::quantize(random.tensor([333, 131])));
    let run = || linear_int8(x.clone(), &weight, None);
    let together = with_threads(1, run);
    assert_eq!(bits(&together), bits(&with_threads(4, run)));
    for (from, count) in [(0, 1), (5, 1), (7, 2), (50, 3), (60, 16), (60, 17), (100, 64)] {
        let alone = linear_int8(x.clone().narrow(1, from, count), &weight, None);
        assert_eq!(bits(&alone), bits(&together.clone().narrow(1, from, count)), "{count} rows");
    }
    // The scale comes last: with scales of one the product is that of the whole numbers.
    let whole = linear(x.clone(), weight.values().float(), None) * weight.scales().unsqueeze();
    assert_eq!(bits(&together), bits(&whole));
}

#[test]
fn int8_rounds_as_documented() {
    let rows = [[127.0, -63.5, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 0.25]];
    let weight = Int8Weight::quantize(Tensor::from_data(TensorData::from(rows), &device()));
    assert_eq!(weight.dims(), [3, 4]);
    assert_eq!(weight.values().dtype(), DType::I8);
    let found: Vec<i8> = weight.values().into_data().try_to_vec().unwrap();
    assert_eq!(found, [127, -64, 0, 2, 0, 0, 0, 0, -127, 64, 0, 16]);
    assert_eq!(values(&weight.scales()), [1.0, 0.0, 2.0 / 127.0]);
    let chosen = Tensor::from_data(TensorData::from([2i64, 0, 2]), &device());
    let expected = Tensor::cat(vec![2, 0, 2].into_iter().map(|row| weight.dequantize().narrow(0, row, 1)).collect(), 0);
    assert_eq!(bits(&weight.select(chosen)), bits(&expected));
    // What is damaged stays visible.
    let damaged = Tensor::from_data(TensorData::from([[1.0, f32::INFINITY], [1.0, 1.0]]), &device());
    let y = values(&linear_int8(Tensor::ones([1, 1, 2], &device()), &Int8Weight::quantize(damaged), None));
    assert!(y[0].is_nan() && (y[1] - 2.0).abs() < 1e-6, "{y:?}");
}

#[test]
fn int8_passes_gradients_to_its_input() {
    let mut random = Inputs(17);
    let weight = Int8Weight::quantize(random.tensor([9, 20]));
    let x = Tensor::<3>::from_data(random.tensor([1, 3, 20]).into_data(), &device().autodiff()).require_grad();
    let grads = linear_int8(x.clone(), &weight, None).sum().backward();
    let expected = values(&weight.dequantize().sum_dim(0));
    for (found, expected) in values(&x.grad(&grads).unwrap()).iter().zip(expected.iter().cycle()) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn int8_in_a_graph_has_the_bits_outside_and_the_gradient_of_the_widened_matrix() {
    let mut random = Inputs(18);
    let autodiff: Device = device().autodiff();
    for (inputs, outputs) in [(1, 1), (15, 7), (33, 45), (131, 300), (300, 70)] {
        let sizes = random.tensor([outputs, 1]).exp();
        let weight = Int8Weight::quantize(random.tensor([outputs, inputs]) * sizes);
        for rows in [1, 2, 9, 50] {
            let (x, dy) = (random.tensor([1, rows, inputs]), random.tensor([1, rows, outputs]));
            let tracked = Tensor::<3>::from_data(x.clone().into_data(), &autodiff).require_grad();
            let y = linear_int8(tracked.clone(), &weight, None);
            assert_eq!(bits(&y.clone().inner()), bits(&linear_int8(x, &weight, None)), "{rows} rows");
            let cotangent = Tensor::<3>::from_data(dy.clone().into_data(), &autodiff);
            let grads = (y * cotangent).sum().backward();
            let found = f64s(tracked.grad(&grads).unwrap());
            let wide = weight.values().float().cast(DType::F64) * weight.scales().cast(DType::F64).unsqueeze_dim(1);
            let dy = dy.cast(DType::F64).reshape([rows, outputs]);
            let expected = f64s(dy.clone().matmul(wide.clone()));
            let summed = f64s(dy.abs().matmul(wide.abs()));
            // One rounding of each scaled factor, and one for every summand.
            let roundings = (outputs + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
            for ((found, expected), summed) in found.iter().zip(&expected).zip(&summed) {
                let bound = roundings * summed;
                assert!((found - expected).abs() <= bound, "{rows} rows, {inputs} to {outputs}: {found} {expected}");
            }
        }
    }
}
