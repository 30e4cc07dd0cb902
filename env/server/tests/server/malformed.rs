//! Requests that no client in its right mind sends. Whatever comes, the server answers or closes the connection, goes
//! on, and keeps what other sessions hold to itself.

use std::net::Shutdown;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::json;

use super::client::{Answer, Client};
use super::running::{Running, config};

/// What the session of somebody else holds.
const SECRET: &str = "the-combination-is-4-8-15";

/// Statuses that a strange request may be answered with; 500 is not among them.
const STATUSES: [u16; 12] = [200, 400, 404, 405, 408, 411, 413, 414, 422, 431, 501, 507];

const TOOLS: [&str; 8] = [
    "email_search_emails",
    "email_send_email",
    "calendar_create_event",
    "calendar_search_events",
    "project_management_search_tasks",
    "customer_relationship_manager_add_customer",
    "customer_relationship_manager_search_customers",
    "analytics_create_plot",
];

const KEYS: [&str; 16] = [
    "query",
    "page",
    "page_size",
    "date_min",
    "time_max",
    "event_name",
    "event_start",
    "duration",
    "recipient",
    "board",
    "task_name",
    "customer_name",
    "status",
    "response",
    "ground_truth",
    "office",
];

fn pick<'a, T: ?Sized>(random: &mut ChaCha8Rng, choices: &[&'a T]) -> &'a T {
    choices[random.random_range(0..choices.len())]
}

