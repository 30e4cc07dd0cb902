//! What the server has done so far, in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::session_store::StoreCounts;

/// What a request is for. Tool names are not told apart: they come from outside and are not bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    SeedSession,
    Tool,
    Verify,
    CloseSession,
    AggregateMetrics,
    Other,
}

const ENDPOINTS: [(Endpoint, &str); 6] = [
    (Endpoint::SeedSession, "seed_session"),
    (Endpoint::Tool, "tool"),
    (Endpoint::Verify, "verify"),
    (Endpoint::CloseSession, "close_session"),
    (Endpoint::AggregateMetrics, "aggregate_metrics"),
    (Endpoint::Other, "other"),
];

impl Endpoint {
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        match path {
            _ if method != Method::POST => Self::Other,
            "/" => Self::Other,
            "/seed_session" => Self::SeedSession,
            "/verify" => Self::Verify,
            "/close_session" => Self::CloseSession,
            "/aggregate_metrics" => Self::AggregateMetrics,
            _ => Self::Tool,
        }
    }
}

/// Statuses that are counted by themselves.
const STATUSES: [u16; 9] = [200, 400, 404, 405, 408, 413, 422, 500, 507];

/// Upper bounds of the time classes, in microseconds.
const TIME_BOUNDS: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000, 10_000_000];

#[derive(Default)]
struct EndpointCounts {
    /// By status; the last is for all others.
    answers: [AtomicU64; STATUSES.len() + 1],
    /// Answers within each bound but not within the one before.
    times: [AtomicU64; TIME_BOUNDS.len()],
    total_microseconds: AtomicU64,
}

