//! Typed access to the keys of one JSON configuration file, so that every error names file, key and value.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::ConfigError;
use super::json_text;

/// The keys of one file.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The keys of `document`, read from `path`.
    pub fn new(path: &'a Path, document: &'a Value) -> Result<Self, ConfigError> {
        match document {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(ConfigError::NotAnObject { path: path.to_owned(), found: kind_name(other) }),
        }
    }

    /// The value of `key`; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn required_size(&self, key: &'static str, expected: &'static str) -> Result<usize, ConfigError> {
        self.size(key)?.ok_or_else(|| ConfigError::MissingKey { path: self.path.to_owned(), key, expected })
    }

    /// A positive whole number.
    pub fn size(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let to_size = |value: &Value| value.as_u64().filter(|size| *size > 0).and_then(|size| size.try_into().ok());
        self.typed(key, "a positive whole number", to_size)
    }

    /// A whole number, zero included.
    pub fn count(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|count| count.try_into().ok()))
    }

    pub fn flag(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn number(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a number", json_text::as_f64)
    }

    pub fn text(&self, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn token_id(&self, key: &'static str) -> Result<Option<u32>, ConfigError> {
        self.typed(key, "a token id", token_id)
    }

    /// One token id or a list of them; absent is the empty list.
    pub fn token_ids(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        let to_ids = |value: &Value| match value {
            Value::Array(ids) => ids.iter().map(token_id).collect(),
            single => token_id(single).map(|id| vec![id]),
        };
        Ok(self.typed(key, "a token id or a list of token ids", to_ids)?.unwrap_or_default())
    }

    /// Applies `convert` to the value of `key`; a value it refuses is an error.
    pub fn typed<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| ConfigError::WrongType {
            path: self.path.to_owned(),
            key,
            found: shorten(&json_text::to_text(value)),
            expected,
        })
    }

    pub fn inconsistent<T>(&self, problem: String) -> Result<T, ConfigError> {
        Err(ConfigError::Inconsistent { path: self.path.to_owned(), problem })
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| id.try_into().ok())
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value's text, cut where it would fill the screen.
pub(super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
