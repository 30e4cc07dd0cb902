//! The configuration loader as a user meets it: recipes, overrides, interpolation, and what every mistake is answered with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod any_input;
mod mistakes;

use std::fs;
use std::path::{Path, PathBuf};

use nemo_config::{
    self as config, BaseDtype, FactorInit, LoadedConfig, LrDecayStyle, PeftTarget, Precision, TaskSplit, TruncationType,
};

const SMALLEST: &str = "policy:\n  model_name: tiny\n";

fn load_text(text: &str, overrides: &[&str]) -> Result<LoadedConfig, String> {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    config::load_text(text, Path::new("run.yaml"), &overrides).map_err(|error| error.to_string())
}

fn load(overrides: &[&str]) -> Result<LoadedConfig, String> {
    load_text(SMALLEST, overrides)
}

fn config(overrides: &[&str]) -> config::RunConfig {
    load(overrides).expect("loads").config
}

fn error(overrides: &[&str]) -> String {
    load(overrides).expect_err("has to be refused")
}

fn error_in(text: &str) -> String {
    load_text(text, &[]).expect_err("has to be refused")
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

#[test]
fn every_shipped_configuration_loads_and_survives_a_round_trip() {
    let mut num_files = 0;
    for entry in fs::read_dir(configs()).expect("configs folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let loaded = config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let yaml = loaded.config.to_yaml().expect("dumps");
            let again =
                config::load_text(&yaml, Path::new("dump.yaml"), &[]).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
            assert_eq!(loaded.config, again.config);
            assert_eq!(yaml, again.config.to_yaml().expect("dumps"));
            num_files += 1;
        }
    }
    assert!(num_files >= 3, "found {num_files} configurations");
}

#[test]
fn the_shipped_job_may_have_any_number_of_steps() {
    let file = configs().join("grpo_workplace_tiny.yaml");
    for steps in 1..=40 {
        let loaded = config::load(&file, &[format!("grpo.max_num_steps={steps}")]).unwrap();
        assert_eq!(loaded.config.policy.megatron_cfg.scheduler.lr_decay_iters, steps);
    }
    // Beyond the warm-up a decay that has ended before is still a contradiction.
    let early = ["grpo.max_num_steps=22", "policy.megatron_cfg.scheduler.lr_decay_iters=20"].map(str::to_owned);
    let message = config::load(&file, &early).unwrap_err().to_string();
    assert_says(&message, &["policy.megatron_cfg.scheduler.lr_decay_iters", "lr_warmup_iters"]);
}

#[test]
fn the_9b_recipe_means_what_it_means_upstream() {
    let path = configs().join("grpo_workplace_assistant_nemotron_nano_v2_9b.yaml");
    let LoadedConfig { config, warnings } = config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.policy.train_global_batch_size, 1024);
    assert_eq!(config.policy.precision, Precision::Bfloat16);
    assert_eq!(config.policy.generation.max_new_tokens, 8192);
    assert_eq!(config.policy.generation.val_temperature, 1.0);
    assert_eq!(config.policy.megatron_cfg.optimizer.adam_eps, 1e-8);
    assert_eq!(config.policy.megatron_cfg.optimizer.lr, 5e-6);
    assert_eq!(config.policy.megatron_cfg.scheduler.lr_decay_style, LrDecayStyle::Constant);
    assert_eq!(config.max_rollout_steps(), 6);
    // What means something else here is said key by key; what has no effect and its usual value in one line.
    let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    let (usual, others): (Vec<&str>, Vec<&str>) = keys.into_iter().partition(|key| key.contains('{'));
    assert_eq!(
        others,
        [
            "logger.log_dir",
            "logger.wandb",
            "policy.generation.backend",
            "policy.megatron_cfg.distributed_data_parallel_config.grad_reduce_in_fp32",
            "policy.megatron_cfg.tensor_model_parallel_size",
            "cluster.gpus_per_node",
            "policy.generation.vllm_cfg.expose_http_server",
            "logger.wandb_enabled",
            "logger.monitor_gpus",
        ]
    );
    assert_eq!(usual.len(), 1);
    for block in [
        "policy.dtensor_cfg.{_v2, cpu_offload, ",
        "grpo.reward_scaling.{source_min, source_max, target_min, target_max}",
        "grpo.adv_estimator.minus_baseline",
        "policy.megatron_cfg.{enabled, ",
        "policy.generation.vllm_cfg.{precision, ",
        "policy.dynamic_batching.{logprob_mb_tokens, sequence_length_round, train_mb_tokens}",
    ] {
        assert!(usual[0].contains(block), "{block} is missing in {}", usual[0]);
    }
}

