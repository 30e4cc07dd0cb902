//! The command line as it is typed. What it means is decided by the commands.

mod compute;
mod generate;
mod init;
mod merge;
mod plan;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Command as CommandLine, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use nemo_env::generate::{Split, Suite};
use nemo_env::prepare::{DATASET, DATASET_FILE, DATASET_REVISION};

pub use self::compute::ComputeArguments;
pub use self::generate::{GenerateArguments, GenerateInput, SamplingArguments, WeightDtype};
pub use self::init::{CheckpointDtype, InitArguments};
pub use self::merge::MergeArguments;
pub use self::plan::{Gpu, PlanArguments};
use crate::values::{
    address, at_least_one, difficulty, num_offices, num_tasks, num_threads, number, port, zero_or_more,
};

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

/// Which office: generated by default.
#[derive(Debug, Args)]
pub struct OfficeArguments {
    /// Folder with office tables (processed/*.csv, raw/*.csv), or one that `env generate` wrote.
    #[arg(long, value_name = "DIR")]
    pub tables: Option<PathBuf>,
    /// Name of an office, such as office-0007 [default: the tables given, else office-0000].
    #[arg(long, value_name = "NAME")]
    pub office: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// List the 27 tools.
    List {
        /// Print their JSON schemas, one a line.
        #[arg(long)]
        json: bool,
        /// Task records whose descriptions of the tools are printed instead of this program's own.
        #[arg(long, value_name = "FILE", requires = "json")]
        records: Option<PathBuf>,
    },
    /// Call one tool and print its answer.
    Call {
        /// The tool, such as email_search_emails.
        tool: String,
        /// Its arguments as a JSON object.
        #[arg(default_value = "{}")]
        arguments: String,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Call tools one after the other, print their answers and what they changed.
    Replay {
        /// Calls, one JSON object {"name", "arguments"} per line; or task records, whose ground truth is replayed.
        file: PathBuf,
        /// Replay only the record with this id.
        #[arg(long, value_name = "ID", value_parser = number)]
        id: Option<u64>,
        #[command(flatten)]
        office: OfficeArguments,
    },
    /// Check datasets: does every ground truth score 1, what does doing nothing score, does the order matter.
    Verify {
        /// Files of task records.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Folder with office tables for records that name no office.
        #[arg(long, value_name = "DIR")]
        tables: Option<PathBuf>,
        /// List the ids behind the counts.
        #[arg(long)]
        ids: bool,
    },
    /// Generate tasks and the offices they are set in.
    Generate {
        /// Folder that DIR/SPLIT.jsonl and DIR/offices/ are written to.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        /// warm_start, train, unseen_fillings or unseen_templates.
        #[arg(long, value_name = "SPLIT", default_value = "train")]
        split: Split,
        /// Number of tasks.
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = num_tasks)]
        count: usize,
        /// Seed of the tasks.
        #[arg(long, value_name = "S", default_value_t = 0, value_parser = number)]
        seed: u64,
        /// Offices the tasks are set in.
        #[arg(long, value_name = "N", default_value_t = 16, value_parser = num_offices)]
        num_offices: usize,
        /// Which templates and offices: core, or full, which has more of both.
        #[arg(long, value_name = "SUITE", default_value = "core")]
        suite: Suite,
        /// Only templates up to this difficulty, 1 (one call) to 4.
        #[arg(long, value_name = "N", value_parser = difficulty)]
        difficulty: Option<u8>,
        /// Only these templates.
        #[arg(long, value_name = "NAME")]
        template: Vec<String>,
    },
    /// List the generator's task templates.
    Templates {
        /// Those of this suite: core, or full, which has more.
        #[arg(long, value_name = "SUITE", default_value = "core")]
        suite: Suite,
    },
    /// Serve the office over HTTP, for agents written for NeMo Gym's Workplace Assistant. Ctrl-C and SIGTERM end it.
    Serve(ServeArguments),
    /// Get the tables of the real office, from the public repository of NeMo Gym or from a file.
    ///
    /// Each file is compared with its SHA-256. What is there and right is kept, so the command can be repeated.
    Fetch(FetchArguments),
    /// Make training and validation files of the real tasks: download, check, split.
    ///
    /// HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT mean what they mean in Python, and the cache is the
    /// same.
    Prepare(PrepareArguments),
    /// Solve a task yourself in the terminal.
    Play(PlayArguments),
}

