//! The end of a server: what has begun is finished, nothing new begins.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nemo_env_server::{Ending, ServerConfig};

use super::running::{Running, config};

#[test]
fn running_requests_are_answered_before_the_end() {
    let server = Running::with(config());
    let mut idle = server.seeded();
    let mut busy = server.seeded();
    let cookie = busy.cookie.clone().unwrap();
    let body = "{\"query\": \"a\"}";
    let head = format!(
        "POST /email_search_emails HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    busy.write(head.as_bytes());
    busy.write(&body.as_bytes()[..4]);
    // The server has read the headers once it counts nothing but this connection as busy; give it the time.
    std::thread::sleep(Duration::from_millis(300));
    server.stop();
    // Silent connections are closed, new ones refused.
    assert!(idle.read().is_none());
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < deadline, "connections are still accepted");
        std::thread::sleep(Duration::from_millis(20));
    }
    busy.write(&body.as_bytes()[4..]);
    let answer = busy.read().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("{\"output\":"), "{}", answer.body);
    assert_eq!(server.ending(), Ending { num_cut: 0 });
}

/// The signal reaches all of this process; no other server in it heeds it.
#[test]
fn a_termination_signal_ends_it_in_the_same_way() {
    let server = Running::with(ServerConfig { stops_on_sigterm: true, ..config() });
    let mut idle = server.seeded();
    let mut busy = server.seeded();
    busy.write(b"POST /email_search_emails HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{");
    std::thread::sleep(Duration::from_millis(300));
    let sent = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert!(idle.read().is_none());
    busy.write(b"}");
    assert_eq!(busy.read().unwrap().status, 400, "a request that had begun is answered");
    assert_eq!(server.ending(), Ending { num_cut: 0 });
}

#[test]
fn requests_that_do_not_end_are_cut() {
    let server = Running::with(ServerConfig { shutdown_timeout: Duration::from_millis(200), ..config() });
    let mut client = server.client();
    client.write(b"POST /email_search_emails HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{");
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    server.stop();
    assert_eq!(server.ending(), Ending { num_cut: 1 });
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(client.read().is_none());
}
