//! From a downloaded file of task records to the two files that a training run reads.
//!
//! Every record is parsed and its ground truth carried out. Records that cannot be read or whose ground truth does not
//! work are left out and named; records that reward doing nothing are kept, as the reference keeps them, and named too.
//! What is kept is cut in two in file order, the first nine tenths for training, as NeMo RL does, and written with every
//! key it came with and the agent that is to handle it.

mod metrics;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use crate::environment::Offices;
use crate::error::EnvError;
use crate::input;
use crate::task::dataset::record_text;
use crate::task::split::split_point;
use metrics::Metrics;
use record::{PreparedRecord, RecordProblem};

/// The data set that the tutorial trains on.
pub const DATASET: &str = "nvidia/Nemotron-RL-agent-workplace_assistant";
/// Its file of training records.
pub const DATASET_FILE: &str = "train.jsonl";
pub const DATASET_REVISION: &str = "main";

const TRAINING_FILE: &str = "train.jsonl";
const VALIDATION_FILE: &str = "validation.jsonl";
const TRAINING_METRICS_FILE: &str = "train_metrics.json";
const VALIDATION_METRICS_FILE: &str = "validation_metrics.json";

/// A record that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenRecord {
    /// Line in the file, from 1.
    pub line: usize,
    /// The record's id, if it has one.
    pub id: Option<u64>,
    pub problem: String,
}

/// A record that rewards doing nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IdleRecord {
    pub line: usize,
    pub id: u64,
    /// Calls of the ground truth, which come to nothing.
    pub num_calls: usize,
}

/// What [`prepare`] found and wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrepareReport {
    /// Records in the file, broken ones included.
    pub num_records: usize,
    pub num_training: usize,
    pub num_validation: usize,
    pub broken: Vec<BrokenRecord>,
    pub idle: Vec<IdleRecord>,
    /// Kept records by their category.
    pub categories: BTreeMap<String, usize>,
    pub training: PathBuf,
    pub validation: PathBuf,
    /// Metrics of both files.
    pub metrics: [PathBuf; 2],
}

/// Why a data set could not be prepared.
#[derive(Debug, Error)]
pub enum PrepareError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}: found {num_records} records, none of which can be used ({first}); expected one task record per line, set \
         in the tables given with --tables"
    )]
    NothingUsable { path: PathBuf, num_records: usize, first: String },
    #[error("{path}: found no records; expected one task record per line")]
    Empty { path: PathBuf },
    #[error(transparent)]
    Environment(#[from] EnvError),
}

/// The records of a file, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedRecords {
    /// Records in the file, broken ones included.
    pub num_records: usize,
    pub broken: Vec<BrokenRecord>,
    pub idle: Vec<IdleRecord>,
    kept: Vec<PreparedRecord>,
}

impl CheckedRecords {
    /// The lines to write, one for each record that can be used.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(|record| record.text.as_str())
    }
}

/// Checks the records of a file, given its contents.
///
/// # Errors
/// The offices' tables cannot be read. What is wrong with records is in the result.
pub fn check(records: &[u8], offices: &Offices) -> Result<CheckedRecords, EnvError> {
    check_lines(input::lines(records), offices)
}

fn check_lines(
    lines: impl Iterator<Item = (usize, std::io::Result<Vec<u8>>)>,
    offices: &Offices,
) -> Result<CheckedRecords, EnvError> {
    let mut checked = CheckedRecords { num_records: 0, broken: Vec::new(), idle: Vec::new(), kept: Vec::new() };
    let mut lines_of_ids: BTreeMap<u64, usize> = BTreeMap::new();
    for (line, bytes) in lines {
        checked.num_records += 1;
        let record = match bytes.as_deref().map(record_text) {
            Ok(Ok(text)) => PreparedRecord::check(text, offices)?,
            Ok(Err(error)) => Err(RecordProblem::new(None, error.to_string())),
            Err(error) => Err(RecordProblem::new(None, error.to_string())),
        };
        let record = record.and_then(|record| match lines_of_ids.get(&record.id) {
            Some(first) => Err(RecordProblem::new(Some(record.id), format!("the id is that of line {first} too"))),
            None => Ok(record),
        });
        match record {
            Ok(record) => {
                lines_of_ids.insert(record.id, line);
                if record.is_idle {
                    checked.idle.push(IdleRecord { line, id: record.id, num_calls: record.num_calls });
                }
                checked.kept.push(record);
            }
            Err(RecordProblem { id, problem }) => checked.broken.push(BrokenRecord { line, id, problem }),
        }
    }
    Ok(checked)
}

/// Checks the records of a file and writes training and validation files with their metrics into `folder`.
///
/// # Errors
/// The file cannot be read or holds no usable record, the offices' tables cannot be read, or the folder cannot be
/// written.
pub fn prepare(records: &Path, offices: &Offices, folder: &Path) -> Result<PrepareReport, PrepareError> {
    let lines = input::open_lines(records).map_err(|source| PrepareError::Io { path: records.to_owned(), source })?;
    let CheckedRecords { num_records, broken, idle, kept } = check_lines(lines, offices)?;
    if kept.is_empty() {
        return Err(match broken.first() {
            None => PrepareError::Empty { path: records.to_owned() },
            Some(first) => PrepareError::NothingUsable {
                path: records.to_owned(),
                num_records,
                first: format!("line {}: {}", first.line, first.problem),
            },
        });
    }
    let mut categories = BTreeMap::new();
    for record in &kept {
        *categories.entry(record.category.clone()).or_default() += 1;
    }
    let (training, validation) = kept.split_at(split_point(kept.len()));
    let paths =
        [TRAINING_FILE, VALIDATION_FILE, TRAINING_METRICS_FILE, VALIDATION_METRICS_FILE].map(|name| folder.join(name));
    let [training_path, validation_path, training_metrics, validation_metrics] = paths;
    for (records, path, metrics_path) in
        [(training, &training_path, &training_metrics), (validation, &validation_path, &validation_metrics)]
    {
        let lines: String = records.iter().map(|record| format!("{}\n", record.text)).collect();
        write(path, &lines)?;
        write(metrics_path, &Metrics::of(path, records).to_json())?;
    }
    Ok(PrepareReport {
        num_records,
        num_training: training.len(),
        num_validation: validation.len(),
        broken,
        idle,
        categories,
        training: training_path,
        validation: validation_path,
        metrics: [training_metrics, validation_metrics],
    })
}

/// Writes a file aside and moves it into place.
fn write(path: &Path, text: &str) -> Result<(), PrepareError> {
    let error = |source| PrepareError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(error)?;
    }
    let aside = path.with_extension("tmp");
    std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).map_err(error)
}

#[cfg(test)]
mod tests;
