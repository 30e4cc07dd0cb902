//! The seam between the training loop and the simulated world: sessions for rollouts, rewards for
//! finished ones.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::EnvError;
use crate::generate;
use crate::task::record::Task;
use crate::tool::ToolCall;
use crate::workplace::tables::Tables;
use crate::workplace::{Session, Workplace};

/// What a finished list of calls earned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// 1 if the final tables equal those of the ground truth, else 0.
    pub reward: f64,
    /// Whether doing nothing would have earned the reward too.
    pub do_nothing: bool,
}

/// A world in which tasks are carried out by calling tools.
pub trait Environment: Send + Sync {
    /// A fresh session for one rollout of the task.
    ///
    /// # Errors
    /// The task's office is unknown or its tables cannot be read.
    fn reset(&self, task: &Task) -> Result<Box<dyn EnvSession>, EnvError>;

    /// Scores all calls of a rollout, in order. Sessions play no part in it: calls and ground truth
    /// are replayed on fresh tables.
    ///
    /// # Errors
    /// As for [`Environment::reset`].
    fn score(&self, task: &Task, calls: &[ToolCall]) -> Result<Outcome, EnvError>;
}

/// The tools of one rollout.
pub trait EnvSession: Send {
    /// Runs a call and returns the text that the model is shown. Never fails: mistakes of the model
    /// are answered.
    fn call(&mut self, call: &ToolCall) -> String;
}

impl EnvSession for Session {
    fn call(&mut self, call: &ToolCall) -> String {
        Session::call(self, call).body()
    }
}

/// The Workplace Assistant over many offices.
///
/// A task names its office. `None` means the tables given at construction. `office-0007` is read from
/// `offices/office-0007/` below the tables folder if there is one, and otherwise generated from the
/// number in its name. Offices are kept once made.
#[derive(Debug, Default)]
pub struct Offices {
    default: Option<Arc<Workplace>>,
    folder: Option<PathBuf>,
    cache: Mutex<HashMap<String, Arc<Workplace>>>,
}

/// Names of generated offices start so; the rest is the seed.
const OFFICE_PREFIX: &str = "office-";

impl Offices {
    /// Generated offices only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offices, with `tables` for the tasks that name none.
    pub fn with_tables(tables: &Tables) -> Self {
        Self { default: Some(Arc::new(Workplace::new(tables))), ..Self::default() }
    }

    /// Offices below `folder`: its own tables if it holds any (`processed/` and `raw/`), and those
    /// in `offices/NAME/`.
    ///
    /// # Errors
    /// The folder holds neither, or its tables cannot be read.
    pub fn with_folder(folder: impl Into<PathBuf>) -> Result<Self, EnvError> {
        let folder = folder.into();
        let is_only_offices = folder.join("offices").is_dir() && !folder.join("processed").exists();
        let default = if is_only_offices { None } else { Some(Arc::new(Workplace::new(&Tables::load_dir(&folder)?))) };
        Ok(Self { default, folder: Some(folder), cache: Mutex::default() })
    }

    /// The office of tasks that name none, if there is one.
    pub fn unnamed(&self) -> Option<Arc<Workplace>> {
        self.default.clone()
    }

    /// Names of the offices in the tables folder, in order; none if there is no such folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> std::io::Result<Vec<String>> {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join("offices")).filter(|folder| folder.is_dir())
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in folder.read_dir()? {
            let entry = entry?;
            if entry.path().is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The office a task is about.
    ///
    /// # Errors
    /// The office is unknown or its tables cannot be read.
    pub fn workplace(&self, task: &Task) -> Result<Arc<Workplace>, EnvError> {
        match &task.office {
            Some(office) => {
                self.office(office)?.ok_or_else(|| EnvError::UnknownOffice { task: task.id, office: office.clone() })
            }
            None => self.default.clone().ok_or(EnvError::NoTables { task: task.id }),
        }
    }

    /// The office of that name; `None` if the name is not one.
    ///
    /// # Errors
    /// Its tables cannot be read.
    pub fn office(&self, name: &str) -> Result<Option<Arc<Workplace>>, EnvError> {
        // The lock is held while an office is made, so that no two threads make the same one.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workplace) = cache.get(name) {
            return Ok(Some(Arc::clone(workplace)));
        }
        // An empty name would be the folder of all offices.
        let is_plain_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        let folder = self
            .folder
            .as_ref()
            .map(|folder| folder.join("offices").join(name))
            .filter(|folder| is_plain_name && folder.is_dir());
        let tables = match folder {
            Some(folder) => Tables::load_dir(folder)?,
            None => match name.strip_prefix(OFFICE_PREFIX).map(str::parse) {
                Some(Ok(seed)) => generate::office(seed),
                _ => return Ok(None),
            },
        };
        let workplace = Arc::new(Workplace::new(&tables));
        cache.insert(name.to_owned(), Arc::clone(&workplace));
        Ok(Some(workplace))
    }
}

