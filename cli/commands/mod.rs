//! One file per command. Each turns its arguments into calls of the libraries and prints what they return.

pub mod env;
pub mod eval;
pub mod generate;
mod places;
mod run;
pub mod serve;
pub mod sft;
pub mod train;
