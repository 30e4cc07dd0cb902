//! The small files of a model's folder: read, and checked whether they fit each other. What cannot work is an error, what may
//! surprise a warning.

use std::collections::BTreeSet;
use std::path::Path;

use nemo_model::checkpoint::{SidecarFile, read_sidecar_files};
use nemo_model::config::{
    CONFIG_FILE, ConfigError, GENERATION_CONFIG_FILE, GenerationConfig, ModelConfig, end_token_ids,
};
use nemo_model::text::{ChatTemplate, TextError, Tokenizer};
use serde_json::{Map, Value};

use crate::assemble::AssembleError;

/// What lies beside the weights in a model's folder and its tokenizer's.
pub struct CompanionFiles {
    /// Text to ids; some folders hold weights only.
    pub tokenizer: Option<Tokenizer>,
    /// The folder's chat template, or the family's.
    pub template: ChatTemplate,
    /// Sampling defaults of the folder.
    pub generation: Option<GenerationConfig>,
    /// Tokens that end a turn.
    pub stop_tokens: BTreeSet<u32>,
    /// Files to save with the weights.
    pub sidecar_files: Vec<SidecarFile>,
    /// What a user should know, one sentence each.
    pub warnings: Vec<String>,
}

impl CompanionFiles {
    /// Reads them.
    ///
    /// # Errors
    /// When one cannot be used, or does not fit the model's configuration.
    pub fn load(model: &ModelConfig, folder: &Path, tokenizer_folder: &Path) -> Result<Self, AssembleError> {
        let tokenizer = match Tokenizer::load(tokenizer_folder) {
            Ok(tokenizer) => Some(tokenizer),
            Err(TextError::NoTokenizer { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let generation = GenerationConfig::load(folder)?;
        let mut warnings = Vec::new();
        if let Some(tokenizer) = &tokenizer {
            warnings.extend(check_tokenizer(model, tokenizer, tokenizer_folder)?);
        }
        if let Some(generation) = &generation {
            warnings.extend(check_generation(model, generation, folder)?);
        }
        let eos = tokenizer.as_ref().and_then(Tokenizer::eos_id);
        let stop_tokens = end_token_ids(model, generation.as_ref(), eos);
        let template = ChatTemplate::load(tokenizer_folder)?;
        if tokenizer.is_some() && template.is_built_in() {
            warnings.push(no_template(tokenizer_folder));
        }
        let sidecar_files = read_sidecar_files(tokenizer_folder)?;
        Ok(Self { tokenizer, template, generation, stop_tokens, sidecar_files, warnings })
    }
}

/// A folder's `config.json` with keys replaced.
///
/// # Errors
/// When it cannot be read, or describes no model with these keys.
pub fn overridden_config(folder: &Path, overrides: &Map<String, Value>) -> Result<ModelConfig, AssembleError> {
    if overrides.is_empty() {
        return Ok(ModelConfig::load(folder)?);
    }
    let path = folder.join(CONFIG_FILE);
    let text =
        std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
    let mut document = nemo_model::config::parse_lenient_json(&text)
        .map_err(|source| ConfigError::NotJson { path: path.clone(), source })?;
    let Value::Object(keys) = &mut document else { return Err(AssembleError::Overrides { path }) };
    keys.extend(overrides.clone());
    Ok(ModelConfig::from_json_text(&document.to_string(), &path)?)
}

/// Names the replaced keys in an error, if there are any: what does not fit may be one of them.
pub fn name_overrides(overrides: &Map<String, Value>, source: AssembleError) -> AssembleError {
    match overrides.is_empty() {
        true => source,
        false => AssembleError::Overridden { keys: listed(overrides), source: Box::new(source) },
    }
}

/// Replaced keys with their values, for messages.
fn listed(overrides: &Map<String, Value>) -> String {
    let settings: Vec<String> = overrides.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    settings.join(", ")
}

/// What is said of replaced keys that no model is computed from.
pub fn unknown_overrides(overrides: &Map<String, Value>) -> Option<String> {
    let mut unknown = overrides.clone();
    unknown.retain(|key, _| !ModelConfig::is_known_key(key));
    (!unknown.is_empty()).then(|| {
        format!(
            "policy.hf_config_overrides: nothing is computed from {}; it is only written into the config.json of \
             checkpoints",
            listed(&unknown)
        )
    })
}

/// What is said of replaced keys where the model is made from a configuration of its own.
pub fn unused_overrides(overrides: &Map<String, Value>) -> Option<String> {
    (!overrides.is_empty()).then(|| {
        format!(
            "policy.hf_config_overrides ({}) is ignored: the model is made as policy.init.model_config says",
            listed(overrides)
        )
    })
}

/// The tokenizer's ids need embeddings, and its special tokens should be those of `config.json`.
///
/// # Errors
/// When the tokenizer has ids at or beyond the model's vocabulary.
pub fn check_tokenizer(
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    folder: &Path,
) -> Result<Vec<String>, AssembleError> {
    let (size, vocabulary) = (tokenizer.vocab_size(), config.vocab_size);
    if size > vocabulary {
        return Err(AssembleError::ForeignTokenizer { folder: folder.to_owned(), largest: size - 1, vocabulary });
    }
    let mut warnings = Vec::new();
    let special = [
        ("bos_token", config.bos_token_id.as_slice(), tokenizer.bos_id()),
        ("eos_token", &config.eos_token_ids, tokenizer.eos_id()),
        ("pad_token", config.pad_token_id.as_slice(), tokenizer.pad_id()),
    ];
    for (name, ids, own) in special {
        if let Some(own) = own
            && !ids.is_empty()
            && !ids.contains(&own)
        {
            let both = if name == "eos_token" { "; either ends a turn" } else { "; the tokenizer's is used" };
            warnings.push(format!(
                "{}: the tokenizer's {name} is {own}, config.json says \"{name}_id\" {}{both}",
                folder.display(),
                ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    Ok(warnings)
}

/// Settings of `generation_config.json` that are not followed, and end tokens that cannot be.
///
/// # Errors
/// When an end token is at or beyond the model's vocabulary.
pub fn check_generation(
    config: &ModelConfig,
    generation: &GenerationConfig,
    folder: &Path,
) -> Result<Option<String>, AssembleError> {
    let path = folder.join(GENERATION_CONFIG_FILE);
    let vocabulary = config.vocab_size;
    if let Some(&id) = generation.eos_token_ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(AssembleError::EndToken { path, id, vocabulary });
    }
    let ignored = generation.without_effect();
    Ok((!ignored.is_empty()).then(|| format!("{}: without effect here: {}", path.display(), ignored.join(", "))))
}

/// What is said of a folder that holds no chat template.
pub fn no_template(folder: &Path) -> String {
    format!(
        "{} holds no chat template (chat_template.jinja, or \"chat_template\" in tokenizer_config.json); the format of \
         Nemotron Nano v2, which is built in, is used",
        folder.display()
    )
}

/// The family has no position embeddings, so a longer sequence can be computed; how well is another question.
pub fn check_length(config: &ModelConfig, max_length: usize, folder: &Path) -> Option<String> {
    let made_for = config.max_position_embeddings;
    (max_length > made_for).then(|| {
        format!(
            "{}: sequences of up to {max_length} tokens are asked for, the model was made for {made_for} \
             (\"max_position_embeddings\"); longer ones are computed, but the model has not learned from any",
            folder.display()
        )
    })
}
