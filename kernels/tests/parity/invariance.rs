//! What must not change a result: splits of a sequence, padding, batch mates, threads.

use crate::causal_attention::Shape as AttentionShape;
use crate::harness::*;
use crate::ssd_scan::Shape as ScanShape;
use burn::tensor::{DType, Tensor};
use nemo_kernels::{
    SsdInputs, add_rms_norm, causal_attention, causal_conv, gated_rms_norm, linear_log_prob, rms_norm, squared_relu,
    ssd_scan,
};

const NO_LIMIT: (f64, f64) = (0.0, f64::INFINITY);

fn piece(inputs: &SsdInputs, from: usize, length: usize, state: Tensor<4>) -> SsdInputs {
    SsdInputs {
        x: inputs.x.clone().narrow(1, from, length),
        dt: inputs.dt.clone().narrow(1, from, length),
        a_log: inputs.a_log.clone(),
        b: inputs.b.clone().narrow(1, from, length),
        c: inputs.c.clone().narrow(1, from, length),
        d: inputs.d.clone(),
        dt_bias: inputs.dt_bias.clone(),
        state,
    }
}

fn scan_in_pieces(shape: &ScanShape, flat: &[Tensor<1>], lengths: &[usize]) -> Vec<Tensor<1>> {
    let inputs = shape.arguments(flat);
    let mut state = inputs.state.clone();
    let mut from = 0;
    let mut outputs = Vec::new();
    for &length in lengths {
        let (y, next) = ssd_scan(piece(&inputs, from, length, state), NO_LIMIT, None);
        outputs.push(y);
        state = next;
        from += length;
    }
    vec![Tensor::cat(outputs, 1).flatten(0, 3), state.flatten(0, 3)]
}

#[test]
fn a_scan_in_pieces_is_the_scan_in_one() {
    let shape = ScanShape::new([2, 70, 4, 24, 2, 20, 1], None);
    let inputs = shape.inputs(11);
    let whole = outputs(&inputs, DType::F32, &|flat| shape.fast(flat));
    for lengths in [&[70][..], &[33, 37], &[1, 1, 68], &[16, 16, 16, 22]] {
        let pieces = |flat: &[Tensor<1>]| scan_in_pieces(&shape, flat, lengths);
        assert_eq!(outputs(&inputs, DType::F32, &pieces), whole, "{lengths:?}");
        // Gradients pass through the states.
        let found = evaluate(&inputs, DType::F32, &[], &pieces);
        let expected = evaluate(&inputs, DType::F64, &[], &|flat| shape.reference(flat));
        assert_close(&format!("{lengths:?}"), &found.gradients, &expected.gradients, 5e-6);
    }
}

#[test]
fn a_convolution_in_pieces_is_the_convolution_in_one() {
    let [batch, tokens, channels, taps] = [2, 70, 20, 4];
    let mut noise = Noise::new(12);
    let inputs = [
        noise.vector(batch * tokens * channels),
        noise.vector(channels * taps),
        noise.vector(channels * (taps - 1)),
        noise.vector(channels),
    ];
    let pieces = |flat: &[Tensor<1>], lengths: &[usize]| {
        let x = flat[0].clone().reshape([batch, tokens, channels]);
        let mut window = flat[2].clone().reshape([1, channels, taps - 1]);
        let mut from = 0;
        let mut outputs = Vec::new();
        for &length in lengths {
            let (y, next) = causal_conv(
                x.clone().narrow(1, from, length),
                flat[1].clone().reshape([channels, 1, taps]),
                Some(flat[3].clone()),
                window,
                None,
            );
            outputs.push(y);
            window = next;
            from += length;
        }
        vec![Tensor::cat(outputs, 1).flatten(0, 2), window.flatten(0, 2)]
    };
    let whole = evaluate(&inputs, DType::F32, &[], &|flat| pieces(flat, &[tokens]));
    for lengths in [&[33, 37][..], &[1, 1, 68], &[2, 64, 4]] {
        let found = evaluate(&inputs, DType::F32, &[], &|flat| pieces(flat, lengths));
        assert_eq!(found.outputs, whole.outputs, "{lengths:?}");
        assert_close(&format!("{lengths:?}"), &found.gradients, &whole.gradients, 2e-6);
    }
}

#[test]
fn attention_over_a_prefix_is_attention_in_one_piece() {
    let shape = AttentionShape::new([2, 150, 4, 2, 24, 1, 0], None);
    let inputs = shape.inputs();
    let [batch, tokens, query_heads, key_heads, width, ..] = shape.sizes;
    let scale = 1.0 / (width as f64).sqrt();
    let pieces = |flat: &[Tensor<1>], first: usize| {
        let q = flat[0].clone().reshape([batch, tokens, query_heads, width]);
        let k = flat[1].clone().reshape([batch, tokens, key_heads, width]);
        let v = flat[2].clone().reshape([batch, tokens, key_heads, width]);
        let part = |t: &Tensor<4>, from: usize, length: usize| t.clone().narrow(1, from, length);
        let (k0, v0) = (part(&k, 0, first), part(&v, 0, first));
        let rest = tokens - first;
        let y0 = causal_attention(part(&q, 0, first), k0.clone(), v0.clone(), None, None, scale);
        let (q1, k1, v1) = (part(&q, first, rest), part(&k, first, rest), part(&v, first, rest));
        let y1 = causal_attention(q1, k1, v1, Some((k0, v0)), None, scale);
        vec![Tensor::cat(vec![y0, y1], 1).flatten(0, 3)]
    };
    let whole = evaluate(&inputs, DType::F32, &[], &|flat| shape.run(flat, causal_attention));
    for first in [1, 63, 64, 100] {
        let found = evaluate(&inputs, DType::F32, &[], &|flat| pieces(flat, first));
        assert_eq!(found.outputs, whole.outputs, "split at {first}");
        assert_close(&format!("split at {first}"), &found.gradients, &whole.gradients, 3e-6);
    }
}

