//! The recurrence on the host: what its two directions share.
//!
//! The state axis is padded to a size the inner loops are compiled for, which adds exact zeros. Tokens behind a row's
//! length are skipped: their outputs are zero and carry no gradient.
//!
//! Code over [`Lanes`] uses plain loops: an iterator adaptor that is not inlined would be compiled
//! without the vector instructions.

use super::{MAX_STATE, SsdScanOps, SsdTensors, cpu_forward};
use crate::cpu::{DisjointMut, Floats, clear_padding, from_vec, sizes};
use crate::simd::{self, LANES, Lanes};
use burn::backend::{Flex, tensor::FloatTensor};

impl SsdScanOps for Flex {
    fn ssd_scan(
        tensors: SsdTensors<Self>,
        dt_limit: (f64, f64),
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let scan = Scan::new(tensors, dt_limit, lengths);
        let mut y = Box::<[f32]>::new_uninit_slice(scan.x.len());
        clear_padding(&mut y, &scan.lengths, scan.tokens, scan.heads * scan.width);
        let mut state = Box::<[f32]>::new_uninit_slice(scan.batch * scan.state_row());
        cpu_forward::forward(&scan, DisjointMut::new(&mut y), DisjointMut::new(&mut state));
        // SAFETY: the tasks write every state and all tokens within their row's length, behind which zeros stand.
        let (y, state) = unsafe { (y.assume_init(), state.assume_init()) };
        let shape = [scan.batch, scan.tokens, scan.heads, scan.width];
        let state_shape = [scan.batch, scan.heads, scan.width, scan.state_size];
        (from_vec(y.into_vec(), shape), from_vec(state.into_vec(), state_shape))
    }
}

/// The inputs as slices, with their sizes.
pub(super) struct Scan {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub width: usize,
    pub groups: usize,
    pub state_size: usize,
    pub state_batch: usize,
    pub x: Floats,
    pub dt: Floats,
    /// `-exp(a_log)` per head.
    pub rate: Vec<f32>,
    pub b: Floats,
    pub c: Floats,
    pub d: Floats,
    pub dt_bias: Floats,
    pub state: Floats,
    pub dt_limit: (f32, f32),
    pub lengths: Vec<usize>,
}

impl Scan {
    pub fn new(tensors: SsdTensors<Flex>, dt_limit: (f64, f64), lengths: Vec<usize>) -> Self {
        let [batch, tokens, heads, width] = sizes(&tensors.x);
        let [_, _, groups, state_size] = sizes(&tensors.b);
        let [state_batch, _, _, _] = sizes(&tensors.state);
        // More would not fit the largest tile, and some of the outgoing state would stay unwritten.
        assert!(state_size <= MAX_STATE, "scan: size of the state");
        Self {
            batch,
            tokens,
            heads,
            width,
            groups,
            state_size,
            state_batch,
            x: Floats::new(tensors.x),
            dt: Floats::new(tensors.dt),
            rate: Floats::new(tensors.a_log).iter().map(|&a| -simd::exp(a)).collect(),
            b: Floats::new(tensors.b),
            c: Floats::new(tensors.c),
            d: Floats::new(tensors.d),
            dt_bias: Floats::new(tensors.dt_bias),
            state: Floats::new(tensors.state),
            dt_limit: (dt_limit.0 as f32, dt_limit.1 as f32),
            lengths,
        }
    }

    /// Elements of one row's state.
    pub fn state_row(&self) -> usize {
        self.heads * self.width * self.state_size
    }

    /// The state that a head of a row starts from, `[P, N]`.
    pub fn incoming(&self, row: usize, head: usize) -> &[f32] {
        let row = if self.state_batch == 1 { 0 } else { row };
        let size = self.width * self.state_size;
        &self.state[(row * self.heads + head) * size..][..size]
    }

    /// Where a head's vector of a token starts in `x` and `y`.
    pub fn head_place(&self, row: usize, token: usize, head: usize) -> usize {
        ((row * self.tokens + token) * self.heads + head) * self.width
    }

    /// Where a group's vector of a token starts in `b` and `c`.
    pub fn group_place(&self, row: usize, token: usize, head: usize) -> usize {
        let group = head / (self.heads / self.groups);
        ((row * self.tokens + token) * self.groups + group) * self.state_size
    }

    /// Vectors of sixteen that hold one state row, rounded up to a compiled number.
    pub fn vectors(&self) -> usize {
        self.state_size.div_ceil(LANES).next_power_of_two()
    }

    /// Step size and decay of every valid token.
    #[inline(always)]
    pub fn steps(&self, row: usize, head: usize) -> Vec<Step> {
        let (low, high) = self.dt_limit;
        let (bias, rate) = (self.dt_bias[head], self.rate[head]);
        let from = row * self.tokens * self.heads + head;
        let mut steps = Vec::with_capacity(self.lengths[row]);
        for token in 0..self.lengths[row] {
            let raw = self.dt[from + token * self.heads] + bias;
            let size = simd::clip(simd::softplus(raw), low, high);
            steps.push(Step { raw, size, decay: simd::exp(size * rate) });
        }
        steps
    }
}

/// One token of one head.
pub(super) struct Step {
    /// Before softplus, bias added.
    pub raw: f32,
    /// After softplus and clipping.
    pub size: f32,
    pub decay: f32,
}

/// Asks for `count` values from `first` on, wherever that is. A head's rows of successive tokens lie too far apart for
/// the machine to foresee.
#[inline(always)]
pub(super) fn prefetch<L: Lanes>(values: &[f32], first: usize, count: usize) {
    for at in (first..first + count).step_by(LANES) {
        L::prefetch(values.as_ptr().wrapping_add(at));
    }
}

/// Calls `run_sized::<L, V, R>` of a task: V vectors of a state row, and R rows (or sixteens of rows) that fill half of the
/// registers with states where there are 32.
macro_rules! run_sized {
    ($task:expr, $lanes:ident) => {
        match ($task.scan.vectors(), $lanes::WIDE) {
            (1, _) => $task.run_sized::<$lanes, 1, 4>(),
            (2, _) => $task.run_sized::<$lanes, 2, 4>(),
            (4, true) => $task.run_sized::<$lanes, 4, 4>(),
            (4, false) => $task.run_sized::<$lanes, 4, 1>(),
            (8, true) => $task.run_sized::<$lanes, 8, 2>(),
            (8, false) => $task.run_sized::<$lanes, 8, 1>(),
            _ => $task.run_sized::<$lanes, 16, 1>(),
        }
    };
}
pub(super) use run_sized;
