//! Device kernels equal references: every operation on a CubeCL device against plain tensor operations on the CPU.
//!
//! Which device that is, see devices/device.rs. Without one every test prints `skipped` and why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[path = "engine_ops/adamw_forms.rs"]
mod adamw_forms;
#[path = "devices/check.rs"]
mod check;
#[path = "devices/device.rs"]
mod device;
#[path = "parity/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of the host kernels")]
mod harness;

#[path = "devices/adamw_moments.rs"]
mod adamw_moments;
#[path = "devices/attention.rs"]
mod attention;
#[path = "devices/engine.rs"]
mod engine;
#[path = "devices/failures.rs"]
mod failures;
#[path = "devices/half_precision.rs"]
mod half_precision;
#[path = "devices/invariance.rs"]
mod invariance;
#[path = "devices/layouts.rs"]
mod layouts;
#[path = "devices/nano_9b.rs"]
mod nano_9b;
#[path = "devices/sequence.rs"]
mod sequence;
