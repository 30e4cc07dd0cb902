//! One decode token of a Mamba-2 mixer for many sequences, over pools of states.
//!
//! Between the input and the output projection a decode step reads a convolution window and a state, and writes them
//! back advanced by one token. Each row names the slot it reads and the slot it writes: equal slots advance a sequence,
//! different slots fork it, so that a fork costs nothing until its first token. The formulas are those of
//! [`causal_conv`](crate::causal_conv()), [`ssd_scan`](crate::ssd_scan()) and
//! [`gated_rms_norm`](crate::gated_rms_norm()) for one token.

mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::error::{assert_shape, assert_size};

/// Tensor arguments of [`ssm_step`].
///
/// Axes: rows `B`, heads `H`, head width `P`, groups `G` (divides `H`), state `N`, taps `K`; `inner = H P`, channels
/// `C = inner + 2 G N` in the order x, B, C.
#[derive(Clone, Debug)]
pub struct SsmStepInputs {
    /// `[B, inner]` gate.
    pub z: Tensor<2>,
    /// `[B, C]` input of the convolution.
    pub xbc: Tensor<2>,
    /// `[B, H]` step sizes before bias, softplus and clipping.
    pub dt: Tensor<2>,
    /// `[C, 1, K]` depthwise filters, `K >= 2`.
    pub conv_weight: Tensor<3>,
    /// `[C]`.
    pub conv_bias: Option<Tensor<1>>,
    /// `[H]`; the decay rate is `-exp(a_log)`.
    pub a_log: Tensor<1>,
    /// `[H]` skip weights.
    pub d: Tensor<1>,
    /// `[H]` added to `dt` before softplus.
    pub dt_bias: Tensor<1>,
    /// `[inner]` scale of the gated norm.
    pub norm_weight: Tensor<1>,
    /// `[slots, C, K - 1]` convolution windows, oldest first.
    pub conv_pool: Tensor<3>,
    /// `[slots, H, P, N]` states.
    pub ssm_pool: Tensor<4>,
}

/// Scalars of [`ssm_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SsmStepOptions {
    /// Groups that share B and C and are normalised together.
    pub num_groups: usize,
    /// Bounds of the step size after softplus; `(0.0, f64::INFINITY)` for none.
    pub dt_limit: (f64, f64),
    /// Added to the mean square in the gated norm.
    pub epsilon: f64,
}

/// Tensor arguments on the side of a backend.
#[derive(ExtensionType)]
pub struct SsmStepTensors<B: Backend> {
    z: FloatTensor<B>,
    xbc: FloatTensor<B>,
    dt: FloatTensor<B>,
    conv_weight: FloatTensor<B>,
    conv_bias: FloatTensor<B>,
    a_log: FloatTensor<B>,
    d: FloatTensor<B>,
    dt_bias: FloatTensor<B>,
    norm_weight: FloatTensor<B>,
    conv_pool: FloatTensor<B>,
    ssm_pool: FloatTensor<B>,
}

/// Backends that can run [`ssm_step`]. Never differentiated, so there is no autodiff implementation.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait SsmStepOps: Backend {
    /// See [`ssm_step`](super::ssm_step()); returns `y`, the convolution pool and the state pool.
    fn ssm_step(
        #[extension_type] tensors: SsmStepTensors<Self>,
        options: SsmStepOptions,
        src: Vec<u32>,
        dst: Vec<u32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Advances row `i` by one token: reads slot `src[i]` of both pools, writes slot `dst[i]`.
///
/// All reads see the pools as they were before the call, so a slot may be read by several rows and overwritten by one.
/// The pools are changed in place when the given handles are the only ones, copied otherwise.
///
/// # Shapes
/// - result: `y [B, inner]` (after the gated norm, before the output projection) and the two pools
///
/// # Panics
/// When shapes disagree, a slot is outside the pools, two rows write one slot, or a tensor is tracked by autodiff.
pub fn ssm_step(
    inputs: SsmStepInputs,
    options: SsmStepOptions,
    src: Vec<u32>,
    dst: Vec<u32>,
) -> (Tensor<2>, Tensor<3>, Tensor<4>) {
    const NAME: &str = "ssm_step";
    let [slots, heads, width, state_size] = inputs.ssm_pool.dims();
    let inner = heads * width;
    let groups = options.num_groups;
    assert_size(
        NAME,
        "num_groups",
        groups,
        groups > 0 && heads.is_multiple_of(groups),
        "it must divide the number of heads",
    );
    let channels = inner + 2 * groups * state_size;
    let [rows, _] = inputs.z.dims();
    let [_, _, taps] = inputs.conv_weight.dims();
    assert_size(NAME, "taps", taps, taps >= 2, "it must be at least 2");
    assert_shape(NAME, "z", &inputs.z.dims(), &[rows, inner]);
    assert_shape(NAME, "xbc", &inputs.xbc.dims(), &[rows, channels]);
    assert_shape(NAME, "dt", &inputs.dt.dims(), &[rows, heads]);
    assert_shape(NAME, "conv_weight", &inputs.conv_weight.dims(), &[channels, 1, taps]);
    assert_shape(NAME, "conv_pool", &inputs.conv_pool.dims(), &[slots, channels, taps - 1]);
    assert_shape(NAME, "norm_weight", &inputs.norm_weight.dims(), &[inner]);
    for (argument, tensor) in [("a_log", &inputs.a_log), ("d", &inputs.d), ("dt_bias", &inputs.dt_bias)] {
        assert_shape(NAME, argument, &tensor.dims(), &[heads]);
    }
    if let Some(bias) = &inputs.conv_bias {
        assert_shape(NAME, "conv_bias", &bias.dims(), &[channels]);
    }
    check_slots(&src, &dst, rows, slots);

    let device = inputs.z.device();
    let dtype = inputs.z.dtype();
    let conv_bias = inputs.conv_bias.unwrap_or_else(|| Tensor::zeros([channels], (&device, dtype)));
    let tensors = SsmStepTensors {
        z: inputs.z.into_dispatch(),
        xbc: inputs.xbc.into_dispatch(),
        dt: inputs.dt.into_dispatch(),
        conv_weight: inputs.conv_weight.into_dispatch(),
        conv_bias: conv_bias.into_dispatch(),
        a_log: inputs.a_log.into_dispatch(),
        d: inputs.d.into_dispatch(),
        dt_bias: inputs.dt_bias.into_dispatch(),
        norm_weight: inputs.norm_weight.into_dispatch(),
        conv_pool: inputs.conv_pool.into_dispatch(),
        ssm_pool: inputs.ssm_pool.into_dispatch(),
    };
    let (y, conv_pool, ssm_pool) = <Dispatch as SsmStepOps>::ssm_step(tensors, options, src, dst);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(conv_pool), Tensor::from_dispatch(ssm_pool))
}

/// One source and one destination per row, inside the pool, no destination twice.
fn check_slots(src: &[u32], dst: &[u32], rows: usize, slots: usize) {
    const NAME: &str = "ssm_step";
    assert_shape(NAME, "src", &[src.len()], &[rows]);
    assert_shape(NAME, "dst", &[dst.len()], &[rows]);
    let mut written = vec![false; slots];
    for (&from, &to) in src.iter().zip(dst) {
        let (from, to) = (from as usize, to as usize);
        assert_size(NAME, "src", from, from < slots, "it must be a slot of the pool");
        assert_size(NAME, "dst", to, to < slots, "it must be a slot of the pool");
        assert_size(NAME, "dst", to, !written[to], "two rows must not write one slot");
        written[to] = true;
    }
}
