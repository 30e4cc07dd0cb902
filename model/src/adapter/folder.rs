//! Adapters as folders in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What is written loads in PEFT, and what PEFT writes loads here. PEFT skips tensors whose names it does not know and leaves
//! B at zero; here every tensor has to find its map, and every map that the configuration names its tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config_file::{AdapterConfig, to_text};
use super::names::{FactorName, LinearMap, linear_maps, module_in_transformers, stored_name};
use super::{AdapterError, Factors, LoraSettings, TargetModule};
use crate::NemotronH;
use crate::checkpoint::{
    CheckpointError, Staging, StoredDtype, TensorFile, TensorHeader, TensorValues, first_unusable, refuse_existing,
    write_file, write_tensor_file,
};
use crate::config::ModelConfig;
use crate::parameters::FACTOR_NAMES;

/// Name of the configuration in an adapter's folder.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// Name of the file of weights there.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// An adapter in a folder, known to fit a model.
pub(super) struct StoredAdapter {
    file: TensorFile,
    pub settings: LoraSettings,
    /// The maps with factors, and the names of A and B in the file.
    pub maps: BTreeMap<String, (LinearMap, [String; 2])>,
    /// What a user should know, one sentence each.
    pub notices: Vec<String>,
}

impl StoredAdapter {
    /// Opens a folder and checks names and shapes against the maps of a model of this configuration.
    pub fn open(folder: &Path, config: &ModelConfig) -> Result<Self, AdapterError> {
        for missing in [ADAPTER_CONFIG_FILE, ADAPTER_FILE] {
            if !folder.join(missing).exists() {
                return Err(AdapterError::NoAdapter { folder: folder.to_owned(), missing });
            }
        }
        let adapter = AdapterConfig::read(&folder.join(ADAPTER_CONFIG_FILE))?;
        let file = TensorFile::open(&folder.join(ADAPTER_FILE))?;
        let path = || file.path().to_owned();
        let mut found: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
        for tensor in file.tensors().keys().cloned() {
            match FactorName::of(&tensor) {
                FactorName::Factor(map, index) => found.entry(map).or_default()[index] = Some(tensor),
                FactorName::UnknownPrefix => return Err(AdapterError::UnknownPrefix { path: path(), tensor }),
                FactorName::Other => return Err(AdapterError::OtherTensor { path: path(), tensor }),
            }
        }
        let mut maps = BTreeMap::new();
        for map in linear_maps(config) {
            let names = match (found.remove(&map.path), adapter.targets(&map)) {
                (Some([Some(a), _] | [_, Some(a)]), Some(false)) => {
                    return Err(AdapterError::UntargetedModule { path: path(), tensor: a });
                }
                (None, Some(false) | None) => continue,
                (names, _) => names.unwrap_or_default(),
            };
            let mut index = 0;
            let names = names.map(|name| {
                index += 1;
                name.ok_or_else(|| stored_name(&map.path, index - 1))
            });
            let names = match names {
                [Ok(a), Ok(b)] => [a, b],
                [Err(tensor), _] | [_, Err(tensor)] => {
                    return Err(AdapterError::MissingFactor { path: path(), tensor });
                }
            };
            let rank = adapter.settings.rank;
            for (tensor, expected) in names.iter().zip([[rank, map.inputs], [map.outputs, rank]]) {
                let shape = &file.info(tensor)?.shape;
                if *shape != expected {
                    let (tensor, found) = (tensor.clone(), shape.clone());
                    return Err(AdapterError::WrongShape { path: path(), tensor, found, expected: expected.to_vec() });
                }
            }
            maps.insert(map.path.clone(), (map, names));
        }
        if let Some(module) = found.into_keys().next() {
            return Err(AdapterError::ForeignModule { path: path(), module });
        }
        if maps.is_empty() {
            let problem = "it holds no factors".to_owned();
            return Err(AdapterError::Malformed { path: path(), problem });
        }
        let mut notices = adapter.notices;
        notices.extend(stock_peft_notices(maps.values().map(|(map, _)| map)));
        Ok(Self { settings: adapter.settings, maps, notices, file })
    }

    /// The values of a factor, each of which a model can compute with.
    pub fn factor(&self, tensor: &str) -> Result<Vec<f32>, AdapterError> {
        let (values, _) = self.file.read_f32(tensor)?;
        match first_unusable(&values) {
            None => Ok(values),
            Some((_, value)) => {
                let (path, tensor) = (self.file.path().to_owned(), tensor.to_owned());
                Err(AdapterError::UnusableValue { path, tensor, value })
            }
        }
    }
}