impl Environment for Offices {
    fn reset(&self, task: &Task) -> Result<Box<dyn EnvSession>, EnvError> {
        Ok(Box::new(self.workplace(task)?.session()))
    }

    fn score(&self, task: &Task, calls: &[ToolCall]) -> Result<Outcome, EnvError> {
        let workplace = self.workplace(task)?;
        // States that the reference cannot compare earn nothing; a model must not be able to end a
        // run by producing one.
        let earns = |calls: &[ToolCall]| workplace.verify(calls, &task.ground_truth).unwrap_or(false);
        Ok(Outcome { reward: if earns(calls) { 1.0 } else { 0.0 }, do_nothing: earns(&[]) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(office: Option<&str>, ground_truth: Vec<ToolCall>) -> Task {
        Task {
            id: 5,
            messages: Vec::new(),
            tools: Arc::default(),
            parallel_tool_calls: false,
            temperature: None,
            ground_truth,
            category: String::new(),
            environment_name: String::new(),
            office: office.map(str::to_owned),
            provenance: None,
            demonstration: None,
        }
    }

    fn delete(id: &str) -> ToolCall {
        ToolCall::new("email_delete_email", &json!({"email_id": id}))
    }

    #[test]
    fn scores_by_final_state() {
        let offices = Offices::new();
        let task = task(Some("office-0002"), vec![delete("00000007")]);
        let score = |calls: &[ToolCall]| offices.score(&task, calls).unwrap();
        let rewarded = score(&[delete("99999999"), delete("00000007")]);
        assert_eq!(rewarded, Outcome { reward: 1.0, do_nothing: false });
        assert_eq!(score(&[]).reward, 0.0);
        let mut session = offices.reset(&task).unwrap();
        assert_eq!(session.call(&delete("00000007")), "{\"output\":\"Email deleted successfully.\"}");
        // Another session of the same office still has the mail.
        let mut session = offices.reset(&task).unwrap();
        assert!(session.call(&delete("00000007")).contains("deleted"));
    }

    #[test]
    fn tells_when_nothing_is_to_be_done() {
        let offices = Offices::new();
        let task = task(Some("office-0002"), Vec::new());
        assert_eq!(offices.score(&task, &[delete("00000007")]).unwrap(), Outcome { reward: 0.0, do_nothing: true });
    }

    #[test]
    fn offices_come_from_their_number_or_folder() {
        let offices = Offices::new();
        let one = offices.office("office-0007").unwrap().unwrap();
        let again = offices.office("office-0007").unwrap().unwrap();
        assert!(Arc::ptr_eq(&one, &again));
        for name in ["office-x", "office-", "elsewhere", "../office-0001", ""] {
            assert!(offices.office(name).unwrap().is_none(), "{name}");
        }
        let error = offices.reset(&task(None, Vec::new())).err().unwrap();
        assert!(error.to_string().starts_with("task 5 names no office"));
        let error = offices.reset(&task(Some("x"), Vec::new())).err().unwrap();
        assert!(error.to_string().starts_with("task 5: unknown office \"x\""));

        let folder = std::env::temp_dir().join(format!("nemo-env-offices-{}", std::process::id()));
        let mut tables = generate::office(1);
        tables.directory = vec!["only@example.com".into()];
        tables.write_dir(folder.join("offices/office-0007")).unwrap();
        let offices = Offices::with_folder(&folder).unwrap();
        for name in ["", ".", "..", "office-x"] {
            assert!(offices.office(name).unwrap().is_none(), "{name}");
        }
        assert_eq!(offices.names().unwrap(), ["office-0007"]);
        let mut session = offices.reset(&task(Some("office-0007"), Vec::new())).unwrap();
        let call = ToolCall::new("company_directory_find_email_address", &json!({"name": "o"}));
        assert_eq!(session.call(&call), "{\"output\":[\"only@example.com\"]}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
