//! The results folder of a run: which one it is, whose it is, and the checkpoints in it.
//!
//! A folder belongs to one process at a time. The operating system holds the lock, so it is gone with the process however
//! that ends; the number in the lock file only tells others whom to wait for.
//!
//! Runs started afresh lie beside the first as `NAME-2`, `NAME-3`, …. Such a folder says whose it is, since a folder of
//! that name may as well be another run's.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, CheckpointError, TrainState, failed, read_state, sync_folder, write_aside};
use crate::policy::api::Policy;
use crate::retention::Retention;

/// Held by the process that the folder belongs to, whose number it contains.
const LOCK_FILE: &str = ".lock";
/// In a folder made by `--fresh`: the name of the folder it lies beside.
const SIBLING_FILE: &str = ".started_beside";

/// The results folder of one run, locked until this value is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: File,
    /// Whether there was none before.
    is_new: bool,
}

impl RunFolder {
    /// The folder of the run called `base`, or the latest of those that were started afresh beside it. `fresh` starts the
    /// next, unless there is nothing to lie beside. `process` is the number of this process, which others are told.
    ///
    /// # Errors
    /// When the folder cannot be created or written to, or belongs to another process.
    pub fn open(base: &Path, fresh: bool, process: u32) -> Result<Self, CheckpointError> {
        let siblings = Siblings::of(base);
        let mut first = 1;
        let (folder, number) = loop {
            let number = siblings.choose(fresh, first)?;
            match Self::lock(siblings.path(number), process) {
                // Another process has started afresh at the same time.
                Err(CheckpointError::Locked { .. }) if fresh => first = number + 1,
                locked => break (locked?, number),
            }
        };
        let record = folder.path.join(SIBLING_FILE);
        if number > 1 && !record.exists() {
            fs::write(&record, &siblings.name).map_err(failed(&record, "write to the results folder"))?;
        }
        Ok(folder)
    }

    /// The folder that [`RunFolder::open`] would take, and the checkpoint that a run would continue from. Nothing is
    /// written.
    ///
    /// # Errors
    /// When the folder is there and cannot be listed or belongs to another process, or the checkpoint is damaged.
    pub fn find(base: &Path, fresh: bool) -> Result<(PathBuf, Option<Checkpoint>), CheckpointError> {
        let siblings = Siblings::of(base);
        let path = siblings.path(siblings.choose(fresh, 1)?);
        if let Ok(mut file) = File::open(path.join(LOCK_FILE))
            && let Err(TryLockError::WouldBlock) = file.try_lock_shared()
        {
            return Err(locked(path, &mut file));
        }
        let step = if path.exists() { numbered(&path, "step_")?.into_iter().max() } else { None };
        let checkpoint = step.map(|step| Checkpoint::open(&path.join(format!("step_{step}")))).transpose()?;
        Ok((path, checkpoint))
    }

    fn lock(path: PathBuf, process: u32) -> Result<Self, CheckpointError> {
        let (lock, is_new) = loop {
            let is_new = !path.exists();
            fs::create_dir_all(&path).map_err(failed(&path, "create the results folder"))?;
            let file = path.join(LOCK_FILE);
            let opened = File::options().read(true).write(true).create(true).truncate(false).open(&file);
            let mut lock = opened.map_err(failed(&path, "write to the results folder"))?;
            match lock.try_lock() {
                // Its last owner may have removed the folder in between.
                Ok(()) if file.exists() => break (lock, is_new),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(locked(path, &mut lock)),
                Err(TryLockError::Error(source)) => return Err(failed(&path, "lock the results folder")(source)),
            }
        };
        let mut folder = Self { path, lock, is_new };
        folder.sign(process).map_err(failed(&folder.path, "write to the results folder"))?;
        folder.recover()?;
        Ok(folder)
    }

