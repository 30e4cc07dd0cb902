use burn::tensor::{DType, Device, Tensor, TensorData};
use nemo_kernels::linear;
use nemo_kernels::linear::reference;

use crate::harness::{Inputs, assert_close, bits, device, fastest_ns, with_threads};

/// Output and gradients of x, weight and bias under a fixed cotangent.
type Results = (Tensor<3>, Tensor<3>, Tensor<2>, Tensor<1>);

type Linear = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;

fn differentiate(run: Linear, x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>, dy: Tensor<3>) -> Results {
    let (autodiff, dtype) = (device().autodiff(), x.dtype());
    let [x, dy] = [x, dy].map(|tensor| Tensor::<3>::from_data(tensor.into_data(), (&autodiff, dtype)));
    let weight = Tensor::<2>::from_data(weight.into_data(), (&autodiff, dtype)).require_grad();
    let bias = Tensor::<1>::from_data(bias.into_data(), (&autodiff, dtype)).require_grad();
    let x = x.require_grad();
    let y = run(x.clone(), weight.clone(), Some(bias.clone()));
    let grads = (y.clone() * dy).sum().backward();
    (y.inner(), x.grad(&grads).unwrap(), weight.grad(&grads).unwrap(), bias.grad(&grads).unwrap())
}

#[test]
fn host_equals_reference_with_gradients() {
    let mut random = Inputs(1);
    for [batch, tokens, inputs, outputs] in [
        [1, 1, 1, 1],
        [1, 1, 128, 65],
        [2, 3, 17, 5],
        [3, 5, 100, 33],
        [1, 7, 48, 130],
        [4, 23, 64, 300],
        [1, 300, 19, 70],
        [2, 160, 256, 128],
    ] {
        let x = random.tensor([batch, tokens, inputs]);
        let weight = random.tensor([outputs, inputs]);
        let bias = random.tensor([outputs]);
        let dy = random.tensor([batch, tokens, outputs]);
        let got = differentiate(linear, x.clone(), weight.clone(), bias.clone(), dy.clone());
        let want = differentiate(reference::linear, x, weight, bias, dy);
        assert_close(&got.0, &want.0, 2e-5);
        assert_close(&got.1, &want.1, 2e-5);
        assert_close(&got.2, &want.2, 5e-5);
        assert_close(&got.3, &want.3, 5e-5);
    }
}

#[test]
fn f64_takes_the_reference() {
    let mut random = Inputs(2);
    let x = random.tensor([2, 3, 17]).cast(DType::F64);
    let weight = random.tensor([5, 17]).cast(DType::F64);
    let bias = random.tensor([5]).cast(DType::F64);
    let dy = random.tensor([2, 3, 5]).cast(DType::F64);
    let data = |t: Tensor<3>| t.into_data().try_to_vec::<f64>().unwrap();
    let got = differentiate(linear, x.clone(), weight.clone(), bias.clone(), dy.clone());
    let want = differentiate(reference::linear, x, weight, bias, dy);
    assert_eq!(data(got.0), data(want.0));
    assert_eq!(data(got.1), data(want.1));
}

#[test]
fn strided_inputs_need_no_copy_and_untracked_sides_no_gradient() {
    let mut random = Inputs(3);
    let wide = random.tensor([2, 9, 60]);
    let weight = random.tensor([21, 40]);
    let x = wide.clone().narrow(2, 10, 40);
    assert_close(&linear(x.clone(), weight.clone(), None), &reference::linear(x, weight.clone(), None), 2e-5);
    let swapped = random.tensor([9, 2, 40]).swap_dims(0, 1);
    let narrow = weight.clone().narrow(0, 3, 11);
    assert_close(&linear(swapped.clone(), narrow.clone(), None), &reference::linear(swapped, narrow, None), 2e-5);
    // Plain weight, tracked input.
    let autodiff: Device = device().autodiff();
    let x = Tensor::<3>::from_data(TensorData::new(random.values(80), [1, 2, 40]), &autodiff).require_grad();
    let grads = linear(x.clone(), weight.clone(), None).sum().backward();
    let want = weight.sum_dim(0).reshape([1, 1, 40]).repeat_dim(1, 2);
    assert_close(&x.grad(&grads).unwrap(), &want, 2e-5);
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_rows() {
    let mut random = Inputs(4);
    let (x, weight) = (random.tensor([1, 203, 130]), random.tensor([333, 130]));
    let (bias, dy) = (random.tensor([333]), random.tensor([1, 203, 333]));
    let run = || differentiate(linear, x.clone(), weight.clone(), bias.clone(), dy.clone());
    let (one, four) = (with_threads(1, run), with_threads(4, run));
    assert_eq!(bits(&one.0), bits(&four.0));
    assert_eq!(bits(&one.1), bits(&four.1));
    assert_eq!(bits(&one.2), bits(&four.2));
    let together = linear(x.clone(), weight.clone(), None);
    let dx = one.1;
    for (from, count) in [(0, 1), (5, 1), (7, 2), (50, 3), (100, 64)] {
        let x = x.clone().narrow(1, from, count);
        let alone = linear(x.clone(), weight.clone(), None);
        assert_eq!(bits(&alone), bits(&together.clone().narrow(1, from, count)));
        let dy = dy.clone().narrow(1, from, count);
        let alone = differentiate(linear, x, weight.clone(), bias.clone(), dy).1;
        assert_eq!(bits(&alone), bits(&dx.clone().narrow(1, from, count)));
    }
}

#[test]
#[ignore = "measures"]
fn time_against_matmul() {
    use burn::backend::Flex;
    use nemo_kernels::linear::LinearOps;
    let mut random = Inputs(5);
    println!("GFLOP/s of one processor, own / Flex matmul: forward, grad input, grad weight");
    for (inputs, outputs) in [(128, 128), (256, 256), (512, 256), (256, 512), (128, 1536), (512, 512), (1536, 512)] {
        for rows in [1, 2, 8, 64, 128, 2048] {
            let x = random.tensor([1, rows, inputs]);
            let dy = random.tensor([1, rows, outputs]);
            let weight = random.tensor([outputs, inputs]);
            let flop = 2.0 * (rows * inputs * outputs) as f64;
            let measure = |f: &dyn Fn()| flop / fastest_ns(f);
            let primitive3 = |t: &Tensor<3>| t.clone().try_into_primitive::<Flex>().unwrap();
            let primitive2 = |t: &Tensor<2>| t.clone().try_into_primitive::<Flex>().unwrap();
            let (px, pdy, pw) = (primitive3(&x), primitive3(&dy), primitive2(&weight));
            let own = [
                measure(&|| drop(Flex::linear_forward(px.clone(), pw.clone()))),
                measure(&|| drop(Flex::linear_grad_input(pdy.clone(), pw.clone()))),
                measure(&|| drop(Flex::linear_grad_weight(pdy.clone(), px.clone()))),
            ];
            let x2 = x.clone().reshape([rows, inputs]);
            let dy2 = dy.clone().reshape([rows, outputs]);
            let flex = [
                measure(&|| drop(x2.clone().matmul(weight.clone().transpose()))),
                measure(&|| drop(dy2.clone().matmul(weight.clone()))),
                measure(&|| drop(dy2.clone().transpose().matmul(x2.clone()))),
            ];
            print!("in {inputs:4} out {outputs:4} rows {rows:4}:");
            for (own, flex) in own.into_iter().zip(flex) {
                print!("  {own:6.1} / {flex:6.1}");
            }
            println!();
        }
    }
}
