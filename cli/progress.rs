//! What is seen of a run while it happens: a bar for a person, one line per step for a log file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nemo_rl::evaluate::{Decoding, EvaluationReport};
use nemo_rl::progress::{Observer, StepProgress};
use serde_json::Value;

use crate::output;

/// The display of one run.
pub struct Progress {
    /// Only when somebody is watching.
    bar: Option<ProgressBar>,
    /// What the step's main number is called.
    number: &'static str,
    num_samples_to_print: usize,
    folder: PathBuf,
    /// The latest step's line, kept while rollouts are counted.
    last_step: String,
}

impl Progress {
    /// `number` names the main number of a step; of each validation `num_samples_to_print` conversations are shown.
    pub fn new(number: &'static str, num_samples_to_print: usize) -> Self {
        Self { bar: None, number, num_samples_to_print, folder: PathBuf::new(), last_step: String::new() }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    fn step_line(&self, progress: &StepProgress<'_>) -> String {
        let mut parts = Vec::new();
        parts.extend(progress.reward.map(|value| format!("reward {value:.3}")));
        if progress.reward.is_none() {
            let value = progress.metrics.get(&format!("train/{}", self.number));
            parts.extend(value.map(|value| format!("{} {value:.4}", self.number)));
        }
        parts.extend(progress.accuracy.map(|value| format!("accuracy {value:.3}")));
        parts.push(format!("{:.0} tokens/s", progress.tokens_per_second));
        parts.push(format!("{} left", clock(progress.remaining)));
        parts.join("  ")
    }

    fn show_samples(&self, step: u64) {
        let Ok(text) = fs::read_to_string(self.folder.join(format!("val_data_step{step}.jsonl"))) else { return };
        for line in text.lines().take(self.num_samples_to_print) {
            let Ok(episode) = serde_json::from_str::<Value>(line) else { continue };
            self.say(&format!("  task {} ({}), reward {}:", episode["id"], episode["template"], episode["reward"]));
            for line in episode["text"].as_str().unwrap_or_default().lines() {
                self.say(&format!("    {line}"));
            }
        }
    }
}

impl Observer for Progress {
    fn on_start(&mut self, folder: &Path, step: u64, max_steps: u64) {
        self.folder = folder.to_owned();
        let from = if step > 0 { format!(", continuing after step {step} of {max_steps}") } else { String::new() };
        output::note(&format!("results: {}{from}", folder.display()));
        if output::is_watched() {
            let bar = ProgressBar::with_draw_target(Some(max_steps), ProgressDrawTarget::stderr());
            // The template is a constant; if it were wrong the default style would do.
            if let Ok(style) = ProgressStyle::with_template("{bar:24} step {pos}/{len}  {msg}") {
                bar.set_style(style);
            }
            bar.set_position(step);
            bar.tick();
            self.bar = Some(bar);
        }
    }

    fn on_notice(&mut self, text: &str) {
        self.say(text);
    }

    fn on_rollouts(&mut self, finished: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}  rollouts {finished}/{total}", self.last_step));
        }
    }

    fn on_step(&mut self, progress: &StepProgress<'_>) {
        self.last_step = self.step_line(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_position(progress.step);
                bar.set_message(self.last_step.clone());
            }
            None => output::note(&format!("step {}/{}  {}", progress.step, progress.max_steps, self.last_step)),
        }
    }

    fn on_validation(&mut self, step: u64, reports: &[EvaluationReport]) {
        let parts: Vec<String> = reports.iter().map(describe).collect();
        self.say(&format!("validation after step {step}: {}", parts.join("; ")));
        if self.num_samples_to_print > 0 {
            self.show_samples(step);
        }
    }

    fn on_checkpoint(&mut self, _step: u64, path: &Path) {
        tracing::info!("checkpoint written to {}", path.display());
    }
}

fn describe(report: &EvaluationReport) -> String {
    let name = match report.decoding {
        Decoding::Sampled => "sampled",
        Decoding::Greedy => "greedy",
    };
    let parts: Vec<String> =
        report.by_holdout.iter().map(|(name, score)| format!("{name} {:.3}", score.accuracy)).collect();
    format!("{name} {:.3} ({})", report.overall.accuracy, parts.join(", "))
}

/// Hours, minutes and seconds.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_like_a_clock() {
        assert_eq!(clock(Duration::from_secs(59)), "0:59");
        assert_eq!(clock(Duration::from_secs(754)), "12:34");
        assert_eq!(clock(Duration::from_secs(3600 * 25 + 61)), "25:01:01");
    }
}
