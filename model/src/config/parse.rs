//! From a JSON document to a [`ModelConfig`]: key names, aliases and defaults.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::error::ConfigError;
use super::fields::{Fields, shorten};
use super::json_text;
use super::pattern::{ALLOWED_LETTERS, ALLOWED_NAMES, HybridPattern, LayerKind};
use super::write::INITIAL_TIME_STEP_MIN;
use super::{ModelConfig, WeightDtype};

/// Names of older releases and of other programs, with the published names.
const ALIASES: [(&str, &str); 14] = [
    ("attention_head_dim", "head_dim"),
    ("layer_types", NAMES_KEY),
    ("mamba_chunk_size", "chunk_size"),
    ("mamba_conv_bias", "use_conv_bias"),
    ("mamba_d_conv", "conv_kernel"),
    ("mamba_dt_init_floor", "time_step_floor"),
    ("mamba_dt_limit", "time_step_limit"),
    ("mamba_dt_max", "time_step_max"),
    ("mamba_dt_min", "time_step_min"),
    ("mamba_n_groups", "n_groups"),
    ("mamba_num_groups", "n_groups"),
    ("mamba_state_dim", "ssm_state_size"),
    ("num_experts", "n_routed_experts"),
    ("num_local_experts", "n_routed_experts"),
];

const PATTERN_KEY: &str = "hybrid_override_pattern";
const NAMES_KEY: &str = "layers_block_type";

/// Keys a [`ModelConfig`] holds in fields of their own, in any spelling.
const KNOWN_KEYS: [&str; 51] = [
    PATTERN_KEY,
    NAMES_KEY,
    "num_hidden_layers",
    "model_type",
    "vocab_size",
    "hidden_size",
    "max_position_embeddings",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "norm_eps",
    "residual_in_fp32",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
    "mamba_num_heads",
    "mamba_head_dim",
    "ssm_state_size",
    "n_groups",
    "conv_kernel",
    "chunk_size",
    "use_conv_bias",
    "use_bias",
    "mamba_proj_bias",
    "time_step_limit",
    "time_step_min",
    INITIAL_TIME_STEP_MIN,
    "time_step_max",
    "time_step_floor",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "intermediate_size",
    "mlp_bias",
    "mlp_hidden_act",
    "mamba_hidden_act",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "moe_latent_size",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
    "initializer_range",
    "rescale_prenorm_residual",
    "bos_token_id",
    "pad_token_id",
    "eos_token_id",
];

impl ModelConfig {
    /// Whether a model may depend on this key of its `config.json`, in any spelling. Other keys are kept in the file.
    pub fn is_known_key(key: &str) -> bool {
        let refused_or_dropped = [
            "quantization_config",
            "compression_config",
            "block_configs",
            "sliding_window",
            "num_nextn_predict_layers",
        ];
        let is_alias = ALIASES.iter().any(|(alias, _)| *alias == key);
        KNOWN_KEYS.contains(&key) || is_alias || refused_or_dropped.contains(&key)
    }
}

