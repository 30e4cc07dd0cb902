//! Online softmax over tiles of keys, for a few query rows of one cube (Dao et al. 2022, arXiv:2205.14135).
//!
//! A query row is one query head of one token; `rows` of them share a tile of `keys` keys, staged in shared memory
//! together with their running sums. Tiles start at absolute positions, and a tile without visible keys changes
//! nothing, so a row's result does not depend on its neighbours.

use cubecl::prelude::*;

use super::SHARED_BYTES;
use super::math::LOWEST;

/// Sizes of a tile. Functions of the model's sizes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Query heads of one key head that a cube serves; divides the query heads per key head.
    pub(crate) heads: usize,
    /// Tokens that a cube serves.
    pub(crate) tokens: usize,
    /// Keys per tile.
    pub(crate) keys: usize,
    /// Head width.
    pub(crate) width: usize,
}

impl Tile {
    /// The largest tile that fits a cube with `buffers` buffers of `rows * width` numbers, if any does.
    pub(crate) fn choose(heads_per_key: usize, width: usize, buffers: usize) -> Option<Self> {
        for rows in [8, 4, 2, 1] {
            let heads = (1..=rows).rev().find(|heads| heads_per_key.is_multiple_of(*heads)).unwrap_or(1);
            for keys in [32, 16, 8] {
                let tile = Self { heads, tokens: rows / heads, keys, width };
                if tile.bytes(buffers) <= SHARED_BYTES {
                    return Some(tile);
                }
            }
        }
        None
    }

    /// Query rows of a cube.
    pub(crate) fn rows(&self) -> usize {
        self.heads * self.tokens
    }

    /// Numbers between the starts of neighbouring keys; odd, so that units reading one element each of neighbouring keys
    /// meet different memory banks.
    pub(crate) fn stride(&self) -> usize {
        self.width | 1
    }

    fn bytes(&self, buffers: usize) -> usize {
        let numbers = buffers * self.rows() * self.width
            + self.keys * self.stride()
            + 2 * self.rows() * self.keys
            + 4 * self.rows();
        numbers * size_of::<f32>()
    }
}

/// `scores = scale * (rows of a) . (keys of tile)`; every unit takes some of the pairs.
#[cube]
pub(crate) fn products(
    a: &Shared<[f32]>,
    tile: &Shared<[f32]>,
    scores: &mut Shared<[f32]>,
    scale: f32,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let pairs = comptime!(shape.rows() * shape.keys);
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let mut pair = UNIT_POS as usize;
    while pair < pairs {
        let row = pair / keys;
        let key = pair % keys;
        let mut sum = 0.0f32;
        for at in 0..width {
            sum += a[row * width + at] * tile[key * stride + at];
        }
        scores[pair] = sum * scale;
        pair += block;
    }
}

/// Replaces the scores by weights relative to each row's running maximum and moves the running sums on. A row sees
/// `limits[row] - first` of the tile's keys.
///
/// `state` holds for each row the maximum, the sum of weights, and what earlier sums are to be multiplied by.
#[cube]
pub(crate) fn online_softmax(
    scores: &mut Shared<[f32]>,
    limits: &Shared<[u32]>,
    state: &mut Shared<[f32]>,
    first: usize,
    #[comptime] shape: Tile,
) {
    let rows = comptime!(shape.rows());
    let keys = comptime!(shape.keys);
    let row = UNIT_POS as usize;
    if row < rows {
        let limit = limits[row] as usize;
        let mut seen = 0usize;
        if limit > first {
            seen = min(limit - first, keys);
        }
        let before = state[row];
        let mut highest = before;
        for key in 0..seen {
            highest = max(highest, scores[row * keys + key]);
        }
        let mut sum = 0.0f32;
        for key in 0..seen {
            let weight = (scores[row * keys + key] - highest).exp();
            scores[row * keys + key] = weight;
            sum += weight;
        }
        for key in seen..keys {
            scores[row * keys + key] = 0.0f32;
        }
        let correction = (before - highest).exp();
        state[row] = highest;
        state[rows + row] = state[rows + row] * correction + sum;
        state[2usize * rows + row] = correction;
    }
}

/// `sums = sums * correction + weights * (keys of tile)`.
#[cube]
pub(crate) fn accumulate(
    weights: &Shared<[f32]>,
    tile: &Shared<[f32]>,
    state: &Shared<[f32]>,
    sums: &mut Shared<[f32]>,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let rows = comptime!(shape.rows());
    let keys = comptime!(shape.keys);
    let width = comptime!(shape.width);
    let stride = comptime!(shape.stride());
    let elements = comptime!(shape.rows() * shape.width);
    let mut at = UNIT_POS as usize;
    while at < elements {
        let row = at / width;
        let column = at % width;
        let mut sum = sums[at] * state[2usize * rows + row];
        for key in 0..keys {
            sum += weights[row * keys + key] * tile[key * stride + column];
        }
        sums[at] = sum;
        at += block;
    }
}

/// Empty sums and a maximum below every score.
#[cube]
pub(crate) fn start(
    state: &mut Shared<[f32]>,
    sums: &mut Shared<[f32]>,
    #[comptime] shape: Tile,
    #[comptime] block: usize,
) {
    let rows = comptime!(shape.rows());
    let elements = comptime!(shape.rows() * shape.width);
    let row = UNIT_POS as usize;
    if row < rows {
        state[row] = LOWEST;
        state[rows + row] = 0.0f32;
        state[2usize * rows + row] = 1.0f32;
    }
    let mut at = UNIT_POS as usize;
    while at < elements {
        sums[at] = 0.0f32;
        at += block;
    }
}
