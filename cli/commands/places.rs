//! Where relative paths of configurations and model names lead.

use std::path::{Path, PathBuf};

use nemo_rl::assemble::Places;

/// The working folder first, then every folder above the configuration file, then the source folder this program was
/// built from: so a configuration works from any folder, and the built-in one wherever its checkpoint is.
pub fn places(config: Option<&Path>) -> Places {
    let mut roots = vec![PathBuf::new()];
    if let Some(config) = config.and_then(|path| std::path::absolute(path).ok()) {
        roots.extend(config.ancestors().skip(1).map(Path::to_owned));
    }
    roots.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    Places { roots, hugging_face_home: hugging_face_home() }
}

fn hugging_face_home() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("HF_HOME")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/huggingface")))
}
