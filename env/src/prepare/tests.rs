//! Preparing files with good, broken and idle records.

use serde_json::{Value, json};

use super::*;
use crate::generate;

fn record(id: u64, ground_truth: &Value) -> Value {
    json!({
        "id": id,
        "responses_create_params": {"input": [{"role": "user", "content": "Delete that mail"}], "tools": []},
        "ground_truth": ground_truth,
        "category": "workplace_assistant_email",
        "of my own": {"kept": true},
    })
}

fn deletion(id: &str) -> Value {
    json!([{"name": "email_delete_email", "arguments": json!({"email_id": id}).to_string()}])
}

fn run(lines: &[String]) -> (Result<PrepareReport, PrepareError>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("downloaded.jsonl");
    std::fs::write(&records, lines.join("\n")).unwrap();
    let offices = Offices::with_tables(&generate::office(3));
    let report = prepare(&records, &offices, &folder.path().join("out"));
    (report, folder)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn cuts_in_two_and_keeps_what_records_hold() {
    let records: Vec<String> = (0..21).map(|id| record(id, &deletion("00000007")).to_string()).collect();
    let (report, _folder) = run(&records);
    let report = report.unwrap();
    assert_eq!((report.num_records, report.num_training, report.num_validation), (21, 18, 3));
    assert!(report.broken.is_empty() && report.idle.is_empty());
    assert_eq!(report.categories, BTreeMap::from([("workplace_assistant_email".to_owned(), 21)]));
    let (training, validation) = (lines(&report.training), lines(&report.validation));
    let ids: Vec<u64> = training.iter().chain(&validation).map(|record| record["id"].as_u64().unwrap()).collect();
    assert!(ids.into_iter().eq(0..21));
    let mut expected = record(20, &deletion("00000007"));
    expected["agent_ref"] = json!({"type": "responses_api_agents", "name": "workplace_assistant_simple_agent"});
    assert_eq!(validation[2].to_string(), expected.to_string());
    let metrics: Value = serde_json::from_str(&std::fs::read_to_string(&report.metrics[0]).unwrap()).unwrap();
    assert_eq!(metrics["Number of examples"], 18);
    assert_eq!(metrics["Number of ground-truth calls"]["Average"], 1.0);
    assert_eq!(metrics["Temperature"]["Total # non-null values"], 0);
}

#[test]
fn an_agent_that_is_named_stays() {
    let mut own = record(1, &deletion("00000007"));
    own["agent_ref"] = json!({"type": "x", "name": "mine"});
    let (report, _folder) = run(&[own.to_string()]);
    assert_eq!(lines(&report.unwrap().training)[0]["agent_ref"]["name"], "mine");
}

#[test]
fn broken_records_are_left_out_and_idle_ones_named() {
    let mut wordless = record(9, &deletion("00000007"));
    wordless["responses_create_params"]["input"][0]["role"] = "system".into();
    let (report, _folder) = run(&[
        record(1, &deletion("00000007")).to_string(),
        "{\"id\": 2, ".to_owned(),
        record(3, &json!("[]")).to_string(),
        record(4, &deletion("99999999")).to_string(),
        record(5, &json!([])).to_string(),
        String::new(),
        record(1, &deletion("00000008")).to_string(),
        record(7, &json!([{"name": "email_fly", "arguments": "{}"}])).to_string(),
        wordless.to_string(),
    ]);
    let report = report.unwrap();
    assert_eq!((report.num_records, report.num_training, report.num_validation), (8, 1, 1));
    assert_eq!(report.idle, [IdleRecord { line: 5, id: 5, num_calls: 0 }]);
    let broken: Vec<(usize, Option<u64>)> = report.broken.iter().map(|record| (record.line, record.id)).collect();
    assert_eq!(broken, [(2, None), (3, Some(3)), (4, Some(4)), (7, Some(1)), (8, Some(7)), (9, Some(9))]);
    for (record, words) in report.broken.iter().zip([
        "not valid JSON",
        "`ground_truth` is a string",
        "call 1 of the ground truth fails: email_delete_email gives {\"output\":\"Email not found.\"}",
        "the id is that of line 1 too",
        "`ground_truth[0]` calls \"email_fly\": there is no such tool",
        "no request of a user",
    ]) {
        assert!(record.problem.contains(words), "{record:?}");
    }
}

#[test]
fn a_file_without_usable_records_is_an_error() {
    let (report, _folder) = run(&[String::new()]);
    assert!(matches!(report, Err(PrepareError::Empty { .. })));
    let (report, _folder) = run(&[record(4, &deletion("99999999")).to_string()]);
    let error = report.unwrap_err().to_string();
    assert!(error.contains("found 1 records, none of which can be used (line 1: call 1"), "{error}");
}

#[test]
fn bytes_that_are_no_text_break_one_record() {
    let good = record(1, &deletion("00000007")).to_string();
    let offices = Offices::with_tables(&generate::office(3));
    let checked = check(&[b"\n{\"id\": 3, \xc3\"}\n", good.as_bytes()].concat(), &offices).unwrap();
    assert_eq!((checked.num_records, checked.lines().count()), (2, 1));
    let [BrokenRecord { line: 2, id: None, problem }] = &checked.broken[..] else { panic!("{:?}", checked.broken) };
    assert!(problem.starts_with("not UTF-8 text"), "{problem}");
}
