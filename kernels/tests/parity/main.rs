//! Fast forms equal references, references equal their formulas.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod causal_attention;
mod causal_conv;
mod harness;
mod invariance;
mod linear_log_prob;
mod norm;
mod split;
mod squared_relu;
mod ssd_scan;
mod timing;
