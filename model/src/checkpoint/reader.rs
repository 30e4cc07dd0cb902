//! Reads a Hugging Face model folder: `config.json` plus one `model.safetensors` or an index with shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::dtype::{FLOAT_TYPES, StoredDtype, decode_f32, decode_f64};
use super::error::CheckpointError;
use super::index::{holds_adapter_only, no_weights, open_files};
use super::tensor_file::{TensorFile, TensorInfo};
use super::usable::{first_unusable, first_unusable_stored};
use super::weight_names::{
    EMBEDDINGS, FusedExperts, HEAD, TensorSpec, canonical_name, expected_tensors, is_of_quantisation, table_shape,
};
use crate::config::ModelConfig;

/// How many tensor names an error lists.
const LISTED_NAMES: usize = 5;

/// An open checkpoint whose tensors are known to be exactly those its configuration calls for.
#[derive(Debug)]
pub struct CheckpointReader {
    folder: PathBuf,
    config: ModelConfig,
    files: Vec<TensorFile>,
    /// By published name.
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor of the model is stored.
#[derive(Debug)]
struct Place {
    /// Index into the files.
    file: usize,
    /// Name in the file.
    stored: String,
    info: TensorInfo,
}

impl CheckpointReader {
    /// Opens a folder, reads its configuration and checks all tensors' names and shapes against it.
    ///
    /// Names may be spelled as in any release: under `model.` instead of `backbone.`, the embedding in the singular, all
    /// experts of a block in one tensor. Tensors of multi-token-prediction heads are ignored, as is an `lm_head` beside
    /// tied embeddings that equals them.
    ///
    /// # Errors
    /// [`CheckpointError`] naming file and tensor.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NotAFolder { path: folder.to_owned() });
        }
        // An adapter has no configuration of a model either, which would be said first.
        if holds_adapter_only(folder) {
            return Err(no_weights(folder));
        }
        Self::open_as(folder, ModelConfig::load(folder)?)
    }

    /// [`Self::open`] with a configuration other than the folder's own.
    ///
    /// # Errors
    /// [`CheckpointError`] naming file and tensor.
    pub fn open_as(folder: &Path, config: ModelConfig) -> Result<Self, CheckpointError> {
        let files = open_files(folder)?;
        let mut reader = Self { folder: folder.to_owned(), config, files, tensors: BTreeMap::new() };
        let mut ignored = 0;
        for position in 0..reader.files.len() {
            let stored: Vec<(String, TensorInfo)> =
                reader.files[position].tensors().iter().map(|(name, info)| (name.clone(), info.clone())).collect();
            for (stored, info) in stored {
                match canonical_name(&stored) {
                    Some(name) => reader.place(name, Place { file: position, stored, info })?,
                    None => ignored += 1,
                }
            }
        }
        if ignored > 0 {
            tracing::warn!(
                "{}: ignoring {ignored} tensor(s) of multi-token-prediction heads, which are neither run nor saved",
                folder.display()
            );
        }
        reader.check_names(&expected_tensors(&reader.config))?;
        reader.take_tied_head()?;
        Ok(reader)
    }

    /// Enters a stored tensor under its published name, the experts of a fused one one by one.
    fn place(&mut self, name: String, place: Place) -> Result<(), CheckpointError> {
        let path = self.files[place.file].path();
        if is_of_quantisation(&name) {
            return Err(CheckpointError::Quantised { path: path.to_owned(), tensor: place.stored });
        }
        let Some(fused) = FusedExperts::of(&name) else { return self.enter(name, place) };
        let expected = fused.shape(&self.config);
        if place.info.shape != expected {
            return Err(CheckpointError::WrongShape {
                path: path.to_owned(),
                tensor: place.stored,
                found: place.info.shape,
                expected: expected.to_vec(),
            });
        }
        for expert in 0..expected[0] {
            if let Some(info) = place.info.entry(expert) {
                let part = Place { file: place.file, stored: place.stored.clone(), info };
                self.enter(fused.expert_name(expert), part)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: String, place: Place) -> Result<(), CheckpointError> {
        if let Some(other) = self.tensors.get(&name) {
            return Err(CheckpointError::DuplicateTensor {
                path: self.files[place.file].path().to_owned(),
                stored: place.stored,
                other: self.files[other.file].path().to_owned(),
                other_stored: other.stored.clone(),
                tensor: name,
            });
        }
        self.tensors.insert(name, place);
        Ok(())
    }

    /// A head stored beside tied embeddings is redundant if it equals them. If it does not, programs differ in which of
    /// the two they use, so that is for the user to decide.
    fn take_tied_head(&mut self) -> Result<(), CheckpointError> {
        if !self.config.tie_word_embeddings || !self.tensors.contains_key(HEAD) {
            return Ok(());
        }
        let differs = match self.info(HEAD)?.dtype == self.info(EMBEDDINGS)?.dtype {
            true => self.raw(HEAD)? != self.raw(EMBEDDINGS)?,
            false => self.read_f32(HEAD)?.0 != self.read_f32(EMBEDDINGS)?.0,
        };
        match self.tensors.remove(HEAD) {
            Some(place) if differs => Err(CheckpointError::UntiedHead {
                path: self.files[place.file].path().to_owned(),
                tensor: place.stored,
                embeddings: self.find(EMBEDDINGS)?.stored.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Published names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks that the tensors are exactly those of `expected`, shapes and float types included; a head beside tied
    /// embeddings may be there.
    fn check_names(&self, expected: &[TensorSpec]) -> Result<(), CheckpointError> {
        let wanted: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let is_tied_head = |name: &str| self.config.tie_word_embeddings && name == HEAD;
        let missing: Vec<&str> = wanted.iter().copied().filter(|name| !self.tensors.contains_key(*name)).collect();
        let extra: Vec<&str> = self.names().filter(|name| !wanted.contains(name) && !is_tied_head(name)).collect();
        if let Some(first) = missing.first() {
            let extra: Vec<&str> = extra.iter().map(|name| self.tensors[*name].stored.as_str()).collect();
            let hint = match (nearest(first, &extra), extra.is_empty()) {
                (Some(found), _) => format!("found {found}, which may be {first} under another name: rename it"),
                (None, false) => format!("found instead: {}", list_names(&extra)),
                (None, true) => "every other tensor is there: download or save the weights again".to_owned(),
            };
            let (path, count, names) = (self.folder.clone(), missing.len(), list_names(&missing));
            return Err(CheckpointError::MissingTensors { path, count, names, hint });
        }
        if let Some(first) = extra.first() {
            let hint = match nearest(first, &wanted.into_iter().collect::<Vec<_>>()) {
                Some(name) => format!("did you mean {name}? That one is there too, so remove one of them"),
                None => format!("the blocks {} have no such tensor: remove it from the file", self.config.layers),
            };
            let stored: Vec<&str> = extra.iter().map(|name| self.tensors[*name].stored.as_str()).collect();
            let (path, count, names) = (self.folder.clone(), extra.len(), list_names(&stored));
            return Err(CheckpointError::UnexpectedTensors { path, count, names, hint });
        }
        let tied_head = TensorSpec { name: HEAD.to_owned(), shape: table_shape(&self.config) };
        let tied_head = self.tensors.contains_key(HEAD).then_some(&tied_head);
        expected.iter().chain(tied_head).try_for_each(|tensor| self.check_tensor(tensor))
    }

    /// Checks shape and element type.
    fn check_tensor(&self, expected: &TensorSpec) -> Result<(), CheckpointError> {
        let place = self.find(&expected.name)?;
        let path = || self.files[place.file].path().to_owned();
        if place.info.shape != expected.shape {
            return Err(CheckpointError::WrongShape {
                path: path(),
                tensor: place.stored.clone(),
                found: place.info.shape.clone(),
                expected: expected.shape.clone(),
            });
        }
        if !place.info.dtype.is_float() {
            return Err(CheckpointError::WrongDtype {
                path: path(),
                tensor: place.stored.clone(),
                found: place.info.dtype.name().to_owned(),
                expected: FLOAT_TYPES,
            });
        }
        Ok(())
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`].
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        Ok(&self.find(name)?.info)
    }

    /// A tensor's stored bytes, sharing the mapping.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`].
    pub fn raw(&self, name: &str) -> Result<Bytes, CheckpointError> {
        let place = self.find(name)?;
        Ok(self.files[place.file].raw_at(&place.info))
    }

    /// The bytes of a tensor in f32 or bf16 as they lie in the mapped file, every value of which a model can compute with.
    ///
    /// # Errors
    /// As [`Self::read_usable`].
    pub fn raw_usable(&self, name: &str) -> Result<Bytes, CheckpointError> {
        let place = self.find(name)?;
        let bytes = self.files[place.file].raw_at(&place.info);
        match first_unusable_stored(place.info.dtype, &bytes) {
            None => Ok(bytes),
            Some(found) => Err(self.unusable(place, found)),
        }
    }

    /// Lets the system have back the memory that a tensor's pages take; they are read from the file again if need be.
    pub fn forget(&self, name: &str) {
        if let Ok(place) = self.find(name) {
            self.files[place.file].forget(&place.info);
        }
    }

    /// A tensor's values as f32, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f32(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), CheckpointError> {
        self.read(name, decode_f32)
    }

    /// A tensor's values as f64, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f64(&self, name: &str) -> Result<(Vec<f64>, Vec<usize>), CheckpointError> {
        self.read(name, decode_f64)
    }

    /// A tensor's values as f32, every one of which a model can compute with.
    ///
    /// # Errors
    /// [`CheckpointError::UnusableValue`] naming the first that is not finite or too large.
    pub fn read_usable(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (values, _) = self.read_f32(name)?;
        match first_unusable(&values) {
            None => Ok(values),
            Some(found) => Err(self.unusable(self.find(name)?, found)),
        }
    }

    fn unusable(&self, place: &Place, (position, value): (usize, f32)) -> CheckpointError {
        let (path, tensor) = (self.files[place.file].path().to_owned(), place.stored.clone());
        CheckpointError::UnusableValue { path, tensor, shape: place.info.shape.clone(), position, value }
    }

    fn read<T>(
        &self,
        name: &str,
        decode: impl Fn(StoredDtype, &[u8]) -> Option<Vec<T>>,
    ) -> Result<(Vec<T>, Vec<usize>), CheckpointError> {
        let place = self.find(name)?;
        let values = self.files[place.file].read_at(&place.stored, &place.info, decode)?;
        Ok((values, place.info.shape.clone()))
    }

    fn find(&self, name: &str) -> Result<&Place, CheckpointError> {
        self.tensors
            .get(name)
            .ok_or_else(|| CheckpointError::NoSuchTensor { path: self.folder.clone(), tensor: name.to_owned() })
    }
}

fn list_names(names: &[&str]) -> String {
    let listed = names.iter().take(LISTED_NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_NAMES { format!("{listed}, …") } else { listed }
}

/// The candidate that `name` is most likely a misspelling of.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    /// Share of the letters that have to agree; names of different tensors of a block agree in about two thirds.
    const LIKENESS: f64 = 0.8;
    let likeness = |candidate: &str| strsim::normalized_levenshtein(name, candidate);
    let best = candidates.iter().copied().max_by(|left, right| likeness(left).total_cmp(&likeness(right)))?;
    (likeness(best) >= LIKENESS).then_some(best)
}
