//! Errors of the generator.

use std::path::PathBuf;

use thiserror::Error;

use crate::workplace::tables::TablesError;

use super::{MAX_DIFFICULTY, MAX_DRAWS, MAX_OFFICES, MAX_TASKS, Split};

/// Why tasks could not be generated or written.
#[derive(Debug, Error)]
pub enum GenerateError {
    #[error("unknown template {name:?} for the split {split}; expected one of {}", known.join(", "))]
    UnknownTemplate { name: String, split: Split, known: Vec<&'static str> },
    #[error("no template of the split {split} is left with max_difficulty {max_difficulty:?}; expected a larger one")]
    NoTemplates { split: Split, max_difficulty: Option<u8> },
    #[error("max_difficulty is {found}; expected 1 to {MAX_DIFFICULTY}")]
    MaxDifficulty { found: u8 },
    #[error("num_offices is {found}; expected 1 to {MAX_OFFICES}")]
    NumOffices { found: usize },
    #[error("count is {found}; expected at most {MAX_TASKS}")]
    Count { found: usize },
    #[error("template {template} found no filling in {office} in {MAX_DRAWS} draws")]
    NoFilling { template: &'static str, office: String },
    #[error("template {template}, task {task} in {office}: {problem}")]
    Unsound { template: &'static str, task: u64, office: String, problem: String },
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}