#[test]
fn overrides_set_add_force_and_remove() {
    assert_eq!(config(&["grpo.max_num_steps=7"]).grpo.max_num_steps, 7);
    assert_eq!(config(&["+grpo.max_num_steps=7"]).grpo.max_num_steps, 7);
    assert_eq!(config(&["++policy.model_name=other"]).policy.model_name, "other");
    assert_eq!(config(&["policy.megatron_cfg.optimizer.lr=1e-3"]).policy.megatron_cfg.optimizer.lr, 1e-3);
    assert_eq!(config(&["policy.megatron_cfg.optimizer.adam_eps=1e-8"]).policy.megatron_cfg.optimizer.adam_eps, 1e-8);
    assert_eq!(config(&["grpo.max_num_steps=1e6"]).grpo.max_num_steps, 1_000_000);
    assert_eq!(config(&["grpo.max_num_steps=7", "~grpo.max_num_steps"]).grpo.max_num_steps, 1_000_000);
    assert_eq!(config(&["data.train=a/b.jsonl"]).data.train.data_path, Some(PathBuf::from("a/b.jsonl")));
    assert_eq!(
        config(&["data.train.generate.split=[warm_start, train]", "data.train.generate.count=4"])
            .data
            .train
            .generate
            .split,
        [TaskSplit::WarmStart, TaskSplit::Train]
    );
    assert_eq!(config(&["data.train.generate.split=warm_start"]).data.train.generate.split, [TaskSplit::WarmStart]);
    // What depends on an overridden key follows it.
    assert_eq!(config(&["grpo.num_prompts_per_step=3"]).policy.train_global_batch_size, 48);

    assert_says(&error(&["+policy.model_name=other"]), &["already set to `tiny`", "++policy.model_name="]);
    assert_says(&error(&["~grpo.max_num_steps"]), &["does not set `grpo.max_num_steps`"]);
    assert_says(&error(&["~policy.model_name=other"]), &["is `tiny`, not `other`"]);
    assert_says(&error(&["grpo.max_num_steps"]), &["expected `grpo.max_num_steps=value`"]);
    assert_says(&error(&["=3"]), &["expected `key=value`"]);
    assert_says(&error(&["policy.model_name.x=3"]), &["`policy.model_name` is a list or a single value"]);
    assert_says(&error(&["grpo.max_num_steps=[1"]), &["override `grpo.max_num_steps=[1`", "not valid YAML"]);
}

#[test]
fn interpolation_refers_computes_and_fails_with_reasons() {
    let steps = |value: &str| config(&[&format!("grpo.max_num_steps={value}")]).grpo.max_num_steps;
    assert_eq!(steps("${grpo.seed}"), 42);
    assert_eq!(steps("${.seed}"), 42);
    assert_eq!(steps("${..cluster.gpus_per_node}"), 1);
    assert_eq!(steps("${mul:${grpo.seed}, 2}"), 84);
    assert_eq!(steps("${add:${mul:2,3},${max:4, 9}}"), 15);
    assert_eq!(steps("${div:${grpo.seed}, 2}"), 21);
    assert_eq!(config(&["policy.max_grad_norm=${div:1, 4}"]).policy.max_grad_norm, 0.25);
    assert_eq!(
        config(&["checkpointing.checkpoint_dir=runs/${policy.model_name}-${grpo.seed}"]).checkpointing.checkpoint_dir,
        PathBuf::from("runs/tiny-42")
    );
    // The inner reference is replaced first.
    let nested =
        config(&["++logger.tensorboard.key=project", "policy.model_name=${logger.wandb.${logger.tensorboard.key}}"]);
    assert_eq!(nested.policy.model_name, "nemo-burn");

    let fails = |value: &str| error(&[&format!("grpo.max_num_steps={value}")]);
    assert_says(&fails("${grpo.sed}"), &["`grpo.max_num_steps`", "there is no key `grpo.sed`"]);
    assert_says(&fails("${grpo.max_num_steps}"), &["itself"]);
    assert_says(&fails("${grpo}"), &["itself"]);
    assert_says(&fails("${.....x}"), &["above the root"]);
    assert_says(&fails("${mul:1}"), &["takes 2 numbers, found 1"]);
    assert_says(&fails("${mul:1,two}"), &["`two`", "expected a number"]);
    assert_says(&fails("${sub:1,2}"), &["unknown function `sub`", "mul, add, div or max"]);
    assert_says(&fails("${div:1,0}"), &["inf"]);
    assert_says(&fails("\"${grpo.seed\""), &["not closed"]);
    assert_says(&fails("${}"), &["needs a key"]);
    assert_says(
        &error(&["grpo.seed=${grpo.max_num_steps}", "grpo.max_num_steps=${grpo.seed}"]),
        &["back to themselves"],
    );
    assert_says(&error(&["policy.model_name=x-${loss_fn}"]), &["cannot stand inside text"]);
    assert_says(&error(&["grpo.seed=???"]), &["`grpo.seed` has to be set"]);
}

