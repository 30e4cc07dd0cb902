//! The model against an independent float64 oracle: every case of every model folder, both config styles.
//!
//! `NEMO_BURN_FIXTURES` names a folder with `model/<name>/{config.json, model*.safetensors, cases.*, grads.safetensors}`;
//! without it `../shared/fixtures` beside the repository is used when present, and `tests/fixtures` always.
//! `devices.rs` does the same on a device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[path = "golden/bf16.rs"]
mod bf16;
mod fixture;
mod golden;

use burn::tensor::Device;
use golden::{Golden, Tolerances};

fn host() -> Golden {
    Golden::new(Device::flex(), fixture::model_folders(), Tolerances { values: 1e-4, gradients: 1e-4, loss: 1e-5 })
}

#[test]
fn forward_matches_at_every_length_and_config_style() {
    host().forward_matches_at_every_length_and_config_style();
}

#[test]
fn bf16_models_match() {
    bf16::bf16_models_match();
}

#[test]
fn padded_batches_match() {
    host().padded_batches_match();
}

#[test]
fn gradients_match() {
    host().gradients_match();
}

#[test]
fn greedy_generation_is_exact() {
    host().greedy_generation_is_exact();
}
