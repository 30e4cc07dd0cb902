//! What a server holds and waits for is bounded.

use std::time::{Duration, Instant};

use nemo_env::Offices;
use nemo_env_server::{Server, ServerConfig, ServerError};
use serde_json::json;

use super::running::{Running, config};

#[test]
fn the_session_used_least_recently_gives_way() {
    let server = Running::with(ServerConfig { max_sessions: 2, ..config() });
    let (mut first, mut second) = (server.seeded(), server.seeded());
    assert_eq!(first.post("/email_search_emails", "{}").status, 200);
    let mut third = server.seeded();
    assert_eq!(first.post("/email_search_emails", "{}").status, 200);
    assert_eq!(third.post("/email_search_emails", "{}").status, 200);
    assert_eq!(second.post("/email_search_emails", "{}").status, 400);
    assert_eq!(server.metric("nemo_env_sessions_evicted_total{reason=\"displaced\"}"), 1.0);
    // It may come back.
    assert_eq!(second.post("/seed_session", "{}").status, 200);
    assert_eq!(second.post("/email_search_emails", "{}").status, 200);
}

#[test]
fn idle_sessions_are_dropped() {
    let server = Running::with(ServerConfig { idle_timeout: Duration::from_millis(300), ..config() });
    let mut client = server.seeded();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.metric("nemo_env_sessions") > 0.0 {
        assert!(Instant::now() < deadline, "the session is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.post("/email_search_emails", "{}").status, 400);
    assert_eq!(server.metric("nemo_env_sessions_evicted_total{reason=\"idle\"}"), 1.0);
}

#[test]
fn a_session_that_is_filled_is_refused_and_others_are_not() {
    let server = Running::with(ServerConfig { max_session_bytes: 200_000, ..config() });
    let (mut greedy, mut modest) = (server.seeded(), server.seeded());
    // What is only read, or does not succeed, is free.
    for number in 0..10 {
        let text = "x".repeat(100_000);
        assert_eq!(greedy.post("/calendar_search_events", &json!({ "query": text }).to_string()).status, 200);
        assert_eq!(
            greedy.post("/email_reply_email", &json!({"email_id": number, "body": text}).to_string()).status,
            200
        );
        assert_eq!(greedy.post("/no_such_tool", &json!({ "text": text }).to_string()).status, 200);
    }
    assert_eq!(server.metric("nemo_env_session_bytes"), 0.0);
    let mail = json!({"recipient": "a@b.c", "subject": "x".repeat(50_000), "body": "y"});
    assert!(greedy.call("email_send_email", &mail).contains("sent"));
    // Forwarding a large mail takes a small request.
    let forward = json!({"email_id": "500", "recipient": "a@b.c"});
    let statuses: Vec<u16> = (0..5).map(|_| greedy.post("/email_forward_email", &forward.to_string()).status).collect();
    assert_eq!(statuses, [200, 200, 507, 507, 507]);
    // Nothing of what was refused is there, small calls go on, and what is deleted makes room again.
    assert_eq!(greedy.post("/email_delete_email", &json!({"email_id": "503"}).to_string()).status, 200);
    assert!(greedy.call("email_delete_email", &json!({"email_id": "503"})).contains("not found"));
    assert!(
        greedy.call("email_send_email", &json!({"recipient": "a@b.c", "subject": "s", "body": "b"})).contains("sent")
    );
    assert!(greedy.call("email_delete_email", &json!({"email_id": "501"})).contains("deleted"));
    assert_eq!(greedy.post("/email_forward_email", &forward.to_string()).status, 200);
    assert_eq!(modest.post("/email_search_emails", "{}").status, 200);
    assert!(server.metric("nemo_env_session_bytes") < 200_000.0 + 10_000.0);
    assert_eq!(greedy.post("/seed_session", "{}").status, 200);
    assert_eq!(greedy.post("/email_search_emails", "{}").status, 200);
}

#[test]
fn all_sessions_together_are_bounded() {
    let server = Running::with(ServerConfig { max_total_bytes: 100_000, ..config() });
    let mail = json!({"recipient": "a@b.c", "subject": "x".repeat(20_000), "body": "y"});
    for _ in 0..20 {
        assert!(server.seeded().call("email_send_email", &mail).contains("sent"));
    }
    assert!(server.metric("nemo_env_session_bytes") <= 100_000.0);
    assert_eq!(server.metric("nemo_env_sessions"), 4.0);
}

#[test]
fn large_bodies_are_refused_whether_announced_or_not() {
    let server = Running::with(ServerConfig { max_call_bytes: 1000, max_body_bytes: 2000, ..config() });
    for (path, num_bytes, status) in
        [("/email_search_emails", 1000, 200), ("/email_search_emails", 1001, 413), ("/verify", 2001, 413)]
    {
        let mut client = server.seeded();
        let padding = " ".repeat(num_bytes - 2);
        let answer = client.post(path, &format!("{{{padding}}}"));
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let mut client = server.seeded();
    client.write(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        client.write(format!("64\r\n{}\r\n", " ".repeat(100)).as_bytes());
    }
    assert_eq!(client.read().unwrap().status, 413);
    // A body that is announced and too large is not waited for.
    let mut client = server.client();
    client.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n");
    assert!(client.read().is_none_or(|answer| matches!(answer.status, 400 | 413 | 431)));
}

/// Whatever is wrong with a request, the answer is short: it does not send back what it was sent.
#[test]
fn refusals_of_long_bodies_are_short() {
    let server = Running::with(config());
    let text = "x".repeat(4 << 20);
    let wrong_items = vec![json!(0); 1 << 20];
    let fields = |field: &str, value: serde_json::Value| {
        let mut request = json!({
            "responses_create_params": {}, "response": {"output": []}, "ground_truth": [], "id": 1, "category": "",
            "environment_name": "",
        });
        request[field] = value;
        request.to_string()
    };
    for (path, body) in [
        ("/verify", json!({ "other": text }).to_string()),
        ("/verify", json!(text).to_string()),
        ("/verify", fields("response", json!(text))),
        ("/verify", fields("response", json!({ "output": wrong_items }))),
        ("/verify", fields("response", json!({ "output": [{ "type": "function_call", "name": [text] }] }))),
        ("/verify", fields("ground_truth", json!(wrong_items))),
        ("/verify", fields("ground_truth", json!([{ text.as_str(): 1 }]))),
        ("/verify", fields("id", json!(text))),
        ("/aggregate_metrics", json!({ "verify_responses": wrong_items }).to_string()),
        ("/aggregate_metrics", json!({ "verify_response": text }).to_string()),
        ("/seed_session", json!([text]).to_string()),
        ("/seed_session", json!({ "office": text }).to_string()),
        ("/seed_session", json!({ "office": [text] }).to_string()),
        ("/close_session", json!({ &text[..200_000]: &text[..50_000] }).to_string()),
        ("/email_search_emails", json!(&text[..200_000]).to_string()),
    ] {
        let answer = server.client().post(path, &body);
        assert_eq!(answer.status, 422, "{path} {}", &body[..60]);
        assert!(answer.body.len() < 32 << 10, "{path} {}: {} bytes", &body[..60], answer.body.len());
    }
    // What is scored comes back, because the agents of NeMo Gym take the conversation from the answer.
    let answer = server.client().post("/verify", &fields("responses_create_params", json!({ "input": text })));
    assert_eq!((answer.status, answer.json()["responses_create_params"]["input"].as_str()), (200, Some(&*text)));
}

#[test]
fn slow_requests_are_given_up() {
    let config = ServerConfig {
        request_timeout: Duration::from_millis(200),
        keep_alive: Duration::from_millis(400),
        ..config()
    };
    let server = Running::with(config);
    let mut client = server.client();
    client.write(b"POST /email_search_emails HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{");
    let answer = client.read().unwrap();
    assert_eq!((answer.status, &*answer.body), (408, "{\"detail\":\"The request took longer than 0.2 s\"}"));
    // Headers that never end, and silence.
    for bytes in [&b"POST /email_search_emails HTTP/1.1\r\nHo"[..], b""] {
        let mut client = server.client();
        let start = Instant::now();
        client.write(bytes);
        assert!(client.read().is_none_or(|answer| answer.status == 408));
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn clients_that_do_not_take_their_answer_are_cut_off() {
    let config = ServerConfig { response_timeout: Duration::from_millis(300), max_connections: 1, ..config() };
    let server = Running::with(config);
    // More than sockets hold, and it is all sent back.
    let text = "x".repeat(24 << 20);
    let request = json!({
        "responses_create_params": {"input": text}, "response": {"output": []}, "ground_truth": [], "id": 1,
        "category": "", "environment_name": "",
    });
    let mut silent = server.client();
    let head = "POST /verify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let body = request.to_string();
    silent.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    // There is no place for anybody else until it is cut off.
    let start = Instant::now();
    assert_eq!(server.client().get("/health").status, 200);
    assert!(start.elapsed() < Duration::from_secs(20));
    // What was sent until then is the beginning of the answer.
    assert!(silent.read().is_none());
    // An answer that fits into the sockets may lie there unread.
    drop(silent);
    let mut slow = server.client();
    slow.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(slow.read().unwrap().status, 200);
}

#[test]
fn connections_wait_for_their_turn() {
    let server = Running::with(ServerConfig { max_connections: 1, ..config() });
    let mut first = server.seeded();
    let waiting = std::thread::spawn({
        let address = server.address;
        move || {
            let mut second = super::client::Client::connect(address);
            second.get("/health").status
        }
    });
    assert_eq!(first.get("/health").status, 200);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(waiting.join().unwrap(), 200);
}

#[test]
fn offices_in_use_are_bounded() {
    let server = Running::with(ServerConfig { max_offices: 2, ..config() });
    let mut client = server.client();
    let statuses: Vec<u16> = ["office-2", "nowhere", "office-3", "office-2", "office-4", "office-3"]
        .iter()
        .map(|office| client.post("/seed_session", &json!({ "office": office }).to_string()).status)
        .collect();
    assert_eq!(statuses, [200, 422, 200, 200, 422, 200]);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let running = Running::with(config());
    let bind = |config: ServerConfig| Server::bind(Offices::new(), config).err().unwrap();
    let taken = bind(ServerConfig { port: running.address.port(), ..config() });
    assert!(matches!(taken, ServerError::Bind { .. }));
    assert!(taken.to_string().contains(&running.address.to_string()), "{taken}");
    assert!(matches!(bind(ServerConfig { office: Some("x".into()), ..config() }), ServerError::UnknownOffice { .. }));
    assert!(matches!(bind(ServerConfig { max_sessions: 0, ..config() }), ServerError::Zero { option: "max_sessions" }));
    assert!(config().host.is_loopback());
}
