//! The Mamba-2 mixer (Dao and Gu 2024, "Transformers are SSMs"), in Nemotron-H's arrangement.
//!
//! `in_proj` gives z | x B C | dt; a causal depthwise convolution with SiLU runs over x, B and C together; the
//! selective scan turns them into y; y is gated by silu(z) *before* the grouped RMSNorm; `out_proj` closes.

use burn::tensor::Tensor;
use nemo_kernels::{SsdInputs, SsmStepInputs, SsmStepOptions};

use super::{Linear, LinearMaps};
use crate::cache::SsmPool;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::paged::PagedBatch;
use crate::parallel::{ForwardContext, LayerShard};
use crate::parameters::{Initialization, ParameterMut, Visitor, WeightBuilder, join};

/// A Mamba-2 block.
#[derive(Clone, Debug)]
pub struct Mamba2 {
    in_proj: Linear,
    conv_weight: Tensor<3>,
    conv_bias: Option<Tensor<1>>,
    a_log: Tensor<1>,
    d: Tensor<1>,
    dt_bias: Tensor<1>,
    norm_weight: Tensor<1>,
    out_proj: Linear,
    num_groups: usize,
    heads: usize,
    head_dim: usize,
    state_size: usize,
    epsilon: f64,
    dt_limit: (f64, f64),
}

/// Gate `[batch, tokens, inner]`, convolution input `[batch, tokens, conv_channels]`, raw time steps `[batch, tokens, heads]`.
struct Projected {
    gate: Tensor<3>,
    xbc: Tensor<3>,
    dt: Tensor<3>,
}

