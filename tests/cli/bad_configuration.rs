//! Configurations with mistakes are refused with file, line, key and what was probably meant.

use std::fs;

use super::program::{contents, run_in};
use super::small_model::{CONFIG, workspace};

/// Runs both trainings with a configuration and checks that they, and what only says what they would do, are refused without
/// a trace.
#[track_caller]
fn refused(text: &str, overrides: &[&str], words: &[&str]) {
    let folder = workspace();
    fs::write(folder.path().join("config.yaml"), text).unwrap();
    let before = contents(folder.path());
    for command in ["train", "sft"] {
        for more in [&[][..], &["--dry-run"]] {
            let arguments = [&[command, "--config=config.yaml"], overrides, more].concat();
            run_in(folder.path(), &arguments).refused(words);
        }
    }
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn malformed_yaml() {
    refused(&format!("{CONFIG}grpo: [1, 2\n"), &[], &["config.yaml", "not valid YAML"]);
    refused(&format!("{CONFIG}\tlogger: 1\n"), &[], &["config.yaml:34:16", "not valid YAML", "tab"]);
    refused("just words", &[], &["config.yaml:1", "block of keys"]);
}

#[test]
fn unknown_keys() {
    let wrong = CONFIG.replace("num_prompts_per_step", "num_prompt_per_step");
    refused(
        &wrong,
        &[],
        &["config.yaml:17", "unknown key `grpo.num_prompt_per_step`", "did you mean `grpo.num_prompts_per_step`?"],
    );
    refused(CONFIG, &["grpo.max_steps=3"], &["grpo.max_steps", "did you mean"]);
}

#[test]
fn wrong_values() {
    refused(CONFIG, &["grpo.max_num_steps=many"], &["grpo.max_num_steps", "many", "expected"]);
    refused(CONFIG, &["grpo.max_num_steps"], &["grpo.max_num_steps"]);
    refused(CONFIG, &["policy.precision=float16"], &["policy.precision", "float16", "bfloat16", "float32"]);
    refused(CONFIG, &["cluster.num_nodes=2"], &["cluster.num_nodes"]);
}

/// A fresh model is as large as its configuration says; one that no memory holds is refused before it is begun.
#[test]
fn shapes_that_no_memory_holds() {
    let folder = workspace();
    let published = fs::read_to_string(folder.path().join("model/config.json")).unwrap();
    for (key, value) in
        [("vocab_size", 200_000_000), ("intermediate_size", 200_000_000), ("mamba_num_heads", 20_000_000)]
    {
        let mut shape: serde_json::Value = serde_json::from_str(&published).unwrap();
        shape[key] = value.into();
        shape["hidden_size"] = (1 << 20).into();
        fs::write(folder.path().join("shape.json"), shape.to_string()).unwrap();
        let arguments = ["sft", "--config=config.yaml", "policy.init.model_config=shape.json", "data.validation=null"];
        run_in(folder.path(), &arguments).refused(&["shape.json", "parameters", "GB", "largest tensor"]);
    }
}

#[test]
fn replaced_keys_of_the_models_configuration() {
    let folder = workspace();
    let train = |setting: &str| {
        let limits = ["grpo.max_num_steps=1", "grpo.val_at_start=false", "--fresh"];
        run_in(folder.path(), &[&["train", "--config=config.yaml", setting][..], &limits].concat())
    };
    train("policy.hf_config_overrides.vocab_size=5").refused(&["policy.hf_config_overrides (vocab_size: 5)"]);
    train("policy.hf_config_overrides.hidden_size=64").refused(&["policy.hf_config_overrides (hidden_size: 64)"]);
    let finished = train("policy.hf_config_overrides.foo=5");
    assert!(finished.stderr.contains("nothing is computed from foo: 5"), "{}", finished.stderr);
    finished.succeeded();
}

#[test]
fn a_file_that_is_not_there() {
    let folder = workspace();
    run_in(folder.path(), &["train", "--config=other.yaml"]).refused(&["other.yaml"]);
    run_in(folder.path(), &["train", "--config=model"]).refused(&["model"]);
}

#[test]
fn devices_that_were_not_built_in() {
    let folder = workspace();
    let with = |device: &str| run_in(folder.path(), &["train", "--config=config.yaml", "--device", device]);
    with("gpu").refused(&["--device", "cpu, cuda:N or wgpu"]);
    if cfg!(feature = "cuda") {
        println!("skipped: this build has CUDA");
    } else {
        with("cuda:0").refused(&["cuda:0", "--features cuda"]);
    }
    if cfg!(feature = "wgpu") {
        println!("skipped: this build has wgpu");
    } else {
        with("wgpu").refused(&["wgpu", "--features wgpu"]);
    }
}

#[test]
fn keys_of_the_other_command_are_said_to_be_without_effect() {
    let folder = workspace();
    for (command, key, is_foreign) in [
        ("train", "sft.lr=1e-3", true),
        ("sft", "grpo.max_num_steps=7", true),
        ("sft", "loss_fn.ratio_clip_min=0.1", true),
        ("train", "grpo.max_num_steps=7", false),
        ("sft", "sft.lr=1e-3", false),
        ("sft", "grpo.val_num_generations_per_prompt=2", false),
        ("sft", "grpo.val_greedy=false", false),
        ("sft", "grpo.overlong_filtering=true", true),
        ("sft", "grpo.seed=7", false),
    ] {
        let finished = run_in(folder.path(), &[command, "--config=config.yaml", "--dry-run", key]);
        let warning = format!("warning: {key} has no effect on this command");
        assert_eq!(finished.stderr.contains(&warning), is_foreign, "{command} {key}: {}", finished.stderr);
        finished.succeeded();
    }
}

#[test]
fn tf32_is_said_to_be_without_effect_where_there_is_none() {
    let folder = workspace();
    for (setting, is_said) in [("policy.allow_tf32=true", true), ("policy.allow_tf32=false", false)] {
        let finished = run_in(folder.path(), &["train", "--config=config.yaml", "--dry-run", setting]);
        let warning = "warning: policy.allow_tf32 has no effect on --device cpu";
        assert_eq!(finished.stderr.contains(warning), is_said, "{}", finished.stderr);
        finished.succeeded();
    }
}

#[test]
fn checkpoints_are_ranked_only_by_what_is_measured() {
    let folder = workspace();
    for metric in ["reward", "grad_norm", "entropy"] {
        let metric = format!("checkpointing.metric_name=train:{metric}");
        for more in [&[][..], &["--dry-run"]] {
            let arguments = [&["sft", "--config=config.yaml", metric.as_str()], more].concat();
            let name = metric.split('=').nth(1).unwrap();
            run_in(folder.path(), &arguments).refused(&["checkpointing.metric_name", name, "`train:loss`"]);
        }
        run_in(folder.path(), &["train", "--config=config.yaml", &metric, "--dry-run"]).succeeded();
    }
    let words = "checkpointing.metric_name: val:accuracy is not measured without data.validation";
    for (command, metric, count, is_said) in [
        ("sft", "val:accuracy", 0, true),
        ("train", "val:accuracy", 0, true),
        ("sft", "val:accuracy", 1, false),
        ("sft", "train:loss", 0, false),
    ] {
        let metric = format!("checkpointing.metric_name={metric}");
        let count = format!("data.validation.generate.count={count}");
        let finished = run_in(folder.path(), &[command, "--config=config.yaml", &metric, &count, "--fresh"]);
        assert_eq!(
            finished.stderr.matches(words).count(),
            usize::from(is_said),
            "{command} {metric}: {}",
            finished.stderr
        );
        finished.succeeded();
    }
}
