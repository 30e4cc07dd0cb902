//! Fuzz target for configurations: see `rl/config/tests/config/any_input.rs`.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a finding is a panic; the target uses a part of what it shares with the tests"
)]

#[path = "../tests/config/any_input.rs"]
mod any_input;

use std::path::Path;
use std::{fs, process};

use libfuzzer_sys::fuzz_target;

/// Writes what the fuzzer starts from to `corpus`, which its arguments name; without seeds it would look as if it worked.
fn write_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let written = fs::create_dir_all(&corpus).and_then(|()| {
        any_input::seeds()
            .iter()
            .enumerate()
            .try_for_each(|(number, seed)| fs::write(corpus.join(format!("seed-{number:02}")), seed))
    });
    if let Err(error) = written {
        eprintln!("error: {}: the seeds could not be written: {error}", corpus.display());
        process::exit(2);
    }
}

fuzz_target!(init: write_corpus(), |input: &[u8]| any_input::check(input));
