//! The cache on disk, as Python's `huggingface_hub` lays it out: contents in `blobs` under their entity tags, links to
//! them in `snapshots` under commits and file names, commits of branches and tags in `refs`, locks in `.locks`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::{HubError, Kind, Listener, Repository};

const COMMIT_LENGTH: usize = 40;

/// The folder of one repository.
pub(crate) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// Whether a word is safe as the name of a file.
pub(crate) fn is_plain(name: &str) -> bool {
    is_below(name) && Path::new(name).components().count() == 1 && name.len() <= 200 && !name.starts_with('.')
}

/// Whether a path leads down only.
fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == COMMIT_LENGTH && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> HubError {
    move |source| HubError::Io { path: path.to_owned(), source }
}

impl RepositoryCache {
    pub(crate) fn of(cache: &Path, repository: &Repository) -> Result<Self, HubError> {
        // The links are made relative to each other, which needs one way to write them.
        let cache = std::path::absolute(cache).map_err(io_error(cache))?;
        if !is_below(&repository.name) || !is_below(&repository.revision) {
            let problem = "no name of a repository and its revision; expected ORG/NAME and a branch, tag or commit";
            let place = format!("{}@{}", repository.name, repository.revision);
            return Err(HubError::NotAModel { place, problem: problem.to_owned() });
        }
        let kind = match repository.kind {
            Kind::Model => "models",
            Kind::DataSet => "datasets",
        };
        let name = format!("{kind}--{}", repository.name.replace('/', "--"));
        Ok(Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) })
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The commit that a revision is known to stand for.
    pub(crate) fn commit(&self, revision: &str) -> String {
        let named = fs::read_to_string(self.folder.join("refs").join(revision)).unwrap_or_default();
        match named.trim() {
            commit if is_plain(commit) => commit.to_owned(),
            _ => revision.to_owned(),
        }
    }

    /// The file of a revision, if it is there.
    pub(crate) fn find(&self, revision: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(&self.commit(revision)).join(file)).filter(|path| path.exists())
    }

    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision) == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        replace(&path, |new| fs::write(new, commit))
    }

    /// Where it is noted that a commit has no such file.
    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    pub(crate) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.absence(commit, file).exists()
    }

    pub(crate) fn note_absence(&self, commit: &str, file: &str) -> Result<(), HubError> {
        replace(&self.absence(commit, file), |new| fs::write(new, ""))
    }

    /// Holds other processes off a blob; freed when the file is dropped, or the process ends.
    pub(crate) fn lock(&self, etag: &str, listener: &dyn Listener) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        fs::create_dir_all(&self.locks).map_err(io_error(&self.locks))?;
        let file = File::options().create(true).append(true).open(&path).map_err(io_error(&path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                listener.note(&format!("another process downloads the same file; waiting for {}", path.display()));
            }
            Err(TryLockError::Error(source)) => return Err(HubError::Io { path, source }),
        }
        file.lock().map_err(io_error(&path))?;
        Ok(file)
    }

    /// Puts a blob into a snapshot under the file's name.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(file);
        let up = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        let blob = self.blob(etag);
        replace(&path, |new| link(&target, &blob, new))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(target: &Path, _: &Path, new: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, new)
}

#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, new: &Path) -> io::Result<()> {
    fs::hard_link(blob, new)
}

/// Makes a file beside `path` and renames it, so that there is never half a file under that name.
fn replace(path: &Path, make: impl FnMut(&Path) -> io::Result<()>) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let made = tempfile::Builder::new().make_in(folder, make).map_err(io_error(path))?;
    made.into_temp_path().persist(path).map_err(|error| HubError::Io { path: path.to_owned(), source: error.error })
}
