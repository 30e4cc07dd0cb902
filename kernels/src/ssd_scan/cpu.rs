//! The recurrence on the host, and what its two directions share: inputs as slices, state rows as vectors.
//!
//! The state axis is padded to a size the inner loops are compiled for, which adds exact zeros. Tokens behind a row's
//! length are skipped: their outputs are zero and carry no gradient.
//!
//! Code over [`Lanes`] uses plain loops: an iterator adaptor that is not inlined would be compiled
//! without the vector instructions.

use super::{SsdScanOps, SsdTensors, cpu_forward};
use crate::cpu::{DisjointMut, Floats, clear_padding, from_vec, sizes, unwritten};
use crate::simd::{self, LANES, Lanes};
use burn::backend::{Flex, tensor::FloatTensor};

impl SsdScanOps for Flex {
    fn ssd_scan(
        tensors: SsdTensors<Self>,
        dt_limit: (f64, f64),
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let scan = Scan::new(tensors, dt_limit, lengths);
        let mut y = unwritten(scan.x.len());
        clear_padding(&mut y, &scan.lengths, scan.tokens, scan.heads * scan.width);
        let mut state = unwritten(scan.batch * scan.state_row());
        cpu_forward::forward(&scan, DisjointMut::new(&mut y), DisjointMut::new(&mut state));
        let shape = [scan.batch, scan.tokens, scan.heads, scan.width];
        let state_shape = [scan.batch, scan.heads, scan.width, scan.state_size];
        (from_vec(y, shape), from_vec(state, state_shape))
    }
}

/// Tokens between the row that is read and the one that is asked for.
const TOKENS_AHEAD: usize = 16;

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

    /// A head's vectors of the valid tokens, `[length, P]`: its parts of a `[B, T, H, P]` tensor lie
    /// too far apart to be read once per sixteen rows.
    #[inline(always)]
    pub fn gather_head<L: Lanes>(&self, values: &[f32], row: usize, head: usize) -> Vec<f32> {
        let mut vectors = Vec::with_capacity(self.lengths[row] * self.width);
        for token in 0..self.lengths[row] {
            let from = self.head_place(row, token, head);
            prefetch::<L>(values, self.head_place(row, token + TOKENS_AHEAD, head), self.width);
            vectors.extend_from_slice(&values[from..from + self.width]);
        }
        vectors
    }

    /// Writes `[length, P]` back to a head's place in a `[B, T, H, P]` tensor.
    ///
    /// # Safety
    /// No other task may write this row and head.
    pub unsafe fn scatter_head(&self, vectors: &[f32], row: usize, head: usize, to: DisjointMut) {
        for (token, vector) in vectors.chunks_exact(self.width).enumerate() {
            // SAFETY: the caller's.
            let to = unsafe { to.slice(self.head_place(row, token, head), self.width) };
            to.copy_from_slice(vector);
        }
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

    /// The vectors of `b` or `c` that a head sees, padded with zeros: `[length, vectors]`.
    #[inline(always)]
    pub fn projection<L: Lanes, const V: usize>(&self, values: &[f32], row: usize, head: usize) -> Vec<[L; V]> {
        let mut vectors = Vec::with_capacity(self.lengths[row]);
        for token in 0..self.lengths[row] {
            let from = self.group_place(row, token, head);
            prefetch::<L>(values, self.group_place(row, token + TOKENS_AHEAD, head), self.state_size);
            vectors.push(load_padded(&values[from..from + self.state_size]));
        }
        vectors
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
            let size = simd::softplus(raw).max(low).min(high);
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

/// Sixteen state rows, each of `V` vectors.
pub(super) type Tile<L, const V: usize> = [[L; V]; LANES];

/// The elements as vectors, zeros behind them.
#[inline(always)]
pub(super) fn load_padded<L: Lanes, const V: usize>(values: &[f32]) -> [L; V] {
    let mut vectors = [L::splat(0.0); V];
    for (vector, values) in vectors.iter_mut().zip(values.chunks(LANES)) {
        // SAFETY: a chunk has at most sixteen values.
        *vector = unsafe { L::load_first(values.as_ptr(), values.len()) };
    }
    vectors
}

/// The first elements of the vectors.
#[inline(always)]
pub(super) fn store_padded<L: Lanes, const V: usize>(vectors: &[L; V], values: &mut [f32]) {
    for (vector, values) in vectors.iter().zip(values.chunks_mut(LANES)) {
        // SAFETY: a chunk has at most sixteen values.
        unsafe { vector.store_first(values.as_mut_ptr(), values.len()) };
    }
}

/// Rows `first..first + 16` of a `[P, N]` state; rows behind the last are zero.
#[inline(always)]
pub(super) fn load_tile<L: Lanes, const V: usize>(state: &[f32], state_size: usize, first: usize) -> Tile<L, V> {
    let mut tile = [[L::splat(0.0); V]; LANES];
    for (vectors, values) in tile.iter_mut().zip(state[first * state_size..].chunks_exact(state_size)) {
        *vectors = load_padded(values);
    }
    tile
}

/// Writes the rows of a tile back.
#[inline(always)]
pub(super) fn store_tile<L: Lanes, const V: usize>(
    tile: &Tile<L, V>,
    state: &mut [f32],
    state_size: usize,
    first: usize,
) {
    let rows = state[first * state_size..].chunks_exact_mut(state_size);
    for (vectors, values) in tile.iter().zip(rows) {
        store_padded(vectors, values);
    }
}

/// Place of row `lane` among the arguments of [`Lanes::sum_each`].
#[inline(always)]
pub(super) const fn sum_place(lane: usize) -> usize {
    4 * (lane % 4) + lane / 4
}
