use super::*;
use std::cell::Cell;

thread_local! {
    /// Overrides the level of [`run`] on this thread; work too small to be split stays on it.
    pub(crate) static FORCED_LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
}

/// Results of `f` at every level that this machine has.
pub(crate) fn at_every_level<R>(f: impl Fn() -> R) -> Vec<R> {
    let levels = Level::available().iter();
    let results = levels.map(|&level| {
        FORCED_LEVEL.set(Some(level));
        f()
    });
    let results = results.collect();
    FORCED_LEVEL.set(None);
    results
}

struct Everything<'a>(&'a [f32; 256]);

impl Kernel for Everything<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<u32> {
        let rows: [L; 16] = std::array::from_fn(|i| unsafe { L::load(self.0.as_ptr().add(16 * i)) });
        let mut out = Vec::new();
        out.extend(L::sum_each(rows).to_array());
        for row in L::transpose(rows) {
            out.extend(row.to_array());
        }
        for (i, row) in rows.iter().enumerate() {
            out.extend(row.exp().to_array());
            out.extend(row.silu().to_array());
            out.extend(row.sigmoid().to_array());
            out.push(row.sum());
            out.push(row.largest());
            out.extend(unsafe { L::load_first(self.0.as_ptr().add(3 * i), i) }.to_array());
            let bytes = self.0.as_ptr().cast::<u8>();
            out.extend(unsafe { L::load_bf16(bytes.add(6 * i).cast()) }.to_array());
            out.extend(unsafe { L::load_first_bf16(bytes.add(6 * i).cast(), i) }.to_array());
            out.extend(unsafe { L::load_i8(bytes.add(3 * i).cast()) }.to_array());
            out.extend(unsafe { L::load_first_i8(bytes.add(3 * i).cast(), i) }.to_array());
            let mut part = [7.0; 16];
            unsafe { row.store_first(part.as_mut_ptr(), i + 1) };
            out.extend(part);
        }
        out.into_iter().map(f32::to_bits).collect()
    }
}

fn values() -> [f32; 256] {
    std::array::from_fn(|i| ((i * 7919 % 1009) as f32 - 504.0) * 0.2)
}

#[test]
fn every_level_gives_the_same_bits() {
    let values = values();
    let reference = run_at(Level::Portable, Everything(&values));
    for &level in Level::available() {
        assert_eq!(run_at(level, Everything(&values)), reference, "{level:?}");
    }
}

#[test]
fn transpose_and_sum_each_follow_their_documentation() {
    let values = values();
    let bits = run(Everything(&values));
    for i in 0..16 {
        let row = 4 * (i % 4) + i / 4;
        let sum: f32 = (0..16).map(|j| values[16 * row + j]).sum();
        assert!((f32::from_bits(bits[i]) - sum).abs() < 1e-3);
        for j in 0..16 {
            assert_eq!(f32::from_bits(bits[16 + 16 * i + j]), values[16 * j + i]);
        }
    }
}

struct Widen([u16; 16], [i8; 16]);
impl Kernel for Widen {
    type Output = [[f32; 16]; 4];
    #[inline(always)]
    fn run<L: Lanes>(self) -> [[f32; 16]; 4] {
        let (bf16, i8) = (self.0.as_ptr(), self.1.as_ptr());
        unsafe {
            [L::load_bf16(bf16), L::load_first_bf16(bf16, 11), L::load_i8(i8), L::load_first_i8(i8, 11)]
                .map(L::to_array)
        }
    }
}

#[test]
fn narrow_values_widen_exactly() {
    let values: [i8; 16] = std::array::from_fn(|i| (i as i8 - 8) * 16 + i as i8);
    let halves: [u16; 16] = std::array::from_fn(|i| (f32::from(values[i]).to_bits() >> 16) as u16);
    for &level in Level::available() {
        let [bf16, first_bf16, i8, first_i8] = run_at(level, Widen(halves, values));
        for lane in 0..16 {
            let expected = f32::from(values[lane]);
            let kept = if lane < 11 { expected } else { 0.0 };
            assert_eq!([bf16[lane], first_bf16[lane], i8[lane], first_i8[lane]], [expected, kept, expected, kept]);
        }
    }
}

struct Exp([f32; 16]);
impl Kernel for Exp {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; 16] {
        L::from_array(&self.0).exp().to_array()
    }
}