/// Reads all keys of `document`. Relations between them are checked by `validate`.
pub(super) fn parse(path: &Path, document: &Value) -> Result<ModelConfig, ConfigError> {
    let document = with_published_names(path, document)?;
    let fields = Fields::new(path, &document)?;
    check_fixed_choices(&fields)?;
    let layers = parse_pattern(&fields)?;
    let has = |kind| layers.contains(kind);
    // A size is required only if a block uses it, so that its absence is never filled by somebody else's default.
    let size_if = |used: bool, key, expected| if used { fields.required_size(key, expected) } else { Ok(0) };
    let mamba = |key| size_if(has(LayerKind::Mamba2), key, "models with Mamba-2 blocks (M) need it");
    let attention = |key| size_if(has(LayerKind::Attention), key, "models with attention blocks (*) need it");
    let expert = |key| size_if(has(LayerKind::Moe), key, "models with mixture-of-experts blocks (E) need it");
    let moe = has(LayerKind::Moe);

    let mut config = ModelConfig {
        vocab_size: fields.required_size("vocab_size", "expected the number of token ids")?,
        hidden_size: fields.required_size("hidden_size", "expected the width of the residual stream")?,
        max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(131_072),
        layer_norm_epsilon: parse_epsilon(&fields)?,
        residual_in_fp32: fields.flag("residual_in_fp32", false)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        dtype: parse_dtype(&fields)?,
        mamba_num_heads: mamba("mamba_num_heads")?,
        mamba_head_dim: mamba("mamba_head_dim")?,
        ssm_state_size: mamba("ssm_state_size")?,
        n_groups: mamba("n_groups")?,
        conv_kernel: mamba("conv_kernel")?,
        chunk_size: fields.size("chunk_size")?.unwrap_or(128),
        use_conv_bias: fields.flag("use_conv_bias", true)?,
        use_bias: fields.flag("use_bias", false)?,
        mamba_proj_bias: fields.flag("mamba_proj_bias", false)?,
        time_step_limit: parse_time_step_limit(&fields)?,
        time_step_min: match fields.number(INITIAL_TIME_STEP_MIN)? {
            Some(initial) => initial,
            None => fields.number("time_step_min")?.unwrap_or(0.001),
        },
        time_step_max: fields.number("time_step_max")?.unwrap_or(0.1),
        time_step_floor: fields.number("time_step_floor")?.unwrap_or(1e-4),
        num_attention_heads: attention("num_attention_heads")?,
        // Only a written null means as many as query heads: no default is assumed for a key that is absent.
        num_key_value_heads: match fields.map.get("num_key_value_heads") {
            Some(Value::Null) => attention("num_attention_heads")?,
            _ => attention("num_key_value_heads")?,
        },
        head_dim: attention("head_dim")?,
        attention_bias: fields.flag("attention_bias", false)?,
        intermediate_size: size_if(has(LayerKind::Mlp), "intermediate_size", "models with MLP blocks (-) need it")?,
        mlp_bias: fields.flag("mlp_bias", false)?,
        n_routed_experts: expert("n_routed_experts")?,
        n_shared_experts: if moe { fields.count("n_shared_experts")?.unwrap_or(1) } else { 0 },
        num_experts_per_tok: expert("num_experts_per_tok")?,
        moe_intermediate_size: expert("moe_intermediate_size")?,
        moe_shared_expert_intermediate_size: expert("moe_shared_expert_intermediate_size")?,
        moe_latent_size: if moe { fields.size("moe_latent_size")? } else { None },
        n_group: if moe { fields.size("n_group")?.unwrap_or(1) } else { 0 },
        topk_group: if moe { fields.size("topk_group")?.unwrap_or(1) } else { 0 },
        norm_topk_prob: !moe || fields.flag("norm_topk_prob", true)?,
        routed_scaling_factor: if moe { fields.number("routed_scaling_factor")?.unwrap_or(1.0) } else { 1.0 },
        initializer_range: fields.number("initializer_range")?.unwrap_or(0.02),
        rescale_prenorm_residual: fields.flag("rescale_prenorm_residual", true)?,
        bos_token_id: fields.token_id("bos_token_id")?,
        pad_token_id: fields.token_id("pad_token_id")?,
        eos_token_ids: fields.token_ids("eos_token_id")?,
        extra: fields.map.clone(),
        layers,
    };
    // A known key the model does not use (an attention size in a model without attention) stays in `extra`.
    let mut extra = std::mem::take(&mut config.extra);
    let written = config.to_json();
    extra.retain(|key, _| !KNOWN_KEYS.contains(&key.as_str()) || written.get(key).is_none() && inert(key));
    if let Some(heads) = extra.get_mut("num_nextn_predict_layers")
        && heads.as_u64() != Some(0)
    {
        // The weights of these heads are not kept, and other programs look for them when they are announced.
        *heads = 0.into();
    }
    config.extra = extra;
    Ok(config)
}

/// Whether a known key may survive as an unused one: alternative spellings and the defaulted limit may not, nor may the
/// keys of experts that transformers fills in for a model without them, from which llama.cpp concludes that it has some.
fn inert(key: &str) -> bool {
    let alternative = matches!(key, NAMES_KEY | "rms_norm_eps" | "norm_eps" | "dtype" | "time_step_limit");
    !alternative && !key.contains("expert") && !key.starts_with("moe_")
}

/// The document with the names of older releases replaced by the published ones.
fn with_published_names<'a>(path: &Path, document: &'a Value) -> Result<Cow<'a, Value>, ConfigError> {
    let mut renamed = Cow::Borrowed(document);
    for (alias, key) in ALIASES {
        let Some(value) = document.get(alias).filter(|value| !value.is_null()) else { continue };
        match renamed.get(key).filter(|value| !value.is_null()) {
            Some(other) if other != value => {
                return Err(ConfigError::Inconsistent {
                    path: path.to_owned(),
                    problem: format!(
                        "\"{alias}\" is {value} but \"{key}\", another name for it, is {other}; remove one of them"
                    ),
                });
            }
            _ => {}
        }
        if let Some(map) = renamed.to_mut().as_object_mut() {
            map.insert(key.to_owned(), value.clone());
            map.remove(alias);
        }
    }
    Ok(renamed)
}