/// Counters; reading them while requests are answered gives a value of about now.
#[derive(Default)]
pub(crate) struct Metrics {
    endpoints: [EndpointCounts; ENDPOINTS.len()],
    /// Verified conversations without and with the reward.
    rewards: [AtomicU64; 2],
    num_faults: AtomicU64,
    pub(crate) num_connections: AtomicUsize,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, endpoint: Endpoint, status: StatusCode, time: Duration) {
        let counts = &self.endpoints[endpoint as usize];
        let place = STATUSES.iter().position(|&known| known == status.as_u16()).unwrap_or(STATUSES.len());
        counts.answers[place].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        counts.total_microseconds.fetch_add(microseconds, Ordering::Relaxed);
        if let Some(class) = TIME_BOUNDS.iter().position(|&bound| microseconds <= bound) {
            counts.times[class].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a verified conversation.
    pub(crate) fn verified(&self, earned: bool) {
        self.rewards[usize::from(earned)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ended in a fault of this program.
    pub(crate) fn fault(&self) {
        self.num_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it as text.
    pub(crate) fn render(&self, store: &StoreCounts) -> String {
        let mut text = String::new();
        self.render_requests(&mut text);
        family(&mut text, "verified_total", "counter", "Conversations scored, by reward.");
        for (reward, count) in self.rewards.iter().enumerate() {
            sample(&mut text, "verified_total", &format!("{{reward=\"{reward}\"}}"), count.load(Ordering::Relaxed));
        }
        let simple =
            [("faults_total", "counter", "Requests given up because of a fault of the program.", &self.num_faults)];
        for (name, kind, help, count) in simple {
            family(&mut text, name, kind, help);
            sample(&mut text, name, "", count.load(Ordering::Relaxed));
        }
        let connections = self.num_connections.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("connections", "gauge", "Open connections.", connections as u64),
            ("sessions", "gauge", "Sessions held.", store.num_sessions as u64),
            ("session_bytes", "gauge", "What calls may have added to the tables of sessions.", store.held_bytes as u64),
            ("sessions_seeded_total", "counter", "Sessions started.", store.num_seeded),
        ] {
            family(&mut text, name, kind, help);
            sample(&mut text, name, "", value);
        }
        family(&mut text, "sessions_evicted_total", "counter", "Sessions dropped, by reason.");
        sample(&mut text, "sessions_evicted_total", "{reason=\"displaced\"}", store.num_displaced);
        sample(&mut text, "sessions_evicted_total", "{reason=\"idle\"}", store.num_idle);
        text
    }

    fn render_requests(&self, text: &mut String) {
        family(text, "requests_total", "counter", "Answers, by endpoint and status.");
        for ((_, endpoint), counts) in ENDPOINTS.iter().zip(&self.endpoints) {
            let names = STATUSES.iter().map(u16::to_string).chain(["other".to_owned()]);
            for (status, count) in names.zip(&counts.answers) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("{{endpoint=\"{endpoint}\",status=\"{status}\"}}");
                    sample(text, "requests_total", &labels, count);
                }
            }
        }
        family(text, "request_seconds", "histogram", "Time from the headers of a request to its answer.");
        for ((_, endpoint), counts) in ENDPOINTS.iter().zip(&self.endpoints) {
            let num_answers: u64 = counts.answers.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            let mut num_within = 0;
            for (bound, count) in TIME_BOUNDS.iter().zip(&counts.times) {
                num_within += count.load(Ordering::Relaxed);
                let labels = format!("{{endpoint=\"{endpoint}\",le=\"{}\"}}", *bound as f64 / 1e6);
                sample(text, "request_seconds_bucket", &labels, num_within);
            }
            // Counters are read one after the other; the classes must not seem to shrink.
            let num_answers = num_answers.max(num_within);
            let labels = format!("{{endpoint=\"{endpoint}\",le=\"+Inf\"}}");
            sample(text, "request_seconds_bucket", &labels, num_answers);
            let seconds = counts.total_microseconds.load(Ordering::Relaxed) as f64 / 1e6;
            sample(text, "request_seconds_sum", &format!("{{endpoint=\"{endpoint}\"}}"), seconds);
            sample(text, "request_seconds_count", &format!("{{endpoint=\"{endpoint}\"}}"), num_answers);
        }
    }
}

/// Prefix of every name.
const PREFIX: &str = "nemo_env_";

// Writing into a string cannot fail.
fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{PREFIX}{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_by_endpoint_and_class() {
        let metrics = Metrics::default();
        for (milliseconds, status) in [(1, StatusCode::OK), (30, StatusCode::OK), (20_000, StatusCode::IM_A_TEAPOT)] {
            metrics.answered(Endpoint::Tool, status, Duration::from_millis(milliseconds));
        }
        metrics.verified(true);
        let text = metrics.render(&StoreCounts { num_sessions: 3, num_idle: 2, ..StoreCounts::default() });
        for line in [
            "# TYPE nemo_env_requests_total counter",
            "nemo_env_requests_total{endpoint=\"tool\",status=\"200\"} 2",
            "nemo_env_requests_total{endpoint=\"tool\",status=\"other\"} 1",
            "nemo_env_request_seconds_bucket{endpoint=\"tool\",le=\"0.0005\"} 0",
            "nemo_env_request_seconds_bucket{endpoint=\"tool\",le=\"0.001\"} 1",
            "nemo_env_request_seconds_bucket{endpoint=\"tool\",le=\"10\"} 2",
            "nemo_env_request_seconds_bucket{endpoint=\"tool\",le=\"+Inf\"} 3",
            "nemo_env_request_seconds_sum{endpoint=\"tool\"} 20.031",
            "nemo_env_verified_total{reward=\"1\"} 1",
            "nemo_env_sessions 3",
            "nemo_env_sessions_evicted_total{reason=\"idle\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn endpoints_are_told_by_method_and_path() {
        for (method, path, expected) in [
            (Method::POST, "/verify", Endpoint::Verify),
            (Method::GET, "/verify", Endpoint::Other),
            (Method::POST, "/email_search_emails", Endpoint::Tool),
            (Method::POST, "/", Endpoint::Other),
        ] {
            assert_eq!(Endpoint::of(&method, path), expected);
        }
    }
}
