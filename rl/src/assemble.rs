//! From a configuration to the parts of a run: weights, tokenizer, chat format, engine sizes.
//!
//! One place decides what a configuration means in objects, so that training, evaluation and generation load a model
//! in the same way. Nothing here reads the environment or chooses a device: the caller says where to look.

mod error;
mod fresh;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use nemo_env::{EnvError, Offices};
use nemo_hub::Hub;
use nemo_model::adapter::AdapterCoverage;
use nemo_model::checkpoint::SidecarFile;
use nemo_model::config::{GenerationConfig, ModelConfig, WeightDtype};
use nemo_model::generate::EngineOptions;
use nemo_model::text::{ChatTemplate, TextError, Tokenizer};
use nemo_model::{Dtypes, ModelError, NemotronH};
use serde_json::{Map, Value};

pub use self::error::AssembleError;
use crate::adapter;
use crate::config::{MomentDtype, PolicyConfig, Precision, RunConfig};
use crate::model_files::{self, CompanionFiles};
use crate::optimizer::OptimizerDtypes;
pub use crate::places::Places;
use crate::plan::{AdapterSizes, ElementBytes, Machine, Plan, PlanInput, size_text};
use crate::policy::{ModelPolicy, ModelPolicyOptions, PassOptions};
use crate::rollout::chat::Chat;

/// A model folder in memory.
pub struct LoadedModel {
    /// The weights.
    pub model: NemotronH,
    /// Text to ids; some folders hold weights only.
    pub tokenizer: Option<Tokenizer>,
    /// The folder's chat template, or the family's.
    pub template: ChatTemplate,
    /// Sampling defaults of the folder.
    pub generation: Option<GenerationConfig>,
    /// Tokens that end a turn.
    pub stop_tokens: BTreeSet<u32>,
    /// Files to save with the weights.
    pub sidecar_files: Vec<SidecarFile>,
    /// Where it came from.
    pub folder: PathBuf,
    /// What it was called: a folder or a name of the hub.
    pub name: String,
    /// What its user should know, one sentence each.
    pub warnings: Vec<String>,
}

impl LoadedModel {
    /// Loads weights, tokenizer and template of a model named by folder or hub name, and the adapter in a folder, if there is
    /// one. Beside an adapter the weights are kept as in training.
    ///
    /// # Errors
    /// Whatever is wrong with the folders.
    pub fn open(
        name: &str,
        adapter: Option<&Path>,
        places: &Places,
        device: &Device,
        dtypes: Dtypes,
    ) -> Result<Self, AssembleError> {
        let folder = places.folder(name, Hub::model)?;
        let dtypes = if adapter.is_some() { dtypes.beside_adapter() } else { dtypes };
        let mut model = nemo_model::load(&folder, device, dtypes)?;
        let notices = match adapter {
            Some(adapter) => model.load_adapter(adapter).map_err(ModelError::from)?,
            None => Vec::new(),
        };
        let mut loaded = Self::around(model, folder.clone(), &folder, name)?;
        loaded.warnings.extend(notices);
        Ok(loaded)
    }

    fn of_policy(policy: &PolicyConfig, places: &Places, device: &Device) -> Result<Self, AssembleError> {
        let (folder, tokenizer_folder) = places.policy_folders(policy)?;
        let overrides = &policy.hf_config_overrides;
        let load = || {
            let mut config = model_files::overridden_config(&folder, overrides)?;
            let dtypes = dtypes(policy, &mut config);
            let mut model = nemo_model::load_with_config(&folder, &config, device, dtypes)?;
            if let Some(fresh) = adapter::fresh(policy, &config) {
                model.add_adapter(&fresh)?;
            }
            Self::around(model, folder.clone(), &tokenizer_folder, &policy.model_name)
        };
        let mut loaded = load().map_err(|source| model_files::name_overrides(overrides, source))?;
        loaded.warnings.extend(model_files::unknown_overrides(overrides));
        Ok(loaded)
    }

