//! Which linear maps may have adapters, and what PEFT calls them.
//!
//! PEFT names a factor after the module that it wraps: `base_model.model.` before the module's path in the model that it was
//! given, `.lora_A.weight` or `.lora_B.weight` behind. transformers has the blocks under `model.`, NVIDIA's own modelling
//! code under `backbone.`, as checkpoints do.

use std::fmt;

use crate::checkpoint::expected_tensors;
use crate::config::ModelConfig;
use crate::parameters::FACTOR_NAMES;

/// What PEFT puts before the path of a module.
const WRAPPER: &str = "base_model.model.";
/// The blocks' prefix in checkpoints, and in models of transformers 5.
const CHECKPOINT_PREFIX: &str = "backbone.";
const TRANSFORMERS_PREFIX: &str = "model.";

/// A kind of linear map that may have an adapter, by the last part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetModule {
    /// Into a Mamba-2 mixer.
    InProj,
    /// Out of a Mamba-2 mixer.
    OutProj,
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Out of attention.
    OProj,
    /// Into an MLP or an expert.
    UpProj,
    /// Out of an MLP or an expert.
    DownProj,
}

impl TargetModule {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::InProj, Self::OutProj, Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::UpProj, Self::DownProj];

    /// The last part of the names of such maps.
    pub fn name(self) -> &'static str {
        match self {
            Self::InProj => "in_proj",
            Self::OutProj => "out_proj",
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }
}

impl fmt::Display for TargetModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A linear map of a model that may have an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearMap {
    /// Path in checkpoints, such as `backbone.layers.0.mixer.in_proj`.
    pub path: String,
    /// Its kind.
    pub target: TargetModule,
    /// Rows of its matrix.
    pub outputs: usize,
    /// Columns of its matrix.
    pub inputs: usize,
}

impl LinearMap {
    /// Whether PEFT takes an entry of `target_modules` for the map: its path, or the end of it from a dot on.
    pub(super) fn is_meant_by(&self, entry: &str) -> bool {
        let inner = self.path.strip_prefix(CHECKPOINT_PREFIX).unwrap_or(&self.path);
        [CHECKPOINT_PREFIX, TRANSFORMERS_PREFIX].iter().any(|prefix| {
            let path = format!("{prefix}{inner}");
            path == entry || path.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// Numbers in the factors of an adapter of this rank.
    pub fn num_factor_parameters(&self, rank: usize) -> usize {
        rank * (self.inputs + self.outputs)
    }
}

/// The linear maps of a model that may have adapters, in the order of its checkpoint.
pub fn linear_maps(config: &ModelConfig) -> Vec<LinearMap> {
    let of_tensor = |name: &str, shape: &[usize]| {
        let path = name.strip_suffix(".weight")?;
        let target = TargetModule::of_name(path.rsplit('.').next()?)?;
        let &[outputs, inputs] = shape else { return None };
        Some(LinearMap { path: path.to_owned(), target, outputs, inputs })
    };
    expected_tensors(config).iter().filter_map(|tensor| of_tensor(&tensor.name, &tensor.shape)).collect()
}

/// What a tensor of an adapter's file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FactorName {
    /// A factor, 0 for A and 1 for B, of the map with this path in checkpoints.
    Factor(String, usize),
    /// Of a module of another model, or wrapped in another way.
    UnknownPrefix,
    /// No factor of a linear map.
    Other,
}

impl FactorName {
    /// Of a tensor's name in a file.
    pub fn of(stored: &str) -> Self {
        let found = FACTOR_NAMES
            .iter()
            .enumerate()
            .find_map(|(index, name)| Some((index, stored.strip_suffix(name)?.strip_suffix('.')?)));
        let Some((index, module)) = found else { return Self::Other };
        let inner = module
            .strip_prefix(WRAPPER)
            .and_then(|path| path.strip_prefix(CHECKPOINT_PREFIX).or_else(|| path.strip_prefix(TRANSFORMERS_PREFIX)));
        match inner {
            Some(inner) if inner.starts_with("layers.") => Self::Factor(format!("{CHECKPOINT_PREFIX}{inner}"), index),
            _ => Self::UnknownPrefix,
        }
    }
}

/// What transformers and PEFT call the map with this path in checkpoints.
pub(super) fn module_in_transformers(path: &str) -> String {
    format!("{TRANSFORMERS_PREFIX}{}", path.strip_prefix(CHECKPOINT_PREFIX).unwrap_or(path))
}

/// The name in PEFT's files of factor `index` of that map.
pub(super) fn stored_name(path: &str, index: usize) -> String {
    format!("{WRAPPER}{}.{}", module_in_transformers(path), FACTOR_NAMES[index])
}
