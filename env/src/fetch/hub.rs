//! Files of the Hugging Face hub, in the cache that Python's `huggingface_hub` uses too.
//!
//! A file that is cached under the revision's present commit is not downloaded again; a download that was broken off
//! goes on where it stopped.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::{Cache, Repo, RepoType};

use super::backoff::{Failure, is_for_now};
use super::{Backoff, FetchError, Pause, advice, sha256};

const ENDPOINT: &str = "https://huggingface.co";
/// Length of a SHA-256 in hexadecimal digits, which is the entity tag of a large file.
const SHA256_LENGTH: usize = 64;
const COMMIT_LENGTH: usize = 40;
/// Status of a request for bytes beyond the end.
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// Where the hub is, who asks, and where files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    pub endpoint: String,
    /// The folder of `datasets--…` and `models--…`.
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Take files from the cache only.
    pub is_offline: bool,
}

impl HubSettings {
    /// The settings that `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `XDG_CACHE_HOME`, `HOME`, `HF_TOKEN` and
    /// `HF_HUB_OFFLINE` stand for, as in Python. Without a token in the variables the one that a login has left in
    /// `HF_HOME` is used.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .unwrap_or_else(|| folder("HOME").unwrap_or_default().join(".cache/huggingface"));
        let saved_token = || {
            let text = std::fs::read_to_string(home.join("token")).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let is_on = |value: String| matches!(&*value.to_ascii_uppercase(), "1" | "ON" | "YES" | "TRUE");
        Self {
            endpoint: set("HF_ENDPOINT")
                .map_or_else(|| ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: set("HF_TOKEN").or_else(saved_token),
            is_offline: set("HF_HUB_OFFLINE").is_some_and(is_on),
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
        }
    }
}

/// A file of a data set on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Such as `nvidia/Nemotron-RL-agent-workplace_assistant`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    pub file: String,
}

impl HubFile {
    fn place(&self) -> String {
        format!("{} of the data set {} ({})", self.file, self.repository, self.revision)
    }

    fn repo(&self) -> Repo {
        Repo::with_revision(self.repository.clone(), RepoType::Dataset, self.revision.clone())
    }

    /// The file in the cache, if it is there.
    fn cached(&self, cache: &Cache) -> Option<PathBuf> {
        let repo = cache.repo(self.repo());
        let is_commit =
            self.revision.len() == COMMIT_LENGTH && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_commit {
            let path = repo.pointer_path(&self.revision).join(&self.file);
            return path.exists().then_some(path);
        }
        repo.get(&self.file)
    }
}

/// How a file was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Downloaded,
    /// It was in the cache and is what the hub has.
    Cached,
    /// It was in the cache; the hub was not asked or could not be reached.
    CachedUnasked,
}

