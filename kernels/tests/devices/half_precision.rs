//! Storage in sixteen bits: arithmetic stays in f32, so only inputs and results are rounded.

use burn::tensor::{DType, Tensor};
use nemo_kernels::*;

use crate::check::*;
use crate::harness::*;

#[test]
fn sixteen_bit_storage() {
    let Some(device) = test_device() else { return };
    for dtype in [DType::F16, DType::BF16] {
        if !device.supports_dtype(dtype) {
            println!("skipped: {device:?} does not store {dtype:?}");
            continue;
        }
        let check = InDtype { device: &device, dtype };
        let mut noise = Noise::new(21);
        let (batch, tokens, width) = (2, 19, 40);
        let shape = [batch, tokens, width];
        let size = batch * tokens * width;
        let part = |flat: &[Tensor<1>], index: usize| flat[index].clone().reshape(shape);
        let inputs = [noise.vector(size), noise.vector(width), noise.vector(size)];
        check.gradients(
            "rms_norm",
            &inputs,
            &|flat| vec![rms_norm(part(flat, 0), flat[1].clone(), 1e-5).flatten(0, 2)],
            &|flat| vec![rms_norm::reference::rms_norm(part(flat, 0), flat[1].clone(), 1e-5).flatten(0, 2)],
        );
        check.gradients(
            "gated_rms_norm",
            &inputs,
            &|flat| vec![gated_rms_norm(part(flat, 0), part(flat, 2), flat[1].clone(), 2, 1e-5).flatten(0, 2)],
            &|flat| {
                let reference = gated_rms_norm::reference::gated_rms_norm;
                vec![reference(part(flat, 0), part(flat, 2), flat[1].clone(), 2, 1e-5).flatten(0, 2)]
            },
        );
        let add_norm = |flat: &[Tensor<1>], stored: DType, fast: bool| {
            let add_norm = if fast { add_rms_norm } else { rms_norm::reference::add_rms_norm };
            // In f64 the stream is f64 too.
            let stored = if flat[0].dtype() == DType::F64 { DType::F64 } else { stored };
            let residual = part(flat, 2).cast(stored);
            let (sum, normed) = add_norm(part(flat, 0), residual, flat[1].clone(), 1e-5);
            assert_eq!((sum.dtype(), normed.dtype()), (stored, flat[0].dtype()));
            vec![sum.cast(flat[0].dtype()).flatten(0, 2), normed.flatten(0, 2)]
        };
        for stored in [dtype, DType::F32] {
            let name = format!("add_rms_norm with a stream in {stored:?}");
            check.gradients(&name, &inputs, &|f| add_norm(f, stored, true), &|f| add_norm(f, stored, false));
        }
        check.gradients("squared_relu", &inputs[..1], &|flat| vec![squared_relu(flat[0].clone())], &|flat| {
            vec![squared_relu::reference::squared_relu(flat[0].clone())]
        });
        let inputs = [noise.vector(size), noise.vector(width * 4), noise.vector(width * 3), noise.vector(width)];
        let convolution = |flat: &[Tensor<1>]| {
            let (filters, window) = (flat[1].clone().reshape([width, 1, 4]), flat[2].clone().reshape([1, width, 3]));
            (part(flat, 0), filters, Some(flat[3].clone()), window)
        };
        check.gradients(
            "causal_conv",
            &inputs,
            &|flat| {
                let (x, filters, bias, window) = convolution(flat);
                vec![causal_conv(x, filters, bias, window, None).0.flatten(0, 2)]
            },
            &|flat| {
                let (x, filters, bias, window) = convolution(flat);
                vec![causal_conv::reference::causal_conv(x, filters, bias, window, None).0.flatten(0, 2)]
            },
        );
        let heads = [batch, tokens, 2, 20];
        let attention = |flat: &[Tensor<1>]| [0, 1, 2].map(|index| flat[index].clone().reshape(heads));
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(size)];
        check.gradients(
            "causal_attention",
            &inputs,
            &|flat| {
                let [q, k, v] = attention(flat);
                vec![causal_attention(q, k, v, None, None, 0.25).flatten(0, 3)]
            },
            &|flat| {
                let [q, k, v] = attention(flat);
                vec![causal_attention::reference::causal_attention(q, k, v, None, None, 0.25).flatten(0, 3)]
            },
        );
        let vectors = |flat: &[Tensor<1>]| SsdInputs {
            x: flat[0].clone().reshape(heads),
            dt: flat[3].clone().reshape([batch, tokens, 2]),
            a_log: flat[4].clone(),
            b: flat[1].clone().reshape([batch, tokens, 1, 40]),
            c: flat[2].clone().reshape([batch, tokens, 1, 40]),
            d: flat[5].clone(),
            dt_bias: flat[6].clone(),
            state: flat[7].clone().reshape([1, 2, 20, 40]),
        };
        let mut inputs = inputs.to_vec();
        inputs.extend([batch * tokens * 2, 2, 2, 2, 1600].map(|size| noise.vector(size)));
        let none = (0.0, f64::INFINITY);
        check.gradients(
            "ssd_scan",
            &inputs,
            &|flat| vec![ssd_scan(vectors(flat), none, None).0.flatten(0, 3)],
            &|flat| vec![ssd_scan::reference::ssd_scan(vectors(flat), none, None).0.flatten(0, 3)],
        );
        // One row, and as many as tensor cores take.
        for rows in [1, 19] {
            let inputs = [noise.vector(rows * width), noise.vector(33 * width), noise.vector(33)];
            type Projection = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;
            let project = |flat: &[Tensor<1>], linear: Projection| {
                let (x, weight) = (flat[0].clone().reshape([1, rows, width]), flat[1].clone().reshape([33, width]));
                vec![linear(x, weight, Some(flat[2].clone())).flatten(0, 2)]
            };
            let reference = linear::reference::linear;
            let name = format!("linear of {rows} rows");
            check.gradients(&name, &inputs, &|f| project(f, linear), &|f| project(f, reference));
        }
        let inputs = [noise.vector(23 * width), noise.vector(150 * width)];
        let head = |flat: &[Tensor<1>]| {
            let (hidden, weight) = (flat[0].clone().reshape([23, width]), flat[1].clone().reshape([150, width]));
            (hidden, weight, Tensor::ones([23], &flat[0].device()))
        };
        check.gradients(
            "linear_log_prob",
            &inputs,
            &|flat| {
                let (hidden, weight, targets) = head(flat);
                vec![linear_log_prob(hidden, weight, targets, 1.0).log_prob.cast(dtype)]
            },
            &|flat| {
                let (hidden, weight, targets) = head(flat);
                vec![linear_log_prob::reference::linear_log_prob(hidden, weight, targets, 1.0).log_prob]
            },
        );
    }
}
