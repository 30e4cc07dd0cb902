//! Where relative paths of configurations and model names lead.

use std::path::{Path, PathBuf};

use nemo_rl::assemble::Places;

use crate::hub::hub;

/// The working folder first, then every folder above the configuration file, then the source folder this program was
/// built from: so a configuration works from any folder, and the built-in one wherever its checkpoint is.
pub fn places(config: Option<&Path>) -> anyhow::Result<Places> {
    let mut roots = vec![PathBuf::new()];
    if let Some(config) = config.and_then(|path| std::path::absolute(path).ok()) {
        roots.extend(config.ancestors().skip(1).map(Path::to_owned));
    }
    roots.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    Ok(Places { roots, hub: Some(hub()?) })
}
