//! Every operation at the head sizes of Nemotron Nano 9B v2: what its kernels are compiled for depends on nothing else.
//!
//! Mamba heads of 80, two to a group, with a state of 128; attention heads of 128, five queries to a key; few heads, tokens
//! and channels, which the kernels are told when they run. In f32 and, where the device stores it, in bf16.

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};
use nemo_kernels::*;

use crate::adamw_forms::{adamw, adamw_master, adamw_stochastic};

use crate::attention::sequences;
use crate::check::*;
use crate::engine::{step_arguments, step_inputs};
use crate::harness::*;

/// Runs a check in each dtype that the device stores.
fn in_each_dtype(run: impl Fn(InDtype)) {
    let Some(device) = test_device() else { return };
    for dtype in [DType::F32, DType::BF16] {
        if device.supports_dtype(dtype) {
            run(InDtype { device: &device, dtype });
        } else {
            println!("skipped: {device:?} does not store {dtype:?}");
        }
    }
}

#[test]
fn nano_9b_norms_and_activation() {
    in_each_dtype(|check| {
        let (tokens, width, groups) = (3, 640, 8);
        let mut noise = Noise::new(31);
        let size = tokens * width;
        let inputs = [noise.vector(size), noise.vector(size), noise.vector(width)];
        let part = |flat: &[Tensor<1>], index: usize| flat[index].clone().reshape([1, tokens, width]);
        let norm = |flat: &[Tensor<1>], norm: fn(Tensor<3>, Tensor<1>, f64) -> Tensor<3>| {
            vec![norm(part(flat, 0), flat[2].clone(), 1e-5).flatten(0, 2)]
        };
        let reference = rms_norm::reference::rms_norm;
        check.gradients("rms_norm", &inputs, &|f| norm(f, rms_norm), &|f| norm(f, reference));
        type AddNorm = fn(Tensor<3>, Tensor<3>, Tensor<1>, f64) -> (Tensor<3>, Tensor<3>);
        let add = |flat: &[Tensor<1>], add: AddNorm| {
            let (sum, normed) = add(part(flat, 0), part(flat, 1), flat[2].clone(), 1e-5);
            vec![sum.flatten(0, 2), normed.flatten(0, 2)]
        };
        let reference = rms_norm::reference::add_rms_norm;
        check.gradients("add_rms_norm", &inputs, &|f| add(f, add_rms_norm), &|f| add(f, reference));
        type Gated = fn(Tensor<3>, Tensor<3>, Tensor<1>, usize, f64) -> Tensor<3>;
        let gated = |flat: &[Tensor<1>], gated: Gated| {
            vec![gated(part(flat, 0), part(flat, 1), flat[2].clone(), groups, 1e-5).flatten(0, 2)]
        };
        let reference = gated_rms_norm::reference::gated_rms_norm;
        check.gradients("gated_rms_norm", &inputs, &|f| gated(f, gated_rms_norm), &|f| gated(f, reference));
        let square = |flat: &[Tensor<1>], square: fn(Tensor<3>) -> Tensor<3>| vec![square(part(flat, 0)).flatten(0, 2)];
        let reference = squared_relu::reference::squared_relu;
        check.gradients("squared_relu", &inputs[..1], &|f| square(f, squared_relu), &|f| square(f, reference));
    });
}

