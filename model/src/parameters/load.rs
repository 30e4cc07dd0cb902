//! Models from and to Hugging Face folders, and fresh ones.

use std::path::Path;

use burn::tensor::{AllocationProperty, Bytes, DType, Device, TensorData};
use nemo_kernels::RandomKey;

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
/// The folder cannot be written; it is then as it was before. A model in eight bits is refused.
pub fn save(model: &NemotronH, folder: &Path, options: &SaveOptions) -> Result<(), ModelError> {
    if model.dtypes().matrices == WeightStorage::Int8 {
        return Err(ModelError::NotSavable);
    }
    let mut values = std::collections::BTreeMap::new();
    model.clone().visit_mut(&mut |name, parameter| {
        values.insert(name.to_owned(), parameter.flat());
    });
    save_checkpoint(folder, model.config(), options, |tensor| {
        let data = values.get(&tensor.name).map(|values| values.to_data().iter::<f32>().collect());
        // The checks of names at loading and this list have one source, so nothing is missing here.
        Ok(TensorValues::F32(data.unwrap_or_default()))
    })
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

/// Draws initial values. Each tensor has its own stream, keyed by its name, so their order does not matter.
struct RandomWeights {
    seed: u64,
}

impl WeightSource for RandomWeights {
    fn values(&mut self, name: &str, shape: &[usize], initialization: Initialization) -> Result<Vec<f32>, ModelError> {
        let count = shape.iter().product::<usize>();
        let mut stream = UniformStream::new(self.seed, name);
        let values = match initialization {
            Initialization::Zeros => vec![0.0; count],
            Initialization::Ones => vec![1.0; count],
            Initialization::LogRange => (1..=count).map(|i| (i as f64).ln() as f32).collect(),
            Initialization::Normal(deviation) => {
                (0..count).map(|_| (stream.next_normal() * deviation) as f32).collect()
            }
            Initialization::Uniform(bound) => {
                (0..count).map(|_| ((2.0 * stream.next_uniform() - 1.0) * bound) as f32).collect()
            }
            Initialization::TimeStepBias { minimum, maximum, floor } => (0..count)
                .map(|_| {
                    let log = minimum.ln() + stream.next_uniform() * (maximum.ln() - minimum.ln());
                    let step = log.exp().max(floor);
                    // Inverse of softplus: log(exp(step) - 1).
                    (step + (-(-step).exp_m1()).ln()) as f32
                })
                .collect(),
        };
        Ok(values)
    }
}

/// Uniform numbers from the counter-based generator that sampling uses.
struct UniformStream(RandomKey);

impl UniformStream {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: any fixed hash does, the generator mixes it.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(RandomKey { seed, step: hash, task: 0, sample: 0, position: 0 })
    }

    /// In `[0, 1)`.
    fn next_uniform(&mut self) -> f64 {
        self.0.position += 1;
        f64::from(nemo_kernels::sample::uniform(self.0))
    }

    /// Standard normal, by Box and Muller.
    fn next_normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.next_uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.next_uniform()).cos()
    }
}
