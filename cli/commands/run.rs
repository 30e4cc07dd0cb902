//! What `train` and `sft` share: the configuration, the tasks, the start and the end of a run.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use burn::tensor::Device;
use nemo_env::{Offices, Task};
use nemo_model::adapter::{ADAPTER_CONFIG_FILE, AdapterCoverage};
use nemo_rl::assemble::{self, Places};
use nemo_rl::checkpoint::{Algorithm, Checkpoint, POLICY_FOLDER, TrainState};
use nemo_rl::config::{self, BaseDtype, DatasetConfig, RunConfig};
use nemo_rl::contents::{self, Contents};
use nemo_rl::plan::size_text;
use nemo_rl::policy::model_policy::ModelPolicy;
use nemo_rl::resume;
use nemo_rl::rollout::chat::Chat;
use nemo_rl::run::{RunEnd, RunInputs, RunOptions, RunSummary, threshold_reached};
use nemo_rl::run_folder::RunFolder;
use nemo_rl::sft;
use nemo_rl::tasks::load_tasks;

use super::places::places;
use crate::arguments::RunArguments;
use crate::device::{DeviceName, allow_tf32, machine};
use crate::output;
use crate::report::summary::{self, Rows};
use crate::report::{self, plot};

/// A configuration of this repository that is built into the program.
pub struct BuiltIn {
    /// Where the repository has it.
    pub path: &'static str,
    pub text: &'static str,
    /// What it is made for.
    pub algorithm: Algorithm,
}

impl RunArguments {
    fn options(&self, shuffle_rewards: bool) -> RunOptions {
        RunOptions { max_open_sequences: self.max_open_sequences, shuffle_rewards_within_groups: shuffle_rewards }
    }
}

/// Everything a run needs besides its training tasks.
pub struct Parts {
    pub config: RunConfig,
    pub policy: ModelPolicy,
    pub chat: Chat,
    pub environment: Offices,
    pub validation_tasks: Vec<Task>,
    pub options: RunOptions,
    folder: RunFolder,
    contents: Contents,
}

impl Parts {
    /// Opens everything the configuration names.
    pub fn assemble(arguments: &RunArguments, config: RunConfig, shuffle_rewards: bool) -> anyhow::Result<Self> {
        let device = open_device(arguments, &config)?;
        let places: Places = places(arguments.config.as_deref())?;
        let environment = assemble::environment(&config, arguments.tables.as_deref())?;
        let validation_tasks = match is_specified(&config.data.validation) {
            true => load_tasks(&config.data.validation, "data.validation")?,
            false => Vec::new(),
        };
        // Before the model, which may be large: a second start ends here.
        let folder = RunFolder::open(&config.checkpointing.checkpoint_dir, arguments.fresh, std::process::id())?;
        let began = Instant::now();
        let machine = machine(&arguments.compute);
        let plan = assemble::plan(&config, arguments.max_open_sequences, &places, machine)?;
        output::note(&report::plan::summary(&plan));
        let (policy, chat, warnings) = assemble::policy(&config, &plan, &places, machine, &device)?;
        output::warnings(&warnings);
        let model = policy.model().config();
        output::note(&format!(
            "model: {:.2} M parameters, blocks {}, vocabulary {}, on {} ({:.1} s)",
            model.num_parameters() as f64 / 1e6,
            model.layers,
            model.vocab_size,
            arguments.compute.device,
            began.elapsed().as_secs_f64()
        ));
        if let Some(coverage) = AdapterCoverage::of(policy.model()) {
            note_coverage(&coverage);
            output::note(&format!(
                "base: kept in {}, {} of it read from its files where they lie",
                config.policy.megatron_cfg.peft.base_dtype.name(),
                size_text(policy.model().mapped_bytes())
            ));
        }
        let options = arguments.options(shuffle_rewards);
        let contents = contents::of_run(&config, arguments.tables.as_deref(), &places)?;
        Ok(Self { config, policy, chat, environment, validation_tasks, options, folder, contents })
    }

    /// What the loops are given, and the policy they change.
    pub fn inputs<'a>(&'a mut self, stop: &'a AtomicBool) -> (RunInputs<'a>, &'a mut ModelPolicy) {
        let inputs = RunInputs {
            config: &self.config,
            options: &self.options,
            folder: &self.folder,
            contents: &self.contents,
            renderer: &self.chat,
            environment: &self.environment,
            validation_tasks: &self.validation_tasks,
            stop,
        };
        (inputs, &mut self.policy)
    }
}

