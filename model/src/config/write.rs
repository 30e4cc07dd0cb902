//! From a [`ModelConfig`] to the published `config.json` key style, as strict JSON.

use serde_json::{Map, Value, json};

use super::json_text;
use super::pattern::LayerKind;
use super::{ModelConfig, WeightDtype};

/// Key of the smallest initial time step, where `time_step_min` holds a bound for transformers instead.
pub(super) const INITIAL_TIME_STEP_MIN: &str = "initial_time_step_min";

/// What transformers may take for the lower bound of the time step: the model's own bound, or if it has none a number so
/// small that a step cut off there changes nothing. It cannot be zero, because transformers takes its logarithm.
fn time_step_bound(config: &ModelConfig) -> f64 {
    const NO_BOUND: f64 = 1e-30;
    match config.time_step_limit.0 {
        low if low > 0.0 => low,
        _ => NO_BOUND,
    }
}

pub(super) fn to_json(config: &ModelConfig) -> Value {
    let mut map = config.extra.clone();
    let mut set = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    set("model_type", json!("nemotron_h"));
    set("hybrid_override_pattern", json!(config.layers.to_string()));
    set("num_hidden_layers", json!(config.layers.len()));
    set("vocab_size", json!(config.vocab_size));
    set("hidden_size", json!(config.hidden_size));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    set("layer_norm_epsilon", json!(config.layer_norm_epsilon));
    // Readers differ in which of the two names they look at.
    set("rms_norm_eps", json!(config.layer_norm_epsilon));
    set("residual_in_fp32", json!(config.residual_in_fp32));
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    set("torch_dtype", json!(WeightDtype::name(config.dtype)));
    set("chunk_size", json!(config.chunk_size));
    set("use_conv_bias", json!(config.use_conv_bias));
    set("use_bias", json!(config.use_bias));
    set("mamba_proj_bias", json!(config.mamba_proj_bias));
    set("mamba_hidden_act", json!("silu"));
    set("mlp_hidden_act", json!("relu2"));
    set("time_step_min", json!(time_step_bound(config)));
    set(INITIAL_TIME_STEP_MIN, json!(config.time_step_min));
    set("time_step_max", json!(config.time_step_max));
    set("time_step_floor", json!(config.time_step_floor));
    set("attention_bias", json!(config.attention_bias));
    set("mlp_bias", json!(config.mlp_bias));
    set("initializer_range", json!(config.initializer_range));
    set("rescale_prenorm_residual", json!(config.rescale_prenorm_residual));
    // No limit is written as no key: JSON has no infinity, and every reader takes absence as no limit.
    if config.time_step_limit != (0.0, f64::INFINITY) {
        let (low, high) = config.time_step_limit;
        set("time_step_limit", json!([json_text::from_f64(low), json_text::from_f64(high)]));
    }
    if let Some(id) = config.bos_token_id {
        set("bos_token_id", json!(id));
    }
    if let Some(id) = config.pad_token_id {
        set("pad_token_id", json!(id));
    }
    match config.eos_token_ids.as_slice() {
        [] => {}
        [single] => set("eos_token_id", json!(single)),
        several => set("eos_token_id", json!(several)),
    }
    write_block_sizes(config, &mut set);
    let mut sorted: Vec<(String, Value)> = map.into_iter().collect();
    sorted.sort_by(|left, right| left.0.cmp(&right.0));
    Value::Object(Map::from_iter(sorted))
}

/// Sizes that belong to one kind of block, written only if there is such a block.
fn write_block_sizes(config: &ModelConfig, set: &mut impl FnMut(&str, Value)) {
    if config.layers.contains(LayerKind::Mamba2) {
        set("mamba_num_heads", json!(config.mamba_num_heads));
        set("mamba_head_dim", json!(config.mamba_head_dim));
        set("ssm_state_size", json!(config.ssm_state_size));
        set("n_groups", json!(config.n_groups));
        set("conv_kernel", json!(config.conv_kernel));
    }
    if config.layers.contains(LayerKind::Attention) {
        set("num_attention_heads", json!(config.num_attention_heads));
        set("num_key_value_heads", json!(config.num_key_value_heads));
        set("head_dim", json!(config.head_dim));
    }
    if config.layers.contains(LayerKind::Mlp) {
        set("intermediate_size", json!(config.intermediate_size));
    }
    if config.layers.contains(LayerKind::Moe) {
        set("n_routed_experts", json!(config.n_routed_experts));
        set("n_shared_experts", json!(config.n_shared_experts));
        set("num_experts_per_tok", json!(config.num_experts_per_tok));
        set("moe_intermediate_size", json!(config.moe_intermediate_size));
        set("moe_shared_expert_intermediate_size", json!(config.moe_shared_expert_intermediate_size));
        set("n_group", json!(config.n_group));
        set("topk_group", json!(config.topk_group));
        set("norm_topk_prob", json!(config.norm_topk_prob));
        set("routed_scaling_factor", json!(config.routed_scaling_factor));
        if let Some(size) = config.moe_latent_size {
            set("moe_latent_size", json!(size));
        }
    }
}
