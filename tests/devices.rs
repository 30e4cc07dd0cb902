//! The program with `--device`: greedy continuations of every fixture model, a whole training run, and what it says where
//! a device cannot be used.
//!
//! Which device that is, see kernels/tests/devices/device.rs. Without one every test prints `skipped` and why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[path = "cli/continuations.rs"]
mod continuations;
#[path = "../kernels/tests/devices/device.rs"]
mod device;
#[path = "cli/program.rs"]
#[allow(dead_code, reason = "shared with the tests of the program on the CPU")]
mod program;

#[path = "cli/short_run.rs"]
mod short_run;
#[path = "devices/toolkit.rs"]
mod toolkit;
#[path = "devices/training.rs"]
mod training;

#[test]
fn greedy_continuations_are_exact() {
    let Some((device, _)) = device::named_device() else { return };
    let folders = continuations::folders();
    assert!(!folders.is_empty());
    // Together: every call of the program compiles the kernels anew.
    let checks: usize = folders.iter().map(|folder| continuations::check(folder, device, 3)).sum();
    println!("devices: {checks} continuations of {} models ran on {device}", folders.len());
}
