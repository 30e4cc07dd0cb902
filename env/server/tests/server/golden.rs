//! Recorded answers and rewards of the reference over HTTP: every status and every body.

use nemo_env::{Offices, ToolCall, Workplace};
use nemo_env_server::ServerConfig;
use serde_json::{Value, json};

use super::cases::{cases, is_as_recorded, path, posted, tables};
use super::running::{Running, config};

/// Calls that show whole tables, to compare the session behind the server with one of the library.
fn views() -> [(&'static str, Value); 5] {
    [
        ("email_search_emails", json!({"page_size": 100_000})),
        ("calendar_search_events", json!({"page_size": 100_000})),
        ("project_management_search_tasks", json!({"task_name": "."})),
        ("customer_relationship_manager_search_customers", json!({"customer_name": ".", "page_size": 100_000})),
        ("analytics_get_average_session_duration", json!({})),
    ]
}

fn server_of_recordings() -> Option<(Running, Workplace)> {
    let tables = tables()?;
    let config = ServerConfig { office: None, ..config() };
    Some((Running::start(Offices::with_tables(&tables), config), Workplace::new(tables)))
}

#[test]
fn sequences_are_answered_exactly() {
    let (Some(cases), Some((server, workplace))) = (cases("workplace", "sequences"), server_of_recordings()) else {
        return;
    };
    let mut client = server.client();
    let (mut num_calls, mut failures) = (0, Vec::new());
    for case in &cases {
        assert_eq!(client.post("/seed_session", "{}").body, "{}");
        let mut session = workplace.session();
        for call in case["calls"].as_array().unwrap() {
            let name = call["name"].as_str().unwrap();
            let arguments = call["arguments"].to_string();
            num_calls += 1;
            let answer = client.post(&path(name), &posted(&call["arguments"]));
            if !is_as_recorded(call, answer.status, &answer.body) {
                let (status, body) = (answer.status, answer.body);
                failures.push(format!("{} {name} {arguments}\n  {status} {body}\n  {}", case["id"], call["body"]));
            }
            match name {
                "seed_session" => session = workplace.session(),
                _ => drop(session.call(&ToolCall { name: name.to_owned(), arguments })),
            }
        }
        for (tool, arguments) in views() {
            if client.call(tool, &arguments) != session.call(&ToolCall::new(tool, &arguments)).body() {
                failures.push(format!("{}: {tool} shows another state than the library", case["id"]));
            }
        }
    }
    println!("{} sequences, {num_calls} calls, {} differ", cases.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The body of a verify request.
pub fn verify_request(case: &Value) -> Value {
    let output: Vec<Value> = case["predicted"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(index, call)| {
            json!({
                "type": "function_call", "id": null, "status": "completed", "call_id": format!("call_{index}"),
                "name": call["name"], "arguments": call["arguments"],
            })
        })
        .collect();
    json!({
        "id": "7", "category": "workplace_assistant_email", "environment_name": "workplace_assistant",
        "responses_create_params": {"input": [{"role": "user", "content": "Ünïcödé"}], "temperature": 1.0},
        "response": {"id": "resp", "object": "response", "created_at": 0.0, "output": output},
        "ground_truth": case["ground_truth"],
        "something_else": [1],
    })
}

#[test]
fn rewards_are_those_of_the_reference() {
    let (Some(cases), Some((server, _))) = (cases("workplace", "verify"), server_of_recordings()) else { return };
    let mut client = server.client();
    let mut failures = Vec::new();
    for case in &cases {
        let request = verify_request(case);
        let answer = client.post("/verify", &request.to_string());
        let (status, expected) = match &case["expected"] {
            Value::Bool(earned) => {
                let reward = if *earned { 1.0 } else { 0.0 };
                let params = &request["responses_create_params"];
                let expected = json!({
                    "responses_create_params": params, "response": request["response"], "reward": reward,
                    "mask_sample": false, "failure_kind": null, "failure_reason": null,
                });
                (200, expected.to_string())
            }
            error => {
                let (class, text) = error["error"].as_str().unwrap().split_once(": ").unwrap();
                (500, json!(format!("{class}('{text}')")).to_string())
            }
        };
        if (answer.status, &answer.body) != (status, &expected) {
            failures.push(format!("{}: {} {}", case["id"], answer.status, answer.body));
        }
    }
    println!("{} verify pairs, {} differ", cases.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // None of it needed a session.
    assert_eq!(server.metric("nemo_env_sessions"), 0.0);
}
