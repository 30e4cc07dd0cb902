//! Cube code of the log-probabilities: tiles of 32 rows and 64 tokens of the vocabulary.

use cubecl::prelude::*;

use crate::cube::math::LOWEST;

/// Rows of a tile.
pub(super) const ROWS: usize = 32;
/// Tokens of the vocabulary of a tile.
pub(super) const COLUMNS: usize = 64;
/// Units of a cube; each forms two rows of four logits.
pub(super) const UNITS: usize = 256;

/// Units along a tile's rows, and along its columns.
const SIDE: usize = 16;
/// Elements of the hidden width that are staged at a time.
const DEPTH: usize = 16;
/// Odd distances between staged elements, against bank conflicts.
const ROW_STRIDE: usize = ROWS + 1;
const COLUMN_STRIDE: usize = COLUMNS + 1;

/// Scaled logits of one tile. Unit `(i, j)` gets rows `i` and `i + 16` of columns `j`, `j + 16`, `j + 32` and `j + 48`.
#[cube]
fn logit_tile<H: Float, W: Float>(
    hidden: &[H],
    weight: &[W],
    staged_rows: &mut Shared<[f32]>,
    staged_columns: &mut Shared<[f32]>,
    logits: &mut Array<f32>,
    first_row: usize,
    first_column: usize,
    rows: usize,
    vocabulary: usize,
    width: usize,
    scale: f32,
) {
    let unit = UNIT_POS as usize;
    let unit_row = unit / SIDE;
    let unit_column = unit % SIDE;
    #[unroll]
    for i in 0..8usize {
        logits[i] = 0.0f32;
    }
    let mut start = 0usize;
    while start < width {
        let mut at = unit;
        while at < ROWS * DEPTH {
            let row = first_row + at / DEPTH;
            let k = start + at % DEPTH;
            let mut value = 0.0f32;
            if row < rows && k < width {
                value = f32::cast_from(hidden[row * width + k]);
            }
            staged_rows[(at % DEPTH) * ROW_STRIDE + at / DEPTH] = value;
            at += UNITS;
        }
        let mut at = unit;
        while at < COLUMNS * DEPTH {
            let column = first_column + at / DEPTH;
            let k = start + at % DEPTH;
            let mut value = 0.0f32;
            if column < vocabulary && k < width {
                value = f32::cast_from(weight[column * width + k]);
            }
            staged_columns[(at % DEPTH) * COLUMN_STRIDE + at / DEPTH] = value;
            at += UNITS;
        }
        sync_cube();
        for k in 0..DEPTH {
            let upper = staged_rows[k * ROW_STRIDE + unit_row];
            let lower = staged_rows[k * ROW_STRIDE + unit_row + SIDE];
            #[unroll]
            for j in 0..4usize {
                let weight = staged_columns[k * COLUMN_STRIDE + unit_column + j * SIDE];
                logits[j] += upper * weight;
                logits[4usize + j] += lower * weight;
            }
        }
        sync_cube();
        start += DEPTH;
    }
    #[unroll]
    for i in 0..8usize {
        logits[i] *= scale;
    }
}

