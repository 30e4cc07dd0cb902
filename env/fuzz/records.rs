//! Fuzz target for records: see `env/tests/fuzz/records.rs`.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a finding is a panic; each target uses a part of what they share"
)]

#[path = "../tests/fuzz/calls.rs"]
mod calls;
mod corpus;
#[path = "../tests/fuzz/records.rs"]
mod records;
#[path = "../tests/fuzz/seeds.rs"]
mod seeds;

use libfuzzer_sys::fuzz_target;

/// The folder of recorded calls, beside the repository.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures");

fuzz_target!(init: corpus::write("records", &seeds::records(), &seeds::words()), |input: &[u8]| records::check(input));
