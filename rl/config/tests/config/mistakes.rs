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
    assert_says(
        &error(&["grpo.stop_at_validation_threshold=.nan"]),
        &["grpo.stop_at_validation_threshold", "non-finite"],
    );
    for not_finite in [".inf", "1e999", "${mul:1e200,1e200}"] {
        let message = error(&[&format!("grpo.stop_at_validation_threshold={not_finite}")]);
        assert_says(
            &message,
            &["grpo.stop_at_validation_threshold", if not_finite.contains("mul") { "gives inf" } else { "non-finite" }],
        );
    }
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
        ("policy.sequence_packing.enabled=true", ["policy.sequence_packing.enabled: true", "not implemented"]),
        ("loss_fn.positive_example_nll_weight=0.5", ["positive_example_nll_weight: 0.5", "micro-batch"]),
        ("policy.generation.top_k=5", ["policy.generation.top_k: 5", "whole distribution"]),
        ("policy.megatron_cfg.peft.lora_B_init_method=xavier", ["lora_B_init_method: xavier", "accepted: zero"]),
        ("policy.megatron_cfg.peft.lora_dtype=bfloat16", ["lora_dtype: bfloat16", "trained in f32"]),
        ("policy.megatron_cfg.peft.base_dtype=int8", ["base_dtype: int8", "peft.enabled=true"]),
    ] {
        assert_says(&error(&[text]), &parts);
    }
}

#[test]
fn settings_of_an_adapter_that_could_not_act_are_refused() {
    for (setting, parts) in [
        ("dropout=0.1", ["policy.megatron_cfg.peft.dropout: 0.1", "sampled from"]),
        ("exclude_modules=[q_proj]", ["policy.megatron_cfg.peft.exclude_modules", "target_modules instead"]),
        ("target_modules=[q_prj]", ["policy.megatron_cfg.peft.target_modules.0", "q_proj"]),
        ("target_modules=['*.linear_qkv']", ["policy.megatron_cfg.peft.target_modules.0", "linear_qkv"]),
        ("target_modules=q_proj", ["policy.megatron_cfg.peft.target_modules", "a list"]),
        ("lora_A_init_method=uniform", ["lora_A_init_method", "kaiming"]),
        ("dim=0", ["policy.megatron_cfg.peft.dim", "at least 1"]),
        ("dim=100000", ["policy.megatron_cfg.peft.dim", "at most 8192"]),
        ("alpha=0", ["policy.megatron_cfg.peft.alpha", "above 0"]),
        ("base_dtype=bfloat16", ["policy.megatron_cfg.peft.base_dtype", "policy.precision or int8"]),
        ("use_dora=true", ["unknown key", "use_dora"]),
        ("match_all_linear=true", ["unknown key", "match_all_linear"]),
    ] {
        let setting = format!("policy.megatron_cfg.peft.{setting}");
        assert_says(&error(&["policy.megatron_cfg.peft.enabled=true", &setting]), &parts);
    }
    let fresh = ["policy.megatron_cfg.peft.enabled=true", "policy.init.model_config=shape.json"];
    assert_says(&error(&fresh), &["policy.megatron_cfg.peft.enabled", "random weights", "policy.model_name"]);
}

