//! Checkpoints as Hugging Face folders: reading, checking and writing them.
//!
//! There is no format of our own and no converter: what is written here loads in other programs, and their folders
//! load here. Reading maps the files, so a tensor's bytes are touched only when it is asked for.

mod dtype;
mod error;
mod index;
mod reader;
mod tensor_file;
#[cfg(test)]
mod tests;
mod usable;
mod weight_names;
mod writer;

pub use dtype::{StoredDtype, TensorValues};
pub use error::CheckpointError;
pub use reader::CheckpointReader;
pub use tensor_file::{TensorFile, TensorInfo};
pub use usable::{LARGEST_WEIGHT, first_unusable};
pub use weight_names::{EMBEDDINGS, FINAL_NORM, HEAD, SELECTION_BIAS, TensorSpec, expected_tensors};
pub use writer::{SaveOptions, SidecarFile, TensorHeader, read_sidecar_files, save_checkpoint, write_tensor_file};
