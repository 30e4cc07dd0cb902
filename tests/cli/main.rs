//! The program as its users see it: what it prints, how it fails, what its documentation says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

mod adapter;
mod bad_checkpoint;
mod bad_configuration;
mod bad_data;
mod bad_results;
mod carried_model;
mod continuations;
mod continued;
#[path = "../../model/hub/tests/hub/fake_server.rs"]
mod fake_server;
mod golden_generation;
mod help;
mod hub;
mod init;
mod interrupted;
mod memory;
mod model_folder;
mod office;
mod plan;
mod play;
mod program;
mod readme;
mod real_office;
mod serving;
mod short_run;
mod small_model;
mod tidy;
mod training;
mod weight_dtype;
