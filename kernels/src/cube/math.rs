//! Scalar functions and sums inside a cube.

use cubecl::prelude::*;

/// Stands for minus infinity where a maximum starts: WGSL has no literal for infinities.
pub(crate) const LOWEST: f32 = -1e30;

/// `1 / (1 + e^-x)` without overflow.
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let small = (-x.abs()).exp();
    let numerator = select(x >= 0.0f32, 1.0f32, small);
    numerator / (1.0f32 + small)
}

/// `x sigmoid(x)`.
#[cube]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The derivative of [`silu`].
#[cube]
pub(crate) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0f32 + x * (1.0f32 - s))
}

/// `log(1 + e^x)`, accurate for both signs.
///
/// The logarithm of `1 + e` for `e` in `[0, 1]` is the series of `2 atanh(e / (2 + e))`: devices without `log1p`
/// would lose the small values.
#[cube]
pub(crate) fn softplus(x: f32) -> f32 {
    let small = (-x.abs()).exp();
    let s = small / (2.0f32 + small);
    let q = s * s;
    let mut series = q * (1.0f32 / 15.0f32) + 1.0f32 / 13.0f32;
    series = series * q + 1.0f32 / 11.0f32;
    series = series * q + 1.0f32 / 9.0f32;
    series = series * q + 1.0f32 / 7.0f32;
    series = series * q + 1.0f32 / 5.0f32;
    series = series * q + 1.0f32 / 3.0f32;
    series = series * q + 1.0f32;
    max(x, 0.0f32) + 2.0f32 * s * series
}

/// The sum of `value` over the units of a cube, in a fixed order; every unit gets it.
///
/// `shared` holds one number for each of the `block` (a power of two) units. All units must call it.
#[cube]
pub(crate) fn block_sum(value: f32, shared: &mut Shared<[f32]>, #[comptime] block: usize) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    let mut half = usize::cast_from(comptime!(block / 2));
    while half > 0usize {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2usize;
    }
    let total = shared[0];
    sync_cube();
    total
}
