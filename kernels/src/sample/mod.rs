//! Drawing a token from one row of logits, on the host.
//!
//! Randomness is keyed by what is drawn, `(seed, step, task, sample, position)`, never by where in a batch it is drawn:
//! the same token comes out alone, in any batch, and after a restart.

mod draw;
pub(crate) mod philox;

pub use draw::{SampledToken, SamplingOptions, sample, sample_rows};
pub(crate) use philox::philox4x32_lanes;
pub use philox::{philox4x32, uniform, uniforms};

/// Names one random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The run.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// The task within the data set.
    pub task: u64,
    /// Which of the task's samples.
    pub sample: u64,
    /// The token's position in its sequence.
    pub position: u64,
}
