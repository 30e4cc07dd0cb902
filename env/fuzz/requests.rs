//! Fuzz target for requests to the server: see `env/server/tests/fuzz/requests.rs`.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a finding is a panic; each target uses a part of what they share"
)]

#[path = "../server/tests/server/client.rs"]
mod client;
mod corpus;
#[path = "../server/tests/fuzz/requests.rs"]
mod requests;
#[path = "../server/tests/server/running.rs"]
mod running;

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: corpus::write("requests", &requests::seeds(), &requests::words()),
    |input: &[u8]| requests::check(input)
);
