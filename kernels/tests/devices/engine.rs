//! Operations of generation and of the optimizer, which are never differentiated.

use crate::adamw_forms::{adamw, adamw_master, adamw_stochastic};
use burn::tensor::{DType, Device, Tensor};
use nemo_kernels::{
    AdamWOptions, RoundingKey, SsmStepInputs, SsmStepOptions, cache_write, linear, ssm_step, sum_of_squares,
};

use crate::check::*;
use crate::harness::*;

#[test]
fn adamw_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("adamw", device.clone());
    for (size, step) in [(1, 1), (127, 2), (128, 3), (129, 100), (5000, 7)] {
        let mut noise = Noise::new(7);
        let mut inputs = [noise.vector(size), noise.vector(size), noise.vector(size), noise.vector(size)];
        inputs[3].iter_mut().for_each(|v| *v = v.abs());
        type Update =
            fn(Tensor<1>, Tensor<1>, Tensor<1>, Tensor<1>, u64, AdamWOptions) -> (Tensor<1>, Tensor<1>, Tensor<1>);
        let run = |flat: &[Tensor<1>], update: Update| {
            // Fresh buffers, which are written in place.
            let [p, g, m, v] = [0, 1, 2, 3].map(|index| flat[index].clone() * 1.0);
            let (p, m, v) = update(p, g, m, v, step, STEP);
            vec![p, m, v]
        };
        let reference = nemo_kernels::adamw::reference::adamw;
        report.values(&format!("{size} step {step}"), &inputs, &|f| run(f, adamw), &|f| run(f, reference));
        let sum = sum_of_squares(&tensor(&inputs[0], burn::tensor::DType::F32, &device));
        let expected: f64 = inputs[0].iter().map(|v| v * v).sum();
        assert!((sum - expected).abs() <= 1e-6 * expected, "sum of squares: {sum} and {expected}");
    }
    report.finish(1e-6, 0.0);
}

/// The master follows [`adamw`]; the parameter is its rounding to the nearest.
#[test]
fn adamw_with_a_master() {
    let Some(device) = test_device() else { return };
    for dtype in [DType::BF16, DType::F16] {
        if !device.supports_dtype(dtype) {
            println!("skipped: {device:?} does not store {dtype:?}");
            continue;
        }
        for (size, step) in [(1, 1), (129, 100), (5000, 7)] {
            let mut noise = Noise::new(10);
            let [p, g, m, v] = [(); 4].map(|()| tensor(&noise.vector(size), DType::F32, &device));
            let v = v.abs();
            let fresh = |t: &Tensor<1>| t.clone() * 1.0;
            let param = p.clone().cast(dtype);
            let grad = g.clone().cast(dtype);
            let (param, master, m1, v1) =
                adamw_master(param, fresh(&p), grad.clone(), fresh(&m), fresh(&v), step, STEP);
            let (single, m2, v2) = adamw(fresh(&p), grad, fresh(&m), fresh(&v), step, STEP);
            assert_eq!(param.dtype(), dtype);
            assert_eq!(to_vec(master.clone()), to_vec(single));
            assert_eq!((to_vec(m1), to_vec(v1)), (to_vec(m2), to_vec(v2)));
            // WGSL may round to either neighbour; bf16 has no WGSL.
            let host = tensor(&to_vec(master), DType::F32, &Device::flex()).cast(dtype);
            let bound = if dtype == DType::BF16 { 0.0 } else { 2f64.powi(-10) };
            for (found, nearest) in to_vec(param).into_iter().zip(to_vec(host)) {
                assert!((found - nearest).abs() <= bound * nearest.abs(), "{found}, nearest is {nearest}");
            }
        }
    }
}