#[test]
fn a_padded_batch_is_its_rows_alone() {
    let lengths = [70, 3, 41];
    let mut shape = ScanShape::new([3, 70, 4, 16, 2, 20, 1], Some(&lengths));
    let inputs = shape.inputs(13);
    let together = outputs(&inputs, DType::F32, &|flat| shape.fast(flat));
    shape.lengths = None;
    let mut y = Vec::new();
    let mut states = Vec::new();
    for (row, &length) in lengths.iter().enumerate() {
        let alone = outputs(&inputs, DType::F32, &|flat| {
            let all = shape.arguments(flat);
            let row = SsdInputs {
                x: all.x.narrow(0, row, 1),
                dt: all.dt.narrow(0, row, 1),
                b: all.b.narrow(0, row, 1),
                c: all.c.narrow(0, row, 1),
                ..all
            };
            let (y, state) = ssd_scan(piece(&row, 0, length, row.state.clone()), NO_LIMIT, None);
            vec![y.flatten(0, 3), state.flatten(0, 3)]
        });
        y.extend_from_slice(&alone[0]);
        states.extend_from_slice(&alone[1]);
    }
    assert_eq!(together, [y, states]);
}

#[test]
fn untracked_arguments_are_constants() {
    let shape = ScanShape::new([2, 20, 2, 8, 1, 16, 1], None);
    let inputs = shape.inputs(16);
    let all = evaluate(&inputs, DType::F32, &[], &|flat| shape.fast(flat));
    let frozen = evaluate(&inputs, DType::F32, &[], &|flat| {
        let mut arguments = shape.arguments(flat);
        arguments.state = arguments.state.inner();
        arguments.a_log = arguments.a_log.inner();
        let (y, state) = ssd_scan(arguments, NO_LIMIT, None);
        vec![y.flatten(0, 3), state.flatten(0, 3)]
    });
    assert_eq!(all.outputs, frozen.outputs);
    for (index, gradient) in frozen.gradients.iter().enumerate() {
        if index == 2 || index == 7 {
            assert!(gradient.iter().all(|&value| value == 0.0));
        } else {
            assert_eq!(gradient, &all.gradients[index], "argument {index}");
        }
    }
}

/// Every operation with every gradient.
fn everything() -> Vec<Evaluation> {
    let scan = ScanShape::new([5, 70, 4, 24, 2, 20, 1], Some(&[70, 3, 41, 64, 17]));
    let attention = AttentionShape::new([5, 90, 4, 2, 24, 1, 70], None);
    let mut noise = Noise::new(14);
    let [batch, tokens, width] = [5, 90, 40];
    let rows = noise.vector(batch * tokens * width);
    let gates = noise.vector(batch * tokens * width);
    let weight = noise.vector(width);
    let filters = noise.vector(width * 4);
    let window = noise.vector(width * 3);
    let head = noise.vector(70 * width);
    let shape = [batch, tokens, width];
    vec![
        evaluate(&scan.inputs(15), DType::F32, &[], &|flat| scan.fast(flat)),
        evaluate(&attention.inputs(), DType::F32, &[], &|flat| attention.run(flat, causal_attention)),
        evaluate(&[rows.clone(), weight.clone()], DType::F32, &[], &|flat| {
            vec![rms_norm(flat[0].clone().reshape(shape), flat[1].clone(), 1e-5).flatten(0, 2)]
        }),
        evaluate(&[rows.clone(), weight.clone(), gates.clone()], DType::F32, &[], &|flat| {
            let (x, residual) = (flat[0].clone().reshape(shape), flat[2].clone().reshape(shape));
            let (sum, normed) = add_rms_norm(x, residual, flat[1].clone(), 1e-5);
            vec![sum.flatten(0, 2), normed.flatten(0, 2)]
        }),
        evaluate(&[rows.clone(), weight, gates], DType::F32, &[], &|flat| {
            let (x, gate) = (flat[0].clone().reshape(shape), flat[2].clone().reshape(shape));
            vec![gated_rms_norm(x, gate, flat[1].clone(), 2, 1e-5).flatten(0, 2)]
        }),
        evaluate(&[rows.clone(), filters, window], DType::F32, &[], &|flat| {
            let (y, window) = causal_conv(
                flat[0].clone().reshape(shape),
                flat[1].clone().reshape([width, 1, 4]),
                None,
                flat[2].clone().reshape([1, width, 3]),
                Some(&[90, 1, 64, 65, 33]),
            );
            vec![y.flatten(0, 2), window.flatten(0, 2)]
        }),
        evaluate(std::slice::from_ref(&rows), DType::F32, &[], &|flat| {
            // More than one parallel piece.
            vec![squared_relu(Tensor::cat(vec![flat[0].clone(); 3], 0))]
        }),
        evaluate(&[rows, head], DType::F32, &[0], &|flat| {
            let hidden = flat[0].clone().reshape([batch * tokens, width]);
            let targets = Tensor::ones([batch * tokens], &flat[0].device());
            let weight = flat[1].clone().reshape([70, width]);
            let output = linear_log_prob(hidden, weight, targets, 0.9);
            vec![output.log_prob, output.entropy]
        }),
    ]
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        pool.install(everything)
    };
    for (index, (one, three)) in with_threads(1).iter().zip(with_threads(3)).enumerate() {
        assert_eq!(one.outputs, three.outputs, "operation {index}");
        assert_eq!(one.gradients, three.gradients, "operation {index}");
    }
}