#[test]
fn exp_is_accurate_and_the_scalar_form_agrees() {
    let mut worst = 0.0f64;
    for step in 0..11_000 {
        let x: [f32; 16] = std::array::from_fn(|i| -87.0 + 0.0159 * (step as f32 + i as f32 / 16.0));
        let got = run(Exp(x));
        for (x, got) in x.into_iter().zip(got) {
            let want = f64::from(x.min(EXP_MAX)).exp();
            worst = worst.max(((f64::from(got) - want) / want).abs());
            assert_eq!(exp(x).to_bits(), got.to_bits(), "{x}");
        }
    }
    assert!(worst < 1.5e-7, "{worst}");
    let special = run(Exp(std::array::from_fn(|i| [f32::NEG_INFINITY, -90.0, f32::NAN, f32::INFINITY][i % 4])));
    assert_eq!(special[0], 0.0);
    assert_eq!(special[1], 0.0);
    assert!(special[2].is_nan());
    assert!(special[3].is_finite());
}

#[test]
fn softplus_and_ln_are_accurate() {
    for step in -4000..4000 {
        let x = step as f32 * 0.01;
        let want = f64::from(x).exp().ln_1p();
        let got = f64::from(softplus(x));
        assert!((got - want).abs() <= 3e-7 * want, "{x}: {got} {want}");
        let y = 1.0 + (step + 4000) as f64 * 0.37;
        assert!((ln(y) - y.ln()).abs() <= 1e-14 * y.ln().abs().max(1.0), "{y}");
    }
}

