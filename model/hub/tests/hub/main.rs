//! Files of the hub, asked of servers on this machine that behave like the real ones.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod data_sets;
mod fake_server;
mod models;
mod redirects;
