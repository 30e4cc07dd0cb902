//! Checkpoint retention and metric statistics against the fixtures `grpo/checkpoint_retention.json` and
//! `grpo/single_metric_stats.json`. `NEMO_BURN_FIXTURES` names their folder, by default `../shared/fixtures`
//! beside the repository.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nemo_rl::metrics::single_metric_stats;
use nemo_rl::retention::Retention;
use serde_json::Value;

/// The cases of a fixture; nothing when there is no folder, which is said.
fn cases(name: &str) -> Vec<Value> {
    let named = std::env::var_os("NEMO_BURN_FIXTURES").map(PathBuf::from);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let path = named.clone().unwrap_or(default).join("grpo").join(name);
    if named.is_none() && !path.exists() {
        println!("skipped: there is no {}", path.display());
        return Vec::new();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let cases = fixture["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{} holds no case", path.display());
    println!("{name}: {} cases", cases.len());
    cases
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().map(|n| n as usize)
}

#[test]
fn checkpoint_retention() {
    for case in cases("checkpoint_retention.json") {
        let metric = case["metric_name"].as_str();
        let checkpoints: BTreeMap<u64, Option<f64>> = case["steps"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(step, metrics)| (step.parse().unwrap(), metric.and_then(|name| metrics[name].as_f64())))
            .collect();
        let rule = Retention {
            save_period: size(&case["save_period"]).unwrap(),
            keep_top_k: size(&case["keep_top_k"]),
            keep_latest_k: size(&case["ft_keep_latest_k"]),
            higher_is_better: case["higher_is_better"].as_bool().unwrap(),
        };
        let kept: Vec<u64> = case["kept"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).collect();
        assert_eq!(rule.kept(&checkpoints).into_iter().collect::<Vec<_>>(), kept, "{}", case["name"]);
        let best = rule.best(&checkpoints).map(|step| format!("step_{step}"));
        assert_eq!(best.as_deref(), case["best_before"].as_str(), "{}", case["name"]);
    }
}

#[test]
fn metric_statistics() {
    for case in cases("single_metric_stats.json") {
        let values: Vec<f64> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let stats = single_metric_stats("k", &values);
        for (name, expected) in case["expected"].as_object().unwrap() {
            let found = stats[name];
            match expected.as_f64() {
                Some(expected) => {
                    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{name}: {found} {expected}");
                }
                None => assert!(found.is_nan(), "{name}: {found}"),
            }
        }
    }
}
