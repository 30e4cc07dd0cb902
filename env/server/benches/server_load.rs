//! Load on the server: many sessions replay recorded sequences over loopback and check every answer.
//!
//! The server runs in a process of its own (this program started again), so that its memory is its own. First the
//! sessions call at a fixed rate, as agents do that think between calls; then as fast as they can. A call's time
//! counts from the moment it was due, so that a server that falls behind cannot hide it; the time from its sending is
//! shown as well.
//!
//! `cargo bench -p nemo-env-server --bench server_load -- [--seconds 10] [--sessions 1000] [--rate 12000] [--threads 2]`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a load generator reports on standard output and stops at the first thing it cannot do"
)]

#[path = "../tests/server/cases.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod cases;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nemo_env::Offices;
use nemo_env_server::{Server, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The same as the program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One recorded call, ready to be sent.
struct Call {
    path: String,
    body: String,
    recorded: Value,
}

struct Settings {
    seconds: f64,
    num_sessions: usize,
    rate: f64,
    num_threads: usize,
}

/// What a session found.
#[derive(Default)]
struct Findings {
    num_wrong: usize,
    first_wrong: Option<String>,
    /// Microseconds of each call since it was due, and since it was sent.
    due: Vec<u32>,
    sent: Vec<u32>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: f64| {
        let place = arguments.iter().position(|argument| argument == name);
        place.map_or(default, |place| arguments[place + 1].parse().unwrap())
    };
    let settings = Settings {
        seconds: number("--seconds", 10.0),
        num_sessions: number("--sessions", 1000.0) as usize,
        rate: number("--rate", 12_000.0),
        num_threads: number("--threads", 2.0) as usize,
    };
    if arguments.iter().any(|argument| argument == "--serve") {
        serve(settings.num_threads);
        return;
    }
    let (Some(cases), Some(_)) = (cases::cases("workplace", "sequences"), cases::tables()) else { return };
    let sequences: Vec<Vec<Call>> = cases.iter().map(sequence).collect();
    let sequences = Arc::new(sequences);
    let (mut child, address) = start_server(settings.num_threads);
    println!(
        "{} sessions, {} sequences, client and server with {} threads each on {} cores",
        settings.num_sessions,
        sequences.len(),
        settings.num_threads,
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(settings.num_threads).enable_all().build().unwrap();
    let num_wrong = runtime.block_on(async {
        let mut connections = Vec::with_capacity(settings.num_sessions);
        for _ in 0..settings.num_sessions {
            connections.push(Connection::open(address).await);
        }
        let mut num_wrong = 0;
        // Sessions and the allocator's pools are made in the first; what memory does after that is what counts.
        for (name, rate, seconds) in [
            ("warm-up", settings.rate, 2.0),
            ("fixed rate", settings.rate, settings.seconds),
            ("full speed", 0.0, settings.seconds / 2.0),
        ] {
            let before = resident_megabytes(&child);
            let (found, elapsed) = phase(&mut connections, &sequences, rate, seconds).await;
            num_wrong += found.num_wrong;
            found.print(name, elapsed, before, resident_megabytes(&child));
        }
        num_wrong
    });
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    assert!(status.success(), "the server ended with {status}");
    assert_eq!(num_wrong, 0, "wrong answers");
}

/// The server's process: it says where it listens and ends with its standard input.
fn serve(num_threads: usize) {
    let config = ServerConfig { port: 0, num_threads, ..ServerConfig::default() };
    // SAFETY: it may be called at any time, from any thread.
    let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
    let server =
        Server::bind(Offices::with_tables(&cases::tables().unwrap()), config).unwrap().giving_back_with(collect);
    let stop = server.stop_handle();
    println!("{}", server.address());
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.stop();
    });
    assert_eq!(server.run().unwrap().num_cut, 0);
}

fn start_server(num_threads: usize) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--serve", "--threads", &num_threads.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn sequence(case: &Value) -> Vec<Call> {
    let call = |call: &Value| Call {
        path: cases::path(call["name"].as_str().unwrap()),
        body: cases::posted(&call["arguments"]),
        recorded: call.clone(),
    };
    case["calls"].as_array().unwrap().iter().map(call).collect()
}