/// Says what an adapter touches, and what other programs make of it.
fn note_coverage(coverage: &AdapterCoverage) {
    output::note(&coverage.to_string());
    output::warnings(&coverage.notices);
}

/// Opens the device as the configuration wants it.
fn open_device(arguments: &RunArguments, config: &RunConfig) -> anyhow::Result<Device> {
    let device = arguments.compute.device.open()?;
    let base = config.policy.megatron_cfg.peft.base_dtype;
    anyhow::ensure!(
        base != BaseDtype::Int8 || arguments.compute.device == DeviceName::Cpu,
        "policy.megatron_cfg.peft.base_dtype: --device {} has no products with weights in int8; use --device cpu, or \
         policy.precision",
        arguments.compute.device
    );
    if config.policy.allow_tf32 && !allow_tf32(arguments.compute.device) {
        output::note(&format!("warning: policy.allow_tf32 has no effect on --device {}", arguments.compute.device));
    }
    Ok(device)
}

/// Whether a set of tasks is asked for at all.
pub fn is_specified(set: &DatasetConfig) -> bool {
    set.data_path.is_some() || set.generate.count > 0
}

/// The configuration that is asked for, else the built-in one (the repository's file, if it is there, since it may
/// have been edited).
pub fn load_config(arguments: &RunArguments, built_in: &BuiltIn, more: &[String]) -> anyhow::Result<RunConfig> {
    let overrides: Vec<String> = arguments.overrides.iter().chain(more).cloned().collect();
    load(arguments.config.as_deref(), &overrides, built_in)
}

/// The same from the file, if one is named, and what replaces its settings.
pub fn load(file: Option<&Path>, overrides: &[String], built_in: &BuiltIn) -> anyhow::Result<RunConfig> {
    let repository_file = Path::new(built_in.path);
    let loaded = match file {
        Some(path) => config::load(path, overrides)?,
        None if repository_file.exists() => config::load(repository_file, overrides)?,
        None => config::load_text(built_in.text, repository_file, overrides)?,
    };
    // A file may serve both commands, but a key that is typed is meant for this one. Other keys follow the seed.
    let foreign = overrides.iter().filter(|text| {
        let key = text.split('=').next().unwrap_or(text);
        key != "grpo.seed" && resume::is_foreign(built_in.algorithm, key)
    });
    let foreign = foreign.map(|text| format!("{text} has no effect on this command, which does not read the key"));
    for warning in loaded.warnings.iter().map(ToString::to_string).chain(foreign) {
        output::note(&format!("warning: {warning}"));
    }
    tracing::info!("resolved configuration:\n{}", loaded.config.to_yaml()?);
    Ok(loaded.config)
}

/// What one of the two commands would do.
pub struct Intent<'a> {
    pub algorithm: Algorithm,
    pub seed: u64,
    pub shuffle_rewards: bool,
    /// The step that ends the run.
    pub last_step: u64,
    /// Where the finished model goes besides its checkpoint.
    pub output: Option<&'a Path>,
}