#[test]
fn contradictions_are_found_at_load_time() {
    for (overrides, part) in [
        (&["policy.train_global_batch_size=1000"][..], "policy.train_global_batch_size"),
        (&["grpo.stop_at_validation_metric=accuracy", "data.validation=v.jsonl"], "stop_at_validation_threshold"),
        (&["grpo.stop_at_validation_metric=accuracy", "grpo.stop_at_validation_threshold=1"], "data.validation"),
        (&["checkpointing.metric_name=val:pass_k"], "grpo.val_num_generations_per_prompt"),
        (&["checkpointing.metric_name=val:greedy_accuracy", "grpo.val_greedy=false"], "grpo.val_greedy"),
        (&["grpo.num_generations_per_prompt=1"], "grpo.num_generations_per_prompt"),
        (&["data.train.generate.max_difficulty=0"], "data.train.generate.max_difficulty"),
        (&["data.validation.generate.max_difficulty=5"], "data.validation.generate.max_difficulty"),
        (&["sft.curriculum=[{num_steps: 1, max_difficulty: 9, tools_in_prompt: true}]"], "sft.curriculum"),
        (&["loss_fn.kl_input_clamp_value=-1"], "loss_fn.kl_input_clamp_value"),
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

/// An error blames what the user wrote, wherever the value that is wrong takes it from.
#[test]
fn mistakes_are_placed_where_the_user_wrote_them() {
    let followed = error_in("policy:\n  model_name: tiny\n  generation:\n    temperature: -1\n");
    assert_says(
        &followed,
        &[
            "run.yaml:4:18: ",
            "`policy.generation.val_temperature` (from `policy.generation.temperature`) is `-1.0`",
            "at least 0",
        ],
    );
    assert_says(
        &error_in("policy:\n  model_name: tiny\n  max_total_sequence_length: \"2048\"\n"),
        &["run.yaml:3:30: ", "policy.max_total_sequence_length", "the text `2048`"],
    );
    for (text, parts) in [
        (
            "policy.max_grad_norm=null",
            ["`policy.megatron_cfg.optimizer.clip_grad` (from `policy.max_grad_norm`) is null", "a number"],
        ),
        ("policy.generation.val_top_k=50", ["`policy.generation.val_top_k: 50`", "whole distribution"]),
        ("policy.generation.top_p=0", ["`policy.generation.top_p` is `0.0`", "above 0 and at most 1"]),
        ("policy.megatron_cfg.optimizer.adam_beta1=1.5", ["adam_beta1` is `1.5`", "below 1"]),
        ("grpo.num_generations_per_prompt=1", ["`grpo.num_generations_per_prompt` is `1`", "at least 2"]),
        ("loss_fn.ratio_clip_min=-2", ["`loss_fn.ratio_clip_min` is `-2.0`", "at least 0"]),
        ("grpo.num_prompts_per_step=0", ["`grpo.num_prompts_per_step` is `0`", "at least 1"]),
        ("data.train.generate.max_difficulty=300", ["`300`", "a difficulty of 1 (one call) to 4"]),
        ("data.train.generate.num_offices=0", ["`data.train.generate.num_offices` is `0`", "at least 1"]),
    ] {
        let message = error(&[text]);
        assert!(message.starts_with(&format!("override `{text}`: ")), "{message}");
        assert_says(&message, &parts);
        assert!(!message.contains("contradicts"), "{message}");
    }
    // A reference that the user wrote is the place, and what it refers to is named with its own.
    let chain =
        "policy:\n  model_name: tiny\n  generation:\n    temperature: ${sft.lr}\nsft:\n  lr: -2\n  min_lr: -3\n";
    assert_says(&error_in(chain), &["run.yaml:4:18: ", "`policy.generation.temperature`", "`sft.lr` in run.yaml:6:7"]);
    // A default that does not fit what was written.
    let message = error(&["policy.generation.vllm_cfg.max_model_len=77"]);
    assert_says(
        &message,
        &["max_model_len: 77` does not fit", "`policy.max_total_sequence_length` is `8192` (built-in defaults)"],
    );
    let message = error(&["grpo.stop_at_validation_metric=accuracy", "data.validation=v.jsonl"]);
    assert_says(
        &message,
        &["override `grpo.stop_at_validation_metric=accuracy`: ", "`grpo.stop_at_validation_threshold` is `null`"],
    );
}

#[test]
fn what_the_parser_finds_is_said_in_plain_words() {
    let wrong = ["a: 1\na: 2\n", "grpo:\n  seed: .nan\n", "grpo: {seed: .inf}\n", "a: &x [*x]\n", "a: *nowhere\n"];
    let overrides = ["grpo.seed=.nan", "policy.init={seed: 1, seed: 2}", "sft.curriculum=[{x: 1}]"];
    let messages = wrong.map(error_in).into_iter().chain(overrides.map(|text| error(&[text])));
    for message in messages {
        for jargon in ["Policy", "policy in", "Options", "configured", "recursion", "at line", "expected unknown", "u8"]
        {
            assert!(!message.contains(jargon), "`{jargon}` in: {message}");
        }
        assert_eq!(message.matches("override `").count() + message.matches("run.yaml").count(), 1, "{message}");
    }
    assert_says(&error_in("a: 1\na: 2\n"), &["run.yaml:2:1", "`a` is written twice"]);
    assert_says(&error(&["sft.curriculum=[{x: 1}]"]), &["`sft.curriculum.0`", "`x`", "`num_steps`"]);
}

#[test]
fn bounds_of_the_generator_are_the_generators_own() {
    for (key, most) in [
        ("data.train.generate.num_offices", nemo_env::generate::MAX_OFFICES),
        ("data.validation.generate.count", nemo_env::generate::MAX_TASKS),
        ("policy.init.tokenizer.corpus_count", nemo_env::generate::MAX_TASKS),
    ] {
        assert!(load(&[&format!("{key}={most}")]).is_ok(), "{key}={most}");
        assert_says(&error(&[&format!("{key}={}", most + 1)]), &[key, &format!("at most {most}")]);
    }
}

#[test]
fn settings_that_could_not_act_are_refused() {
    let stop =
        ["grpo.stop_at_validation_metric=accuracy", "grpo.stop_at_validation_threshold=1", "data.validation=v.jsonl"];
    let never = ["grpo.val_at_start=false", "grpo.val_at_end=false", "checkpointing.metric_name=null"];
    for period in ["grpo.val_period=0", "grpo.max_num_steps=9", "grpo.val_start_at=2000000"] {
        let message = error(&[&stop[..], &never[..], &[period]].concat());
        assert_says(&message, &["grpo.stop_at_validation_metric", "no validation is ever due", "`grpo.val_period` is"]);
        assert!(load(&[&stop[..], &["grpo.val_at_end=true", period]].concat()).is_ok(), "{period}");
    }
    // Checkpoints that validation ranks are validated.
    assert!(load(&[&stop[..], &never[..2], &["grpo.val_period=0"]].concat()).is_ok());
    assert_says(&error(&stop[1..]), &["grpo.stop_at_validation_threshold: 1", "grpo.stop_at_validation_metric"]);
    let linear = "policy.megatron_cfg.scheduler.lr_decay_style=linear";
    let message = error(&[linear, "policy.megatron_cfg.optimizer.min_lr=1e-3"]);
    assert_says(&message, &["optimizer.min_lr: 0.001", "at most", "`policy.megatron_cfg.optimizer.lr` is `5e-6`"]);
    assert_says(&error(&["sft.min_lr=1"]), &["sft.min_lr: 1", "at most sft.lr"]);
    for split in ["[train,train]", "[warm_start, train, warm_start]"] {
        let message = error(&[&format!("data.train.generate.split={split}")]);
        assert_says(&message, &["data.train.generate.split", "names a split twice"]);
    }
}

#[test]
fn metrics_that_nobody_measures_are_refused_with_those_that_exist() {
    for (text, parts) in [
        (
            "checkpointing.metric_name=val:acuracy",
            ["`val:acuracy`", "`val:accuracy`", "`train:reward`", "did you mean"],
        ),
        ("checkpointing.metric_name=accuracy", ["`accuracy`", "`val:accuracy`", "`val:pass_k`", "did you mean"]),
        ("checkpointing.metric_name=train:reward_mean", ["`train:reward_mean`", "`train:reward`", "`", "did you mean"]),
        ("grpo.stop_at_validation_metric=reward", ["`reward`", "`accuracy`", "`pass_k`", "`avg_length`"]),
    ] {
        let key = text.split('=').next().expect("a key");
        let message = match text.starts_with("grpo") {
            true => error(&[text, "grpo.stop_at_validation_threshold=1", "data.validation=v.jsonl"]),
            false => error(&[text]),
        };
        assert_says(&message, &[&format!("`{key}`")]);
        assert_says(&message, &parts);
    }
    for known in ["val:pass_k", "val:accuracy", "val:avg_length", "train:grad_norm"] {
        let metric = format!("checkpointing.metric_name={known}");
        assert!(load(&[&metric, "grpo.val_num_generations_per_prompt=2"]).is_ok(), "{known}");
    }
    for known in ["pass_k", "val:pass_k", "greedy_accuracy"] {
        let stop = format!("grpo.stop_at_validation_metric={known}");
        let others = ["grpo.val_num_generations_per_prompt=2", "grpo.stop_at_validation_threshold=1"];
        assert!(load(&[&stop, others[0], others[1], "data.validation=v.jsonl"]).is_ok(), "{known}");
    }
}

#[test]
fn numbers_that_would_be_allocated_have_bounds() {
    for key in [
        "policy.max_total_sequence_length",
        "policy.train_micro_batch_size",
        "policy.init.tokenizer.vocab_size",
        "policy.init.tokenizer.corpus_count",
        "grpo.num_generations_per_prompt",
        "grpo.val_num_generations_per_prompt",
        "grpo.num_prompts_per_step",
        "data.train.generate.count",
        "data.train.generate.num_offices",
        "data.validation.generate.count",
        "sft.batch_size",
    ] {
        for value in ["1000000000000", "9223372036854775807", "1e15"] {
            let message = error(&[&format!("{key}={value}")]);
            assert_says(&message, &[&format!("override `{key}={value}`: `{key}` is"), "at most"]);
        }
    }
    let product = error(&["grpo.num_prompts_per_step=100000", "grpo.num_generations_per_prompt=4000"]);
    assert_says(&product, &["grpo.num_prompts_per_step", "100000", "4000"]);
}

/// Few lines that stand for a lot are refused at once, whichever way they grow.
#[test]
fn nothing_small_grows_large() {
    let began = std::time::Instant::now();
    let ten = |name: &str| vec![format!("${{logger.tensorboard.{name}}}"); 10];
    let mut text = "policy: {model_name: a}\nlogger:\n  tensorboard:\n    x0: aaaaaaaaaa\n".to_owned();
    let (mut lists, mut blocks) = (text.clone(), text.clone());
    let mut sums = "policy: {model_name: a}\nlogger:\n  tensorboard:\n    x0: 1\n".to_owned();
    for i in 1..12 {
        let before = format!("x{}", i - 1);
        text += &format!("    x{i}: \"{}\"\n", ten(&before).concat());
        lists += &format!("    x{i}: [\"{}\"]\n", ten(&before).join("\", \""));
        let keys: Vec<String> =
            ten(&before).iter().enumerate().map(|(k, value)| format!("k{k}: \"{value}\"")).collect();
        blocks += &format!("    x{i}: {{{}}}\n", keys.join(", "));
        sums += &format!("    x{i}: \"${{add:${{.{before}}},${{add:${{.{before}}},${{.{before}}}}}}}\"\n");
    }
    for (name, text) in [("text", text), ("lists", lists), ("blocks", blocks)] {
        assert_says(&error_in(&text), &["run.yaml:", "references lead to more"]);
        assert!(began.elapsed().as_secs_f64() < 5.0, "{name}");
    }
    let _ = load_text(&sums, &[]);
    // Aliases of aliases.
    let mut aliases = "policy: {model_name: a}\nlogger:\n  tensorboard:\n    x0: &x0 [a, a]\n".to_owned();
    for i in 1..40 {
        aliases += &format!("    x{i}: &x{i} [*x{before}, *x{before}]\n", before = i - 1);
    }
    assert_says(&error_in(&aliases), &["run.yaml:", "not valid YAML"]);
    for nested in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        assert_says(&error_in(&nested), &["run.yaml:", "not valid YAML"]);
    }
    assert_says(&error_in(&"a: 1\n".repeat(300_000)), &["run.yaml:", "more bytes", "1048576"]);
    let many: String = (0..60_000).map(|i| format!("k{i}: 1\n")).collect();
    assert_says(&error_in(&many), &["run.yaml:", "not valid YAML"]);
    assert_says(&error(&[&format!("{}=1", ["a"; 50_000].join("."))]), &["override", "64 parts"]);
    let message = error(&[&format!("grpo.seed={}", "x".repeat(200_000))]);
    assert!(message.len() < 2000, "{} bytes", message.len());
    assert!(began.elapsed().as_secs_f64() < 20.0, "took {:?}", began.elapsed());
}

#[test]
fn inheritance_that_doubles_and_files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: String| folder.path().join(name);
    for i in 0..30 {
        let text = format!("defaults: [f{next}.yaml, f{next}.yaml]\n", next = i + 1);
        std::fs::write(path(format!("f{i}.yaml")), text).expect("writes");
    }
    std::fs::write(path("f30.yaml".to_owned()), "policy: {model_name: a}\n").expect("writes");
    let message = config::load(&path("f0.yaml".to_owned()), &[]).expect_err("too many").to_string();
    assert_says(&message, &["`defaults` lead to more files", "64"]);
    assert_says(&config::load(folder.path(), &[]).expect_err("a folder").to_string(), &["not a regular file"]);
    let device = Path::new("/dev/zero");
    if device.exists() {
        assert_says(
            &config::load(device, &[]).expect_err("a device").to_string(),
            &["/dev/zero", "not a regular file"],
        );
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
