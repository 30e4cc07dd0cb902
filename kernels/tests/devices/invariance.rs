//! A row's result is the same bits alone and in a batch, and pools are written in place.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::*;

use crate::attention::sequences;
use crate::check::*;
use crate::harness::*;

fn random<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = Noise::new(seed).vector(shape.iter().product());
    tensor(&values, DType::F32, device).reshape(shape)
}

/// Checks that row `row` of a result over a batch is the result of that row alone, bit for bit.
#[track_caller]
fn assert_row<const D: usize>(name: &str, batch: &Tensor<D>, row: usize, alone: Tensor<D>) {
    let row = to_vec(batch.clone().narrow(0, row, 1));
    assert!(row == to_vec(alone), "{name}: a row's bits depend on the batch");
}

#[test]
fn training_operations_do_not_mix_rows() {
    let Some(device) = test_device() else { return };
    let device = &device;
    let one = |tensor: &Tensor<3>, row| tensor.clone().narrow(0, row, 1);
    let four = |tensor: &Tensor<4>, row| tensor.clone().narrow(0, row, 1);
    let (batch, tokens, width) = (3, 21, 96);
    let (x, gate) = (random(1, [batch, tokens, width], device), random(2, [batch, tokens, width], device));
    let weight = random(3, [width], device);
    let normed = rms_norm(x.clone(), weight.clone(), 1e-5);
    let gated = gated_rms_norm(x.clone(), gate.clone(), weight.clone(), 4, 1e-5);
    let summed = add_rms_norm(x.clone(), gate.clone(), weight.clone(), 1e-5);
    let (filters, bias) = (random(4, [width, 1, 4], device), random(5, [width], device));
    let window = random(6, [batch, width, 3], device);
    let (convolved, next) = causal_conv(x.clone(), filters.clone(), Some(bias.clone()), window.clone(), None);
    for row in 0..batch {
        let alone = add_rms_norm(one(&x, row), one(&gate, row), weight.clone(), 1e-5);
        assert_row("add_rms_norm sum", &summed.0, row, alone.0);
        assert_row("add_rms_norm", &summed.1, row, alone.1);
        assert_row("rms_norm", &normed, row, rms_norm(one(&x, row), weight.clone(), 1e-5));
        let alone = gated_rms_norm(one(&x, row), one(&gate, row), weight.clone(), 4, 1e-5);
        assert_row("gated_rms_norm", &gated, row, alone);
        let alone = causal_conv(one(&x, row), filters.clone(), Some(bias.clone()), one(&window, row), None);
        assert_row("causal_conv", &convolved, row, alone.0);
        assert_row("causal_conv window", &next, row, alone.1);
    }

    let inputs = SsdInputs {
        x: random(7, [batch, tokens, 4, 24], device),
        dt: random(8, [batch, tokens, 4], device),
        a_log: random(9, [4], device),
        b: random(10, [batch, tokens, 2, 40], device),
        c: random(11, [batch, tokens, 2, 40], device),
        d: random(12, [4], device),
        dt_bias: random(13, [4], device),
        state: random(14, [batch, 4, 24, 40], device),
    };
    let (y, state) = ssd_scan(inputs.clone(), (0.0, f64::INFINITY), None);
    let q = random(15, [batch, tokens, 4, 24], device);
    let (k, v) = (random(16, [batch, tokens, 2, 24], device), random(17, [batch, tokens, 2, 24], device));
    let attended = causal_attention(q.clone(), k.clone(), v.clone(), None, None, 0.3);
    for row in 0..batch {
        let alone = SsdInputs {
            x: four(&inputs.x, row),
            dt: one(&inputs.dt, row),
            b: four(&inputs.b, row),
            c: four(&inputs.c, row),
            state: four(&inputs.state, row),
            ..inputs.clone()
        };
        let alone = ssd_scan(alone, (0.0, f64::INFINITY), None);
        assert_row("ssd_scan", &y, row, alone.0);
        assert_row("ssd_scan state", &state, row, alone.1);
        let alone = causal_attention(four(&q, row), four(&k, row), four(&v, row), None, None, 0.3);
        assert_row("causal_attention", &attended, row, alone);
    }

    let (hidden, head) = (random(18, [40, 50], device), random(19, [1500, 50], device));
    let targets = Tensor::ones([40], device);
    let scored = linear_log_prob(hidden.clone(), head.clone(), targets.clone(), 1.0);
    for row in [0, 31, 32, 39] {
        let targets = targets.clone().narrow(0, row, 1);
        let alone = linear_log_prob(hidden.clone().narrow(0, row, 1), head.clone(), targets, 1.0);
        assert_row("linear_log_prob", &scored.log_prob, row, alone.log_prob);
        assert_row("linear_log_prob entropy", &scored.entropy, row, alone.entropy);
    }
}