/// Prints what a run would do, and does nothing of it: the resolved configuration to standard output, the rest beside it.
/// Whatever would end the run at its start ends this too, as far as it shows without weights and without the network.
///
/// # Errors
/// When the run could not start, or the output not be written.
pub fn describe(arguments: &RunArguments, config: &RunConfig, intent: &Intent<'_>) -> anyhow::Result<()> {
    open_device(arguments, config)?;
    let places = places(arguments.config.as_deref())?;
    assemble::environment(config, arguments.tables.as_deref())?;
    if is_specified(&config.data.validation) {
        load_tasks(&config.data.validation, "data.validation")?;
    }
    assemble::check_files(config, &places)?;
    let (folder, checkpoint) = RunFolder::find(&config.checkpointing.checkpoint_dir, arguments.fresh)?;
    let is_of_hub = assemble::is_of_hub(config, &places);
    let plan = match is_of_hub {
        true => None,
        false => Some(assemble::plan(config, arguments.max_open_sequences, &places, machine(&arguments.compute))?),
    };
    let mut notices = Vec::new();
    if let Some(checkpoint) = &checkpoint {
        let contents = match is_of_hub {
            true => checkpoint.state.contents.clone(),
            false => contents::of_run(config, arguments.tables.as_deref(), &places)?,
        };
        let options = arguments.options(intent.shuffle_rewards).named();
        let start = TrainState::start(intent.algorithm, intent.seed, options, contents);
        notices = resume::compare(checkpoint, &start, config)?;
    } else if let Some(folder) = intent.output {
        sft::check_output(folder)?;
    }
    output::line(config.to_yaml()?.trim_end())?;
    let (folder, last_step) = (folder.display(), intent.last_step);
    notices.iter().for_each(|notice| output::note(notice));
    output::note(&match &checkpoint {
        None => format!("a new run in {folder}, up to {last_step} steps"),
        Some(Checkpoint { state, .. }) if threshold_reached(config, state) => {
            format!("nothing: the run in {folder} has reached its validation threshold after {} steps", state.step)
        }
        Some(Checkpoint { state, .. }) if state.step >= last_step => {
            format!("nothing: the run in {folder} has its {last_step} steps")
        }
        Some(Checkpoint { state, .. }) => {
            format!("the run in {folder} goes on after step {}, up to {last_step}", state.step)
        }
    });
    output::note(&match &config.policy.init.model_config {
        Some(shape) => format!("a model with random weights, of the shape in {}", shape.display()),
        None if is_of_hub => {
            format!("the model {} of the hub, whose files were not looked for", config.policy.model_name)
        }
        None => format!("the model {}", config.policy.model_name),
    });
    if let Some(plan) = &plan {
        output::note(&report::plan::summary(plan));
        let coverage = assemble::coverage(config, &assemble::planned_model_config(config, &places)?)?;
        coverage.iter().for_each(note_coverage);
    }
    if let Some(folder) = intent.output {
        output::note(&format!("the finished model goes into {}", folder.display()));
    }
    output::note("--dry-run: no weights were loaded, nothing was computed or written");
    Ok(())
}

/// Prints the end of a run: what changed, a curve, where everything is. `model` is what an adapter belongs to.
pub fn conclude(
    summary: &RunSummary,
    kind: summary::Kind,
    model: &str,
    elapsed: std::time::Duration,
) -> anyhow::Result<()> {
    let folder = summary.folder.display();
    if let RunEnd::AlreadyFinished(limit) = summary.end {
        return output::line(&format!(
            "the run in {folder} is already finished ({} steps); --fresh starts a new one beside it, {}",
            summary.last_step,
            kind.way_on(limit)
        ));
    }
    let plot_file = summary.folder.join("plot.svg");
    let plotted =
        plot::write(&plot_file, summary, kind).with_context(|| format!("cannot write {}", plot_file.display()))?;
    let text = summary::text(summary, kind, Rows::Headline);
    let tables_file = summary.folder.join("summary.txt");
    fs::write(&tables_file, summary::text(summary, kind, Rows::All))
        .with_context(|| format!("cannot write {}", tables_file.display()))?;
    if !text.is_empty() {
        output::line(&text)?;
    }
    let mut places =
        format!("metrics     {folder}/metrics.jsonl\ntables      {} (by template too)", tables_file.display());
    if plotted {
        places.push_str(&format!("\nplot        {}", plot_file.display()));
    }
    if let Some(checkpoint) = &summary.checkpoint {
        places.push_str(&format!("\ncheckpoint  {}", checkpoint.display()));
        let policy = checkpoint.join(POLICY_FOLDER);
        let policy = match policy.join(ADAPTER_CONFIG_FILE).exists() {
            true => format!("{model} --adapter {}", policy.display()),
            false => policy.display().to_string(),
        };
        places.push_str(&format!("\ntry it      nemo-burn generate --greedy --model {policy} --prompt \"…\""));
    }
    output::line(&places)?;
    let minutes = elapsed.as_secs_f64() / 60.0;
    let steps = summary.last_step - summary.first_step;
    output::line(&match summary.end {
        RunEnd::Stopped => {
            format!("stopped after {} steps, {minutes:.1} minutes; the same command goes on", summary.last_step)
        }
        RunEnd::ThresholdReached => {
            format!("the validation threshold is reached after {} steps, {minutes:.1} minutes", summary.last_step)
        }
        RunEnd::Finished | RunEnd::AlreadyFinished(_) => format!("{steps} steps in {minutes:.1} minutes"),
    })
}
