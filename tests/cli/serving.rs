//! `nemo-burn env serve`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::program::{PROGRAM, run};

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
