//! Every kind of mistake gets one error with place, key, finding and expectation.

use std::path::Path;

use nemo_config as config;

use super::{assert_says, error, error_in, load, load_text};

#[test]
fn unknown_keys_are_named_with_their_place_and_a_guess() {
    assert_says(
        &error_in("policy:\n  model_name: tiny\ngrpo:\n  seed: 1\n  num_prompt_per_step: 4\n"),
        &["run.yaml:5:3", "unknown key `grpo.num_prompt_per_step`", "did you mean `grpo.num_prompts_per_step`?"],
    );
    assert_says(&error_in("polcy:\n  model_name: tiny\n"), &["run.yaml:1:1", "unknown key `polcy`", "`policy`"]);
    assert_says(
        &error(&["policy.lr=1e-3"]),
        &["override `policy.lr=1e-3`", "did you mean `policy.megatron_cfg.optimizer.lr`?"],
    );
    // Ignored keys are known keys too.
    assert_says(&error(&["policy.dtensor_cfg.cpu_ofload=true"]), &["`policy.dtensor_cfg.cpu_offload`"]);
    assert!(!error(&["zzz=1"]).contains("did you mean"));
}

#[test]
fn wrong_values_are_named_with_their_place_and_what_is_expected() {
    assert_says(
        &error_in("policy:\n  model_name: tiny\n  precision: bfloat17\n"),
        &["run.yaml:3:14", "`policy.precision`", "`bfloat17`", "`bfloat16`, `float32`", "did you mean `bfloat16`?"],
    );
    assert_says(&error(&["grpo.max_num_steps=-3"]), &["`grpo.max_num_steps`", "`-3`", "at least 0"]);
    assert_says(&error(&["grpo.max_num_steps=ten"]), &["the text `ten`", "a whole number"]);
    assert_says(&error(&["grpo.max_num_steps=1.5"]), &["`1.5`", "a whole number"]);
    assert_says(&error(&["grpo.val_at_start=maybe"]), &["true or false"]);
    assert_says(&error(&["policy.model_name=3"]), &["`3`", "put it in quotes"]);
    assert_says(&error(&["policy.megatron_cfg=null"]), &["`policy.megatron_cfg`", "`null`", "a block of keys"]);
    assert_says(&error(&["grpo=3"]), &["`grpo`", "`3`", "a block of keys"]);
    assert_says(&error(&["data.train.generate.split=trian"]), &["`data.train.generate.split`", "`train`"]);
    assert_says(&error(&["policy.generation.backend=sglang"]), &["`sglang`", "`vllm`"]);
    assert_says(&error_in("grpo:\n  seed: 1\n"), &["`policy.model_name` has to be set"]);
    assert_says(&error_in("- a\n"), &["run.yaml:1:1", "block of keys"]);
}

#[test]
fn malformed_yaml_is_placed() {
    assert_says(&error_in("policy:\n  model_name: tiny\n  a: [1, 2\nb: 3\n"), &["run.yaml:", "not valid YAML"]);
    let tab = error_in("policy:\n\tmodel_name: tiny\n");
    assert_says(&tab, &["run.yaml:2:", "not valid YAML"]);
    assert_says(&error_in("grpo:\n  seed: 1\n  seed: 2\n"), &["run.yaml:3:", "seed"]);
    assert_says(&error_in("grpo: *nowhere\n"), &["run.yaml:1:", "not valid YAML"]);
    assert_says(
        &config::load(Path::new("/nonexistent/run.yaml"), &[]).expect_err("missing").to_string(),
        &["/nonexistent/run.yaml"],
    );
}

#[test]
fn refused_values_say_why() {
    for (text, parts) in [
        ("grpo.max_val_samples=3", ["grpo.max_val_samples: 3", "accepted: null"]),
        ("grpo.async_grpo.enabled=true", ["grpo.async_grpo.enabled: true", "not implemented"]),
        ("policy.optimizer={name: adam}", ["policy.optimizer", "policy.megatron_cfg.optimizer"]),
        ("cluster.num_nodes=2", ["cluster.num_nodes: 2", "accepted: 1"]),
        ("policy.generation.vllm_cfg.kv_cache_dtype=fp8", ["kv_cache_dtype: fp8", "auto, bfloat16"]),
        ("grpo.use_dynamic_sampling=true", ["grpo.use_dynamic_sampling: true", "not implemented"]),
        ("policy.megatron_cfg.optimizer.fp16=true", ["fp16: true", "use float32"]),
        ("grpo.reward_penalties={a: 1}", ["grpo.reward_penalties", "not implemented"]),
        ("env.nemo_gym.config_paths=[resources_servers/mcqa/configs/mcqa.yaml]", ["mcqa", "only environment"]),
        ("policy.generation.top_k=5", ["policy.generation.top_k: 5", "whole distribution"]),
    ] {
        assert_says(&error(&[text]), &parts);
    }
}

#[test]
fn contradictions_are_found_at_load_time() {
    for (overrides, part) in [
        (&["policy.train_global_batch_size=1000"][..], "policy.train_global_batch_size"),
        (&["policy.dynamic_batching.enabled=true", "policy.sequence_packing.enabled=true"], "choose one"),
        (&["grpo.stop_at_validation_metric=accuracy"], "stop_at_validation_threshold"),
        (&["data.train=a.jsonl", "data.train.generate.count=3"], "data.train"),
        (
            &["policy.megatron_cfg.scheduler.lr_decay_style=linear", "policy.megatron_cfg.scheduler.lr_decay_iters=3"],
            "lr_decay_iters",
        ),
        (&["policy.generation.temperature=0"], "policy.generation.temperature"),
        (&["policy.megatron_cfg.optimizer.adam_beta2=1"], "adam_beta2"),
        (&["loss_fn.reference_policy_kl_penalty=0.1"], "reference policy"),
        (&["grpo.advantage_clip_low=1", "grpo.advantage_clip_high=0"], "advantage_clip_low"),
    ] {
        let message = error(overrides);
        assert!(message.contains(part), "{overrides:?}: {message}");
    }
}

/// Overrides are typed by hand: whatever is typed, the answer is a configuration or an error.
#[test]
fn no_override_makes_the_loader_panic() {
    let pieces = [
        "grpo", ".", "=", "${", "}", "mul:", ",", "[", "]", "{", "~", "+", "1", "-", "e9", "seed", "\"", ":", " ", "é",
        "???", "*", "&", "!", "#",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1000 {
        let mut text = String::from(if state & 1 == 0 { "grpo.seed=" } else { "" });
        for _ in 0..(state >> 60) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = load(&[&text]);
        let _ = load_text(&format!("policy:\n  model_name: x\n{text}\n"), &[]);
    }
}