    /// Writes a process's number over the last one; also shows that the folder can be written to, now instead of
    /// after the first steps.
    fn sign(&mut self, process: u32) -> std::io::Result<()> {
        let number = format!("{process}\n");
        self.lock.seek(SeekFrom::Start(0))?;
        self.lock.write_all(number.as_bytes())?;
        self.lock.set_len(number.len() as u64)
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
        let mut steps = numbered(&self.path, "step_")?;
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
            let state = read_state(&self.step_path(step))?;
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
        for step in numbered(&self.path, "old_step_")? {
            let (old, place) = (self.path.join(format!("old_step_{step}")), self.step_path(step));
            if place.exists() {
                fs::remove_dir_all(&old).map_err(failed(&old, "remove the replaced checkpoint"))?;
            } else {
                fs::rename(&old, &place).map_err(failed(&old, "restore the checkpoint"))?;
            }
        }
        Ok(())
    }
}

impl Drop for RunFolder {
    /// A start that fails before anything is written leaves no folder behind.
    fn drop(&mut self) {
        if self.is_new && is_empty(&self.path) {
            // Best effort: what remains is an empty folder.
            let _ = fs::remove_file(self.path.join(SIBLING_FILE));
            let _ = fs::remove_file(self.path.join(LOCK_FILE));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// The folders beside a run's first one that were started afresh.
struct Siblings {
    /// The first folder.
    base: PathBuf,
    /// Where they lie.
    parent: PathBuf,
    /// Name of the first folder.
    name: String,
}

impl Siblings {
    /// The number of the folder to start in, for a fresh start at least `first`.
    fn choose(&self, fresh: bool, first: u64) -> Result<u64, CheckpointError> {
        let latest = self.latest()?.unwrap_or(1);
        if !fresh || (latest >= first && is_empty(&self.path(latest))) {
            return Ok(latest);
        }
        let mut number = first.max(latest + 1);
        while self.path(number).exists() {
            number += 1;
        }
        Ok(number)
    }

    fn of(base: &Path) -> Self {
        // `.` and `..` have a name only in full.
        let named = match base.file_name() {
            Some(_) => base.to_owned(),
            None => base.canonicalize().unwrap_or_else(|_| base.to_owned()),
        };
        let name = named.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { base: base.to_owned(), parent: named.parent().unwrap_or(Path::new("")).to_owned(), name }
    }

    /// The folder of a number; the first is number 1.
    fn path(&self, number: u64) -> PathBuf {
        match number {
            1 => self.base.clone(),
            _ => self.parent.join(format!("{}-{number}", self.name)),
        }
    }

    /// The highest number of a folder that says it was started beside this run.
    fn latest(&self) -> Result<Option<u64>, CheckpointError> {
        let parent = if self.parent.as_os_str().is_empty() { Path::new(".") } else { &self.parent };
        if !parent.is_dir() {
            return Ok(None);
        }
        let is_sibling = |number: &u64| {
            fs::read_to_string(self.path(*number).join(SIBLING_FILE)).is_ok_and(|name| name == self.name)
        };
        Ok(numbered(parent, &format!("{}-", self.name))?.into_iter().filter(is_sibling).max())
    }
}

/// The error for a folder whose lock file another process holds.
fn locked(path: PathBuf, file: &mut File) -> CheckpointError {
    let mut owner = String::new();
    // Without a number the message says less, that is all.
    let _ = file.read_to_string(&mut owner);
    CheckpointError::Locked { path, owner: owner.trim().to_owned() }
}

/// Whether a folder is absent or holds nothing of a run.
fn is_empty(path: &Path) -> bool {
    let is_own = |entry: &fs::DirEntry| entry.file_name() == LOCK_FILE || entry.file_name() == SIBLING_FILE;
    fs::read_dir(path).map_or(true, |entries| entries.flatten().all(|entry| is_own(&entry)))
}

/// The numbers that follow `prefix` in the names of a folder's entries.
fn numbered(path: &Path, prefix: &str) -> Result<Vec<u64>, CheckpointError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path).map_err(failed(path, "list the folder"))? {
        let entry = entry.map_err(failed(path, "list the folder"))?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(prefix)).unwrap_or_default();
        // As it is written here, without zeros in front: the name of another is not taken for it.
        numbers.extend(digits.parse().ok().filter(|number: &u64| number.to_string() == digits));
    }
    Ok(numbers)
}
