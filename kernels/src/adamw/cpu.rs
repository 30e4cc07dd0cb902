//! Host implementation: one pass over the arrays, in place, a tile of elements at a time.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{DType, Tensor, bf16};
use rayon::prelude::*;

use super::blockwise::{self, BLOCK_SIZE};
use super::rounding::{Purpose, TILE, tile_bits, to_either_side, to_nearest, widen};
use super::{
    AdamWOps, AdamWOptions, Factors, Moment, MomentTensors, Order, StepTensors, WeightTensors, Weights, reference,
};
use crate::flex_slices::{lower, whole};
use crate::simd::{self, Kernel, LANES, Lanes};

/// Elements per task of the sum of squares; fixed, so that sums do not depend on the thread count.
const CHUNK: usize = 8192;
/// Elements per task of an update, at most.
const TASK: usize = 1 << 15;
const _: () = assert!(TASK.is_multiple_of(TILE) && TILE.is_multiple_of(BLOCK_SIZE), "tiles and blocks lie in one task");

impl AdamWOps for Flex {
    fn adamw_step(grad: FlexTensor, tensors: StepTensors<Self>, step: u64, options: AdamWOptions) -> StepTensors<Self> {
        let StepTensors { weights, first, second } = tensors;
        match weights {
            WeightTensors::Single(param) if param.dtype() == DType::F64 => {
                in_double(grad, param, [first, second], step, options)
            }
            WeightTensors::WithMaster { rounded, master } if rounded.dtype() == DType::F16 => {
                let (shape, dtype) = (rounded.layout().shape().clone(), rounded.dtype());
                let tensors = StepTensors { weights: WeightTensors::Single(master), first, second };
                let StepTensors { weights, first, second } = Self::adamw_step(grad, tensors, step, options);
                let WeightTensors::Single(master) = weights else { unreachable!("the master came back as it went in") };
                let rounded = lower(vector(master.clone()).cast(dtype)).with_layout(Layout::contiguous(shape));
                StepTensors { weights: WeightTensors::WithMaster { rounded, master }, first, second }
            }
            weights => {
                let grad = match grad.dtype() {
                    DType::F32 | DType::BF16 => grad,
                    _ => lower(vector(grad).cast(DType::F32)),
                };
                let mut tensors = StepTensors {
                    weights: whole_weights(weights),
                    first: whole_moment(first),
                    second: whole_moment(second),
                };
                let grad = whole(grad);
                let key = options.rounding.map(|key| key.at_step(step));
                let StepTensors { weights, first, second } = &mut tensors;
                Part {
                    weights: WeightPart::new(weights),
                    grad: GradientPart::new(&grad),
                    moments: [MomentPart::new(first), MomentPart::new(second)],
                    first_tile: 0,
                }
                .update(Factors::new(step, options), key);
                tensors
            }
        }
    }
}

/// Parameters in f64 take the reference. The shape only matters to the rank-generic tensor type: the operation is element by
/// element.
fn in_double(
    grad: FlexTensor,
    param: FlexTensor,
    moments: [MomentTensors<Flex>; 2],
    step: u64,
    options: AdamWOptions,
) -> StepTensors<Flex> {
    let shape = param.layout().shape().clone();
    let [first, second] = moments.map(|moment| match moment {
        MomentTensors::Float(values) => Moment::Float(vector(values)),
        MomentTensors::Blockwise { .. } => unreachable!("a parameter in f64 has moments in f64"),
    });
    let (weights, moments) =
        reference::adamw_step(Weights::Single(vector(param)), vector(grad), [first, second], step, options);
    let restore = |tensor: Tensor<1>| lower(tensor).to_contiguous().with_layout(Layout::contiguous(shape.clone()));
    let [first, second] = moments.map(|moment| match moment {
        Moment::Float(values) => MomentTensors::Float(restore(values)),
        Moment::Blockwise { .. } => unreachable!("moments came back as they went in"),
    });
    let Weights::Single(param) = weights else { unreachable!("the parameter came back as it went in") };
    StepTensors { weights: WeightTensors::Single(restore(param)), first, second }
}

