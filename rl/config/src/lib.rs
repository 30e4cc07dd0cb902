//! Run configuration: NeMo RL's YAML recipes, `key=value` overrides, and a typed result.
//!
//! [`load`] turns files and overrides into a [`RunConfig`] or says in one error what is wrong and where. Nothing that a
//! configuration says is dropped in silence: a key is supported, or ignored with a warning, or refused with a reason.
//! A resolved configuration written by [`RunConfig::to_yaml`] loads back to the same value.

mod check;
mod deadline;
mod decode;
mod error;
mod interpolate;
mod key_policy;
mod limits;
mod load;
mod node;
mod overrides;
mod schema;
mod unsupported;

pub use deadline::SaveDeadline;
pub use error::{ConfigError, Origin};
pub use load::{load, load_text};
pub use schema::*;

/// What every validation measures and a `val:` metric can be; `pass_k` needs several samples of a task and
/// `greedy_accuracy` the greedy validation.
pub const VALIDATION_METRICS: [&str; 4] = ["accuracy", "pass_k", "avg_length", "greedy_accuracy"];
/// What every training step measures and a `train:` metric can be; of a supervised step it is the loss alone.
pub const TRAIN_METRICS: [&str; 4] = ["reward", "loss", "grad_norm", "entropy"];

/// A configuration that can run, and what the user should be told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedConfig {
    pub config: RunConfig,
    /// One entry per key that means something else here or has no effect although it was changed, and one for all keys
    /// without effect whose values are the usual ones.
    pub warnings: Vec<ConfigWarning>,
}

/// A key, or several of one block as `block.{a, b}`, that has less effect than its author may expect.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigWarning {
    pub key: String,
    pub origin: Origin,
    pub message: String,
}

impl std::fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// A key whose value differs between two configurations.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyDifference {
    pub key: String,
    pub before: String,
    pub after: String,
}

impl RunConfig {
    /// The whole configuration as YAML, every key with its resolved value.
    ///
    /// # Errors
    /// [`ConfigError::Dump`] when a value has no YAML form.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        serde_saphyr::to_string(self).map_err(|error| ConfigError::Dump { message: error.to_string() })
    }

    /// Keys whose values differ, in the order of the schema; `self` is the earlier configuration.
    pub fn differences(&self, after: &RunConfig) -> Vec<KeyDifference> {
        let mut differences = Vec::new();
        compare(&self.as_json(), &after.as_json(), String::new(), &mut differences);
        differences
    }

    /// Assistant turns of one rollout.
    pub fn max_rollout_steps(&self) -> usize {
        self.env.nemo_gym.workplace_assistant_simple_agent.responses_api_agents.simple_agent.max_steps
    }

    /// Tokens of one padded training batch at most (a sequence that is longer is a batch of its own).
    pub fn max_batch_tokens(&self) -> usize {
        let policy = &self.policy;
        match policy.dynamic_batching.enabled {
            true => policy.dynamic_batching.train_mb_tokens,
            false => policy.train_micro_batch_size.saturating_mul(policy.max_total_sequence_length),
        }
    }

    fn as_json(&self) -> serde_json::Value {
        // A plain struct of text, numbers and maps with text keys always has a JSON form.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The value at a dotted key, for messages.
    fn value_text(&self, key: &str) -> String {
        let json = self.as_json();
        let value = key.split('.').try_fold(&json, |value, part| value.get(part));
        match value {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }
}

fn compare(before: &serde_json::Value, after: &serde_json::Value, key: String, differences: &mut Vec<KeyDifference>) {
    use serde_json::Value::{Null, Object};
    let (Object(left), Object(right)) = (before, after) else {
        if before != after {
            differences.push(KeyDifference { key, before: before.to_string(), after: after.to_string() });
        }
        return;
    };
    let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
    for name in names {
        let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        compare(left.get(name).unwrap_or(&Null), right.get(name).unwrap_or(&Null), path, differences);
    }
}
