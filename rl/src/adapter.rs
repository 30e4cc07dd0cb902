//! What a configuration trains, in the model's terms: an adapter or the model itself, and the types of both.

use std::collections::BTreeSet;

use nemo_model::adapter::{FactorInitialization, FreshAdapter, LoraSettings, TargetModule};
use nemo_model::config::ModelConfig;
use nemo_model::{Dtypes, WeightStorage};

use crate::config::{BaseDtype, FactorInit, PeftTarget, PolicyConfig, Precision};

/// The adapter of a run that trains one, fresh; `None` for a run that trains the model itself.
///
/// Without target modules every kind of map that the model has is meant.
pub fn fresh(policy: &PolicyConfig, model: &ModelConfig) -> Option<FreshAdapter> {
    let peft = &policy.megatron_cfg.peft;
    if !peft.enabled {
        return None;
    }
    let targets: BTreeSet<TargetModule> = match peft.target_modules.is_empty() {
        true => nemo_model::adapter::linear_maps(model).into_iter().map(|map| map.target).collect(),
        false => peft.target_modules.iter().flat_map(|&target| of_name(target)).copied().collect(),
    };
    Some(FreshAdapter {
        settings: LoraSettings { rank: peft.dim, alpha: peft.alpha },
        targets,
        initialization: match peft.lora_a_init_method {
            FactorInit::Kaiming => FactorInitialization::Kaiming,
            FactorInit::Xavier => FactorInitialization::Xavier,
            FactorInit::Normal => FactorInitialization::Normal,
        },
        seed: policy.init.seed,
    })
}

/// The types that a run's model is kept and computed in.
pub fn dtypes(policy: &PolicyConfig) -> Dtypes {
    let peft = &policy.megatron_cfg.peft;
    let dtypes = Dtypes::stored(match (policy.precision, peft.base_dtype) {
        (_, BaseDtype::Int8) => WeightStorage::Int8,
        (Precision::Float32, _) => WeightStorage::Full,
        (Precision::Bfloat16, _) => WeightStorage::Bf16,
    });
    if peft.enabled { dtypes.beside_adapter() } else { dtypes }
}

/// The maps that a name of a configuration means; Megatron has some of them in one.
fn of_name(target: PeftTarget) -> &'static [TargetModule] {
    match target {
        PeftTarget::InProj => &[TargetModule::InProj],
        PeftTarget::OutProj => &[TargetModule::OutProj],
        PeftTarget::QProj => &[TargetModule::QProj],
        PeftTarget::KProj => &[TargetModule::KProj],
        PeftTarget::VProj => &[TargetModule::VProj],
        PeftTarget::OProj | PeftTarget::LinearProj => &[TargetModule::OProj],
        PeftTarget::UpProj | PeftTarget::LinearFc1 => &[TargetModule::UpProj],
        PeftTarget::DownProj | PeftTarget::LinearFc2 => &[TargetModule::DownProj],
        PeftTarget::LinearQkv => &[TargetModule::QProj, TargetModule::KProj, TargetModule::VProj],
    }
}