/// Any tensor as a vector.
fn vector(tensor: FlexTensor) -> Tensor<1> {
    let tensor = tensor.to_contiguous();
    let size = tensor.layout().num_elements();
    let layout = Layout::contiguous([size].into());
    Tensor::from_primitive::<Flex>(tensor.with_layout(layout))
}

fn whole_weights(weights: WeightTensors<Flex>) -> WeightTensors<Flex> {
    match weights {
        WeightTensors::Single(param) => WeightTensors::Single(whole(param)),
        WeightTensors::WithMaster { rounded, master } => {
            WeightTensors::WithMaster { rounded: whole(rounded), master: whole(master) }
        }
        WeightTensors::Rounded(param) => WeightTensors::Rounded(whole(param)),
    }
}

fn whole_moment(moment: MomentTensors<Flex>) -> MomentTensors<Flex> {
    match moment {
        MomentTensors::Float(values) => MomentTensors::Float(whole(values)),
        MomentTensors::Blockwise { order, codes, largest } => {
            MomentTensors::Blockwise { order, codes: whole(codes), largest: whole(largest) }
        }
    }
}

/// Floats of a tensor, to be changed. `storage_mut` copies only when another handle exists.
enum FloatPart<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl<'a> FloatPart<'a> {
    fn new(tensor: &'a mut FlexTensor) -> Self {
        match tensor.dtype() {
            DType::BF16 => Self::Bf16(tensor.storage_mut()),
            _ => Self::F32(tensor.storage_mut()),
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::F32(values) => {
                let (left, right) = values.split_at_mut(at);
                (Self::F32(left), Self::F32(right))
            }
            Self::Bf16(values) => {
                let (left, right) = values.split_at_mut(at);
                (Self::Bf16(left), Self::Bf16(right))
            }
        }
    }

    #[inline(always)]
    fn load(&self, from: usize, to: &mut [f32]) {
        match self {
            Self::F32(values) => to.copy_from_slice(&values[from..][..to.len()]),
            Self::Bf16(values) => widen_all(&values[from..][..to.len()], to),
        }
    }

    /// Stores bf16 numbers: those that `round` makes of a place in `values` and its value.
    #[inline(always)]
    fn store(&mut self, from: usize, values: &[f32], round: impl Fn(usize, f32) -> u16) {
        let rounded = values.iter().enumerate().map(|(at, &value)| round(at, value));
        match self {
            Self::F32(to) => to[from..].iter_mut().zip(rounded).for_each(|(to, bits)| *to = widen(bits)),
            Self::Bf16(to) => to[from..].iter_mut().zip(rounded).for_each(|(to, bits)| *to = bf16::from_bits(bits)),
        }
    }
}

#[inline(always)]
fn widen_all(values: &[bf16], to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to = widen(value.to_bits());
    }
}

