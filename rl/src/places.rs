//! Where the files that a configuration names are found: below some folders, or on the hub.

use std::path::{Path, PathBuf};

use nemo_hub::{Hub, HubError, ModelName};

use crate::assemble::AssembleError;
use crate::config::PolicyConfig;

/// Where files that a configuration names relatively are looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folders, the first that has the file wins.
    pub roots: Vec<PathBuf>,
    /// Where models named as on the hub come from; without it only folders are.
    pub hub: Option<Hub>,
}

impl Places {
    /// `path` below the first root that has it; `path` itself if none has, so that errors quote what was written.
    pub fn find(&self, path: &Path) -> PathBuf {
        let found = self.roots.iter().map(|root| root.join(path)).find(|path| path.exists());
        found.unwrap_or_else(|| path.to_owned())
    }

    /// The folders of a configuration's model and of its tokenizer, which needs no weights.
    pub(crate) fn policy_folders(&self, policy: &PolicyConfig) -> Result<(PathBuf, PathBuf), AssembleError> {
        let model = self.folder(&policy.model_name, Hub::model)?;
        let tokenizer = match policy.tokenizer.name == policy.model_name {
            true => model.clone(),
            false => self.folder(&policy.tokenizer.name, Hub::tokenizer)?,
        };
        Ok((model, tokenizer))
    }

    /// Whether a model would be asked of the hub.
    pub(crate) fn is_of_hub(&self, name: &str) -> bool {
        self.hub.is_some() && !self.find(Path::new(name)).exists() && ModelName::parse(name).is_some()
    }

    /// The folder of a model named by path or as on the hub; a path wins.
    pub(crate) fn folder(
        &self,
        name: &str,
        of_hub: impl Fn(&Hub, &ModelName) -> Result<PathBuf, HubError>,
    ) -> Result<PathBuf, AssembleError> {
        let not_found = |reason| Err(AssembleError::NotFound { name: name.to_owned(), reason });
        let found = self.find(Path::new(name));
        if found.is_dir() {
            return Ok(found);
        }
        if found.exists() {
            return not_found("it is a file; give the folder that holds config.json");
        }
        match (ModelName::parse(name), &self.hub) {
            (Some(of), Some(hub)) => {
                of_hub(hub, &of).map_err(|source| AssembleError::Hub { name: name.to_owned(), source })
            }
            _ => not_found("there is no such folder; check the path"),
        }
    }
}
