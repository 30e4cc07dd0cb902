//! The scan's gradient on the host.
//!
//! Per row and head, with `G_t` the gradient of `S_t` and `g_t` the cotangent of `y_t`:
//!
//! - `G_t = decay_{t+1} G_{t+1} + g_t C_t^T`, starting from the outgoing state's cotangent
//! - `dC_t = S_t^T g_t = decay_t S_{t-1}^T g_t + dt_t (x_t . g_t) B_t`
//! - `dB_t = dt_t G_t^T x_t`, `dx_t = dt_t G_t B_t + d g_t`
//! - `d dt_t = x_t . G_t B_t + A decay_t <G_t, S_{t-1}>`, `dA = sum_t dt_t decay_t <G_t, S_{t-1}>`
//!
//! States are recomputed: a first pass keeps one state per block of tokens, each block is then
//! replayed and walked backwards. Sums over heads and rows run in a fixed order.

use std::mem::MaybeUninit;

use super::cpu::{Scan, Step, prefetch, run_sized};
use super::{SsdSaved, SsdScanGradient};
use crate::cpu::{DisjointMut, Floats, add_in_order, clear_padding, from_vec, parallel};
use crate::simd::{self, Kernel, LANES, Lanes, run, sum_place};
use burn::backend::{Flex, tensor::FloatTensor};

/// Tokens between kept states, times vectors per state row: the replayed states of a block (128 KiB) and the kept ones
/// stay in the second cache.
const BLOCK_VECTORS: usize = 128;

/// Vectors of a state row that a token's backward step takes at a time.
const COLUMN_VECTORS: usize = 4;

/// Tokens between the row that is read and the one that is asked for.
const TOKENS_AHEAD: usize = 16;

/// Elements that each of the gradients of `b` and `c` per head may take at a time (4 MiB).
const PARTIAL_ELEMENTS: usize = 1 << 20;

impl SsdScanGradient for Flex {
    fn ssd_scan_backward(
        saved: SsdSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        state_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 8] {
        let scan = Scan::new(saved.tensors, saved.dt_limit, saved.lengths);
        let Scan { batch, tokens, heads, width, groups, state_size, state_batch, .. } = scan;
        let y_cotangent = match y_cotangent {
            Some(cotangent) => Floats::new(cotangent),
            None => Floats::new(from_vec(vec![0.0; scan.x.len()], [scan.x.len()])),
        };
        // Starts as the cotangent of the outgoing state, ends as the gradient of the incoming one.
        let mut state = match state_cotangent {
            Some(cotangent) => Floats::new(cotangent).to_vec(),
            None => vec![0.0; batch * scan.state_row()],
        };
        let mut x = Box::<[f32]>::new_uninit_slice(scan.x.len());
        clear_padding(&mut x, &scan.lengths, tokens, heads * width);
        let mut dt = vec![0.0; scan.dt.len()];
        let mut b = vec![0.0; scan.b.len()];
        let mut c = vec![0.0; scan.c.len()];
        // Per row: gradients of `a_log`, `d` and `dt_bias`.
        let mut per_row = vec![0.0; batch * 3 * heads];

        let head_partial = tokens * state_size;
        let row_partial = heads * head_partial;
        let rows_at_once = (PARTIAL_ELEMENTS / row_partial.max(1)).clamp(1, batch.max(1));
        let mut b_partial = vec![0.0; rows_at_once * row_partial];
        let mut c_partial = vec![0.0; rows_at_once * row_partial];
        for first_row in (0..batch).step_by(rows_at_once) {
            let rows = rows_at_once.min(batch - first_row);
            let (x_out, dt_out) = (DisjointMut::new(&mut x), DisjointMut::new(&mut dt));
            let state_out = DisjointMut::new(&mut state);
            let per_row_out = DisjointMut::new(&mut per_row);
            let b_out = DisjointMut::new(&mut b_partial);
            let c_out = DisjointMut::new(&mut c_partial);
            parallel(rows * heads, |task| {
                let (row, head) = (first_row + task / heads, task % heads);
                let size = width * state_size;
                // SAFETY: every task has its own row and head.
                let (state, b, c) = unsafe {
                    (
                        state_out.slice((row * heads + head) * size, size),
                        b_out.slice(task * head_partial, head_partial),
                        c_out.slice(task * head_partial, head_partial),
                    )
                };
                let cotangent = &y_cotangent;
                let (x, dt) = (x_out, dt_out);
                let sums = run(Reverse { scan: &scan, row, head, cotangent, state, x, dt, b, c });
                for (kind, sum) in sums.into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { per_row_out.slice((row * 3 + kind) * heads + head, 1)[0] = sum };
                }
            });
            for row in first_row..first_row + rows {
                let partial = (row - first_row) * row_partial..(row - first_row + 1) * row_partial;
                let here = row * tokens * groups * state_size..(row + 1) * tokens * groups * state_size;
                add_heads(&mut b[here.clone()], &b_partial[partial.clone()], &scan, row);
                add_heads(&mut c[here], &c_partial[partial], &scan, row);
            }
        }

