//! Errors of the environment as a whole.

use thiserror::Error;

use crate::workplace::tables::TablesError;

/// Why an environment could not start a session or score calls. Nothing a model does ends here:
/// a model's mistakes come back to it as tool results.
#[derive(Debug, Error)]
pub enum EnvError {
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(
        "task {task} names no office and no tables folder was given; expected a folder with \
         `processed/` and `raw/` (--tables DIR), which `nemo-burn env fetch` makes"
    )]
    NoTables { task: u64 },
    #[error(
        "task {task}: unknown office {office:?}; expected `office-` and a number (such as \
         `office-0007`), or the name of a folder below `offices/` in the tables folder"
    )]
    UnknownOffice { task: u64, office: String },
}