/// The path of a file of the hub, which is downloaded if it is not in the cache.
///
/// # Errors
/// The file is not there, may not be read, or cannot be downloaded; while offline, it is not in the cache.
pub fn hub_file(
    settings: &HubSettings,
    file: &HubFile,
    backoff: &Backoff,
    pause: Pause<'_>,
) -> Result<(PathBuf, Origin), FetchError> {
    // The links in the cache are made relative to each other, which needs one way to write them.
    let folder = std::path::absolute(&settings.cache)
        .map_err(|source| FetchError::Io { path: settings.cache.clone(), source })?;
    let cache = Cache::new(folder.clone());
    if settings.is_offline {
        return match file.cached(&cache) {
            Some(path) => Ok((path, Origin::CachedUnasked)),
            None => Err(FetchError::Offline { place: file.place(), cache: folder }),
        };
    }
    let builder = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_progress(false)
        .with_user_agent("nemo-burn", env!("CARGO_PKG_VERSION"));
    let api = builder.build().map_err(|error| hub_error(file, &error, 0))?;
    let repo = api.repo(file.repo());
    let url = repo.url(&file.file);
    let metadata = match backoff.run(pause, |attempt| metadata(&api, &url, file, attempt)) {
        Ok(metadata) => metadata,
        // Without a connection what is there has to do.
        Err(error @ FetchError::Hub { .. }) => match file.cached(&cache) {
            Some(path) => return Ok((path, Origin::CachedUnasked)),
            None => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let cached = cache.repo(file.repo());
    let path = cached.pointer_path(metadata.commit_hash()).join(&file.file);
    if path.exists() {
        cached.create_ref(metadata.commit_hash()).map_err(|source| FetchError::Io { path: path.clone(), source })?;
        return Ok((path, Origin::Cached));
    }
    let blob = cached.blob_path(metadata.etag());
    let path = backoff.run(pause, |attempt| {
        repo.download(&file.file).map_err(|error| {
            if status_of(&error) == Some(RANGE_NOT_SATISFIABLE) || matches!(error, ApiError::InvalidResume) {
                // What is left of an earlier download is whole or too long; the next attempt starts anew.
                let _ = std::fs::remove_file(blob.with_extension("part"));
                return Failure::ForNow(hub_error(file, &error, attempt), None);
            }
            failure(file, &error, attempt)
        })
    })?;
    check(&path, &blob, metadata.etag())?;
    Ok((path, Origin::Downloaded))
}

fn metadata(api: &Api, url: &str, file: &HubFile, attempt: u32) -> Result<Metadata, Failure<FetchError>> {
    api.metadata(url).map_err(|error| failure(file, &error, attempt))
}

/// Compares a large file with its checksum; a wrong one is removed, so that it is not taken from the cache later.
fn check(path: &Path, blob: &Path, etag: &str) -> Result<(), FetchError> {
    if etag.len() != SHA256_LENGTH {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(|source| FetchError::Io { path: path.to_owned(), source })?;
    let found = sha256(&bytes);
    if found == etag {
        return Ok(());
    }
    for broken in [path, blob] {
        std::fs::remove_file(broken).map_err(|source| FetchError::Io { path: broken.to_owned(), source })?;
    }
    Err(FetchError::Checksum { place: path.display().to_string(), found, expected: etag.to_owned() })
}

/// The status that an error is about, if the hub answered at all.
fn status_of(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status_of(error),
        _ => None,
    }
}

fn failure(file: &HubFile, error: &ApiError, attempt: u32) -> Failure<FetchError> {
    let is_for_now = match (status_of(error), error) {
        (Some(status), _) => is_for_now(status),
        // A connection that was refused or broke off.
        (None, ApiError::RequestError(_) | ApiError::IoError(_) | ApiError::LockAcquisition(_)) => true,
        (None, _) => false,
    };
    let error = hub_error(file, error, attempt);
    if is_for_now { Failure::ForNow(error, None) } else { Failure::ForGood(error) }
}

fn hub_error(file: &HubFile, error: &ApiError, attempts: u32) -> FetchError {
    match status_of(error) {
        Some(status) => FetchError::Status { url: file.place(), status, attempts, advice: advice(status) },
        None => FetchError::Hub {
            place: file.place(),
            problem: format!("{error}; check the connection and HF_ENDPOINT, or give the file with --records"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let plain = settings(&[("HOME", "/home/kim")]);
        assert_eq!(plain.cache, Path::new("/home/kim/.cache/huggingface/hub"));
        assert_eq!((&*plain.endpoint, plain.token, plain.is_offline), (ENDPOINT, None, false));
        let home = [("HOME", "/home/kim"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/cache")];
        assert_eq!(settings(&home).cache, Path::new("/cache"));
        assert_eq!(settings(&home[..3]).cache, Path::new("/hf/hub"));
        assert_eq!(settings(&home[..2]).cache, Path::new("/x/huggingface/hub"));
        let asked =
            settings(&[("HF_TOKEN", " hf_1 "), ("HF_ENDPOINT", "http://127.0.0.1:1/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!(
            (asked.token.as_deref(), &*asked.endpoint, asked.is_offline),
            (Some("hf_1"), "http://127.0.0.1:1", true)
        );
        for off in ["0", "", "no", "false"] {
            assert!(!settings(&[("HF_HUB_OFFLINE", off)]).is_offline, "{off:?}");
        }
    }

    #[test]
    fn a_login_leaves_its_token_in_the_home_folder() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_saved\n").unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("hf_saved"));
        assert_eq!(settings(&[("HF_HOME", path), ("HF_TOKEN", "hf_2")]).token.as_deref(), Some("hf_2"));
    }
}