#[test]
fn files_inherit() {
    let folder = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("writes");
        path
    };
    write("base.yaml", "policy: {model_name: base, hf_config_overrides: {a: 1}}\ngrpo: {seed: 1, max_num_steps: 5}\n");
    write("more.yaml", "defaults: base.yaml\ngrpo: {seed: 2}\n");
    let child = write(
        "child.yaml",
        "defaults: [more.yaml]\npolicy:\n  model_name: child\n  hf_config_overrides:\n    _override_: true\n    b: 2\n",
    );
    let loaded = config::load(&child, &[]).expect("loads").config;
    assert_eq!((loaded.policy.model_name.as_str(), loaded.grpo.seed, loaded.grpo.max_num_steps), ("child", 2, 5));
    assert_eq!(loaded.policy.hf_config_overrides.keys().collect::<Vec<_>>(), ["b"]);

    let wrong = write("wrong.yaml", "defaults: base.yaml\ngrpo:\n  seeed: 3\n");
    let message = config::load(&wrong, &[]).expect_err("unknown key").to_string();
    assert_says(&message, &["wrong.yaml:3:3", "grpo.seed"]);

    write("a.yaml", "defaults: b.yaml\n");
    let circle = write("b.yaml", "defaults: a.yaml\n");
    assert_says(&config::load(&circle, &[]).expect_err("circle").to_string(), &["circle", "a.yaml", "b.yaml"]);
    let orphan = write("orphan.yaml", "defaults: gone.yaml\n");
    assert_says(&config::load(&orphan, &[]).expect_err("missing").to_string(), &["gone.yaml"]);
}

#[test]
fn keys_without_effect_are_said_whatever_their_value() {
    assert!(load(&[]).expect("loads").warnings.is_empty());
    assert!(
        load(&["policy.precision=bfloat16"]).expect("loads").warnings.is_empty(),
        "pipeline_dtype follows precision, and nobody wrote it"
    );
    let warnings = load(&[
        "policy.megatron_cfg.train_iters=7",
        "policy.draft.loss_weight=0.1",
        "policy.draft.num_layers=null",
        "grpo.adv_estimator.minus_baseline=true",
    ])
    .expect("loads")
    .warnings;
    assert_eq!(warnings.len(), 2);
    assert_says(
        &warnings[0].to_string(),
        &["override `policy.megatron_cfg.train_iters=7`", "is ignored", "max_num_steps"],
    );
    assert_says(
        &warnings[1].to_string(),
        &["3 key(s)", "no effect", "grpo.adv_estimator.minus_baseline, policy.draft.{loss_weight, num_layers}"],
    );
    for changed in [
        "policy.scheduler=null",
        "policy.megatron_cfg.enabled=false",
        "policy.generation.vllm_cfg.precision=bfloat16",
        "grpo.adv_estimator.minus_baseline=false",
        "policy.dynamic_batching.train_mb_tokens=77",
        "policy.megatron_cfg.optimizer.min_lr=1",
    ] {
        let warnings = load(&[changed]).expect("loads").warnings;
        assert_eq!(warnings.len(), 1, "{changed}");
        assert_says(&warnings[0].to_string(), &[changed, "is ignored"]);
    }
    for setting in ["max_difficulty=2", "seed=5", "num_offices=3", "suite=full", "split=warm_start"] {
        let setting = format!("data.train.generate.{setting}");
        assert!(load(&[&setting]).expect("loads").warnings.is_empty());
        let warnings = load(&[&setting, "data.train.data_path=tasks.jsonl"]).expect("loads").warnings;
        assert_eq!(warnings.len(), 1, "{setting}");
        assert_says(&warnings[0].to_string(), &[&setting, "is ignored: data.train.data_path names the tasks"]);
    }
    let built_in = config::load(&configs().join("grpo_workplace_tiny.yaml"), &[]).expect("loads");
    assert!(built_in.warnings.is_empty(), "the built-in job starts quietly: {:?}", built_in.warnings);
}

