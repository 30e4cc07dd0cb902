//! However a tensor lies in memory, results are the same bits, and nothing that somebody else holds is written to.
//!
//! CUDA devices hand out memory with gaps between the rows, so what an operation of Burn returns need not be contiguous.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use nemo_kernels::*;

use crate::adamw_forms::{adamw, adamw_master, adamw_stochastic};

use crate::attention::sequences;
use crate::check::*;
use crate::engine::{STEP_SIZES, step_arguments, step_inputs};
use crate::harness::*;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// Contiguous, and nobody else's.
    Own,
    /// Contiguous, and somebody else's too.
    Shared,
    /// As the device lays out results: with gaps, where it is CUDA.
    Gaps,
    /// Such a result that somebody else has too.
    SharedGaps,
    /// The end of a larger vector.
    Offset,
    /// With the first two axes swapped.
    Swapped,
}

const LAYOUTS: [Layout; 5] = [Layout::Shared, Layout::Gaps, Layout::SharedGaps, Layout::Offset, Layout::Swapped];

/// Tensors that somebody else holds while an operation runs: how to read them, and the values they must keep.
#[derive(Default)]
pub struct Held(Vec<(Read, Vec<f64>)>);

type Read = Box<dyn Fn() -> Vec<f64>>;

impl Held {
    fn hold<const D: usize>(&mut self, tensor: &Tensor<D>) {
        let tensor = tensor.clone();
        let read = move || to_vec(tensor.clone());
        let values = read();
        self.0.push((Box::new(read), values));
    }

    #[track_caller]
    fn assert_unchanged(&self, name: &str) {
        assert!(
            self.0.iter().all(|(read, values)| read() == *values),
            "{name}: what somebody else holds was written to"
        );
    }
}

/// The values as a tensor of this shape and layout.
pub fn laid<const D: usize>(layout: Layout, held: &mut Held, flat: &Tensor<1>, shape: [usize; D]) -> Tensor<D> {
    let own = || (flat.clone() * 1.0).reshape(shape);
    match layout {
        Layout::Own => own(),
        Layout::Shared => {
            let tensor = own();
            held.hold(&tensor);
            tensor
        }
        Layout::Gaps | Layout::SharedGaps => {
            // The source lives on, so the result gets memory of its own.
            let tensor = flat.clone().reshape(shape) * 1.0;
            if layout == Layout::SharedGaps {
                held.hold(&tensor);
            }
            tensor
        }
        Layout::Offset => {
            // As far in as device memory is aligned, or the slice would be a copy.
            let (before, [size]) = (128, flat.dims());
            let both = Tensor::cat(vec![Tensor::zeros([before], &flat.device()), flat.clone()], 0);
            held.hold(&both);
            both.narrow(0, before, size).reshape(shape)
        }
        Layout::Swapped if D == 1 => own(),
        Layout::Swapped => {
            let swapped = flat.clone().reshape(shape).swap_dims(0, 1);
            let memory = swapped.dims();
            swapped.reshape([flat.dims()[0]]).reshape(memory).swap_dims(0, 1)
        }
    }
}

/// Runs an operation on tensors in every layout and compares the bits with those of plain tensors.
fn assert_same_in_every_layout(name: &str, run: impl Fn(Layout, &mut Held) -> Vec<Vec<f64>>) {
    let expected = run(Layout::Own, &mut Held::default());
    assert!(expected.iter().flatten().all(|value| value.is_finite()), "{name}");
    for layout in LAYOUTS {
        let name = format!("{name}, {layout:?}");
        let mut held = Held::default();
        assert!(run(layout, &mut held) == expected, "{name}: other values");
        held.assert_unchanged(&name);
    }
}

#[test]
fn cache_write_in_every_layout() {
    let Some(device) = test_device() else { return };
    let device = &device;
    // Widths whose rows fill no whole unit of a pitch.
    for (pool, slots) in [([3, 8, 2, 5], vec![23, 0, 7, 8]), ([4, 16, 3, 43], vec![9])] {
        let [.., heads, width] = pool;
        let rows = [slots.len(), heads, width];
        let mut noise = Noise::new(21);
        let mut values = |size| tensor(&noise.vector(size), DType::F32, device);
        let pools = [(); 2].map(|()| values(pool.iter().product()));
        let new = [(); 2].map(|()| values(rows.iter().product()));
        assert_same_in_every_layout(&format!("cache_write {pool:?}"), |layout, held| {
            let [k_pool, v_pool] = pools.each_ref().map(|flat| laid(layout, held, flat, pool));
            let [k, v] = new.each_ref().map(|flat| laid(layout, held, flat, rows));
            let (k, v) = cache_write(k_pool, v_pool, k, v, slots.clone());
            vec![to_vec(k), to_vec(v)]
        });
    }
}

