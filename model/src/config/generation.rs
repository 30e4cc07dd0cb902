//! `generation_config.json`: sampling defaults of a checkpoint and the tokens that end a turn.
//!
//! Three files may name end tokens and they disagree in published checkpoints: `config.json` names the end of a
//! text, the tokenizer the end of a chat turn. The end tokens are therefore a set, the union of all three.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ModelConfig;
use super::error::ConfigError;
use super::fields::Fields;
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

/// Keys of transformers that would change what is generated, and the values at which they do nothing.
const WITHOUT_EFFECT: [(&str, &[f64]); 14] = [
    ("repetition_penalty", &[1.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("length_penalty", &[1.0]),
    ("typical_p", &[1.0]),
    ("num_beams", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("diversity_penalty", &[0.0]),
    ("penalty_alpha", &[0.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("min_length", &[0.0]),
    ("guidance_scale", &[0.0, 1.0]),
];
/// Keys that have an effect in transformers whatever they hold.
const WITHOUT_EFFECT_IF_SET: [&str; 9] = [
    "bad_words_ids",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_new_tokens",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "begin_suppress_tokens",
];

impl GenerationConfig {
    /// Keys of the file that ask for something that is not done here, each with its value.
    pub fn without_effect(&self) -> Vec<String> {
        let numbers = WITHOUT_EFFECT.iter().filter(|(key, neutral)| {
            let value = self.document.get(*key).and_then(json_text::as_f64);
            value.is_some_and(|value| !neutral.contains(&value))
        });
        let others = WITHOUT_EFFECT_IF_SET.iter().filter(|key| match self.document.get(**key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(value) => value.as_f64() != Some(0.0),
        });
        let keys = numbers.map(|(key, _)| key).chain(others);
        keys.filter_map(|key| Some(format!("{key} = {}", self.document.get(*key)?))).collect()
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