/// The operations' own branches on [`Lanes::WIDE`] must not change bits either.
#[test]
fn operations_give_the_same_bits_at_every_level() {
    use crate::{
        Int8Weight, Moment, PagedSequence, RoundingKey, SsdInputs, Weights, adamw::Order, adamw_step, add_rms_norm,
        linear, linear_int8, paged_attention, squared_relu, ssd_scan,
    };
    use burn::tensor::{DType, Device, Tensor, TensorData};
    fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 7919 + count) % 1009) as f32 / 504.0 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
    fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
        let values = tensor.into_data().try_to_vec::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }
    let device = Device::flex();
    let autodiff = device.clone().autodiff();
    for rows in [1, 2, 3, 9] {
        let results = at_every_level(|| {
            let x = tensor([1, rows, 83], &autodiff).require_grad();
            let weight = tensor([45, 83], &autodiff).require_grad();
            let y = linear(x.clone(), weight.clone(), None);
            let grads = (y.clone() * y.clone()).sum().backward();
            let (dx, dw) = (x.grad(&grads).unwrap(), weight.grad(&grads).unwrap());
            [bits(y.inner()), bits(dx), bits(dw)]
        });
        assert!(results.iter().all(|result| *result == results[0]), "linear, {rows} rows");
    }
    let results = at_every_level(|| {
        let x = tensor([3, 67], &autodiff).require_grad();
        let y = squared_relu(x.clone());
        let grads = (y.clone() * tensor([3, 67], &autodiff)).sum().backward();
        [bits(y.inner()), bits(x.grad(&grads).unwrap()), bits(squared_relu(tensor([3, 67], &device)))]
    });
    assert!(results.iter().all(|result| *result == results[0]), "squared_relu");
    let results = at_every_level(|| {
        let x = tensor([1, 3, 67], &autodiff).require_grad();
        let weight = tensor([67], &autodiff).require_grad();
        let (sum, normed) = add_rms_norm(x.clone(), x.clone() * 0.7, weight.clone(), 1e-5);
        let grads = (sum.clone() * normed.clone()).sum().backward();
        let (dx, dw) = (x.grad(&grads).unwrap(), weight.grad(&grads).unwrap());
        [bits(sum.inner()), bits(normed.inner()), bits(dx), bits(dw)]
    });
    assert!(results.iter().all(|result| *result == results[0]), "add_rms_norm");
    // One row and head: more would be tasks of threads that know nothing of the level.
    for [width, state_size] in [[37, 10], [70, 50], [20, 128]] {
        let results = at_every_level(|| {
            let x = tensor([1, 41, 1, width], &autodiff).require_grad();
            let (b, c) =
                (tensor([1, 41, 1, state_size], &autodiff).require_grad(), tensor([1, 41, 1, state_size], &autodiff));
            let inputs = SsdInputs {
                x: x.clone(),
                dt: tensor([1, 41, 1], &autodiff),
                a_log: tensor([1], &autodiff),
                b: b.clone(),
                c,
                d: tensor([1], &autodiff),
                dt_bias: tensor([1], &autodiff),
                state: tensor([1, 1, width, state_size], &autodiff),
            };
            let (y, state) = ssd_scan(inputs, (0.0, f64::INFINITY), None);
            let grads = ((y.clone() * y.clone()).sum() + (state.clone() * state.clone()).sum()).backward();
            let (dx, db) = (x.grad(&grads).unwrap(), b.grad(&grads).unwrap());
            [bits(y.inner()), bits(state.inner()), bits(dx), bits(db)]
        });
        assert!(results.iter().all(|result| *result == results[0]), "ssd_scan, {width} by {state_size}");
    }
    let options = crate::AdamWOptions {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale: 1.0,
        rounding: None,
    };
    let results = at_every_level(|| {
        let [p, g, m] = [2503, 2503, 2503].map(|size| tensor([size], &device));
        let (v, narrow) = (p.clone().abs(), p.clone().cast(DType::BF16));
        let key = RoundingKey { seed: 1, stream: 2 };
        let options = crate::AdamWOptions { rounding: Some(key), ..options };
        let moments = [m, v].map(|moment| Moment::Float(moment.cast(DType::BF16)));
        let (a, [am, av]) = adamw_step(Weights::Rounded(narrow.clone()), g.clone(), moments, 3, options);
        let coded = [Order::First, Order::Second].map(|order| Moment::blockwise_zeros(order, [2503], &device));
        let weights = Weights::WithMaster { rounded: narrow, master: p };
        let (b, [bm, bv]) = adamw_step(weights, g, coded, 3, options);
        let moment = |moment| match moment {
            Moment::Float(values) => bits(values.cast(DType::F32)),
            Moment::Blockwise { codes, largest, .. } => {
                codes.into_data().iter::<u32>().chain(bits(largest)).collect::<Vec<_>>()
            }
        };
        let values = |weights| match weights {
            Weights::WithMaster { master: values, .. } | Weights::Rounded(values) | Weights::Single(values) => {
                bits(values.cast(DType::F32))
            }
        };
        [values(a), values(b), moment(am), moment(av), moment(bm), moment(bv)]
    });
    assert!(results.iter().all(|result| *result == results[0]), "adamw in sixteen bits");
    for rows in [1, 2, 3, 9, 20] {
        let x = tensor([1, rows, 83], &device);
        let weight = tensor([45, 83], &device);
        let (bf16, int8) = (weight.clone().cast(DType::BF16), Int8Weight::quantize(weight));
        let results =
            at_every_level(|| [bits(linear(x.clone(), bf16.clone(), None)), bits(linear_int8(x.clone(), &int8, None))]);
        assert!(results.iter().all(|result| *result == results[0]), "linear in bf16 and int8, {rows} rows");
    }
    for num_queries in [1, 7] {
        let sequence =
            PagedSequence { block_table: (0..9).rev().collect(), query_start: 0, num_queries, context_length: 70 };
        let sequences = std::sync::Arc::new(vec![sequence]);
        let results = at_every_level(|| {
            let q = tensor([num_queries, 3, 37], &device);
            let pool = tensor([9, 8, 1, 37], &device);
            bits(paged_attention(q, pool.clone(), pool * 0.5, sequences.clone(), 0.3))
        });
        assert!(results.iter().all(|result| *result == results[0]), "attention, {num_queries}");
    }
}

struct Fill<'a>(&'a mut [std::mem::MaybeUninit<f32>]);

impl Kernel for Fill<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        RowMut::new(self.0).fill(|_| L::splat(2.5)).to_vec()
    }
}

#[test]
fn a_filled_row_has_every_value() {
    for len in 0..=3 * LANES {
        for row in at_every_level(|| run(Fill(&mut Box::<[f32]>::new_uninit_slice(len)))) {
            assert_eq!(row, vec![2.5; len]);
        }
    }
}

/// The operations of a backend can be called without the checks that stand before them, and must not hand out memory that
/// nothing was written to.
#[test]
#[should_panic(expected = "rms_norm: weight")]
fn a_weight_of_another_width_is_refused() {
    use crate::rms_norm::RmsNormOps;
    let x = crate::cpu::from_vec(vec![1.0; 7], [1, 1, 7]);
    burn::backend::Flex::rms_norm(x, crate::cpu::from_vec(vec![1.0; 4], [4]), 1e-5);
}
