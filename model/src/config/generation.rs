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
    /// Recommended sampling temperature.
    pub temperature: Option<f64>,
    /// Recommended nucleus mass.
    pub top_p: Option<f64>,
    /// Recommended smallest share of the largest probability.
    pub min_p: Option<f64>,
    /// Recommended number of candidates.
    pub top_k: Option<usize>,
    /// Recommended limit of generated tokens.
    pub max_new_tokens: Option<usize>,
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
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            do_sample: fields.typed("do_sample", "true or false", Value::as_bool)?,
            temperature: fields.number("temperature")?,
            top_p: fields.number("top_p")?,
            min_p: fields.number("min_p")?,
            top_k: fields.count("top_k")?,
            max_new_tokens: fields.size("max_new_tokens")?,
            document: fields.map.clone(),
        })
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
