//! What a server is told when it starts. Every default of the server is here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nemo_env::{ToolSchema, Workplace};

/// Addresses, limits and names of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Where to listen. Anybody who can reach the address can use the server: it asks for no password.
    pub host: IpAddr,
    /// 0 lets the operating system choose.
    pub port: u16,
    /// The office of records that name none; `None` stands for the tables given to [`Offices`](nemo_env::Offices).
    pub office: Option<String>,
    /// The tools as `GET /openapi.json` shows them.
    pub tools: Arc<Vec<ToolSchema>>,
    /// Name of the session cookie.
    pub cookie_name: String,
    /// Sessions held at the same time; the one that was not used for longest gives way.
    pub max_sessions: usize,
    /// A session that is not used for this long is dropped.
    pub idle_timeout: Duration,
    /// What the calls of one session may add to its tables, in bytes.
    pub max_session_bytes: usize,
    /// What the calls of all sessions together may add, in bytes; the session that was not used for longest gives way.
    pub max_total_bytes: usize,
    /// Offices other than the default one that may be in use. Each stays in memory.
    pub max_offices: usize,
    /// Largest body of a tool call.
    pub max_call_bytes: usize,
    /// Largest body of the other requests, which carry whole conversations.
    pub max_body_bytes: usize,
    /// A request whose answer takes longer, from its headers on, is given up.
    pub request_timeout: Duration,
    /// A client that has not taken an answer for this long is cut off.
    pub response_timeout: Duration,
    /// A connection without the headers of a request for this long is closed.
    pub keep_alive: Duration,
    /// Connections at the same time; further ones wait to be accepted.
    pub max_connections: usize,
    /// How long requests may go on once the server is told to stop.
    pub shutdown_timeout: Duration,
    /// Whether SIGTERM stops the server as [`StopHandle::stop`](crate::StopHandle::stop) does. The signal then no longer
    /// ends the process by itself.
    pub stops_on_sigterm: bool,
    /// Threads that answer requests, at most [`ServerConfig::MAX_THREADS`]; 0 = one for each core.
    pub num_threads: usize,
}

/// Name of the cookie of the reference's server class under its usual configuration.
const COOKIE_NAME: &str = "WorkbenchResourcesServer___workplace_assistant";

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            office: None,
            tools: Workplace::tools(),
            cookie_name: COOKIE_NAME.to_owned(),
            max_sessions: 10_000,
            idle_timeout: Duration::from_secs(3600),
            max_session_bytes: 16 << 20,
            max_total_bytes: 1 << 30,
            max_offices: 256,
            max_call_bytes: 256 << 10,
            max_body_bytes: 32 << 20,
            request_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            max_connections: 4096,
            shutdown_timeout: Duration::from_secs(10),
            stops_on_sigterm: false,
            num_threads: 0,
        }
    }
}

impl ServerConfig {
    /// More threads than this are of no use, and a system that cannot start them all gives up halfway.
    pub const MAX_THREADS: usize = 1024;

    /// The address to listen on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}
