//! The fuzz target for requests as a test: its seeds, and each with its middle left out. `env/fuzz` runs the same target
//! for as long as one likes, led by coverage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "a test fails by panicking; the target uses a part of the client"
)]

#[path = "../server/client.rs"]
mod client;
mod requests;
#[path = "../server/running.rs"]
mod running;

#[test]
fn requests_are_answered() {
    let seeds = requests::seeds();
    assert!(!requests::words().is_empty());
    for (number, seed) in seeds.iter().enumerate() {
        requests::check(seed);
        for part in 1..6 {
            let from = seed.len() * part / 6;
            let to = (from + 1 + number % 40).min(seed.len());
            requests::check(&[&seed[..from], &seed[to..]].concat());
        }
    }
}
