//! The part of the configuration that has to do with texts and generation.

#[path = "../src/config/error.rs"]
mod error;
#[path = "../src/config/fields.rs"]
mod fields;
#[path = "../src/config/generation.rs"]
mod generation;
#[path = "../src/config/json_text.rs"]
mod json_text;

pub use error::ConfigError;
pub use generation::{GENERATION_CONFIG_FILE, GenerationConfig, end_token_ids};
pub use json_text::parse as parse_lenient_json;

/// What generation wants to know of a model.
pub struct ModelConfig {
    pub eos_token_ids: Vec<u32>,
}

fn read_text(path: &std::path::Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}
