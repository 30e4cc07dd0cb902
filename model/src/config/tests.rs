//! Both key styles, every default, and what bad files are told.

use std::path::Path;

use super::*;

const SMALL: &str = r#"{
 "model_type": "nemotron_h", "hybrid_override_pattern": "M-*E", "num_hidden_layers": 4, "vocab_size": 100,
 "hidden_size": 16, "intermediate_size": 24, "mamba_num_heads": 4, "mamba_head_dim": 6, "ssm_state_size": 5,
 "n_groups": 2, "conv_kernel": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 3,
 "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 7,
 "moe_shared_expert_intermediate_size": 9, "eos_token_id": [2, 11], "unknown_key": {"kept": [1, 2]}
}"#;

fn parse(text: &str) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_json_text(text, Path::new("some/config.json"))
}

fn message_of(text: &str) -> String {
    let message = parse(text).unwrap_err().to_string();
    assert!(message.contains("some/config.json"), "{message}");
    message
}

fn small_with(key: &str, value: &str) -> String {
    let mut document: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    document[key] = serde_json::from_str(value).unwrap();
    document.to_string()
}

#[test]
fn derived_sizes_follow_the_family() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.mamba_inner_size(), 24);
    assert_eq!(config.conv_dim(), 24 + 2 * 2 * 5);
    assert_eq!(config.in_proj_size(), 24 + 44 + 4);
    assert_eq!((config.query_size(), config.key_value_size()), (12, 6));
    assert_eq!(config.eos_token_ids, [2, 11]);
    let mamba = 3 * 4 + 44 * 4 + 44 + 72 * 16 + 24 + 16 * 24;
    let attention = 12 * 16 * 2 + 2 * 6 * 16;
    let (mlp, moe) = (2 * 16 * 24, 4 + 4 * 16 + 4 * 2 * 16 * 7 + 2 * 16 * 9);
    assert_eq!(config.num_parameters(), 2 * 100 * 16 + 5 * 16 + mamba + attention + mlp + moe);
}

#[test]
fn the_published_9b_has_the_published_size() {
    let text = include_str!("../../../configs/models/nemotron_nano_9b_v2.json");
    let config = parse(text).unwrap();
    assert_eq!(config.num_layers(), 56);
    assert_eq!(config.in_proj_size(), 22656);
    assert_eq!(config.num_parameters(), 8_888_227_328);
    assert_eq!(config.dtype, WeightDtype::BFloat16);
}

/// Half the width and a quarter of the vocabulary, with heads, groups and shares of the kinds of blocks like the 9B's.
#[test]
fn the_hybrid_of_a_billion_has_the_proportions_of_the_9b() {
    let large = parse(include_str!("../../../configs/models/nemotron_nano_9b_v2.json")).unwrap();
    let small = parse(include_str!("../../../configs/models/hybrid_1b.json")).unwrap();
    assert_eq!(small.num_parameters(), 1_004_870_784);
    assert_eq!((small.num_layers(), small.num_mamba_layers(), small.num_attention_layers()), (25, 12, 2));
    assert_eq!(2 * small.hidden_size, large.hidden_size);
    assert_eq!(2 * small.mamba_inner_size(), large.mamba_inner_size());
    assert_eq!(2 * small.conv_dim(), large.conv_dim());
    assert_eq!(2 * small.in_proj_size(), large.in_proj_size());
    assert_eq!((2 * small.query_size(), 2 * small.key_value_size()), (large.query_size(), large.key_value_size()));
    for size in [small.hidden_size, small.intermediate_size, small.in_proj_size(), small.vocab_size] {
        assert!(size.is_multiple_of(64), "{size}");
    }
}

#[test]
fn defaults_are_the_published_ones() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.time_step_limit, (0.0, f64::INFINITY));
    assert_eq!((config.time_step_min, config.time_step_max, config.time_step_floor), (0.001, 0.1, 1e-4));
    assert_eq!((config.layer_norm_epsilon, config.initializer_range), (1e-5, 0.02));
    assert!(config.use_conv_bias && config.rescale_prenorm_residual && config.norm_topk_prob);
    assert!(!config.use_bias && !config.mlp_bias && !config.attention_bias && !config.tie_word_embeddings);
    assert!(!config.residual_in_fp32);
    assert_eq!((config.n_group, config.topk_group, config.n_shared_experts), (1, 1, 1));
    assert_eq!(config.dtype, WeightDtype::Float32);
}

