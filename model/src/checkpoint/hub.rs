//! From a model's name to a folder: a local folder, or a snapshot in the Hugging Face cache.
//!
//! Nothing is downloaded here. The cache's location is the caller's to know, so that this crate reads no environment.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;

/// Revision looked up when a name gives none.
const DEFAULT_REVISION: &str = "main";

/// Finds the folder of a model.
///
/// `name` is a path, or a hub name such as `nvidia/NVIDIA-Nemotron-Nano-9B-v2`, optionally with a branch, tag or
/// commit behind an `@`. A path wins. `hugging_face_home` is the folder `HF_HOME` names (usually
/// `~/.cache/huggingface`), whose `hub` folder holds the snapshots.
///
/// # Errors
/// [`CheckpointError::NotFound`] saying where was looked and what to do.
pub fn resolve_model(name: &str, hugging_face_home: Option<&Path>) -> Result<PathBuf, CheckpointError> {
    let not_found = |reason: String| Err(CheckpointError::NotFound { name: name.to_owned(), reason });
    let local = PathBuf::from(name);
    if local.is_dir() {
        return Ok(local);
    }
    if local.exists() {
        return not_found("it is a file; give the folder that holds config.json".to_owned());
    }
    let Some((repository, revision)) = split_hub_name(name) else {
        return not_found("there is no such folder; check the path".to_owned());
    };
    let download =
        format!("download it (for example: hf download {repository} --local-dir DIR) and give the folder instead");
    let Some(home) = hugging_face_home else {
        return not_found(format!("there is no such folder and no Hugging Face cache was given; {download}"));
    };
    let cached = home.join("hub").join(format!("models--{}", repository.replace('/', "--")));
    if !cached.is_dir() {
        return not_found(format!("there is no such folder and {} does not exist; {download}", cached.display()));
    }
    match find_snapshot(&cached, revision) {
        Some(snapshot) => Ok(snapshot),
        None => {
            let place = cached.display();
            not_found(format!("{place} holds no complete snapshot of revision {revision}; {download}"))
        }
    }
}

/// `owner/model[@revision]`, if the name has that form.
fn split_hub_name(name: &str) -> Option<(&str, &str)> {
    let (repository, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
    let (owner, model) = repository.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
    };
    let safe_revision = !revision.is_empty() && !revision.contains("..") && !revision.starts_with('/');
    (plain(owner) && plain(model) && safe_revision).then_some((repository, revision))
}

/// A snapshot folder with a configuration: of the commit the reference names, or of the commit itself.
fn find_snapshot(cached: &Path, revision: &str) -> Option<PathBuf> {
    let named = std::fs::read_to_string(cached.join("refs").join(revision)).ok();
    let commit = named.as_deref().map_or(revision, str::trim);
    let snapshot = cached.join("snapshots").join(commit);
    snapshot.join(crate::config::CONFIG_FILE).exists().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_snapshot_is_found_by_branch_and_by_commit() {
        let home = tempfile::tempdir().unwrap();
        let cached = home.path().join("hub/models--org--tiny");
        let snapshot = cached.join("snapshots/abc123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(cached.join("refs")).unwrap();
        std::fs::write(cached.join("refs/main"), "abc123\n").unwrap();
        let error = resolve_model("org/tiny", Some(home.path())).unwrap_err().to_string();
        assert!(error.contains("no complete snapshot"), "{error}");
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(resolve_model("org/tiny", Some(home.path())).unwrap(), snapshot);
        assert_eq!(resolve_model("org/tiny@abc123", Some(home.path())).unwrap(), snapshot);
        assert!(resolve_model("org/tiny@other", Some(home.path())).is_err());
    }

    #[test]
    fn a_local_folder_wins_and_misses_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().to_str().unwrap();
        assert_eq!(resolve_model(name, None).unwrap(), folder.path());
        for name in ["no/such_model_folder", "no-such-folder", "a/b/c", "../x/@", "/nope"] {
            let error = resolve_model(name, Some(folder.path())).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
