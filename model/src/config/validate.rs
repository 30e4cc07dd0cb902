//! Relations between configuration values that the arithmetic depends on.

use std::path::Path;

use super::ModelConfig;
use super::error::ConfigError;
use super::pattern::LayerKind;

/// Checks `config`, read from `path`.
pub(super) fn validate(config: &ModelConfig, path: &Path) -> Result<(), ConfigError> {
    match first_problem(config) {
        Some(problem) => Err(ConfigError::Inconsistent { path: path.to_owned(), problem }),
        None => Ok(()),
    }
}

fn first_problem(config: &ModelConfig) -> Option<String> {
    size_problem(config)
        .or_else(|| scalar_problem(config))
        .or_else(|| config.layers.contains(LayerKind::Mamba2).then(|| mamba_problem(config)).flatten())
        .or_else(|| config.layers.contains(LayerKind::Attention).then(|| attention_problem(config)).flatten())
        .or_else(|| config.layers.contains(LayerKind::Moe).then(|| moe_problem(config)).flatten())
}

/// Largest value of a size. Published models stay below a hundredth of it, and products of two sizes are far from
/// overflow.
const LARGEST_SIZE: u128 = 1 << 28;
/// Largest number of blocks, and of experts in all blocks together: both become that many named tensors.
const MOST_BLOCKS: usize = 1 << 20;

/// Sizes that no memory holds are refused here, before anything is computed from them.
fn size_problem(config: &ModelConfig) -> Option<String> {
    let sizes: [(&str, &[usize]); 16] = [
        ("vocab_size", &[config.vocab_size]),
        ("hidden_size", &[config.hidden_size]),
        ("conv_kernel", &[config.conv_kernel]),
        ("chunk_size", &[config.chunk_size]),
        ("mamba_num_heads times mamba_head_dim", &[config.mamba_num_heads, config.mamba_head_dim]),
        ("n_groups times ssm_state_size", &[config.n_groups, config.ssm_state_size]),
        ("mamba_num_heads times ssm_state_size", &[config.mamba_num_heads, config.ssm_state_size]),
        ("num_attention_heads times head_dim", &[config.num_attention_heads, config.head_dim]),
        ("num_key_value_heads times head_dim", &[config.num_key_value_heads, config.head_dim]),
        ("intermediate_size", &[config.intermediate_size]),
        ("moe_intermediate_size", &[config.moe_intermediate_size]),
        ("moe_shared_expert_intermediate_size", &[config.moe_shared_expert_intermediate_size]),
        ("n_shared_experts", &[config.n_shared_experts]),
        ("num_experts_per_tok", &[config.num_experts_per_tok]),
        ("n_group", &[config.n_group]),
        ("moe_latent_size", &[config.moe_latent_size.unwrap_or(0)]),
    ];
    for (name, factors) in sizes {
        // At most two factors, so that the product fits.
        let size = factors.iter().map(|factor| *factor as u128).product::<u128>();
        if size > LARGEST_SIZE || factors.iter().any(|factor| *factor as u128 > LARGEST_SIZE) {
            return Some(format!("{name} is {size}, expected at most {LARGEST_SIZE}"));
        }
    }
    let (blocks, mixtures) = (config.layers.len(), config.layers.count(LayerKind::Moe));
    if blocks > MOST_BLOCKS || mixtures.saturating_mul(config.n_routed_experts) > MOST_BLOCKS {
        return Some(format!(
            "{blocks} blocks, {mixtures} of them with \"n_routed_experts\" {}, expected at most {MOST_BLOCKS} blocks and \
             experts in all",
            config.n_routed_experts
        ));
    }
    None
}

fn scalar_problem(config: &ModelConfig) -> Option<String> {
    if !(config.layer_norm_epsilon > 0.0 && config.layer_norm_epsilon.is_finite()) {
        return Some(format!("\"layer_norm_epsilon\" is {}, expected a positive number", config.layer_norm_epsilon));
    }
    if !(config.initializer_range >= 0.0 && config.initializer_range.is_finite()) {
        return Some(format!("\"initializer_range\" is {}, expected a number of at least 0", config.initializer_range));
    }
    let ids = [("bos_token_id", config.bos_token_id), ("pad_token_id", config.pad_token_id)];
    let eos = config.eos_token_ids.iter().map(|id| ("eos_token_id", Some(*id)));
    ids.into_iter().chain(eos).find_map(|(key, id)| {
        let id = id? as usize;
        (id >= config.vocab_size).then(|| {
            format!(
                "\"{key}\" is {id} but \"vocab_size\" is {}; token ids are below the vocabulary size",
                config.vocab_size
            )
        })
    })
}

fn mamba_problem(config: &ModelConfig) -> Option<String> {
    let (heads, groups) = (config.mamba_num_heads, config.n_groups);
    if !heads.is_multiple_of(groups) {
        return Some(format!("\"mamba_num_heads\" is {heads}, which \"n_groups\" ({groups}) does not divide"));
    }
    let (low, high) = config.time_step_limit;
    if !(low >= 0.0 && low <= high) {
        return Some(format!("\"time_step_limit\" is [{low}, {high}], expected 0 <= first <= second"));
    }
    let (smallest, largest) = (config.time_step_min, config.time_step_max);
    if !(smallest > 0.0 && smallest <= largest && largest.is_finite()) {
        return Some(format!(
            "\"time_step_min\" is {smallest} and \"time_step_max\" is {largest}, expected 0 < min <= max"
        ));
    }
    if !(config.time_step_floor > 0.0 && config.time_step_floor.is_finite()) {
        return Some(format!("\"time_step_floor\" is {}, expected a positive number", config.time_step_floor));
    }
    None
}

fn attention_problem(config: &ModelConfig) -> Option<String> {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    (!heads.is_multiple_of(kv_heads)).then(|| {
        format!("\"num_attention_heads\" is {heads}, which \"num_key_value_heads\" ({kv_heads}) does not divide")
    })
}

fn moe_problem(config: &ModelConfig) -> Option<String> {
    let (experts, groups, kept) = (config.n_routed_experts, config.n_group, config.topk_group);
    if !experts.is_multiple_of(groups) {
        return Some(format!("\"n_routed_experts\" is {experts}, which \"n_group\" ({groups}) does not divide"));
    }
    if kept > groups {
        return Some(format!("\"topk_group\" is {kept}, more than \"n_group\" ({groups})"));
    }
    let candidates = experts / groups * kept;
    if config.num_experts_per_tok > candidates {
        return Some(format!(
            "\"num_experts_per_tok\" is {}, but only {candidates} of {experts} experts can be chosen \
             (\"n_group\" {groups}, \"topk_group\" {kept})",
            config.num_experts_per_tok
        ));
    }
    if groups > 1 && experts / groups < 2 {
        return Some(format!(
            "{experts} experts in {groups} groups: a group needs at least 2, it is ranked by its two best"
        ));
    }
    if !config.routed_scaling_factor.is_finite() {
        return Some(format!(
            "\"routed_scaling_factor\" is {}, expected a finite number",
            config.routed_scaling_factor
        ));
    }
    None
}