impl Mamba2 {
    /// Builds the mixer with its tensors under `path`.
    pub fn build(
        path: &str,
        config: &ModelConfig,
        shard: &LayerShard,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, inner, heads) = (config.hidden_size, shard.mamba_inner, shard.mamba_heads);
        // The residual stream grows with depth; the family shrinks this one projection for it.
        let num_blocks = if config.rescale_prenorm_residual { config.layers.len() } else { 1 };
        let out_init = Initialization::fan_in(inner * num_blocks);
        let time_step = Initialization::TimeStepBias {
            minimum: config.time_step_min,
            maximum: config.time_step_max,
            floor: config.time_step_floor,
        };
        let channels = shard.conv_channels;
        Ok(Self {
            in_proj: Linear::build(&join(path, "in_proj"), [shard.in_proj_width(), hidden], config.use_bias, weights)?,
            conv_weight: weights.tensor(
                &join(path, "conv1d.weight"),
                [channels, 1, config.conv_kernel],
                Initialization::fan_in(config.conv_kernel),
            )?,
            conv_bias: weights.optional(
                config.use_conv_bias,
                &join(path, "conv1d.bias"),
                [channels],
                Initialization::Zeros,
            )?,
            a_log: weights.tensor(&join(path, "A_log"), [heads], Initialization::LogRange)?,
            d: weights.tensor(&join(path, "D"), [heads], Initialization::Ones)?,
            dt_bias: weights.tensor(&join(path, "dt_bias"), [heads], time_step)?,
            norm_weight: weights.tensor(&join(path, "norm.weight"), [inner], Initialization::Ones)?,
            out_proj: Linear::build_from(&join(path, "out_proj"), [hidden, inner], config.use_bias, out_init, weights)?,
            num_groups: shard.mamba_groups,
            heads,
            head_dim: config.mamba_head_dim,
            state_size: config.ssm_state_size,
            epsilon: config.layer_norm_epsilon,
            dt_limit: config.time_step_limit,
        })
    }

    /// One pass over a run of tokens from the given window and SSM state; returns both as they stand after it.
    ///
    /// # Shapes
    /// - x: `[batch, tokens, hidden]`, in and out
    /// - window: `[1 | batch, conv_channels, conv_kernel - 1]`
    /// - ssm: `[1 | batch, heads, head_dim, state_size]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        window: Tensor<3>,
        ssm: Tensor<4>,
        context: ForwardContext<'_>,
    ) -> (Tensor<3>, Tensor<3>, Tensor<4>) {
        let Projected { gate, xbc, dt } = self.project(context.enter(x));
        let (y, window, ssm) = self.scan(xbc, dt, window, ssm, context.lengths);
        (context.leave(self.output(y, gate)), window, ssm)
    }

    /// One pass over the rows of a batch, each from the state in its source slot to its destination slot. Rows of one
    /// token take the fused decode step, longer ones the scan of training.
    ///
    /// # Shapes
    /// - x: `[rows, tokens, hidden]`, in and out
    pub(crate) fn forward_paged(
        &self,
        x: Tensor<3>,
        layer: usize,
        batch: &PagedBatch,
        pool: &mut SsmPool,
        context: ForwardContext<'_>,
    ) -> Tensor<3> {
        match x.dims()[1] {
            1 => self.step_paged(x, layer, batch, pool, context),
            _ => self.prefill_paged(x, layer, batch, pool, context),
        }
    }

    /// One token per row, in one kernel.
    fn step_paged(
        &self,
        x: Tensor<3>,
        layer: usize,
        batch: &PagedBatch,
        pool: &mut SsmPool,
        context: ForwardContext<'_>,
    ) -> Tensor<3> {
        let projected = self.project(context.enter(x));
        let [rows, _, inner] = projected.gate.dims();
        let flat = |t: Tensor<3>| {
            let [rows, _, width] = t.dims();
            t.reshape([rows, width])
        };
        let (z, xbc, dt) = (flat(projected.gate), flat(projected.xbc), flat(projected.dt));
        let normed = pool.update(layer, |conv_pool, ssm_pool| {
            let inputs = SsmStepInputs {
                z,
                xbc,
                dt,
                conv_weight: self.conv_weight.clone(),
                conv_bias: self.conv_bias.clone(),
                a_log: self.a_log.clone(),
                d: self.d.clone(),
                dt_bias: self.dt_bias.clone(),
                norm_weight: self.norm_weight.clone(),
                conv_pool,
                ssm_pool,
            };
            let options =
                SsmStepOptions { num_groups: self.num_groups, dt_limit: self.dt_limit, epsilon: self.epsilon };
            nemo_kernels::ssm_step(inputs, options, batch.sources.clone(), batch.destinations.clone())
        });
        context.leave(self.project_output(normed.reshape([rows, 1, inner])))
    }

    /// Several tokens per row.
    fn prefill_paged(
        &self,
        x: Tensor<3>,
        layer: usize,
        batch: &PagedBatch,
        pool: &mut SsmPool,
        context: ForwardContext<'_>,
    ) -> Tensor<3> {
        let (window, ssm) = pool.read(layer, &batch.sources);
        let (mixed, window, ssm) = self.forward(x, window, ssm, context);
        pool.write(layer, &batch.destinations, &window, &ssm);
        mixed
    }

    /// Convolution and selective scan: y `[batch, tokens, inner]`, window and SSM state after the run.
    fn scan(
        &self,
        xbc: Tensor<3>,
        dt: Tensor<3>,
        window: Tensor<3>,
        ssm: Tensor<4>,
        lengths: Option<&[usize]>,
    ) -> (Tensor<3>, Tensor<3>, Tensor<4>) {
        let [batch, tokens, _] = xbc.dims();
        let (inner, group_width) = (self.inner(), self.num_groups * self.state_size);
        let (xbc, window) =
            nemo_kernels::causal_conv(xbc, self.conv_weight.clone(), self.conv_bias.clone(), window, lengths);
        let [x, b, c] = nemo_kernels::split_three(xbc, [inner, group_width, group_width]);
        let groups = |t: Tensor<3>| t.reshape([batch, tokens, self.num_groups, self.state_size]);
        let inputs = SsdInputs {
            x: x.reshape([batch, tokens, self.heads, self.head_dim]),
            dt,
            a_log: self.a_log.clone(),
            b: groups(b),
            c: groups(c),
            d: self.d.clone(),
            dt_bias: self.dt_bias.clone(),
            state: ssm,
        };
        let (y, ssm) = nemo_kernels::ssd_scan(inputs, self.dt_limit, lengths);
        (y.reshape([batch, tokens, inner]), window, ssm)
    }

    /// Input projection, split into gate, convolution input and time steps.
    fn project(&self, x: Tensor<3>) -> Projected {
        let projected = self.in_proj.forward(x);
        let (inner, width) = (self.inner(), projected.dims()[2]);
        let channels = width - inner - self.heads;
        let [gate, xbc, dt] = nemo_kernels::split_three(projected, [inner, channels, self.heads]);
        Projected { gate, xbc, dt }
    }

    /// Gate, grouped norm and output projection.
    fn output(&self, y: Tensor<3>, gate: Tensor<3>) -> Tensor<3> {
        let normed = nemo_kernels::gated_rms_norm(y, gate, self.norm_weight.clone(), self.num_groups, self.epsilon);
        self.project_output(normed)
    }

    /// Output projection alone, for callers that have gated and normed already.
    fn project_output(&self, normed: Tensor<3>) -> Tensor<3> {
        self.out_proj.forward(normed)
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Shows both projections under their paths.
    pub fn linear_maps(&mut self, path: &str, show: &mut LinearMaps<'_>) {
        show(&join(path, "in_proj"), &mut self.in_proj);
        show(&join(path, "out_proj"), &mut self.out_proj);
    }

    /// Visits the mixer's parameters.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.in_proj.visit_mut(&join(path, "in_proj"), visitor);
        visitor(&join(path, "conv1d.weight"), ParameterMut::Convolution(&mut self.conv_weight));
        if let Some(bias) = &mut self.conv_bias {
            visitor(&join(path, "conv1d.bias"), ParameterMut::Vector(bias));
        }
        visitor(&join(path, "A_log"), ParameterMut::Vector(&mut self.a_log));
        visitor(&join(path, "D"), ParameterMut::Vector(&mut self.d));
        visitor(&join(path, "dt_bias"), ParameterMut::Vector(&mut self.dt_bias));
        visitor(&join(path, "norm.weight"), ParameterMut::Vector(&mut self.norm_weight));
        self.out_proj.visit_mut(&join(path, "out_proj"), visitor);
    }
}
