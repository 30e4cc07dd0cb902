//! Models from and to Hugging Face folders, and fresh ones.

use std::path::Path;

use burn::tensor::{AllocationProperty, Bytes, DType, Device, TensorData};

use super::random::RandomWeights;
use super::{Dtypes, Initialization, WeightSource, WeightStorage};
use crate::NemotronH;
use crate::checkpoint::{CheckpointReader, SaveOptions, StoredDtype, TensorValues, save_checkpoint};
use crate::config::ModelConfig;
use crate::error::ModelError;

/// Loads a model folder onto `device`. On the host, matrices that the file holds in the type they are kept in stay where they
/// are, in the mapped file, until they are changed; others are converted one by one.
///
/// On devices other than the host every product widens a narrow matrix first; int8 needs a device that stores eight bits.
///
/// # Errors
/// Anything wrong with configuration or tensors, naming file and place.
pub fn load(folder: &Path, device: &Device, dtypes: Dtypes) -> Result<NemotronH, ModelError> {
    let mut reader = CheckpointReader::open(folder)?;
    let config = reader.config().clone();
    NemotronH::build(&config, &mut reader, device, dtypes)
}

/// Loads a folder's tensors under another configuration than the folder's own.
///
/// # Errors
/// As [`load`]; tensors that do not fit `config` are errors.
pub fn load_with_config(
    folder: &Path,
    config: &ModelConfig,
    device: &Device,
    dtypes: Dtypes,
) -> Result<NemotronH, ModelError> {
    let mut reader = CheckpointReader::open_as(folder, config.clone())?;
    NemotronH::build(config, &mut reader, device, dtypes)
}

/// A fresh model, initialised as the family is; the same seed gives the same values.
///
/// # Errors
/// None today; the signature is that of loading.
pub fn random(config: &ModelConfig, seed: u64, device: &Device, dtypes: Dtypes) -> Result<NemotronH, ModelError> {
    NemotronH::build(config, &mut RandomWeights { seed }, device, dtypes)
}

/// Saves a model as a new Hugging Face folder, which must not exist or be empty.
///
/// # Errors
/// The folder cannot be written; it is then as it was before. A model in eight bits is refused, and one
/// with an adapter.
pub fn save(model: &NemotronH, folder: &Path, options: &SaveOptions) -> Result<(), ModelError> {
    if model.dtypes().matrices == WeightStorage::Int8 {
        return Err(ModelError::NotSavable);
    }
    if model.adapter().is_some() {
        return Err(ModelError::HasAdapter);
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

    fn mapped(&mut self, name: &str, dtype: DType) -> Result<Option<TensorData>, ModelError> {
        let info = self.info(name)?;
        let (stored, shape) = (info.dtype, info.shape.clone());
        if !matches!((stored, dtype), (StoredDtype::F32, DType::F32) | (StoredDtype::Bf16, DType::BF16)) {
            return Ok(None);
        }
        let bytes = self.raw_usable(name)?;
        // Floats are read where they lie; a file may hold them at odd places.
        if !bytes.as_ptr().addr().is_multiple_of(stored.size_bytes()) {
            return Ok(None);
        }
        Ok(Some(TensorData::from_bytes(Bytes::from_shared(bytes, AllocationProperty::File), shape, dtype)))
    }

    fn release(&mut self, name: &str) {
        self.forget(name);
    }
}
