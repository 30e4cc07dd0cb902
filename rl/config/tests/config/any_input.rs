//! Whatever is written into a configuration or typed behind it: it is a configuration that survives being written and
//! read again, or one error of a readable length. The fuzz target of `rl/config/fuzz` checks the same on inputs it makes.
//!
//! An input is the text of a file; lines behind a zero byte are overrides.

use std::path::Path;

use nemo_config::load_text;

/// A folder that does not exist, so that `defaults` of made-up inputs lead nowhere.
const PATH: &str = "/nonexistent/folder/run.yaml";

pub fn check(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (text, overrides) = input.split_once('\0').unwrap_or((&input, ""));
    let overrides: Vec<String> = overrides.lines().map(str::to_owned).collect();
    let loaded = match load_text(text, Path::new(PATH), &overrides) {
        Ok(loaded) => loaded,
        Err(error) => {
            let length = error.to_string().len();
            assert!((1..10_000).contains(&length), "a message of {length} bytes");
            return;
        }
    };
    assert!(loaded.config.max_batch_tokens() > 0);
    let yaml = loaded.config.to_yaml().expect("a configuration can be written");
    let again = load_text(&yaml, Path::new("dump.yaml"), &[]).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(loaded.config, again.config, "{yaml}");
}

/// The shipped configurations, and small ones that use what YAML and the loader offer.
pub fn seeds() -> Vec<Vec<u8>> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR"));
    let configs = [configs.join("../../configs"), configs.join("../../../configs")];
    let configs = configs.iter().find(|folder| folder.is_dir()).expect("the folder of configurations");
    let mut files: Vec<_> =
        std::fs::read_dir(configs).expect("readable").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut seeds: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("readable")).collect();
    for text in [
        "policy: {model_name: a}\n\0grpo.seed=${add:${.max_num_steps},1}\n~policy.model_name\n++logger.wandb.x=[1, {y: 2}]",
        "policy:\n  model_name: &a x\n  tokenizer: {name: *a, chat_template_kwargs: {a: [1, 2.5, null, true, \"b\"]}}\n",
        "defaults: [a.yaml, b.yaml]\npolicy:\n  _override_: true\n  model_name: ???\n",
        "policy: {model_name: a}\nenv: {penguin: {port_range_low: 1}}\ndata: {train: t.jsonl, validation: null}\n",
        "policy: {model_name: a}\ncheckpointing: {checkpoint_must_save_by: 00:01:02:03, metric_name: train:reward}\n",
        "policy: {model_name: a, hf_config_overrides: {a: .inf, b: 1e308}}\ngrpo: {advantage_clip_low: .nan}\n",
        "policy: {model_name: a}\nsft: {curriculum: [{num_steps: 1, max_difficulty: 4, tools_in_prompt: no}]}\n",
        "policy: {model_name: |-\n  a\n  b}\nloss_fn: !!map {ratio_clip_c: 3}\n--- \n...\n",
    ] {
        seeds.push(text.as_bytes().to_vec());
    }
    seeds
}

#[cfg(test)]
#[test]
fn seeds_and_parts_of_them_are_configurations_or_errors() {
    for seed in seeds() {
        check(&seed);
        for part in 1..20 {
            let end = seed.len() * part / 20;
            check(&seed[..end]);
            check(&[&seed[..end], &seed[(end + 7).min(seed.len())..]].concat());
        }
    }
}
