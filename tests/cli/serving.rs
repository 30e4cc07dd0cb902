//! `nemo-burn env serve`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::program::{PROGRAM, run, run_in};

/// A server that ends with the test.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    /// Starts the program's server in a folder, on a port that is free.
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder).args(["env", "serve", "--port=0"]).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    /// Status, headers and body of the answer to a JSON body.
    fn post(&self, path: &str, cookie: &str, body: &str) -> (u16, String, String) {
        let head = "Host: a\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        let text =
            format!("POST {path} HTTP/1.1\r\n{head}\r\nCookie: {cookie}\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = answer(&self.address, &text);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    }

    /// Seeds a session as `task` says and makes one call in it.
    fn call(&self, task: &str, tool: &str, arguments: &Value) -> String {
        let (status, head, body) = self.post("/seed_session", "", task);
        assert_eq!(status, 200, "{body}");
        let cookie = head.lines().find_map(|line| line.to_lowercase().starts_with("set-cookie: ").then(|| &line[12..]));
        let (status, _, body) =
            self.post(&format!("/{tool}"), cookie.unwrap().split(';').next().unwrap(), &arguments.to_string());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["output"].to_string()
    }

    /// Megabytes of the process that are in memory; nothing where the system does not say.
    fn resident_megabytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1000)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request on a connection of its own and returns the whole answer.
fn answer(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_says_where_answers_and_ends_with_ctrl_c() {
    let mut child = Command::new(PROGRAM)
        .args(["env", "serve", "--port=0", "--office=office-0001"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let health = answer(&address, "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("{\"status\":\"ok\",\"sessions\":0}"), "{health}");
    // A second one is told that the address is taken.
    let port = address.rsplit(':').next().unwrap();
    run(&["env".to_owned(), "serve".to_owned(), format!("--port={port}")]).refused(&[address.as_str(), "--port"]);
    run(&["env", "serve", "--port=0", "--office=mars"]).refused(&["mars", "office-0007"]);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("stopping"), "{stderr}");
}

#[test]
fn sessions_play_in_the_tables_that_are_given() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["env", "generate", "--output=tasks", "--count=4", "--seed=11"]).succeeded();
    let mut offices: Vec<_> =
        fs::read_dir(folder.path().join("tasks/offices")).unwrap().map(|entry| entry.unwrap().path()).collect();
    offices.sort();
    // No other office has this row.
    let tasks_file = offices[0].join("processed/project_tasks.csv");
    let rows = fs::read_to_string(&tasks_file).unwrap();
    let first = rows.lines().nth(1).unwrap();
    let name = first.split(',').nth(1).unwrap();
    fs::write(&tasks_file, rows.replacen(name, "Water the cactus of the lobby", 1)).unwrap();
    let serving = Serving::start(folder.path(), &["--tables=tasks"]);
    let query = json!({"task_name": "cactus of the lobby"});
    let tool = "project_management_search_tasks";
    let id = first.split(',').next().unwrap();
    let found = serving.call("{}", tool, &query);
    assert!(found.contains("Water the cactus of the lobby") && found.contains(id), "{found}");
    // A record's office is the one of the folder as well, and another one has another state.
    let office = |path: &Path| json!({"office": path.file_name().unwrap().to_str().unwrap()}).to_string();
    assert_eq!(serving.call(&office(&offices[0]), tool, &query), found);
    assert!(!serving.call(&office(&offices[1]), tool, &query).contains("cactus"));
}

#[test]
fn tools_are_described_as_the_records_of_a_file_have_them() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["env", "generate", "--output=tasks", "--count=1"]).succeeded();
    let text = fs::read_to_string(folder.path().join("tasks/train.jsonl")).unwrap();
    let mut record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let tools = record["responses_create_params"]["tools"].as_array_mut().unwrap();
    let tool = tools.iter_mut().find(|tool| tool["name"] == "email_search_emails").unwrap();
    tool["description"] = json!("Rummage in the letters.");
    fs::write(folder.path().join("own.jsonl"), format!("{record}\n")).unwrap();

    let listed = run_in(folder.path(), &["env", "list", "--json", "--records=own.jsonl"]).succeeded();
    assert!(listed.contains("Rummage in the letters."), "{listed}");
    assert!(!run_in(folder.path(), &["env", "list", "--json"]).succeeded().contains("Rummage"));
    let serving = Serving::start(folder.path(), &["--office=office-0001", "--records=own.jsonl"]);
    let shown = answer(&serving.address, "GET /openapi.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(shown.matches("Rummage in the letters.").count(), 1, "{shown}");
}

#[test]
fn large_requests_leave_no_memory_behind_and_are_not_sent_back() {
    const NUM_REQUESTS: usize = 8;
    let serving = Serving::start(Path::new("."), &["--office=office-0001"]);
    let Some(before) = serving.resident_megabytes() else {
        return println!("skipped: this system does not say how much memory a process has");
    };
    // Each of a million lists of nothing is a wrong call, and takes many times its two bytes.
    let lists = format!("[{}[]]", "[],".repeat(1_000_000));
    let body = format!(
        r#"{{"responses_create_params":{{}},"response":{{"output":[]}},"ground_truth":{lists},"id":1,"category":"","environment_name":""}}"#
    );
    std::thread::scope(|scope| {
        for _ in 0..NUM_REQUESTS {
            scope.spawn(|| {
                let (status, _, answer) = serving.post("/verify", "", &body);
                assert_eq!(status, 422);
                assert!(answer.len() < 32 << 10, "{} bytes", answer.len());
            });
        }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut after = serving.resident_megabytes().unwrap();
    println!("serving: {before} MB before, {after} MB at the end of the requests");
    while after > before + 100 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        after = serving.resident_megabytes().unwrap();
    }
    assert!(after <= before + 100, "{before} MB before, {after} MB after");
}
