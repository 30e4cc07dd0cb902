//! A model so small that whole runs take seconds: made once per test process by the program's own `sft`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::program::{copy_folder, run_in};

/// Settings that every run of the small model shares.
pub const CONFIG: &str = "
policy:
  model_name: model
  max_total_sequence_length: 8192
  init:
    model_config: null
    seed: 3
    tokenizer:
      vocab_size: 512
      corpus_count: 24
  generation:
    max_new_tokens: 6
grpo:
  seed: 5
  max_num_steps: 1
  max_num_epochs: 10
  num_prompts_per_step: 2
  num_generations_per_prompt: 2
  val_at_start: false
  val_period: 0
sft:
  max_num_steps: 1
  batch_size: 2
  lr_warmup_iters: 0
  val_period: 0
  output_dir: null
data:
  train:
    generate: {seed: 1, count: 4, split: train, num_offices: 1}
  validation:
    generate: {seed: 1, count: 1, split: [unseen_fillings, unseen_templates], num_offices: 1}
checkpointing:
  checkpoint_dir: results
  save_period: 1
";

const SHAPE: &str = r#"{
  "model_type": "nemotron_h", "hybrid_override_pattern": "M*-", "vocab_size": 512, "hidden_size": 16,
  "mamba_num_heads": 2, "mamba_head_dim": 8, "ssm_state_size": 4, "n_groups": 1, "conv_kernel": 4, "chunk_size": 16,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 32,
  "tie_word_embeddings": true, "torch_dtype": "float32"
}
"#;

fn made_once() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::write(folder.path().join("shape.json"), SHAPE).expect("a file");
            fs::write(folder.path().join("config.yaml"), CONFIG).expect("a file");
            run_in(
                folder.path(),
                &[
                    "sft",
                    "--config=config.yaml",
                    "--output=model",
                    "policy.init.model_config=shape.json",
                    "checkpointing.checkpoint_dir=sft",
                    "data.validation.generate.count=0",
                ],
            )
            .succeeded();
            folder
        })
        .path()
}

/// A folder of its own with `model/` and `config.yaml`.
pub fn workspace() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&made_once().join("model"), &folder.path().join("model"));
    fs::write(folder.path().join("config.yaml"), CONFIG).expect("a file");
    folder
}

/// The safetensors file of a workspace's model.
pub fn weights(workspace: &Path) -> PathBuf {
    workspace.join("model/model.safetensors")
}
