//! The server as clients see it: over loopback HTTP, in the same process.
//!
//! `NEMO_BURN_FIXTURES` and `NEMO_BURN_DATA` name the recorded answers and the tables they belong to, as in the golden
//! tests of the office itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod cases;
mod client;
mod golden;
mod gym;
mod limits;
mod malformed;
mod running;
mod sessions;
mod stopping;
