use burn::tensor::{DType, Tensor};
use nemo_kernels::ssm_step::reference;
use nemo_kernels::{SsdInputs, SsmStepInputs, SsmStepOptions, causal_conv, gated_rms_norm, ssd_scan, ssm_step};

use crate::harness::{Inputs, address, assert_close, bits, device, fastest_ns, with_threads};

struct Sizes {
    rows: usize,
    slots: usize,
    heads: usize,
    width: usize,
    groups: usize,
    state: usize,
    taps: usize,
}

fn inputs(seed: u64, s: &Sizes, bias: bool) -> (SsmStepInputs, SsmStepOptions) {
    let mut random = Inputs(seed);
    let inner = s.heads * s.width;
    let channels = inner + 2 * s.groups * s.state;
    // One projection's output, split as the model does, so that the parts are strided.
    let projected = random.tensor([s.rows, inner + channels + s.heads]) * 2.0;
    let inputs = SsmStepInputs {
        z: projected.clone().narrow(1, 0, inner),
        xbc: projected.clone().narrow(1, inner, channels),
        dt: projected.narrow(1, inner + channels, s.heads),
        conv_weight: random.tensor([channels, 1, s.taps]),
        conv_bias: bias.then(|| random.tensor([channels])),
        a_log: random.tensor([s.heads]),
        d: random.tensor([s.heads]),
        dt_bias: random.tensor([s.heads]),
        norm_weight: random.tensor([inner]),
        conv_pool: random.tensor([s.slots, channels, s.taps - 1]),
        ssm_pool: random.tensor([s.slots, s.heads, s.width, s.state]),
    };
    let options = SsmStepOptions { num_groups: s.groups, dt_limit: (0.1, 1.5), epsilon: 1e-5 };
    (inputs, options)
}

const SIZES: [Sizes; 4] = [
    Sizes { rows: 3, slots: 7, heads: 4, width: 5, groups: 2, state: 3, taps: 4 },
    Sizes { rows: 1, slots: 2, heads: 2, width: 16, groups: 1, state: 16, taps: 2 },
    Sizes { rows: 9, slots: 12, heads: 6, width: 33, groups: 3, state: 37, taps: 4 },
    Sizes { rows: 17, slots: 40, heads: 8, width: 32, groups: 1, state: 64, taps: 12 },
];

#[test]
fn host_equals_reference() {
    for (case, sizes) in SIZES.iter().enumerate() {
        for bias in [true, false] {
            let (inputs, options) = inputs(case as u64, sizes, bias);
            let slots = sizes.slots as u32;
            // Forks, in-place rows, and sources that another row overwrites.
            let src: Vec<u32> = (0..sizes.rows as u32).map(|row| row * 2 / 3).collect();
            let dst: Vec<u32> = (0..sizes.rows as u32).map(|row| (row + 1) % slots).collect();
            let want = reference::ssm_step(inputs.clone(), options, &src, &dst);
            let got = ssm_step(inputs, options, src, dst);
            assert_close(&got.0, &want.0, 2e-5);
            assert_close(&got.1, &want.1, 0.0);
            assert_close(&got.2, &want.2, 1e-5);
        }
    }
}

/// A decode step is the sequence operations' host implementations for one token.
#[test]
fn one_token_of_the_sequence_operations() {
    for (case, sizes) in SIZES.iter().enumerate() {
        let (inputs, options) = inputs(case as u64 + 20, sizes, true);
        let Sizes { rows, heads, width, groups, state, .. } = *sizes;
        let (inner, grouped) = (heads * width, groups * state);
        let (active, window) = causal_conv(
            inputs.xbc.clone().unsqueeze_dim(1),
            inputs.conv_weight.clone(),
            inputs.conv_bias.clone(),
            inputs.conv_pool.clone().narrow(0, 0, rows),
            None,
        );
        let part = |from: usize, len: usize| active.clone().narrow(2, from, len);
        let (y, scanned) = ssd_scan(
            SsdInputs {
                x: part(0, inner).reshape([rows, 1, heads, width]),
                dt: inputs.dt.clone().unsqueeze_dim(1),
                a_log: inputs.a_log.clone(),
                b: part(inner, grouped).reshape([rows, 1, groups, state]),
                c: part(inner + grouped, grouped).reshape([rows, 1, groups, state]),
                d: inputs.d.clone(),
                dt_bias: inputs.dt_bias.clone(),
                state: inputs.ssm_pool.clone().narrow(0, 0, rows),
            },
            options.dt_limit,
            None,
        );
        let y = gated_rms_norm(
            y.reshape([rows, 1, inner]),
            inputs.z.clone().unsqueeze_dim(1),
            inputs.norm_weight.clone(),
            groups,
            options.epsilon,
        );
        let slots: Vec<u32> = (0..rows as u32).collect();
        let (got, conv_pool, ssm_pool) = ssm_step(inputs, options, slots.clone(), slots);
        assert_close(&got, &y.clone().squeeze_dim(1), 2e-5);
        assert_close(&conv_pool.narrow(0, 0, rows), &window, 0.0);
        let ssm_pool = ssm_pool.narrow(0, 0, rows);
        assert_close(&ssm_pool, &scanned, 1e-5);
        println!(
            "case {case}: same bits of y {}, of states {}",
            bits(&got) == bits(&y),
            bits(&ssm_pool) == bits(&scanned)
        );
    }
}