/// Megabytes of memory that the server holds.
fn resident_megabytes(child: &Child) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// All sessions for some seconds; what they found, and how long it took. A rate of 0 is no rate.
async fn phase(
    connections: &mut Vec<Connection>,
    sequences: &Arc<Vec<Vec<Call>>>,
    rate: f64,
    seconds: f64,
) -> (Findings, f64) {
    let is_over = Arc::new(AtomicBool::new(false));
    let start = Instant::now() + Duration::from_millis(200);
    let num_sessions = connections.len() as f64;
    let interval = if rate > 0.0 { num_sessions / rate } else { 0.0 };
    let sessions: Vec<_> = connections
        .drain(..)
        .enumerate()
        .map(|(number, connection)| {
            let first = start + Duration::from_secs_f64(interval * number as f64 / num_sessions);
            let interval = Duration::from_secs_f64(interval);
            tokio::spawn(session(connection, Arc::clone(sequences), number, first, interval, Arc::clone(&is_over)))
        })
        .collect();
    tokio::time::sleep_until((start + Duration::from_secs_f64(seconds)).into()).await;
    is_over.store(true, Ordering::Relaxed);
    let elapsed = start.elapsed().as_secs_f64();
    let mut all = Findings::default();
    for session in sessions {
        let (found, connection) = session.await.unwrap();
        connections.push(connection);
        all.num_wrong += found.num_wrong;
        all.first_wrong = all.first_wrong.or(found.first_wrong);
        all.due.extend(found.due);
        all.sent.extend(found.sent);
    }
    (all, elapsed)
}

impl Findings {
    fn print(mut self, name: &str, seconds: f64, megabytes_before: f64, megabytes_after: f64) {
        println!(
            "{name:>10}: {:>9} calls in {seconds:.1} s, {:>6.0}/s, {} wrong; since due {}, since sent {}; \
             server {megabytes_before:.1} MB -> {megabytes_after:.1} MB",
            self.due.len(),
            self.due.len() as f64 / seconds,
            self.num_wrong,
            quantiles(&mut self.due),
            quantiles(&mut self.sent),
        );
        if let Some(wrong) = self.first_wrong {
            println!("{wrong}");
        }
    }
}

fn quantiles(microseconds: &mut [u32]) -> String {
    microseconds.sort_unstable();
    let at = |share: f64| {
        let place = ((microseconds.len() as f64 * share) as usize).min(microseconds.len().saturating_sub(1));
        microseconds.get(place).map_or(0.0, |&value| f64::from(value) / 1000.0)
    };
    format!("p50 {:.2} ms p99 {:.2} ms max {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// One session over one connection, again and again: seed, then the calls of a sequence.
async fn session(
    mut connection: Connection,
    sequences: Arc<Vec<Vec<Call>>>,
    number: usize,
    first: Instant,
    interval: Duration,
    is_over: Arc<AtomicBool>,
) -> (Findings, Connection) {
    let mut found = Findings::default();
    let mut due = first;
    // Sequences are spread over the sessions and the whole list is run through.
    for step in 0.. {
        let sequence = &sequences[(number * 7919 + step) % sequences.len()];
        let (status, body) = connection.post("/seed_session", "{}").await;
        assert_eq!((status, body), (200, "{}"));
        for call in sequence {
            if interval.is_zero() {
                due = Instant::now();
            } else {
                tokio::time::sleep_until(due.into()).await;
            }
            if is_over.load(Ordering::Relaxed) {
                return (found, connection);
            }
            let sent = Instant::now();
            let (status, body) = connection.post(&call.path, &call.body).await;
            let microseconds = |since: Instant| u32::try_from(since.elapsed().as_micros()).unwrap();
            found.due.push(microseconds(due));
            found.sent.push(microseconds(sent));
            if !cases::is_as_recorded(&call.recorded, status, body) {
                found.num_wrong += 1;
                found.first_wrong.get_or_insert_with(|| format!("{} {}: {status} {body}", call.path, call.body));
            }
            due += interval;
        }
    }
    (found, connection)
}

/// A connection with room for requests and answers.
struct Connection {
    stream: TcpStream,
    cookie: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, cookie: String::new(), request: Vec::new(), answer: Vec::new() }
    }

    async fn post(&mut self, path: &str, body: &str) -> (u16, &str) {
        self.request.clear();
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nCookie: {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.cookie,
            body.len()
        )
        .unwrap();
        self.stream.write_all(&self.request).await.unwrap();
        self.answer.clear();
        let head_length = loop {
            self.read().await;
            if let Some(place) = self.answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break place + 4;
            }
        };
        let head = std::str::from_utf8(&self.answer[..head_length]).unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = header("content-length:").unwrap().parse().unwrap();
        let cookie = header("set-cookie:").unwrap().split(';').next().unwrap();
        if cookie != self.cookie {
            cookie.clone_into(&mut self.cookie);
        }
        while self.answer.len() < head_length + length {
            self.read().await;
        }
        (status, std::str::from_utf8(&self.answer[head_length..head_length + length]).unwrap())
    }

    async fn read(&mut self) {
        let num_read = self.stream.read_buf(&mut self.answer).await.unwrap();
        assert!(num_read > 0, "the server closed a connection");
    }
}
