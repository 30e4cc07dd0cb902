//! Checkpoints as Hugging Face folders: reading, checking and writing them.
//!
//! There is no format of our own and no converter: what is written here loads in other programs, and their folders
//! load here. Reading maps the files, so a tensor's bytes are touched only when it is asked for.

mod dtype;
mod error;
mod index;
mod reader;
mod shards;
mod staging;
mod tensor_file;
mod tensor_writer;
#[cfg(test)]
mod tests;
mod usable;
mod weight_names;
mod writer;

pub(crate) use dtype::decode_f64;
pub use dtype::{StoredDtype, TensorValues};
pub use error::CheckpointError;
pub use reader::CheckpointReader;
pub(crate) use staging::{Staging, refuse_existing};
pub use tensor_file::{TensorFile, TensorInfo};
pub use tensor_writer::{TensorHeader, TensorSink, write_tensor_file};
pub use usable::{LARGEST_WEIGHT, first_unusable};
pub use weight_names::{EMBEDDINGS, FINAL_NORM, HEAD, SELECTION_BIAS, TensorSpec, expected_tensors};
pub use writer::{SaveOptions, SavedWeights, SidecarFile, read_sidecar_files, save_checkpoint, save_in_pieces};
pub(crate) use writer::{save_as_stored, write_file};
