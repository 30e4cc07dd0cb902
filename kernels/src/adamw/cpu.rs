//! Host implementation: one pass over the arrays, in place.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{DType, Tensor, bf16};
use rayon::prelude::*;

use super::rounding::{TILE, tile_bits, to_either_side, to_nearest, widen};
use super::{AdamWOps, AdamWOptions, Factors, RoundingKey, reference};
use crate::flex_slices::{elements, is_f32, lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

/// Elements per task; fixed, so that sums do not depend on the thread count.
const CHUNK: usize = 8192;
const _: () = assert!(CHUNK.is_multiple_of(TILE), "a tile of random bits lies in one chunk");

impl AdamWOps for Flex {
    fn adamw(
        param: FlexTensor,
        grad: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        step: u64,
        options: AdamWOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if [&param, &m, &v].into_iter().all(is_f32) {
            return adamw_f32(param, in_f32(grad), m, v, Factors::new(step, options));
        }
        // The shape only matters to the rank-generic tensor type: the operation is element by element.
        let shape = param.layout().shape().clone();
        let [param, grad, m, v] = [param, grad, m, v].map(vector);
        let (param, m, v) = reference::adamw(param, grad, m, v, step, options);
        let restore = |tensor: Tensor<1>| lower(tensor).to_contiguous().with_layout(Layout::contiguous(shape.clone()));
        (restore(param), restore(m), restore(v))
    }

    fn adamw_master(
        param: FlexTensor,
        master: FlexTensor,
        grad: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        step: u64,
        options: AdamWOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        if param.dtype() == DType::BF16 {
            return master_bf16(param, master, in_f32(grad), [m, v], Factors::new(step, options));
        }
        let (shape, dtype) = (param.layout().shape().clone(), param.dtype());
        let (master, m, v) = Self::adamw(master, grad, m, v, step, options);
        let param = lower(vector(master.clone()).cast(dtype)).with_layout(Layout::contiguous(shape));
        (param, master, m, v)
    }

    fn adamw_stochastic(
        param: FlexTensor,
        grad: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        step: u64,
        options: AdamWOptions,
        key: RoundingKey,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (grad, factors, key) = (in_f32(grad), Factors::new(step, options), key.at_step(step));
        if param.dtype() == DType::BF16 {
            return stochastic::<bf16>(param, grad, m, v, factors, key);
        }
        stochastic::<f32>(param, grad, m, v, factors, key)
    }
}

/// A gradient of any precision in f32, itself when it is that.
fn in_f32(grad: FlexTensor) -> FlexTensor {
    if is_f32(&grad) {
        return grad;
    }
    let shape = grad.layout().shape().clone();
    lower(vector(grad).cast(DType::F32)).with_layout(Layout::contiguous(shape))
}

/// Any tensor as a vector.
fn vector(tensor: FlexTensor) -> Tensor<1> {
    let tensor = tensor.to_contiguous();
    let size = tensor.layout().num_elements();
    let layout = Layout::contiguous([size].into());
    Tensor::from_primitive::<Flex>(tensor.with_layout(layout))
}

fn adamw_f32(
    param: FlexTensor,
    grad: FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    factors: Factors,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (mut param, grad, mut m, mut v) = (whole(param), whole(grad), whole(m), whole(v));
    {
        // `storage_mut` copies only when another handle exists.
        let (param, m, v) = (param.storage_mut(), m.storage_mut(), v.storage_mut());
        let grad = elements(&grad);
        if param.len() <= CHUNK {
            simd::run(Update { param, grad, m, v, factors });
        } else {
            let chunks =
                (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
            chunks.into_par_iter().for_each(|(param, grad, m, v)| {
                simd::run(Update { param, grad, m, v, factors });
            });
        }
    }
    (param, m, v)
}

fn master_bf16(
    param: FlexTensor,
    master: FlexTensor,
    grad: FlexTensor,
    [m, v]: [FlexTensor; 2],
    factors: Factors,
) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
    let (mut param, mut master, grad, mut m, mut v) = (whole(param), whole(master), whole(grad), whole(m), whole(v));
    {
        let (param, master) = (param.storage_mut::<bf16>(), master.storage_mut::<f32>());
        let (grad, m, v) = (elements(&grad), m.storage_mut(), v.storage_mut());
        let task = |param: &mut [bf16], update: Update| simd::run(MasterUpdate { param, update });
        if param.len() <= CHUNK {
            task(param, Update { param: master, grad, m, v, factors });
        } else {
            let chunks = (
                param.par_chunks_mut(CHUNK),
                master.par_chunks_mut(CHUNK),
                grad.par_chunks(CHUNK),
                m.par_chunks_mut(CHUNK),
                v.par_chunks_mut(CHUNK),
            );
            chunks.into_par_iter().for_each(|(param, master, grad, m, v)| {
                task(param, Update { param: master, grad, m, v, factors });
            });
        }
    }
    (param, master, m, v)
}

fn stochastic<S: Stored>(
    param: FlexTensor,
    grad: FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    factors: Factors,
    key: [u32; 2],
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (mut param, grad, mut m, mut v) = (whole(param), whole(grad), whole(m), whole(v));
    {
        let (param, grad, m, v) = (S::slice(&mut param), elements(&grad), m.storage_mut(), v.storage_mut());
        if param.len() <= CHUNK {
            simd::run(StochasticUpdate { param, grad, m, v, factors, key, first_tile: 0 });
        } else {
            let chunks =
                (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
            chunks.into_par_iter().enumerate().for_each(|(index, (param, grad, m, v))| {
                let first_tile = index * (CHUNK / TILE);
                simd::run(StochasticUpdate { param, grad, m, v, factors, key, first_tile });
            });
        }
    }
    (param, m, v)
}

/// How the values of a stochastically rounded parameter are stored.
trait Stored: Copy + Send {
    fn slice(tensor: &mut FlexTensor) -> &mut [Self];
    fn value(self) -> f32;
    /// From the bits of a bf16.
    fn from_bf16(bits: u16) -> Self;
}

impl Stored for bf16 {
    fn slice(tensor: &mut FlexTensor) -> &mut [Self] {
        tensor.storage_mut()
    }
    #[inline(always)]
    fn value(self) -> f32 {
        widen(self.to_bits())
    }
    #[inline(always)]
    fn from_bf16(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

impl Stored for f32 {
    fn slice(tensor: &mut FlexTensor) -> &mut [Self] {
        tensor.storage_mut()
    }
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_bf16(bits: u16) -> Self {
        widen(bits)
    }
}

struct Update<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: Factors,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let f = self.factors;
        let len = self.param.len();
        assert!(self.grad.len() == len && self.m.len() == len && self.v.len() == len, "adamw: one length");
        let mut at = 0;
        while at < len {
            let count = LANES.min(len - at);
            // SAFETY: the four slices have one length and `count` values remain.
            unsafe {
                let grad = L::load_first(self.grad.as_ptr().add(at), count);
                let m = L::load_first(self.m.as_ptr().add(at), count);
                let m = L::splat(f.gain1).mul_add(grad, L::splat(f.beta1).mul(m));
                m.store_first(self.m.as_mut_ptr().add(at), count);
                let v = L::load_first(self.v.as_ptr().add(at), count);
                let v = L::splat(f.gain2).mul(grad).mul_add(grad, L::splat(f.beta2).mul(v));
                v.store_first(self.v.as_mut_ptr().add(at), count);
                let root = v.mul(L::splat(f.correction2)).sqrt().add(L::splat(f.eps));
                let update = m.div(root).mul(L::splat(f.rate));
                let param = L::load_first(self.param.as_ptr().add(at), count);
                let param = param.mul(L::splat(f.keep)).sub(update);
                param.store_first(self.param.as_mut_ptr().add(at), count);
            }
            at += LANES;
        }
    }
}

/// The update of the master, and its rounding.
struct MasterUpdate<'a> {
    param: &'a mut [bf16],
    update: Update<'a>,
}

impl Kernel for MasterUpdate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Update { param: master, grad, m, v, factors } = self.update;
        let param = self.param;
        assert_eq!(param.len(), master.len(), "adamw: one length");
        Update { param: &mut *master, grad, m, v, factors }.run::<L>();
        for at in 0..param.len() {
            param[at] = bf16::from_bits(to_nearest(master[at]));
        }
    }
}