        let mut shared = vec![0.0; 3 * heads];
        add_in_order(&mut shared, &per_row);
        let (dt_bias, d) = (shared.split_off(2 * heads), shared.split_off(heads));
        if state_batch != batch {
            let mut total = vec![0.0; scan.state_row()];
            add_in_order(&mut total, &state);
            state = total;
        }
        // SAFETY: the tasks wrote all tokens within their row's length, behind which zeros stand.
        let x = unsafe { x.assume_init() };
        [
            from_vec(x.into_vec(), [batch, tokens, heads, width]),
            from_vec(dt, [batch, tokens, heads]),
            from_vec(shared, [heads]),
            from_vec(b, [batch, tokens, groups, state_size]),
            from_vec(c, [batch, tokens, groups, state_size]),
            from_vec(d, [heads]),
            from_vec(dt_bias, [heads]),
            from_vec(state, [state_batch, heads, width, state_size]),
        ]
    }
}

/// Sums the heads of each group, first to last: `[H, T, N]` to `[T, G, N]`.
fn add_heads(total: &mut [f32], partial: &[f32], scan: &Scan, row: usize) {
    let size = scan.state_size;
    for head in 0..scan.heads {
        let group = head / (scan.heads / scan.groups);
        for token in 0..scan.lengths[row] {
            let total = &mut total[(token * scan.groups + group) * size..][..size];
            let partial = &partial[(head * scan.tokens + token) * size..][..size];
            for (total, partial) in total.iter_mut().zip(partial) {
                *total += partial;
            }
        }
    }
}

