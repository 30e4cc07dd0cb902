//! `data.*` and `env.*`: tasks and the environment they run in.

use std::path::PathBuf;

use nemo_env::generate::Suite;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::limits::{self, at_most, optional_difficulty};

/// The tasks of training and validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    pub shuffle: bool,
    pub train: DatasetConfig,
    pub validation: DatasetConfig,
    pub default: DatasetDefaults,
}

/// One set of tasks: either a JSONL file of records or the built-in generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetConfig {
    /// JSONL file in the environment's record format.
    pub data_path: Option<PathBuf>,
    /// *Own block.*
    pub generate: GenerateConfig,
}

/// The built-in task generator; active when `count` is above 0. *Own block.*
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateConfig {
    pub seed: u64,
    /// Tasks of each split listed in `split`.
    #[serde(deserialize_with = "at_most::<{ limits::TASKS }, _>")]
    pub count: usize,
    /// One split or a list of them.
    #[serde(deserialize_with = "one_or_many")]
    pub split: Vec<TaskSplit>,
    /// Distinct generated offices the tasks play in.
    #[serde(deserialize_with = "at_most::<{ limits::OFFICES }, _>")]
    pub num_offices: usize,
    /// Which templates and offices: `core`, or `full`, which has more of both.
    pub suite: Suite,
    /// Only templates up to this difficulty, 1 (one call) to 4; null = all.
    #[serde(deserialize_with = "optional_difficulty")]
    pub max_difficulty: Option<u8>,
}

/// Parts of the generator's task space that never share a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskSplit {
    /// Tasks with demonstrations, for the supervised warm start.
    WarmStart,
    /// Tasks for reinforcement learning.
    Train,
    /// Known templates with values that training never uses.
    UnseenFillings,
    /// Templates that training never uses.
    UnseenTemplates,
}

/// Values shared by all sets; only the environment's own dataset type exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetDefaults {
    pub dataset_name: String,
    pub env_name: String,
    pub processor: String,
}

/// The environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvConfig {
    pub should_use_nemo_gym: bool,
    /// Folder with the tables of records that name no office; null refuses such records. *Own key.*
    pub tables_dir: Option<PathBuf>,
    pub nemo_gym: NemoGymConfig,
}

/// Options of the simulation, under upstream's name for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NemoGymConfig {
    pub is_trajectory_collection: bool,
    pub config_paths: Vec<ConfigPath>,
    pub policy_model: PolicyModelConfig,
    pub workplace_assistant_simple_agent: WorkplaceAgentConfig,
    /// Substrings of visible text that mark an invalid tool call; null keeps the built-in list.
    pub invalid_tool_call_patterns: Option<Vec<String>>,
    /// Tags whose unbalanced use marks malformed thinking; null keeps the built-in list.
    pub thinking_tags: Option<Vec<String>>,
}

/// Path of an upstream environment description; only its meaning is used, the file is not read.
pub type ConfigPath = String;

/// How the simulation talks to the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyModelConfig {
    pub responses_api_models: ResponsesApiModels,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponsesApiModels {
    pub vllm_model: VllmModelConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmModelConfig {
    pub uses_reasoning_parser: bool,
    pub extra_body: VllmModelExtraBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VllmModelExtraBody {
    /// Passed to the chat template, for example `enable_thinking`.
    pub chat_template_kwargs: Map<String, Value>,
}

/// The agent loop of the workplace assistant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkplaceAgentConfig {
    pub responses_api_agents: ResponsesApiAgents,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponsesApiAgents {
    pub simple_agent: SimpleAgentConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimpleAgentConfig {
    /// Assistant turns of one rollout.
    #[serde(deserialize_with = "at_most::<{ limits::SEQUENCE_TOKENS }, _>")]
    pub max_steps: usize,
}

/// Whether generation shares the training devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColocationConfig {
    pub enabled: bool,
}

/// Accepts `split: train` for `split: [train]`.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TaskSplit>, D::Error> {
    struct Splits;
    impl<'de> Visitor<'de> for Splits {
        type Value = Vec<TaskSplit>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a split or a list of splits")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![TaskSplit::deserialize(name.into_deserializer())?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut splits = Vec::new();
            while let Some(split) = seq.next_element()? {
                splits.push(split);
            }
            Ok(splits)
        }
    }
    deserializer.deserialize_any(Splits)
}
