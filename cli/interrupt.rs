//! Ctrl-C: the first asks the run to finish its step, save and end; the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::{exit, output};

/// Installs the handler and returns the flag that the first Ctrl-C sets.
///
/// # Errors
/// When the operating system refuses the handler.
pub fn install() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(exit::INTERRUPTED);
        }
        output::note("\nstopping: the running step is finished and saved first (Ctrl-C again ends at once)");
    })
    .context("cannot install the Ctrl-C handler")?;
    Ok(stop)
}
