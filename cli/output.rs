//! Standard output. A reader that went away ends the program quietly, a full disk loudly, neither with a panic.

use std::io::{IsTerminal, Write};

use anyhow::Context;

/// Writes a line (or several) and flushes it.
///
/// # Errors
/// When standard output cannot be written to.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .context("cannot write to standard output; redirect it to a place with free space")
}

/// Whether a person is watching standard error, where progress is shown.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Says something that is not a result: to standard error, so that results can be piped. Best effort.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says what the user should know before relying on a result.
pub fn warnings(warnings: &[String]) {
    warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
}

/// Replaces the last line of standard error. Best effort, for people only.
pub fn overwrite(text: &str) {
    let mut err = std::io::stderr();
    let _ = write!(err, "\r\x1b[2K{text}\r").and_then(|()| err.flush());
}
