//! The places that tables come from, read file by file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use nemo_hub::{Failure, is_for_now, retry_after};
use zip::ZipArchive;
use zip::result::ZipError;

use super::tables::{FOLDER, TableSource};
use super::{Backoff, FetchError, Pause, advice};

/// No table is larger; what a server or an archive offers beyond it is not read.
const MAX_FILE_BYTES: u64 = 16 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("nemo-burn/", env!("CARGO_PKG_VERSION"));

/// An opened [`TableSource`].
pub(super) enum Source {
    Server { agent: ureq::Agent, url: String },
    Wheel { path: PathBuf, archive: Box<ZipArchive<BufReader<File>>> },
    Folder(PathBuf),
}

impl Source {
    pub(super) fn open(source: &TableSource) -> Result<Self, FetchError> {
        match source {
            TableSource::Repository { url, commit } => {
                let config = ureq::Agent::config_builder()
                    .timeout_global(Some(TIMEOUT))
                    .user_agent(USER_AGENT)
                    // A status is told apart below, with what to do about it.
                    .http_status_as_error(false)
                    .build();
                let url = format!("{}/{commit}/{FOLDER}", url.trim_end_matches('/'));
                Ok(Self::Server { agent: config.into(), url })
            }
            TableSource::Wheel(path) => {
                let file = File::open(path).map_err(|source| FetchError::Io { path: path.clone(), source })?;
                let archive = ZipArchive::new(BufReader::new(file))
                    .map_err(|error| FetchError::Wheel { path: path.clone(), problem: error.to_string() })?;
                Ok(Self::Wheel { path: path.clone(), archive: Box::new(archive) })
            }
            TableSource::Folder(folder) => Ok(Self::Folder(folder.clone())),
        }
    }
}

/// The contents of a file and where they come from, in words.
pub(super) fn read(
    source: &mut Source,
    file: &'static str,
    backoff: &Backoff,
    pause: Pause<'_>,
) -> Result<(String, Vec<u8>), FetchError> {
    match source {
        Source::Server { agent, url } => {
            let url = format!("{url}/{file}");
            let bytes = backoff.run(pause, |attempt| get(agent, &url, attempt))?;
            Ok((url, bytes))
        }
        Source::Wheel { path, archive } => {
            let suffix = format!("{FOLDER}/{file}");
            let not_there = || FetchError::NotThere { place: path.display().to_string(), file };
            let name = archive.file_names().flatten().find(|name| name.ends_with(&suffix)).map(Cow::into_owned);
            let name = name.ok_or_else(not_there)?;
            let damaged = |problem: String| FetchError::Wheel { path: path.clone(), problem };
            let mut bytes = Vec::new();
            let entry = archive.by_name(&name).map_err(|error: ZipError| damaged(error.to_string()))?;
            entry.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|error| damaged(error.to_string()))?;
            Ok((format!("{} ({name})", path.display()), bytes))
        }
        Source::Folder(folder) => {
            let candidates = [folder.join(file), folder.join("csv_data").join(file), folder.join(FOLDER).join(file)];
            let path = candidates.into_iter().find(|path| path.is_file());
            let path = path.ok_or_else(|| FetchError::NotThere { place: folder.display().to_string(), file })?;
            match std::fs::read(&path) {
                Ok(bytes) => Ok((path.display().to_string(), bytes)),
                Err(source) => Err(FetchError::Io { path, source }),
            }
        }
    }
}

fn get(agent: &ureq::Agent, url: &str, attempt: u32) -> Result<Vec<u8>, Failure<FetchError>> {
    let failed = |error: &ureq::Error| FetchError::Request { url: url.to_owned(), problem: error.to_string() };
    let mut response = agent.get(url).call().map_err(|error| Failure::ForNow(failed(&error), None))?;
    let status = response.status().as_u16();
    if status != 200 {
        let error = FetchError::Status { url: url.to_owned(), status, attempts: attempt, advice: advice(status) };
        if !is_for_now(status) {
            return Err(Failure::ForGood(error));
        }
        return Err(Failure::ForNow(error, retry_after(response.headers())));
    }
    let body = response.body_mut().with_config().limit(MAX_FILE_BYTES).read_to_vec();
    body.map_err(|error| Failure::ForNow(failed(&error), None))
}
