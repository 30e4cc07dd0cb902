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
    flag("\nstopping: the running step is finished and saved first (Ctrl-C again ends at once)")
}

/// Installs a handler that says `message` at the first Ctrl-C and sets the flag returned.
///
/// # Errors
/// When the operating system refuses the handler.
pub fn flag(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    on_first(message, move || flag.store(true, Ordering::Relaxed))?;
    Ok(stop)
}

/// Calls `stop` and says `message` at the first Ctrl-C.
///
/// # Errors
/// When the operating system refuses the handler.
pub fn on_first(message: &'static str, stop: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let is_stopping = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if is_stopping.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
        // Said first: what stops may end the process before another word.
        output::note(message);
        stop();
    })
    .context("cannot install the Ctrl-C handler")
}