impl NemotronH {
    /// Puts the adapter of a PEFT folder beside the model's linear maps; what a user should know about it, one sentence each.
    /// From now on training changes nothing else.
    ///
    /// # Errors
    /// Whatever is wrong with the folder; the model is as it was then.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<Vec<String>, AdapterError> {
        let stored = StoredAdapter::open(folder, self.config())?;
        self.attach_stored(&stored)?;
        Ok(stored.notices)
    }

    /// Replaces the factors of the model's adapter by those of a folder with the same rank, scale and maps.
    ///
    /// # Errors
    /// As [`Self::load_adapter`]; [`AdapterError::Differs`] for another adapter, [`AdapterError::Absent`] for a model without
    /// one.
    pub fn reload_adapter(&mut self, folder: &Path) -> Result<(), AdapterError> {
        let settings = self.adapter().ok_or(AdapterError::Absent)?;
        let stored = StoredAdapter::open(folder, self.config())?;
        let differs = |found, expected| AdapterError::Differs { folder: folder.to_owned(), found, expected };
        let text = |settings: LoraSettings| format!("rank {}, alpha {}", settings.rank, settings.alpha);
        if stored.settings != settings {
            return Err(differs(text(stored.settings), text(settings)));
        }
        let maps = adapted_maps(self);
        if !maps.iter().map(|map| &map.path).eq(stored.maps.keys()) {
            let text = |count: usize| format!("factors of {count} linear maps");
            return Err(differs(text(stored.maps.len()), format!("those of the run's {} target maps", maps.len())));
        }
        self.attach_stored(&stored)
    }

    fn attach_stored(&mut self, stored: &StoredAdapter) -> Result<(), AdapterError> {
        let mut factors = BTreeMap::new();
        for (path, (map, [a, b])) in &stored.maps {
            let (a, b) = (stored.factor(a)?, stored.factor(b)?);
            factors.insert(path.clone(), Factors { a, b, outputs: map.outputs, inputs: map.inputs });
        }
        self.attach(stored.settings, factors);
        Ok(())
    }
}

/// The maps of a model that have factors, by path.
pub(super) fn adapted_maps(model: &NemotronH) -> Vec<LinearMap> {
    let mut paths = BTreeSet::new();
    // The copy shares storage; only the traversal is asked for.
    model.clone().visit_trained_mut(&mut |name, _| {
        if let Some(path) = name.strip_suffix(FACTOR_NAMES[0]).and_then(|path| path.strip_suffix('.')) {
            paths.insert(path.to_owned());
        }
    });
    let mut maps = linear_maps(model.config());
    maps.retain(|map| paths.contains(&map.path));
    maps.sort_by(|left, right| left.path.cmp(&right.path));
    maps
}

/// Saves the adapter of a model as a new folder in PEFT's format, which must not exist or be empty. `base` is what the
/// configuration calls the model that the adapter belongs to: a folder or a name of the hub.
///
/// # Errors
/// [`AdapterError::Absent`] for a model without one; the folder cannot be written, and is then as it was before.
pub fn save_adapter(model: &NemotronH, folder: &Path, base: &str) -> Result<(), AdapterError> {
    let settings = model.adapter().ok_or(AdapterError::Absent)?;
    refuse_existing(folder)?;
    let staging = Staging::create(folder)?;
    let mut factors = BTreeMap::new();
    // The copy shares storage; only the traversal is asked for.
    model.clone().visit_trained_mut(&mut |name, parameter| {
        let index = usize::from(name.ends_with(FACTOR_NAMES[1]));
        if let Some(path) = name.strip_suffix(FACTOR_NAMES[index]).and_then(|path| path.strip_suffix('.')) {
            factors.insert(stored_name(path, index), (parameter.shape(), parameter.flat()));
        }
    });
    let header = |(name, (shape, _)): (&String, &(Vec<usize>, _))| TensorHeader {
        name: name.clone(),
        shape: shape.clone(),
        dtype: StoredDtype::F32,
    };
    let headers: Vec<TensorHeader> = factors.iter().map(header).collect();
    write_tensor_file(&staging.path.join(ADAPTER_FILE), &headers, &[("format", "pt")], |header| {
        let values = factors.get(&header.name).map(|(_, values)| values.to_data().iter::<f32>().collect());
        Ok::<_, CheckpointError>(TensorValues::F32(values.unwrap_or_default()))
    })?;
    let text = to_text(settings, &target_modules(model), base);
    write_file(&staging.path.join(ADAPTER_CONFIG_FILE), text.as_bytes())?;
    staging.publish(folder)?;
    Ok(())
}

/// What PEFT's `target_modules` has to hold: the last parts of the maps' names where all maps of that name have factors, else
/// whole paths.
fn target_modules(model: &NemotronH) -> Vec<String> {
    let (adapted, all) = (adapted_maps(model), linear_maps(model.config()));
    let mut entries = BTreeSet::new();
    for map in &adapted {
        let count = |maps: &[LinearMap]| maps.iter().filter(|other| other.target == map.target).count();
        entries.insert(match count(&adapted) == count(&all) {
            true => map.target.name().to_owned(),
            false => module_in_transformers(&map.path),
        });
    }
    entries.into_iter().collect()
}

/// What is said of an adapter beside these maps that PEFT, as of 0.21, does not take for this family.
pub(super) fn stock_peft_notices<'m>(maps: impl Iterator<Item = &'m LinearMap> + Clone) -> Vec<String> {
    let refused = TargetModule::OutProj;
    let mut notices = Vec::new();
    if maps.clone().any(|map| map.target == refused) {
        notices.push(format!(
            "the adapter changes {refused}, which PEFT (as of 0.21) refuses for nemotron_h, when an adapter is made and when \
             one is loaded: other programs need a newer PEFT, or the adapter merged (nemo-burn merge); without {refused} among the \
             target modules it loads everywhere"
        ));
    }
    if maps.clone().any(|map| map.path.contains(".experts.")) {
        notices.push(
            "the adapter changes single experts, which transformers keeps in one tensor and PEFT (as of 0.21) has no adapters \
             of: other programs need the adapter merged (nemo-burn merge)"
                .to_owned(),
        );
    }
    notices
}