#[test]
fn f64_takes_the_reference() {
    let (mut inputs, options) = inputs(5, &SIZES[0], true);
    let single = ssm_step(inputs.clone(), options, vec![0, 1, 2], vec![0, 1, 2]);
    for tensor in [&mut inputs.z, &mut inputs.xbc, &mut inputs.dt] {
        *tensor = tensor.clone().cast(DType::F64);
    }
    for tensor in [&mut inputs.a_log, &mut inputs.d, &mut inputs.dt_bias, &mut inputs.norm_weight] {
        *tensor = tensor.clone().cast(DType::F64);
    }
    inputs.conv_bias = inputs.conv_bias.map(|bias| bias.cast(DType::F64));
    inputs.conv_weight = inputs.conv_weight.cast(DType::F64);
    inputs.conv_pool = inputs.conv_pool.cast(DType::F64);
    inputs.ssm_pool = inputs.ssm_pool.cast(DType::F64);
    let double = ssm_step(inputs, options, vec![0, 1, 2], vec![0, 1, 2]);
    assert_eq!(double.0.dtype(), DType::F64);
    assert_close(&single.0, &double.0, 1e-5);
}

#[test]
fn sole_handles_are_updated_in_place_and_shared_ones_are_not() {
    let (inputs, options) = inputs(6, &SIZES[2], true);
    let slots: Vec<u32> = (0..9).collect();
    let before = address(&inputs.ssm_pool);
    let kept = inputs.ssm_pool.clone();
    let kept_bits = bits(&kept);
    let shared = inputs.clone();
    let (_, _, copied) = ssm_step(shared, options, slots.clone(), slots.clone());
    assert_ne!(address(&copied), before);
    assert_eq!(bits(&kept), kept_bits, "a shared pool must not change");
    drop(kept);
    let (_, _, pool) = ssm_step(inputs, options, slots.clone(), slots);
    assert_eq!(address(&pool), before);
    assert_eq!(bits(&pool), bits(&copied));
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_batch() {
    let sizes = &SIZES[3];
    let (inputs, options) = inputs(7, sizes, true);
    let slots: Vec<u32> = (0..17).rev().collect();
    let step = || ssm_step(inputs.clone(), options, slots.clone(), slots.clone());
    let (y, _, pool) = with_threads(1, step);
    let (y4, _, pool4) = with_threads(4, step);
    assert_eq!(bits(&y), bits(&y4));
    assert_eq!(bits(&pool), bits(&pool4));
    let mut single = inputs.clone();
    single.z = single.z.narrow(0, 5, 1);
    single.xbc = single.xbc.narrow(0, 5, 1);
    single.dt = single.dt.narrow(0, 5, 1);
    let (alone, _, _) = ssm_step(single, options, vec![slots[5]], vec![slots[5]]);
    assert_eq!(bits(&alone), bits(&y.narrow(0, 5, 1)));
}

/// `cargo test --release -p nemo-kernels --test engine_ops -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn time_per_row() {
    for (rows, heads, width, state) in [(64, 8, 32, 16), (256, 8, 32, 16), (64, 8, 64, 64), (1, 8, 32, 16)] {
        let sizes = Sizes { rows, slots: rows, heads, width, groups: 1, state, taps: 4 };
        let (mut inputs, options) = inputs(8, &sizes, true);
        let slots: Vec<u32> = (0..rows as u32).collect();
        let mut pools = Some((inputs.conv_pool.clone(), inputs.ssm_pool.clone()));
        let nothing = Tensor::zeros([1, 1, 1], &device());
        (inputs.conv_pool, inputs.ssm_pool) = (nothing.clone(), nothing.unsqueeze());
        let ns = fastest_ns(|| {
            // The pools move in and out, so that each has one handle.
            pools = pools.take().map(|(conv_pool, ssm_pool)| {
                let step = SsmStepInputs { conv_pool, ssm_pool, ..inputs.clone() };
                let (_, conv_pool, ssm_pool) = ssm_step(step, options, slots.clone(), slots.clone());
                (conv_pool, ssm_pool)
            });
        }) / rows as f64;
        println!("ssm_step rows {rows} H {heads} P {width} N {state}: {ns:.0} ns per row");
    }
}
