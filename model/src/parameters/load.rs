//! Models from and to Hugging Face folders, and fresh ones.

use std::path::Path;

use burn::tensor::{DType, Device};

use super::random::RandomWeights;
use super::{Initialization, WeightSource, WeightStorage};
use crate::NemotronH;
use crate::checkpoint::{CheckpointReader, SaveOptions, TensorValues, save_checkpoint};
use crate::config::ModelConfig;
use crate::error::ModelError;

/// Loads a model folder onto `device` with parameters of `dtype`.
///
/// # Errors
/// Anything wrong with configuration or tensors, naming file and place.
pub fn load(folder: &Path, device: &Device, dtype: DType) -> Result<NemotronH, ModelError> {
    let mut reader = CheckpointReader::open(folder)?;
    let config = reader.config().clone();
    NemotronH::build(&config, &mut reader, device, dtype)
}

/// Loads a model folder for generation in f32, with matrices kept as `storage` says. They are converted one by one, so no
/// more than one exists in full at a time.
///
/// On devices other than the host every product widens its matrix first; int8 needs a device that stores eight bits.
///
/// # Errors
/// As [`load`].
pub fn load_stored(folder: &Path, device: &Device, storage: WeightStorage) -> Result<NemotronH, ModelError> {
    let mut reader = CheckpointReader::open(folder)?;
    let config = reader.config().clone();
    NemotronH::build_stored(&config, &mut reader, device, DType::F32, storage)
}

/// Loads a folder's tensors under another configuration than the folder's own.
///
/// # Errors
/// As [`load`]; tensors that do not fit `config` are errors.
pub fn load_with_config(
    folder: &Path,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
) -> Result<NemotronH, ModelError> {
    let mut reader = CheckpointReader::open_as(folder, config.clone())?;
    NemotronH::build(config, &mut reader, device, dtype)
}

/// A fresh model, initialised as the family is; the same seed gives the same values.
///
/// # Errors
/// None today; the signature is that of loading.
pub fn random(config: &ModelConfig, seed: u64, device: &Device, dtype: DType) -> Result<NemotronH, ModelError> {
    NemotronH::build(config, &mut RandomWeights { seed }, device, dtype)
}

/// Saves a model as a new Hugging Face folder, which must not exist or be empty.
///
/// # Errors
/// The folder cannot be written; it is then as it was before. A model in eight bits is refused.
pub fn save(model: &NemotronH, folder: &Path, options: &SaveOptions) -> Result<(), ModelError> {
    if model.storage() == WeightStorage::Int8 {
        return Err(ModelError::NotSavable);
    }
    let mut values = std::collections::BTreeMap::new();
    model.clone().visit_mut(&mut |name, parameter| {
        values.insert(name.to_owned(), parameter.flat());
    });
    save_checkpoint(folder, model.config(), options, |tensor| {
        let data = values.get(&tensor.name).map(|values| values.to_data().iter::<f32>().collect());
        // The checks of names at loading and this list have one source, so nothing is missing here.
        Ok::<_, ModelError>(TensorValues::F32(data.unwrap_or_default()))
    })?;
    Ok(())
}

impl WeightSource for CheckpointReader {
    fn values(&mut self, name: &str, _: &[usize], _: Initialization) -> Result<Vec<f32>, ModelError> {
        Ok(self.read_usable(name)?)
    }
}