/// One cube per tile of rows and split of the vocabulary: largest logit, sum of `exp(logit - largest)`, and the sum of
/// `(logit - largest) exp(logit - largest)`, for each row; also the targets' logits.
#[cube(launch_unchecked)]
pub(super) fn log_prob_softmax_kernel<H: Float, W: Float>(
    hidden: &[H],
    weight: &[W],
    targets: &[i32],
    partial: &mut [f32],
    target_logits: &mut [f32],
    cubes: usize,
    row_tiles: usize,
    rows: usize,
    vocabulary: usize,
    width: usize,
    scale: f32,
    #[comptime] split_size: usize,
    #[define(H, W)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let unit_row = unit / SIDE;
    let unit_column = unit % SIDE;
    let first_row = (CUBE_POS % row_tiles) * ROWS;
    let split = CUBE_POS / row_tiles;
    let mut staged_rows = Shared::<[f32]>::new_slice(comptime!(DEPTH * ROW_STRIDE));
    let mut staged_columns = Shared::<[f32]>::new_slice(comptime!(DEPTH * COLUMN_STRIDE));
    let mut largest = Shared::<[f32]>::new_slice(comptime!(ROWS * SIDE));
    let mut totals = Shared::<[f32]>::new_slice(comptime!(ROWS * SIDE));
    let mut moments = Shared::<[f32]>::new_slice(comptime!(ROWS * SIDE));
    #[unroll]
    for half in 0..2usize {
        let place = (unit_row + half * SIDE) * SIDE + unit_column;
        largest[place] = LOWEST;
        totals[place] = 0.0f32;
        moments[place] = 0.0f32;
    }
    let mut logits = Array::<f32>::new(8usize);
    let end = min((split + 1usize) * split_size, vocabulary);
    let mut first_column = split * split_size;
    while first_column < end {
        logit_tile::<H, W>(
            hidden,
            weight,
            &mut staged_rows,
            &mut staged_columns,
            &mut logits,
            first_row,
            first_column,
            rows,
            vocabulary,
            width,
            scale,
        );
        #[unroll]
        for half in 0..2usize {
            let row = first_row + unit_row + half * SIDE;
            let place = (unit_row + half * SIDE) * SIDE + unit_column;
            #[unroll]
            for j in 0..4usize {
                let column = first_column + unit_column + j * SIDE;
                if row < rows && column < vocabulary {
                    let logit = logits[half * 4usize + j];
                    let before = largest[place];
                    let highest = max(before, logit);
                    let shift = before - highest;
                    let factor = shift.exp();
                    let difference = logit - highest;
                    let weight = difference.exp();
                    moments[place] = factor * (moments[place] + totals[place] * shift) + weight * difference;
                    totals[place] = totals[place] * factor + weight;
                    largest[place] = highest;
                    if column == targets[row] as usize {
                        target_logits[row] = logit;
                    }
                }
            }
        }
        first_column += COLUMNS;
    }
    sync_cube();
    if unit < ROWS {
        let row = first_row + unit;
        if row < rows {
            let mut highest = f32::new(LOWEST);
            for lane in 0..SIDE {
                highest = max(highest, largest[unit * SIDE + lane]);
            }
            let mut total = 0.0f32;
            let mut moment = 0.0f32;
            for lane in 0..SIDE {
                let place = unit * SIDE + lane;
                // A lane without tokens has no total; its shift must not meet the zero as an infinity.
                let shift = max(largest[place] - highest, -1000.0f32);
                let factor = shift.exp();
                total += totals[place] * factor;
                moment += factor * (moments[place] + totals[place] * shift);
            }
            let place = (split * rows + row) * 3usize;
            partial[place] = highest;
            partial[place + 1usize] = total;
            partial[place + 2usize] = moment;
        }
    }
}

/// One unit per row: joins the splits, first to last.
#[cube(launch_unchecked)]
pub(super) fn log_prob_combine_kernel(
    partial: &[f32],
    target_logits: &[f32],
    log_prob: &mut [f32],
    entropy: &mut [f32],
    log_sum_exp: &mut [f32],
    rows: usize,
    splits: usize,
) {
    let row = ABSOLUTE_POS;
    if row < rows {
        let mut highest = f32::new(LOWEST);
        for split in 0..splits {
            highest = max(highest, partial[(split * rows + row) * 3usize]);
        }
        let mut total = 0.0f32;
        let mut moment = 0.0f32;
        for split in 0..splits {
            let place = (split * rows + row) * 3usize;
            let shift = partial[place] - highest;
            let factor = shift.exp();
            total += partial[place + 1usize] * factor;
            moment += factor * (partial[place + 2usize] + partial[place + 1usize] * shift);
        }
        let log_total = total.ln();
        // Differences of logits first: the denominator's logarithm is small.
        log_prob[row] = (target_logits[row] - highest) - log_total;
        entropy[row] = log_total - moment / total;
        log_sum_exp[row] = highest + log_total;
    }
}

/// One cube per tile: `cotangent scale ([token is the target] - probability)`.
#[cube(launch_unchecked)]
pub(super) fn log_prob_slope_kernel<H: Float, W: Float>(
    hidden: &[H],
    weight: &[W],
    targets: &[i32],
    log_sum_exp: &[f32],
    cotangent: &[f32],
    slopes: &mut [f32],
    cubes: usize,
    row_tiles: usize,
    rows: usize,
    vocabulary: usize,
    width: usize,
    first: usize,
    count: usize,
    scale: f32,
    #[define(H, W)] _dtypes: [ElemType; 2],
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let first_row = (CUBE_POS % row_tiles) * ROWS;
    let first_column = first + CUBE_POS / row_tiles * COLUMNS;
    let mut staged_rows = Shared::<[f32]>::new_slice(comptime!(DEPTH * ROW_STRIDE));
    let mut staged_columns = Shared::<[f32]>::new_slice(comptime!(DEPTH * COLUMN_STRIDE));
    let mut logits = Array::<f32>::new(8usize);
    logit_tile::<H, W>(
        hidden,
        weight,
        &mut staged_rows,
        &mut staged_columns,
        &mut logits,
        first_row,
        first_column,
        rows,
        vocabulary,
        width,
        scale,
    );
    #[unroll]
    for half in 0..2usize {
        let row = first_row + unit / SIDE + half * SIDE;
        if row < rows {
            let factor = cotangent[row] * scale;
            #[unroll]
            for j in 0..4usize {
                let column = first_column + unit % SIDE + j * SIDE;
                if column < first + count {
                    let probability = (logits[half * 4usize + j] - log_sum_exp[row]).exp();
                    let hit = select(column == targets[row] as usize, 1.0f32, 0.0f32);
                    slopes[row * count + column - first] = factor * (hit - probability);
                }
            }
        }
    }
}
