//! Whatever stands in a file of task records: it is read or refused by file and line, what is read is written as it was,
//! and its ground truth can be carried out and scored.
//!
//! An input is the contents of the file.

use std::sync::LazyLock;

use nemo_env::{Dataset, DatasetError, Environment, Offices, Task, prepare, replay, verify_records};

use super::calls::small_tables;

static OFFICES: LazyLock<Offices> = LazyLock::new(|| Offices::with_tables(&small_tables()));
const PATH: &str = "folder/tasks.jsonl";

pub fn check(input: &[u8]) {
    match Dataset::parse(PATH, input) {
        Ok(dataset) => check_tasks(dataset),
        Err(error) => check_error(&error, input),
    }
    check_preparation(input);
}

fn num_lines(input: &[u8]) -> usize {
    input.split(|&byte| byte == b'\n').count()
}

fn check_error(error: &DatasetError, input: &[u8]) {
    let text = error.to_string();
    let expected = match error {
        DatasetError::Record { line, .. } => {
            assert!((1..=num_lines(input)).contains(line), "{text}");
            format!("{PATH}:{line}: ")
        }
        DatasetError::Empty { .. } => format!("{PATH}: found no records"),
        DatasetError::Io { .. } | DatasetError::Line { .. } => panic!("nothing was read from a disk: {text}"),
    };
    assert!(text.starts_with(&expected), "{text}");
}

fn check_tasks(mut dataset: Dataset) {
    let lines: String = dataset.tasks.iter().map(|task| task.to_json_line() + "\n").collect();
    assert_eq!(lines.lines().count(), dataset.len());
    assert_eq!(Dataset::parse(PATH, lines.as_bytes()).unwrap(), dataset);
    for task in &mut dataset.tasks {
        // Any number names an office, and making one takes a while.
        task.office = None;
        check_task(task);
    }
    let report = verify_records(&OFFICES, &dataset).unwrap();
    assert_eq!(report.num_tasks, dataset.len());
}

fn check_task(task: &Task) {
    let calls = &task.ground_truth;
    let outcome = OFFICES.score(task, calls).unwrap();
    let itself = OFFICES.unnamed().unwrap().verify(calls, calls);
    assert_eq!(outcome.reward == 1.0, itself == Ok(true));
    assert_ne!(itself, Ok(false));
    let idle = OFFICES.score(task, &[]).unwrap();
    assert_eq!(idle.reward == 1.0, outcome.do_nothing);
    let replayed = replay(&OFFICES, task, calls).unwrap();
    assert_eq!(replayed.results.len(), calls.len());
    assert_eq!(replay(&OFFICES, task, calls).unwrap(), replayed);
}

/// What is kept of the records can be read, and would be kept again.
fn check_preparation(input: &[u8]) {
    if input.windows(8).any(|bytes| bytes == b"\"office\"") {
        return;
    }
    let checked = prepare::check(input, &OFFICES).unwrap();
    let lines: Vec<&str> = checked.lines().collect();
    assert_eq!(lines.len() + checked.broken.len(), checked.num_records);
    assert!(checked.broken.iter().all(|record| (1..=num_lines(input)).contains(&record.line)));
    let text = lines.join("\n");
    let again = prepare::check(text.as_bytes(), &OFFICES).unwrap();
    assert!(again.broken.is_empty(), "{:?}", again.broken);
    assert!(again.lines().eq(lines));
}
