//! A dataset file: one task record per line (JSONL).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::input;

use super::record::{RecordError, Task};
use super::split::{Split, split_point};

/// Tasks in the order of their file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    pub tasks: Vec<Task>,
}

/// Why a dataset could not be read or written.
#[derive(Debug, Error)]
pub enum DatasetError {
    #[error(
        "{path}: {source}; expected a readable JSONL file of task records, such as `nemo-burn env prepare` and \
         `nemo-burn env generate` write"
    )]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {source}")]
    Line {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        source: std::io::Error,
    },
    #[error("{path}:{line}: {source}")]
    Record {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        source: RecordError,
    },
    #[error("{path}: found no records; expected at least one task record per line")]
    Empty { path: PathBuf },
}

impl Dataset {
    /// Reads a JSONL file. Blank lines are skipped; a byte order mark is tolerated.
    ///
    /// # Errors
    /// The file cannot be read, holds no record, or a line is not a task record (the error names file
    /// and line).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let path = path.as_ref();
        let lines = input::open_lines(path).map_err(|source| DatasetError::Io { path: path.to_owned(), source })?;
        Self::of_lines(path, lines)
    }

    /// [`Dataset::load`] for the contents of a file that is read already; `path` is its name in errors.
    ///
    /// # Errors
    /// The file holds no record, or a line is not a task record (the error names file and line).
    pub fn parse(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self, DatasetError> {
        Self::of_lines(path.as_ref(), input::lines(bytes))
    }

    fn of_lines(
        path: &Path,
        lines: impl Iterator<Item = (usize, std::io::Result<Vec<u8>>)>,
    ) -> Result<Self, DatasetError> {
        let mut tasks: Vec<Task> = Vec::new();
        for (line, bytes) in lines {
            let bytes = bytes.map_err(|source| DatasetError::Line { path: path.to_owned(), line, source })?;
            let error = |source| DatasetError::Record { path: path.to_owned(), line, source };
            let mut task = record_text(&bytes).and_then(Task::from_json_line).map_err(error)?;
            // Records usually carry the same tools; they are kept once.
            if let Some(last) = tasks.last().filter(|last| last.tools == task.tools) {
                task.tools = Arc::clone(&last.tools);
            }
            tasks.push(task);
        }
        if tasks.is_empty() {
            return Err(DatasetError::Empty { path: path.to_owned() });
        }
        Ok(Self { tasks })
    }

    /// The line, from 1, of the task at a position of a file; `None` if the file has no such task any more.
    pub fn line_of(path: impl AsRef<Path>, position: usize) -> Option<usize> {
        input::open_lines(path).ok()?.nth(position).map(|(line, _)| line)
    }

    /// Writes the records, one a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), DatasetError> {
        let path = path.as_ref();
        let mut text = String::new();
        for task in &self.tasks {
            text.push_str(&task.to_json_line());
            text.push('\n');
        }
        std::fs::write(path, text).map_err(|source| DatasetError::Io { path: path.to_owned(), source })
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Cuts the dataset in two, in file order: the first nine tenths for training, the rest for
    /// validation.
    pub fn split(self) -> Split {
        let mut training = self.tasks;
        let validation = training.split_off(split_point(training.len()));
        Split { training: Self { tasks: training }, validation: Self { tasks: validation } }
    }
}

