//! Writes safetensors files. Values are handed over tensor by tensor and, where a tensor is large, piece by piece.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::dtype::{StoredDtype, TensorValues};
use super::error::CheckpointError;
use super::staging::{aside_name, sync_folder_of};

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
    pub(super) fn num_values(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        (self.num_values() * self.dtype.size_bytes()) as u64
    }
}

/// Takes the values of one tensor of a file, in order, in any number of pieces.
pub struct TensorSink<'a> {
    file: &'a mut BufWriter<File>,
    path: &'a Path,
    tensor: &'a TensorHeader,
    num_written: usize,
}

impl TensorSink<'_> {
    /// Writes the tensor's next values, row-major. Floats are rounded to the stored type.
    ///
    /// # Errors
    /// [`CheckpointError::Unwritable`] if the disk is full; [`CheckpointError::WrongValueCount`] for more values than the
    /// tensor has.
    pub fn write(&mut self, values: &TensorValues) -> Result<(), CheckpointError> {
        self.num_written += values.len();
        if self.num_written > self.tensor.num_values() {
            return Err(self.wrong_count());
        }
        let bytes = values.to_bytes(self.tensor.dtype);
        self.file.write_all(&bytes).map_err(|source| CheckpointError::unwritable(self.path, source))
    }

    /// Writes the tensor's next values as they are stored: little-endian, in its own type.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.num_written += bytes.len() / self.tensor.dtype.size_bytes();
        if self.num_written > self.tensor.num_values() {
            return Err(self.wrong_count());
        }
        self.file.write_all(bytes).map_err(|source| CheckpointError::unwritable(self.path, source))
    }

    fn finish(self) -> Result<(), CheckpointError> {
        if self.num_written == self.tensor.num_values() { Ok(()) } else { Err(self.wrong_count()) }
    }

    fn wrong_count(&self) -> CheckpointError {
        CheckpointError::WrongValueCount {
            tensor: self.tensor.name.clone(),
            shape: self.tensor.shape.clone(),
            found: self.num_written,
            expected: self.tensor.num_values(),
        }
    }
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
    let fill = &mut |tensor: &TensorHeader, sink: &mut TensorSink<'_>| Ok(sink.write(&values(tensor)?)?);
    let written = write_tensors(&aside, headers, metadata, fill).and_then(|_| {
        std::fs::rename(&aside, path).map_err(|source| CheckpointError::unwritable(path, source))?;
        Ok(sync_folder_of(path)?)
    });
    if written.is_err() {
        // The original error matters more than one from cleaning up.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Writes a file whose tensors `fill` writes, one after the other in the order of `headers`; returns its size in bytes.
pub(super) fn write_tensors<E: From<CheckpointError>>(
    path: &Path,
    headers: &[TensorHeader],
    metadata: &[(&str, &str)],
    fill: &mut impl FnMut(&TensorHeader, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let unwritable = |source| CheckpointError::unwritable(path, source);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(unwritable)?);
    let header = header_bytes(headers, metadata);
    file.write_all(&header).map_err(unwritable)?;
    for tensor in headers {
        let mut sink = TensorSink { file: &mut file, path, tensor, num_written: 0 };
        fill(tensor, &mut sink)?;
        sink.finish()?;
    }
    let file = file.into_inner().map_err(|error| unwritable(error.into_error()))?;
    file.sync_all().map_err(unwritable)?;
    Ok(headers.iter().map(TensorHeader::size_bytes).sum::<u64>() + header.len() as u64)
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