/// Without an update the rounding alone is left: the bits of the host. With one, next to the host's.
#[test]
fn adamw_rounds_at_random_with_the_bits_of_the_host() {
    let Some(device) = test_device() else { return };
    let still = AdamWOptions { lr: 0.0, ..STEP };
    let host = Device::flex();
    // Device, f32 storage of bf16 included; numbers of elements around a tile's end.
    for size in [1, 127, 129, 1023, 1024, 1025, 5000] {
        for (step, key) in [(1, RoundingKey { seed: 3, stream: 0 }), (70, RoundingKey { seed: 1 << 40, stream: 12 })] {
            let mut noise = Noise::new(11);
            let inputs = [(); 4].map(|()| noise.vector(size));
            let run = |device: &Device, dtype: DType, options: AdamWOptions| {
                let [p, g, m, v] = inputs.each_ref().map(|values| tensor(values, DType::F32, device));
                let (p, ..) = adamw_stochastic(p.cast(dtype), g, m, v.abs(), step, options, key);
                assert_eq!(p.dtype(), dtype);
                to_vec(p)
            };
            let found = run(&device, DType::F32, still);
            assert_eq!(found, run(&host, DType::F32, still), "{size} elements, step {step}");
            let moved = found.iter().zip(&inputs[0]).filter(|(found, value)| found != value).count();
            assert!(moved * 2 >= size, "{moved} of {size} values were not bf16 before");
            let moving = AdamWOptions { lr: 1e-2, ..still };
            for dtype in [DType::F32, DType::BF16] {
                if !device.supports_dtype(dtype) {
                    println!("skipped: {device:?} does not store {dtype:?}");
                    continue;
                }
                let (found, expected) = (run(&device, dtype, moving), run(&host, dtype, moving));
                let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
                // The last bits of f32 rarely decide, and then by one step of bf16.
                assert!(differing <= size / 200, "{differing} of {size}");
                assert!(relative_error(&found, &expected) < 1e-3);
            }
        }
    }
}

#[test]
fn cache_write_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("cache_write", device);
    for (sizes, slots) in [([1, 1, 1, 1], vec![0]), ([3, 8, 2, 5], vec![23, 0, 7, 0, 8]), ([4, 16, 3, 43], vec![9])] {
        let [pages, page_size, heads, width] = sizes;
        let mut noise = Noise::new(8);
        let (pool, new) = (pages * page_size * heads * width, slots.len() * heads * width);
        let inputs = [noise.vector(pool), noise.vector(pool), noise.vector(new), noise.vector(new)];
        let parts = |flat: &[Tensor<1>]| {
            // Fresh buffers, which are written in place.
            let pool = |index: usize| (flat[index].clone() * 1.0).reshape(sizes);
            let rows = |index: usize| swapped(&flat[index].clone().narrow(0, 0, new), [slots.len(), heads, width]);
            (pool(0), pool(1), rows(2), rows(3))
        };
        let flatten = |(k, v): (Tensor<4>, Tensor<4>)| vec![k.flatten(0, 3), v.flatten(0, 3)];
        report.values(
            &format!("{sizes:?} {slots:?}"),
            &inputs,
            &|flat| {
                let (k_pool, v_pool, k, v) = parts(flat);
                flatten(cache_write(k_pool, v_pool, k, v, slots.clone()))
            },
            &|flat| {
                let (k_pool, v_pool, k, v) = parts(flat);
                flatten(nemo_kernels::cache_write::reference::cache_write(k_pool, v_pool, k, v, &slots))
            },
        );
    }
    report.finish(0.0, 0.0);
}

/// rows, slots, heads, width, groups, state, taps
pub type StepSizes = [usize; 7];

pub const STEP_SIZES: [StepSizes; 5] = [
    [3, 7, 4, 5, 2, 3, 4],
    [1, 2, 2, 16, 1, 16, 2],
    [9, 12, 6, 33, 3, 37, 4],
    [17, 40, 8, 32, 1, 64, 12],
    [2, 3, 2, 8, 2, 128, 4],
];

pub fn step_inputs([rows, slots, heads, width, groups, state, taps]: StepSizes) -> Vec<Vec<f64>> {
    let mut noise = Noise::new(9);
    let inner = heads * width;
    let channels = inner + 2 * groups * state;
    [
        rows * (inner + channels + heads),
        channels * taps,
        channels,
        heads,
        heads,
        heads,
        inner,
        slots * channels * (taps - 1),
        slots * inner * state,
    ]
    .map(|size| noise.vector(size))
    .to_vec()
}

