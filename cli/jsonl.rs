//! JSON files that are the user's own: read with errors that name file and line.

use std::path::Path;

use anyhow::Context;
use nemo_env::input;
use serde_json::Value;

/// Text of a file.
///
/// # Errors
/// When it cannot be read; the message says which file.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    input::read_text(path).with_context(|| unreadable(path))
}

fn unreadable(path: &Path) -> String {
    format!("cannot read {}; check the path and its permissions", path.display())
}

/// The JSON value of a file.
///
/// # Errors
/// When it cannot be read or is not JSON.
pub fn read_value(path: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&read_text(path)?)
        .with_context(|| format!("{} is not valid JSON; correct the place named here", path.display()))
}

/// One JSON value per line with its line number; blank lines are skipped.
///
/// # Errors
/// When the file cannot be read, a line is not JSON, or there is none.
pub fn read_lines(path: &Path) -> anyhow::Result<Vec<(usize, Value)>> {
    let mut values = Vec::new();
    for (number, line) in input::open_lines(path).with_context(|| unreadable(path))? {
        let place = || format!("{}:{number}", path.display());
        let value = serde_json::from_slice(&line.with_context(place)?)
            .with_context(|| format!("{}: not valid JSON; expected one JSON value per line", place()))?;
        values.push((number, value));
    }
    anyhow::ensure!(!values.is_empty(), "{}: found no lines; expected one JSON value per line", path.display());
    Ok(values)
}
