//! The operations of the generation engine and the optimizer: host implementation against plain tensor operations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports what it skipped"
)]

#[path = "engine_ops/adamw_forms.rs"]
mod adamw_forms;

#[path = "engine_ops/adamw.rs"]
mod adamw;
#[path = "engine_ops/adamw_moments.rs"]
mod adamw_moments;
#[path = "engine_ops/adamw_narrow.rs"]
mod adamw_narrow;
#[path = "engine_ops/cache_write.rs"]
mod cache_write;
#[path = "engine_ops/harness.rs"]
mod harness;
#[path = "engine_ops/linear.rs"]
mod linear;
#[path = "engine_ops/paged_attention.rs"]
mod paged_attention;
#[path = "engine_ops/ssm_step.rs"]
mod ssm_step;
#[path = "engine_ops/stored_weights.rs"]
mod stored_weights;
