//! Whole runs of the small model.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::program::{PROGRAM, contents, finish, run_in};
use super::small_model::workspace;

fn train(folder: &Path, more: &[&str]) -> super::program::Finished {
    run_in(folder, &[&["train", "--config=config.yaml"], more].concat())
}

/// Files of a checkpoint below its own folder.
fn checkpoint(folder: &Path, place: &str) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let root = folder.join(place);
    contents(&root).into_iter().map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes)).collect()
}

#[test]
fn a_run_ends_with_metrics_a_plot_and_a_model_that_generates() {
    let folder = workspace();
    let text =
        train(folder.path(), &["grpo.max_num_steps=2", "grpo.val_at_start=true", "grpo.val_at_end=true"]).succeeded();
    for word in [
        "unseen_fillings",
        "unseen_templates",
        "sampled before",
        "metrics.jsonl",
        "plot.svg",
        "step_2",
        "token_mult_prob_error",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let results = folder.path().join("results");
    assert!(fs::read_to_string(results.join("plot.svg")).unwrap().starts_with("<svg"));
    let metrics = fs::read_to_string(results.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let error = lines[1]["train/token_mult_prob_error"].as_f64().unwrap();
    assert!((error - 1.0).abs() < 1e-3, "{error}");
    let model = results.join("step_2/policy");
    let arguments = ["generate", "--model", model.to_str().unwrap(), "--prompt=Hello", "--max-new-tokens=4", "--json"];
    let answer: Value = serde_json::from_str(&run_in(folder.path(), &arguments).succeeded()).unwrap();
    assert!(answer["text"].is_string() && answer["token_ids"].is_array(), "{answer}");
    // The resolved configuration is a configuration.
    let config = results.join("step_2/config.yaml");
    let again = ["train", "--config", config.to_str().unwrap()];
    assert!(run_in(folder.path(), &again).succeeded().contains("already finished"));
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    let (whole, parts) = (workspace(), workspace());
    train(whole.path(), &["grpo.max_num_steps=3"]).succeeded();
    train(parts.path(), &["grpo.max_num_steps=1"]).succeeded();
    let mut command = Command::new(PROGRAM);
    command.current_dir(parts.path()).args(["train", "--config=config.yaml", "grpo.max_num_steps=3"]);
    // Another number of threads changes nothing either.
    command.env("RAYON_NUM_THREADS", "1");
    finish(command).succeeded();
    let config_of = |files: &[(std::path::PathBuf, Vec<u8>)]| {
        let (_, bytes) = files.iter().find(|(path, _)| path.ends_with("config.yaml")).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    };
    let (a, b) = (checkpoint(whole.path(), "results/step_3"), checkpoint(parts.path(), "results/step_3"));
    assert_eq!(config_of(&a), config_of(&b));
    assert_eq!(a, b);
}

/// Prefill, decode, both passes of training and AdamW, on other threads and with other instructions.
#[test]
fn neither_threads_nor_instructions_change_a_bit() {
    let trained = |precision: &str, threads: &str, level: &str| {
        let folder = workspace();
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).args(["train", "--config=config.yaml", "grpo.max_num_steps=2"]);
        command.arg(format!("policy.precision={precision}"));
        command.env("RAYON_NUM_THREADS", threads).env("NEMO_BURN_SIMD", level);
        let finished = finish(command);
        // A machine without the level says so; that is no result to compare.
        if finished.stderr.contains("no SIMD level") {
            println!("skipped: {}", finished.stderr.trim());
            return None;
        }
        finished.succeeded();
        let metrics = fs::read_to_string(folder.path().join("results/metrics.jsonl")).unwrap();
        for line in metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            assert_eq!(line["train/token_mult_prob_error"].as_f64(), Some(1.0), "the sampler's bits are the trainer's");
        }
        Some(checkpoint(folder.path(), "results/step_2"))
    };
    for precision in ["float32", "bfloat16"] {
        let portable = trained(precision, "2", "portable").expect("every machine has this level");
        for (threads, level) in [("1", "avx2"), ("3", "avx512"), ("1", "")] {
            if let Some(found) = trained(precision, threads, level) {
                assert!(found == portable, "{precision}, {threads} threads, {level}");
            }
        }
    }
    let mut command = Command::new(PROGRAM);
    command.args(["generate", "--model=none", "--prompt=x"]).env("NEMO_BURN_SIMD", "avx1024");
    finish(command).refused(&["NEMO_BURN_SIMD", "avx1024", "portable"]);
}

