//! Speed of the simulated office on recorded calls: `cargo bench -p nemo-env`.
//!
//! Answers and rewards are compared with the recorded ones first, then timed, all on one thread. Rates are per second of
//! processor time, so that other work on the machine does not change them; the wall clock's are printed beside them.
//! `NEMO_BURN_FIXTURES` and `NEMO_BURN_DATA` name the folders with the recordings and the tables, as in the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark is run by a person, who is told what was skipped"
)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nemo_env::{Session, Tables, ToolCall, Workplace};
use serde_json::Value;

const RESETS_BAR: f64 = 1_000_000.0;
const CALLS_BAR: f64 = 100_000.0;
const VERIFY_BAR: f64 = 50_000.0;
const NUM_SESSIONS: usize = 10_000;
const CALLS_PER_SESSION: usize = 6;
const MEMORY_BAR_BYTES: u64 = 200 << 20;

const NUM_ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);

fn main() {
    let (Some(data), Some(fixtures)) = (folder("NEMO_BURN_DATA", "data"), folder("NEMO_BURN_FIXTURES", "fixtures"))
    else {
        println!("skipped: no tables (NEMO_BURN_DATA) or no recordings (NEMO_BURN_FIXTURES)");
        return;
    };
    let workplace = Workplace::new(Tables::load_dir(data.join("csv_data")).unwrap());
    let sequences = sequences(&fixtures);
    let pairs = pairs(&fixtures);
    memory(&workplace, &sequences);
    check_sequences(&workplace, &sequences);
    check_pairs(&workplace, &pairs);

    println!("{:<44} {:>12} {:>12} {:>12}  bar", "", "per CPU s", "per wall s", "us each");
    let resets = measure(|| {
        for _ in 0..1000 {
            black_box(black_box(&workplace).session());
        }
        1000
    });
    resets.print("reset", RESETS_BAR);

    let num_calls: usize = sequences.iter().map(|sequence| sequence.calls.len()).sum();
    let calls = measure(|| {
        for sequence in &sequences {
            let mut session = workplace.session();
            for (call, _) in &sequence.calls {
                black_box(session.call(call).body());
            }
        }
        num_calls
    });
    calls.print(&format!("tool calls ({num_calls} of tier core)"), CALLS_BAR);

    let verify = measure(|| {
        for pair in &pairs {
            let _ = black_box(workplace.verify(&pair.predicted, &pair.ground_truth));
        }
        pairs.len()
    });
    verify.print(&format!("verify ({} pairs)", pairs.len()), VERIFY_BAR);
    by_tool(&workplace, &sequences);
}

