//! The selective state-space scan of Mamba-2.
//!
//! Per head `h` of group `g = h / (H / G)`, with `dt = clip(softplus(dt_raw + dt_bias))` and
//! `A = -exp(a_log)`:
//!
//! `S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T`, `y_t = S_t C_t + d x_t`
//!
//! (Dao and Gu 2024, arXiv:2405.21060). The state `S [P, N]` is everything the operation remembers,
//! so any split of a sequence gives the same result as one piece, up to rounding. Padding tokens
//! have `dt = 0`, which makes them leave the state alone.

mod autodiff;
mod cpu;
mod cpu_backward;
mod cpu_forward;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod kernel_backward;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use crate::error::{assert_broadcast_batch, assert_lengths, assert_shape, assert_size};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Largest state the kernels are made for; larger ones take the reference.
const MAX_STATE: usize = 256;

/// Tensor arguments of [`ssd_scan`].
///
/// Axes: batch `B`, tokens `T`, heads `H`, head width `P`, groups `G` (divides `H`), state `N`.
#[derive(Clone, Debug)]
pub struct SsdInputs {
    /// `[B, T, H, P]` inputs.
    pub x: Tensor<4>,
    /// `[B, T, H]` step sizes before bias, softplus and clipping.
    pub dt: Tensor<3>,
    /// `[H]`; the decay rate is `-exp(a_log)`.
    pub a_log: Tensor<1>,
    /// `[B, T, G, N]` input projections.
    pub b: Tensor<4>,
    /// `[B, T, G, N]` output projections.
    pub c: Tensor<4>,
    /// `[H]` skip weights.
    pub d: Tensor<1>,
    /// `[H]` added to `dt` before softplus.
    pub dt_bias: Tensor<1>,
    /// `[1 or B, H, P, N]` incoming state; a batch of 1 is broadcast and its gradient summed.
    pub state: Tensor<4>,
}

/// Runs the scan over all tokens and returns the outputs and the outgoing state.
///
/// # Arguments
/// - `dt_limit`: bounds of the step size after softplus; `(0.0, f64::INFINITY)` for none
/// - `lengths`: valid tokens of each row (right padding); all tokens when absent. Outputs at padded
///   tokens are meaningless, and padded tokens do not touch the row's outgoing state.
///
/// # Shapes
/// - result: `y [B, T, H, P]` in the dtype of `x`, and the state `[B, H, P, N]` in the dtype of the
///   incoming state
///
/// # Panics
/// When shapes disagree, a length exceeds `T`, or `P` or `N` is 0.
pub fn ssd_scan(inputs: SsdInputs, dt_limit: (f64, f64), lengths: Option<&[usize]>) -> (Tensor<4>, Tensor<4>) {
    const NAME: &str = "ssd_scan";
    let [batch, tokens, heads, width] = inputs.x.dims();
    let [_, _, groups, state_size] = inputs.b.dims();
    let [state_batch, _, _, _] = inputs.state.dims();
    assert_shape(NAME, "dt", &inputs.dt.dims(), &[batch, tokens, heads]);
    assert_shape(NAME, "b", &inputs.b.dims(), &[batch, tokens, groups, state_size]);
    assert_shape(NAME, "c", &inputs.c.dims(), &[batch, tokens, groups, state_size]);
    for (argument, tensor) in [("a_log", &inputs.a_log), ("d", &inputs.d), ("dt_bias", &inputs.dt_bias)] {
        assert_shape(NAME, argument, &tensor.dims(), &[heads]);
    }
    assert_shape(NAME, "state", &inputs.state.dims(), &[state_batch, heads, width, state_size]);
    assert_broadcast_batch(NAME, "state", state_batch, batch);
    assert_size(
        NAME,
        "groups",
        groups,
        groups > 0 && heads.is_multiple_of(groups),
        "it must divide the number of heads",
    );
    assert_size(NAME, "head width", width, width > 0, "a head holds something");
    assert_size(NAME, "state size", state_size, state_size > 0, "a state holds something");
    assert_lengths(NAME, "lengths", lengths, batch, tokens);
    let fast = has_kernel(&inputs.x)
        && has_kernel(&inputs.dt)
        && has_kernel(&inputs.a_log)
        && has_kernel(&inputs.b)
        && has_kernel(&inputs.c)
        && has_kernel(&inputs.d)
        && has_kernel(&inputs.dt_bias)
        && has_kernel(&inputs.state);
    if fast && state_size <= MAX_STATE {
        let lengths = lengths.map_or_else(|| vec![tokens; batch], <[usize]>::to_vec);
        let tensors = SsdTensors {
            x: inputs.x.into_dispatch(),
            dt: inputs.dt.into_dispatch(),
            a_log: inputs.a_log.into_dispatch(),
            b: inputs.b.into_dispatch(),
            c: inputs.c.into_dispatch(),
            d: inputs.d.into_dispatch(),
            dt_bias: inputs.dt_bias.into_dispatch(),
            state: inputs.state.into_dispatch(),
        };
        let (y, state) = Dispatch::ssd_scan(tensors, dt_limit, lengths);
        return (Tensor::from_dispatch(y), Tensor::from_dispatch(state));
    }
    reference::ssd_scan(inputs, dt_limit, lengths)
}

/// [`SsdInputs`] as a backend's own tensors.
#[derive(Clone, Debug, ExtensionType)]
pub struct SsdTensors<B: Backend> {
    /// `[B, T, H, P]`
    pub x: FloatTensor<B>,
    /// `[B, T, H]`
    pub dt: FloatTensor<B>,
    /// `[H]`
    pub a_log: FloatTensor<B>,
    /// `[B, T, G, N]`
    pub b: FloatTensor<B>,
    /// `[B, T, G, N]`
    pub c: FloatTensor<B>,
    /// `[H]`
    pub d: FloatTensor<B>,
    /// `[H]`
    pub dt_bias: FloatTensor<B>,
    /// `[1 or B, H, P, N]`
    pub state: FloatTensor<B>,
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait SsdScanOps: Backend {
    /// See [`ssd_scan`](fn@ssd_scan); `lengths` has one entry per row.
    fn ssd_scan(
        #[extension_type] tensors: SsdTensors<Self>,
        dt_limit: (f64, f64),
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Saved inputs of a scan.
#[derive(Clone, Debug)]
pub struct SsdSaved<B: Backend> {
    tensors: SsdTensors<B>,
    dt_limit: (f64, f64),
    lengths: Vec<usize>,
}

/// The gradient of [`SsdScanOps`].
pub trait SsdScanGradient: Backend {
    /// Gradients of the fields of [`SsdTensors`] in order; a missing cotangent is zero.
    fn ssd_scan_backward(
        saved: SsdSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        state_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 8];
}
