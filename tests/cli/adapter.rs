//! Adapters as users see them: trained, carried on, merged, and refused.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::program::{contents, run_in};
use super::small_model::workspace;

const TRAIN: [&str; 5] = [
    "train",
    "--config=config.yaml",
    "policy.megatron_cfg.peft.enabled=true",
    "policy.megatron_cfg.peft.dim=3",
    "policy.megatron_cfg.optimizer.lr=0.02",
];
const ADAPTER: &str = "results/step_1/policy";

/// Answers to one prompt, as token ids and log-probabilities.
fn answers(folder: &Path, model: &[&str]) -> Vec<(Vec<u64>, Vec<f64>)> {
    let generate = ["generate", "--prompt=Hello", "--samples=3", "--max-new-tokens=8", "--ignore-eos", "--json"];
    let text = run_in(folder, &[&generate[..], model].concat()).succeeded();
    let answer = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let numbers = |key: &str| line[key].as_array().unwrap().clone();
        let ids = numbers("token_ids").iter().map(|id| id.as_u64().unwrap()).collect();
        (ids, numbers("log_probs").iter().map(|value| value.as_f64().unwrap()).collect())
    };
    text.lines().map(answer).collect()
}

/// Trains so that the adapter does something: the warm start's loss always has a gradient.
fn trained(folder: &Path, more: &[&str]) -> String {
    let sft =
        ["sft", "--config=config.yaml", "sft.lr=0.02", "sft.max_num_steps=1", "policy.megatron_cfg.peft.enabled=true"];
    let finished = run_in(folder, &[&sft[..], &["policy.megatron_cfg.peft.dim=3"], more].concat());
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stderr + &finished.stdout
}

#[test]
fn a_run_says_what_it_trains_and_saves_that_alone() {
    let folder = workspace();
    let model = contents(&folder.path().join("model"));
    let finished = run_in(folder.path(), &TRAIN);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("base: kept in float32, "), "{}", finished.stderr);
    for words in ["adapter: LoRA of rank 3 and alpha 32", "in 3 of 3 blocks (1 in_proj, 1 out_proj,", "PEFT"] {
        assert!(finished.stderr.contains(words), "`{words}` is not in: {}", finished.stderr);
    }
    assert!(finished.stdout.contains(&format!("--model model --adapter {ADAPTER}")), "{}", finished.stdout);
    let names: Vec<_> = contents(&folder.path().join(ADAPTER)).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(contents(&folder.path().join("model")) == model, "the base has changed");
    // Without the map that PEFT refuses there is nothing to say.
    let without = ["policy.megatron_cfg.peft.target_modules=[in_proj, q_proj]", "checkpointing.checkpoint_dir=other"];
    let finished = run_in(folder.path(), &[&TRAIN[..], &without].concat());
    assert!(
        finished.stderr.contains("(1 in_proj, 1 q_proj)") && !finished.stderr.contains("PEFT"),
        "{}",
        finished.stderr
    );
    finished.succeeded();
}

