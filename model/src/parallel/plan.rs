//! Local sizes of one rank's part of every layer (Megatron-style: heads and groups by rank).

use crate::config::ModelConfig;

/// The sizes a layer has on one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerShard {
    /// Mamba heads.
    pub mamba_heads: usize,
    /// Groups of Mamba heads that share B and C.
    pub mamba_groups: usize,
    /// `mamba_heads * mamba_head_dim`.
    pub mamba_inner: usize,
    /// Channels of the convolution: x, B and C.
    pub conv_channels: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Width of one routed expert.
    pub expert_width: usize,
    /// Width of the shared expert.
    pub shared_expert_width: usize,
}

impl LayerShard {
    /// The whole of every layer: one rank.
    pub fn whole(config: &ModelConfig) -> Self {
        let mamba_inner = config.mamba_num_heads * config.mamba_head_dim;
        Self {
            mamba_heads: config.mamba_num_heads,
            mamba_groups: config.n_groups,
            mamba_inner,
            conv_channels: mamba_inner + 2 * config.n_groups * config.ssm_state_size,
            query_heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            mlp_width: config.intermediate_size,
            expert_width: config.moe_intermediate_size,
            shared_expert_width: config.moe_shared_expert_intermediate_size,
        }
    }

    /// Width of the input projection: z, then x|B|C, then dt.
    pub fn in_proj_width(&self) -> usize {
        self.mamba_inner + self.conv_channels + self.mamba_heads
    }
}
