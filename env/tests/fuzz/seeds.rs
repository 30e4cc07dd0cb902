//! What the fuzz targets start from: recorded calls where there are any (`NEMO_BURN_FIXTURES`), generated tasks always.

use std::path::PathBuf;

use nemo_env::generate::{GeneratorConfig, Split, Suite, tasks};
use nemo_env::{Task, ToolCall, Workplace};
use serde_json::Value;

/// Inputs for the calls: one session each.
pub fn calls() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for task in generated() {
        let calls = task.demonstration.unwrap().calls;
        seeds.push(lines(calls.iter().map(|ToolCall { name, arguments }| format!("{name} {arguments}"))));
    }
    for case in recorded() {
        let calls = case["calls"].as_array().unwrap();
        seeds.push(lines(calls.iter().map(|call| format!("{} {}", call["name"].as_str().unwrap(), call["arguments"]))));
    }
    // The same in the larger office, now and then.
    let large = seeds.iter().step_by(50).map(|seed| [b"large\n", seed.as_slice()].concat());
    let large: Vec<Vec<u8>> = large.collect();
    seeds.extend(large);
    seeds
}

/// Inputs for the records: files of one to three.
pub fn records() -> Vec<Vec<u8>> {
    let mut tasks = generated();
    for (number, task) in tasks.iter_mut().enumerate() {
        // Offices that are named are not used, and all of the tools are long.
        task.office = task.office.take().filter(|_| number % 8 == 0);
        task.tools = Workplace::tools().iter().take(number % 2).cloned().collect::<Vec<_>>().into();
        if number % 4 > 0 {
            task.demonstration = None;
        }
    }
    let mut rest = tasks.as_slice();
    let mut seeds = Vec::new();
    for number in (1..=3).cycle() {
        let Some((some, others)) = rest.split_at_checked(number) else { break };
        seeds.push(lines(some.iter().map(Task::to_json_line)));
        rest = others;
    }
    seeds
}

/// Words that calls and records consist of.
pub fn words() -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for tool in Workplace::tools().iter() {
        words.push(format!("\n{} {{", tool.name()));
        words.extend(tool.parameter_names().map(|name| format!("\"{name}\":")));
    }
    words.extend((0..8).map(|id| format!("\"{id:08}\"")));
    let values = [
        "null",
        "true",
        "-1",
        "1e400",
        "18446744073709551616",
        "[]",
        "{}",
        "\"\\ud800\"",
        "\"\\u0130\"",
        "\"(?i)a|b\"",
        "\"2023-11-30 23:59:00\"",
        "\"now\"",
        "\"2023-12\"",
        "\"500\"",
        "\"bar\"",
        "\"status\"",
        "\"Won\"",
        "\"self\":1",
    ];
    let keys = [
        "id",
        "responses_create_params",
        "input",
        "role",
        "content",
        "tools",
        "parallel_tool_calls",
        "temperature",
        "ground_truth",
        "name",
        "arguments",
        "category",
        "environment_name",
        "office",
        "provenance",
        "demonstration",
        "calls",
        "final_text",
        "text",
        "agent_ref",
    ];
    words.extend(values.map(str::to_owned));
    words.extend(keys.map(|key| format!("\"{key}\":")));
    words.sort_unstable();
    words.dedup();
    words
}

fn lines(lines: impl Iterator<Item = String>) -> Vec<u8> {
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Tasks of every template.
fn generated() -> Vec<Task> {
    let splits = [Split::Train, Split::UnseenTemplates];
    let of =
        |split| GeneratorConfig { count: 160, num_offices: 2, split, suite: Suite::Full, ..GeneratorConfig::default() };
    splits.into_iter().flat_map(|split| tasks(&of(split)).unwrap()).collect()
}

/// Recorded sessions, from the folder that `NEMO_BURN_FIXTURES` names or the default one.
fn recorded() -> Vec<Value> {
    let folder = match std::env::var_os("NEMO_BURN_FIXTURES") {
        Some(named) => PathBuf::from(named),
        None => PathBuf::from(super::FIXTURES),
    };
    let files = ["curated_sequences.jsonl", "sequences.jsonl"].map(|file| folder.join("workplace").join(file));
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let cases: Vec<Value> = texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
        .collect();
    if cases.is_empty() {
        println!("skipped: recorded calls as seeds (NEMO_BURN_FIXTURES)");
    }
    cases
}
