//! Launches of the scan and its gradient.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeDim;

use super::kernel::{Chunk, SizesLaunch, UNITS, ssd_scan_kernel};
use super::kernel_backward::{ssd_scan_add_heads_kernel, ssd_scan_reverse_kernel, ssd_scan_step_gradient_kernel};
use super::{SsdSaved, SsdScanGradient, SsdScanOps, SsdTensors};
use crate::cube::sum::{Parts, sum_parts};
use crate::cube::{
    BLOCK, Numbers, arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, optional,
    sizes,
};

/// Numbers that states and gradients per head may take at a time in the backward pass (96 MiB).
const SCRATCH_ELEMENTS: usize = 24 << 20;

/// The arguments in row-major order; vectors of heads and step sizes in f32.
struct Scan {
    x: CubeTensor,
    dt: CubeTensor,
    a_log: CubeTensor,
    b: CubeTensor,
    c: CubeTensor,
    d: CubeTensor,
    dt_bias: CubeTensor,
    state: CubeTensor,
    lengths: Numbers,
    dt_limit: (f32, f32),
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
    groups: usize,
    state_size: usize,
    state_batch: usize,
}

impl Scan {
    fn new(tensors: SsdTensors<CubeBackend>, dt_limit: (f64, f64), lengths: &[usize]) -> Self {
        let [batch, tokens, heads, width] = sizes(&tensors.x);
        let [_, _, groups, state_size] = sizes(&tensors.b);
        let [state_batch, ..] = sizes::<4>(&tensors.state);
        let wide = |tensor| contiguous_as(tensor, DType::F32);
        let b = contiguous(tensors.b);
        Self {
            lengths: Numbers::from_sizes(&tensors.x.client, lengths),
            x: contiguous(tensors.x),
            dt: wide(tensors.dt),
            a_log: wide(tensors.a_log),
            c: contiguous_as(tensors.c, b.dtype),
            b,
            d: wide(tensors.d),
            dt_bias: wide(tensors.dt_bias),
            state: contiguous(tensors.state),
            dt_limit: (dt_limit.0 as f32, dt_limit.1.min(f64::from(f32::MAX)) as f32),
            batch,
            tokens,
            heads,
            width,
            groups,
            state_size,
            state_batch,
        }
    }

    fn sizes(&self) -> SizesLaunch {
        let (low, high) = self.dt_limit;
        SizesLaunch::new(self.tokens, self.heads, self.width, self.groups, self.state_batch, low, high)
    }

    /// Chunks that fit 32 KiB of shared memory.
    fn chunk(&self) -> Chunk {
        let (tokens, rows) = match self.state_size {
            ..=64 => (32, 16),
            65..=128 => (16, 16),
            _ => (8, 8),
        };
        Chunk { tokens, rows, state: self.state_size }
    }

    /// Smaller ones, since the gradient stages more.
    fn backward_chunk(&self) -> Chunk {
        let (tokens, rows) = match self.state_size {
            ..=64 => (16, 16),
            65..=128 => (16, 8),
            _ => (8, 4),
        };
        Chunk { tokens, rows, state: self.state_size }
    }
}

impl SsdScanOps for CubeBackend {
    fn ssd_scan(
        tensors: SsdTensors<Self>,
        dt_limit: (f64, f64),
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let scan = Scan::new(tensors, dt_limit, &lengths);
        let chunk = scan.chunk();
        let tiles = scan.width.div_ceil(chunk.rows);
        let cubes = scan.batch * scan.heads * tiles;
        let y = empty(&scan.x, scan.x.shape(), scan.x.dtype);
        let outgoing = empty(&scan.x, [scan.batch, scan.heads, scan.width, scan.state_size], scan.state.dtype);
        if cubes > 0 {
            // SAFETY: the public function checks the shapes; tokens, rows and cubes past the ends are neither read nor
            // written.
            unsafe {
                ssd_scan_kernel::launch_unchecked(
                    &scan.x.client,
                    grid(&scan.x.client, cubes),
                    CubeDim::new_1d(UNITS as u32),
                    arg(&scan.x),
                    arg(&scan.dt),
                    arg(&scan.a_log),
                    arg(&scan.b),
                    arg(&scan.c),
                    arg(&scan.d),
                    arg(&scan.dt_bias),
                    arg(&scan.state),
                    scan.lengths.arg(),
                    arg(&y),
                    arg(&outgoing),
                    cubes,
                    tiles,
                    scan.sizes(),
                    chunk,
                    [scan.x.dtype, scan.b.dtype, scan.state.dtype].map(element_type),
                );
            }
        }
        (y, outgoing)
    }
}