#[test]
fn nano_9b_convolution_and_scan() {
    in_each_dtype(|check| {
        let (batch, tokens, heads, width, groups, state, taps) = (2, 35, 16, 80, 8, 128, 4);
        let channels = 2 * groups * state;
        let mut noise = Noise::new(32);
        let inputs = [
            noise.vector(batch * tokens * channels),
            noise.vector(channels * taps),
            noise.vector(channels),
            noise.vector(batch * channels * (taps - 1)),
        ];
        type Convolution =
            fn(Tensor<3>, Tensor<3>, Option<Tensor<1>>, Tensor<3>, Option<&[usize]>) -> (Tensor<3>, Tensor<3>);
        let convolve = |flat: &[Tensor<1>], convolve: Convolution| {
            let (y, window) = convolve(
                flat[0].clone().reshape([batch, tokens, channels]),
                flat[1].clone().reshape([channels, 1, taps]),
                Some(flat[2].clone()),
                flat[3].clone().reshape([batch, channels, taps - 1]),
                None,
            );
            vec![y.flatten(0, 2), window.flatten(0, 2)]
        };
        let reference = causal_conv::reference::causal_conv;
        check.gradients("causal_conv", &inputs, &|f| convolve(f, causal_conv), &|f| convolve(f, reference));

        // A shared state, as behind a prefix.
        let sizes = [tokens * heads * width, tokens * groups * state, tokens * groups * state, tokens * heads];
        let mut inputs: Vec<Vec<f64>> = sizes.iter().map(|size| noise.vector(batch * size)).collect();
        inputs.extend([heads, heads, heads, heads * width * state].map(|size| noise.vector(size)));
        type Scan = fn(SsdInputs, (f64, f64), Option<&[usize]>) -> (Tensor<4>, Tensor<4>);
        let scan = |flat: &[Tensor<1>], scan: Scan| {
            let inputs = SsdInputs {
                x: flat[0].clone().reshape([batch, tokens, heads, width]),
                b: flat[1].clone().reshape([batch, tokens, groups, state]) * 0.1,
                c: flat[2].clone().reshape([batch, tokens, groups, state]) * 0.1,
                dt: flat[3].clone().reshape([batch, tokens, heads]),
                a_log: flat[4].clone(),
                d: flat[5].clone(),
                dt_bias: flat[6].clone(),
                state: flat[7].clone().reshape([1, heads, width, state]),
            };
            let (y, state) = scan(inputs, (0.0, f64::INFINITY), None);
            vec![y.flatten(0, 3), state.flatten(0, 3)]
        };
        let reference = ssd_scan::reference::ssd_scan;
        check.gradients("ssd_scan", &inputs, &|f| scan(f, ssd_scan), &|f| scan(f, reference));
    });
}

#[test]
fn nano_9b_attention() {
    in_each_dtype(|check| {
        let (batch, tokens, query_heads, key_heads, width, prefix) = (2, 9, 10, 2, 128, 37);
        let mut noise = Noise::new(33);
        let own = batch * tokens * key_heads * width;
        let before = prefix * key_heads * width;
        let sizes = [batch * tokens * query_heads * width, own, own, before, before];
        let inputs = sizes.map(|size| noise.vector(size));
        type Attention =
            fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<(Tensor<4>, Tensor<4>)>, Option<&[usize]>, f64) -> Tensor<4>;
        let scale = 1.0 / (width as f64).sqrt();
        let attend = |flat: &[Tensor<1>], attend: Attention| {
            let [k, v] = [1, 2].map(|index: usize| flat[index].clone().reshape([batch, tokens, key_heads, width]));
            let [prefix_k, prefix_v] =
                [3, 4].map(|index: usize| flat[index].clone().reshape([1, prefix, key_heads, width]));
            let q = flat[0].clone().reshape([batch, tokens, query_heads, width]);
            vec![attend(q, k, v, Some((prefix_k, prefix_v)), None, scale).flatten(0, 3)]
        };
        let reference = causal_attention::reference::causal_attention;
        let fast = |f: &[Tensor<1>]| attend(f, causal_attention);
        check.gradients("causal_attention", &inputs, &fast, &|f| attend(f, reference));

        let page_size = 16;
        let (sequences, pages) = sequences(&[600, 33], &[1, 4], page_size);
        let pool = [pages, page_size, key_heads, width];
        let numbers = pool.iter().product();
        let inputs = [noise.vector(5 * query_heads * width), noise.vector(numbers), noise.vector(numbers)];
        type Paged = fn(Tensor<3>, Tensor<4>, Tensor<4>, Arc<Vec<PagedSequence>>, f64) -> Tensor<3>;
        let attend = |flat: &[Tensor<1>], attend: Paged| {
            let (k, v) = (flat[1].clone().reshape(pool), flat[2].clone().reshape(pool));
            let q = flat[0].clone().reshape([5, query_heads, width]);
            vec![attend(q, k, v, Arc::new(sequences.clone()), scale).flatten(0, 2)]
        };
        let reference: Paged = |q, k, v, all, scale| paged_attention::reference::paged_attention(q, k, v, &all, scale);
        let fast = |f: &[Tensor<1>]| attend(f, paged_attention);
        check.values("paged_attention", &inputs, &fast, &|f| attend(f, reference));
    });
}

