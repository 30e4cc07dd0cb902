//! What a model is made of: named tensors, how they are kept in memory, and where they come from.

mod dtypes;
mod load;
mod matrix;
mod named;
mod source;

pub use dtypes::Dtypes;
pub use load::{load, load_with_config, random, save};
pub use matrix::{FloatMatrix, Matrix, WeightStorage};
pub(crate) use named::join;
pub use named::{ParameterGradient, ParameterMut, Visitor};
pub use source::{Initialization, WeightBuilder, WeightSource};
