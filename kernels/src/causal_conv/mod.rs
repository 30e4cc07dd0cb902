//! Depthwise causal convolution over time followed by SiLU, with a carried window.
//!
//! `v[t, c] = bias[c] + sum_j weight[c, 0, j] * x[t - (K - 1) + j, c]`, `y = silu(v)`: tap `K - 1`
//! multiplies the current token, and the `K - 1` inputs before the first token come from the
//! incoming window. The window is everything the operation remembers, so any split of a sequence
//! gives the same result as one piece.

mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use crate::error::{assert_broadcast_batch, assert_lengths, assert_shape, assert_size};
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Convolves every channel with its own causal filter, applies SiLU, and returns the new window.
///
/// # Shapes
/// - `x`: `[batch, tokens, channels]`
/// - `weight`: `[channels, 1, K]` with `K >= 2`
/// - `bias`: `[channels]`
/// - `window`: `[1 or batch, channels, K - 1]`, inputs before the first token, oldest first; zeros
///   at the start of a sequence. A batch of 1 is broadcast and its gradient is summed.
/// - `lengths`: valid tokens of each row (right padding); all tokens when absent. Outputs at padded
///   tokens are finite but meaningless.
/// - result: `y [batch, tokens, channels]` in the dtype of `x` and the window after each row's last
///   valid token, `[batch, channels, K - 1]`
///
/// # Panics
/// When shapes disagree, `K < 2`, or a length exceeds `tokens`.
pub fn causal_conv(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Option<Tensor<1>>,
    window: Tensor<3>,
    lengths: Option<&[usize]>,
) -> (Tensor<3>, Tensor<3>) {
    const NAME: &str = "causal_conv";
    let [batch, tokens, channels] = x.dims();
    let [weight_channels, _, taps] = weight.dims();
    let [window_batch, _, _] = window.dims();
    assert_shape(NAME, "weight", &weight.dims(), &[channels, 1, taps]);
    assert_size(NAME, "taps", taps, taps >= 2, "it must be at least 2");
    if let Some(bias) = &bias {
        assert_shape(NAME, "bias", &bias.dims(), &[weight_channels]);
    }
    assert_shape(NAME, "window", &window.dims(), &[window_batch, channels, taps - 1]);
    assert_broadcast_batch(NAME, "window", window_batch, batch);
    assert_lengths(NAME, "lengths", lengths, batch, tokens);
    let fast = has_kernel(&x) && has_kernel(&weight) && has_kernel(&window);
    if fast && bias.as_ref().is_none_or(has_kernel) {
        // No bias adds zeros: the sums start from the bias either way.
        let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &x.device()));
        let lengths = lengths.map_or_else(|| vec![tokens; batch], <[usize]>::to_vec);
        let (y, window) = Dispatch::causal_conv(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            window.into_dispatch(),
            lengths,
        );
        return (Tensor::from_dispatch(y), Tensor::from_dispatch(window));
    }
    reference::causal_conv(x, weight, bias, window, lengths)
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait CausalConvOps: Backend {
    /// See [`causal_conv`](fn@causal_conv); `lengths` has one entry per row.
    fn causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Saved inputs of a convolution.
#[derive(Clone, Debug)]
pub struct CausalConvSaved<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    window: FloatTensor<B>,
    lengths: Vec<usize>,
}

/// The gradient of [`CausalConvOps`].
pub trait CausalConvGradient: Backend {
    /// Gradients of `x`, `weight`, `bias` and `window`; a missing cotangent is zero.
    fn causal_conv_backward(
        saved: CausalConvSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        window_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 4];
}
