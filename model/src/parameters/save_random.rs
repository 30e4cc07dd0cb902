//! Folders of fresh models of any size, without the memory for one: no more exists at a time than a piece of one tensor.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use super::Initialization;
use super::random::RandomWeights;
use crate::NemotronH;
use crate::checkpoint::{SaveOptions, SavedWeights, TensorValues, save_in_pieces};
use crate::config::ModelConfig;
use crate::error::ModelError;

/// Key of `config.json` that names the seed of a model whose weights began at random. Nothing is computed from it; a model
/// that is trained from such a folder keeps it.
pub const RANDOM_SEED_KEY: &str = "nemo_burn_random_seed";

/// Bytes of tensors in one file, as in published releases of transformers 4.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;
/// Values that exist at a time.
const PIECE: usize = 1 << 20;

/// How a fresh model is saved.
#[derive(Clone, Copy, Debug)]
pub struct RandomOptions {
    /// The same seed gives the same values, which are those of [`random`](super::random()) rounded to the stored type.
    pub seed: u64,
    /// Bytes of tensors that one file of weights holds at most.
    pub max_shard_bytes: u64,
}

impl RandomOptions {
    /// Files as large as published ones.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, max_shard_bytes: MAX_SHARD_BYTES }
    }
}

/// Saves a fresh model of the shape `config`, in the configuration's type, as a new Hugging Face folder without a tokenizer.
/// Its `config.json` says that the weights are random ([`RANDOM_SEED_KEY`]).
///
/// `observe` is told how many values have been written after every piece, and may end it all.
///
/// # Errors
/// `folder` holds something or cannot be written, or `observe` ended it; `folder` is then as it was before.
pub fn save_random(
    folder: &Path,
    config: &ModelConfig,
    options: RandomOptions,
    mut observe: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<SavedWeights, ModelError> {
    let initializations: HashMap<String, Initialization> =
        NemotronH::outline(config)?.into_iter().map(|tensor| (tensor.name, tensor.initialization)).collect();
    let mut config = config.clone();
    config.extra.insert(RANDOM_SEED_KEY.to_owned(), json!(options.seed));
    let weights = RandomWeights { seed: options.seed };
    let mut num_written = 0;
    let save = SaveOptions { max_shard_bytes: Some(options.max_shard_bytes), ..SaveOptions::default() };
    save_in_pieces(folder, &config, &save, |tensor, sink| {
        // A tensor that no layer asks for gets no values, which the sink refuses by name.
        let Some(initialization) = initializations.get(&tensor.name) else { return Ok(()) };
        let count: usize = tensor.shape.iter().product();
        for start in (0..count).step_by(PIECE) {
            let mut values = vec![0.0; PIECE.min(count - start)];
            weights.fill(&tensor.name, *initialization, start, &mut values);
            num_written += values.len();
            sink.write(&TensorValues::F32(values))?;
            if observe(num_written).is_break() {
                return Err(ModelError::Stopped { folder: folder.to_owned() });
            }
        }
        Ok(())
    })
}
