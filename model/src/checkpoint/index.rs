//! Which files hold a folder's weights: one `model.safetensors`, or the shards that an index names.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::error::CheckpointError;
use super::tensor_file::TensorFile;
use crate::adapter::ADAPTER_FILE;
use crate::config::read_text;

pub(super) const SINGLE_FILE: &str = "model.safetensors";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Opens the single file, or every shard the index names.
///
/// The single file wins, as it does in transformers: published folders keep the index of an earlier, larger save.
pub(super) fn open_files(folder: &Path) -> Result<Vec<TensorFile>, CheckpointError> {
    let single = folder.join(SINGLE_FILE);
    let index = folder.join(INDEX_FILE);
    if single.exists() {
        if index.exists() {
            tracing::warn!("{}: reading {SINGLE_FILE}, ignoring {INDEX_FILE} beside it", folder.display());
        }
        return Ok(vec![TensorFile::open(&single)?]);
    }
    if index.exists() {
        return open_shards(folder, &index);
    }
    Err(no_weights(folder))
}

/// Whether a folder has a LoRA adapter and no weights of a model.
pub(super) fn holds_adapter_only(folder: &Path) -> bool {
    folder.join(ADAPTER_FILE).exists() && !folder.join(SINGLE_FILE).exists() && !folder.join(INDEX_FILE).exists()
}

/// The error of a folder without weights, which says what it has instead.
pub(super) fn no_weights(folder: &Path) -> CheckpointError {
    let hint = if holds_adapter_only(folder) {
        "; found adapter_model.safetensors, a LoRA adapter, which is no model by itself: give its base model and this folder as --adapter, or merge the two (nemo-burn merge)"
    } else if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
        "; found pytorch_model.bin, which is not supported: save the model as safetensors"
    } else {
        "; download the model's weights into it"
    };
    CheckpointError::NoWeights { path: folder.to_owned(), hint }
}

fn open_shards(folder: &Path, index: &Path) -> Result<Vec<TensorFile>, CheckpointError> {
    let bad = |problem: String| CheckpointError::BadIndex { path: index.to_owned(), problem };
    let text = read_text(index)?;
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
