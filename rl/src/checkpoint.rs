//! Checkpoints of a run: `step_N/{policy/, optimizer.safetensors, state.json, config.yaml, manifest.json}`.
//!
//! A checkpoint is written beside its place, flushed to the disk, and then renamed, so a folder called
//! `step_N` is always whole; what a crash leaves behind is called `tmp_step_N` and never read. The manifest
//! holds size and SHA-256 of every file, so damage done later is found on loading and named.
//! Nothing in a checkpoint depends on the clock: equal runs write equal bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contents;
use crate::policy::api::{Policy, PolicyError};

/// File and folder names inside a checkpoint.
pub const POLICY_FOLDER: &str = "policy";
/// The optimizer's state.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Counters and metrics.
pub const STATE_FILE: &str = "state.json";
/// The resolved configuration, accepted as `--config` again.
pub const CONFIG_FILE: &str = "config.yaml";
const MANIFEST_FILE: &str = "manifest.json";

/// What a run trains by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Reinforcement learning: `nemo-burn train`.
    Grpo,
    /// Supervised warm start: `nemo-burn sft`.
    Sft,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpo => "grpo",
            Self::Sft => "sft",
        })
    }
}

/// What a run has to know to go on, besides weights and optimizer. Random numbers and the data position are
/// functions of seed and step, so the counters are all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// What made it.
    pub algorithm: Algorithm,
    /// Finished optimizer steps.
    pub step: u64,
    /// Passes over the tasks that are complete.
    pub current_epoch: u64,
    /// Prompts or demonstrations trained on.
    pub consumed_samples: u64,
    /// Trained tokens.
    pub total_valid_tokens: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Settings that are not in the configuration but change results, by name.
    pub options: BTreeMap<String, String>,
    /// SHA-256 of what the files hold that the configuration names, by key (see [`crate::contents`]); empty in
    /// checkpoints of versions that did not record it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<String, String>,
    /// Metrics that rank checkpoints (`val:accuracy`, `train:reward`), as far as measured at this step.
    pub metrics: BTreeMap<String, f64>,
}

impl TrainState {
    /// The state of a run before its first step.
    pub fn start(
        algorithm: Algorithm,
        seed: u64,
        options: BTreeMap<String, String>,
        contents: BTreeMap<String, String>,
    ) -> Self {
        Self {
            algorithm,
            step: 0,
            current_epoch: 0,
            consumed_samples: 0,
            total_valid_tokens: 0,
            seed,
            options,
            contents,
            metrics: BTreeMap::new(),
        }
    }
}

/// Why a checkpoint could not be written, found or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be read or written.
    #[error("{}: cannot {action}: {source}{}", path.display(), advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder belongs to another process.
    #[error(
        "{}: another run is using this results folder{}; wait for it or end it, or set checkpointing.checkpoint_dir \
         to a folder of your own (--fresh starts a new run beside this one)", path.display(), process(owner)
    )]
    Locked {
        /// The results folder.
        path: PathBuf,
        /// The number of the process, as far as it is known.
        owner: String,
    },
    /// The policy could not write its part.
    #[error("{}: {source}", path.display())]
    Policy {
        /// The checkpoint.
        path: PathBuf,
        /// Its own error.
        source: PolicyError,
    },
    /// The policy cannot go on from its part.
    #[error(
        "{}: {source}; remove the folder {0} to continue from the checkpoint before it, or from the start if it is \
         the only one", checkpoint.display()
    )]
    Unusable {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The policy's error.
        source: PolicyError,
    },
    /// A file that the manifest lists is not there.
    #[error("{}: the file is missing from the checkpoint; restore it, or remove the folder {} to continue from the checkpoint before it, or from the start if it is the only one", path.display(), checkpoint.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Its checkpoint.
        checkpoint: PathBuf,
    },
    /// A file does not hold what was written.
    #[error("{}: the file is damaged (found {found}, expected {expected}); restore it, or remove the folder {} to continue from the checkpoint before it, or from the start if it is the only one", path.display(), checkpoint.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its checkpoint.
        checkpoint: PathBuf,
        /// Size or hash of what is there.
        found: String,
        /// Size or hash of what was written.
        expected: String,
    },
}

fn process(owner: &str) -> String {
    if owner.is_empty() { String::new() } else { format!(" (process {owner})") }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set checkpointing.checkpoint_dir to a folder on another disk. Nothing was overwritten"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; make the folder writable, or set checkpointing.checkpoint_dir to another one. Nothing was overwritten"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "; set checkpointing.checkpoint_dir to a folder",
        _ => "",
    }
}

pub(crate) fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, action, source }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

/// A checkpoint on disk whose files were checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Counters and metrics.
    pub state: TrainState,
    /// The resolved configuration it was made with.
    pub config_yaml: String,
    has_optimizer: bool,
}

