//! What may be different when a run is continued, and what is said about it.
//!
//! Whatever a step computes from has to be as it was: then a run that was interrupted ends in the bytes of one that was
//! not. Settings that a user changes on purpose in the middle of a run (how long it goes on, the learning rate, what is
//! measured and kept) may change and are named. Where such a setting follows from another by interpolation, as a decay
//! that ends with the run, the resolved value counts: steps from now on follow the new one.

use crate::checkpoint::{Algorithm, CONFIG_FILE, Checkpoint, TrainState};
use crate::config::{self, KeyDifference, RunConfig};
use crate::error::TrainError;

/// Keys, or beginnings of keys, that may change.
const FREE_KEYS: [&str; 20] = [
    "grpo.max_num_steps",
    "grpo.max_num_epochs",
    "grpo.val_period",
    "grpo.val_start_at",
    "grpo.val_at_",
    "grpo.val_greedy",
    "grpo.stop_at_validation_",
    "policy.megatron_cfg.optimizer.lr",
    "policy.megatron_cfg.optimizer.min_lr",
    "policy.megatron_cfg.scheduler.lr_",
    "policy.megatron_cfg.activation_checkpointing",
    "policy.generation.vllm_cfg.gpu_memory_utilization",
    "sft.max_num_steps",
    "sft.lr",
    "sft.min_lr",
    "sft.val_period",
    "sft.output_dir",
    "checkpointing.",
    "logger.",
    "cluster.",
];

/// Keys of a foreign block that matter all the same.
const SHARED_KEYS: [&str; 2] = ["grpo.val_num_generations_per_prompt", "grpo.val_greedy"];

/// Whether a key is one that the other algorithm alone reads; it changes nothing here, unless another key refers to it.
pub fn is_foreign(algorithm: Algorithm, key: &str) -> bool {
    let blocks: &[&str] = match algorithm {
        Algorithm::Sft => &["grpo.", "loss_fn."],
        Algorithm::Grpo => &["sft."],
    };
    blocks.iter().any(|block| key.starts_with(block)) && !SHARED_KEYS.contains(&key)
}

/// Compares what a checkpoint was made with to what the run is started with now; what the user should know about the
/// differences that are allowed, one sentence each.
///
/// # Errors
/// [`TrainError::Changed`] with everything that has to be as it was.
pub fn compare(checkpoint: &Checkpoint, start: &TrainState, config: &RunConfig) -> Result<Vec<String>, TrainError> {
    let path = checkpoint.path.join(CONFIG_FILE);
    let before = config::load_text(&checkpoint.config_yaml, &path, &[])
        .map_err(|source| TrainError::SavedConfig { path, source: Box::new(source) })?
        .config;
    let state = &checkpoint.state;
    let mut refused = Vec::new();
    let mut compare = |key: &str, before: &str, after: &str| {
        if before != after {
            refused.push(describe(key, before, after));
        }
    };
    compare("command", &state.algorithm.to_string(), &start.algorithm.to_string());
    compare("seed", &state.seed.to_string(), &start.seed.to_string());
    for (name, after) in &start.options {
        compare(name, state.options.get(name).map_or("not set", String::as_str), after);
    }
    let is_free = |key: &str| FREE_KEYS.iter().any(|start| key.starts_with(start));
    let mut changed = Vec::new();
    for KeyDifference { key, before, after } in before.differences(config) {
        match () {
            () if is_foreign(start.algorithm, &key) => {}
            () if is_free(&key) => changed.push(describe(&key, &before, &after)),
            () => compare(&key, &before, &after),
        }
    }
    let mut notices = Vec::new();
    match state.contents.is_empty() {
        true if start.contents.is_empty() => {}
        true => notices.push(format!(
            "{} does not say what the files of the run held ({}): whether they are still the same could not be checked",
            checkpoint.path.display(),
            start.contents.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        )),
        false => refused.extend(changed_contents(state, start)),
    }
    if !refused.is_empty() {
        let folder = checkpoint.path.parent().unwrap_or(&checkpoint.path).to_owned();
        return Err(TrainError::Changed { folder, changes: refused });
    }
    if !changed.is_empty() {
        notices.push(format!(
            "changed since {}, in effect from the next step on: {}",
            checkpoint.path.display(),
            changed.join("; ")
        ));
    }
    Ok(notices)
}

/// Files that do not hold what they held, by the key that names them.
fn changed_contents(state: &TrainState, start: &TrainState) -> Vec<String> {
    let keys = state.contents.keys().chain(start.contents.keys().filter(|key| !state.contents.contains_key(*key)));
    let short = |hash: Option<&String>| hash.map_or("none", |hash| &hash[..hash.len().min(12)]).to_owned();
    keys.filter_map(|key| {
        let (before, after) = (state.contents.get(key), start.contents.get(key));
        (before != after).then(|| {
            format!(
                "{key}: what it names holds something else (SHA-256 then {}…, now {}…)",
                short(before),
                short(after)
            )
        })
    })
    .collect()
}

fn describe(key: &str, before: &str, after: &str) -> String {
    format!("{key}: then {before}, now {after}")
}