#[test]
fn sampling_and_training_agree_beside_every_base() {
    for more in [
        &["policy.precision=float32"][..],
        &["policy.precision=bfloat16"],
        &["policy.megatron_cfg.peft.base_dtype=int8"],
        &["policy.megatron_cfg.peft.target_modules=[linear_qkv]", "loss_fn.reference_policy_kl_penalty=0.1"],
    ] {
        let folder = workspace();
        let penalty = ["grpo.skip_reference_policy_logprobs_calculation=false", "grpo.max_num_steps=2"];
        run_in(folder.path(), &[&TRAIN[..], &penalty, more].concat()).succeeded();
        let metrics = fs::read_to_string(folder.path().join("results/metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let errors: Vec<f64> = lines.filter_map(|line| line["train/token_mult_prob_error"].as_f64()).collect();
        assert!(errors.len() == 2 && errors.iter().all(|error| (error - 1.0).abs() < 1e-9), "{more:?}: {errors:?}");
    }
}

#[test]
fn an_adapter_is_taken_up_and_merged() {
    let folder = workspace();
    trained(folder.path(), &[]);
    let beside = ["--model=model", "--adapter", ADAPTER];
    let (plain, adapted) = (answers(folder.path(), &["--model=model"]), answers(folder.path(), &beside));
    assert_ne!(plain, adapted);
    let merge = ["merge", "--model=model", "--adapter", ADAPTER, "--output=merged"];
    let said = run_in(folder.path(), &merge).succeeded();
    assert!(said.contains("merged into 8 matrices"), "{said}");
    for ((ids, log_probs), (expected, close)) in answers(folder.path(), &["--model=merged"]).iter().zip(&adapted) {
        assert_eq!(ids, expected);
        assert!(log_probs.iter().zip(close).all(|(a, b)| (a - b).abs() < 1e-4), "{log_probs:?} {close:?}");
    }
    run_in(folder.path(), &["eval", "--model=model", "--count=1", "--adapter", ADAPTER]).succeeded();
    let narrow = answers(folder.path(), &[&beside[..], &["--weight-dtype=int8"]].concat());
    assert_ne!(narrow, answers(folder.path(), &["--model=model", "--weight-dtype=int8"]));
    // The finished model of a warm start is the adapter, too.
    let published = workspace();
    trained(published.path(), &["sft.output_dir=published"]);
    assert!(published.path().join("published/adapter_model.safetensors").exists());
    answers(published.path(), &["--model=model", "--adapter=published"]);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let folder = workspace();
    trained(folder.path(), &[]);
    let before = contents(folder.path());
    let refused = |arguments: &[&str], words: &[&str]| {
        run_in(folder.path(), arguments).refused(words);
        assert!(contents(folder.path()) == before, "{arguments:?} has written something");
    };
    let generate = ["generate", "--prompt=Hello"];
    let with = |more: &[&'static str]| [&generate[..], more].concat();
    refused(&with(&["--model=model", "--adapter=model"]), &["model is no adapter", "adapter_config.json"]);
    refused(&with(&["--model=results/step_1/policy"]), &["adapter_model.safetensors", "--adapter", "nemo-burn merge"]);
    let merge = ["merge", "--model=model", "--adapter", ADAPTER];
    refused(&[&merge[..], &["--output=model"]].concat(), &["model already exists"]);
    refused(&["merge", "--model=model", "--adapter=nowhere", "--output=out"], &["nowhere is no adapter"]);
    // Of a model with other blocks.
    let foreign = ["--model=model", "--adapter=foreign"];
    fs::create_dir(folder.path().join("foreign")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(folder.path().join(ADAPTER).join(name), folder.path().join("foreign").join(name)).unwrap();
    }
    let config = folder.path().join("foreign/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"r\": 3", "\"r\": 4")).unwrap();
    run_in(folder.path(), &with(&foreign)).refused(&[
        "foreign/adapter_model.safetensors",
        "has shape [3, 16]",
        "[4, 16]",
    ]);
    fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    run_in(folder.path(), &with(&foreign)).refused(&["foreign/adapter_config.json", "use_dora", "not supported"]);
}

#[test]
fn runs_that_could_not_be_are_refused() {
    let folder = workspace();
    let dry = |more: &[&str]| run_in(folder.path(), &[&TRAIN[..], &["--dry-run"], more].concat());
    let said = dry(&[]);
    assert!(said.stderr.contains("adapter: LoRA of rank 3"), "{}", said.stderr);
    said.succeeded();
    dry(&["policy.megatron_cfg.peft.dropout=0.1"]).refused(&["policy.megatron_cfg.peft.dropout: 0.1"]);
    dry(&["policy.init.model_config=shape.json"]).refused(&["policy.megatron_cfg.peft.enabled", "random weights"]);
    let config = folder.path().join("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let no_attention = dry(&[
        "policy.megatron_cfg.peft.target_modules=[q_proj]",
        "policy.hf_config_overrides={hybrid_override_pattern: M--}",
    ]);
    no_attention.refused(&["q_proj", "M--", "target modules"]);
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
}

/// The base is no part of a checkpoint, so it has to be what it was; and an adapter is continued as that alone.
#[test]
fn another_base_or_another_adapter_is_no_continuation() {
    let folder = workspace();
    run_in(folder.path(), &TRAIN).succeeded();
    let more = ["grpo.max_num_steps=2"];
    run_in(folder.path(), &[&TRAIN[..], &["policy.megatron_cfg.peft.dim=4"], &more].concat())
        .refused(&["policy.megatron_cfg.peft.dim: then 3, now 4"]);
    run_in(folder.path(), &[&TRAIN[..], &["policy.megatron_cfg.peft.enabled=false"], &more].concat())
        .refused(&["policy.megatron_cfg.peft.enabled: then true, now false"]);
    let weights = folder.path().join("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    // In the norm before the head, whose table of 512 rows comes last.
    let place = bytes.len() - 512 * 16 * 4 - 40;
    bytes[place] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    run_in(folder.path(), &[&TRAIN[..], &more].concat()).refused(&["policy.model_name", "holds something else"]);
    bytes[place] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    run_in(folder.path(), &[&TRAIN[..], &more].concat()).succeeded();
}