enum WeightPart<'a> {
    Single(&'a mut [f32]),
    WithMaster { rounded: FloatPart<'a>, master: &'a mut [f32] },
    Rounded(FloatPart<'a>),
}

impl<'a> WeightPart<'a> {
    fn new(weights: &'a mut WeightTensors<Flex>) -> Self {
        match weights {
            WeightTensors::Single(param) => Self::Single(param.storage_mut()),
            WeightTensors::WithMaster { rounded, master } => {
                Self::WithMaster { rounded: FloatPart::new(rounded), master: master.storage_mut() }
            }
            WeightTensors::Rounded(param) => Self::Rounded(FloatPart::new(param)),
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Single(param) => {
                let (left, right) = param.split_at_mut(at);
                (Self::Single(left), Self::Single(right))
            }
            Self::WithMaster { rounded, master } => {
                let (rounded, other_rounded) = rounded.split_at(at);
                let (master, other) = master.split_at_mut(at);
                (Self::WithMaster { rounded, master }, Self::WithMaster { rounded: other_rounded, master: other })
            }
            Self::Rounded(param) => {
                let (left, right) = param.split_at(at);
                (Self::Rounded(left), Self::Rounded(right))
            }
        }
    }
}

enum MomentPart<'a> {
    Float(FloatPart<'a>),
    Blockwise { order: Order, codes: &'a mut [u8], largest: &'a mut [f32] },
}

impl<'a> MomentPart<'a> {
    fn new(moment: &'a mut MomentTensors<Flex>) -> Self {
        match moment {
            MomentTensors::Float(values) => Self::Float(FloatPart::new(values)),
            MomentTensors::Blockwise { order, codes, largest } => {
                Self::Blockwise { order: *order, codes: codes.storage_mut(), largest: largest.storage_mut() }
            }
        }
    }

    /// Splits at a multiple of [`BLOCK_SIZE`].
    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Float(values) => {
                let (left, right) = values.split_at(at);
                (Self::Float(left), Self::Float(right))
            }
            Self::Blockwise { order, codes, largest } => {
                let (codes, other_codes) = codes.split_at_mut(at);
                let (largest, other) = largest.split_at_mut(at / BLOCK_SIZE);
                (
                    Self::Blockwise { order, codes, largest },
                    Self::Blockwise { order, codes: other_codes, largest: other },
                )
            }
        }
    }

    /// The moment's values from `from` on, in `scratch` where they are not in f32.
    #[inline(always)]
    fn values<'s>(&'s mut self, from: usize, scratch: &'s mut [f32]) -> &'s mut [f32] {
        match self {
            Self::Float(FloatPart::F32(values)) => &mut values[from..][..scratch.len()],
            Self::Float(values) => {
                values.load(from, scratch);
                scratch
            }
            Self::Blockwise { order, codes, largest } => {
                blockwise::decode(*order, &codes[from..][..scratch.len()], &largest[from / BLOCK_SIZE..], scratch);
                scratch
            }
        }
    }

    /// Keeps what [`Self::values`] put into `scratch`, with random bits where there are some.
    #[inline(always)]
    fn keep(&mut self, from: usize, scratch: &[f32], bits: Option<&[u16; TILE]>) {
        match self {
            Self::Float(FloatPart::F32(_)) => {}
            Self::Float(values) => match bits {
                Some(bits) => values.store(from, scratch, |at, value| to_either_side(value, bits[at])),
                None => values.store(from, scratch, |_, value| to_nearest(value)),
            },
            Self::Blockwise { order, codes, largest } => {
                let blocks = from / BLOCK_SIZE..from / BLOCK_SIZE + scratch.len().div_ceil(BLOCK_SIZE);
                blockwise::encode(*order, scratch, &mut codes[from..][..scratch.len()], &mut largest[blocks]);
            }
        }
    }

    fn is_bf16(&self) -> bool {
        matches!(self, Self::Float(FloatPart::Bf16(_)))
    }
}

#[derive(Clone, Copy)]
enum GradientPart<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> GradientPart<'a> {
    fn new(grad: &'a FlexTensor) -> Self {
        match grad.dtype() {
            DType::BF16 => Self::Bf16(grad.storage()),
            _ => Self::F32(grad.storage()),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::F32(values) => (Self::F32(&values[..at]), Self::F32(&values[at..])),
            Self::Bf16(values) => (Self::Bf16(&values[..at]), Self::Bf16(&values[at..])),
        }
    }
}

/// A part of a parameter with everything that belongs to it.
struct Part<'a> {
    weights: WeightPart<'a>,
    grad: GradientPart<'a>,
    moments: [MomentPart<'a>; 2],
    /// The tile of the first element.
    first_tile: usize,
}