#[test]
fn ssm_step_in_every_layout() {
    let Some(device) = test_device() else { return };
    for sizes in STEP_SIZES {
        let [rows, slots, heads, width, groups, state, taps] = sizes;
        let channels = heads * width + 2 * groups * state;
        let flat: Vec<Tensor<1>> =
            step_inputs(sizes).iter().map(|values| tensor(values, DType::F32, &device)).collect();
        let places: Vec<u32> = (0..rows as u32).collect();
        assert_same_in_every_layout(&format!("ssm_step {sizes:?}"), |layout, held| {
            let (mut inputs, options) = step_arguments(&flat, sizes);
            inputs.conv_weight = laid(layout, held, &flat[1], [channels, 1, taps]);
            inputs.conv_pool = laid(layout, held, &flat[7], [slots, channels, taps - 1]);
            inputs.ssm_pool = laid(layout, held, &flat[8], [slots, heads, width, state]);
            let (y, conv, ssm) = ssm_step(inputs, options, places.clone(), places.clone());
            vec![to_vec(y), to_vec(conv), to_vec(ssm)]
        });
    }
}

#[test]
fn adamw_in_every_layout() {
    let Some(device) = test_device() else { return };
    for size in [1, 127, 5000] {
        let mut noise = Noise::new(22);
        let [p, g, m, v] = [(); 4].map(|()| tensor(&noise.vector(size), DType::F32, &device));
        let v = v.abs();
        assert_same_in_every_layout(&format!("adamw {size}"), |layout, held| {
            let [p, g, m, v] = [&p, &g, &m, &v].map(|flat| laid(layout, held, flat, [size]));
            let sum = sum_of_squares(&g);
            let (p, m, v) = adamw(p, g, m, v, 3, STEP);
            vec![to_vec(p), to_vec(m), to_vec(v), vec![sum]]
        });
        assert_same_in_every_layout(&format!("adamw_master and adamw_stochastic {size}"), |layout, held| {
            let [master, g, m, v] = [&p, &g, &m, &v].map(|flat| laid(layout, held, flat, [size]));
            let key = RoundingKey { seed: 3, stream: 1 };
            let (rounded, m, v) = adamw_stochastic(master.clone(), g.clone(), m, v, 3, STEP, key);
            let narrow = if device.supports_dtype(DType::BF16) { DType::BF16 } else { DType::F16 };
            let (param, master, m, v) = adamw_master(rounded.clone().cast(narrow), master, g, m, v, 4, STEP);
            vec![to_vec(rounded), to_vec(param), to_vec(master), to_vec(m), to_vec(v)]
        });
    }
}

/// The inputs of an operation, each to be had in the layout under test.
pub struct Inputs<'a> {
    layout: Layout,
    held: &'a mut Held,
    flat: &'a [Tensor<1>],
}

impl Inputs<'_> {
    fn get<const D: usize>(&mut self, index: usize, shape: [usize; D]) -> Tensor<D> {
        laid(self.layout, self.held, &self.flat[index], shape)
    }
}

/// Compares the results of an operation and, if it is differentiated, its gradients by all inputs.
fn check_layouts(name: &str, sizes: &[usize], differentiated: bool, operation: impl Fn(&mut Inputs) -> Vec<Tensor<1>>) {
    let Some(device) = test_device() else { return };
    let device = if differentiated { device.autodiff() } else { device };
    let mut noise = Noise::new(23);
    let values: Vec<Vec<f64>> = sizes.iter().map(|&size| noise.vector(size)).collect();
    assert_same_in_every_layout(name, |layout, held| {
        let flat: Vec<Tensor<1>> = values
            .iter()
            .map(|values| {
                let flat = tensor(values, DType::F32, &device);
                if differentiated { flat.require_grad() } else { flat }
            })
            .collect();
        let outputs = operation(&mut Inputs { layout, held, flat: &flat });
        let mut results: Vec<Vec<f64>> = outputs.iter().cloned().map(to_vec).collect();
        if differentiated {
            let weighted = outputs.into_iter().enumerate().map(|(index, output)| {
                let weights = Noise::new(900 + index as u64).vector(output.dims()[0]);
                (output * tensor(&weights, DType::F32, &device)).sum()
            });
            let mut gradients = weighted.reduce(|sum, term| sum + term).unwrap().backward();
            results.extend(flat.iter().map(|flat| to_vec(flat.grad_remove(&mut gradients).unwrap())));
        }
        results
    });
}

#[test]
fn linear_in_every_layout() {
    for [batch, tokens, inputs, outputs] in [[1, 1, 40, 33], [3, 5, 65, 43], [2, 64, 24, 130]] {
        let name = format!("linear {:?}", [batch, tokens, inputs, outputs]);
        check_layouts(&name, &[batch * tokens * inputs, outputs * inputs, outputs], true, |from| {
            let (x, weight) = (from.get(0, [batch, tokens, inputs]), from.get(1, [outputs, inputs]));
            vec![linear(x, weight, Some(from.get(2, [outputs]))).flatten(0, 2)]
        });
    }
    let Some(device) = test_device() else { return };
    if !device.supports_dtype(DType::I8) {
        return println!("skipped: linear_int8, whose weights this device does not store");
    }
    let (inputs, outputs) = (43, 21);
    check_layouts("linear_int8", &[5 * inputs, outputs * inputs], false, |from| {
        let weight = Int8Weight::quantize(from.get(1, [outputs, inputs]));
        vec![linear_int8(from.get(0, [1, 5, inputs]), &weight, None).flatten(0, 2)]
    });
}

