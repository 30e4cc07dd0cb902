//! `adapter_config.json`, as PEFT writes it: read whole, so that no setting is passed over in silence.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::names::LinearMap;
use super::{AdapterError, LoraSettings};
use crate::checkpoint::CheckpointError;
use crate::config::parse_lenient_json;

/// Settings that change nothing about what a finished adapter computes.
const WITHOUT_EFFECT: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "monteclora_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",
];
/// Initialisations that leave the base as it is.
const PLAIN_INITIALIZATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// What an adapter's configuration says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdapterConfig {
    pub settings: LoraSettings,
    targets: Targets,
    /// What a user should know, one sentence each.
    pub notices: Vec<String>,
}

/// Which maps have factors.
#[derive(Clone, Debug, PartialEq)]
enum Targets {
    /// All that an entry of the list means.
    Listed(Vec<String>),
    /// Those that the file of weights has: the list is a pattern, or holds for some blocks only.
    Stored,
}

impl AdapterConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// What is missing, malformed or not supported.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let text = std::fs::read_to_string(path).map_err(|source| CheckpointError::unreadable(path, source))?;
        let malformed = |problem: String| AdapterError::Malformed { path: path.to_owned(), problem };
        let document = parse_lenient_json(&text).map_err(|error| malformed(format!("it is no JSON: {error}")))?;
        let Value::Object(mut keys) = document else { return Err(malformed("it is no JSON object".to_owned())) };
        let mut take = |key: &str| keys.remove(key).unwrap_or(Value::Null);
        let kind = take("peft_type");
        if kind != json!("LORA") {
            let (key, found) = ("peft_type".to_owned(), kind.to_string());
            return Err(unsupported(path, key, found, "LORA is the only kind of adapter"));
        }
        let found = take("r");
        let rank = found.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|&rank| rank > 0);
        let rank = rank.ok_or_else(|| malformed(format!("\"r\" is {found}, expected a whole number above 0")))?;
        let found = take("lora_alpha");
        let alpha = found.as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| malformed(format!("\"lora_alpha\" is {found}, expected a number")))?;
        let target_modules = take("target_modules");
        let (layers, excluded) = (take("layers_to_transform"), take("exclude_modules"));
        let targets = match target_modules {
            Value::Array(entries) if is_neutral(&layers) && is_neutral(&excluded) => {
                let text = |entry: &Value| entry.as_str().map(str::to_owned);
                let listed = entries.iter().map(text).collect::<Option<Vec<_>>>();
                Targets::Listed(
                    listed.ok_or_else(|| malformed("\"target_modules\" holds something else than names".to_owned()))?,
                )
            }
            Value::Array(_) | Value::String(_) => Targets::Stored,
            found => return Err(malformed(format!("\"target_modules\" is {found}, expected a list of names"))),
        };
        let mut config = Self { settings: LoraSettings { rank, alpha }, targets, notices: Vec::new() };
        config.check_others(path, keys)?;
        Ok(config)
    }

    /// Everything else: neutral, without effect, or refused.
    fn check_others(&mut self, path: &Path, keys: Map<String, Value>) -> Result<(), AdapterError> {
        for (key, value) in keys {
            let reason = match key.as_str() {
                key if WITHOUT_EFFECT.contains(&key) || is_neutral(&value) => continue,
                "lora_dropout" => {
                    let path = path.display();
                    self.notices.push(format!("{path}: \"lora_dropout\": {value} acts in PEFT's training only"));
                    continue;
                }
                "bias" if value == "none" => continue,
                "bias" => "biases that were trained are not a part of an adapter here",
                "init_lora_weights" => {
                    let plain = |name: &str| PLAIN_INITIALIZATIONS.contains(&name);
                    if value == true || value.as_str().is_some_and(plain) {
                        continue;
                    }
                    "such an adapter belongs to a base whose weights were changed with it; convert it to plain LoRA with PEFT \
                     (path_initial_model_for_weight_conversion)"
                }
                "use_rslora" => "the scale is alpha / r; set \"lora_alpha\" to alpha * sqrt(r) and this to false",
                "use_dora" => "the magnitudes of DoRA are not computed here; merge the adapter with PEFT",
                "rank_pattern" | "alpha_pattern" => "all maps have one rank and one scale here",
                "modules_to_save" => "whole modules that were trained are not a part of an adapter here",
                "fan_in_fan_out" => "weights lie as [out, in] in this family",
                _ => "it is not known here, and may change what the adapter computes",
            };
            return Err(unsupported(path, key, value.to_string(), reason));
        }
        Ok(())
    }

    /// Whether the map is to have factors; `None` where the file of weights decides.
    pub fn targets(&self, map: &LinearMap) -> Option<bool> {
        match &self.targets {
            Targets::Listed(entries) => Some(entries.iter().any(|entry| map.is_meant_by(entry))),
            Targets::Stored => None,
        }
    }
}

/// The file of an adapter beside the maps that `targets` mean, in a form that every release of PEFT reads.
pub(super) fn to_text(settings: LoraSettings, targets: &[String], base: &str) -> String {
    let whole = settings.alpha.fract() == 0.0 && settings.alpha.abs() < 1e15;
    let document = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": if whole { json!(settings.alpha as i64) } else { json!(settings.alpha) },
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": settings.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    format!("{document:#}\n")
}

/// Whether a setting is absent, off or empty.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) | Value::String(_) => false,
    }
}

fn unsupported(path: &Path, key: String, found: String, reason: &'static str) -> AdapterError {
    AdapterError::Unsupported { path: path.to_owned(), key, found, reason }
}