impl SsdScanGradient for CubeBackend {
    fn ssd_scan_backward(
        saved: SsdSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        state_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 8] {
        let SsdTensors { x, dt, a_log, b, c, d, dt_bias, state } = &saved.tensors;
        let dtypes = [x, dt, a_log, b, c, d, dt_bias, state].map(|tensor| tensor.dtype);
        let scan = Scan::new(saved.tensors, saved.dt_limit, &saved.lengths);
        let Scan { batch, tokens, heads, width, groups, state_size, .. } = scan;
        let chunk = scan.backward_chunk();
        let client = &scan.x.client;
        // Whether a cotangent exists is a number for the kernels.
        let has_y = u32::from(y_cotangent.is_some());
        let has_state = u32::from(state_cotangent.is_some());
        let y_cotangent = optional(y_cotangent, &scan.x, scan.x.dtype);
        let state_cotangent = optional(state_cotangent, &scan.x, scan.state.dtype);

        let gradient = |shape: [usize; 4]| empty(&scan.x, shape, DType::F32);
        let x_gradient = gradient([batch, tokens, heads, width]);
        let (b_gradient, c_gradient) =
            (gradient([batch, tokens, groups, state_size]), gradient([batch, tokens, groups, state_size]));
        let state_gradient = gradient([batch, heads, width, state_size]);
        let dt_gradient = empty(&scan.x, [batch, tokens, heads], DType::F32);
        // Per row and head: gradients of `a_log`, `d` and `dt_bias`.
        let per_head = gradient([batch, 3, heads, 1]);

        let pairs = batch * heads;
        let chunks = tokens.div_ceil(chunk.tokens);
        let (states, projections) = (chunks * width * state_size, tokens * state_size);
        let pairs_at_once = (SCRATCH_ELEMENTS / (states + 2 * projections).max(1)).clamp(1, pairs.max(1));
        let entering = empty(&scan.x, [pairs_at_once * states], DType::F32);
        let b_partial = empty(&scan.x, [pairs_at_once * projections], DType::F32);
        let c_partial = empty(&scan.x, [pairs_at_once * projections], DType::F32);
        // Per token of each pair: gradients of the step size and of the decay rate, and `x . cotangent`.
        let per_token = empty(&scan.x, [pairs_at_once * tokens * 3], DType::F32);
        for first_pair in (0..pairs).step_by(pairs_at_once) {
            let count = pairs_at_once.min(pairs - first_pair);
            // SAFETY: the public function checks the shapes; scratch holds `pairs_at_once` pairs; tokens, rows, pairs
            // and cubes past the ends are neither read nor written.
            unsafe {
                ssd_scan_reverse_kernel::launch_unchecked(
                    client,
                    grid(client, count),
                    CubeDim::new_1d(UNITS as u32),
                    arg(&scan.x),
                    arg(&scan.dt),
                    arg(&scan.a_log),
                    arg(&scan.b),
                    arg(&scan.c),
                    arg(&scan.d),
                    arg(&scan.dt_bias),
                    arg(&scan.state),
                    scan.lengths.arg(),
                    arg(&y_cotangent),
                    arg(&state_cotangent),
                    arg(&entering),
                    arg(&x_gradient),
                    arg(&b_partial),
                    arg(&c_partial),
                    arg(&per_token),
                    arg(&state_gradient),
                    first_pair,
                    count,
                    chunks,
                    has_y,
                    has_state,
                    scan.sizes(),
                    chunk,
                    [scan.x.dtype, scan.b.dtype, scan.state.dtype].map(element_type),
                );
                ssd_scan_step_gradient_kernel::launch_unchecked(
                    client,
                    grid(client, count),
                    block(),
                    arg(&scan.dt),
                    arg(&scan.a_log),
                    arg(&scan.dt_bias),
                    scan.lengths.arg(),
                    arg(&per_token),
                    arg(&dt_gradient),
                    arg(&per_head),
                    first_pair,
                    count,
                    scan.sizes(),
                    BLOCK,
                );
                for (partial, gradient) in [(&b_partial, &b_gradient), (&c_partial, &c_gradient)] {
                    let elements = batch * tokens * groups * state_size;
                    ssd_scan_add_heads_kernel::launch_unchecked(
                        client,
                        grid_of_units(client, elements),
                        block(),
                        arg(partial),
                        arg(gradient),
                        elements,
                        first_pair,
                        count,
                        state_size,
                        scan.sizes(),
                    );
                }
            }
        }
        let per_row = |kind: usize| Parts { count: batch, stride: 3 * heads, offset: kind * heads };
        let state_gradient = if scan.state_batch == batch {
            cast_to(state_gradient, dtypes[7])
        } else {
            let size = heads * width * state_size;
            let parts = Parts { count: batch, stride: size, offset: 0 };
            sum_parts(&state_gradient, parts, [1, heads, width, state_size], dtypes[7])
        };
        [
            cast_to(x_gradient, dtypes[0]),
            cast_to(dt_gradient, dtypes[1]),
            sum_parts(&per_head, per_row(0), [heads], dtypes[2]),
            cast_to(b_gradient, dtypes[3]),
            cast_to(c_gradient, dtypes[4]),
            sum_parts(&per_head, per_row(1), [heads], dtypes[5]),
            sum_parts(&per_head, per_row(2), [heads], dtypes[6]),
            state_gradient,
        ]
    }
}
