//! A server that runs for the length of a test.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use nemo_env::Offices;
use nemo_env_server::{Ending, Server, ServerConfig, StopHandle};

use super::client::Client;

/// The office of tests that need no recorded answers.
pub const OFFICE: &str = "office-0001";

pub struct Running {
    pub address: SocketAddr,
    stop: StopHandle,
    thread: Option<JoinHandle<Ending>>,
}

/// A port that is free, and the generated office.
pub fn config() -> ServerConfig {
    ServerConfig { port: 0, office: Some(OFFICE.into()), num_threads: 2, ..ServerConfig::default() }
}

impl Running {
    pub fn start(offices: Offices, config: ServerConfig) -> Self {
        let server = Server::bind(offices, config).unwrap();
        let (address, stop) = (server.address(), server.stop_handle());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { address, stop, thread: Some(thread) }
    }

    pub fn with(config: ServerConfig) -> Self {
        Self::start(Offices::new(), config)
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// A client whose session is seeded.
    pub fn seeded(&self) -> Client {
        let mut client = self.client();
        assert_eq!(client.post("/seed_session", "{}").body, "{}");
        client
    }

    /// The value of a line of the metrics.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.client().get("/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn stop(&self) {
        self.stop.stop();
    }

    pub fn ending(mut self) -> Ending {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread fails the test, unless it is failing already.
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}
