//! Greedy continuations of every fixture model, through the program, on the CPU; `tests/devices.rs` does it on a device.

use super::continuations::{check, folders};

#[test]
fn greedy_continuations_are_exact() {
    let folders = folders();
    assert!(!folders.is_empty());
    let checks: usize = folders.iter().map(|folder| check(folder, "cpu", 1)).sum();
    println!("golden_generation: {checks} continuations of {} models ran on cpu", folders.len());
}
