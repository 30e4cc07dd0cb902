//! One memory-mapped safetensors file.
//!
//! The header is checked whole when the file is opened (offsets, sizes, length of the file), so that later reads
//! cannot leave the mapping. A mapped file must not be truncated by others while it is open: the system answers
//! that with a fatal signal, which no program can turn into an error. Files this crate writes are only ever replaced
//! by renaming, never changed in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use safetensors::{SafeTensorError, SafeTensors};

use super::dtype::{FLOAT_TYPES, StoredDtype, decode_f32, decode_f64};
use super::error::CheckpointError;
use crate::git_lfs;

/// Bytes of the header's length field at the start of the file.
const LENGTH_FIELD: usize = 8;

/// Where and what one tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: StoredDtype,
    /// Shape, outermost axis first.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    range: Range<usize>,
}

impl TensorInfo {
    /// The entry `index` along the first axis, as a tensor of its own; `None` past the end.
    pub(super) fn entry(&self, index: usize) -> Option<Self> {
        let (&count, shape) = self.shape.split_first()?;
        let size = self.range.len().checked_div(count)?;
        let start = self.range.start + index * size;
        (index < count).then(|| Self { dtype: self.dtype, shape: shape.to_vec(), range: start..start + size })
    }
}

/// An open safetensors file.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped on every system.
    mapping: Option<Arc<Mmap>>,
    bytes: Bytes,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file cannot be read, is truncated, too long or corrupt, or stores element types
    /// other than [`StoredDtype`]'s.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mapping = map_file(path)?.map(Arc::new);
        let bytes = mapping.clone().map_or_else(Bytes::new, |mapping| Bytes::from_owner(Mapped(mapping)));
        check_length_field(path, &bytes)?;
        let (header_length, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| describe_header_error(path, &bytes, &error))?;
        let data_start = LENGTH_FIELD + header_length;
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let Some(dtype) = StoredDtype::from_safetensors(info.dtype) else {
                return Err(CheckpointError::WrongDtype {
                    path: path.to_owned(),
                    tensor: name,
                    found: format!("{:?}", info.dtype),
                    expected: "F64, F32, BF16, F16, I64, I32 or U8",
                });
            };
            let (start, end) = info.data_offsets;
            let range = data_start + start..data_start + end;
            tensors.insert(name, TensorInfo { dtype, shape: info.shape.clone(), range });
        }
        let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { path: path.to_owned(), mapping, bytes, tensors, metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Free-form metadata of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`] if the file does not hold it.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.tensors
            .get(name)
            .ok_or_else(|| CheckpointError::NoSuchTensor { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// A tensor's bytes (little-endian, row-major), sharing the mapping.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`].
    pub fn raw(&self, name: &str) -> Result<Bytes, CheckpointError> {
        Ok(self.raw_at(self.info(name)?))
    }

    /// The bytes of a tensor, or of an entry of one, of this file.
    pub(super) fn raw_at(&self, info: &TensorInfo) -> Bytes {
        self.bytes.slice(info.range.clone())
    }

    /// Lets the system have back the memory that a tensor's pages take.
    pub(super) fn forget(&self, info: &TensorInfo) {
        #[cfg(unix)]
        if let Some(mapping) = &self.mapping {
            // SAFETY: the mapping is of a file and read-only: pages that are asked for again hold the same bytes.
            let advised = unsafe {
                mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, info.range.start, info.range.len())
            };
            if let Err(error) = advised {
                tracing::debug!("{}: pages stay in memory: {error}", self.path.display());
            }
        }
    }

    /// A float tensor's values as f32, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f32(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), CheckpointError> {
        let info = self.info(name)?;
        Ok((self.read_at(name, info, decode_f32)?, info.shape.clone()))
    }

    /// A float tensor's values as f64, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f64(&self, name: &str) -> Result<(Vec<f64>, Vec<usize>), CheckpointError> {
        let info = self.info(name)?;
        Ok((self.read_at(name, info, decode_f64)?, info.shape.clone()))
    }

    /// The values of a tensor, or of an entry of one, of this file; `name` is for the error message.
    pub(super) fn read_at<T>(
        &self,
        name: &str,
        info: &TensorInfo,
        decode: impl Fn(StoredDtype, &[u8]) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, CheckpointError> {
        decode(info.dtype, &self.bytes[info.range.clone()]).ok_or_else(|| CheckpointError::WrongDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found: info.dtype.name().to_owned(),
            expected: FLOAT_TYPES,
        })
    }
}

/// A mapping as the owner of bytes.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn map_file(path: &Path) -> Result<Option<Mmap>, CheckpointError> {
    let unreadable = |source| CheckpointError::unreadable(path, source);
    // Asked before opening, because opening a named pipe waits for its writer.
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        return Err(unreadable(std::io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    if about.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the mapping is read-only and private to this process. Its contents would change only if another
    // program wrote to the file in place; see the module's header for why that is excluded.
    let mapping = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    git_lfs::refuse(&mapping).map_err(unreadable)?;
    Ok(Some(mapping))
}

/// Finds truncation before the header is parsed, where it would be reported as something less helpful.
fn check_length_field(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let wrong_length = |expected: u64| {
        Err(CheckpointError::WrongLength { path: path.to_owned(), found: bytes.len() as u64, expected })
    };
    let Some(field) = bytes.first_chunk::<LENGTH_FIELD>() else {
        return wrong_length(LENGTH_FIELD as u64);
    };
    let header_length = u64::from_le_bytes(*field);
    // Above this the safetensors format forbids the header, so the number is no length but garbage.
    const LONGEST_HEADER: u64 = 100_000_000;
    if header_length <= LONGEST_HEADER && bytes.len() as u64 - (LENGTH_FIELD as u64) < header_length {
        return wrong_length(header_length + LENGTH_FIELD as u64);
    }
    Ok(())
}

fn describe_header_error(path: &Path, bytes: &[u8], error: &SafeTensorError) -> CheckpointError {
    if let (SafeTensorError::MetadataIncompleteBuffer, Some(expected)) = (error, described_length(bytes)) {
        return CheckpointError::WrongLength { path: path.to_owned(), found: bytes.len() as u64, expected };
    }
    let start: Vec<u8> = bytes.iter().copied().take(LENGTH_FIELD).collect();
    let problem = match error {
        SafeTensorError::HeaderTooLarge => format!("the file starts with {start:02x?}, which is no header length"),
        other => format!("its header is damaged ({other})"),
    };
    CheckpointError::Corrupt { path: path.to_owned(), problem }
}

/// Length of the file according to its header, which is valid JSON.
fn described_length(bytes: &[u8]) -> Option<u64> {
    let header_length = u64::from_le_bytes(*bytes.first_chunk::<LENGTH_FIELD>()?);
    let data_start = header_length.checked_add(LENGTH_FIELD as u64)?;
    let header: serde_json::Value =
        serde_json::from_slice(bytes.get(LENGTH_FIELD..data_start.try_into().ok()?)?).ok()?;
    let ends = header.as_object()?.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    data_start.checked_add(ends.max()?)
}
