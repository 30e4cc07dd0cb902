//! What `generate` takes, and of it what other commands take too.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ComputeArguments;
use crate::values::{at_least_one, non_negative, number, probability, share};

/// How answers are chosen.
#[derive(Debug, Args)]
pub struct SamplingArguments {
    /// Always take the most probable token.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "min_p", "samples"])]
    pub greedy: bool,
    /// Divides the logits before sampling [default: the checkpoint's, else 1].
    #[arg(long, value_name = "T", value_parser = non_negative)]
    pub temperature: Option<f64>,
    /// Sample from the most probable tokens that hold this much probability [default: the checkpoint's, else 1].
    #[arg(long, value_name = "P", value_parser = probability)]
    pub top_p: Option<f64>,
    /// Sample from the K most probable tokens [default: the checkpoint's, else all].
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    pub top_k: Option<usize>,
    /// Sample from the tokens with at least this share of the largest probability [default: the checkpoint's, else 0].
    #[arg(long, value_name = "P", value_parser = share)]
    pub min_p: Option<f64>,
    /// Answers per prompt or task.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub samples: usize,
    /// Seed of the random numbers.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = number)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// Hugging Face folder of the model, or its name on the hub (ORG/NAME or ORG/NAME@REVISION), which is downloaded.
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// Folder of a LoRA adapter of the model, in PEFT's format.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub input: GenerateInput,
    /// Take the prompt as it is instead of putting it into the chat format.
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// Tokens after which an answer is cut off [default: the checkpoint's, else 256].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_new_tokens: Option<usize>,
    /// Go on after tokens that end a turn.
    #[arg(long)]
    pub ignore_eos: bool,
    /// One JSON line per answer with token ids and log-probabilities instead of text.
    #[arg(long)]
    pub json: bool,
    /// What the model's matrices are kept in; narrower ones take less memory and, with few answers at a time, less time.
    /// Sums are f32 whatever it is. Only --device cpu has others than float32.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t)]
    pub weight_dtype: WeightDtype,
    #[command(flatten)]
    pub compute: ComputeArguments,
}

/// What matrices are kept in, in PyTorch's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WeightDtype {
    /// Four bytes an element.
    #[default]
    Float32,
    /// Two bytes; exact for checkpoints in bfloat16.
    Bfloat16,
    /// One byte, with a scale per row; rounds every weight.
    Int8,
}

/// Where prompts come from; standard input if nothing is given.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub struct GenerateInput {
    /// What the user says.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// JSON file with a list of chat messages, or an object with `messages`, `tools`, `documents` and `chat_template_kwargs`.
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// Dataset of task records, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Prompts as token ids, one JSON list per line; needs no tokenizer.
    #[arg(long, value_name = "FILE")]
    pub input_ids: Option<PathBuf>,
}
