//! The simulated office against recorded answers of the reference.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `workplace/*.jsonl` (default: `shared/fixtures` beside the
//! repository), `NEMO_BURN_DATA` one with `workplace/csv_data` and task files (default: `shared/data`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nemo_env::{Dataset, Offices, Session, Tables, ToolCall, Workplace, verify_records};
use serde_json::Value;

/// The folder that a variable names, or the default one beside the repository. A default that does
/// not exist is `None`; a named one must exist.
fn folder(variable: &str, default: &str) -> Option<PathBuf> {
    match std::env::var_os(variable) {
        Some(named) => {
            let path = PathBuf::from(named).join("workplace");
            assert!(path.is_dir(), "{variable}: no folder {}", path.display());
            Some(path)
        }
        None => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(default).join("workplace");
            path.is_dir().then_some(path)
        }
    }
}

fn fixtures() -> Option<PathBuf> {
    let found = folder("NEMO_BURN_FIXTURES", "fixtures");
    if found.is_none() {
        println!("skipped: no fixtures folder (NEMO_BURN_FIXTURES)");
    }
    found
}

fn data() -> Option<PathBuf> {
    let found = folder("NEMO_BURN_DATA", "data");
    if found.is_none() {
        println!("skipped: no data folder (NEMO_BURN_DATA)");
    }
    found
}

fn tables(data: &Path) -> Tables {
    Tables::load_dir(data.join("csv_data")).unwrap()
}

fn lines(folder: &Path, prefix: &str) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(prefix) && name.ends_with(".jsonl")
        })
        .collect();
    files.sort();
    let cases: Vec<Value> = files
        .iter()
        .flat_map(|file| {
            std::fs::read_to_string(file)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<Value>>()
        })
        .collect();
    assert!(!cases.is_empty(), "no {prefix} case in {}", folder.display());
    cases
}

fn calls(value: &Value) -> Vec<ToolCall> {
    let Value::Array(items) = value else {
        return Vec::new();
    };
    items
        .iter()
        .map(|item| ToolCall {
            name: item["name"].as_str().unwrap().to_owned(),
            arguments: match &item["arguments"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        })
        .collect()
}

/// A body with the list of mails sorted, for searches whose order is not defined.
fn without_order(body: &str) -> Value {
    let mut value: Value = serde_json::from_str(body).unwrap();
    if let Some(Value::Array(emails)) = value.pointer_mut("/output/emails") {
        emails.sort_by_key(Value::to_string);
    }
    value
}

/// What in a sequence differs from the recording, if anything does.
fn differences(mut session: Session, case: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for call in case["calls"].as_array().unwrap() {
        let name = call["name"].as_str().unwrap().to_owned();
        // Calls to endpoints that are no tools are refused here on purpose.
        if matches!(&*name, "seed_session" | "verify" | "aggregate_metrics") {
            continue;
        }
        let arguments = call["arguments"].to_string();
        let body = session.call(&ToolCall { name, arguments }).body();
        let expected = call["body"].as_str().unwrap();
        let is_same = if call["tie_order"] == Value::Bool(true) {
            without_order(&body) == without_order(expected)
        } else {
            body == expected
        };
        if !is_same {
            found.push(format!("{} {}\n    answers  {body}\n    expected {expected}", call["name"], call["arguments"]));
        }
    }
    let changes = session.changes();
    for (table, digest) in session.digests() {
        if case["end_state"][table]["sha256"] != *digest {
            found.push(format!("end state of {table}"));
        }
        let changed = changes.iter().any(|change| change.table == table);
        if case["end_state"][table]["changed"] != changed {
            found.push(format!("whether {table} changed"));
        }
    }
    if case["end_state"]["analytics_session_duration_is_float"] != session.session_duration_is_float() {
        found.push("type of session durations".into());
    }
    found
}

/// Counts per tier: all, exact.
type Counts = BTreeMap<String, (usize, usize)>;

fn count(counts: &mut Counts, tier: &Value, is_exact: bool) {
    let tier = tier.as_str().unwrap_or("curated").to_owned();
    let (all, exact) = counts.entry(tier).or_default();
    *all += 1;
    *exact += usize::from(is_exact);
}

#[test]
fn sequences_are_answered_exactly() {
    let (Some(fixtures), Some(data)) = (fixtures(), data()) else {
        return;
    };
    let workplace = Workplace::new(tables(&data));
    let mut counts = Counts::new();
    let mut failures = Vec::new();
    for case in lines(&fixtures, "sequences") {
        let differences = differences(workplace.session(), &case);
        count(&mut counts, &case["tier"], differences.is_empty());
        if !differences.is_empty() {
            failures.push(format!("{} ({}): {}", case["id"], case["tier"], differences.join("\n  ")));
        }
    }
    println!("sequences (all, exact): {counts:?}");
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn rewards_are_those_of_the_reference() {
    let (Some(fixtures), Some(data)) = (fixtures(), data()) else {
        return;
    };
    let workplace = Workplace::new(tables(&data));
    let mut counts = Counts::new();
    let mut failures = Vec::new();
    for case in lines(&fixtures, "verify") {
        let reward = workplace.verify(&calls(&case["predicted"]), &calls(&case["ground_truth"]));
        let is_exact = match case["expected"].as_bool() {
            Some(expected) => reward == Ok(expected),
            // The reference answers with a server error.
            None => reward.is_err(),
        };
        count(&mut counts, &case["kind"], is_exact);
        if !is_exact {
            failures.push(format!("{} ({}): {reward:?}", case["id"], case["kind"]));
        }
    }
    println!("verify pairs (all, exact): {counts:?}");
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn real_records() {
    let Some(data) = data() else {
        return;
    };
    let offices = Offices::with_tables(&tables(&data));
    for (file, num_tasks) in [("example.jsonl", 5), ("workbench_690.jsonl", 690)] {
        let path = data.join(file);
        if !path.exists() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let dataset = Dataset::load(&path).unwrap();
        let start = std::time::Instant::now();
        let report = verify_records(&offices, &dataset).unwrap();
        println!("{file}: checked in {:?}", start.elapsed());
        println!(
            "{file}: {} tasks, {} rewarded for nothing, {} with several calls, {} order-dependent",
            report.num_tasks,
            report.rewarded_for_nothing.len(),
            report.num_multi_call,
            report.order_dependent.len()
        );
        assert_eq!(report.num_tasks, num_tasks);
        assert_eq!(report.num_ground_truth_rewarded, num_tasks);
        assert_eq!(report.failed_calls, []);
        if num_tasks == 690 {
            assert_eq!(report.rewarded_for_nothing.len(), 124);
            assert_eq!((report.num_multi_call, report.order_dependent.len()), (152, 36));
        }
    }
}

#[test]
fn tool_schemas_have_the_reference_shape() {
    let Some(data) = data() else {
        return;
    };
    let text = std::fs::read_to_string(data.join("tools_schemas.json")).unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    let mut actual = serde_json::to_value(&*Workplace::tools()).unwrap();
    for schemas in [&mut expected, &mut actual] {
        for schema in schemas.as_array_mut().unwrap() {
            blank_descriptions(schema);
        }
    }
    // As text, so that the order of keys counts.
    assert_eq!(actual.to_string(), expected.to_string());
}

fn blank_descriptions(schema: &mut Value) {
    schema["description"] = "".into();
    let properties = schema["parameters"]["properties"].as_object_mut().unwrap();
    for property in properties.values_mut() {
        property["description"] = "".into();
    }
}
