//! Checkpoints of a run: `step_N/{policy/, optimizer.safetensors, state.json, config.yaml, manifest.json}`.
//!
//! A checkpoint is written beside its place, flushed to the disk, and then renamed, so a folder called
//! `step_N` is always whole; what a crash leaves behind is called `tmp_step_N` and never read. The manifest
//! holds size and SHA-256 of every file, so damage done later is found on loading and named.
//! Nothing in a checkpoint depends on the clock: equal runs write equal bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::policy::api::{Policy, PolicyError};
use crate::retention::Retention;

/// File and folder names inside a checkpoint.
pub const POLICY_FOLDER: &str = "policy";
/// The optimizer's state.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Counters and metrics.
pub const STATE_FILE: &str = "state.json";
/// The resolved configuration, accepted as `--config` again.
pub const CONFIG_FILE: &str = "config.yaml";
const MANIFEST_FILE: &str = "manifest.json";

/// What a run has to know to go on, besides weights and optimizer. Random numbers and the data position are
/// functions of seed and step, so the counters are all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// `grpo` or `sft`.
    pub algorithm: String,
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
    /// Metrics that rank checkpoints (`val:accuracy`, `train:reward`), as far as measured at this step.
    pub metrics: BTreeMap<String, f64>,
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
    /// The policy could not write or read its part.
    #[error("{}: {source}", path.display())]
    Policy {
        /// The checkpoint.
        path: PathBuf,
        /// Its own error.
        source: PolicyError,
    },
    /// A file that the manifest lists is not there.
    #[error("{}: the file is missing from the checkpoint; restore it, or remove the folder {} to continue from the checkpoint before it", path.display(), checkpoint.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Its checkpoint.
        checkpoint: PathBuf,
    },
    /// A file does not hold what was written.
    #[error("{}: the file is damaged (found {found}, expected {expected}); restore it, or remove the folder {} to continue from the checkpoint before it", path.display(), checkpoint.display())]
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

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, action, source }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

