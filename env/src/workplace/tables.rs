//! The initial contents of an office: six tables of text cells, as they come from CSV files or from
//! the generator. Sessions never change them.
//!
//! Reading follows the reference (pandas, every column as text): an empty cell or one of pandas'
//! words for "missing" becomes `None`.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::input;

/// One row; `None` is a missing value.
pub type Row = Vec<Option<String>>;

pub const EMAIL_COLUMNS: [&str; 6] =
    ["email_id", "inbox/outbox", "sender/recipient", "subject", "sent_datetime", "body"];
pub const CALENDAR_COLUMNS: [&str; 5] = ["event_id", "event_name", "participant_email", "event_start", "duration"];
pub const TASK_COLUMNS: [&str; 6] = ["task_id", "task_name", "assigned_to_email", "list_name", "due_date", "board"];
pub const CUSTOMER_COLUMNS: [&str; 10] = [
    "customer_id",
    "assigned_to_email",
    "customer_name",
    "customer_email",
    "customer_phone",
    "last_contact_date",
    "product_interest",
    "status",
    "follow_up_by",
    "notes",
];
pub const ANALYTICS_COLUMNS: [&str; 6] =
    ["date_of_visit", "visitor_id", "page_views", "session_duration_seconds", "traffic_source", "user_engaged"];

/// The tables of one office. Every row has the cells of the matching `*_COLUMNS`, in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// [`EMAIL_COLUMNS`]; real data: 500 rows, `sent_datetime` ascending and distinct.
    pub emails: Vec<Row>,
    /// [`CALENDAR_COLUMNS`]; real data: 300 rows, `event_start` ascending and distinct.
    pub calendar_events: Vec<Row>,
    /// [`ANALYTICS_COLUMNS`]; real data: 1,000 rows; read-only.
    pub analytics: Vec<Row>,
    /// [`TASK_COLUMNS`]; real data: 300 rows, by `due_date`.
    pub project_tasks: Vec<Row>,
    /// [`CUSTOMER_COLUMNS`]; real data: 200 rows, `last_contact_date` descending.
    pub customers: Vec<Row>,
    /// E-mail addresses; real data: 20; read-only.
    pub directory: Vec<String>,
}

/// Why tables could not be read or written.
#[derive(Debug, Error)]
pub enum TablesError {
    #[error(
        "{path}: {source}; `nemo-burn env fetch` gets the tables of the real office, `nemo-burn env generate` makes others"
    )]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}: {source}; check the free space and permissions of its folder")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Csv { path: PathBuf, source: csv::Error },
    #[error("{path}: found the columns {found:?}, expected {expected:?}")]
    Columns { path: PathBuf, found: Vec<String>, expected: Vec<&'static str> },
    #[error("{path}:{line}: found {found} cells, expected {expected}")]
    Cells { path: PathBuf, line: u64, found: usize, expected: usize },
}

const EMAILS_FILE: &str = "processed/emails.csv";
const CALENDAR_FILE: &str = "processed/calendar_events.csv";
const ANALYTICS_FILE: &str = "processed/analytics_data.csv";
const TASKS_FILE: &str = "processed/project_tasks.csv";
const CUSTOMERS_FILE: &str = "processed/customer_relationship_manager_data.csv";
const DIRECTORY_FILE: &str = "raw/email_addresses.csv";

/// Cell texts that pandas reads as missing.
const MISSING_WORDS: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

fn cell(text: &str) -> Option<String> {
    (!MISSING_WORDS.contains(&text)).then(|| text.to_owned())
}

