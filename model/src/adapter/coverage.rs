//! How much of a model an adapter touches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::folder::{adapted_maps, stock_peft_notices};
use super::{LinearMap, LoraSettings, TargetModule, linear_maps};
use crate::NemotronH;
use crate::config::ModelConfig;

/// What of a model has factors beside it, and how many numbers they are.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterCoverage {
    /// Rank and scale.
    pub settings: LoraSettings,
    /// Blocks with at least one adapted map, and all blocks.
    pub blocks: [usize; 2],
    /// The adapted maps.
    pub adapted: Vec<LinearMap>,
    /// Adapted maps by kind, and all maps of that kind.
    pub maps: BTreeMap<TargetModule, [usize; 2]>,
    /// Numbers that are trained, in the factors.
    pub num_trained: usize,
    /// Numbers in the adapted matrices.
    pub num_adapted: usize,
    /// Numbers in the base model, none of which is trained.
    pub num_base: usize,
    /// What a user should know about other programs, one sentence each.
    pub notices: Vec<String>,
}

impl AdapterCoverage {
    /// Of the adapter that a model has.
    pub fn of(model: &NemotronH) -> Option<Self> {
        Some(Self::of_maps(model.config(), model.adapter()?, adapted_maps(model)))
    }

    /// Of an adapter with factors of these maps.
    pub fn of_maps(config: &ModelConfig, settings: LoraSettings, adapted: Vec<LinearMap>) -> Self {
        let mut maps: BTreeMap<TargetModule, [usize; 2]> = BTreeMap::new();
        for map in linear_maps(config) {
            maps.entry(map.target).or_default()[1] += 1;
        }
        for map in &adapted {
            maps.entry(map.target).or_default()[0] += 1;
        }
        maps.retain(|_, [count, _]| *count > 0);
        let block = |map: &LinearMap| map.path.split('.').nth(2).map(str::to_owned);
        let touched: BTreeSet<_> = adapted.iter().map(block).collect();
        Self {
            settings,
            blocks: [touched.len(), config.layers.len()],
            maps,
            num_trained: adapted.iter().map(|map| map.num_factor_parameters(settings.rank)).sum(),
            num_adapted: adapted.iter().map(|map| map.outputs * map.inputs).sum(),
            num_base: config.num_parameters(),
            notices: stock_peft_notices(adapted.iter()),
            adapted,
        }
    }
}

impl fmt::Display for AdapterCoverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoraSettings { rank, alpha } = self.settings;
        let [touched, blocks] = self.blocks;
        let maps: Vec<String> = self
            .maps
            .iter()
            .map(|(target, [adapted, all])| match adapted == all {
                true => format!("{all} {target}"),
                false => format!("{adapted} of {all} {target}"),
            })
            .collect();
        write!(
            f,
            "adapter: LoRA of rank {rank} and alpha {alpha} (scale {}) in {touched} of {blocks} blocks ({}): {} numbers are \
             trained beside matrices of {}; the {} of the base stay as they are ({:.2} %)",
            self.settings.scale(),
            maps.join(", "),
            self.num_trained,
            self.num_adapted,
            self.num_base,
            100.0 * self.num_trained as f64 / self.num_base.max(1) as f64
        )
    }
}
