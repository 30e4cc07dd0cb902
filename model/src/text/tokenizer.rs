//! A checkpoint's tokenizer: text to ids, ids to text (also piece by piece), and the special tokens.
//!
//! Nothing is ever added to a text: prompts come rendered from a chat template, which writes special tokens itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::TextError;
use crate::git_lfs;

/// File name of the tokenizer in a Hugging Face folder.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// File name of its settings.
pub(super) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// File name of the special tokens, where they are not in the settings.
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
/// Special tokens that templates may know beside those with a field of their own.
const FURTHER_TOKENS: [&str; 4] = ["sep_token", "cls_token", "mask_token", "additional_special_tokens"];
/// Name of the chat template that serves all conversations there is no other one for.
pub(super) const DEFAULT_TEMPLATE: &str = "default";
/// Name of the chat template for conversations with tools.
pub(super) const TOOL_TEMPLATE: &str = "tool_use";

/// What a model folder says of its tokenizer beside the vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// Text of the begin-of-text token.
    pub bos_token: Option<String>,
    /// Text of the token that ends a turn.
    pub eos_token: Option<String>,
    /// Text of the padding token.
    pub pad_token: Option<String>,
    /// Text of the unknown token.
    pub unk_token: Option<String>,
    /// Special tokens beside those four, by the names that templates know them by: `sep_token`, `cls_token`, `mask_token`
    /// and a model's own, each a text, and `additional_special_tokens`, a list of texts.
    pub further_tokens: Map<String, Value>,
    /// Jinja chat templates by their names: `default`, and what else there is.
    pub chat_templates: BTreeMap<String, String>,
}

impl TokenizerSettings {
    /// Reads `tokenizer_config.json` of a model folder, and the tokens it does not name from `special_tokens_map.json`; all
    /// empty if there is neither.
    ///
    /// # Errors
    /// [`TextError`] if a file exists but cannot be read or is no JSON.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let (config, tokens) =
            (read_json(&folder.join(TOKENIZER_CONFIG_FILE))?, read_json(&folder.join(SPECIAL_TOKENS_FILE))?);
        let found = |key: &str| [&config, &tokens].into_iter().find_map(|file| tokens_of(file.get(key)?));
        let token = |key: &str| found(key)?.as_str().map(str::to_owned);
        let mut further_tokens: Map<String, Value> =
            FURTHER_TOKENS.iter().filter_map(|key| Some(((*key).to_owned(), found(key)?))).collect();
        // A model's own tokens, such as those of images.
        for file in [&tokens, &config] {
            let own = file.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
            further_tokens.extend(own.filter_map(|(name, token)| Some((name.clone(), tokens_of(token)?))));
        }
        Ok(Self {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            pad_token: token("pad_token"),
            unk_token: token("unk_token"),
            further_tokens,
            chat_templates: config.get("chat_template").map(templates_of).unwrap_or_default(),
        })
    }

    /// The texts of all special tokens, by the names of transformers.
    pub(super) fn special_tokens(&self) -> Map<String, Value> {
        let tokens = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ];
        let named = tokens.into_iter().filter_map(|(key, token)| Some((key.to_owned(), token.clone()?.into())));
        named.chain(self.further_tokens.clone()).collect()
    }
}

/// A file's JSON; null if there is no file.
fn read_json(path: &Path) -> Result<Value, TextError> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text =
        std::fs::read_to_string(path).map_err(|source| TextError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| TextError::BadFile { path: path.to_owned(), problem: error.to_string() })
}

/// A token is written as its text or as an object with its text under `content`; several are a list of those.
fn tokens_of(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Object(token) => token.get("content").filter(|text| text.is_string()).cloned(),
        Value::Array(tokens) if !tokens.is_empty() => tokens.iter().map(tokens_of).collect(),
        _ => None,
    }
}

/// Templates are one string, or a list of named ones.
fn templates_of(value: &Value) -> BTreeMap<String, String> {
    let named =
        |entry: &Value| Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()));
    match value {
        Value::String(text) => BTreeMap::from([(DEFAULT_TEMPLATE.to_owned(), text.clone())]),
        Value::Array(entries) => entries.iter().filter_map(named).collect(),
        _ => BTreeMap::new(),
    }
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    settings: TokenizerSettings,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and `tokenizer_config.json` of a model folder.
    ///
    /// # Errors
    /// [`TextError`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join(TOKENIZER_FILE);
        if !path.exists() {
            return Err(TextError::NoTokenizer { folder: folder.to_owned() });
        }
        let unreadable = |source| TextError::Unreadable { path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        git_lfs::refuse(&bytes).map_err(unreadable)?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TextError::BadFile { path, problem: error.to_string() })?;
        Ok(Self::new(inner, TokenizerSettings::load(folder)?))
    }

    /// A tokenizer from the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`].
    pub fn from_json_text(text: &str, settings: TokenizerSettings) -> Result<Self, TextError> {
        let inner = tokenizers::Tokenizer::from_bytes(text).map_err(|error| failed(&*error))?;
        Ok(Self::new(inner, settings))
    }

    fn new(mut inner: tokenizers::Tokenizer, settings: TokenizerSettings) -> Self {
        // Files may carry the cutting and padding of somebody's training run.
        inner.with_padding(None);
        // Removing truncation cannot fail: only setting a stride can.
        let removed = inner.with_truncation(None);
        debug_assert!(removed.is_ok());
        Self { inner, settings }
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Special tokens and chat templates.
    pub fn settings(&self) -> &TokenizerSettings {
        &self.settings
    }

    /// Ids of a text; special tokens written in it are recognised, none is added.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the text holds something the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| failed(&*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids. Invalid UTF-8 becomes U+FFFD; special tokens are left out if `skip_special`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        self.inner.decode(ids, skip_special).map_err(|error| failed(&*error))
    }

    /// Id of a token given by its text, special or not.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text of a single token as the vocabulary spells it.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |largest| *largest as usize + 1)
    }

    /// Id of the begin-of-text token.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_id(self.settings.bos_token.as_deref()?)
    }

    /// Id of the token that ends a turn.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_id(self.settings.eos_token.as_deref()?)
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.token_id(self.settings.pad_token.as_deref()?)
    }
}

fn failed(error: &(dyn std::error::Error + Send + Sync)) -> TextError {
    TextError::Tokenizer { problem: error.to_string() }
}
