//! The Hugging Face hub as this process is set up to use it, and what is seen of a download.

use std::sync::{Arc, Mutex};
use std::thread::sleep;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nemo_hub::{Backoff, Hub, HubSettings, Listener, Retry};

use crate::output;

/// The hub that the `HF_…` variables name.
pub fn hub() -> anyhow::Result<Hub> {
    let settings = HubSettings::from_variables(|name| std::env::var(name).ok())?;
    Ok(Hub { settings, backoff: Backoff::default(), listener: Arc::new(Display::default()) })
}

/// Waits, and says why and how long.
pub fn pause(retry: &Retry) {
    output::note(&notice(retry));
    sleep(retry.wait);
}

fn notice(retry: &Retry) -> String {
    let asked = match retry.asked {
        Some(asked) if asked > retry.wait => format!(" (the server asks for {} s)", asked.as_secs()),
        _ => String::new(),
    };
    let Retry { wait, reason, attempts, max_attempts, .. } = retry;
    format!("{reason}; attempt {} of {max_attempts} follows in {} s{asked}", attempts + 1, wait.as_secs())
}

/// A bar for a person, one line per file for a log.
#[derive(Default)]
struct Display {
    /// The file on its way, and its bar if somebody is watching.
    current: Mutex<Option<(String, Option<ProgressBar>)>>,
}

impl Display {
    /// Takes the bar away.
    fn clear(&self) {
        if let Ok(mut current) = self.current.lock()
            && let Some((_, Some(bar))) = current.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Listener for Display {
    fn pause(&self, retry: &Retry) {
        self.clear();
        pause(retry);
    }

    fn progress(&self, file: &str, done: u64, total: u64) {
        let Ok(mut current) = self.current.lock() else { return };
        if current.as_ref().is_none_or(|(name, _)| name != file) {
            let bar = output::is_watched().then(|| {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                // The template is a constant; if it were wrong the default style would do.
                if let Ok(style) =
                    ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}")
                {
                    bar.set_style(style);
                }
                bar.set_message(file.to_owned());
                bar
            });
            if bar.is_none() {
                let from = if done > 0 { format!(", {} are there already", HumanBytes(done)) } else { String::new() };
                output::note(&format!("downloading {file} ({}{from})", HumanBytes(total)));
            }
            *current = Some((file.to_owned(), bar));
        }
        if let Some((_, Some(bar))) = &*current {
            bar.set_position(done);
        }
        if done >= total {
            drop(current);
            self.clear();
        }
    }

    fn note(&self, text: &str) {
        self.clear();
        output::note(text);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pause_says_why_and_how_long() {
        let mut retry = Retry {
            wait: Duration::from_secs(4),
            asked: None,
            reason: "http://x/a.csv: no route".to_owned(),
            attempts: 3,
            max_attempts: 7,
        };
        assert_eq!(notice(&retry), "http://x/a.csv: no route; attempt 4 of 7 follows in 4 s");
        retry.asked = Some(Duration::from_secs(90));
        assert!(notice(&retry).ends_with("follows in 4 s (the server asks for 90 s)"));
    }
}
