//! Cookies, and who sees what.

use nemo_env::{Offices, ToolCall, Workplace, generate};
use std::io::Read;

use serde_json::json;

use super::client::{Answer, COOKIE_NAME};
use super::running::{OFFICE, Running, config};

const NOT_SEEDED: &str = "{\"detail\":\"Session not initialized. Please call seed_session first.\"}";

fn check_cookie(answer: &Answer, what: &str) {
    let cookie = answer.header("set-cookie").unwrap_or_else(|| panic!("{what}: no cookie"));
    let (pair, attributes) = cookie.split_once(';').unwrap();
    assert!(pair.starts_with(&format!("{COOKIE_NAME}=")), "{what}: {cookie}");
    assert_eq!(attributes, " path=/; Max-Age=1209600; httponly; samesite=lax", "{what}");
}

#[test]
fn every_answer_carries_the_cookie_of_its_session() {
    let server = Running::with(config());
    let mut client = server.client();
    let first = client.post("/email_search_emails", "{}");
    assert_eq!((first.status, &*first.body), (400, NOT_SEEDED));
    check_cookie(&first, "before seeding");
    let cookie = client.cookie.clone();
    let large = format!("{{\"query\": \"{}\"}}", "x".repeat(300 << 10));
    for (method, path, body, status) in [
        ("POST", "/seed_session", "{\"id\": 1}", 200),
        ("POST", "/email_search_emails", "{}", 200),
        ("POST", "/no_such_tool", "{}", 200),
        ("POST", "/email_search_emails", "[]", 422),
        ("POST", "/seed_session", "", 422),
        ("POST", "/verify", "{}", 422),
        ("POST", "/close_session", "{}", 422),
        ("POST", "/aggregate_metrics", "{\"verify_responses\": []}", 200),
        ("POST", "/a/b", "{}", 404),
        ("POST", "/", "{}", 404),
        ("GET", "/email_search_emails", "", 405),
        ("GET", "/", "", 200),
        ("GET", "/health", "", 200),
        ("GET", "/reverify_mode", "", 200),
        ("GET", "/metrics", "", 200),
        ("POST", "/email_search_emails", &large, 413),
    ] {
        // The connection may be closed after a body that was not read.
        let mut connection = client.again();
        let answer = connection.send(method, path, &[("Content-Type", "application/json")], body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        check_cookie(&answer, path);
        assert_eq!(connection.cookie, cookie, "{path}");
    }
}

#[test]
fn only_what_the_reference_shows_the_head_of_has_one() {
    let server = Running::with(config());
    for (path, status) in [
        ("/", "405"),
        ("/reverify_mode", "405"),
        ("/verify", "405"),
        ("/email_search_emails", "405"),
        ("/a/b", "404"),
        ("/openapi.json", "200"),
        ("/health", "200"),
    ] {
        let mut client = server.client();
        client.write(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
        let mut answer = String::new();
        client.stream().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[test]
fn fixed_answers() {
    let server = Running::with(config());
    let mut client = server.seeded();
    assert_eq!(client.get("/").body, "{\"status\":\"ok\"}");
    assert_eq!(client.get("/reverify_mode").body, "\"unknown\"");
    assert_eq!(client.get("/health").json(), json!({"status": "ok", "sessions": 1}));
    assert_eq!(client.get("/verify").body, "{\"detail\":\"Method Not Allowed\"}");
    assert_eq!(client.get("/x/y").body, "{\"detail\":\"Not Found\"}");
    let answer = client.post("/email_search_emails", "");
    let missing = "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\"],\"msg\":\"Field required\",\"input\":null}]}";
    assert_eq!((answer.status, &*answer.body), (422, missing));
    let answer = client.post("/email_search_emails", "{\"a\" 1}");
    assert_eq!(
        answer.body,
        "{\"detail\":[{\"type\":\"json_invalid\",\"loc\":[\"body\",5],\"msg\":\"JSON decode error\",\"input\":{},\
         \"ctx\":{\"error\":\"Expecting ':' delimiter\"}}]}"
    );
    // Addresses for whoever runs the server are no tools, and say so as any other name does.
    assert_eq!(client.call("health", &json!({})), "{\"output\":\"Error executing tool 'health': 'health'\"}");
    // Values that the reference's agent dies of are answered, so that the model can do better.
    for (argument, reason) in [
        ("\"\\ud800\"", "unpaired surrogate \\\\ud800"),
        ("99999999999999999999", "integer beyond 64 bits (99999999999999999999)"),
    ] {
        let answer = client.post("/email_delete_email", &format!("{{\"email_id\": {argument}}}"));
        let expected = format!("{{\"output\":\"Error executing tool 'email_delete_email': {reason}\"}}");
        assert_eq!((answer.status, answer.body), (200, expected));
    }
}

/// A record whose conversation made no call.
fn nothing_done() -> String {
    let record = json!({
        "responses_create_params": {"input": []}, "response": {"output": []}, "ground_truth": [], "id": 1, "category": "c",
        "environment_name": "e",
    });
    record.to_string()
}

#[test]
fn scoring_and_closing_end_a_session() {
    let server = Running::with(config());
    let closed = json!({"resources_session_id": "s", "episode_id": {"rollout_id": "3-0"}}).to_string();
    for (path, body, status, ends) in [
        ("/verify", nothing_done(), 200, true),
        ("/close_session", closed.clone(), 200, true),
        // A request that is refused, such as a tool call of that name, ends nothing.
        ("/verify", "{}".into(), 422, false),
        ("/close_session", "{}".into(), 422, false),
        ("/close_session", json!({"resources_session_id": 1, "episode_id": "e"}).to_string(), 422, false),
        ("/close_session", json!({"resources_session_id": "s", "episode_id": "e", "x": 1}).to_string(), 422, false),
    ] {
        let mut client = server.seeded();
        let answer = client.post(path, &body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        if path == "/close_session" && ends {
            assert_eq!(answer.body, "{\"resources_session_id\":\"s\"}");
        }
        let later = client.post("/email_search_emails", "{}");
        assert_eq!(later.status, if ends { 400 } else { 200 }, "{path} {body}");
        assert_eq!(later.body == NOT_SEEDED, ends);
    }
    assert_eq!(server.metric("nemo_env_sessions"), 4.0);
    // There need not be a session, and a new one can be started.
    let mut client = server.client();
    assert_eq!(client.post("/close_session", &closed).status, 200);
    assert_eq!(client.post("/verify", &nothing_done()).status, 200);
    assert_eq!(client.post("/seed_session", "{}").status, 200);
    assert_eq!(client.post("/email_search_emails", "{}").status, 200);
}

#[test]
fn addresses_may_carry_the_prefix_of_a_recorded_rollout() {
    let server = Running::with(config());
    let mut client = server.client();
    for (path, body, status) in [
        ("/ng-rollout/3-0/email_search_emails", "{}", 400),
        ("/ng-rollout/3-0/seed_session", "{}", 200),
        ("/email_search_emails", "{}", 200),
        ("/ng-rollout/3-0-a1/email_search_emails", "{}", 200),
        ("/ng-rollout/3-0/ng-rollout/3-0/email_search_emails", "{}", 404),
        ("/ng-rollout/3-0/verify", &nothing_done(), 200),
        ("/email_search_emails", "{}", 400),
    ] {
        assert_eq!(client.post(path, body).status, status, "{path}");
    }
    assert_eq!(client.get("/ng-rollout/x/reverify_mode").body, "\"unknown\"");
}

#[test]
fn the_server_describes_itself() {
    let server = Running::with(config());
    let document = server.client().get("/openapi.json").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/seed_session", "/verify", "/close_session", "/aggregate_metrics"] {
        assert!(paths[path]["post"]["requestBody"].is_object(), "{path}");
    }
    for tool in &*Workplace::tools() {
        let operation = &paths[&format!("/{}", tool.name())]["post"];
        assert_eq!(operation["summary"], tool.0["description"]);
        assert_eq!(operation["requestBody"]["content"]["application/json"]["schema"], tool.0["parameters"]);
    }
}

/// Where the tables lie is nobody's business.
#[test]
fn tables_that_cannot_be_read_are_not_named_to_clients() {
    let folder = std::env::temp_dir().join(format!("nemo-env-server-unreadable-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("offices/broken")).unwrap();
    let server = Running::start(Offices::with_folder(&folder).unwrap(), config());
    let answer = server.client().post("/seed_session", "{\"office\": \"broken\"}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(answer.status, 500);
    assert!(!answer.body.contains('/') && answer.body.contains("log"), "{}", answer.body);
}

#[test]
fn seeding_again_starts_anew_and_a_made_up_cookie_starts_nothing() {
    let server = Running::with(config());
    let mut client = server.seeded();
    let delete = json!({"email_id": "00000007"});
    assert!(client.call("email_delete_email", &delete).contains("deleted"));
    assert!(client.call("email_delete_email", &delete).contains("not found"));
    let mut other = client.again();
    assert!(other.call("email_delete_email", &delete).contains("not found"));
    assert_eq!(client.post("/seed_session", "{\"ground_truth\": []}").body, "{}");
    assert!(client.call("email_delete_email", &delete).contains("deleted"));
    for cookie in ["", "00000000000000000000000000000000.00000000000000000000000000000000", "a", "\"\""] {
        let mut stranger = server.client();
        stranger.cookie = Some(format!("{COOKIE_NAME}={cookie}"));
        assert_eq!(stranger.post("/email_search_emails", "{}").body, NOT_SEEDED);
    }
}

#[test]
fn records_choose_their_office() {
    let server = Running::with(config());
    let names = json!({"name": ""});
    let directory = json!({"name": "."});
    let expected = |office: u64| {
        let call = ToolCall::new("company_directory_find_email_address", &directory);
        Workplace::new(generate::office(office)).session().call(&call).body()
    };
    assert_ne!(expected(1), expected(7));
    let mut client = server.client();
    for (record, office) in [(json!({"office": "office-0007"}), 7), (json!({"office": null}), 1), (json!({}), 1)] {
        assert_eq!(client.post("/seed_session", &record.to_string()).body, "{}");
        assert_eq!(client.call("company_directory_find_email_address", &directory), expected(office));
    }
    assert!(client.call("company_directory_find_email_address", &names).contains("Name not provided."));
    for office in [json!("elsewhere"), json!("../office-0001"), json!(""), json!("."), json!(5)] {
        let answer = client.post("/seed_session", &json!({ "office": office }).to_string());
        assert_eq!(answer.status, 422, "{office}");
        assert_eq!(answer.json()["detail"][0]["loc"], json!(["body", "office"]));
    }
}

/// Many sessions at once, each on several connections one after the other: every answer is that of a session of the
/// library that nobody else uses.
#[test]
fn sessions_do_not_see_each_other() {
    let server = Running::with(config());
    let workplace = Offices::new().office(OFFICE).unwrap().unwrap();
    std::thread::scope(|scope| {
        for number in 0..48 {
            let (server, workplace) = (&server, &workplace);
            scope.spawn(move || {
                let secret = format!("secret of number {number}.");
                let mut client = server.seeded();
                let mut expected = workplace.session();
                for round in 0..20 {
                    let id = format!("{:08}", (number * 20 + round) % 300);
                    for (tool, arguments) in [
                        (
                            "email_send_email",
                            json!({"recipient": "sam@atlas.com", "subject": secret, "body": format!("round {round}")}),
                        ),
                        ("email_search_emails", json!({"query": "secret of number", "page_size": 50})),
                        ("calendar_delete_event", json!({"event_id": id})),
                        ("calendar_search_events", json!({"query": "a", "page_size": 3})),
                        ("analytics_create_plot", json!({"time_min": secret, "time_max": "b"})),
                    ] {
                        let answer = client.call(tool, &arguments);
                        assert_eq!(answer, expected.call(&ToolCall::new(tool, &arguments)).body());
                    }
                    if round % 5 == 4 {
                        client = client.again();
                    }
                }
            });
        }
    });
    assert_eq!(server.metric("nemo_env_sessions"), 48.0);
    assert_eq!(server.metric("nemo_env_faults_total"), 0.0);
}
