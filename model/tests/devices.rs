//! The model on a device: the golden cases, training against the host kernels, and rows that do not see each other.
//!
//! Which device that is, see kernels/tests/devices/device.rs. Without one every test prints `skipped` and why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[path = "../../kernels/tests/devices/device.rs"]
mod device;
mod fixture;
mod golden;
#[path = "devices/invariance.rs"]
mod invariance;
#[path = "devices/lost.rs"]
mod lost;
#[path = "devices/training.rs"]
mod training;

use std::path::PathBuf;

use burn::tensor::Device;
use golden::{Golden, Tolerances};

/// The device under test, or nothing and a line that says why.
fn test_device() -> Option<Device> {
    device::named_device().map(|(_, device)| device)
}

/// The model folders without copies: a model that is in two of the places where fixtures are looked for runs once, since
/// a processor that plays a graphics card is slow.
fn model_folders() -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut folders = fixture::model_folders();
    folders.retain(|folder| {
        let cases =
            (folder.file_name().map(ToOwned::to_owned), std::fs::read(folder.join("cases.safetensors")).unwrap());
        let first = !seen.contains(&cases);
        if first {
            seen.push(cases);
        } else {
            println!("skipped: {} repeats a model", folder.display());
        }
        first
    });
    assert!(!folders.is_empty(), "the repository carries models");
    folders
}

/// The host's tolerances: the device's sums are f32 too, only in another order, which on software Vulkan and CUDA leaves
/// values within 2e-5, gradients within 2e-5 and losses within 1e-6.
fn golden() -> Option<Golden> {
    let tolerances = Tolerances { values: 1e-4, gradients: 1e-4, loss: 1e-5 };
    Some(Golden::new(test_device()?, model_folders(), tolerances))
}

#[test]
fn forward_matches_at_every_length_and_config_style() {
    let Some(golden) = golden() else { return };
    golden.forward_matches_at_every_length_and_config_style();
}

#[test]
fn padded_batches_match() {
    let Some(golden) = golden() else { return };
    golden.padded_batches_match();
}

#[test]
fn gradients_match() {
    let Some(golden) = golden() else { return };
    golden.gradients_match();
}

#[test]
fn greedy_generation_is_exact() {
    let Some(golden) = golden() else { return };
    golden.greedy_generation_is_exact();
}
