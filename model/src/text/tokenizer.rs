//! A checkpoint's tokenizer: text to ids, ids to text (also piece by piece), and the special tokens.
//!
//! Nothing is ever added to a text: prompts come rendered from a chat template, which writes special tokens itself.

use std::path::Path;

use serde_json::Value;

use super::error::TextError;
use crate::git_lfs;

/// File name of the tokenizer in a Hugging Face folder.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// File name of its settings.
pub(super) const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// What `tokenizer_config.json` says beside the vocabulary.
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
    /// Jinja chat template.
    pub chat_template: Option<String>,
    /// Jinja chat template for conversations with tools, if it is another one.
    pub tool_chat_template: Option<String>,
}

impl TokenizerSettings {
    /// Reads `tokenizer_config.json` of a model folder; all empty if there is none.
    ///
    /// # Errors
    /// [`TextError`] if the file exists but cannot be read or is no JSON.
    pub fn load(folder: &Path) -> Result<Self, TextError> {
        let path = folder.join(TOKENIZER_CONFIG_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            std::fs::read_to_string(&path).map_err(|source| TextError::Unreadable { path: path.clone(), source })?;
        let document: Value = serde_json::from_str(&text)
            .map_err(|error| TextError::BadFile { path: path.clone(), problem: error.to_string() })?;
        let token = |key: &str| token_text(document.get(key)?);
        let template = |name: &str| template_text(document.get("chat_template")?, name);
        Ok(Self {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            pad_token: token("pad_token"),
            unk_token: token("unk_token"),
            chat_template: template("default"),
            tool_chat_template: document.get("chat_template").filter(|all| all.is_array()).and(template("tool_use")),
        })
    }
}

/// A token is written as its text or as an object with its text under `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Templates are one string, or a list of named ones.
fn template_text(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let found = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))?;
            found.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
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

    /// Settings of `tokenizer_config.json`.
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
