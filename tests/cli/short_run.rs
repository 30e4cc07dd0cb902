//! A few steps of the shipped job, with a model that really learns: weights move in every step.

use std::fs;

use tempfile::TempDir;

use super::program::{copy_folder, repository};

/// Few rollouts of the shipped job, enough for groups of which some succeed and some do not.
pub const TRAIN: [&str; 15] = [
    "train",
    "policy.model_name=model",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=8",
    "grpo.val_at_start=false",
    "grpo.val_at_end=false",
    "grpo.val_period=0",
    "data.train.generate.count=32",
    "data.validation.generate.count=0",
    "policy.generation.max_new_tokens=48",
    "policy.megatron_cfg.scheduler.lr_warmup_iters=0",
    "policy.megatron_cfg.scheduler.lr_decay_style=constant",
    "checkpointing.checkpoint_dir=results",
    "checkpointing.save_period=1",
    "checkpointing.keep_top_k=null",
];

/// A folder with a copy of the repository's tiny model that says it is stored in `dtype`.
pub fn workspace(dtype: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&repository().join("configs/models/tiny"), &folder.path().join("model"));
    let config = folder.path().join("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let named = text.replace("\"torch_dtype\": \"float32\"", &format!("\"torch_dtype\": \"{dtype}\""));
    assert!(dtype == "float32" || named != text);
    fs::write(&config, named).unwrap();
    folder
}
