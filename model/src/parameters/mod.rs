//! What a model is made of: named tensors, how they are kept in memory, and where they come from.

mod adapter;
mod dtypes;
mod load;
mod matrix;
mod named;
mod random;
mod save_random;
mod source;

pub use adapter::Adapter;
pub(crate) use adapter::FACTOR_NAMES;
pub use dtypes::Dtypes;
pub use load::{load, load_with_config, random, save};
pub use matrix::{FloatMatrix, Matrix, WeightStorage};
pub(crate) use named::join;
pub use named::{ParameterGradient, ParameterMut, Visitor};
pub(crate) use random::RandomWeights;
pub use save_random::{RANDOM_SEED_KEY, RandomOptions, save_random};
pub(crate) use source::TensorOutline;
pub use source::{Initialization, WeightBuilder, WeightSource};