    fn around(model: NemotronH, folder: PathBuf, tokenizer_folder: &Path, name: &str) -> Result<Self, AssembleError> {
        let name = name.to_owned();
        let CompanionFiles { tokenizer, template, generation, stop_tokens, sidecar_files, warnings } =
            CompanionFiles::load(model.config(), &folder, tokenizer_folder)?;
        Ok(Self { model, tokenizer, template, generation, stop_tokens, sidecar_files, folder, name, warnings })
    }

    /// Adds a warning if sequences of `max_length` tokens are longer than those the model was made for.
    pub fn warn_of_length(&mut self, max_length: usize) {
        self.warnings.extend(model_files::check_length(self.model.config(), max_length, &self.folder));
    }

    /// Adds a warning if a host reads weights from a file that does not fit into what is free.
    pub fn warn_of_memory(&mut self, machine: Machine) {
        let (mapped, free) = (self.model.mapped_bytes(), machine.device_memory);
        if machine.threads > 0 && mapped > free {
            self.warnings.push(format!(
                "{} of weights are read from {} as they are needed, and only {} of memory are free for them: tokens wait for \
                 the disk",
                size_text(mapped),
                self.folder.display(),
                size_text(free)
            ));
        }
    }

    /// The plan of an engine for `max_open` sequences of at most `max_length` tokens. The machine is as it was before the
    /// model was loaded. Weights that a host reads from their file need no memory of their own.
    ///
    /// # Errors
    /// When weights and the smallest caches do not fit.
    pub fn plan(&self, max_open: usize, max_length: usize, machine: Machine) -> Result<Plan, AssembleError> {
        let mapped = if machine.threads > 0 { self.model.mapped_bytes() } else { 0 };
        let weights = (ElementBytes::of(self.model.dtypes()), mapped);
        let mut input = PlanInput::of_generation(self.model.config(), weights, [max_open, max_length], machine);
        input.adapter = AdapterCoverage::of(&self.model)
            .map(|coverage| AdapterSizes::new(self.model.config(), coverage.settings.rank, &coverage.adapted));
        Ok(Plan::fitting(&input)?)
    }

    /// Sizes of an engine as planned, for sequences of at most `max_length` tokens.
    ///
    /// Enough for all of them where memory allows; where it does not, the engine makes sequences wait. These are bounds: the
    /// engine takes memory for what it holds.
    pub fn engine_options(&self, plan: &Plan, max_length: usize) -> EngineOptions {
        EngineOptions {
            num_pages: plan.engine.num_pages,
            num_slots: plan.engine.num_slots,
            max_sequence_length: max_length,
            stop_tokens: self.stop_tokens.clone(),
            ..EngineOptions::default()
        }
    }

    /// The chat format of the folder; `variables` are passed to the template.
    ///
    /// # Errors
    /// When the folder has no tokenizer or no token ends a turn.
    pub fn chat(
        &self,
        variables: Map<String, Value>,
    ) -> Result<(Tokenizer, String, Map<String, Value>), AssembleError> {
        let tokenizer = self.tokenizer.clone().ok_or_else(|| TextError::NoTokenizer { folder: self.folder.clone() })?;
        let end_of_turn = tokenizer
            .settings()
            .eos_token
            .clone()
            .ok_or_else(|| AssembleError::NoEndOfTurn { folder: self.folder.clone() })?;
        Ok((tokenizer, end_of_turn, variables))
    }

    /// Turns the model into a policy and its chat format.
    ///
    /// # Errors
    /// As [`Self::chat`].
    pub fn into_policy(
        self,
        plan: &Plan,
        settings: PolicySettings,
        variables: Map<String, Value>,
    ) -> Result<(ModelPolicy, Chat), AssembleError> {
        let (tokenizer, end_of_turn, variables) = self.chat(variables)?;
        let options = ModelPolicyOptions {
            engine: self.engine_options(plan, settings.max_sequence_length),
            pass: PassOptions {
                max_batch_tokens: settings.max_batch_tokens,
                chunk_tokens: settings.chunk_tokens,
                kept_bytes: plan.kept_bytes,
            },
            optimizer: settings.optimizer,
            rounding_seed: settings.rounding_seed,
            sidecar_files: self.sidecar_files,
            base_name: self.name,
        };
        let chat = Chat::new(tokenizer, self.template, &end_of_turn, variables)?;
        Ok((ModelPolicy::new(self.model, options), chat))
    }
}

