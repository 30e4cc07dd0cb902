//! Getting what cannot be part of this project: the tables of the real office and the tasks that are set in it.
//!
//! Nothing here reads environment variables, sleeps unasked or prints: the caller says where to look, hands over a
//! [`Pause`] and gets reports back.

mod sources;
pub mod tables;

use std::path::PathBuf;

use nemo_hub::Reason;
use thiserror::Error;

pub use nemo_hub::{Backoff, Pause, Retry};

use crate::workplace::tables::TablesError;

/// Why something could not be had.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("{url}: {problem}; check the connection, or give the files with --folder or --wheel")]
    Request { url: String, problem: String },
    #[error("{url}: the server answers with status {status} after {attempts} attempt(s); {advice}")]
    Status { url: String, status: u16, attempts: u32, advice: &'static str },
    #[error("{place}: found no {file}; expected the tables of the Workplace Assistant (csv_data/{file})")]
    NotThere { place: String, file: &'static str },
    #[error("{place}: its SHA-256 is {found}, expected {expected}; the file is damaged or not the one that is pinned")]
    Checksum { place: String, found: String, expected: String },
    #[error("{path}: {problem}; expected a wheel of nemo-gym, which is a zip file")]
    Wheel { path: PathBuf, problem: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tables(#[from] TablesError),
}

impl Reason for FetchError {
    fn reason(&self) -> String {
        match self {
            Self::Request { url, problem } => format!("{url}: {problem}"),
            Self::Status { url, status, .. } => format!("{url}: the server answers with status {status}"),
            other => other.to_string(),
        }
    }
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What to do about a status, in words.
fn advice(status: u16) -> &'static str {
    match status {
        404 => "check the name, the revision and the file",
        429 => "wait some minutes and repeat the command: what is complete is kept",
        _ => "repeat the command later: what is complete is kept",
    }
}
