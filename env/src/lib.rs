//! The Workplace Assistant: a simulated office of five databases and 27 tools, its tasks, and the
//! reward that compares final states.
//!
//! Everything but [`fetch`] is deterministic: no clock, no threads, no network, no tensors. An
//! [`Environment`] hands out sessions (tools acting on private tables) and scores a finished list of tool calls by
//! replaying it and the ground truth on fresh tables.

pub mod environment;
pub mod error;
pub mod fetch;
pub mod generate;
pub mod input;
pub mod play;
pub mod prepare;
pub mod python_compat;
pub mod scoring;
pub mod strict;
pub mod task;
pub mod tool;
pub mod workplace;

pub use environment::{EnvSession, Environment, Offices, Outcome};
pub use error::EnvError;
pub use scoring::{FailedCall, Replay, VerifyReport, failed_calls, replay, verify_records};
pub use strict::{StrictOutcome, StrictReport};
pub use task::dataset::{Dataset, DatasetError};
pub use task::record::{Demonstration, Holdout, Message, Provenance, RecordError, Role, Task, WORKPLACE_SYSTEM_PROMPT};
pub use tool::{ToolCall, ToolSchema};
pub use workplace::tables::{Row, Tables, TablesError};
pub use workplace::{NotComparable, Session, TableChange, ToolResult, Workplace};