impl Scan {
    /// A head's vectors of the valid tokens, `[length, P]`: its parts of a `[B, T, H, P]` tensor lie
    /// too far apart to be read once per sixteen rows.
    #[inline(always)]
    fn gather_head<L: Lanes>(&self, values: &[f32], row: usize, head: usize) -> Vec<f32> {
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
    unsafe fn scatter_head(&self, vectors: &[f32], row: usize, head: usize, to: DisjointMut<MaybeUninit<f32>>) {
        for (token, vector) in vectors.chunks_exact(self.width).enumerate() {
            // SAFETY: the caller's.
            let to = unsafe { to.slice(self.head_place(row, token, head), self.width) };
            to.write_copy_of_slice(vector);
        }
    }

    /// The vectors of `b` or `c` that a head sees, padded with zeros: `[length, vectors]`.
    #[inline(always)]
    fn projection<L: Lanes, const V: usize>(&self, values: &[f32], row: usize, head: usize) -> Vec<[L; V]> {
        let mut vectors = Vec::with_capacity(self.lengths[row]);
        for token in 0..self.lengths[row] {
            let from = self.group_place(row, token, head);
            prefetch::<L>(values, self.group_place(row, token + TOKENS_AHEAD, head), self.state_size);
            vectors.push(load_padded(&values[from..from + self.state_size]));
        }
        vectors
    }
}

/// Sixteen state rows, each of `V` vectors.
type Tile<L, const V: usize> = [[L; V]; LANES];

/// The elements as vectors, zeros behind them.
#[inline(always)]
fn load_padded<L: Lanes, const V: usize>(values: &[f32]) -> [L; V] {
    let mut vectors = [L::splat(0.0); V];
    for (vector, values) in vectors.iter_mut().zip(values.chunks(LANES)) {
        // SAFETY: a chunk has at most sixteen values.
        *vector = unsafe { L::load_first(values.as_ptr(), values.len()) };
    }
    vectors
}

/// The first elements of the vectors.
#[inline(always)]
fn store_padded<L: Lanes, const V: usize>(vectors: &[L; V], values: &mut [f32]) {
    for (vector, values) in vectors.iter().zip(values.chunks_mut(LANES)) {
        // SAFETY: a chunk has at most sixteen values.
        unsafe { vector.store_first(values.as_mut_ptr(), values.len()) };
    }
}

/// Rows `first..first + 16` of a `[P, N]` state; rows behind the last are zero.
#[inline(always)]
fn load_tile<L: Lanes, const V: usize>(state: &[f32], state_size: usize, first: usize) -> Tile<L, V> {
    let mut tile = [[L::splat(0.0); V]; LANES];
    for (vectors, values) in tile.iter_mut().zip(state[first * state_size..].chunks_exact(state_size)) {
        *vectors = load_padded(values);
    }
    tile
}

/// Writes the rows of a tile back.
#[inline(always)]
fn store_tile<L: Lanes, const V: usize>(tile: &Tile<L, V>, state: &mut [f32], state_size: usize, first: usize) {
    let rows = state[first * state_size..].chunks_exact_mut(state_size);
    for (vectors, values) in tile.iter().zip(rows) {
        store_padded(vectors, values);
    }
}

struct Reverse<'a> {
    scan: &'a Scan,
    row: usize,
    head: usize,
    /// `[B, T, H, P]`
    cotangent: &'a [f32],
    /// `[P, N]`: cotangent of the outgoing state on entry, gradient of the incoming on return.
    state: &'a mut [f32],
    /// `[B, T, H, P]`
    x: DisjointMut<'a, MaybeUninit<f32>>,
    /// `[B, T, H]`
    dt: DisjointMut<'a>,
    /// `[T, N]`
    b: &'a mut [f32],
    /// `[T, N]`
    c: &'a mut [f32],
}

impl Kernel for Reverse<'_> {
    /// Gradients of `a_log`, `d` and `dt_bias` from this row and head.
    type Output = [f32; 3];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [f32; 3] {
        run_sized!(self, L)
    }
}

/// What a token gathers over the blocks of sixteen state rows, in lanes.
#[derive(Clone, Copy)]
struct TokenSums<L> {
    /// `x . g`
    input_cotangent: L,
    /// `x . G B`
    input_gradient: L,
    /// `<G, S_{t-1}>`
    decay_gradient: L,
}