fn read_rows(dir: &Path, file: &str, columns: &[&'static str], has_header: bool) -> Result<Vec<Row>, TablesError> {
    let path = dir.join(file);
    let text = input::read_text(&path).map_err(|source| TablesError::Io { path: path.clone(), source })?;
    let mut reader = csv::ReaderBuilder::new().has_headers(has_header).flexible(true).from_reader(text.as_bytes());
    let csv_error = |source| TablesError::Csv { path: path.clone(), source };
    if has_header {
        let header = reader.headers().map_err(csv_error)?;
        if !header.iter().eq(columns.iter().copied()) {
            return Err(TablesError::Columns {
                found: header.iter().map(str::to_owned).collect(),
                expected: columns.to_vec(),
                path,
            });
        }
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        if record.len() != columns.len() {
            return Err(TablesError::Cells {
                line: record.position().map_or(0, csv::Position::line),
                found: record.len(),
                expected: columns.len(),
                path,
            });
        }
        rows.push(record.iter().map(cell).collect());
    }
    Ok(rows)
}

fn write_rows(dir: &Path, file: &str, columns: Option<&[&str]>, rows: &[Row]) -> Result<(), TablesError> {
    let path = dir.join(file);
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut writer = csv::Writer::from_path(&path)?;
        if let Some(columns) = columns {
            writer.write_record(columns)?;
        }
        for row in rows {
            writer.write_record(row.iter().map(|cell| cell.as_deref().unwrap_or("")))?;
        }
        writer.flush()
    };
    write().map_err(|source| TablesError::Write { path: path.clone(), source })
}

impl Tables {
    /// Reads `processed/*.csv` and `raw/email_addresses.csv` below `dir`.
    ///
    /// # Errors
    /// A missing or unreadable file, a header other than the expected one, a row of the wrong width.
    pub fn load_dir(dir: impl AsRef<Path>) -> Result<Self, TablesError> {
        let dir = dir.as_ref();
        Ok(Self {
            emails: read_rows(dir, EMAILS_FILE, &EMAIL_COLUMNS, true)?,
            calendar_events: read_rows(dir, CALENDAR_FILE, &CALENDAR_COLUMNS, true)?,
            analytics: read_rows(dir, ANALYTICS_FILE, &ANALYTICS_COLUMNS, true)?,
            project_tasks: read_rows(dir, TASKS_FILE, &TASK_COLUMNS, true)?,
            customers: read_rows(dir, CUSTOMERS_FILE, &CUSTOMER_COLUMNS, true)?,
            directory: read_rows(dir, DIRECTORY_FILE, &["email_address"], false)?
                .into_iter()
                .flatten()
                .flatten()
                .collect(),
        })
    }

    /// Writes the files that [`Tables::load_dir`] reads, creating the folders.
    pub fn write_dir(&self, dir: impl AsRef<Path>) -> Result<(), TablesError> {
        let dir = dir.as_ref();
        write_rows(dir, EMAILS_FILE, Some(&EMAIL_COLUMNS), &self.emails)?;
        write_rows(dir, CALENDAR_FILE, Some(&CALENDAR_COLUMNS), &self.calendar_events)?;
        write_rows(dir, ANALYTICS_FILE, Some(&ANALYTICS_COLUMNS), &self.analytics)?;
        write_rows(dir, TASKS_FILE, Some(&TASK_COLUMNS), &self.project_tasks)?;
        write_rows(dir, CUSTOMERS_FILE, Some(&CUSTOMER_COLUMNS), &self.customers)?;
        let directory: Vec<Row> = self.directory.iter().map(|address| vec![Some(address.clone())]).collect();
        write_rows(dir, DIRECTORY_FILE, None, &directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("nemo-env-tables-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn written_tables_read_back_the_same() {
        let folder = Folder::new("round-trip");
        let mut tables = crate::generate::office(1);
        tables.emails[0][5] = Some("quote \" comma , newline \n end".into());
        tables.customers[0][9] = None;
        tables.write_dir(&folder.0).unwrap();
        assert_eq!(Tables::load_dir(&folder.0).unwrap(), tables);
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let folder = Folder::new("errors");
        let load = || {
            let error = Tables::load_dir(&folder.0).unwrap_err().to_string();
            error.replace(&folder.0.display().to_string(), "DIR")
        };
        assert!(load().starts_with("DIR/processed/emails.csv: "));
        crate::generate::office(1).write_dir(&folder.0).unwrap();
        let path = folder.0.join(TASKS_FILE);
        std::fs::write(&path, "task_id,name\n1,2\n").unwrap();
        assert!(
            load().starts_with("DIR/processed/project_tasks.csv: found the columns [\"task_id\", \"name\"], expected")
        );
        std::fs::write(&path, format!("{}\n1,2\n", TASK_COLUMNS.join(","))).unwrap();
        assert_eq!(load(), "DIR/processed/project_tasks.csv:2: found 2 cells, expected 6");
    }
}
