//! An adapter merged into its base: `W' = W + s B A`, written as a model folder without the memory for one.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use rayon::prelude::*;

use super::LinearMap;
use super::folder::StoredAdapter;
use crate::checkpoint::{
    CheckpointReader, SaveOptions, SavedWeights, StoredDtype, TensorSpec, TensorValues, decode_f64, read_sidecar_files,
    save_as_stored,
};
use crate::error::ModelError;

/// Bytes of tensors in one file, as in published releases of transformers 4.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;
/// Values that exist at a time, about.
const PIECE: usize = 1 << 20;

/// The two factors of one map.
struct Change {
    map: LinearMap,
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    scale: f64,
}

/// What was written of a merged model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedModel {
    /// Matrices that the adapter changed.
    pub num_matrices: usize,
    /// Files of weights.
    pub saved: SavedWeights,
}

/// Saves the base model of a folder with the adapter of another folder merged into it, as a new model folder, which must not
/// exist or be empty. Every tensor keeps its type; those without factors keep their bits, and files that lie beside the
/// weights come along.
///
/// A merged element is the f64 sum `W + s sum_k B[o, k] A[k, i]`, rounded to f32 and from there, where the file is narrower, to
/// its type: one rounding but for sums that f32 rounds to the middle of two narrow numbers. Merging into bf16 is therefore not
/// neutral: logits move as far as rounded weights move them.
///
/// `observe` is told how many values have been written after every piece, and may end it all.
///
/// # Errors
/// Whatever is wrong with one of the folders, or `observe` ended it; `output` is then as it was before.
pub fn merge_adapter(
    base: &Path,
    adapter: &Path,
    output: &Path,
    mut observe: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<MergedModel, ModelError> {
    let reader = CheckpointReader::open(base)?;
    let stored = StoredAdapter::open(adapter, reader.config())?;
    let options = SaveOptions {
        sidecar_files: read_sidecar_files(base)?,
        max_shard_bytes: Some(MAX_SHARD_BYTES),
        ..SaveOptions::default()
    };
    let dtype_of = |tensor: &TensorSpec| Ok(reader.info(&tensor.name)?.dtype);
    let mut num_written = 0;
    let saved = save_as_stored(output, reader.config(), &options, dtype_of, |tensor, sink| {
        let (dtype, bytes) = (reader.info(&tensor.name)?.dtype, reader.raw(&tensor.name)?);
        let path = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let change = match stored.maps.get(path) {
            None => None,
            Some((map, [a, b])) => Some(Change {
                map: map.clone(),
                a: stored.factor(a)?,
                b: stored.factor(b)?,
                rank: stored.settings.rank,
                scale: stored.settings.scale(),
            }),
        };
        let width = tensor.shape.last().copied().unwrap_or(1).max(1);
        let num_rows = tensor.shape.iter().product::<usize>() / width;
        let rows_per_piece = (PIECE / width).max(1);
        for first in (0..num_rows).step_by(rows_per_piece) {
            let rows = first..num_rows.min(first + rows_per_piece);
            let bytes = &bytes[rows.start * width * dtype.size_bytes()..rows.end * width * dtype.size_bytes()];
            match &change {
                None => sink.write_bytes(bytes)?,
                Some(change) => sink.write(&change.merged(rows.clone(), dtype, bytes))?,
            }
            num_written += rows.len() * width;
            if observe(num_written).is_break() {
                return Err(ModelError::Stopped { folder: output.to_owned() });
            }
        }
        reader.forget(&tensor.name);
        Ok(())
    })?;
    Ok(MergedModel { num_matrices: stored.maps.len(), saved })
}

impl Change {
    /// Rows of the merged matrix, from those of the base as they are stored.
    fn merged(&self, rows: Range<usize>, dtype: StoredDtype, bytes: &[u8]) -> TensorValues {
        // Tensors of other types were refused when the folder was opened.
        let mut values = decode_f64(dtype, bytes).unwrap_or_default();
        let (rank, inputs) = (self.rank, self.map.inputs);
        values.par_chunks_mut(inputs.max(1)).zip(rows.into_par_iter()).for_each(|(row, output)| {
            let mut change = vec![0.0; inputs];
            for (k, a) in self.a.chunks_exact(inputs.max(1)).enumerate() {
                let b = f64::from(self.b[output * rank + k]);
                for (change, a) in change.iter_mut().zip(a) {
                    *change += b * f64::from(*a);
                }
            }
            for (weight, change) in row.iter_mut().zip(change) {
                *weight += self.scale * change;
            }
        });
        match dtype {
            StoredDtype::F64 => TensorValues::F64(values),
            _ => TensorValues::F32(values.into_iter().map(|value| value as f32).collect()),
        }
    }
}
