//! `generation_config.json`: sampling defaults of a checkpoint and the tokens that end a turn.
//!
//! Three files may name end tokens and they disagree in published checkpoints: `config.json` names the end of a
//! text, the tokenizer the end of a chat turn. The end tokens are therefore a set, the union of all three.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ModelConfig;
use super::error::ConfigError;
use super::fields::{Fields, shorten};
use super::{json_text, read_text};

/// File name of the generation defaults in a Hugging Face folder.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// Contents of `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens after which generation stops.
    pub eos_token_ids: Vec<u32>,
    /// Whether the checkpoint's authors recommend sampling (else greedy).
    pub do_sample: Option<bool>,
    /// Recommended sampling temperature, 0 or more.
    pub temperature: Option<f64>,
    /// Recommended nucleus mass, above 0 and at most 1.
    pub top_p: Option<f64>,
    /// Recommended smallest share of the largest probability, from 0 to 1.
    pub min_p: Option<f64>,
    /// Recommended number of candidates; in the file, 0 and -1 stand for all of them.
    pub top_k: Option<usize>,
    /// Recommended limit of generated tokens.
    pub max_new_tokens: Option<usize>,
    /// Recommended limit of prompt and generated tokens together; `max_new_tokens` goes before it.
    pub max_length: Option<usize>,
    /// The file as it was read, so that keys not used here survive saving.
    pub document: Map<String, Value>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a model folder; `None` if there is none.
    ///
    /// # Errors
    /// [`ConfigError`] if the file exists but cannot be read or understood.
    pub fn load(folder: &Path) -> Result<Option<Self>, ConfigError> {
        let path = folder.join(GENERATION_CONFIG_FILE);
        if !path.exists() {
            return Ok(None);
        }
        Self::from_json_text(&read_text(&path)?, &path).map(Some)
    }

    /// Parses the file's text; `path` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key at fault.
    pub fn from_json_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let document =
            json_text::parse(text).map_err(|source| ConfigError::NotJson { path: PathBuf::from(path), source })?;
        let fields = Fields::new(path, &document)?;
        let number = |key, expected, fits: fn(f64) -> bool| {
            fields.typed(key, expected, |value| {
                json_text::as_f64(value).filter(|number| number.is_finite() && fits(*number))
            })
        };
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            do_sample: fields.typed("do_sample", "true or false", Value::as_bool)?,
            temperature: number("temperature", "a number of 0 or more", |value| value >= 0.0)?,
            top_p: number("top_p", "a number above 0 and at most 1", |value| value > 0.0 && value <= 1.0)?,
            min_p: number("min_p", "a number from 0 to 1", |value| (0.0..=1.0).contains(&value))?,
            top_k: fields.typed("top_k", "a whole number, of which 0 and -1 keep all tokens", top_k)?.flatten(),
            max_new_tokens: fields.size("max_new_tokens")?,
            max_length: fields.size("max_length")?,
            document: fields.map.clone(),
        })
    }
}

/// Keys that are followed, or that could not change what is generated: names of special tokens, versions, and how the
/// computation is done, sped up or reported.
const HARMLESS: [&str; 36] = [
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "do_sample",
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "max_new_tokens",
    "max_length",
    "transformers_version",
    "_from_model_config",
    "_name_or_path",
    "chat_format",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "return_legacy_cache",
    "low_memory",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "prompt_lookup_num_tokens",
    "target_lookbehind",
];
/// Keys with values other than null, false and empty ones at which they do nothing.
const NEUTRAL: [(&str, &[f64]); 20] = [
    ("repetition_penalty", &[1.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("length_penalty", &[1.0]),
    ("typical_p", &[1.0]),
    ("top_h", &[1.0]),
    ("num_beams", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("num_return_sequences", &[1.0]),
    ("diversity_penalty", &[0.0]),
    ("penalty_alpha", &[0.0]),
    ("presence_penalty", &[0.0]),
    ("frequency_penalty", &[0.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("min_tokens", &[0.0]),
    ("guidance_scale", &[0.0, 1.0]),
];

impl GenerationConfig {
    /// Keys of the file that ask for something that is not done here, each with its value: all that are not known to be
    /// harmless and hold more than nothing.
    pub fn without_effect(&self) -> Vec<String> {
        let acts = |key: &str, value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(entries) if entries.is_empty() => false,
            value => {
                let neutral = NEUTRAL.iter().find(|(known, _)| *known == key);
                let number = neutral.and_then(|(_, values)| Some((values, json_text::as_f64(value)?)));
                number.is_none_or(|(values, number)| !values.contains(&number))
            }
        };
        let others = self.document.iter().filter(|(key, value)| !HARMLESS.contains(&key.as_str()) && acts(key, value));
        others.map(|(key, value)| format!("{key} = {}", shorten(&json_text::to_text(value)))).collect()
    }
}

/// `None` inside stands for all tokens.
fn top_k(value: &Value) -> Option<Option<usize>> {
    match value.as_i64()? {
        0 | -1 => Some(None),
        kept => Some(Some(usize::try_from(kept).ok()?)),
    }
}

/// All tokens that end a turn: those of `config.json`, of `generation_config.json` and of the tokenizer.
pub fn end_token_ids(
    config: &ModelConfig,
    generation: Option<&GenerationConfig>,
    tokenizer_eos: impl IntoIterator<Item = u32>,
) -> BTreeSet<u32> {
    let mut ids: BTreeSet<u32> = config.eos_token_ids.iter().copied().collect();
    ids.extend(generation.iter().flat_map(|generation| &generation.eos_token_ids));
    ids.extend(tokenizer_eos);
    ids
}