impl Part<'_> {
    fn update(self, factors: Factors, key: Option<[u32; 2]>) {
        let len = self.grad.len();
        if len <= TASK {
            return simd::run(PartUpdate { part: self, factors, key });
        }
        let middle = (len / 2).next_multiple_of(TASK);
        let Part { weights, grad, moments: [first, second], first_tile } = self;
        let (weights, other_weights) = weights.split_at(middle);
        let (grad, other_grad) = grad.split_at(middle);
        let (first, other_first) = first.split_at(middle);
        let (second, other_second) = second.split_at(middle);
        let left = Part { weights, grad, moments: [first, second], first_tile };
        let right = Part {
            weights: other_weights,
            grad: other_grad,
            moments: [other_first, other_second],
            first_tile: first_tile + middle / TILE,
        };
        rayon::join(|| left.update(factors, key), || right.update(factors, key));
    }
}

struct PartUpdate<'a> {
    part: Part<'a>,
    factors: Factors,
    key: Option<[u32; 2]>,
}

impl Kernel for PartUpdate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { part: Part { mut weights, grad, moments: [mut first, mut second], first_tile }, factors, key } =
            self;
        let mut scratch = [[0.0; TILE]; 4];
        let [params, grads, firsts, seconds] = &mut scratch;
        let mut bits = [0; TILE];
        let len = grad.len();
        for from in (0..len).step_by(TILE) {
            let count = TILE.min(len - from);
            let tile = first_tile + from / TILE;
            let grad = match grad {
                GradientPart::F32(values) => &values[from..][..count],
                GradientPart::Bf16(values) => {
                    widen_all(&values[from..][..count], &mut grads[..count]);
                    &grads[..count]
                }
            };
            let params = &mut params[..count];
            let param = match &mut weights {
                WeightPart::Single(values) | WeightPart::WithMaster { master: values, .. } => {
                    &mut values[from..][..count]
                }
                WeightPart::Rounded(values) => {
                    values.load(from, params);
                    &mut *params
                }
            };
            let m = first.values(from, &mut firsts[..count]);
            let v = second.values(from, &mut seconds[..count]);
            Update { param, grad, m, v, factors }.run::<L>();
            match &mut weights {
                WeightPart::Single(_) => {}
                WeightPart::WithMaster { rounded, master } => {
                    rounded.store(from, &master[from..][..count], |_, value| to_nearest(value));
                }
                WeightPart::Rounded(values) => match key {
                    Some(key) => {
                        tile_bits(key, Purpose::Weights, tile, &mut bits);
                        values.store(from, params, |at, value| to_either_side(value, bits[at]));
                    }
                    None => values.store(from, params, |_, value| to_nearest(value)),
                },
            }
            first.keep(from, &firsts[..count], None);
            let key = key.filter(|_| second.is_bf16());
            if let Some(key) = key {
                tile_bits(key, Purpose::SecondMoment, tile, &mut bits);
            }
            second.keep(from, &seconds[..count], key.map(|_| &bits));
        }
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
                let grad = L::load_first(self.grad.as_ptr().add(at), count).mul(L::splat(f.grad_scale));
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

/// Chunks added in order.
pub(super) fn sum_of_squares(tensor: FlexTensor) -> f64 {
    let tensor = whole(tensor);
    match GradientPart::new(&tensor) {
        GradientPart::F32(values) => sum_of_chunks(values, |&value| value),
        GradientPart::Bf16(values) => sum_of_chunks(values, |value| widen(value.to_bits())),
    }
}

fn sum_of_chunks<T: Sync>(elements: &[T], value: impl Fn(&T) -> f32 + Sync) -> f64 {
    if elements.len() <= CHUNK {
        return chunk_sum_of_squares(elements, &value);
    }
    let partial: Vec<f64> = elements.par_chunks(CHUNK).map(|chunk| chunk_sum_of_squares(chunk, &value)).collect();
    partial.iter().sum()
}

/// In sixteen f64 lanes.
fn chunk_sum_of_squares<T>(chunk: &[T], value: &impl Fn(&T) -> f32) -> f64 {
    let mut lanes = [0.0f64; LANES];
    for values in chunk.chunks(LANES) {
        for (lane, element) in lanes.iter_mut().zip(values) {
            let value = f64::from(value(element));
            *lane += value * value;
        }
    }
    lanes.iter().sum()
}