impl Reverse<'_> {
    #[inline(always)]
    fn run_sized<L: Lanes, const V: usize, const R: usize>(self) -> [f32; 3] {
        let Self { scan, row, head, .. } = self;
        let size = scan.state_size;
        let interval = BLOCK_VECTORS / V;
        let zero = L::splat(0.0);
        let steps = scan.steps(row, head);
        let b: Vec<[L; V]> = scan.projection(&scan.b, row, head);
        let c: Vec<[L; V]> = scan.projection(&scan.c, row, head);
        let x = scan.gather_head::<L>(&scan.x, row, head);
        // Cotangents on entry, gradients of x on return.
        let mut vectors = scan.gather_head::<L>(self.cotangent, row, head);
        let skip = L::splat(scan.d[head]);
        let nothing = TokenSums { input_cotangent: zero, input_gradient: zero, decay_gradient: zero };
        let mut sums = vec![nothing; steps.len()];
        let mut b_gradient = vec![[zero; V]; steps.len()];
        let mut c_gradient = vec![[zero; V]; steps.len()];
        let empty: Tile<L, V> = [[zero; V]; LANES];
        let mut kept = vec![empty; steps.len().div_ceil(interval)];
        let mut replay = vec![empty; interval];
        let mut weighted = vec![[0.0; LANES]; steps.len()];

        for first in (0..scan.width).step_by(LANES) {
            let count = LANES.min(scan.width - first);
            let place = |token: usize| token * scan.width + first;
            let load = |values: &[f32], token: usize| -> L {
                let values = &values[place(token)..][..count];
                // SAFETY: the slice has `count` values.
                unsafe { L::load_first(values.as_ptr(), count) }
            };
            for (token, (weighted, step)) in weighted.iter_mut().zip(&steps).enumerate() {
                *weighted = load(&x, token).mul(L::splat(step.size)).to_array();
            }

            let start: Tile<L, V> = load_tile(scan.incoming(row, head), size, first);
            for lane in (0..LANES).step_by(R) {
                let mut rows: [[L; V]; R] = rows_of(&start, lane);
                for (block, kept) in kept.iter_mut().enumerate() {
                    kept[lane..lane + R].copy_from_slice(&rows);
                    for token in block * interval..steps.len().min((block + 1) * interval) {
                        advance(&mut rows, &steps[token], &weighted[token][lane..], &b[token]);
                    }
                }
            }

            let mut gradient: Tile<L, V> = load_tile(self.state, size, first);
            for (block, start) in kept.iter().enumerate().rev() {
                let from = block * interval;
                let to = (from + interval).min(steps.len());
                for lane in (0..LANES).step_by(R) {
                    let mut rows: [[L; V]; R] = rows_of(start, lane);
                    for (before, token) in replay.iter_mut().zip(from..to) {
                        before[lane..lane + R].copy_from_slice(&rows);
                        advance(&mut rows, &steps[token], &weighted[token][lane..], &b[token]);
                    }
                }
                for token in (from..to).rev() {
                    let step = &steps[token];
                    let (x, cotangent) = (load(&x, token), load(&vectors, token));
                    let sums = &mut sums[token];
                    let projected = reverse(
                        &mut gradient,
                        &replay[token - from],
                        step,
                        [x, cotangent],
                        [&b[token], &c[token]],
                        [&mut b_gradient[token], &mut c_gradient[token]],
                        &mut sums.decay_gradient,
                    );
                    let x_gradient = projected.mul_add(L::splat(step.size), skip.mul(cotangent));
                    // SAFETY: the slice has `count` values.
                    unsafe {
                        let to = &mut vectors[place(token)..][..count];
                        x_gradient.store_first(to.as_mut_ptr(), count);
                    }
                    sums.input_cotangent = x.mul_add(cotangent, sums.input_cotangent);
                    sums.input_gradient = x.mul_add(projected, sums.input_gradient);
                }
            }
            store_tile(&gradient, self.state, size, first);
        }
        // SAFETY: this task has the row and head to itself.
        unsafe { scan.scatter_head(&vectors, row, head, self.x) };

        let mut a_log = 0.0f64;
        let mut d = 0.0f64;
        let mut dt_bias = 0.0f64;
        let rate = scan.rate[head];
        let (low, high) = scan.dt_limit;
        for (token, (step, sums)) in steps.iter().zip(&sums).enumerate() {
            let input_cotangent = sums.input_cotangent.sum();
            let decay_gradient = sums.decay_gradient.sum() * step.decay * rate;
            let size_gradient = sums.input_gradient.sum() + decay_gradient;
            // Outside the limits the step size is constant.
            let unclipped = simd::softplus(step.raw);
            let inside = unclipped >= low && unclipped <= high;
            let slope = if inside { sigmoid(step.raw) } else { 0.0 };
            let gradient = size_gradient * slope;
            let place = (row * scan.tokens + token) * scan.heads + head;
            // SAFETY: this head's value of this token belongs to this task.
            unsafe { self.dt.slice(place, 1)[0] = gradient };
            dt_bias += f64::from(gradient);
            d += f64::from(input_cotangent);
            // A = -exp(a_log) is its own derivative.
            a_log += f64::from(decay_gradient * step.size);

            let through = L::splat(step.size * input_cotangent);
            for v in 0..V {
                c_gradient[token][v] = through.mul_add(b[token][v], c_gradient[token][v]);
            }
            store_padded(&b_gradient[token], &mut self.b[token * size..][..size]);
            store_padded(&c_gradient[token], &mut self.c[token * size..][..size]);
        }
        [a_log as f32, d as f32, dt_bias as f32]
    }
}

