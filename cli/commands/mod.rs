//! One file per command. Each turns its arguments into calls of the libraries and prints what they return.

pub mod completions;
mod conversation;
pub mod env;
pub mod eval;
pub mod fetch;
pub mod generate;
mod ground_truths;
pub mod init;
pub mod merge;
mod offices;
mod places;
pub mod plan;
pub mod play;
mod run;
pub mod serve;
pub mod sft;
pub mod train;
