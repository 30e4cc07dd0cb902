//! `nemo-burn`: the command line. What touches the outside world besides files is here: arguments, environment
//! variables, standard output, signals, exit codes. The library crates do none of it, but for the environment's own server and
//! download.

mod allocator;
mod arguments;
mod commands;
mod device;
mod exit;
mod hub;
mod interrupt;
mod jsonl;
mod output;
mod progress;
mod report;
mod values;

use std::process::ExitCode;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    exit::install_panic_hook();
    // Usage errors end the process here, with exit code 2.
    let arguments = Arguments::of_process();
    install_subscriber(arguments.verbose);
    if let Some(level) = std::env::var_os("NEMO_BURN_SIMD").filter(|level| !level.is_empty())
        && let Err(error) = nemo_kernels::choose_simd_level(&level.to_string_lossy())
    {
        return exit::code(Err(anyhow::anyhow!("NEMO_BURN_SIMD: {error}")));
    }
    let result = match arguments.command {
        Command::Train(arguments) => on_a_worker(|| commands::train::run(arguments)),
        Command::Sft(arguments) => on_a_worker(|| commands::sft::run(arguments)),
        Command::Init(arguments) => on_a_worker(|| commands::init::run(&arguments)),
        Command::Merge(arguments) => on_a_worker(|| commands::merge::run(&arguments)),
        Command::Generate(arguments) => on_a_worker(|| commands::generate::run(arguments)),
        Command::Eval(arguments) => on_a_worker(|| commands::eval::run(arguments)),
        Command::Plan(arguments) => on_a_worker(|| commands::plan::run(arguments)),
        Command::Completions { shell } => commands::completions::run(shell),
        Command::Env { command } => commands::env::run(command),
    };
    exit::code(result)
}

/// Runs a command as one of the threads that its parallel loops run on: it takes part in them instead of falling asleep
/// and being woken for each.
fn on_a_worker<T: Send>(command: impl FnOnce() -> T + Send) -> T {
    // These take as much again in the next step; the office's server gives back what a long request took.
    allocator::keep_freed_memory();
    // As deep as the main thread's stack. A pool that exists already is as good.
    rayon::ThreadPoolBuilder::new().stack_size(8 << 20).build_global().ok();
    rayon::scope(|_| command())
}

/// Warnings of the libraries go to standard error, with `-v` also what they do, with `-vv` details.
fn install_subscriber(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(verbose > 0)
        .without_time()
        .init();
}
