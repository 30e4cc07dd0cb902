//! The office over HTTP, wire-compatible with the resource server of NeMo Gym's Workplace Assistant, so that agents
//! written for that one can use this one unchanged.
//!
//! | request | answer |
//! |---|---|
//! | `POST /seed_session` with any object | `{}`; the cookie's session starts anew |
//! | `POST /TOOL` with the arguments | `{"output": ...}` |
//! | `POST /verify` with a record and its `response` | its conversation and the `reward`; the session ends |
//! | `POST /close_session` with `resources_session_id` and `episode_id` | the former; the session ends |
//! | `POST /aggregate_metrics` with `verify_responses` | statistics by task and overall |
//! | `GET /`, `GET /reverify_mode` | `{"status":"ok"}`, `"unknown"` |
//! | `GET /openapi.json` | all of this and the tools, for programs |
//! | `GET /health`, `GET /metrics` | for whoever runs the server |
//!
//! Every address may have `/ng-rollout/ID` in front, as the agents of NeMo Gym write it while they record.
//!
//! A record may name its office (`office`), as generated ones do. Sessions are private, bounded and in memory: a
//! server that is started again knows none of them.
//!
//! Threads and the clock are here; the office itself has neither.

mod aggregate;
mod close_session;
mod config;
mod connections;
mod encoding;
mod error;
mod long_work;
mod metrics;
mod openapi;
mod reply;
mod request_body;
mod rollout_prefix;
mod routes;
mod session_cookie;
mod session_store;
mod timed_writes;
mod verify;

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

pub use config::ServerConfig;
pub use error::ServerError;
use long_work::LongWork;
use metrics::Metrics;
use routes::Shared;
use session_cookie::CookieJar;
use session_store::{SessionStore, StoreLimits};
use tokio::sync::watch;

use nemo_env::Offices;

/// Threads for requests with long bodies. Each may be busy for a while; further ones wait.
const NUM_LONG_WORK_THREADS: usize = 8;

/// A server that listens and is not running yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Arc<watch::Sender<bool>>,
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct StopHandle(Arc<watch::Sender<bool>>);

impl StopHandle {
    /// The server accepts no further connection, ends the requests that are running, and returns.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Connections that were cut because their requests did not end in time.
    pub num_cut: usize,
}

impl Server {
    /// Takes the address and makes the office of records that name none.
    ///
    /// # Errors
    /// The address is taken or not ours, the office is unknown, a limit is 0, there are more threads than
    /// [`ServerConfig::MAX_THREADS`], the cookie's name cannot be sent.
    pub fn bind(offices: Offices, config: ServerConfig) -> Result<Self, ServerError> {
        for (option, value) in [
            ("max_sessions", config.max_sessions),
            ("max_connections", config.max_connections),
            ("max_call_bytes", config.max_call_bytes),
            ("max_body_bytes", config.max_body_bytes),
        ] {
            if value == 0 {
                return Err(ServerError::Zero { option });
            }
        }
        if config.num_threads > ServerConfig::MAX_THREADS {
            return Err(ServerError::Threads { found: config.num_threads });
        }
        let workplace = match &config.office {
            Some(name) => {
                let unknown = || ServerError::UnknownOffice { office: name.clone() };
                Some(offices.office(name)?.ok_or_else(unknown)?)
            }
            None => offices.unnamed(),
        };
        let cookies = CookieJar::new(&config.cookie_name)?;
        let sessions = SessionStore::new(StoreLimits {
            max_sessions: config.max_sessions,
            idle_timeout: config.idle_timeout,
            max_total_bytes: config.max_total_bytes,
        });
        let bind_error = |source| ServerError::Bind { address: config.address(), source };
        let listener = TcpListener::bind(config.address()).map_err(bind_error)?;
        listener.set_nonblocking(true).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let shared = Arc::new(Shared {
            config,
            offices,
            workplace,
            named_offices: Mutex::new(HashSet::new()),
            cookies,
            sessions,
            work_bytes: routes::work_places(),
            long_work: LongWork::default(),
            give_back: OnceLock::new(),
            metrics: Metrics::default(),
        });
        Ok(Self { listener, address, shared, stop: Arc::new(watch::Sender::new(false)) })
    }

    /// Has `give_back` called on threads that end long work or fall idle after it, where an allocator keeps what each thread
    /// has freed until it is told to give it back.
    pub fn giving_back_with(self, give_back: fn()) -> Self {
        // The first one stays: a server is told once.
        self.shared.give_back.get_or_init(|| give_back);
        self
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that stops the server.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.stop))
    }

    /// Answers requests on threads of its own until it is told to stop.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn run(self) -> Result<Ending, ServerError> {
        let start_error = |source| ServerError::Start { source };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().thread_name("env-server").max_blocking_threads(NUM_LONG_WORK_THREADS);
        // A thread that has done its long work ends, and what it kept for itself with it.
        builder.thread_keep_alive(Duration::from_millis(200));
        let give_back = *self.shared.give_back.get_or_init(|| || {});
        builder.on_thread_stop(give_back);
        let shared = Arc::clone(&self.shared);
        builder.on_thread_park(move || {
            if shared.long_work.is_recent() {
                give_back();
            }
        });
        if self.shared.config.num_threads > 0 {
            builder.worker_threads(self.shared.config.num_threads);
        }
        let runtime = builder.build().map_err(start_error)?;
        let num_cut = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener).map_err(start_error)?;
            let router = routes::router(Arc::clone(&self.shared));
            Ok::<usize, ServerError>(connections::serve(listener, router, self.shared, &self.stop).await)
        })?;
        // Work that cannot be interrupted is left behind.
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(Ending { num_cut })
    }
}
