//! Reads a Hugging Face model folder: `config.json` plus one `model.safetensors` or an index with shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::error::CheckpointError;
use super::tensor_file::{TensorFile, TensorInfo};
use super::weight_names::{TensorSpec, canonical_name, expected_tensors};
use crate::config::ModelConfig;

pub(super) const SINGLE_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
const LM_HEAD: &str = "lm_head.weight";
/// How many tensor names an error lists.
const LISTED_NAMES: usize = 5;

/// An open checkpoint whose tensors are known to be exactly those its configuration calls for.
#[derive(Debug)]
pub struct CheckpointReader {
    folder: PathBuf,
    config: ModelConfig,
    files: Vec<TensorFile>,
    /// Published name to file and name in the file.
    tensors: BTreeMap<String, (usize, String)>,
}

impl CheckpointReader {
    /// Opens a folder, reads its configuration and checks all tensors' names and shapes against it.
    ///
    /// Names may start with `model.` instead of `backbone.`; tensors under `mtp.` are ignored, as is an `lm_head`
    /// stored beside tied embeddings.
    ///
    /// # Errors
    /// [`CheckpointError`] naming file and tensor.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NotAFolder { path: folder.to_owned() });
        }
        Self::open_as(folder, ModelConfig::load(folder)?)
    }

    /// [`Self::open`] with a configuration other than the folder's own.
    ///
    /// # Errors
    /// [`CheckpointError`] naming file and tensor.
    pub fn open_as(folder: &Path, config: ModelConfig) -> Result<Self, CheckpointError> {
        let files = open_files(folder)?;
        let mut tensors: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for (position, file) in files.iter().enumerate() {
            for stored in file.tensors().keys() {
                let Some(name) = canonical_name(stored) else { continue };
                if config.tie_word_embeddings && name == LM_HEAD {
                    tracing::warn!("{}: ignoring {stored}, the embeddings are tied", file.path().display());
                    continue;
                }
                if let Some((other, _)) = tensors.get(&name) {
                    return Err(CheckpointError::DuplicateTensor {
                        path: file.path().to_owned(),
                        other: files[*other].path().to_owned(),
                        tensor: name,
                    });
                }
                tensors.insert(name, (position, stored.clone()));
            }
        }
        let reader = Self { folder: folder.to_owned(), config, files, tensors };
        reader.check_names(&expected_tensors(&reader.config))?;
        Ok(reader)
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

    /// Checks that the tensors are exactly those of `expected`, shapes included.
    ///
    /// # Errors
    /// [`CheckpointError`] for missing tensors first, then unexpected ones, then a wrong shape.
    pub fn check_names(&self, expected: &[TensorSpec]) -> Result<(), CheckpointError> {
        let wanted: BTreeSet<&str> = expected.iter().map(|tensor| tensor.name.as_str()).collect();
        let missing: Vec<&str> = wanted.iter().copied().filter(|name| !self.tensors.contains_key(*name)).collect();
        let extra: Vec<&str> = self.names().filter(|name| !wanted.contains(name)).collect();
        if !missing.is_empty() {
            let (count, names) = (missing.len(), list_names(&missing));
            return Err(CheckpointError::MissingTensors { path: self.folder.clone(), count, names });
        }
        if !extra.is_empty() {
            let (count, names) = (extra.len(), list_names(&extra));
            return Err(CheckpointError::UnexpectedTensors { path: self.folder.clone(), count, names });
        }
        for tensor in expected {
            let (file, info) = self.locate(&tensor.name)?;
            if info.shape != tensor.shape {
                return Err(CheckpointError::WrongShape {
                    path: file.path().to_owned(),
                    tensor: tensor.name.clone(),
                    found: info.shape.clone(),
                    expected: tensor.shape.clone(),
                });
            }
        }
        Ok(())
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensors`].
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.locate(name).map(|(_, info)| info)
    }

    /// A tensor's stored bytes, sharing the mapping.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensors`].
    pub fn raw(&self, name: &str) -> Result<Bytes, CheckpointError> {
        let (file, stored) = self.find(name)?;
        file.raw(stored)
    }

    /// A tensor's values as f32, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f32(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), CheckpointError> {
        let (file, stored) = self.find(name)?;
        file.read_f32(stored)
    }

    /// A tensor's values as f64, and its shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is absent or no float tensor.
    pub fn read_f64(&self, name: &str) -> Result<(Vec<f64>, Vec<usize>), CheckpointError> {
        let (file, stored) = self.find(name)?;
        file.read_f64(stored)
    }

    fn find(&self, name: &str) -> Result<(&TensorFile, &str), CheckpointError> {
        match self.tensors.get(name) {
            Some((file, stored)) => Ok((&self.files[*file], stored)),
            None => {
                Err(CheckpointError::MissingTensors { path: self.folder.clone(), count: 1, names: name.to_owned() })
            }
        }
    }

    fn locate(&self, name: &str) -> Result<(&TensorFile, &TensorInfo), CheckpointError> {
        let (file, stored) = self.find(name)?;
        Ok((file, file.info(stored)?))
    }
}

fn list_names(names: &[&str]) -> String {
    let listed = names.iter().take(LISTED_NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_NAMES { format!("{listed}, …") } else { listed }
}

/// Opens the single file, or every shard the index names.
fn open_files(folder: &Path) -> Result<Vec<TensorFile>, CheckpointError> {
    let single = folder.join(SINGLE_FILE);
    let index = folder.join(INDEX_FILE);
    if index.exists() {
        return open_shards(folder, &index);
    }
    if single.exists() {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    let hint = if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
        "; found pytorch_model.bin, which is not supported: save the model as safetensors"
    } else {
        "; download the model's weights into it"
    };
    Err(CheckpointError::NoWeights { path: folder.to_owned(), hint })
}

fn open_shards(folder: &Path, index: &Path) -> Result<Vec<TensorFile>, CheckpointError> {
    let bad = |problem: String| CheckpointError::BadIndex { path: index.to_owned(), problem };
    let text = std::fs::read_to_string(index).map_err(|source| CheckpointError::unreadable(index, source))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let Some(map) = document.get("weight_map").and_then(Value::as_object) else {
        return Err(bad("it has no \"weight_map\" object".to_owned()));
    };
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            // A shard is a plain file name: the index must not lead out of the folder.
            Some(shard) if Path::new(shard).file_name().is_some_and(|name| name == shard) => {
                shards.entry(shard).or_default().push(tensor);
            }
            _ => return Err(bad(format!("tensor {tensor} has the shard {shard}, expected a file name"))),
        }
    }
    let mut files = Vec::with_capacity(shards.len());
    for (shard, tensors) in shards {
        let path = folder.join(shard);
        if !path.exists() {
            return Err(CheckpointError::MissingShard { index: index.to_owned(), shard: shard.to_owned() });
        }
        let file = TensorFile::open(&path)?;
        if let Some(absent) = tensors.iter().find(|name| !file.tensors().contains_key(**name)) {
            return Err(bad(format!("it places tensor {absent} in {shard}, which does not hold it")));
        }
        files.push(file);
    }
    Ok(files)
}
