//! How the program ends: 0 done, 1 an error of the program itself, 2 something in the input or its surroundings,
//! 130 a second Ctrl-C, or the first where nothing of what was begun is kept.
//!
//! An error is one message on standard error that names the place and what to do. There is never a backtrace: who can
//! use one can set a debugger to the panic hook.

use std::io::{ErrorKind, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use nemo_kernels::DeviceError;
use nemo_model::{EngineError, ModelError};
use nemo_rl::error::TrainError;
use nemo_rl::policy::api::PolicyError;
use nemo_rl::rollout::RolloutError;

/// Exit code of an error in this program.
const INTERNAL: u8 = 1;
/// Exit code of an error in what the program was given.
const BAD_INPUT: u8 = 2;
/// Exit code of what Ctrl-C ended, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Reports an error, if any, and gives the exit code.
pub fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Whoever read our output has seen enough (`nemo-burn … | head`).
    if error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe))
    {
        return ExitCode::SUCCESS;
    }
    // If standard error is closed there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "error: {}", message(&error));
    if matches!(error.downcast_ref(), Some(ModelError::Stopped { .. })) {
        return ExitCode::from(INTERRUPTED);
    }
    ExitCode::from(if is_internal(&error) { INTERNAL } else { BAD_INPUT })
}

/// The message of an error and its causes. Many errors quote their cause; it is not repeated then.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether the program broke a promise of its own, so that nobody's input is to blame.
fn is_internal(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let policy = cause.downcast_ref::<PolicyError>().is_some_and(is_internal_policy_error);
        let rollout = match cause.downcast_ref::<RolloutError>() {
            Some(RolloutError::Engine { .. }) => true,
            Some(RolloutError::Policy(source)) => is_internal_policy_error(source),
            _ => false,
        };
        let train = match cause.downcast_ref::<TrainError>() {
            Some(TrainError::Policy { source, .. }) => is_internal_policy_error(source),
            Some(TrainError::Rollout { source: RolloutError::Engine { .. }, .. }) => true,
            _ => false,
        };
        let engine = matches!(cause.downcast_ref(), Some(EngineError::Device(DeviceError::Failed(_))));
        policy || rollout || train || engine
    })
}

fn is_internal_policy_error(error: &PolicyError) -> bool {
    matches!(
        error,
        PolicyError::UnknownSequence(_)
            | PolicyError::TurnOpen(_)
            | PolicyError::Script(_)
            | PolicyError::Device(DeviceError::Failed(_))
    )
}

/// Replaces Rust's panic message by one line; the process ends with exit code 1 whichever thread panicked, or with that of bad
/// input where a device's memory was too small for what it was given.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let (text, code) = match device_error(info) {
            Some(error @ DeviceError::OutOfMemory(_)) => (error.to_string(), BAD_INPUT),
            Some(error) => (format!("internal error: {error}"), INTERNAL),
            None => (format!("internal error: {}", panic_message(info)), INTERNAL),
        };
        let _ = writeln!(std::io::stderr(), "error: {text}");
        std::process::exit(i32::from(code));
    }));
}

/// What a device failed at, when that is what a panic is about: Burn panics when results are read that were lost.
fn device_error(info: &PanicHookInfo<'_>) -> Option<DeviceError> {
    let what = payload(info);
    what.contains("Error while reading data").then(|| DeviceError::from_message(what))
}

/// From here on a panic is reported and ends its thread only: a server goes on answering others.
pub fn only_report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(std::io::stderr(), "error: internal error: {}", panic_message(info));
    }));
}

fn payload<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn panic_message(info: &PanicHookInfo<'_>) -> String {
    // Where a device kernel does not compile, all of its source follows the compiler's words.
    let what = payload(info).split("[Source]").next().unwrap_or_default().trim_end().replace('\n', " ");
    match info.location() {
        Some(place) => {
            format!("{what} ({}:{}); please report it with the command that led here", place.file(), place.line())
        }
        None => format!("{what}; please report it with the command that led here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer says: {source}")]
    struct Quoting {
        source: std::io::Error,
    }

    #[test]
    fn a_quoted_cause_is_said_once() {
        let error = anyhow::Error::new(Quoting { source: std::io::Error::other("disk on fire") }).context("saving");
        assert_eq!(message(&error), "saving: outer says: disk on fire");
    }

    #[test]
    fn only_broken_promises_are_internal() {
        let engine = RolloutError::Engine { task: 1, what: "lost a token".to_owned() };
        assert!(is_internal(&TrainError::Rollout { step: 1, source: engine }.into()));
        let too_long = PolicyError::PromptTooLong { length: 9, limit: 4 };
        assert!(!is_internal(&TrainError::Policy { step: 1, source: too_long }.into()));
        assert!(!is_internal(&anyhow::anyhow!("no such file")));
    }
}
