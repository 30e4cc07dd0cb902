//! Whatever a client posts: it is answered, shortly where it is refused, and nobody else notices.
//!
//! An input is a list of requests with a blank line between them. Each is a line with the address, an optional blank and
//! the content type, then the body.

use std::cell::RefCell;
use std::sync::LazyLock;

use nemo_env::generate::{GeneratorConfig, tasks};
use nemo_env::{ToolCall, Workplace};
use nemo_env_server::ServerConfig;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::running::{Running, config};

/// Requests of one input; later ones are left out.
const MAX_REQUESTS: usize = 12;

/// A refusal is never longer, whatever was sent.
const MAX_REFUSAL_BYTES: usize = 1 << 20;

static SERVER: LazyLock<Running> =
    LazyLock::new(|| Running::with(ServerConfig { max_offices: 2, max_sessions: 4, ..config() }));

/// What a client sees whose session nobody touches.
const VIEW: (&str, &str) = ("/calendar_search_events", "{\"page_size\": 3}");

struct Clients {
    sender: Client,
    bystander: Client,
    view: String,
}

thread_local! {
    static CLIENTS: RefCell<Clients> = RefCell::new({
        let mut bystander = SERVER.seeded();
        let view = bystander.post(VIEW.0, VIEW.1).body;
        Clients { sender: SERVER.client(), bystander, view }
    });
}

pub fn check(input: &[u8]) {
    CLIENTS.with_borrow_mut(|clients| {
        let text = String::from_utf8_lossy(input);
        for request in text.split("\n\n").take(MAX_REQUESTS) {
            let (head, body) = request.split_once('\n').unwrap_or((request, ""));
            let (address, content_type) = head.split_once(' ').unwrap_or((head, "application/json"));
            let address = address_of(address);
            let content_type: String = content_type.chars().filter(|c| matches!(c, ' '..='~')).collect();
            let headers = [("Content-Type", content_type.as_str())];
            let answer = clients.sender.send("POST", &address, &headers, body.as_bytes());
            check_answer(&address, body, &answer);
            let verified = answer.status == 200 && answer.body.ends_with(",\"failure_reason\":null}");
            if verified {
                assert_eq!(clients.sender.post("/email_search_emails", "{}").status, 400, "the session goes on");
            }
        }
        let Clients { bystander, view, .. } = clients;
        assert_eq!(bystander.post(VIEW.0, VIEW.1).body, *view, "somebody else's session has changed");
    });
}

/// The text as an address: what HTTP has no place for is written as `%XX`.
fn address_of(text: &str) -> String {
    let mut address = String::from("/");
    for byte in text.strip_prefix('/').unwrap_or(text).bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => address.push(char::from(byte)),
            other => address.push_str(&format!("%{other:02X}")),
        }
    }
    address
}

fn check_answer(address: &str, body: &str, answer: &Answer) {
    let place = || format!("{address} {body}\n{} {}", answer.status, answer.body);
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", place()));
    match answer.status {
        200 => assert!(json.is_object(), "{}", place()),
        400 | 404 | 405 | 413 | 422 | 507 => {
            assert!(!json["detail"].is_null() && answer.body.len() <= MAX_REFUSAL_BYTES, "{}", place());
        }
        // States that the reference cannot compare.
        500 => assert!(answer.body.contains(".str accessor"), "{}", place()),
        _ => panic!("{}", place()),
    }
    if let Some(reward) = json.get("reward").filter(|_| json.get("mask_sample").is_some()) {
        assert!(matches!(reward.as_f64(), Some(0.0 | 1.0)), "{}", place());
    }
}

/// What to start from: whole rollouts of generated tasks, and one of each other request.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for task in tasks(&GeneratorConfig { count: 60, num_offices: 2, ..GeneratorConfig::default() }).unwrap() {
        let calls = &task.demonstration.as_ref().unwrap().calls;
        let mut requests = vec![format!("/seed_session\n{}", json!({ "id": task.id }))];
        requests.extend(calls.iter().map(|ToolCall { name, arguments }| format!("/{name}\n{arguments}")));
        let output: Vec<Value> = calls
            .iter()
            .map(|call| json!({ "type": "function_call", "name": call.name, "arguments": call.arguments }))
            .collect();
        let verify = json!({
            "id": task.id, "category": task.category, "environment_name": task.environment_name,
            "responses_create_params": {"input": []}, "response": {"output": output}, "ground_truth": task.ground_truth,
        });
        requests.push(format!("/verify\n{verify}"));
        seeds.push(requests.join("\n\n").into_bytes());
    }
    let answers = json!({ "verify_responses": [
        { "_ng_task_index": 0, "_ng_rollout_index": 0, "reward": 1.0, "response": { "usage": { "total_tokens": 7 } } },
        { "_ng_task_index": 0, "_ng_rollout_index": 1, "reward": 0.5, "mask_sample": true },
    ] });
    for request in [
        "/seed_session\n{\"office\": \"office-0002\"}\n\n/ng-rollout/0-1/email_search_emails\n{\"query\": \"a\"}"
            .to_owned(),
        "/close_session\n{\"resources_session_id\": \"s\", \"episode_id\": {\"rollout_id\": \"0-1\", \"attempt\": 0}}"
            .to_owned(),
        format!("/aggregate_metrics\n{answers}"),
        "/verify text/plain\n{}".to_owned(),
        "/health\n[1, NaN, -Infinity]\n\n/%C3%A9?x=1\n\"\\ud800\"".to_owned(),
    ] {
        seeds.push(request.into_bytes());
    }
    seeds
}

/// Words that requests consist of.
pub fn words() -> Vec<String> {
    let keys = [
        "id",
        "office",
        "response",
        "output",
        "type",
        "name",
        "arguments",
        "ground_truth",
        "category",
        "environment_name",
        "responses_create_params",
        "verify_responses",
        "_ng_task_index",
        "_ng_rollout_index",
        "reward",
        "mask_sample",
        "usage",
        "resources_session_id",
        "episode_id",
    ];
    let addresses = ["seed_session", "verify", "close_session", "aggregate_metrics", "ng-rollout/a"];
    let tools: Vec<String> = Workplace::tools().iter().map(|tool| tool.name().to_owned()).collect();
    let addresses = addresses.map(str::to_owned).into_iter().chain(tools).map(|name| format!("\n\n/{name}\n"));
    let values = ["null", "1e400", "-0.0", "18446744073709551616", "\"function_call\"", "\"\\ud800\"", "[[]]", "NaN"];
    addresses.chain(keys.map(|key| format!("\"{key}\":"))).chain(values.map(str::to_owned)).collect()
}