/// A line as text.
pub(crate) fn record_text(line: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(line).map_err(RecordError::NotText)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn load(text: impl AsRef<[u8]>) -> Result<Dataset, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nemo-env-dataset-{}-{count}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).map_err(|e| e.to_string())?;
        let result = Dataset::load(&path).map_err(|error| {
            let name = path.display().to_string();
            error.to_string().replace(&name, "FILE")
        });
        std::fs::remove_file(&path).map_err(|e| e.to_string())?;
        result
    }

    const RECORD: &str = r#"{"id":7,"responses_create_params":{"input":[{"role":"user","content":"Hi"}],"tools":[]},"ground_truth":[{"name":"email_delete_email","arguments":"{}"}],"more":1}"#;

    #[test]
    fn reads_records_and_skips_blank_lines() {
        let dataset = load(format!("\u{feff}{RECORD}\n\n{RECORD}\n")).unwrap();
        assert_eq!(dataset.len(), 2);
        assert_eq!(dataset.tasks[0].id, 7);
        assert!(Arc::ptr_eq(&dataset.tasks[0].tools, &dataset.tasks[1].tools));
        let line = dataset.tasks[0].to_json_line();
        assert_eq!(Task::from_json_line(&line).unwrap(), dataset.tasks[0]);
    }

    #[test]
    fn messages_keep_every_field_they_have() {
        let input = r#"[{"role":"system","content":[{"type":"input_text","text":"S"}],"name":"boss"},{"role":"assistant","content":null,"tool_calls":[{"id":"c","name":"f","arguments":"{}"}]},{"role":"tool","content":"r","tool_call_id":"c"}]"#;
        let record = RECORD.replace(r#"[{"role":"user","content":"Hi"}]"#, input);
        let task = Task::from_json_line(&record).unwrap();
        assert_eq!(task.messages[0].content, "S");
        assert_eq!(task.messages[0].more["name"], "boss");
        assert_eq!((&*task.messages[1].content, &task.messages[1].more["tool_calls"][0]["id"]), ("", &"c".into()));
        assert_eq!(task.messages[2].more["tool_call_id"], "c");
        assert_eq!(Task::from_json_line(&task.to_json_line()).unwrap(), task);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, expected) in [
            ("", "FILE: found no records"),
            ("{\"id\":", "FILE:1: not valid JSON"),
            ("[1]", "FILE:1: found a list, expected a JSON object"),
            (&RECORD.replace("\"id\":7,", ""), "FILE:1: key `id` is missing"),
            (&RECORD.replace(":7,", ":-7,"), "FILE:1: key `id` holds a number (-7)"),
            (
                &format!("{RECORD}\n{}", RECORD.replace("\"user\"", "\"me\"")),
                "FILE:2: key `responses_create_params.input[0].role` holds a string (\"me\")",
            ),
            (
                &RECORD.replace("\"Hi\"", "\"Hi\",\"tool_calls\":[{\"name\":\"f\"}]"),
                "FILE:1: key `responses_create_params.input[0].tool_calls[0]` holds an object",
            ),
            (
                &RECORD.replace("[{\"name\":\"email_delete_email\",\"arguments\":\"{}\"}]", "\"[]\""),
                "FILE:1: `ground_truth` is a string (\"[]\")",
            ),
            (&RECORD.replace("\"{}\"", "{}"), "FILE:1: key `ground_truth[0]` holds an object"),
            (
                &format!("{RECORD}\n{}", RECORD.replace("email_delete_email", "email_burn")),
                "FILE:2: `ground_truth[0]` calls \"email_burn\": there is no such tool",
            ),
            (
                &RECORD.replace("\"{}\"", "\"{oops\""),
                "FILE:1: `ground_truth[0]` calls \"email_delete_email\": the arguments are not JSON (Expecting property",
            ),
            (
                &RECORD.replace("\"{}\"", "\"[1]\""),
                "FILE:1: `ground_truth[0]` calls \"email_delete_email\": the arguments",
            ),
            (
                &RECORD.replace("\"{}\"", "\"{\\\"id\\\":1}\""),
                "FILE:1: `ground_truth[0]` calls \"email_delete_email\": EmailTool.delete_email() got an unexpected",
            ),
            (
                &RECORD.replace(
                    "\"more\":1",
                    "\"demonstration\":{\"calls\":[{\"name\":\"x\",\"arguments\":\"{}\"}],\"final_text\":\"\"}",
                ),
                "FILE:1: `demonstration.calls[0]` calls \"x\": there is no such tool",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{error:?} for {text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_found_in_their_line() {
        let error = load([RECORD.as_bytes(), b"\n\n", &RECORD.as_bytes()[..9], b"\xff\n{"].concat()).unwrap_err();
        assert!(error.starts_with("FILE:3: not UTF-8 text"), "{error:?}");
    }

    #[test]
    fn splits_nine_to_one() {
        let dataset = load(format!("{RECORD}\n").repeat(1255)).unwrap();
        let split = dataset.split();
        assert_eq!((split.training.len(), split.validation.len()), (1129, 126));
    }

    #[test]
    fn missing_file() {
        let error = Dataset::load("/nowhere/tasks.jsonl").unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/tasks.jsonl: "), "{error}");
    }
}
