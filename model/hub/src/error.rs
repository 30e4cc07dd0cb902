//! Why something of the hub could not be had, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::Reason;

#[derive(Debug, Error)]
pub enum HubError {
    /// The hub, or where it sends us, cannot be reached, or stays busy, or breaks off.
    #[error(
        "{place}: {problem} (attempt {attempts}); check the connection and HF_ENDPOINT, or repeat the command later: what is complete is kept"
    )]
    Connection { place: String, problem: String, attempts: u32 },
    /// The hub answers, but not as the hub does.
    #[error("{place}: {problem}; check HF_ENDPOINT")]
    Answer { place: String, problem: String },
    #[error("{place}: the hub answers with status {status}{details} after {attempts} attempt(s); {advice}")]
    Status {
        place: String,
        status: u16,
        /// The hub's own words, in brackets, if it has any.
        details: String,
        attempts: u32,
        advice: String,
    },
    #[error("{place}: its SHA-256 is {found}, expected {expected}; it was damaged on the way: repeat the command")]
    Checksum { place: String, found: String, expected: String },
    #[error("{path}: {source}; what is complete is kept: repeat the command when this is mended", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{place} is not in the cache {cache} and the hub must not be asked (HF_HUB_OFFLINE); unset it once, set \
         HF_HUB_CACHE, or give a local file or folder instead", cache = cache.display()
    )]
    Offline { place: String, cache: PathBuf },
    #[error("HF_HUB_DOWNLOAD_TIMEOUT is `{value}`; expected a whole number of seconds above 0")]
    Timeout { value: String },
    #[error(
        "{endpoint} is not the address of a hub ({problem}); expected one such as https://huggingface.co in HF_ENDPOINT"
    )]
    Endpoint { endpoint: String, problem: String },
    #[error("{place}: {problem}")]
    NotAModel { place: String, problem: String },
}

impl HubError {
    /// Whether the hub knows the repository and says in its own words that it has no such file.
    pub(crate) fn names_missing_entry(&self) -> bool {
        matches!(self, Self::Status { status: 404, details, .. } if details.contains("EntryNotFound"))
    }

    /// Whether the hub says that the repository has no such file.
    pub(crate) fn is_missing_entry(&self) -> bool {
        matches!(self, Self::Status { status: 404, details, .. } if details.is_empty()) || self.names_missing_entry()
    }
}

/// Why a token may not have been sent.
const UNLESS_WITHHELD: &str = " (HF_HUB_DISABLE_IMPLICIT_TOKEN must not be set)";

impl Reason for HubError {
    fn reason(&self) -> String {
        match self {
            Self::Connection { place, problem, .. } => format!("{place}: {problem}"),
            Self::Status { place, status, details, .. } => {
                format!("{place}: the hub answers with status {status}{details}")
            }
            other => other.to_string(),
        }
    }
}

/// What to do about a status, in words. `has_token` says whether one was sent.
pub(crate) fn advice(status: u16, code: &str, repository_url: &str, has_token: bool) -> String {
    match (status, code) {
        (_, "GatedRepo") => {
            format!("accept its terms at {repository_url} and set HF_TOKEN to a token of that account{UNLESS_WITHHELD}")
        }
        (401 | 403, _) if has_token => {
            format!("the token in HF_TOKEN or of your login may not read it; see {repository_url}")
        }
        (401 | 403, _) => {
            format!(
                "check the name; if it is private or gated, set HF_TOKEN to a token that may read it{UNLESS_WITHHELD}"
            )
        }
        (404, "RevisionNotFound") => "check the revision".to_owned(),
        (404 | 410, _) => "check the name, the revision and the file".to_owned(),
        (429, _) => "wait some minutes and repeat the command: what is complete is kept".to_owned(),
        _ => "repeat the command later: what is complete is kept".to_owned(),
    }
}
