//! Where the time of a training step goes.

use std::time::Instant;

use crate::metrics::Metrics;

/// Times the parts of a step.
pub struct StepClock {
    began: Instant,
    lap: Instant,
    parts: Vec<(&'static str, f64)>,
}

impl StepClock {
    /// Starts the first part.
    pub fn start() -> Self {
        let now = Instant::now();
        Self { began: now, lap: now, parts: Vec::new() }
    }

    /// The part that just ended.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.parts.push((name, (now - self.lap).as_secs_f64()));
        self.lap = now;
    }

    /// `timing/train/…` in seconds and `performance/…` in units per second, of a step with this many
    /// samples, tokens (prompts, answers and tool results) and trained tokens. One device, so the figures
    /// per device are those of the run.
    pub fn metrics(&self, samples: usize, tokens: usize, valid_tokens: usize) -> Metrics {
        let total = self.began.elapsed().as_secs_f64();
        let mut metrics = Metrics::new();
        let mut rate = |name: &str, count: usize, seconds: f64| {
            if seconds > 0.0 {
                metrics.insert(format!("performance/{name}"), count as f64 / seconds);
                metrics.insert(format!("performance/{name}_per_gpu"), count as f64 / seconds);
            }
        };
        let part = |name: &str| self.parts.iter().filter(|(n, _)| *n == name).map(|(_, s)| s).sum::<f64>();
        rate("samples_per_sec", samples, total);
        rate("tokens_per_sec", tokens, total);
        rate("generation_tokens_per_sec", tokens, part("generation"));
        rate("policy_training_tokens_per_sec", tokens, part("policy_training"));
        for (name, seconds) in &self.parts {
            metrics.insert(format!("timing/train/{name}"), *seconds);
        }
        metrics.insert("timing/train/total_step_time".to_owned(), total);
        if total > 0.0 {
            metrics.insert("timing/train/valid_tokens_per_sec_per_gpu".to_owned(), valid_tokens as f64 / total);
        }
        metrics
    }
}
