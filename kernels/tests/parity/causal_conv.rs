//! The convolution.

use crate::harness::*;
use burn::tensor::{DType, Tensor};
use nemo_kernels::causal_conv;

type Convolution = fn(Tensor<3>, Tensor<3>, Option<Tensor<1>>, Tensor<3>, Option<&[usize]>) -> (Tensor<3>, Tensor<3>);

struct Shape {
    sizes: [usize; 5],
    lengths: Option<Vec<usize>>,
    bias: bool,
}

impl Shape {
    fn inputs(&self) -> Vec<Vec<f64>> {
        let [batch, tokens, channels, taps, window_batch] = self.sizes;
        let mut noise = Noise::new(5);
        vec![
            noise.vector(batch * tokens * channels),
            noise.vector(channels * taps),
            noise.vector(window_batch * channels * (taps - 1)),
            noise.vector(channels),
        ]
    }

    fn run(&self, flat: &[Tensor<1>], convolution: Convolution) -> Vec<Tensor<1>> {
        let [batch, tokens, channels, taps, window_batch] = self.sizes;
        let (y, window) = convolution(
            flat[0].clone().reshape([batch, tokens, channels]),
            flat[1].clone().reshape([channels, 1, taps]),
            self.bias.then(|| flat[3].clone()),
            flat[2].clone().reshape([window_batch, channels, taps - 1]),
            self.lengths.as_deref(),
        );
        let rows = (0..batch).filter_map(|row| {
            let length = self.lengths.as_ref().map_or(tokens, |l| l[row]);
            (length > 0).then(|| y.clone().narrow(0, row, 1).narrow(1, 0, length).reshape([length * channels]))
        });
        vec![Tensor::cat(rows.collect(), 0), window.flatten(0, 2)]
    }
}

#[test]
fn fast_form_is_the_reference() {
    for (sizes, lengths, bias) in [
        ([1, 1, 3, 4, 1], None, true),
        ([2, 2, 5, 4, 2], None, true),
        ([2, 5, 16, 2, 1], Some(&[5, 1][..]), false),
        ([3, 70, 20, 4, 1], Some(&[70, 64, 0]), true),
        ([2, 130, 33, 3, 2], Some(&[2, 130]), true),
        ([1, 66, 48, 4, 1], None, false),
        ([2, 129, 40, 7, 2], None, true),
    ] {
        let shape = Shape { sizes, lengths: lengths.map(<[usize]>::to_vec), bias };
        let inputs = shape.inputs();
        let reference = nemo_kernels::causal_conv::reference::causal_conv;
        for which in [&[][..], &[0], &[1]] {
            let name = format!("{sizes:?} lengths {lengths:?} cotangents {which:?}");
            let found = evaluate(&inputs, DType::F32, which, &|flat| shape.run(flat, causal_conv));
            let expected = evaluate(&inputs, DType::F64, which, &|flat| shape.run(flat, reference));
            assert_close(&name, &found.outputs, &expected.outputs, 1e-6);
            assert_close(&name, &found.gradients, &expected.gradients, 2e-6);
            if which.is_empty() && inputs[0].len() < 200 {
                let slopes = finite_differences(&inputs, &|flat| shape.run(flat, reference));
                assert_close(&name, &expected.gradients, &slopes, 1e-7);
            }
        }
    }
}
