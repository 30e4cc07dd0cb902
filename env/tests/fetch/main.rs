//! Files from elsewhere: tables and data sets, asked of servers on this machine that behave like the real ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[expect(dead_code, reason = "tables are asked for whole, so that nobody looks at headers")]
#[path = "../../../model/hub/tests/hub/fake_server.rs"]
mod fake_server;
mod tables;
