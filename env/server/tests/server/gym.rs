//! What the server of NeMo Gym 0.7.0 answered to generated sequences of calls, and its verdicts.

use std::collections::BTreeMap;

use nemo_env::Offices;
use nemo_env_server::ServerConfig;
use serde_json::{Value, json};

use super::cases::{cases, path, tables};
use super::golden::verify_request;
use super::running::{Running, config};

/// `[name, arguments]` as the calls of a verify request.
fn calls(pairs: &Value) -> Value {
    pairs.as_array().unwrap().iter().map(|pair| json!({ "name": pair[0], "arguments": pair[1] })).collect()
}

#[test]
fn sequences_and_verdicts_are_those_of_version_0_7_0() {
    let (Some(cases), Some(tables)) = (cases("gym070", "sequences"), tables()) else { return };
    let server = Running::start(Offices::with_tables(&tables), ServerConfig { office: None, ..config() });
    let mut client = server.client();
    let mut num_answers = 0;
    let mut differences: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut compare = |kind: &'static str, place: String, found: (u16, String), expected: (&Value, &str)| {
        num_answers += 1;
        if (Some(u64::from(found.0)), &*found.1) != (expected.0.as_u64(), expected.1) {
            let text = format!("{place}\n  here {} {}\n  Gym  {} {}", found.0, found.1, expected.0, expected.1);
            differences.entry(kind).or_default().push(text);
        }
    };
    for case in &cases {
        assert_eq!(client.post("/seed_session", "{}").body, "{}");
        for call in case["calls"].as_array().unwrap() {
            let (name, body) = (call["name"].as_str().unwrap(), call["body"].as_str().unwrap());
            let answer = client.post(&path(name), body);
            let place = format!("{} {name} {body}", case["id"]);
            compare("answer", place, (answer.status, answer.body), (&call["status"], call["answer"].as_str().unwrap()));
        }
        let verify = &case["verify"];
        let (predicted, ground_truth) = (calls(&verify["predicted"]), calls(&verify["ground_truth"]));
        let request = json!({ "predicted": predicted, "ground_truth": ground_truth });
        let answer = client.post("/verify", &verify_request(&request).to_string());
        let reward = if answer.status == 200 { answer.json()["reward"].to_string() } else { answer.body };
        let expected = verify["reward"].to_string();
        let place = format!("{} /verify of {} {verify}", case["id"], verify["kind"]);
        compare("verdict", place, (answer.status, reward), (&verify["status"], &expected));
        // Scoring ends the session.
        assert_eq!(client.post("/email_search_emails", "{}").status, 400);
    }
    let texts: Vec<String> = differences.into_values().flatten().collect();
    println!("{} sequences, {num_answers} answers, {} differ", cases.len(), texts.len());
    assert!(texts.is_empty(), "{}", texts.join("\n"));
}
