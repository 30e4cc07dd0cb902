//! Writes generated tasks and their offices in the formats of the real data: JSON Lines records and
//! folders of CSV files.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::task::record::Task;

use super::{GenerateError, GeneratorConfig, Suite, office, office_seed, tasks};

/// What [`write_dataset`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenDataset {
    /// `DIR/<split>.jsonl`, or `DIR/full_<split>.jsonl` of the full suite.
    pub records: PathBuf,
    pub num_tasks: usize,
    /// `DIR/offices`, with one folder (`office-0007/{processed,raw}`) per office that a task is set in.
    pub offices: PathBuf,
    pub num_offices: usize,
}

/// Generates the tasks of `config` and writes `dir/<split>.jsonl` (`dir/full_<split>.jsonl`) and `dir/offices/office-*/`.
/// Writing other splits into the same folder later leaves this one as it is.
///
/// # Errors
/// Those of [`tasks`], and files that cannot be written.
pub fn write_dataset(dir: impl AsRef<Path>, config: &GeneratorConfig) -> Result<WrittenDataset, GenerateError> {
    let dir = dir.as_ref();
    let tasks = tasks(config)?;
    let offices = dir.join("offices");
    let names: BTreeSet<&str> = tasks.iter().filter_map(|task| task.office.as_deref()).collect();
    for name in &names {
        if let Some(seed) = office_seed(name) {
            office(seed).write_dir(offices.join(name))?;
        }
    }
    let name = match config.suite {
        Suite::Core => format!("{}.jsonl", config.split),
        Suite::Full => format!("full_{}.jsonl", config.split),
    };
    let records = dir.join(name);
    write_records(&records, &tasks).map_err(|source| GenerateError::Io { path: records.clone(), source })?;
    Ok(WrittenDataset { num_tasks: tasks.len(), num_offices: names.len(), records, offices })
}

fn write_records(path: &Path, tasks: &[Task]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for task in tasks {
        writeln!(file, "{}", task.to_json_line())?;
    }
    file.into_inner()?.sync_all()
}