/// The block as NeMo RL's recipes have it, on and off.
#[test]
fn an_adapter_is_asked_for_in_the_recipes_words() {
    let block = "policy:
  model_name: tiny
  megatron_cfg:
    peft:
      enabled: true
      target_modules: [linear_qkv, linear_proj, out_proj]
      exclude_modules: []
      dim: 16
      alpha: 64
      dropout: 0.0
      dropout_position: \"post\"
      lora_A_init_method: \"xavier\"
      lora_B_init_method: \"zero\"
      a2a_experimental: false
      lora_dtype: None
";
    let loaded = load_text(block, &[]).expect("loads");
    let peft = &loaded.config.policy.megatron_cfg.peft;
    assert!(peft.enabled && peft.dim == 16 && peft.alpha == 64.0 && peft.lora_a_init_method == FactorInit::Xavier);
    assert_eq!(peft.target_modules, [PeftTarget::LinearQkv, PeftTarget::LinearProj, PeftTarget::OutProj]);
    assert_eq!(peft.base_dtype, BaseDtype::Float32, "as policy.precision says");
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert_says(&loaded.warnings[0].to_string(), &["peft.{dropout_position, a2a_experimental}", "no effect"]);

    let narrow = load_text(block, &["policy.precision=bfloat16"]).expect("loads").config;
    assert_eq!(narrow.policy.megatron_cfg.peft.base_dtype, BaseDtype::Bfloat16);
    let eight = load_text(block, &["policy.megatron_cfg.peft.base_dtype=int8"]).expect("loads").config;
    assert_eq!(eight.policy.megatron_cfg.peft.base_dtype, BaseDtype::Int8);

    let off = load_text(&block.replace("enabled: true", "enabled: false"), &[]).expect("loads");
    let said = off.warnings.iter().filter(|warning| warning.to_string().contains("peft.enabled is false")).count();
    assert_eq!(said, 1, "{:?}", off.warnings);
}

#[test]
fn padded_batches_are_bounded_as_dynamic_batching_says() {
    let tokens = |overrides: &[&str]| config(overrides).max_batch_tokens();
    assert_eq!(tokens(&[]), 8192);
    assert_eq!(tokens(&["policy.train_micro_batch_size=3"]), 3 * 8192);
    assert_eq!(tokens(&["policy.dynamic_batching.train_mb_tokens=77"]), 8192);
    let on = ["policy.dynamic_batching.enabled=true", "policy.dynamic_batching.train_mb_tokens=77"];
    assert_eq!(tokens(&on), 77);
    assert!(load(&on).expect("loads").warnings.is_empty());
}

#[test]
fn deadlines_are_days_hours_minutes_and_seconds() {
    let deadline = |text: &str| load(&[&format!("checkpointing.checkpoint_must_save_by={text}")]);
    let seconds = |text: &str| {
        deadline(text).expect("loads").config.checkpointing.checkpoint_must_save_by.expect("set").duration().as_secs()
    };
    assert_eq!(seconds("00:03:45:00"), 13_500);
    assert_eq!(seconds("01:00:00:07"), 86_407);
    for wrong in ["soon", "3:45:00", "00:03:45:00:00", "00:-3:45:00", "00:03:45:x", "99999999999999999:00:00:00"] {
        assert_says(
            &deadline(wrong).expect_err("has to be refused"),
            &["`checkpointing.checkpoint_must_save_by`", wrong, "days:hours:minutes:seconds"],
        );
    }
}

#[test]
fn legacy_names_are_understood() {
    let text = "policy: {model_name: tiny}\nenv:\n  should_use_penguin: true\n  penguin:\n    workplace_assistant_simple_agent: \
                {responses_api_agents: {simple_agent: {max_steps: 4}}}\n";
    assert_eq!(load_text(text, &[]).expect("loads").config.max_rollout_steps(), 4);
    assert!(config(&["env.should_use_penguin=true"]).env.should_use_nemo_gym);
}

#[test]
fn dumps_keep_every_value() {
    let config = config(&[
        "loss_fn.use_importance_sampling_correction=true",
        "loss_fn.truncated_importance_sampling_type=seq-mask-tis",
        "loss_fn.truncated_importance_sampling_ratio=1.002",
        "loss_fn.truncated_importance_sampling_ratio_min=0.999",
        "policy.megatron_cfg.optimizer.lr=3.3e-7",
        "policy.model_name=\"1e-8\"",
        "policy.tokenizer.name=\"yes\"",
        "policy.tokenizer.chat_template_kwargs={a: null, b: [1, 2.5, \"x: y # z\"], c: {d: \"true\"}}",
        "policy.hf_config_overrides={num_hidden_layers: 4}",
        "checkpointing.checkpoint_dir=\"a b'c\\\"\\n\\u00e9: #\"",
        "data.validation.generate.count=128",
    ]);
    assert_eq!(config.loss_fn.truncated_importance_sampling_type, Some(TruncationType::SeqMaskTis));
    let yaml = config.to_yaml().expect("dumps");
    let again = load_text(&yaml, &[]).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(config, again.config);
}

#[test]
fn differences_name_the_keys() {
    let before = config(&[]);
    let after = config(&["grpo.seed=1", "policy.tokenizer.chat_template_kwargs={a: 1}"]);
    let keys: Vec<String> = before.differences(&after).into_iter().map(|difference| difference.key).collect();
    for key in ["grpo.seed", "policy.tokenizer.chat_template_kwargs"] {
        assert!(keys.iter().any(|found| found == key), "{keys:?}");
    }
    assert!(before.differences(&before.clone()).is_empty());
}
