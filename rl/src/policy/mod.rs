//! What acts and learns: the seam between the training loops and the model, and its two implementations.

pub mod api;
pub mod model_policy;
mod pass;
pub mod scripted;
mod usable;

pub use model_policy::{ModelPolicy, ModelPolicyOptions};
pub use pass::PassOptions;
