//! `nemo-burn`: the command line. Everything that touches the outside world besides files is here: arguments,
//! environment variables, standard output, signals, exit codes. The library crates do none of it.

mod arguments;
mod commands;
mod device;
mod exit;
mod interrupt;
mod jsonl;
mod output;
mod progress;
mod report;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// A training step allocates and frees gigabytes of activations. The system allocator gives them back to the kernel each
/// time and pays for it in page faults: half of a step, where this was measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    exit::install_panic_hook();
    // Usage errors end the process here, with exit code 2.
    let arguments = Arguments::parse();
    install_subscriber(arguments.verbose);
    let result = match arguments.command {
        Command::Train(arguments) => commands::train::run(arguments),
        Command::Sft(arguments) => commands::sft::run(arguments),
        Command::Generate(arguments) => commands::generate::run(arguments),
        Command::Eval(arguments) => commands::eval::run(arguments),
        Command::Env { command } => commands::env::run(command),
    };
    exit::code(result)
}

/// Warnings of the libraries go to standard error, with `-v` also what they do, with `-vv` everything.
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
