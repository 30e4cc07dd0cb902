//! The command line as it is typed. What it means is decided by the commands.

mod compute;
mod env;
mod generate;
mod init;
mod merge;
mod plan;

use std::path::PathBuf;

use clap::{Args, Command as CommandLine, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use nemo_env::generate::{Split, Suite};

pub use self::compute::ComputeArguments;
pub use self::env::{EnvCommand, FetchArguments, OfficeArguments, PlayArguments, PrepareArguments, ServeArguments};
pub use self::generate::{GenerateArguments, GenerateInput, SamplingArguments, WeightDtype};
pub use self::init::{CheckpointDtype, InitArguments};
pub use self::merge::MergeArguments;
pub use self::plan::{Gpu, PlanArguments};
use crate::values::{at_least_one, num_offices, num_tasks, number};

/// Reinforcement learning of tool-using hybrid language models (Nemotron-H), in one program.
#[derive(Debug, Parser)]
#[command(name = "nemo-burn", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// Say more on standard error (-v what is done, -vv details).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What was typed. Help, and what cannot be understood, ends the program.
    pub fn of_process() -> Self {
        let mut command = with_negative_values(Self::command());
        let matches = command.get_matches_mut();
        // The definition and the type are one, so that this cannot fail.
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// Takes a number after an option for its value even if it is negative: what is wrong with it is for the option to say.
fn with_negative_values(command: CommandLine) -> CommandLine {
    command
        .mut_args(|arg| match arg.get_action().takes_values() && !arg.is_positional() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
        .mut_subcommands(with_negative_values)
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Improve a model with GRPO: it acts in the simulated office and learns from the outcome.
    ///
    /// The same command continues an unfinished run. Ctrl-C finishes the step, saves and ends.
    Train(TrainArguments),
    /// Warm start: train a model on the generator's demonstrations, from random weights if the configuration says so.
    Sft(SftArguments),
    /// Write a Hugging Face folder with random weights, of any shape a configuration describes.
    ///
    /// It takes the memory of a small part of one tensor, so a model may be larger than the machine's memory.
    Init(InitArguments),
    /// Write a model with an adapter merged into it as a Hugging Face folder, for programs that take no adapters.
    ///
    /// Every tensor keeps its type. It takes the memory of a small part of one tensor.
    Merge(MergeArguments),
    /// Let a model write: from a prompt, a conversation, dataset records or token ids.
    Generate(GenerateArguments),
    /// Say what a training run takes of each device, whether it fits and what would make it fit; loads no weights.
    ///
    /// Exit code 0 when it fits, 2 when it does not.
    Plan(PlanArguments),
    /// Measure how many tasks a model solves, by template, domain and number of calls.
    Eval(EvalArguments),
    /// The simulated office on its own: tools, replays, checks of datasets, new tasks.
    Env {
        #[command(subcommand)]
        command: EnvCommand,
    },
    /// Print a script that completes commands, options and values in a shell.
    ///
    /// For bash: nemo-burn completions bash > ~/.local/share/bash-completion/completions/nemo-burn
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// What `train` and `sft` share.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Configuration in NeMo RL's YAML keys [default: the built-in tiny job].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings that replace those of the file, such as grpo.max_num_steps=10 (of `sft`, sft.max_num_steps=10).
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Start a new run beside an existing one instead of continuing it.
    #[arg(long)]
    pub fresh: bool,
    /// Print the resolved configuration and what would happen, or what would prevent it, and do nothing of it.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub compute: ComputeArguments,
    /// Folder with office tables (processed/*.csv, raw/*.csv) for records that name no office.
    #[arg(long, value_name = "DIR")]
    pub tables: Option<PathBuf>,
    /// Sequences generated at the same time; changes speed and memory, not results.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub max_open_sequences: usize,
}

#[derive(Debug, Args)]
pub struct TrainArguments {
    #[command(flatten)]
    pub run: RunArguments,
    /// Control experiment: shuffle the rewards within each group, so that there is nothing to learn.
    #[arg(long)]
    pub shuffle_rewards: bool,
}

#[derive(Debug, Args)]
pub struct SftArguments {
    #[command(flatten)]
    pub run: RunArguments,
    /// Where the finished model is written as a Hugging Face folder [default: sft.output_dir].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EvalArguments {
    /// Hugging Face folder of the model, or its name on the hub (ORG/NAME or ORG/NAME@REVISION), which is downloaded.
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// Folder of a LoRA adapter of the model, in PEFT's format.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Which generated tasks: warm_start, train, unseen_fillings or unseen_templates [default: the last two].
    #[arg(long, value_name = "SPLIT")]
    pub split: Vec<Split>,
    /// Which templates and offices: core, or full, which has more of both.
    #[arg(long, value_name = "SUITE", default_value = "core")]
    pub suite: Suite,
    /// Generated tasks of each split.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = num_tasks)]
    pub count: usize,
    /// Seed of the generated tasks.
    #[arg(long, value_name = "S", default_value_t = 1000, value_parser = number)]
    pub task_seed: u64,
    /// Offices the generated tasks are set in.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = num_offices)]
    pub num_offices: usize,
    /// Dataset of task records instead of generated tasks.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["split", "suite", "count", "task_seed", "num_offices"])]
    pub records: Option<PathBuf>,
    /// Folder with office tables for records that name no office; generated tasks bring their own.
    // What records exclude is excluded once more: it would lift the requirement.
    #[arg(long, value_name = "DIR", requires = "records", conflicts_with_all = ["split", "suite", "count", "task_seed", "num_offices"])]
    pub tables: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// Tokens after which a turn is cut off.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    pub max_new_tokens: usize,
    /// Turns of the model per task.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = at_least_one)]
    pub max_steps: usize,
    /// Tokens of a whole conversation.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one)]
    pub max_length: usize,
    /// Conversations held at the same time; changes speed and memory, not results.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub max_open_sequences: usize,
    /// Judge the conversations by what they come to as well: any order of new rows, equal dates, no detours.
    #[arg(long)]
    pub strict: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write one JSON line per conversation to this file.
    #[arg(long, value_name = "FILE")]
    pub episodes: Option<PathBuf>,
    /// What the model's matrices are kept in, as of generate.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t)]
    pub weight_dtype: WeightDtype,
    #[command(flatten)]
    pub compute: ComputeArguments,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        with_negative_values(Arguments::command()).debug_assert();
    }
}
