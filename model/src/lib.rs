//! Nemotron-H, the hybrid Mamba-2/attention/MLP family: configuration, weights, text, forward pass, generation.
//!
//! One operation carries everything: [`NemotronH::forward`] takes a run of tokens and a [`HybridState`] and gives
//! hidden values and the next state; generation runs the same arithmetic over pools of states and pages. This crate knows no rewards and no optimizer.

pub mod adapter;
pub mod cache;
pub mod checkpoint;
pub mod config;
mod error;
pub mod generate;
mod git_lfs;
mod layers;
mod memory;
mod nemotron_h;
mod paged;
pub mod parallel;
mod parameters;
mod state;
pub mod text;

pub use error::{EngineError, ModelError};
pub use layers::{Block, Mixer, RmsNorm};
pub use memory::{available_memory, check_room};
pub use nemotron_h::NemotronH;
pub use paged::PagedRow;
pub use parameters::{
    Adapter, Dtypes, FloatMatrix, Initialization, ParameterGradient, ParameterMut, RANDOM_SEED_KEY, RandomOptions,
    Visitor, WeightSource, WeightStorage, load, load_with_config, random, save, save_random,
};
pub use state::{HybridState, LayerState};