/// The family fixes its activations; a file that asks for others asks for another model.
fn check_fixed_choices(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let fixed = [("model_type", "nemotron_h"), ("mlp_hidden_act", "relu2"), ("mamba_hidden_act", "silu")];
    for (key, expected) in fixed {
        if let Some(found) = fields.text(key)?
            && found != expected
        {
            return fields.inconsistent(format!("\"{key}\" is \"{found}\", only \"{expected}\" is supported"));
        }
    }
    for key in ["quantization_config", "compression_config"] {
        if let Some(scheme) = fields.get(key).filter(|scheme| scheme.as_object().is_none_or(|map| !map.is_empty())) {
            let method = scheme.get("quant_method").unwrap_or(scheme);
            return fields.inconsistent(format!(
                "\"{key}\" says that the weights are quantised ({}); they are not supported, use the release in bf16, \
                 f16 or f32",
                shorten(&method.to_string())
            ));
        }
    }
    if let Some(blocks) = fields.get("block_configs") {
        return fields.inconsistent(format!(
            "\"block_configs\" is {}; models whose blocks have sizes of their own are not supported",
            shorten(&blocks.to_string())
        ));
    }
    if let Some(window) = fields.get("sliding_window") {
        return fields.inconsistent(format!("\"sliding_window\" is {window}, only null is supported"));
    }
    Ok(())
}

fn parse_pattern(fields: &Fields<'_>) -> Result<HybridPattern, ConfigError> {
    let letters = match fields.text(PATTERN_KEY)? {
        Some(letters) => Some(HybridPattern::from_letters(letters).map_err(|unknown| ConfigError::UnknownLayer {
            path: fields.path.to_owned(),
            key: PATTERN_KEY,
            position: unknown.position,
            found: unknown.found,
            pattern: letters.to_owned(),
            allowed: ALLOWED_LETTERS,
        })?),
        None => None,
    };
    let to_names = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let names = match fields.typed(NAMES_KEY, "a list of block names", to_names)? {
        Some(names) => {
            let pattern = HybridPattern::from_names(names.iter().map(String::as_str));
            Some(pattern.map_err(|unknown| ConfigError::UnknownLayer {
                path: fields.path.to_owned(),
                key: NAMES_KEY,
                position: unknown.position,
                found: unknown.found,
                pattern: names.join(", "),
                allowed: ALLOWED_NAMES,
            })?)
        }
        None => None,
    };
    let pattern = match (letters, names) {
        (Some(letters), Some(names)) if letters != names => {
            return fields.inconsistent(format!(
                "\"{PATTERN_KEY}\" says {letters} but \"{NAMES_KEY}\" says {names}; remove one of them"
            ));
        }
        (Some(pattern), _) | (None, Some(pattern)) => pattern,
        (None, None) => {
            return Err(ConfigError::MissingKey {
                path: fields.path.to_owned(),
                key: PATTERN_KEY,
                expected: "expected one letter per block (or the list \"layers_block_type\")",
            });
        }
    };
    if pattern.is_empty() {
        return fields.inconsistent(format!("\"{PATTERN_KEY}\" is empty, expected at least one block"));
    }
    if let Some(count) = fields.count("num_hidden_layers")?
        && count != pattern.len()
    {
        return fields.inconsistent(format!(
            "\"num_hidden_layers\" is {count} but the pattern {pattern} has {} blocks; make them equal",
            pattern.len()
        ));
    }
    Ok(pattern)
}

/// `layer_norm_epsilon`, which published code reads, before the names it is repeated under.
fn parse_epsilon(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    let mut chosen: Option<(&'static str, f64)> = None;
    for key in ["layer_norm_epsilon", "rms_norm_eps", "norm_eps"] {
        let Some(epsilon) = fields.number(key)? else { continue };
        match chosen {
            None => chosen = Some((key, epsilon)),
            Some((first, value)) if value != epsilon => tracing::warn!(
                "{}: \"{key}\" is {epsilon} but \"{first}\" is {value}; using \"{first}\"",
                fields.path.display()
            ),
            Some(_) => {}
        }
    }
    Ok(chosen.map_or(1e-5, |(_, epsilon)| epsilon))
}

fn parse_dtype(fields: &Fields<'_>) -> Result<WeightDtype, ConfigError> {
    let expected = "\"float32\", \"bfloat16\", \"float16\" or \"float64\"";
    let to_dtype = |value: &Value| value.as_str().and_then(WeightDtype::from_name);
    let published = fields.typed("torch_dtype", expected, to_dtype)?;
    Ok(published.or(fields.typed("dtype", expected, to_dtype)?).unwrap_or_default())
}

/// `[low, high]`; absent means no limit.
fn parse_time_step_limit(fields: &Fields<'_>) -> Result<(f64, f64), ConfigError> {
    let to_limit = |value: &Value| match value.as_array()?.as_slice() {
        [low, high] => Some((json_text::as_f64(low)?, json_text::as_f64(high)?)),
        _ => None,
    };
    let limit = fields.typed("time_step_limit", "a list of two numbers, such as [0.0, Infinity]", to_limit)?;
    Ok(limit.unwrap_or((0.0, f64::INFINITY)))
}