/// As in the tests: the folder that a variable names, or the default one beside the repository.
fn folder(variable: &str, default: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os(variable) {
        Some(named) => PathBuf::from(named),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(default),
    };
    Some(folder.join("workplace")).filter(|folder| folder.is_dir())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Recorded calls of one session with their answers; `None` where the order of rows is not defined.
struct Sequence {
    calls: Vec<(ToolCall, Option<String>)>,
}

fn sequences(fixtures: &Path) -> Vec<Sequence> {
    let call = |call: &Value| {
        let answer = (call["tie_order"] != Value::Bool(true)).then(|| call["body"].as_str().unwrap().to_owned());
        (ToolCall::new(call["name"].as_str().unwrap(), &call["arguments"]), answer)
    };
    lines(&fixtures.join("sequences.jsonl"))
        .iter()
        .filter(|case| case["tier"] == "core")
        .map(|case| Sequence { calls: case["calls"].as_array().unwrap().iter().map(call).collect() })
        .collect()
}

struct Pair {
    predicted: Vec<ToolCall>,
    ground_truth: Vec<ToolCall>,
    expected: Option<bool>,
}

fn pairs(fixtures: &Path) -> Vec<Pair> {
    let calls = |value: &Value| -> Vec<ToolCall> {
        let call = |call: &Value| ToolCall {
            name: call["name"].as_str().unwrap().to_owned(),
            arguments: call["arguments"].as_str().unwrap().to_owned(),
        };
        value.as_array().map(|items| items.iter().map(call).collect()).unwrap_or_default()
    };
    let mut cases = lines(&fixtures.join("verify.jsonl"));
    cases.extend(lines(&fixtures.join("curated_verify.jsonl")));
    cases
        .iter()
        .map(|case| Pair {
            predicted: calls(&case["predicted"]),
            ground_truth: calls(&case["ground_truth"]),
            expected: case["expected"].as_bool(),
        })
        .collect()
}

fn check_sequences(workplace: &Workplace, sequences: &[Sequence]) {
    for sequence in sequences {
        let mut session = workplace.session();
        for (call, answer) in &sequence.calls {
            let body = session.call(call).body();
            assert!(answer.as_ref().is_none_or(|answer| *answer == body), "{call:?} gave {body}");
        }
    }
}

fn check_pairs(workplace: &Workplace, pairs: &[Pair]) {
    for pair in pairs {
        let reward = workplace.verify(&pair.predicted, &pair.ground_truth);
        assert_eq!(reward.ok(), pair.expected, "{:?} against {:?}", pair.predicted, pair.ground_truth);
    }
}

/// Operations per second of processor time and of the wall clock, medians over rounds.
struct Rate {
    cpu: f64,
    wall: f64,
}

impl Rate {
    fn print(&self, name: &str, bar: f64) {
        let verdict = if self.cpu >= bar { "met" } else { "MISSED" };
        let each = 1e6 / self.cpu;
        println!("{name:<44} {:>12.0} {:>12.0} {each:>12.3}  {bar:.0}: {verdict}", self.cpu, self.wall);
    }
}

/// Calls `run`, which returns the number of its operations, again and again.
fn measure(mut run: impl FnMut() -> usize) -> Rate {
    let mut rates: Vec<(f64, f64)> = (0..NUM_ROUNDS)
        .map(|_| {
            let (wall, cpu) = (Instant::now(), cpu_seconds());
            let mut count = 0;
            while wall.elapsed() < ROUND {
                count += run();
            }
            let wall = wall.elapsed().as_secs_f64();
            let cpu = cpu.zip(cpu_seconds()).map_or(wall, |(start, end)| end - start);
            (count as f64 / cpu, count as f64 / wall)
        })
        .collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (cpu, wall) = rates[NUM_ROUNDS / 2];
    Rate { cpu, wall }
}

/// Processor time of this thread so far, where the system tells it.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9).filter(|seconds| *seconds > 0.0)
}

/// Which tools the time goes to.
fn by_tool(workplace: &Workplace, sequences: &[Sequence]) {
    let mut totals: std::collections::BTreeMap<&str, (usize, Duration)> = std::collections::BTreeMap::new();
    for _ in 0..5 {
        for sequence in sequences {
            let mut session = workplace.session();
            for (call, _) in &sequence.calls {
                let start = Instant::now();
                black_box(session.call(call).body());
                let total = totals.entry(&call.name).or_default();
                total.0 += 1;
                total.1 += start.elapsed();
            }
        }
    }
    println!("\n{:<52} {:>8} {:>10}", "wall time by tool", "calls", "us each");
    for (name, (count, time)) in totals {
        println!("{name:<52} {count:>8} {:>10.2}", time.as_secs_f64() * 1e6 / count as f64);
    }
}

/// Resident memory of this program while all of the sessions are open.
fn memory(workplace: &Workplace, sequences: &[Sequence]) {
    let calls: Vec<&ToolCall> = sequences.iter().flat_map(|sequence| &sequence.calls).map(|(call, _)| call).collect();
    let mut calls = calls.iter().cycle();
    let sessions: Vec<Session> = (0..NUM_SESSIONS)
        .map(|_| {
            let mut session = workplace.session();
            for call in calls.by_ref().take(CALLS_PER_SESSION) {
                session.call(call);
            }
            session
        })
        .collect();
    let resident = resident_bytes();
    black_box(&sessions);
    let Some(resident) = resident else {
        println!("skipped: memory of sessions (this system does not tell it)");
        return;
    };
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{NUM_SESSIONS} open sessions, {CALLS_PER_SESSION} calls each: the whole program takes {:.1} MB  {} MB: {}\n",
        megabytes(resident),
        megabytes(MEMORY_BAR_BYTES),
        if resident <= MEMORY_BAR_BYTES { "met" } else { "MISSED" }
    );
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}
