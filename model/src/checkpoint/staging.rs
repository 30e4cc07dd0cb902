//! Files and folders that are either whole or absent: built aside, synced to the disk and renamed.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;

/// Checks that a folder can be made at `folder`: it has a name, and nothing is there but perhaps an empty folder.
pub(crate) fn refuse_existing(folder: &Path) -> Result<(), CheckpointError> {
    if folder.file_name().is_none() {
        return Err(CheckpointError::NoFolderName { path: folder.to_owned() });
    }
    let empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if empty { Ok(()) } else { Err(CheckpointError::AlreadyExists { path: folder.to_owned() }) }
}

/// `.name.incomplete` beside `path`: hidden, on the same file system, and recognisably unfinished.
pub(super) fn aside_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.incomplete"))
}

/// Makes a rename durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), CheckpointError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = File::open(parent).map_err(|source| CheckpointError::unwritable(parent, source))?;
    folder.sync_all().map_err(|source| CheckpointError::unwritable(parent, source))
}

/// The folder a checkpoint is built in; removed again unless published.
pub(crate) struct Staging {
    pub path: PathBuf,
    published: bool,
}

impl Staging {
    pub fn create(folder: &Path) -> Result<Self, CheckpointError> {
        let path = aside_name(folder);
        if path.exists() {
            // Left behind by a save that was killed.
            std::fs::remove_dir_all(&path).map_err(|source| CheckpointError::unwritable(&path, source))?;
        }
        std::fs::create_dir_all(&path).map_err(|source| CheckpointError::unwritable(&path, source))?;
        Ok(Self { path, published: false })
    }

    pub fn publish(mut self, folder: &Path) -> Result<(), CheckpointError> {
        let unwritable = |source| CheckpointError::unwritable(folder, source);
        File::open(&self.path).and_then(|staged| staged.sync_all()).map_err(unwritable)?;
        std::fs::rename(&self.path, folder).map_err(unwritable)?;
        self.published = true;
        sync_folder_of(folder)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Failing to clean up must not hide the error that brought us here; the next save cleans up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
