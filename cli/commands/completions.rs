//! `nemo-burn completions`: what a shell needs to complete this program's command line.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::arguments::Arguments;
use crate::output;

pub fn run(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "nemo-burn", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}
