//! The tasks a configuration names: records of a file, or the generator's.

use nemo_env::generate::{self, GenerateError, GeneratorConfig, Split};
use nemo_env::{Dataset, DatasetError, Task};

use crate::config::{DatasetConfig, GenerateConfig, TaskSplit};
use crate::demonstrations::{DemonstrationSource, Generated, Listed};

/// Why there are no tasks.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file cannot be used.
    #[error("{key}.data_path: {source}")]
    Dataset {
        /// `data.train` or `data.validation`.
        key: &'static str,
        /// The loader's error.
        source: DatasetError,
    },
    /// The generator cannot make them.
    #[error("{key}.generate: {source}")]
    Generate {
        /// `data.train` or `data.validation`.
        key: &'static str,
        /// The generator's error.
        source: GenerateError,
    },
    /// Neither is asked for.
    #[error(
        "{key}: found neither data_path nor generate.count, expected one of them; set {key}.data_path to a JSONL file of records or {key}.generate.count to a number of tasks"
    )]
    Unspecified {
        /// `data.train` or `data.validation`.
        key: &'static str,
    },
}

/// What the generator is asked for, one entry per split.
pub fn generator_configs(generate: &GenerateConfig) -> Vec<GeneratorConfig> {
    generate
        .split
        .iter()
        .map(|split| GeneratorConfig {
            seed: generate.seed,
            count: generate.count,
            num_offices: generate.num_offices,
            suite: generate.suite,
            max_difficulty: generate.max_difficulty,
            split: match split {
                TaskSplit::WarmStart => Split::WarmStart,
                TaskSplit::Train => Split::Train,
                TaskSplit::UnseenFillings => Split::UnseenFillings,
                TaskSplit::UnseenTemplates => Split::UnseenTemplates,
            },
            ..GeneratorConfig::default()
        })
        .collect()
}

/// The tasks of a set; `key` is its place in the configuration, for messages.
///
/// # Errors
/// When the file or the generator fails, or neither is asked for.
pub fn load_tasks(set: &DatasetConfig, key: &'static str) -> Result<Vec<Task>, TaskError> {
    match &set.data_path {
        Some(path) => {
            Dataset::load(path).map(|dataset| dataset.tasks).map_err(|source| TaskError::Dataset { key, source })
        }
        None if set.generate.count == 0 => Err(TaskError::Unspecified { key }),
        None => {
            let mut tasks = Vec::new();
            for config in generator_configs(&set.generate) {
                tasks.extend(generate::tasks(&config).map_err(|source| TaskError::Generate { key, source })?);
            }
            Ok(tasks)
        }
    }
}

/// The demonstrations of a set: those of a file come again in every pass, the generator makes new ones.
///
/// # Errors
/// As [`load_tasks`].
pub fn demonstrations(set: &DatasetConfig, key: &'static str) -> Result<Box<dyn DemonstrationSource>, TaskError> {
    if set.data_path.is_none() && set.generate.count > 0 {
        return Ok(Box::new(Generated(generator_configs(&set.generate))));
    }
    Ok(Box::new(Listed(load_tasks(set, key)?)))
}
