//! Logits in tiles that never leave the cube forward; a bounded range of the vocabulary at a time backward.
//!
//! Forward: a cube serves 32 rows and 1024 tokens of the vocabulary, so a row's sums depend on that row alone. Backward:
//! the slopes of a range of the vocabulary are formed and multiplied with the head and the hidden states.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeDim;

use super::kernel::{COLUMNS, ROWS, UNITS, log_prob_combine_kernel, log_prob_slope_kernel, log_prob_softmax_kernel};
use super::{LinearLogProbGradient, LinearLogProbOps, RowScores};
use crate::cube::product::product;
use crate::cube::sum::add_to_rows;
use crate::cube::{
    arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid, grid_of_units, sizes, writable,
};
use crate::softmax::COLDEST;

/// Tokens of the vocabulary per cube of the forward pass; a multiple of `COLUMNS`.
const SPLIT: usize = 1024;

/// Slopes that exist at a time in the backward pass (16 MiB).
const SLOPE_ELEMENTS: usize = 4 << 20;

impl LinearLogProbOps for CubeBackend {
    fn linear_log_prob(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (log_prob, entropy, _) = Self::linear_log_prob_forward(hidden, weight, targets, temperature);
        (log_prob, entropy)
    }
}

impl LinearLogProbGradient for CubeBackend {
    fn linear_log_prob_forward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
    ) -> RowScores<Self> {
        let (hidden, weight, targets) = (contiguous(hidden), contiguous(weight), contiguous(targets));
        let [rows, width] = sizes(&hidden);
        let [vocabulary, _] = sizes(&weight);
        let client = &hidden.client;
        let result = || empty(&hidden, [rows], DType::F32);
        let (log_prob, entropy, log_sum_exp, target_logits) = (result(), result(), result(), result());
        if rows > 0 {
            let (row_tiles, splits) = (rows.div_ceil(ROWS), vocabulary.div_ceil(SPLIT));
            let partial = empty(&hidden, [splits, rows, 3], DType::F32);
            // SAFETY: rows and tokens past the ends are neither read nor written, cubes past the tiles do nothing.
            unsafe {
                log_prob_softmax_kernel::launch_unchecked(
                    client,
                    grid(client, row_tiles * splits),
                    CubeDim::new_1d(UNITS as u32),
                    arg(&hidden),
                    arg(&weight),
                    arg(&targets),
                    arg(&partial),
                    arg(&target_logits),
                    row_tiles * splits,
                    row_tiles,
                    rows,
                    vocabulary,
                    width,
                    (1.0 / temperature.max(COLDEST)) as f32,
                    SPLIT,
                    [element_type(hidden.dtype), element_type(weight.dtype)],
                );
                log_prob_combine_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, rows),
                    block(),
                    arg(&partial),
                    arg(&target_logits),
                    arg(&log_prob),
                    arg(&entropy),
                    arg(&log_sum_exp),
                    rows,
                    splits,
                );
            }
        }
        (log_prob, entropy, log_sum_exp)
    }

    fn linear_log_prob_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
        sum: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let sum = writable(sum);
        let gradient = backward(hidden, weight, targets, temperature, [log_sum_exp, cotangent], Some(&sum));
        (gradient, sum)
    }

    fn linear_log_prob_hidden_backward(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
        temperature: f64,
        log_sum_exp: FloatTensor<Self>,
        cotangent: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        backward(hidden, weight, targets, temperature, [log_sum_exp, cotangent], None)
    }
}

/// The gradient of `hidden`; that of the weight is added to `sum`, if there is one.
fn backward(
    hidden: CubeTensor,
    weight: CubeTensor,
    targets: CubeTensor,
    temperature: f64,
    [log_sum_exp, cotangent]: [CubeTensor; 2],
    sum: Option<&CubeTensor>,
) -> CubeTensor {
    let (hidden, weight, targets) = (contiguous(hidden), contiguous(weight), contiguous(targets));
    let cotangent = contiguous_as(cotangent, DType::F32);
    let dtype = hidden.dtype;
    let [rows, width] = sizes(&hidden);
    let [vocabulary, _] = sizes(&weight);
    if rows == 0 {
        return empty(&hidden, [0, width], dtype);
    }
    let wide_hidden = sum.map(|_| cast_to(hidden.clone(), DType::F32));
    let mut hidden_gradient: Option<CubeTensor> = None;
    let range = (SLOPE_ELEMENTS / rows / COLUMNS).max(1) * COLUMNS;
    for first in (0..vocabulary).step_by(range) {
        let count = range.min(vocabulary - first);
        let slopes = slopes(&hidden, &weight, &targets, &log_sum_exp, &cotangent, temperature, first, count);
        let part =
            CubeBackend::float_slice(weight.clone(), &[Slice::from(first..first + count), Slice::from(0..width)]);
        let part = product(slopes.clone(), part);
        hidden_gradient = Some(match hidden_gradient {
            Some(sum) => CubeBackend::float_add(sum, part),
            None => part,
        });
        if let (Some(sum), Some(wide_hidden)) = (sum, &wide_hidden) {
            add_to_rows(sum, first, &product(CubeBackend::float_transpose(slopes), wide_hidden.clone()));
        }
    }
    // An empty vocabulary has no targets, hence no rows.
    let hidden_gradient = hidden_gradient.unwrap_or_else(|| empty(&hidden, [rows, width], DType::F32));
    cast_to(hidden_gradient, dtype)
}

/// `[rows, count]`: cotangents of the logits of tokens `first..first + count`, before the temperature.
#[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
fn slopes(
    hidden: &CubeTensor,
    weight: &CubeTensor,
    targets: &CubeTensor,
    log_sum_exp: &CubeTensor,
    cotangent: &CubeTensor,
    temperature: f64,
    first: usize,
    count: usize,
) -> CubeTensor {
    let [rows, width] = sizes(hidden);
    let [vocabulary, _] = sizes(weight);
    let slopes = empty(hidden, [rows, count], DType::F32);
    let (row_tiles, column_tiles) = (rows.div_ceil(ROWS), count.div_ceil(COLUMNS));
    if rows * count > 0 {
        // SAFETY: rows and tokens past the ends are neither read nor written, cubes past the tiles do nothing.
        unsafe {
            log_prob_slope_kernel::launch_unchecked(
                &hidden.client,
                grid(&hidden.client, row_tiles * column_tiles),
                CubeDim::new_1d(UNITS as u32),
                arg(hidden),
                arg(weight),
                arg(targets),
                arg(log_sum_exp),
                arg(cotangent),
                arg(&slopes),
                row_tiles * column_tiles,
                row_tiles,
                rows,
                vocabulary,
                width,
                first,
                count,
                (1.0 / temperature.max(COLDEST)) as f32,
                [element_type(hidden.dtype), element_type(weight.dtype)],
            );
        }
    }
    slopes
}