#[test]
fn saving_and_loading_loses_nothing() {
    for (key, value) in [
        ("time_step_limit", "[0.05, 0.4]"),
        ("time_step_limit", r#"[0.1, {"__float__": "Infinity"}]"#),
        ("torch_dtype", "\"bfloat16\""),
        ("eos_token_id", "2"),
        ("moe_latent_size", "8"),
        ("bos_token_id", "null"),
    ] {
        let config = parse(&small_with(key, value)).unwrap();
        let again = parse(&config.to_json_text()).unwrap();
        assert_eq!(again, config, "{key}");
        assert_eq!(again.extra["unknown_key"]["kept"][1], 2);
        assert_eq!(again.to_json_text(), config.to_json_text());
    }
}

#[test]
fn every_spelling_of_infinity_and_epsilon_is_read() {
    for limit in ["[0.0, Infinity]", r#"[0.0, {"__float__": "Infinity"}]"#, "null"] {
        let text = SMALL.replacen('{', &format!("{{\"time_step_limit\": {limit},"), 1);
        assert_eq!(parse(&text).unwrap().time_step_limit, (0.0, f64::INFINITY));
    }
    assert_eq!(parse(&small_with("time_step_limit", "[0.0, 1e30]")).unwrap().time_step_limit, (0.0, 1e30));
    for key in ["layer_norm_epsilon", "rms_norm_eps", "norm_eps"] {
        assert_eq!(parse(&small_with(key, "1e-6")).unwrap().layer_norm_epsilon, 1e-6);
    }
    assert_eq!(parse(&small_with("dtype", "\"bfloat16\"")).unwrap().dtype, WeightDtype::BFloat16);
}

#[test]
fn block_names_equal_letters() {
    let mut document: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    let map = document.as_object_mut().unwrap();
    map.remove("hybrid_override_pattern");
    map.remove("num_hidden_layers");
    for names in [["linear_attention", "mlp", "full_attention", "moe"], ["mamba", "mlp", "attention", "moe"]] {
        document["layers_block_type"] = serde_json::json!(names);
        assert_eq!(parse(&document.to_string()).unwrap(), parse(SMALL).unwrap());
    }
    document["hybrid_override_pattern"] = serde_json::json!("M-*-");
    assert!(message_of(&document.to_string()).contains("remove one of them"));
}

#[test]
fn an_unknown_layer_is_named_with_its_place_and_the_allowed_ones() {
    let message = message_of(&small_with("hybrid_override_pattern", "\"M-XE\""));
    for part in ["hybrid_override_pattern", "\"X\"", "position 2", "M (Mamba-2)", "E (mixture"] {
        assert!(message.contains(part), "{message}");
    }
    let mut document: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    document.as_object_mut().unwrap().remove("hybrid_override_pattern");
    document["layers_block_type"] = serde_json::json!(["mamba", "lstm"]);
    let message = message_of(&document.to_string());
    assert!(message.contains("\"lstm\"") && message.contains("position 1"), "{message}");
}

#[test]
fn names_of_older_releases_equal_the_published_ones() {
    let mut reference: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    for (key, value) in [
        ("chunk_size", serde_json::json!(64)),
        ("use_conv_bias", false.into()),
        ("time_step_floor", 1e-5.into()),
        ("time_step_limit", serde_json::json!([0.0, 2.0])),
        ("time_step_max", 0.2.into()),
        ("time_step_min", 0.002.into()),
    ] {
        reference[key] = value;
    }
    let expected = parse(&reference.to_string()).unwrap();
    for (alias, key) in [
        ("attention_head_dim", "head_dim"),
        ("mamba_chunk_size", "chunk_size"),
        ("mamba_conv_bias", "use_conv_bias"),
        ("mamba_d_conv", "conv_kernel"),
        ("mamba_dt_init_floor", "time_step_floor"),
        ("mamba_dt_limit", "time_step_limit"),
        ("mamba_dt_max", "time_step_max"),
        ("mamba_dt_min", "time_step_min"),
        ("mamba_n_groups", "n_groups"),
        ("mamba_num_groups", "n_groups"),
        ("num_local_experts", "n_routed_experts"),
    ] {
        let mut document = reference.clone();
        document[alias] = document[key].clone();
        assert_eq!(parse(&document.to_string()).unwrap(), expected, "{alias} beside {key}");
        document.as_object_mut().unwrap().remove(key);
        assert_eq!(parse(&document.to_string()).unwrap(), expected, "{alias}");
        document[key] = serde_json::json!(777);
        let message = message_of(&document.to_string());
        assert!(message.contains(alias) && message.contains(key) && message.contains("remove one"), "{message}");
    }
    let mut document: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    document.as_object_mut().unwrap().remove("hybrid_override_pattern");
    document["layer_types"] = serde_json::json!(["linear_attention", "mlp", "full_attention", "moe"]);
    assert_eq!(parse(&document.to_string()).unwrap(), parse(SMALL).unwrap());
    let heads = parse(&small_with("num_key_value_heads", "null")).unwrap();
    assert_eq!(heads.num_key_value_heads, heads.num_attention_heads);
}

/// transformers takes `time_step_min` for a bound of the time step, so what is written there bounds nothing the model's own
/// limit does not.
#[test]
fn the_written_smallest_time_step_bounds_nothing_and_initialisation_keeps_its_range() {
    for (limit, written) in [("null", 1e-30), ("[0.0, 0.4]", 1e-30), ("[0.05, 0.4]", 0.05)] {
        let text = small_with("time_step_limit", limit);
        let config = parse(&text.replacen('{', "{\"time_step_min\": 0.002,", 1)).unwrap();
        let document = config.to_json();
        assert_eq!((&document["time_step_min"], &document["initial_time_step_min"]), (&written.into(), &0.002.into()));
        let again = parse(&document.to_string()).unwrap();
        assert_eq!((again.time_step_min, &again), (0.002, &config));
    }
}

#[test]
fn quantised_and_uneven_models_are_refused_with_the_reason() {
    for key in ["quantization_config", "compression_config"] {
        let message = message_of(&small_with(key, r#"{"quant_method": "fp8", "bits": 8}"#));
        assert!([key, "fp8", "quantised", "bf16"].iter().all(|part| message.contains(part)), "{message}");
        for nothing in ["null", "{}"] {
            assert!(parse(&small_with(key, nothing)).is_ok());
        }
    }
    assert!(message_of(&small_with("block_configs", "[{\"block_type\": \"moe\"}]")).contains("sizes of their own"));
}

/// llama.cpp tells a mixture of experts by its keys, and looks for prediction heads that the configuration announces.
#[test]
fn keys_that_would_announce_what_is_not_saved_are_not_written() {
    let mut document: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    document["num_nextn_predict_layers"] = 1.into();
    assert_eq!(parse(&document.to_string()).unwrap().to_json()["num_nextn_predict_layers"], 0);
    document["hybrid_override_pattern"] = "M-*-".into();
    let written = parse(&document.to_string()).unwrap().to_json();
    assert!(written.as_object().unwrap().keys().all(|key| !key.contains("expert") && !key.starts_with("moe_")));
}

#[test]
fn sizes_beyond_any_memory_are_refused_before_anything_is_made_of_them() {
    for (key, value) in [
        ("vocab_size", "18446744073709551615"),
        ("hidden_size", "1000000000000"),
        ("mamba_num_heads", "4294967296"),
        ("mamba_head_dim", "9000000000000000000"),
        ("ssm_state_size", "1000000000"),
        ("conv_kernel", "1000000000"),
        ("head_dim", "18446744073709551615"),
        ("intermediate_size", "1000000000000"),
        ("n_routed_experts", "1000000000000"),
        ("moe_intermediate_size", "1000000000000"),
        ("moe_shared_expert_intermediate_size", "1000000000000"),
        ("moe_latent_size", "1000000000000"),
        ("chunk_size", "1000000000000"),
    ] {
        let message = message_of(&small_with(key, value));
        assert!(message.contains(key) && message.contains("at most"), "{key}: {message}");
    }
}

#[test]
fn bad_values_are_named_with_their_numbers() {
    for (key, value, parts) in [
        ("num_hidden_layers", "5", vec!["num_hidden_layers", "5", "4 blocks"]),
        ("n_groups", "3", vec!["mamba_num_heads", "4", "n_groups", "3"]),
        ("num_key_value_heads", "3", vec!["num_attention_heads", "4", "3"]),
        ("hidden_size", "0", vec!["hidden_size", "0", "positive"]),
        ("hidden_size", "\"big\"", vec!["hidden_size", "\"big\"", "positive"]),
        ("hidden_size", "null", vec!["hidden_size", "missing"]),
        ("use_bias", "\"yes\"", vec!["use_bias", "true or false"]),
        ("eos_token_id", "[2, \"x\"]", vec!["eos_token_id", "token id"]),
        ("eos_token_id", "100", vec!["eos_token_id", "100", "vocab_size"]),
        ("time_step_limit", "[0.4, 0.05]", vec!["time_step_limit", "0.4", "0.05"]),
        ("time_step_limit", "0.4", vec!["time_step_limit", "list of two"]),
        ("torch_dtype", "\"int8\"", vec!["torch_dtype", "int8", "bfloat16"]),
        ("model_type", "\"llama\"", vec!["model_type", "llama", "nemotron_h"]),
        ("mlp_hidden_act", "\"gelu\"", vec!["mlp_hidden_act", "gelu", "relu2"]),
        ("num_experts_per_tok", "5", vec!["num_experts_per_tok", "5", "4"]),
        ("layer_norm_epsilon", "0.0", vec!["layer_norm_epsilon"]),
        ("hybrid_override_pattern", "\"\"", vec!["empty"]),
    ] {
        let message = message_of(&small_with(key, value));
        assert!(parts.iter().all(|part| message.contains(part)), "{key}={value}: {message}");
    }
    assert!(message_of("{\"a\": 1,\n \"b\" 2}").contains("line 2"));
    assert!(message_of("[1]").contains("a list"));
    assert!(message_of("{\"vocab_size\": 5, \"hidden_size\": 5}").contains("hybrid_override_pattern"));
}

#[test]
fn end_tokens_are_the_union_of_three_files() {
    let config = parse(SMALL).unwrap();
    let text = r#"{"eos_token_id": [2, 12], "temperature": 0.6, "top_p": 0.95, "do_sample": true, "other": 1}"#;
    let generation = GenerationConfig::from_json_text(text, Path::new("g.json")).unwrap();
    assert_eq!(generation.temperature, Some(0.6));
    let ids = end_token_ids(&config, Some(&generation), [14]);
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [2, 11, 12, 14]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(GenerationConfig::load(folder.path()).unwrap(), None);
    std::fs::write(folder.path().join(GENERATION_CONFIG_FILE), "{\"top_k\": -2}").unwrap();
    assert!(GenerationConfig::load(folder.path()).unwrap_err().to_string().contains("top_k"));
}

/// The ranges are those of the command line; `top_k` of 0 and -1 switch it off, as in transformers and vLLM.
#[test]
fn sampling_defaults_are_held_to_their_ranges() {
    let read = |text: &str| GenerationConfig::from_json_text(text, Path::new("g/generation_config.json"));
    for (text, kept) in [("0", None), ("-1", None), ("null", None), ("1", Some(1)), ("50", Some(50))] {
        assert_eq!(read(&format!("{{\"top_k\": {text}}}")).unwrap().top_k, kept, "{text}");
    }
    for (key, good) in [("temperature", "0"), ("temperature", "1e-40"), ("top_p", "1"), ("min_p", "0"), ("min_p", "1")]
    {
        assert!(read(&format!("{{\"{key}\": {good}}}")).is_ok(), "{key} {good}");
    }
    for (key, bad) in [
        ("temperature", "-0.1"),
        ("temperature", "Infinity"),
        ("temperature", "NaN"),
        ("temperature", "\"hot\""),
        ("top_p", "0"),
        ("top_p", "1.5"),
        ("top_p", "-1"),
        ("min_p", "-0.5"),
        ("min_p", "2"),
        ("top_k", "-2"),
        ("top_k", "1.5"),
        ("max_new_tokens", "0"),
        ("max_length", "-5"),
        ("do_sample", "1"),
        ("eos_token_id", "-1"),
        ("eos_token_id", "[1,\"a\"]"),
    ] {
        let message = read(&format!("{{\"{key}\": {bad}}}")).unwrap_err().to_string();
        assert!(
            message.contains("g/generation_config.json") && message.contains(&format!("\"{key}\" is {bad}")),
            "{message}"
        );
    }
}

#[test]
fn generation_settings_that_are_not_followed_are_listed() {
    let text = r#"{"repetition_penalty": 1.2, "num_beams": 1, "no_repeat_ngram_size": 3, "bad_words_ids": [], "suppress_tokens": [5], "typical_p": 1.0}"#;
    let generation = GenerationConfig::from_json_text(text, Path::new("g.json")).unwrap();
    assert_eq!(
        generation.without_effect(),
        ["repetition_penalty = 1.2", "no_repeat_ngram_size = 3", "suppress_tokens = [5]"]
    );
}

/// Whatever a file asks for is followed or named, whether anyone here has heard of it or not.
#[test]
fn every_generation_setting_that_is_not_followed_is_listed() {
    let listed = |text: &str| GenerationConfig::from_json_text(text, Path::new("g.json")).unwrap().without_effect();
    for (key, value) in [
        ("exponential_decay_length_penalty", "[10,1.1]"),
        ("top_h", "0.4"),
        ("num_return_sequences", "3"),
        ("max_time", "1.5"),
        ("token_healing", "true"),
        ("watermarking_config", r#"{"bias":2.5}"#),
        ("constraints", "[1]"),
        ("dola_layers", "\"high\""),
        ("renormalize_logits", "true"),
        ("logit_bias", r#"{"5":1}"#),
        ("min_tokens", "4"),
        ("presence_penalty", "0.5"),
        ("frequency_penalty", "-0.5"),
        ("stop_token_ids", "[7]"),
        ("forced_bos_token_id", "0"),
        ("typical_p", "NaN"),
        ("a_setting_of_tomorrow", "1"),
    ] {
        assert_eq!(listed(&format!("{{\"{key}\": {value}}}")), [format!("{key} = {value}")]);
        assert!(listed(&format!("{{\"{key}\": null}}")).is_empty(), "{key}");
    }
    let quiet = r#"{"_from_model_config": true, "bos_token_id": 1, "do_sample": true, "eos_token_id": [2, 11], "pad_token_id": 0,
        "transformers_version": "5.0.0", "use_cache": true, "num_return_sequences": 1, "top_h": null, "renormalize_logits": false,
        "min_tokens": 0, "presence_penalty": 0.0, "logit_bias": {}, "stop_token_ids": [], "temperature": 0.6, "top_k": 20}"#;
    assert!(listed(quiet).is_empty(), "{:?}", listed(quiet));
}

#[test]
fn a_missing_or_unreadable_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = ModelConfig::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("cannot read"), "{message}");
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_no_plain_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join(CONFIG_FILE)).unwrap();
    let message = ModelConfig::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
    let large = folder.path().join("large.json");
    std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    let message = ModelConfig::from_file(&large).unwrap_err().to_string();
    assert!(message.contains("1099511627776 bytes"), "{message}");
}

/// Random changes of bytes, numbers and words: whatever comes of them has a configuration or an error.
#[test]
fn any_damage_of_a_file_has_a_result() {
    let words =
        ["null", "-1", "1e400", "18446744073709551615", "\"M\"", "[]", "{}", "[[", "0.5", "true", "NaN", "\u{0}"];
    let mut seed = 5_u64;
    let mut random = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % limit
    };
    for _ in 0..20_000 {
        let mut text = SMALL.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let start = random(text.len());
            let end = (start + random(12)).min(text.len());
            text.splice(start..end, words[random(words.len())].bytes());
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        if let Ok(config) = parse(&text) {
            let again = parse(&config.to_json_text()).unwrap();
            // Unknown keys may hold numbers of more digits than the parser keeps.
            assert_eq!(ModelConfig { extra: config.extra.clone(), ..again }, config, "{text}");
            assert!(config.num_parameters() > 0);
        }
    }
}

#[test]
fn any_cut_of_a_file_is_an_error_and_never_a_panic() {
    for end in 0..SMALL.len() {
        assert!(parse(&SMALL[..end]).is_err(), "cut at {end}");
    }
}