/// The update of a tile in f32, and its rounding.
struct StochasticUpdate<'a, S> {
    param: &'a mut [S],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: Factors,
    key: [u32; 2],
    /// The tile of the first element.
    first_tile: usize,
}

impl<S: Stored> Kernel for StochasticUpdate<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut values = [0.0; TILE];
        let mut bits = [0; TILE];
        for tile in 0..self.param.len().div_ceil(TILE) {
            let from = tile * TILE;
            let count = TILE.min(self.param.len() - from);
            let param = &mut self.param[from..][..count];
            let values = &mut values[..count];
            for at in 0..count {
                values[at] = param[at].value();
            }
            let (m, v) = (&mut self.m[from..][..count], &mut self.v[from..][..count]);
            let grad = &self.grad[from..][..count];
            Update { param: &mut *values, grad, m, v, factors: self.factors }.run::<L>();
            tile_bits(self.key, self.first_tile + tile, &mut bits);
            for at in 0..count {
                param[at] = S::from_bf16(to_either_side(values[at], bits[at]));
            }
        }
    }
}

/// Chunks added in order.
pub(super) fn sum_of_squares(tensor: FlexTensor) -> f64 {
    let tensor = whole(tensor);
    let elements = elements(&tensor);
    if elements.len() <= CHUNK {
        return chunk_sum_of_squares(elements);
    }
    let partial: Vec<f64> = elements.par_chunks(CHUNK).map(chunk_sum_of_squares).collect();
    partial.iter().sum()
}

/// In sixteen f64 lanes.
fn chunk_sum_of_squares(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for values in chunk.chunks(LANES) {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}