/// The results folder of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The folder of the run called `base`. Runs started afresh lie beside it as `base-2`, `base-3`, …;
    /// the latest of them is the current one. `fresh` starts the next.
    ///
    /// # Errors
    /// When the folder cannot be created or written to.
    pub fn open(base: &Path, fresh: bool) -> Result<Self, CheckpointError> {
        let numbered = |n: usize| match n {
            1 => base.to_owned(),
            n => PathBuf::from(format!("{}-{n}", base.display())),
        };
        let mut current = 1;
        while numbered(current + 1).exists() {
            current += 1;
        }
        if fresh && !is_empty(&numbered(current)) {
            current += 1;
        }
        let path = numbered(current);
        fs::create_dir_all(&path).map_err(failed(&path, "create the results folder"))?;
        // Found out now instead of after the first steps.
        let probe = path.join(".writable");
        fs::write(&probe, b"").map_err(failed(&path, "write to the results folder"))?;
        fs::remove_file(&probe).map_err(failed(&path, "write to the results folder"))?;
        let folder = Self { path };
        folder.recover()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoint of a step is or will be.
    pub fn step_path(&self, step: u64) -> PathBuf {
        self.path.join(format!("step_{step}"))
    }

    /// Steps with a checkpoint, ascending.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = self.numbered("step_")?;
        steps.sort_unstable();
        Ok(steps)
    }

    /// The checkpoint of the highest step.
    ///
    /// # Errors
    /// When it is damaged. An older one is never taken silently in its place.
    pub fn latest(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        match self.steps()?.last() {
            Some(step) => Checkpoint::open(&self.step_path(*step)).map(Some),
            None => Ok(None),
        }
    }

    /// Writes the checkpoint of `state.step`.
    ///
    /// # Errors
    /// When anything could not be written; what was there before is then unchanged.
    pub fn save(
        &self,
        state: &TrainState,
        config_yaml: &str,
        policy: &dyn Policy,
        save_optimizer: bool,
    ) -> Result<PathBuf, CheckpointError> {
        let place = self.step_path(state.step);
        let aside = self.path.join(format!("tmp_step_{}", state.step));
        let written = write_aside(&aside, state, config_yaml, policy, save_optimizer);
        if let Err(error) = written {
            // Only what this call has written; failing to remove it must not hide the first error.
            let _ = fs::remove_dir_all(&aside);
            return Err(error);
        }
        let old = self.path.join(format!("old_step_{}", state.step));
        if place.exists() {
            fs::rename(&place, &old).map_err(failed(&place, "set the old checkpoint aside"))?;
        }
        fs::rename(&aside, &place).map_err(failed(&place, "rename the finished checkpoint"))?;
        sync_folder(&self.path)?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(failed(&old, "remove the replaced checkpoint"))?;
        }
        Ok(place)
    }

    /// Removes the checkpoints that the rule does not keep and returns their steps. `metric` is the name
    /// under which [`TrainState::metrics`] ranks them; `None` ranks by recency.
    ///
    /// # Errors
    /// When a checkpoint cannot be read or removed.
    pub fn prune(&self, rule: &Retention, metric: Option<&str>) -> Result<Vec<u64>, CheckpointError> {
        let mut checkpoints = BTreeMap::new();
        for step in self.steps()? {
            let state: TrainState = read_json(&self.step_path(step), STATE_FILE)?;
            checkpoints.insert(step, metric.and_then(|name| state.metrics.get(name).copied()));
        }
        let kept = rule.kept(&checkpoints);
        let removed: Vec<u64> = checkpoints.into_keys().filter(|step| !kept.contains(step)).collect();
        for step in &removed {
            let path = self.step_path(*step);
            fs::remove_dir_all(&path).map_err(failed(&path, "remove the old checkpoint"))?;
        }
        Ok(removed)
    }

    /// Puts back a checkpoint that was set aside by a save that did not finish.
    fn recover(&self) -> Result<(), CheckpointError> {
        for step in self.numbered("old_step_")? {
            let (old, place) = (self.path.join(format!("old_step_{step}")), self.step_path(step));
            if place.exists() {
                fs::remove_dir_all(&old).map_err(failed(&old, "remove the replaced checkpoint"))?;
            } else {
                fs::rename(&old, &place).map_err(failed(&old, "restore the checkpoint"))?;
            }
        }
        Ok(())
    }

    fn numbered(&self, prefix: &str) -> Result<Vec<u64>, CheckpointError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed(&self.path, "list the folder"))? {
            let entry = entry.map_err(failed(&self.path, "list the folder"))?;
            let name = entry.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|n| n.parse().ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }
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
            state: read_json(path, STATE_FILE)?,
            config_yaml: fs::read_to_string(&config).map_err(failed(&config, "read the configuration"))?,
        })
    }

    /// The Hugging Face folder with the weights.
    pub fn policy_folder(&self) -> PathBuf {
        self.path.join(POLICY_FOLDER)
    }

    /// Puts weights and optimizer state into a policy.
    ///
    /// # Errors
    /// When the checkpoint was saved without the optimizer, or the policy refuses a file.
    pub fn load_into(&self, policy: &mut dyn Policy) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError::Policy { path: self.path.clone(), source };
        let optimizer = self.path.join(OPTIMIZER_FILE);
        if !optimizer.exists() {
            return Err(CheckpointError::Missing { path: optimizer, checkpoint: self.path.clone() });
        }
        policy.load_weights(&self.policy_folder()).map_err(failed)?;
        policy.load_optimizer(&optimizer).map_err(failed)
    }
}

fn write_aside(
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
fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    match File::open(path) {
        Ok(folder) => folder.sync_all().map_err(failed(path, "flush the folder to the disk")),
        Err(_) => Ok(()),
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
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
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(FileRecord { bytes, sha256 })
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
