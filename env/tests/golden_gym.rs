//! Sequences of calls and verdicts recorded from NeMo Gym 0.7.0's own server, carried out in process.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `gym070/sequences.jsonl` (default: `shared/fixtures` beside the
//! repository), `NEMO_BURN_DATA` one with `workplace/csv_data` (default: `shared/data`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::path::{Path, PathBuf};

use nemo_env::{Tables, ToolCall, Workplace};
use serde_json::Value;

/// The folder of that name below the one that a variable names, or below the default one beside the repository. A
/// default that does not exist is `None`; a named one must exist.
fn folder(variable: &str, default: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(|named| PathBuf::from(named).join(name));
    let path = named
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(default).join(name));
    assert!(named.is_none() || path.is_dir(), "{variable}: no folder {}", path.display());
    if !path.is_dir() {
        println!("skipped: no folder {default}/{name} ({variable})");
    }
    path.is_dir().then_some(path)
}

fn calls(pairs: &Value) -> Vec<ToolCall> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    pairs.as_array().unwrap().iter().map(|pair| ToolCall { name: text(&pair[0]), arguments: text(&pair[1]) }).collect()
}

#[test]
fn answers_and_verdicts_are_those_of_gym_0_7_0() {
    let (Some(fixtures), Some(data)) =
        (folder("NEMO_BURN_FIXTURES", "fixtures", "gym070"), folder("NEMO_BURN_DATA", "data", "workplace"))
    else {
        return;
    };
    let workplace = Workplace::new(Tables::load_dir(data.join("csv_data")).unwrap());
    let text = std::fs::read_to_string(fixtures.join("sequences.jsonl")).unwrap();
    let (mut num_calls, mut num_of_server, mut num_verdicts, mut failures) = (0, 0, 0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut session = workplace.session();
        for call in case["calls"].as_array().unwrap() {
            let [name, arguments, expected] = ["name", "body", "answer"].map(|key| call[key].as_str().unwrap());
            // An agent answers malformed arguments itself, posts nothing for null, and ends no session.
            let is_posted = serde_json::from_str::<Value>(arguments).is_ok_and(|arguments| !arguments.is_null());
            if !is_posted || name == "close_session" {
                num_of_server += 1;
                continue;
            }
            let call = ToolCall { name: name.to_owned(), arguments: arguments.to_owned() };
            let answer = session.call(&call).body();
            num_calls += 1;
            if answer != expected {
                failures.push(format!("{} {name} {arguments}\n  answers  {answer}\n  expected {expected}", case["id"]));
            }
        }
        let verify = &case["verify"];
        let verdict = workplace.verify(&calls(&verify["predicted"]), &calls(&verify["ground_truth"]));
        num_verdicts += 1;
        let is_same = match verify["status"].as_u64() {
            Some(200) => verdict.clone().map(|earns| if earns { 1.0 } else { 0.0 }).ok() == verify["reward"].as_f64(),
            _ => verdict.is_err(),
        };
        if !is_same {
            failures.push(format!("{} verdict {verdict:?}, expected {}", case["id"], verify["reward"]));
        }
    }
    println!(
        "{num_calls} calls and {num_verdicts} verdicts of Gym 0.7.0, {} differ; {num_of_server} calls only a server answers",
        failures.len()
    );
    assert!(num_calls > 0, "no call in {}", fixtures.display());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