/// What a policy is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicySettings {
    /// Tokens of the longest sequence.
    pub max_sequence_length: usize,
    /// Tokens of one padded training batch.
    pub max_batch_tokens: usize,
    /// Tokens of a segment that go through the model at once in training.
    pub chunk_tokens: usize,
    /// What the optimizer keeps its state in.
    pub optimizer: OptimizerDtypes,
    /// Seed of the numbers by which updates are rounded at random.
    pub rounding_seed: u64,
}

/// Reads the small files that a configuration's model consists of, and leaves its weights alone. Files of the hub are not
/// asked for.
///
/// # Errors
/// As [`policy`], as far as these files show it.
pub fn check_files(config: &RunConfig, places: &Places) -> Result<(), AssembleError> {
    let policy = &config.policy;
    if let Some(shape) = &policy.init.model_config {
        let path = places.find(shape);
        nemo_model::check_room(&ModelConfig::from_file(&path)?, &path)?;
    } else if !is_of_hub(config, places) {
        let (folder, tokenizer_folder) = places.policy_folders(policy)?;
        let overrides = &policy.hf_config_overrides;
        model_files::overridden_config(&folder, overrides)
            .and_then(|model| CompanionFiles::load(&model, &folder, &tokenizer_folder))
            .map_err(|source| model_files::name_overrides(overrides, source))?
            .tokenizer
            .ok_or(TextError::NoTokenizer { folder: tokenizer_folder })?;
    }
    Ok(())
}

/// The folder of a model named by folder or hub name.
///
/// # Errors
/// When there is none, or the hub does not have it.
pub fn model_folder(name: &str, places: &Places) -> Result<PathBuf, AssembleError> {
    places.folder(name, Hub::model)
}

/// Whether files of a configuration's model would be asked of the hub.
pub fn is_of_hub(config: &RunConfig, places: &Places) -> bool {
    let policy = &config.policy;
    policy.init.model_config.is_none()
        && [&policy.model_name, &policy.tokenizer.name].into_iter().any(|name| places.is_of_hub(name))
}

/// The types of a run's model. One that is trained in bf16 is saved so.
fn dtypes(policy: &PolicyConfig, config: &mut ModelConfig) -> Dtypes {
    if policy.precision == Precision::Bfloat16 && !policy.megatron_cfg.peft.enabled {
        config.dtype = WeightDtype::BFloat16;
    }
    adapter::dtypes(policy)
}

/// The shape of a configuration's model, of which only that file is read: `policy.init.model_config`, else the `config.json`
/// of `policy.model_name`.
///
/// # Errors
/// When there is no such file, or it describes no model.
fn model_config(config: &RunConfig, places: &Places) -> Result<ModelConfig, AssembleError> {
    let policy = &config.policy;
    if let Some(shape) = &policy.init.model_config {
        return Ok(ModelConfig::from_file(&places.find(shape))?);
    }
    let folder = places.folder(&policy.model_name, Hub::model)?;
    let overrides = &policy.hf_config_overrides;
    model_files::overridden_config(&folder, overrides).map_err(|source| model_files::name_overrides(overrides, source))
}

/// The same for a model that is only planned with: nothing is downloaded, and `policy.model_name` may be a `config.json` under
/// any name instead of its folder.
///
/// # Errors
/// As of a model on this machine.
pub fn planned_model_config(config: &RunConfig, places: &Places) -> Result<ModelConfig, AssembleError> {
    let found = places.find(Path::new(&config.policy.model_name));
    if config.policy.init.model_config.is_none() && found.is_file() {
        return Ok(ModelConfig::from_file(&found)?);
    }
    model_config(config, &Places { hub: None, ..places.clone() })
}