/// One projection's output, split as the model does, so that the parts are strided.
pub fn step_arguments(
    flat: &[Tensor<1>],
    [rows, slots, heads, width, groups, state, taps]: StepSizes,
) -> (SsmStepInputs, SsmStepOptions) {
    let inner = heads * width;
    let channels = inner + 2 * groups * state;
    let projected = flat[0].clone().reshape([rows, inner + channels + heads]) * 2.0;
    let inputs = SsmStepInputs {
        z: projected.clone().narrow(1, 0, inner),
        xbc: projected.clone().narrow(1, inner, channels),
        dt: projected.narrow(1, inner + channels, heads),
        conv_weight: flat[1].clone().reshape([channels, 1, taps]),
        conv_bias: Some(flat[2].clone()),
        a_log: flat[3].clone(),
        d: flat[4].clone(),
        dt_bias: flat[5].clone(),
        norm_weight: flat[6].clone(),
        // Fresh buffers, which are written in place.
        conv_pool: (flat[7].clone() * 1.0).reshape([slots, channels, taps - 1]),
        ssm_pool: (flat[8].clone() * 1.0).reshape([slots, heads, width, state]),
    };
    (inputs, SsmStepOptions { num_groups: groups, dt_limit: (0.1, 1.5), epsilon: 1e-5 })
}

#[test]
fn ssm_step_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("ssm_step", device);
    for sizes in STEP_SIZES {
        let [rows, slots, ..] = sizes;
        let inputs = step_inputs(sizes);
        // Forks, in-place rows, and sources that another row overwrites.
        let src: Vec<u32> = (0..rows as u32).map(|row| row * 2 / 3).collect();
        let dst: Vec<u32> = (0..rows as u32).map(|row| (row + 1) % slots as u32).collect();
        let same: Vec<u32> = (0..rows as u32).collect();
        let flatten = |(y, conv, ssm): (Tensor<2>, Tensor<3>, Tensor<4>)| {
            vec![y.flatten(0, 1), conv.flatten(0, 2), ssm.flatten(0, 3)]
        };
        for (src, dst) in [(&src, &dst), (&same, &same)] {
            report.values(
                &format!("{sizes:?} {src:?} to {dst:?}"),
                &inputs,
                &|flat| {
                    let (inputs, options) = step_arguments(flat, sizes);
                    flatten(ssm_step(inputs, options, src.clone(), dst.clone()))
                },
                &|flat| {
                    let (inputs, options) = step_arguments(flat, sizes);
                    flatten(nemo_kernels::ssm_step::reference::ssm_step(inputs, options, src, dst))
                },
            );
        }
    }
    report.finish(2e-6, 0.0);
}

#[test]
fn linear_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("linear", device);
    // One row is a shape of its own: that of decoding.
    for [batch, tokens, inputs, outputs] in [[1, 1, 1, 1], [1, 1, 256, 130], [2, 3, 17, 33], [1, 64, 65, 40]] {
        let mut noise = Noise::new(10);
        let values = [noise.vector(batch * tokens * inputs), noise.vector(outputs * inputs), noise.vector(outputs)];
        type Projection = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;
        let run = |flat: &[Tensor<1>], projection: Projection| {
            let x = swapped(&flat[0], [batch, tokens, inputs]);
            vec![projection(x, flat[1].clone().reshape([outputs, inputs]), Some(flat[2].clone())).flatten(0, 2)]
        };
        let reference = nemo_kernels::linear::reference::linear;
        let name = format!("{:?}", [batch, tokens, inputs, outputs]);
        report.with_gradients(&name, &values, &[], &|flat| run(flat, linear), &|flat| run(flat, reference));
    }
    report.finish(1e-6, 2e-6);
}

/// A pool that something else still holds is copied, not changed under its holder.
#[test]
fn shared_pools_are_copied() {
    let Some(device) = test_device() else { return };
    let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
    let (k_pool, v_pool) = (ones([2, 4, 1, 8]), ones([2, 4, 1, 8]));
    let new = Tensor::<3>::zeros([1, 1, 8], &device);
    let (written, _) = cache_write(k_pool.clone(), v_pool, new.clone(), new, vec![3]);
    assert_eq!(to_vec(k_pool.sum()), [64.0]);
    assert_eq!(to_vec(written.sum()), [56.0]);
}
