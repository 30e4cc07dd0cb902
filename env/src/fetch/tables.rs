//! The tables of the real office: which files, from where, and that they are the right ones.

use std::path::{Path, PathBuf};

use super::sources::{Source, read};
use super::{Backoff, FetchError, Pause, sha256};
use crate::workplace::tables::Tables;

/// Where the files lie in the public repository of NeMo Gym.
pub const REPOSITORY: &str = "https://raw.githubusercontent.com/NVIDIA-NeMo/Gym";
/// The revision of the repository that is asked.
pub const COMMIT: &str = "5080b8979e22ab4f8c09dc9e0a70c9f9049be9f1";
/// Folder of the tables in the repository and, after the package's name, in the wheel.
pub(super) const FOLDER: &str = "resources_servers/workplace_assistant/csv_data";

/// What must be known to whoever uses the files.
pub const LICENSE: &str = "The tables are part of NVIDIA NeMo Gym (resources server workplace_assistant), \
    Copyright (c) NVIDIA CORPORATION & AFFILIATES, licensed under the Apache License, Version 2.0 \
    (http://www.apache.org/licenses/LICENSE-2.0). They derive from WorkBench, Copyright (c) 2024 Mindsdb, MIT License.";

/// File with [`LICENSE`] beside the tables.
const LICENSE_FILE: &str = "LICENSE.txt";

/// A file and the SHA-256 of its contents.
pub(super) struct TableFile {
    pub(super) path: &'static str,
    pub(super) sha256: &'static str,
}

/// The files with which the recorded answers of the reference were made.
pub(super) const FILES: [TableFile; 6] = [
    TableFile {
        path: "processed/analytics_data.csv",
        sha256: "4a0df10aabc07980f1cc074dc9ab36406ce98dead7e14fe11f72a9f1ba788688",
    },
    TableFile {
        path: "processed/calendar_events.csv",
        sha256: "6c9df1872d54d0b0d068d1b066766a8ddbc29c3933f1d56c9efd554926312295",
    },
    TableFile {
        path: "processed/customer_relationship_manager_data.csv",
        sha256: "599057e4eec3a7c25ac04b4d655ea2c034b7b7782205dc367a28122756e04c41",
    },
    TableFile {
        path: "processed/emails.csv",
        sha256: "1809e341a0e4f1fd78cf1b759964a42abd28db8c9b9dca364456efc31f82bb31",
    },
    TableFile {
        path: "processed/project_tasks.csv",
        sha256: "fa0c05d5609f49e905342bd12592b09f23eff6147dcf607b808703f45ddbeaeb",
    },
    TableFile {
        path: "raw/email_addresses.csv",
        sha256: "1f3465b92eb41b90a973a9b00f35757a23d16839652b5e352e9d217d8e404b0b",
    },
];

/// Where tables are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// A server that has `/COMMIT/resources_servers/…`, [`REPOSITORY`] by default.
    Repository { url: String, commit: String },
    /// A wheel of the Python package `nemo-gym`, which contains the tables.
    Wheel(PathBuf),
    /// A folder with the tables, or a checkout of NeMo Gym.
    Folder(PathBuf),
}

impl Default for TableSource {
    fn default() -> Self {
        Self::Repository { url: REPOSITORY.to_owned(), commit: COMMIT.to_owned() }
    }
}

/// What [`fetch_tables`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedTables {
    pub folder: PathBuf,
    /// Files that were written.
    pub written: Vec<PathBuf>,
    /// Files that were there already, whole and right.
    pub kept: Vec<PathBuf>,
}

/// Puts the tables of the real office into `folder`, from where `--tables` reads them. Every file is checked before
/// anything of it is written; files that are there and right are not asked for again.
///
/// # Errors
/// A file cannot be had or is not the right one, or the folder cannot be written.
pub fn fetch_tables(
    source: &TableSource,
    folder: &Path,
    backoff: &Backoff,
    pause: Pause<'_>,
) -> Result<FetchedTables, FetchError> {
    let mut fetched = FetchedTables { folder: folder.to_owned(), written: Vec::new(), kept: Vec::new() };
    let mut opened: Option<Source> = None;
    for file in &FILES {
        let path = folder.join(file.path);
        if std::fs::read(&path).is_ok_and(|bytes| sha256(&bytes) == file.sha256) {
            fetched.kept.push(path);
            continue;
        }
        // Opened late: a folder that is complete needs no connection.
        let open = match &mut opened {
            Some(open) => open,
            closed => closed.insert(Source::open(source)?),
        };
        let (place, bytes) = read(open, file.path, backoff, pause)?;
        let found = sha256(&bytes);
        if found != file.sha256 {
            return Err(FetchError::Checksum { place, found, expected: file.sha256.to_owned() });
        }
        write(&path, &bytes)?;
        fetched.written.push(path);
    }
    write(&folder.join(LICENSE_FILE), format!("{LICENSE}\n").as_bytes())?;
    // What the checksums promise is tried once.
    Tables::load_dir(folder)?;
    Ok(fetched)
}

/// Writes a file aside and moves it into place, so that a torn file is never taken for a whole one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    let error = |source| FetchError::Io { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    std::fs::write(&aside, bytes).and_then(|()| std::fs::rename(&aside, path)).map_err(error)
}