#[test]
fn nano_9b_step() {
    in_each_dtype(|check| {
        let sizes = [3, 5, 16, 80, 8, 128, 4];
        let inputs = step_inputs(sizes);
        // A slot that is read after another row has written to it.
        let (src, dst) = (vec![4, 0, 4], vec![4, 3, 2]);
        type Step = fn(SsmStepInputs, SsmStepOptions, Vec<u32>, Vec<u32>) -> (Tensor<2>, Tensor<3>, Tensor<4>);
        let step = |flat: &[Tensor<1>], step: Step| {
            let (mut inputs, options) = step_arguments(flat, sizes);
            if check.dtype == DType::BF16 {
                // States are in f32 whatever the activations are in.
                inputs.ssm_pool =
                    inputs.ssm_pool.cast(if flat[0].dtype() == check.dtype { DType::F32 } else { DType::F64 });
            }
            let (y, conv, ssm) = step(inputs, options, src.clone(), dst.clone());
            vec![y.flatten(0, 1), conv.flatten(0, 2), ssm.flatten(0, 3).cast(flat[0].dtype())]
        };
        let reference: Step = |inputs, options, src, dst| ssm_step::reference::ssm_step(inputs, options, &src, &dst);
        check.values("ssm_step", &inputs, &|f| step(f, ssm_step), &|f| step(f, reference));
    });
}

#[test]
fn nano_9b_head_cache_and_optimizer() {
    in_each_dtype(|check| {
        let (rows, width, vocabulary) = (33, 64, 1100);
        let mut noise = Noise::new(34);
        let inputs = [noise.vector(rows * width), noise.vector(vocabulary * width)];
        type Head = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>, f64) -> LogProbOutput;
        let score = |flat: &[Tensor<1>], head: Head| {
            let targets: Vec<i64> = (0..rows).map(|row| ((row * 37 + 5) % vocabulary) as i64).collect();
            let targets = Tensor::from_data(TensorData::new(targets, [rows]), &flat[0].device());
            let (hidden, weight) =
                (flat[0].clone().reshape([rows, width]), flat[1].clone().reshape([vocabulary, width]));
            vec![head(hidden, weight, targets, 1.0).log_prob.cast(flat[0].dtype())]
        };
        let reference = linear_log_prob::reference::linear_log_prob;
        check.gradients("linear_log_prob", &inputs, &|f| score(f, linear_log_prob), &|f| score(f, reference));

        let (pool, new) = ([3, 16, 2, 128], [4, 2, 128]);
        let [pool_size, new_size] = [pool.iter().product(), new.iter().product()];
        let inputs = [noise.vector(pool_size), noise.vector(pool_size), noise.vector(new_size), noise.vector(new_size)];
        let slots = vec![47, 0, 17, 16];
        let write = |flat: &[Tensor<1>], fast: bool| {
            let [k_pool, v_pool] = [0, 1].map(|index: usize| flat[index].clone().reshape(pool));
            let [k, v] = [2, 3].map(|index: usize| flat[index].clone().reshape(new));
            let (k, v) = if fast {
                cache_write(k_pool, v_pool, k, v, slots.clone())
            } else {
                cache_write::reference::cache_write(k_pool, v_pool, k, v, &slots)
            };
            vec![k.flatten(0, 3), v.flatten(0, 3)]
        };
        check.values("cache_write", &inputs, &|f| write(f, true), &|f| write(f, false));

        let [p, g, m, v] = [(); 4].map(|()| tensor(&noise.vector(5000), DType::F32, check.device));
        let (p, v) = (p.cast(check.dtype), v.abs());
        let finite = |tensors: [Tensor<1>; 3]| {
            assert!(tensors.into_iter().all(|tensor| to_vec(tensor).iter().all(|value| value.is_finite())));
        };
        assert!(sum_of_squares(&g) > 0.0);
        let rounding = Some(RoundingKey { seed: 3, stream: 0 });
        for narrow in [DType::BF16, DType::U8] {
            if !check.device.supports_dtype(narrow) {
                println!("skipped: {:?} does not store {narrow:?}", check.device);
                continue;
            }
            let moments = [adamw::Order::First, adamw::Order::Second].map(|order| match narrow {
                DType::U8 => Moment::blockwise_zeros(order, [5000], check.device),
                _ => Moment::zeros([5000], check.device, narrow),
            });
            let options = AdamWOptions { rounding, ..STEP };
            let (weights, _) = adamw_step(Weights::Rounded(p.clone()), g.clone(), moments, 3, options);
            let Weights::Rounded(param) = weights else { panic!("the form changed") };
            finite([param.clone(), param.clone(), param]);
        }
        if check.dtype == DType::F32 {
            let (p, m, v) = adamw(p, g, m, v, 3, STEP);
            finite([p, m, v]);
        } else {
            let key = RoundingKey { seed: 3, stream: 0 };
            let (p, m, v) = adamw_stochastic(p, g.clone(), m, v, 3, STEP, key);
            finite([p.clone(), m.clone(), v.clone()]);
            let (p, master, m, _) = adamw_master(p.clone(), p.cast(DType::F32), g, m, v, 3, STEP);
            finite([p, master, m]);
        }
    });
}