/// A JSON text, or something near one.
fn body(random: &mut ChaCha8Rng, depth: usize) -> String {
    let leaf = random.random_range(0..if depth > 3 { 14 } else { 18 });
    match leaf {
        0 => "null".into(),
        1 => "true".into(),
        2 => "-0".into(),
        3 => "1e999".into(),
        4 => "9".repeat(random.random_range(1..400)),
        5 => format!("-{}", random.next_u64()),
        6 => "NaN".into(),
        7 => "-Infinity".into(),
        8 => "\"\\ud800\"".into(),
        9 => "\"\\udc00\\ud800x\"".into(),
        10 => "\"\\u0000\\u001f\u{7f}\u{202e}𝕏\"".into(),
        11 => format!("\"{}\"", pick(random, &["(", "[a-", "(?:", "a{1,99999}", "\\\\", "%s", "2023-02-30", "*"])),
        12 => format!("\"{}\"", "(".repeat(random.random_range(1..3000))),
        13 => format!("\"{}\"", pick(random, &["\\w+", "x", "é"]).replace('\\', "\\\\").repeat(50)),
        14 => {
            let deep = random.random_range(1..2000);
            format!("{}{}", "[".repeat(deep), "]".repeat(deep - random.random_range(0..2)))
        }
        15 => {
            let items: Vec<String> = (0..random.random_range(0..5)).map(|_| body(random, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => object(random, depth),
    }
}

fn object(random: &mut ChaCha8Rng, depth: usize) -> String {
    let entries: Vec<String> = (0..random.random_range(0..5))
        .map(|_| format!("\"{}\":{}", pick(random, &KEYS), body(random, depth + 1)))
        .collect();
    format!("{{{}}}", entries.join(","))
}

fn path(random: &mut ChaCha8Rng) -> String {
    let tool = pick(random, &TOOLS);
    match random.random_range(0..16) {
        0 => "/verify".into(),
        1 => "/seed_session".into(),
        2 => "/aggregate_metrics".into(),
        3 => "/metrics".into(),
        4 => pick(random, &["/", "//", "/%", "/%2f", "/%zz", "/a/b", "/..", "/%00", "/%ff%fe", "/?x=1", "*"]).into(),
        5 => format!("/{}", "x".repeat(random.random_range(1..9000))),
        6 => format!("/{tool}?a=%00#b"),
        _ => format!("/{tool}"),
    }
}

/// A well-formed request with a strange content.
fn strange_request(random: &mut ChaCha8Rng, cookie: Option<&str>) -> Vec<u8> {
    let is_post = random.random_range(0..10) > 0;
    let method = if is_post { "POST" } else { pick(random, &["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "X"]) };
    let is_object = random.random_range(0..4) > 0;
    let mut body = if is_object { object(random, 0) } else { body(random, 0) }.into_bytes();
    if random.random_range(0..8) == 0 {
        let place = random.random_range(0..=body.len());
        body.insert(place, random.random_range(0..=255));
    }
    let mut head = format!("{method} {} HTTP/1.1\r\nHost: a\r\n", path(random));
    head += match random.random_range(0..10) {
        0 => "Content-Type: text/plain\r\n",
        1 => "Content-Type: application/json; charset=utf-16\r\n",
        2 => "Content-Type: \u{e9}\r\n",
        3 => "",
        _ => "Content-Type: application/json\r\n",
    };
    if random.random_range(0..4) == 0 {
        let value =
            pick(random, &["", "=", ";;;", "\"", "a.b", "0.0", "WorkbenchResourcesServer___workplace_assistant"]);
        head += &format!("Cookie: WorkbenchResourcesServer___workplace_assistant={value}; ={value}; {value}\r\n");
    }
    if let Some(cookie) = cookie.filter(|_| random.random_range(0..4) > 0) {
        head += &format!("Cookie: {cookie}\r\n");
    }
    if random.random_range(0..16) == 0 {
        head += &"X-Filler: y\r\n".repeat(random.random_range(1..200));
    }
    if random.random_range(0..6) == 0 {
        head += "Transfer-Encoding: chunked\r\n\r\n";
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        return [head.into_bytes(), chunk].concat();
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}

/// Bytes that are hardly a request.
fn broken_request(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = strange_request(random, None);
    match random.random_range(0..4) {
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => {
            for _ in 0..random.random_range(1..10) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random_range(0..=255);
            }
        }
        2 => {
            let place = random.random_range(0..bytes.len());
            bytes.drain(..place);
        }
        _ => bytes = (0..random.random_range(1..500)).map(|_| random.random_range(0..=255)).collect(),
    }
    bytes
}

fn check(answer: &Answer, request: &[u8]) {
    let shown = String::from_utf8_lossy(&request[..request.len().min(500)]);
    assert!(STATUSES.contains(&answer.status), "{} {}\n{shown}", answer.status, answer.body);
    assert!(!answer.body.contains(SECRET), "{}\n{shown}", answer.body);
}

/// Somebody whose work goes on all the while.
struct Bystander {
    client: Client,
    num_sent: usize,
}

impl Bystander {
    fn new(server: &Running) -> Self {
        Self { client: server.seeded(), num_sent: 0 }
    }

    /// Sends a mail and finds all of them.
    fn work(&mut self) {
        let mail = json!({"recipient": "sam@atlas.com", "subject": SECRET, "body": "b"});
        assert!(self.client.call("email_send_email", &mail).contains("sent successfully"));
        self.num_sent += 1;
        let answer = self.client.post("/email_search_emails", &json!({ "query": SECRET }).to_string()).json();
        assert_eq!(answer["output"]["pagination"]["total_emails"], self.num_sent);
    }
}

#[test]
fn strange_requests_are_answered() {
    let server = Running::with(config());
    let mut bystander = Bystander::new(&server);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut client = server.seeded();
    // Its session stays the same, whatever cookies come back.
    let cookie = client.cookie.clone();
    let mut num_answers = std::collections::BTreeMap::new();
    for number in 0..6000 {
        let request = strange_request(&mut random, cookie.as_deref());
        // HEAD answers have no body although they say how long it would be.
        if request.starts_with(b"HEAD") {
            continue;
        }
        client.write(&request);
        match client.read() {
            Some(answer) => {
                check(&answer, &request);
                *num_answers.entry(answer.status).or_insert(0) += 1;
                if answer.header("connection") == Some("close") {
                    client = client.again();
                }
            }
            None => {
                *num_answers.entry(0).or_insert(0) += 1;
                client = client.again();
            }
        }
        if number % 100 == 0 {
            bystander.work();
        }
    }
    println!("answers by status (0: closed): {num_answers:?}");
    // Requests of every kind got through.
    for status in [200, 404, 405, 422] {
        assert!(num_answers.get(&status).is_some_and(|&count| count > 50), "{status}: {num_answers:?}");
    }
    assert_eq!(server.metric("nemo_env_faults_total"), 0.0);
}

#[test]
fn broken_requests_end_with_their_connection() {
    let server = Running::with(config());
    let mut bystander = Bystander::new(&server);
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for number in 0..3000 {
        let request = broken_request(&mut random);
        if request.starts_with(b"HEAD") {
            continue;
        }
        let mut client = server.client();
        client.write(&request);
        client.finish();
        while let Some(answer) = client.read() {
            check(&answer, &request);
        }
        if number % 100 == 0 {
            bystander.work();
        }
    }
    assert_eq!(server.metric("nemo_env_faults_total"), 0.0);
}

/// Arguments that are costly for a simple-minded program: none may take long, none may end the server.
#[test]
fn costly_arguments_cost_little() {
    let server = Running::with(config());
    let mut client = server.seeded();
    let keys: Vec<String> = (0..20_000).map(|key| format!("\"{key}\":0")).collect();
    let words = |word: &str, count: usize| vec![word; count].join(" ");
    let search = |pattern: &str| json!({ "query": pattern }).to_string();
    let requests = [
        ("calendar_search_events", search(&"(".repeat(200_000))),
        ("calendar_search_events", search(&format!("x{{{}", "1".repeat(200_000)))),
        ("calendar_search_events", search(&"a?".repeat(5_000))),
        ("calendar_search_events", search("(a+)+$")),
        ("calendar_search_events", search("((((\\w{9}){9}){9}){9}){9}")),
        ("calendar_search_events", search("(\\w{50}){50}")),
        ("calendar_search_events", search(&"[a-z]*".repeat(10_000))),
        ("email_search_emails", search(&words("e", 50_000))),
        ("email_search_emails", search(&"é".repeat(100_000))),
        ("email_search_emails", format!("{{{}}}", keys.join(","))),
        ("email_search_emails", "[".repeat(200_000)),
        ("email_search_emails", format!("{{\"query\": \"a\", \"date_min\": \"{}\"}}", "1".repeat(200_000))),
        (
            "calendar_create_event",
            format!(
                "{{\"event_name\": \"a\", \"participant_email\": \"b\", \"event_start\": \"{}\", \"duration\": \"1\"}}",
                "9 ".repeat(100_000)
            ),
        ),
        (
            "calendar_create_event",
            format!(
                "{{\"event_name\": \"a\", \"participant_email\": \"b\", \"event_start\": \"2023-12-01\", \"duration\": \"{}\"}}",
                "9".repeat(200_000)
            ),
        ),
    ];
    for (tool, body) in requests {
        let start = std::time::Instant::now();
        let answer = client.post(&format!("/{tool}"), &body);
        let seconds = start.elapsed().as_secs_f64();
        let (shown, answered): (String, String) =
            (body.chars().take(60).collect(), answer.body.chars().take(80).collect());
        println!("{seconds:.3} s: {tool} {shown} -> {} {answered}", answer.status);
        assert!(matches!(answer.status, 200 | 422), "{shown}: {} {answered}", answer.status);
        assert!(seconds < 10.0, "{shown} took {seconds:.1} s");
    }
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(server.metric("nemo_env_faults_total"), 0.0);
}

impl Client {
    /// Says that nothing more will be sent.
    fn finish(&mut self) {
        // It fails if the server has closed the connection already.
        let _ = self.stream().shutdown(Shutdown::Write);
    }
}