#[test]
fn the_same_command_continues_and_changes_are_refused() {
    let folder = workspace();
    train(folder.path(), &[]).succeeded();
    let text = train(folder.path(), &[]).succeeded();
    assert!(text.contains("already finished") && text.contains("--fresh"), "{text}");
    train(folder.path(), &["grpo.max_num_steps=2", "grpo.seed=6"]).refused(&["grpo.seed", "then 5, now 6", "--fresh"]);
    train(folder.path(), &["grpo.max_num_steps=2", "policy.generation.temperature=0.5"])
        .refused(&["policy.generation.temperature", "--fresh"]);
    let before = checkpoint(folder.path(), "results");
    train(folder.path(), &["--fresh", "grpo.seed=6"]).succeeded();
    assert_eq!(checkpoint(folder.path(), "results"), before);
    assert!(folder.path().join("results-2/step_1/state.json").exists());
}

#[test]
fn an_evaluation_is_reported_by_part() {
    let folder = workspace();
    let arguments =
        ["eval", "--model=model", "--count=3", "--max-new-tokens=4", "--num-offices=1", "--episodes=episodes.jsonl"];
    let text = run_in(folder.path(), &arguments).succeeded();
    for word in ["accuracy", "do nothing", "unseen_fillings", "unseen_templates", "domain ", "template ", "call(s)"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("episodes.jsonl")).unwrap().lines().count(), 6);
    let json = run_in(folder.path(), &[&arguments[..], &["--json", "--greedy"]].concat()).succeeded();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["overall"]["num_tasks"], 6);
    assert_eq!(report["decoding"], "greedy");
}

#[test]
fn generation_takes_every_kind_of_input() {
    let folder = workspace();
    let generate = |more: &[&str]| {
        run_in(
            folder.path(),
            &[&["generate", "--model=model", "--max-new-tokens=3", "--ignore-eos", "--json"], more].concat(),
        )
        .succeeded()
    };
    let lines = |text: &str| text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    fs::write(folder.path().join("chat.json"), r#"[{"role": "user", "content": "Hello"}]"#).unwrap();
    let (prompt, chat) = (generate(&["--prompt=Hello", "--greedy"]), generate(&["--messages=chat.json", "--greedy"]));
    assert_eq!(prompt, chat, "a prompt is a conversation of one message");
    let raw = generate(&["--prompt=Hello", "--raw", "--greedy"]);
    assert!(lines(&raw)[0]["num_prompt_tokens"].as_u64() < lines(&prompt)[0]["num_prompt_tokens"].as_u64());
    let samples = lines(&generate(&["--prompt=Hello", "--samples=70", "--seed=1"]));
    assert_eq!(samples.len(), 70);
    assert!(samples.iter().any(|line| line["token_ids"] != samples[0]["token_ids"]));
    assert_eq!(lines(&generate(&["--prompt=Hello", "--samples=70", "--seed=1"])), samples);
    // Standard input, when nothing else is given.
    fs::write(folder.path().join("prompt.txt"), "Hello").unwrap();
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder.path()).args(["generate", "--model=model", "--max-new-tokens=3", "--ignore-eos"]);
    command.args(["--json", "--greedy"]).stdin(fs::File::open(folder.path().join("prompt.txt")).unwrap());
    assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap(), prompt);
    run_in(folder.path(), &["env", "generate", "--output=out", "--count=3", "--num-offices=1"]).succeeded();
    let records = lines(&generate(&["--records=out/train.jsonl"]));
    assert_eq!(records.len(), 3);
    assert!(records[0]["num_prompt_tokens"].as_u64().unwrap() > 200, "tools are in the prompt");
}