/// A sequence in two pieces, cut at a multiple of every chunk, is the sequence in one piece.
#[test]
fn a_scan_cut_at_a_chunk_is_one_scan() {
    let Some(device) = test_device() else { return };
    let device = &device;
    let inputs = SsdInputs {
        x: random(1, [2, 75, 2, 24], device),
        dt: random(2, [2, 75, 2], device),
        a_log: random(3, [2], device),
        b: random(4, [2, 75, 1, 40], device),
        c: random(5, [2, 75, 1, 40], device),
        d: random(6, [2], device),
        dt_bias: random(7, [2], device),
        state: random(8, [2, 2, 24, 40], device),
    };
    let piece = |from: usize, len: usize, state: Tensor<4>| SsdInputs {
        x: inputs.x.clone().narrow(1, from, len),
        dt: inputs.dt.clone().narrow(1, from, len),
        b: inputs.b.clone().narrow(1, from, len),
        c: inputs.c.clone().narrow(1, from, len),
        state,
        ..inputs.clone()
    };
    let none = (0.0, f64::INFINITY);
    let (whole, last) = ssd_scan(inputs.clone(), none, None);
    let (first, state) = ssd_scan(piece(0, 32, inputs.state.clone()), none, None);
    let (second, state) = ssd_scan(piece(32, 43, state), none, None);
    assert!(to_vec(whole) == to_vec(Tensor::cat(vec![first, second], 1)), "outputs");
    assert!(to_vec(last) == to_vec(state), "states");
}

#[test]
fn engine_operations_do_not_mix_rows() {
    let Some(device) = test_device() else { return };
    let device = &device;
    let (page_size, query_heads, kv_heads, width) = (16, 6, 2, 40);
    let (all, pages) = sequences(&[70, 600, 33], &[1, 3, 20], page_size);
    let rows = 24;
    let q = random(1, [rows, query_heads, width], device);
    let pool = [pages, page_size, kv_heads, width];
    let (k, v) = (random(2, pool, device), random(3, pool, device));
    let y = paged_attention(q.clone(), k.clone(), v.clone(), Arc::new(all.clone()), 0.2);
    for sequence in all {
        let (start, count) = (sequence.query_start, sequence.num_queries);
        let alone = PagedSequence { query_start: 0, ..sequence };
        let q = q.clone().narrow(0, start, count);
        let alone = paged_attention(q, k.clone(), v.clone(), Arc::new(vec![alone]), 0.2);
        assert!(to_vec(y.clone().narrow(0, start, count)) == to_vec(alone), "paged_attention mixes sequences");
    }

    let (rows, heads, width, state) = (5, 4, 12, 20);
    let inner = heads * width;
    let channels = inner + 2 * state;
    let inputs = SsmStepInputs {
        z: random(4, [rows, inner], device),
        xbc: random(5, [rows, channels], device),
        dt: random(6, [rows, heads], device),
        conv_weight: random(7, [channels, 1, 4], device),
        conv_bias: None,
        a_log: random(8, [heads], device),
        d: random(9, [heads], device),
        dt_bias: random(10, [heads], device),
        norm_weight: random(11, [inner], device),
        conv_pool: random(12, [8, channels, 3], device),
        ssm_pool: random(13, [8, heads, width, state], device),
    };
    let options = SsmStepOptions { num_groups: 1, dt_limit: (0.0, f64::INFINITY), epsilon: 1e-5 };
    let slots: Vec<u32> = (0..rows as u32).collect();
    let (y, conv_pool, ssm_pool) = ssm_step(inputs.clone(), options, slots.clone(), slots);
    for row in 0..rows {
        let alone = SsmStepInputs {
            z: inputs.z.clone().narrow(0, row, 1),
            xbc: inputs.xbc.clone().narrow(0, row, 1),
            dt: inputs.dt.clone().narrow(0, row, 1),
            ..inputs.clone()
        };
        let slot = vec![row as u32];
        let (alone, conv_alone, ssm_alone) = ssm_step(alone, options, slot.clone(), slot);
        assert_row("ssm_step", &y, row, alone);
        assert_row("ssm_step windows", &conv_pool, row, conv_alone.narrow(0, row, 1));
        assert_row("ssm_step states", &ssm_pool, row, ssm_alone.narrow(0, row, 1));
    }
}
