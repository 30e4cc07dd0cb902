//! Writes a Hugging Face model folder so that it is either complete or absent.
//!
//! Everything is written into a sibling folder, synced to the disk and renamed. An interrupted or failed save leaves
//! what existed before untouched. Tensors are asked for one at a time, so saving needs the memory of one tensor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::dtype::{StoredDtype, TensorValues};
use super::error::CheckpointError;
use super::index::SINGLE_FILE;
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
}

/// Name, shape and type of a tensor about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// Name in the file.
    pub name: String,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    /// Type in the file.
    pub dtype: StoredDtype,
}

impl TensorHeader {
    fn num_values(&self) -> usize {
        self.shape.iter().product()
    }

    fn size_bytes(&self) -> u64 {
        (self.num_values() * self.dtype.size_bytes()) as u64
    }
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
/// [`CheckpointError::AlreadyExists`] if `folder` holds anything; [`CheckpointError::Unwritable`] if the disk is full
/// or read-only; whatever `values` returns. After an error `folder` is as it was before.
pub fn save_checkpoint<E: From<CheckpointError>>(
    folder: &Path,
    config: &ModelConfig,
    options: &SaveOptions,
    mut values: impl FnMut(&TensorSpec) -> Result<TensorValues, E>,
) -> Result<(), E> {
    refuse_existing(folder)?;
    let staging = Staging::create(folder)?;
    let dtype = options.dtype.unwrap_or(config.dtype.into());
    let mut headers: Vec<TensorHeader> = expected_tensors(config).into_iter().map(|spec| header(spec, dtype)).collect();
    if config.tie_word_embeddings {
        // Neither transformers nor vLLM ties the head of this family: without it in the file they run a random one.
        headers.push(header(TensorSpec { name: HEAD.to_owned(), shape: table_shape(config) }, dtype));
    }
    // Wide types first keeps every tensor aligned for its own type, so that readers can use it in place.
    headers.sort_by_key(|header| std::cmp::Reverse(header.dtype.size_bytes()));
    write_tensors(&staging.path.join(SINGLE_FILE), &headers, &[("format", "pt")], &mut |tensor| {
        let tied = config.tie_word_embeddings && tensor.name == HEAD;
        let source = if tied { EMBEDDINGS } else { tensor.name.as_str() };
        values(&TensorSpec { name: source.to_owned(), shape: tensor.shape.clone() })
    })?;
    write_file(&staging.path.join(CONFIG_FILE), config.to_json_text().as_bytes())?;
    for file in &options.sidecar_files {
        let path = staging.path.join(&file.name);
        let parent = path.parent().unwrap_or(&staging.path);
        std::fs::create_dir_all(parent).map_err(|source| CheckpointError::unwritable(parent, source))?;
        write_file(&path, &file.contents)?;
    }
    Ok(staging.publish(folder)?)
}

/// Writes one safetensors file, replacing `path` atomically if it exists.
///
/// `values` is called once per header, in order. `metadata` goes into the file's header.
///
/// # Errors
/// [`CheckpointError::Unwritable`], or whatever `values` returns; `path` is then as it was before.
pub fn write_tensor_file<E: From<CheckpointError>>(
    path: &Path,
    headers: &[TensorHeader],
    metadata: &[(&str, &str)],
    mut values: impl FnMut(&TensorHeader) -> Result<TensorValues, E>,
) -> Result<(), E> {
    let aside = aside_name(path);
    let written = write_tensors(&aside, headers, metadata, &mut values).and_then(|()| {
        std::fs::rename(&aside, path).map_err(|source| CheckpointError::unwritable(path, source))?;
        Ok(sync_folder_of(path)?)
    });
    if written.is_err() {
        // The original error matters more than one from cleaning up.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// The selection bias steers discrete choices, so rounding it would change which experts run.
fn header(spec: TensorSpec, dtype: StoredDtype) -> TensorHeader {
    let keep_wide = spec.name.ends_with(SELECTION_BIAS) && dtype.size_bytes() < StoredDtype::F32.size_bytes();
    TensorHeader { name: spec.name, shape: spec.shape, dtype: if keep_wide { StoredDtype::F32 } else { dtype } }
}

fn write_tensors<E: From<CheckpointError>>(
    path: &Path,
    headers: &[TensorHeader],
    metadata: &[(&str, &str)],
    values: &mut impl FnMut(&TensorHeader) -> Result<TensorValues, E>,
) -> Result<(), E> {
    let unwritable = |source| CheckpointError::unwritable(path, source);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(unwritable)?);
    file.write_all(&header_bytes(headers, metadata)).map_err(unwritable)?;
    for tensor in headers {
        let values = values(tensor)?;
        if values.len() != tensor.num_values() {
            let (found, expected) = (values.len(), tensor.num_values());
            let (tensor, shape) = (tensor.name.clone(), tensor.shape.clone());
            return Err(CheckpointError::WrongValueCount { tensor, shape, found, expected }.into());
        }
        file.write_all(&values.to_bytes(tensor.dtype)).map_err(unwritable)?;
    }
    let file = file.into_inner().map_err(|error| unwritable(error.into_error()))?;
    Ok(file.sync_all().map_err(unwritable)?)
}

/// Length field and JSON header, padded so that the data starts at a multiple of 8 bytes.
fn header_bytes(headers: &[TensorHeader], metadata: &[(&str, &str)]) -> Vec<u8> {
    const ALIGNMENT: usize = 8;
    let mut map = Map::new();
    if !metadata.is_empty() {
        let texts = metadata.iter().map(|(key, text)| ((*key).to_owned(), json!(text)));
        map.insert("__metadata__".to_owned(), Value::Object(Map::from_iter(texts)));
    }
    let mut start = 0;
    for tensor in headers {
        let end = start + tensor.size_bytes();
        let entry = json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end] });
        map.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(map).to_string();
    while !text.len().is_multiple_of(ALIGNMENT) {
        text.push(' ');
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    bytes
}

fn write_file(path: &Path, contents: &[u8]) -> Result<(), CheckpointError> {
    let unwritable = |source| CheckpointError::unwritable(path, source);
    let mut file = File::create(path).map_err(unwritable)?;
    file.write_all(contents).map_err(unwritable)?;
    file.sync_all().map_err(unwritable)
}

fn refuse_existing(folder: &Path) -> Result<(), CheckpointError> {
    let empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if empty { Ok(()) } else { Err(CheckpointError::AlreadyExists { path: folder.to_owned() }) }
}

/// `.name.incomplete` beside `path`: hidden, on the same file system, and recognisably unfinished.
fn aside_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.incomplete"))
}

/// Makes a rename durable.
fn sync_folder_of(path: &Path) -> Result<(), CheckpointError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = File::open(parent).map_err(|source| CheckpointError::unwritable(parent, source))?;
    folder.sync_all().map_err(|source| CheckpointError::unwritable(parent, source))
}

/// The folder a checkpoint is built in; removed again unless published.
struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    fn create(folder: &Path) -> Result<Self, CheckpointError> {
        let path = aside_name(folder);
        if path.exists() {
            // Left behind by a save that was killed.
            std::fs::remove_dir_all(&path).map_err(|source| CheckpointError::unwritable(&path, source))?;
        }
        std::fs::create_dir_all(&path).map_err(|source| CheckpointError::unwritable(&path, source))?;
        Ok(Self { path, published: false })
    }

    fn publish(mut self, folder: &Path) -> Result<(), CheckpointError> {
        let unwritable = |source| CheckpointError::unwritable(folder, source);
        File::open(&self.path).and_then(|staged| staged.sync_all()).map_err(unwritable)?;
        std::fs::rename(&self.path, folder).map_err(unwritable)?;
        self.published = true;
        sync_folder_of(folder)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Failing to clean up must not hide the error that brought us here; the next save cleans up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
