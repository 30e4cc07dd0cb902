//! LoRA adapters of a whole model: made fresh, read from and written to PEFT's folders, merged into their base.
//!
//! A model with an adapter is its base, which nothing changes any more, and two small factors beside each chosen linear map
//! ([`Adapter`]). Training changes the factors alone, so the base may lie in a mapped file
//! or in eight bits, and without the adapter the model is the policy that training started from.

mod config_file;
mod coverage;
mod error;
mod folder;
mod merge;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};

use crate::NemotronH;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parameters::{Adapter, FACTOR_NAMES, Initialization, RandomWeights, WeightSource, join};

pub use coverage::AdapterCoverage;
pub use error::AdapterError;
pub use folder::{ADAPTER_CONFIG_FILE, ADAPTER_FILE, save_adapter};
pub use merge::{MergedModel, merge_adapter};
pub use names::{LinearMap, TargetModule, linear_maps};

/// Rank and scale of an adapter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraSettings {
    /// Inner size of the two factors.
    pub rank: usize,
    /// The change `B A` is multiplied by `alpha / rank`.
    pub alpha: f64,
}

impl LoraSettings {
    /// What the change `B A` is multiplied by.
    pub fn scale(self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// How the factor A is drawn; B begins as zeros, so that a fresh adapter changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FactorInitialization {
    /// Uniform within `1 / sqrt(in)`: Kaiming's with `a = sqrt(5)`, as PEFT draws it.
    #[default]
    Kaiming,
    /// Normal with the deviation `sqrt(2 / (in + rank))`, as Megatron draws it by default.
    Xavier,
    /// Normal with the deviation 0.2, Megatron's other choice.
    Normal,
}

impl FactorInitialization {
    /// Of A `[rank, in]`.
    fn of(self, rank: usize, inputs: usize) -> Initialization {
        match self {
            Self::Kaiming => Initialization::fan_in(inputs),
            Self::Xavier => Initialization::Normal((2.0 / (inputs + rank) as f64).sqrt()),
            Self::Normal => Initialization::Normal(0.2),
        }
    }
}

/// What a fresh adapter is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct FreshAdapter {
    /// Rank and scale.
    pub settings: LoraSettings,
    /// The linear maps that get factors; those that no block of the model has are an error.
    pub targets: BTreeSet<TargetModule>,
    /// How A is drawn.
    pub initialization: FactorInitialization,
    /// The same seed gives the same values.
    pub seed: u64,
}

impl FreshAdapter {
    /// The maps of a model that get factors.
    ///
    /// # Errors
    /// [`AdapterError::NoSuchModule`] for a target that no block has, [`AdapterError::Rank`] for a rank of 0.
    pub fn maps(&self, config: &ModelConfig) -> Result<Vec<LinearMap>, AdapterError> {
        if self.settings.rank == 0 {
            return Err(AdapterError::Rank);
        }
        let mut maps = linear_maps(config);
        if let Some(absent) = self.targets.iter().find(|target| maps.iter().all(|map| map.target != **target)) {
            return Err(AdapterError::NoSuchModule { module: absent.name(), blocks: config.layers.to_string() });
        }
        maps.retain(|map| self.targets.contains(&map.target));
        Ok(maps)
    }
}

impl NemotronH {
    /// Puts a fresh adapter beside the model's linear maps. From now on training changes nothing else.
    ///
    /// # Errors
    /// As [`FreshAdapter::maps`].
    pub fn add_adapter(&mut self, fresh: &FreshAdapter) -> Result<(), ModelError> {
        let mut weights = RandomWeights { seed: fresh.seed };
        let rank = fresh.settings.rank;
        let mut factors = BTreeMap::new();
        for LinearMap { path, outputs, inputs, .. } in fresh.maps(self.config())? {
            let [a_name, b_name] = FACTOR_NAMES.map(|name| join(&path, name));
            let a = weights.values(&a_name, &[rank, inputs], fresh.initialization.of(rank, inputs))?;
            let b = weights.values(&b_name, &[outputs, rank], Initialization::Zeros)?;
            factors.insert(path, Factors { a, b, outputs, inputs });
        }
        self.attach(fresh.settings, factors);
        Ok(())
    }

    /// Puts factors beside the linear maps whose paths they have.
    fn attach(&mut self, settings: LoraSettings, mut factors: BTreeMap<String, Factors>) {
        let (device, dtype, rank) = (self.device(), self.dtypes().gradients(), settings.rank);
        let tensor = |values: Vec<f32>, shape: [usize; 2]| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, shape), (&device, dtype))
        };
        self.set_adapters(Some(settings), &mut |path| {
            let Factors { a, b, outputs, inputs } = factors.remove(path)?;
            Some(Adapter::new(tensor(a, [rank, inputs]), tensor(b, [outputs, rank]), settings.scale()))
        });
        debug_assert!(factors.is_empty(), "factors of maps that the model does not have: {:?}", factors.keys());
    }
}

/// Values of the two factors of one map, row-major.
struct Factors {
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
    outputs: usize,
    inputs: usize,
}