impl Checkpoint {
    /// Opens a folder `step_N` and checks every file against the manifest.
    ///
    /// # Errors
    /// Names the first file that is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let manifest: BTreeMap<String, FileRecord> = read_json(path, MANIFEST_FILE)?;
        for (name, expected) in &manifest {
            let file = path.join(name);
            let found = match record(&file) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(CheckpointError::Missing { path: file, checkpoint: path.to_owned() });
                }
                Err(error) => return Err(failed(&file, "read the file")(error)),
            };
            if found != *expected {
                let describe = |record: &FileRecord| {
                    if found.bytes == expected.bytes {
                        format!("SHA-256 {}", record.sha256)
                    } else {
                        format!("{} bytes", record.bytes)
                    }
                };
                return Err(CheckpointError::Damaged {
                    path: file,
                    checkpoint: path.to_owned(),
                    found: describe(&found),
                    expected: describe(expected),
                });
            }
        }
        let config = path.join(CONFIG_FILE);
        Ok(Self {
            path: path.to_owned(),
            state: read_state(path)?,
            config_yaml: fs::read_to_string(&config).map_err(failed(&config, "read the configuration"))?,
            has_optimizer: manifest.contains_key(OPTIMIZER_FILE),
        })
    }

    /// The Hugging Face folder with the weights.
    pub fn policy_folder(&self) -> PathBuf {
        self.path.join(POLICY_FOLDER)
    }

    /// Puts weights and optimizer state into a policy; what the checkpoint lacks of them, in words.
    ///
    /// # Errors
    /// When the policy refuses a file, or could not act with its weights.
    pub fn load_into(&self, policy: &mut dyn Policy) -> Result<Option<String>, CheckpointError> {
        let refused = |source| CheckpointError::Unusable { checkpoint: self.path.clone(), source };
        policy.load_weights(&self.policy_folder()).map_err(refused)?;
        let lacks = match self.has_optimizer {
            true => policy.load_optimizer(&self.path.join(OPTIMIZER_FILE)).map_err(refused)?,
            false => Some(format!(
                "{} was saved without the optimizer (checkpointing.save_optimizer: false): the run continues from the \
                 weights in it, and Adam's moments start anew",
                self.path.display()
            )),
        };
        policy.check_usable().map_err(refused)?;
        Ok(lacks)
    }
}

/// The counters and metrics of a checkpoint.
pub(crate) fn read_state(checkpoint: &Path) -> Result<TrainState, CheckpointError> {
    read_json(checkpoint, STATE_FILE)
}

/// Writes a checkpoint into the folder `aside`, whatever was there before, and flushes it to the disk.
pub(crate) fn write_aside(
    aside: &Path,
    state: &TrainState,
    config_yaml: &str,
    policy: &dyn Policy,
    save_optimizer: bool,
) -> Result<(), CheckpointError> {
    if aside.exists() {
        fs::remove_dir_all(aside).map_err(failed(aside, "remove an unfinished checkpoint"))?;
    }
    let weights = aside.join(POLICY_FOLDER);
    fs::create_dir_all(&weights).map_err(failed(&weights, "create the folder"))?;
    let refused = |source| match source {
        PolicyError::Io { path, source } => CheckpointError::Io { path, action: "write the checkpoint", source },
        source => CheckpointError::Policy { path: aside.to_owned(), source },
    };
    policy.save_weights(&weights).map_err(refused)?;
    if save_optimizer {
        policy.save_optimizer(&aside.join(OPTIMIZER_FILE)).map_err(refused)?;
    }
    write_json(&aside.join(STATE_FILE), state)?;
    let config = aside.join(CONFIG_FILE);
    fs::write(&config, config_yaml).map_err(failed(&config, "write the configuration"))?;

    let mut manifest = BTreeMap::new();
    for file in files_below(aside)? {
        let name = file.strip_prefix(aside).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        manifest.insert(name, record(&file).map_err(failed(&file, "read back the file"))?);
    }
    write_json(&aside.join(MANIFEST_FILE), &manifest)?;
    for file in files_below(aside)? {
        File::open(&file).and_then(|f| f.sync_all()).map_err(failed(&file, "flush the file to the disk"))?;
    }
    sync_folder(&weights)?;
    sync_folder(aside)
}

/// Flushes the names in a folder; systems on which folders cannot be opened do it by themselves.
pub(crate) fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    match File::open(path) {
        Ok(folder) => folder.sync_all().map_err(failed(path, "flush the folder to the disk")),
        Err(_) => Ok(()),
    }
}

/// All files below a folder, in an order that does not depend on the file system.
fn files_below(path: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed(path, "list the folder"))? {
        let entry = entry.map_err(failed(path, "list the folder"))?.path();
        if entry.is_dir() {
            files.extend(files_below(&entry)?);
        } else {
            files.push(entry);
        }
    }
    files.sort();
    Ok(files)
}

fn record(path: &Path) -> io::Result<FileRecord> {
    contents::of_file(path).map(|(sha256, bytes)| FileRecord { bytes, sha256 })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CheckpointError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(path, "write the file")(error.into()))?;
    fs::write(path, text + "\n").map_err(failed(path, "write the file"))
}

fn read_json<T: for<'de> Deserialize<'de>>(checkpoint: &Path, name: &str) -> Result<T, CheckpointError> {
    let path = checkpoint.join(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CheckpointError::Missing { path, checkpoint: checkpoint.to_owned() });
        }
        Err(error) => return Err(failed(&path, "read the file")(error)),
    };
    serde_json::from_str(&text).map_err(|error| CheckpointError::Damaged {
        path,
        checkpoint: checkpoint.to_owned(),
        found: error.to_string(),
        expected: "the JSON that was written".to_owned(),
    })
}
