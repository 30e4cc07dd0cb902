//! What acts and learns: the seam between the training loops and the model, and its two implementations.

pub mod api;
pub mod model_policy;
pub mod scripted;
mod tree_pass;
mod usable;

pub use model_policy::{ModelPolicy, ModelPolicyOptions};