/// `1 / (1 + e^-x)` without overflow.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let small = simd::exp(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { small };
    numerator / (1.0 + small)
}

/// `R` rows of a tile.
#[inline(always)]
fn rows_of<L: Lanes, const V: usize, const R: usize>(tile: &Tile<L, V>, first: usize) -> [[L; V]; R] {
    let mut rows = [[L::splat(0.0); V]; R];
    rows.copy_from_slice(&tile[first..first + R]);
    rows
}

/// `S_t = decay S_{t-1} + (dt x) B` of some rows, with the forward pass's arithmetic.
#[inline(always)]
fn advance<L: Lanes, const V: usize, const R: usize>(
    rows: &mut [[L; V]; R],
    step: &Step,
    weighted: &[f32],
    b: &[L; V],
) {
    let decay = L::splat(step.decay);
    for r in 0..R {
        let weighted = L::splat(weighted[r]);
        for v in 0..V {
            rows[r][v] = rows[r][v].mul_add(decay, weighted.mul(b[v]));
        }
    }
}

/// One token backwards: `gradient` holds `decay_{t+1} G_{t+1}` on entry and `decay_t G_t` on return.
///
/// Returns `G B` of the sixteen rows.
#[inline(always)]
fn reverse<L: Lanes, const V: usize>(
    gradient: &mut Tile<L, V>,
    before: &Tile<L, V>,
    step: &Step,
    [x, cotangent]: [L; 2],
    [b, c]: [&[L; V]; 2],
    [b_gradient, c_gradient]: [&mut [L; V]; 2],
    decay_gradient: &mut L,
) -> L {
    let zero = L::splat(0.0);
    let decay = L::splat(step.decay);
    let size = L::splat(step.size);
    let (x, cotangent) = (x.to_array(), cotangent.to_array());
    let mut projections = [zero; LANES];
    // As many columns of the state at a time as there are registers for what they gather over the rows.
    for first in (0..V).step_by(COLUMN_VECTORS) {
        let columns = first..V.min(first + COLUMN_VECTORS);
        let mut from_state = [zero; COLUMN_VECTORS];
        let mut from_gradient = [zero; COLUMN_VECTORS];
        let mut decay_sums = [zero; COLUMN_VECTORS];
        for lane in 0..LANES {
            let (x, cotangent) = (L::splat(x[lane]), L::splat(cotangent[lane]));
            let mut projection = projections[sum_place(lane)];
            for v in columns.clone() {
                let state = before[lane][v];
                let total = cotangent.mul_add(c[v], gradient[lane][v]);
                from_state[v - first] = cotangent.mul_add(state, from_state[v - first]);
                from_gradient[v - first] = x.mul_add(total, from_gradient[v - first]);
                decay_sums[v - first] = total.mul_add(state, decay_sums[v - first]);
                projection = total.mul_add(b[v], projection);
                gradient[lane][v] = total.mul(decay);
            }
            projections[sum_place(lane)] = projection;
        }
        for v in columns {
            c_gradient[v] = from_state[v - first].mul_add(decay, c_gradient[v]);
            b_gradient[v] = from_gradient[v - first].mul_add(size, b_gradient[v]);
            *decay_gradient = decay_gradient.add(decay_sums[v - first]);
        }
    }
    L::sum_each(projections)
}
