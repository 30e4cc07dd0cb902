//! However a tensor lies in memory, results are the same bits, and nothing that somebody else holds is written to.
//!
//! CUDA devices hand out memory with gaps between the rows, so what an operation of Burn returns need not be contiguous.

use burn::tensor::{DType, Tensor};
use nemo_kernels::{AdamWOptions, adamw, cache_write, linear, ssm_step};

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
    /// The second half of a larger tensor.
    Offset,
    /// With the first two axes swapped.
    Swapped,
}

const LAYOUTS: [Layout; 5] = [Layout::Shared, Layout::Gaps, Layout::SharedGaps, Layout::Offset, Layout::Swapped];

/// Tensors that somebody else holds while an operation runs: how to read them, and the values they must keep.
#[derive(Default)]
pub struct Held(Vec<(Box<dyn Fn() -> Vec<f64>>, Vec<f64>)>);

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
            let both = Tensor::cat(vec![own().zeros_like(), own()], 0);
            held.hold(&both);
            both.narrow(0, shape[0], shape[0])
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
    let options = AdamWOptions { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    for size in [1, 127, 5000] {
        let mut noise = Noise::new(22);
        let [p, g, m, v] = [(); 4].map(|()| tensor(&noise.vector(size), DType::F32, &device));
        let v = v.abs();
        assert_same_in_every_layout(&format!("adamw {size}"), |layout, held| {
            let [p, g, m, v] = [&p, &g, &m, &v].map(|flat| laid(layout, held, flat, [size]));
            let (p, m, v) = adamw(p, g, m, v, 3, options);
            vec![to_vec(p), to_vec(m), to_vec(v)]
        });
    }
}

#[test]
fn linear_in_every_layout() {
    let Some(device) = test_device() else { return };
    for [batch, tokens, inputs, outputs] in [[1, 1, 40, 33], [3, 5, 65, 43], [2, 64, 24, 130]] {
        let mut noise = Noise::new(23);
        let mut values = |size| tensor(&noise.vector(size), DType::F32, &device);
        let (x, weight) = (values(batch * tokens * inputs), values(outputs * inputs));
        assert_same_in_every_layout(&format!("linear {:?}", [batch, tokens, inputs, outputs]), |layout, held| {
            let x = laid(layout, held, &x, [batch, tokens, inputs]);
            vec![to_vec(linear(x, laid(layout, held, &weight, [outputs, inputs]), None))]
        });
    }
}
