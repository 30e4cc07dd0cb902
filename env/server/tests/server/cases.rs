//! Recorded answers of the reference, and the tables they belong to. The load generator reads them too.

use std::path::{Path, PathBuf};

use nemo_env::Tables;
use serde_json::Value;

/// The folder `part` below the one that a variable names, or below the default one beside the repository. A default
/// that does not exist is `None`; a named one must exist.
fn folder(variable: &str, default: &str, part: &str) -> Option<PathBuf> {
    let Some(named) = std::env::var_os(variable) else {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(default).join(part);
        if !path.is_dir() {
            println!("skipped: no folder {default}/{part} ({variable})");
        }
        return path.is_dir().then_some(path);
    };
    let path = PathBuf::from(named).join(part);
    assert!(path.is_dir(), "{variable}: no folder {}", path.display());
    Some(path)
}

/// The real tables.
pub fn tables() -> Option<Tables> {
    Some(Tables::load_dir(folder("NEMO_BURN_DATA", "data", "workplace")?.join("csv_data")).unwrap())
}

/// Every case recorded in the folder `part` of the fixtures, in files whose name contains `kind`.
pub fn cases(part: &str, kind: &str) -> Option<Vec<Value>> {
    let folder = folder("NEMO_BURN_FIXTURES", "fixtures", part)?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(kind) && name.ends_with(".jsonl")
        })
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        cases.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    assert!(!cases.is_empty(), "no {kind} case in {}", folder.display());
    Some(cases)
}

/// The path of a tool, with what has a meaning in paths written as `%XX`; slashes are left, to see where they lead.
pub fn path(name: &str) -> String {
    let mut path = String::from("/");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'/' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path
}

/// What is posted for the arguments of a call: for null the reference's agent sends no body.
pub fn posted(arguments: &Value) -> String {
    if arguments.is_null() { String::new() } else { arguments.to_string() }
}

/// A body with the list of mails sorted, for searches whose order is not defined.
pub fn without_order(body: &str) -> Value {
    let mut value: Value = serde_json::from_str(body).unwrap();
    if let Some(Value::Array(emails)) = value.pointer_mut("/output/emails") {
        emails.sort_by_key(Value::to_string);
    }
    value
}

/// Whether an answer is the recorded one.
pub fn is_as_recorded(call: &Value, status: u16, body: &str) -> bool {
    let expected = call["body"].as_str().unwrap();
    if call["status"].as_u64() != Some(u64::from(status)) {
        return false;
    }
    body == expected || (call["tie_order"] == Value::Bool(true) && without_order(body) == without_order(expected))
}
