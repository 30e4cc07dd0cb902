//! Generation: many sequences at once, over shared prefixes, with keyed sampling.

mod admission;
mod engine;
mod memory;
mod prefix;
mod request;
mod sample;
mod scheduler;
mod sequence;
mod step;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineOptions};
pub use memory::MemoryUse;
pub use request::{SampleKey, SamplingParams, SequenceId, StopReason, TokenId, TurnEnd};