#[test]
fn norms_and_activation_in_every_layout() {
    let (shape, width) = ([2, 3, 45], 45);
    let size = 6 * width;
    check_layouts("rms_norm", &[size, width], true, |from| {
        vec![rms_norm(from.get(0, shape), from.get(1, [width]), 1e-5).flatten(0, 2)]
    });
    check_layouts("add_rms_norm", &[size, size, width], true, |from| {
        let (sum, normed) = add_rms_norm(from.get(0, shape), from.get(1, shape), from.get(2, [width]), 1e-5);
        vec![sum.flatten(0, 2), normed.flatten(0, 2)]
    });
    check_layouts("gated_rms_norm", &[size, size, width], true, |from| {
        let (x, gate) = (from.get(0, shape), from.get(1, shape));
        vec![gated_rms_norm(x, gate, from.get(2, [width]), 3, 1e-5).flatten(0, 2)]
    });
    check_layouts("squared_relu", &[size], true, |from| vec![squared_relu(from.get(0, shape)).flatten(0, 2)]);
}

#[test]
fn convolution_and_scan_in_every_layout() {
    let (batch, tokens, channels) = (2, 5, 43);
    let sizes = [batch * tokens * channels, channels * 4, channels, channels * 3];
    check_layouts("causal_conv", &sizes, true, |from| {
        let (x, weight) = (from.get(0, [batch, tokens, channels]), from.get(1, [channels, 1, 4]));
        let (bias, window) = (from.get(2, [channels]), from.get(3, [1, channels, 3]));
        let (y, window) = causal_conv(x, weight, Some(bias), window, None);
        vec![y.flatten(0, 2), window.flatten(0, 2)]
    });
    let (heads, width, groups, state) = (4, 5, 2, 11);
    let rows = batch * tokens;
    let sizes = [rows * heads * width, rows * heads, heads, rows * groups * state, rows * groups * state];
    let sizes = [&sizes[..], &[heads, heads, heads * width * state]].concat();
    check_layouts("ssd_scan", &sizes, true, |from| {
        let inputs = SsdInputs {
            x: from.get(0, [batch, tokens, heads, width]),
            dt: from.get(1, [batch, tokens, heads]),
            a_log: from.get(2, [heads]),
            b: from.get(3, [batch, tokens, groups, state]),
            c: from.get(4, [batch, tokens, groups, state]),
            d: from.get(5, [heads]),
            dt_bias: from.get(6, [heads]),
            state: from.get(7, [1, heads, width, state]),
        };
        let (y, state) = ssd_scan(inputs, (0.0, f64::INFINITY), None);
        vec![y.flatten(0, 3), state.flatten(0, 3)]
    });
}

#[test]
fn attention_in_every_layout() {
    let (batch, tokens, heads, key_heads, width, prefix) = (2, 5, 4, 2, 10, 3);
    let (own, before) = (batch * tokens * key_heads * width, prefix * key_heads * width);
    let sizes = [batch * tokens * heads * width, own, own, before, before];
    check_layouts("causal_attention", &sizes, true, |from| {
        let q = from.get(0, [batch, tokens, heads, width]);
        let [k, v] = [1, 2].map(|index| from.get(index, [batch, tokens, key_heads, width]));
        let [prefix_k, prefix_v] = [3, 4].map(|index| from.get(index, [1, prefix, key_heads, width]));
        vec![causal_attention(q, k, v, Some((prefix_k, prefix_v)), None, 0.3).flatten(0, 3)]
    });
    let (sequences, pages) = sequences(&[20, 9], &[1, 3], 8);
    let pool = [pages, 8, key_heads, width];
    let size = pool.iter().product();
    check_layouts("paged_attention", &[4 * heads * width, size, size], false, |from| {
        let (q, k, v) = (from.get(0, [4, heads, width]), from.get(1, pool), from.get(2, pool));
        vec![paged_attention(q, k, v, Arc::new(sequences.clone()), 0.3).flatten(0, 2)]
    });
}

#[test]
fn head_in_every_layout() {
    let (rows, width, vocabulary) = (9, 21, 70);
    check_layouts("linear_log_prob", &[rows * width, vocabulary * width], true, |from| {
        let (hidden, weight) = (from.get(0, [rows, width]), from.get(1, [vocabulary, width]));
        let targets = Tensor::from_data(TensorData::new(vec![7i64; rows], [rows]), &hidden.device());
        vec![linear_log_prob(hidden, weight, targets, 0.7).log_prob]
    });
}