#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Address to listen on [default: 127.0.0.1, which only this machine can reach].
    #[arg(long, value_name = "IP", value_parser = address)]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: 8080].
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub port: Option<u16>,
    #[command(flatten)]
    pub office: OfficeArguments,
    /// Task records whose descriptions of the tools /openapi.json shows, instead of this program's own.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    #[command(flatten)]
    pub limits: ServeLimits,
}

/// What the server holds and waits for.
#[derive(Debug, Args)]
pub struct ServeLimits {
    /// Name of the session cookie [default: that of the reference's usual configuration].
    #[arg(long, value_name = "NAME")]
    pub cookie_name: Option<String>,
    /// Sessions held; the one not used for longest gives way [default: 10000].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_sessions: Option<usize>,
    /// Seconds after which a session that is not used is dropped [default: 3600].
    #[arg(long, value_name = "S", value_parser = number)]
    pub idle_timeout: Option<u64>,
    /// MiB that the calls of one session may add to its tables [default: 16].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_session_mib: Option<usize>,
    /// MiB that the calls of all sessions may add [default: 1024].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_total_mib: Option<usize>,
    /// Offices that records may name, besides the default one [default: 256].
    #[arg(long, value_name = "N", value_parser = zero_or_more)]
    pub max_offices: Option<usize>,
    /// MiB of a request that carries a conversation [default: 32].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_body_mib: Option<usize>,
    /// Seconds after which a request is given up [default: 30].
    #[arg(long, value_name = "S", value_parser = number)]
    pub request_timeout: Option<u64>,
    /// Seconds after which a client that does not take its answer is cut off [default: 60].
    #[arg(long, value_name = "S", value_parser = number)]
    pub response_timeout: Option<u64>,
    /// Connections at the same time; further ones wait [default: 4096].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_connections: Option<usize>,
    /// Threads that answer requests [default: one for each core].
    #[arg(long, value_name = "N", value_parser = num_threads)]
    pub threads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct FetchArguments {
    /// Folder that the tables are put into; --tables reads them from there.
    #[arg(long, value_name = "DIR", default_value = "tables")]
    pub output: PathBuf,
    /// Take them from a wheel of nemo-gym instead of the network.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["folder", "commit"])]
    pub wheel: Option<PathBuf>,
    /// Take them from a folder, such as a checkout of NeMo Gym.
    #[arg(long, value_name = "DIR", conflicts_with = "commit")]
    pub folder: Option<PathBuf>,
    /// Another commit of the repository; the files have to be the same.
    #[arg(long, value_name = "SHA")]
    pub commit: Option<String>,
}

#[derive(Debug, Args)]
pub struct PrepareArguments {
    /// Folder that the files are written to.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Folder with the tables that the tasks are set in (see `env fetch`).
    #[arg(long, value_name = "DIR", default_value = "tables")]
    pub tables: PathBuf,
    /// File of task records instead of a download.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dataset", "revision", "file"])]
    pub records: Option<PathBuf>,
    /// Data set on the Hugging Face hub.
    #[arg(long, value_name = "NAME", default_value = DATASET)]
    pub dataset: String,
    /// Its branch, tag or commit.
    #[arg(long, value_name = "REVISION", default_value = DATASET_REVISION)]
    pub revision: String,
    /// Its file of task records.
    #[arg(long, value_name = "NAME", default_value = DATASET_FILE)]
    pub file: String,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PlayArguments {
    /// Task records to play one of, instead of a generated task.
    #[arg(long, value_name = "FILE")]
    pub records: Option<PathBuf>,
    /// Which of the records [default: the first].
    // What records exclude is excluded once more: it would lift the requirement.
    #[arg(long, value_name = "ID", requires = "records", conflicts_with_all = ["split", "suite", "seed"], value_parser = number)]
    pub id: Option<u64>,
    /// Which tasks to generate one of: warm_start, train, unseen_fillings or unseen_templates.
    #[arg(long, value_name = "SPLIT", default_value = "train", conflicts_with = "records")]
    pub split: Split,
    /// Which templates and offices: core, or full, which has more of both.
    #[arg(long, value_name = "SUITE", default_value = "core", conflicts_with = "records")]
    pub suite: Suite,
    /// Seed of the generated task.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "records", value_parser = number)]
    pub seed: u64,
    /// Folder with office tables for records that name no office; generated tasks bring their own.
    #[arg(long, value_name = "DIR", requires = "records", conflicts_with_all = ["split", "suite", "seed"])]
    pub tables: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        with_negative_values(Arguments::command()).debug_assert();
    }
}
