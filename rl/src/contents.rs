//! What the files hold that a configuration names: part of what makes a run the same run.
//!
//! A resumed run reads its tasks, tables, tokenizer and model configuration again, and under a Kullback-Leibler penalty, or
//! where an adapter is trained, the weights it started from. Were one of them another by now, the run would go on without a word as a mixture of two,
//! so each checkpoint holds a hash by configuration key. Weights that a resumed run takes from its checkpoint do not count.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nemo_model::checkpoint::read_sidecar_files;
use nemo_model::config::CONFIG_FILE;
use sha2::{Digest, Sha256};

use crate::assemble::{AssembleError, Places};
use crate::config::RunConfig;

/// SHA-256 in hexadecimal digits by the configuration key that names the file or folder.
pub type Contents = BTreeMap<String, String>;

/// The contents of everything that a resumed run of this configuration reads again. `tables` replaces
/// `env.tables_dir`, as on the command line.
///
/// Pipes and devices are left out: they cannot be read twice.
///
/// # Errors
/// When a file cannot be read.
pub fn of_run(config: &RunConfig, tables: Option<&Path>, places: &Places) -> Result<Contents, AssembleError> {
    let mut contents = Contents::new();
    let data = &config.data;
    for (key, path) in
        [("data.train.data_path", &data.train.data_path), ("data.validation.data_path", &data.validation.data_path)]
    {
        if let Some(path) = path.as_ref().filter(|path| path.is_file()) {
            contents.insert(key.to_owned(), of_file(path).map_err(unreadable(path))?.0);
        }
    }
    if let Some(folder) = tables.or(config.env.tables_dir.as_deref()) {
        let tables = files_below(folder, "csv").map_err(unreadable(folder))?;
        contents.insert("env.tables_dir".to_owned(), of_files(folder, tables)?);
    }
    let policy = &config.policy;
    if let Some(shape) = &policy.init.model_config {
        let path = places.find(shape);
        let (shape, _) = of_file(&path).map_err(unreadable(&path))?;
        contents.insert("policy.init.model_config".to_owned(), shape);
        return Ok(contents);
    }
    let (folder, tokenizer_folder) = places.policy_folders(policy)?;
    let mut model = vec![folder.join(CONFIG_FILE)];
    // An adapter's base is read from there again, whatever the checkpoint holds.
    if config.loss_fn.reference_policy_kl_penalty != 0.0 || policy.megatron_cfg.peft.enabled {
        model.extend(files_below(&folder, "safetensors").map_err(unreadable(&folder))?);
    }
    contents.insert("policy.model_name".to_owned(), of_files(&folder, model)?);
    let mut tokenizer = Sha256::new();
    for file in read_sidecar_files(&tokenizer_folder)? {
        feed(&mut tokenizer, &file.name, &file.contents);
    }
    contents.insert("policy.tokenizer.name".to_owned(), digits(tokenizer));
    Ok(contents)
}

/// One hash for some files below `root`, their names included.
fn of_files(root: &Path, files: impl IntoIterator<Item = PathBuf>) -> Result<String, AssembleError> {
    let mut all = Sha256::new();
    for path in files {
        let (hash, _) = of_file(&path).map_err(unreadable(&path))?;
        feed(&mut all, &path.strip_prefix(root).unwrap_or(&path).to_string_lossy(), hash.as_bytes());
    }
    Ok(digits(all))
}

/// A file's hash and length, read piece by piece.
pub(crate) fn of_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut bytes = 0u64;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok((digits(hash), bytes))
}

/// The length ahead keeps two parts from reading as one.
fn feed(hash: &mut Sha256, name: &str, contents: &[u8]) {
    for part in [name.as_bytes(), contents] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
}

fn digits(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below a folder that end in `.extension`, in an order that does not depend on the file system.
fn files_below(path: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() {
            files.extend(files_below(&entry, extension)?);
        } else if entry.extension().is_some_and(|found| found == extension) {
            files.push(entry);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> AssembleError {
    let path = path.to_owned();
    move |source| AssembleError::Unreadable { path, source }
}
