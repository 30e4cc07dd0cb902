//! Writes a Hugging Face model folder so that it is either complete or absent.
//!
//! Everything is written into a sibling folder, synced to the disk and renamed. An interrupted or failed save leaves
//! what existed before untouched. Tensors are asked for one at a time, so saving needs the memory of one tensor, or of a
//! piece of one.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::dtype::{StoredDtype, TensorValues};
use super::error::CheckpointError;
use super::index::INDEX_FILE;
use super::shards::{index_text, into_shards};
use super::staging::{Staging, refuse_existing};
use super::tensor_writer::{TensorHeader, TensorSink, write_tensors};
use super::weight_names::{EMBEDDINGS, HEAD, SELECTION_BIAS, TensorSpec, expected_tensors, table_shape};
use crate::config::{CONFIG_FILE, GENERATION_CONFIG_FILE, ModelConfig};

/// Files of a model folder that are copied as they are when the model is saved elsewhere.
const SIDECAR_FILES: [&str; 13] = [
    GENERATION_CONFIG_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    // Code that `auto_map` of published configurations refers to.
    "configuration_nemotron_h.py",
    "modeling_nemotron_h.py",
];

/// A file that accompanies the weights, such as `tokenizer.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarFile {
    /// Path within the model's folder, with `/` between folders.
    pub name: String,
    /// Contents.
    pub contents: Vec<u8>,
}

/// How to save a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// Tokenizer, chat template and generation defaults to save with the weights.
    pub sidecar_files: Vec<SidecarFile>,
    /// Store every tensor in this type instead of the configuration's.
    pub dtype: Option<StoredDtype>,
    /// Bytes of tensors that one file of weights holds at most; without it, all are in one file.
    pub max_shard_bytes: Option<u64>,
}

/// What was written of a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedWeights {
    /// Files of weights.
    pub num_files: usize,
    /// Their size.
    pub num_bytes: u64,
}

/// Tokenizer, chat template and generation files of a model folder, to be saved with a model derived from it.
///
/// # Errors
/// [`CheckpointError::Unreadable`].
pub fn read_sidecar_files(folder: &Path) -> Result<Vec<SidecarFile>, CheckpointError> {
    let mut files = Vec::new();
    for name in SIDECAR_FILES {
        let path = folder.join(name);
        if path.exists() {
            let contents = std::fs::read(&path).map_err(|source| CheckpointError::unreadable(&path, source))?;
            files.push(SidecarFile { name: name.to_owned(), contents });
        }
    }
    Ok(files)
}

/// Saves a model as a new Hugging Face folder.
///
/// `values` is called once per tensor of [`expected_tensors`] and returns its values row-major; it is asked for the
/// embedding a second time when the head is tied to it, because the head is written out for programs that do not tie
/// it. Floats are rounded to the stored type. `folder` must not exist or be empty; its parent is created.
///
/// # Errors
/// [`CheckpointError::AlreadyExists`] if `folder` holds anything, [`CheckpointError::NoFolderName`] if it ends in no name;
/// [`CheckpointError::Unwritable`] if the disk is full or read-only; whatever `values` returns. After an error `folder` is as it was before.
pub fn save_checkpoint<E: From<CheckpointError>>(
    folder: &Path,
    config: &ModelConfig,
    options: &SaveOptions,
    mut values: impl FnMut(&TensorSpec) -> Result<TensorValues, E>,
) -> Result<SavedWeights, E> {
    save_in_pieces(folder, config, options, |tensor, sink| Ok(sink.write(&values(tensor)?)?))
}

/// [`save_checkpoint`] for whoever has no room for a whole tensor: `fill` writes the values of the tensor it is called
/// with, all of them, in pieces of its choice.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn save_in_pieces<E: From<CheckpointError>>(
    folder: &Path,
    config: &ModelConfig,
    options: &SaveOptions,
    fill: impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<SavedWeights, E> {
    let dtype = options.dtype.unwrap_or(config.dtype.into());
    save_as_stored(folder, config, options, |spec| Ok(stored_dtype(spec, dtype)), fill)
}

/// [`save_in_pieces`] with a type for each tensor of [`expected_tensors`].
///
/// # Errors
/// As [`save_checkpoint`], and whatever `dtype_of` returns.
pub(crate) fn save_as_stored<E: From<CheckpointError>>(
    folder: &Path,
    config: &ModelConfig,
    options: &SaveOptions,
    dtype_of: impl Fn(&TensorSpec) -> Result<StoredDtype, E>,
    mut fill: impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<SavedWeights, E> {
    refuse_existing(folder)?;
    let staging = Staging::create(folder)?;
    let mut headers = Vec::new();
    for spec in expected_tensors(config) {
        headers.push(TensorHeader { dtype: dtype_of(&spec)?, name: spec.name, shape: spec.shape });
    }
    if config.tie_word_embeddings {
        // Neither transformers nor vLLM ties the head of this family: without it in the file they run a random one.
        let dtype = dtype_of(&TensorSpec { name: EMBEDDINGS.to_owned(), shape: table_shape(config) })?;
        headers.push(TensorHeader { name: HEAD.to_owned(), shape: table_shape(config), dtype });
    }
    let shards = into_shards(headers, options.max_shard_bytes);
    let mut saved = SavedWeights { num_files: shards.len(), num_bytes: 0 };
    let fill = &mut |tensor: &TensorHeader, sink: &mut TensorSink<'_>| {
        let tied = config.tie_word_embeddings && tensor.name == HEAD;
        let source = if tied { EMBEDDINGS } else { tensor.name.as_str() };
        fill(&TensorSpec { name: source.to_owned(), shape: tensor.shape.clone() }, sink)
    };
    for shard in &shards {
        let path = staging.path.join(&shard.file_name);
        saved.num_bytes += write_tensors(&path, &shard.tensors, &[("format", "pt")], fill)?;
    }
    if shards.len() > 1 {
        write_file(&staging.path.join(INDEX_FILE), index_text(&shards).as_bytes())?;
    }
    write_file(&staging.path.join(CONFIG_FILE), config.to_json_text().as_bytes())?;
    for file in &options.sidecar_files {
        let path = staging.path.join(&file.name);
        let parent = path.parent().unwrap_or(&staging.path);
        std::fs::create_dir_all(parent).map_err(|source| CheckpointError::unwritable(parent, source))?;
        write_file(&path, &file.contents)?;
    }
    staging.publish(folder)?;
    Ok(saved)
}

/// The selection bias steers discrete choices, so rounding it would change which experts run.
fn stored_dtype(spec: &TensorSpec, dtype: StoredDtype) -> StoredDtype {
    let keep_wide = spec.name.ends_with(SELECTION_BIAS) && dtype.size_bytes() < StoredDtype::F32.size_bytes();
    if keep_wide { StoredDtype::F32 } else { dtype }
}

/// Writes a small file and flushes it to the disk.
pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<(), CheckpointError> {
    let unwritable = |source| CheckpointError::unwritable(path, source);
    let mut file = File::create(path).map_err(unwritable)?;
    file.write_all(contents).map_err(unwritable)?;
    file.sync_all().map_err(unwritable)
}
