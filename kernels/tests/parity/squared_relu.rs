//! The squared ReLU.

use crate::harness::*;
use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::squared_relu;
use nemo_kernels::squared_relu::reference::squared_relu as reference;

fn floats(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_floats(values, device)
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    let values = tensor.into_data().try_to_vec::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn squared_relu_is_its_reference() {
    // Around a vector's end, and around the end of a parallel piece.
    for size in [1, 2, 15, 16, 17, 100, 16_384, 16_385, 50_003] {
        let inputs = [Noise::new(size as u64).vector(size)];
        let name = format!("{size}");
        let found = evaluate(&inputs, DType::F32, &[], &|flat| vec![squared_relu(flat[0].clone())]);
        let expected = evaluate(&inputs, DType::F64, &[], &|flat| vec![reference(flat[0].clone())]);
        assert_close(&name, &found.outputs, &expected.outputs, 1e-7);
        assert_close(&name, &found.gradients, &expected.gradients, 1e-7);
        if size <= 100 {
            let slopes = finite_differences(&inputs, &|flat| vec![reference(flat[0].clone())]);
            assert_close(&name, &expected.gradients, &slopes, 1e-7);
        }
    }
}

/// Also for values at the edges of the format, and whatever the cotangent is where the slope is zero.
#[test]
fn squared_relu_has_the_bits_of_the_plain_operations() {
    let tiny = f32::from_bits(1);
    let edges = [0.0, -0.0, tiny, -tiny, f32::MIN_POSITIVE, 1e-20, -1.5, 3.0, f32::MAX, f32::INFINITY, -f32::INFINITY];
    let slopes = [1.0, -1.0, 0.0, -0.0, 0.3e-30, -1e30, f32::INFINITY];
    let mut x: Vec<f32> = edges.iter().flat_map(|&edge| slopes.map(|_| edge)).collect();
    let mut cotangent: Vec<f32> = edges.iter().flat_map(|_| slopes).collect();
    let noise = |seed: u64| Noise::new(seed).vector(20_000).into_iter().map(|v| v as f32);
    x.extend(noise(1));
    cotangent.extend(noise(2));
    let device = Device::flex().autodiff();
    let run = |operation: fn(Tensor<1>) -> Tensor<1>| {
        let x = floats(&x, &device).require_grad();
        let y = operation(x.clone());
        let gradients = (y.clone() * floats(&cotangent, &device)).sum().backward();
        (bits(y.inner()), bits(x.grad(&gradients).unwrap()))
    };
    let (found, expected) = (run(squared_relu), run(reference));
    for (at, (x, cotangent)) in x.iter().zip(&cotangent).enumerate() {
        // A product of zero and infinity is NaN, whose sign and payload mean nothing.
        let same = |a: u32, b: u32| a == b || f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan();
        assert!(same(found.0[at], expected.0[at]), "value at {x}");
        assert!(same(found.1[at], expected.1[at]), "gradient at {x}, cotangent {cotangent}");
    }
    let nan = squared_relu(floats(&[f32::NAN], &Device::flex())).into_data().try_to_vec::<f32>().unwrap();
    assert!(nan[0].is_nan());
}

#[test]
fn squared_relu_of_views() {
    let device = Device::flex();
    let x = tensor(&Noise::new(5).vector(7 * 33 * 5), DType::F32, &device).reshape([7, 33, 5]);
    let views = [x.clone().swap_dims(0, 1), x.clone().narrow(1, 3, 21), x.clone().narrow(2, 1, 3)];
    for view in views {
        let y = squared_relu(view.clone());
        assert_eq!(y.dims(), view.dims());
        assert_eq!(bits(y), bits(reference(view)));
    }
    assert_eq!(squared_relu(Tensor::<3>::zeros([7, 0, 5], &device)).dims(), [7, 0, 5]);
    assert_eq!(squared_relu(x.cast(DType::F64)).dtype(), DType::F64);
}

/// The only handle is overwritten; any other handle keeps its values.
#[test]
fn squared_relu_is_in_place_when_nothing_else_needs_the_input() {
    let address = |tensor: &Tensor<1>| {
        let primitive = tensor.clone().try_into_primitive::<burn::backend::Flex>().unwrap();
        primitive.bytes().as_ptr() as usize
    };
    for size in [40, 40_000] {
        let x = tensor(&Noise::new(6).vector(size), DType::F32, &Device::flex());
        let (before, expected) = (bits(x.clone()), bits(reference(x.clone())));
        let kept = squared_relu(x.clone());
        assert_ne!(address(&kept), address(&x));
        assert_eq!((bits(kept), bits(x.clone())), (expected.clone(), before));
        let place = address(&x);
        let y = squared_relu(x);
        assert_eq!(address(&y), place);
        assert_eq!(bits(y), expected);
    }
}

#[test]
fn squared_relu_of_nothing_has_no_gradient() {
    let x = Tensor::<2>::zeros([0, 4], &Device::flex().autodiff()).require_grad();
    let y = squared_relu(x.clone());
    assert_eq!(y.dims(), [0, 4]);
    let gradient = x.grad(&y.sum().backward());
    assert!(gradient.is_none_or(|gradient| gradient.dims() == [0, 4]));
}
