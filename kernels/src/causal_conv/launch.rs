//! One unit per output element; gradients of filters and bias in parts of 64 tokens that are then added in order.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::kernel::{
    causal_conv_filter_gradient_kernel, causal_conv_input_gradient_kernel, causal_conv_kernel,
    causal_conv_slope_kernel, causal_conv_window_gradient_kernel, causal_conv_window_kernel,
};
use super::{CausalConvGradient, CausalConvOps, CausalConvSaved};
use crate::cube::sum::{Parts, sum_parts};
use crate::cube::{
    Numbers, arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid_of_units, optional, sizes,
};

/// Tokens per part of the gradients of filters and bias.
const TOKENS_PER_PART: usize = 64;

/// The arguments in row-major order, filters and bias in f32.
struct Conv {
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    window: CubeTensor,
    lengths: Numbers,
    batch: usize,
    tokens: usize,
    channels: usize,
    taps: usize,
    window_batch: usize,
}

impl Conv {
    fn new(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, window: CubeTensor, lengths: &[usize]) -> Self {
        let x = contiguous(x);
        let [batch, tokens, channels] = sizes(&x);
        let [_, _, taps] = sizes(&weight);
        let [window_batch, _, _] = sizes(&window);
        Self {
            weight: contiguous_as(weight, DType::F32),
            bias: contiguous_as(bias, DType::F32),
            window: contiguous_as(window, x.dtype),
            lengths: Numbers::from_sizes(&x.client, lengths),
            x,
            batch,
            tokens,
            channels,
            taps,
            window_batch,
        }
    }

    fn elements(&self) -> usize {
        self.batch * self.tokens * self.channels
    }
}

impl CausalConvOps for CubeBackend {
    fn causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let conv = Conv::new(x, weight, bias, window, &lengths);
        let Conv { batch, tokens, channels, taps, .. } = conv;
        let (client, dtype) = (&conv.x.client, conv.x.dtype);
        let y = empty(&conv.x, conv.x.shape(), dtype);
        let outgoing = empty(&conv.x, [batch, channels, taps - 1], dtype);
        if conv.elements() > 0 {
            // SAFETY: units past the elements of `y` do nothing, and inputs are addressed inside row and window.
            unsafe {
                causal_conv_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, conv.elements()),
                    block(),
                    arg(&conv.x),
                    arg(&conv.weight),
                    arg(&conv.bias),
                    arg(&conv.window),
                    arg(&y),
                    conv.elements(),
                    tokens,
                    channels,
                    taps,
                    conv.window_batch,
                    element_type(dtype),
                );
            }
        }
        let size = batch * channels * (taps - 1);
        if size > 0 {
            // SAFETY: as above, for the elements of the window.
            unsafe {
                causal_conv_window_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, size),
                    block(),
                    arg(&conv.x),
                    arg(&conv.window),
                    conv.lengths.arg(),
                    arg(&outgoing),
                    size,
                    tokens,
                    channels,
                    taps,
                    conv.window_batch,
                    element_type(dtype),
                );
            }
        }
        (y, outgoing)
    }
}

impl CausalConvGradient for CubeBackend {
    fn causal_conv_backward(
        saved: CausalConvSaved<Self>,
        y_cotangent: Option<FloatTensor<Self>>,
        window_cotangent: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 4] {
        let dtypes = [saved.weight.dtype, saved.bias.dtype, saved.window.dtype];
        let conv = Conv::new(saved.x, saved.weight, saved.bias, saved.window, &saved.lengths);
        let Conv { batch, tokens, channels, taps, window_batch, .. } = conv;
        let (client, dtype) = (&conv.x.client, conv.x.dtype);
        let kept = taps - 1;
        // Whether a cotangent exists is a number for the kernels.
        let has_y = u32::from(y_cotangent.is_some());
        let has_window = u32::from(window_cotangent.is_some());
        let y_cotangent = optional(y_cotangent, &conv.x, dtype);
        let window_cotangent = optional(window_cotangent, &conv.x, dtype);
        let slopes = empty(&conv.x, conv.x.shape(), DType::F32);
        let x_gradient = empty(&conv.x, conv.x.shape(), dtype);
        let parts_per_row = tokens.div_ceil(TOKENS_PER_PART);
        let num_parts = batch * parts_per_row;
        let part_size = channels * (taps + 1);
        let parts = empty(&conv.x, [num_parts, part_size], DType::F32);
        if conv.elements() > 0 {
            // SAFETY: units past the elements, or past the parts, do nothing; inputs are addressed inside row and
            // window.
            unsafe {
                causal_conv_slope_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, conv.elements()),
                    block(),
                    arg(&conv.x),
                    arg(&conv.weight),
                    arg(&conv.bias),
                    arg(&conv.window),
                    conv.lengths.arg(),
                    arg(&y_cotangent),
                    arg(&slopes),
                    conv.elements(),
                    tokens,
                    channels,
                    taps,
                    window_batch,
                    has_y,
                    element_type(dtype),
                );
                causal_conv_input_gradient_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, conv.elements()),
                    block(),
                    arg(&conv.weight),
                    conv.lengths.arg(),
                    arg(&slopes),
                    arg(&window_cotangent),
                    arg(&x_gradient),
                    conv.elements(),
                    tokens,
                    channels,
                    taps,
                    has_window,
                    element_type(dtype),
                );
                causal_conv_filter_gradient_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, num_parts * channels),
                    block(),
                    arg(&conv.x),
                    arg(&conv.window),
                    arg(&slopes),
                    arg(&parts),
                    num_parts * channels,
                    tokens,
                    channels,
                    taps,
                    window_batch,
                    parts_per_row,
                    TOKENS_PER_PART,
                    element_type(dtype),
                );
            }
        }
        let window_gradient = empty(&conv.x, [window_batch, channels, kept], dtype);
        // SAFETY: units past the elements of the window do nothing.
        unsafe {
            causal_conv_window_gradient_kernel::launch_unchecked(
                client,
                grid_of_units(client, window_batch * channels * kept),
                block(),
                arg(&conv.weight),
                conv.lengths.arg(),
                arg(&slopes),
                arg(&window_cotangent),
                arg(&window_gradient),
                window_batch * channels * kept,
                // A window that several rows share gets the gradients of all of them.
                batch / window_batch,
                tokens,
                channels,
                taps,
                has_window,
                element_type(dtype),
            );
        }
        let filters = Parts { count: num_parts, stride: part_size, offset: 0 };
        let biases = Parts { count: num_parts, stride: part_size, offset: channels * taps };
        [
            x_gradient,
            sum_parts(&parts, filters, [channels, 1, taps], dtypes[0]),
            sum_parts(&parts, biases, [channels], dtypes[1]),
            cast_to(window_gradient, dtypes[2]),
        ]
    }
}