/// The plan of a configuration's run, before anything of it is loaded.
///
/// # Errors
/// When the run does not fit, or its model's shape cannot be read.
pub fn plan(
    config: &RunConfig,
    max_open_sequences: usize,
    places: &Places,
    machine: Machine,
) -> Result<Plan, AssembleError> {
    let model = model_config(config, places)?;
    if let Some(shape) = &config.policy.init.model_config {
        // Names the file and the largest tensor where the shape itself is the mistake.
        nemo_model::check_room(&model, &places.find(shape))?;
    }
    let input = PlanInput::of_config(config, &model, max_open_sequences, machine).map_err(ModelError::from)?;
    Ok(Plan::fitting(&input)?)
}

/// What of its model a configuration's adapter touches; `None` for a run that trains the model itself.
///
/// # Errors
/// When the model's shape cannot be read, or has no place for the adapter.
pub fn coverage(config: &RunConfig, model: &ModelConfig) -> Result<Option<AdapterCoverage>, AssembleError> {
    let Some(fresh) = adapter::fresh(&config.policy, model) else { return Ok(None) };
    let maps = fresh.maps(model).map_err(ModelError::from)?;
    Ok(Some(AdapterCoverage::of_maps(model, fresh.settings, maps)))
}

/// The policy that a configuration describes, its chat format, and what its user should know about the model's files.
///
/// # Errors
/// Whatever is wrong with the model's files or the settings that make a fresh one.
pub fn policy(
    config: &RunConfig,
    plan: &Plan,
    places: &Places,
    machine: Machine,
    device: &Device,
) -> Result<(ModelPolicy, Chat, Vec<String>), AssembleError> {
    let optimizer = OptimizerDtypes::of_config(&config.policy.megatron_cfg.optimizer);
    if [optimizer.exp_avg, optimizer.exp_avg_sq].contains(&MomentDtype::Uint8) && !device.supports_dtype(DType::U8) {
        return Err(AssembleError::EightBits);
    }
    let mut loaded = match &config.policy.init.model_config {
        Some(model_config) => LoadedModel::fresh(config, model_config, places, device)?,
        None => LoadedModel::of_policy(&config.policy, places, device)?,
    };
    loaded.warn_of_length(config.policy.max_total_sequence_length);
    if loaded.model.adapter().is_some() {
        // Other weights leave their file with the first update.
        loaded.warn_of_memory(machine);
    }
    let warnings = std::mem::take(&mut loaded.warnings);
    let settings = PolicySettings {
        max_sequence_length: config.policy.max_total_sequence_length,
        max_batch_tokens: config.max_batch_tokens(),
        chunk_tokens: config.policy.chunk_tokens,
        optimizer,
        rounding_seed: config.grpo.seed,
    };
    let mut variables = config.policy.tokenizer.chat_template_kwargs.clone().unwrap_or_default();
    let server = &config.env.nemo_gym.policy_model.responses_api_models.vllm_model.extra_body;
    variables.extend(server.chat_template_kwargs.clone());
    let (policy, chat) = loaded.into_policy(plan, settings, variables)?;
    let policy = match config.loss_fn.reference_policy_kl_penalty == 0.0 {
        true => policy,
        false => policy.with_reference(),
    };
    Ok((policy, chat, warnings))
}

/// The environment that a configuration describes; `tables` replaces its `env.tables_dir`.
///
/// # Errors
/// When the tables cannot be read.
pub fn environment(config: &RunConfig, tables: Option<&Path>) -> Result<Offices, EnvError> {
    match tables.or(config.env.tables_dir.as_deref()) {
        Some(folder) => Offices::with_folder(folder),
        None => Ok(Offices::new()),
    }
}
