//! Repeating a request that failed for now: more patiently each time, or as long as the server asks.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// How to wait before a request is repeated: `std::thread::sleep` in earnest.
pub type Pause<'a> = &'a dyn Fn(&Retry);

/// A request that is going to be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// To be waited before.
    pub wait: Duration,
    /// How long the server asked to wait, which may be longer.
    pub asked: Option<Duration>,
    /// Why the last attempt failed.
    pub reason: String,
    /// The attempts made.
    pub attempts: u32,
    /// The attempts that are made at most.
    pub max_attempts: u32,
}

/// An error that may pass.
pub trait Reason {
    /// What went wrong, without the advice for when it does not pass.
    fn reason(&self) -> String;
}

/// How often and how patiently a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub max_attempts: u32,
    /// Pause after the first attempt; doubled after each further one.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { max_attempts: 7, first_pause: Duration::from_secs(1), longest_pause: Duration::from_mins(1) }
    }
}

/// A failed attempt.
#[derive(Debug)]
pub enum Failure<E> {
    /// May succeed later; after so long, if the server said.
    ForNow(E, Option<Duration>),
    ForGood(E),
}

impl Backoff {
    /// Tries until it succeeds, fails for good, or has been tried often enough. `attempt` is told the number of the
    /// attempt, from 1.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn run<T, E: Reason>(
        &self,
        pause: Pause<'_>,
        mut attempt: impl FnMut(u32) -> Result<T, Failure<E>>,
    ) -> Result<T, E> {
        let mut wait = self.first_pause;
        let mut number = 1;
        loop {
            match attempt(number) {
                Ok(value) => return Ok(value),
                Err(Failure::ForGood(error)) => return Err(error),
                Err(Failure::ForNow(error, _)) if number >= self.max_attempts => return Err(error),
                Err(Failure::ForNow(error, asked)) => pause(&Retry {
                    wait: asked.unwrap_or(wait).min(self.longest_pause),
                    asked,
                    reason: error.reason(),
                    attempts: number,
                    max_attempts: self.max_attempts,
                }),
            }
            wait = wait.saturating_mul(2);
            number += 1;
        }
    }
}

/// Whether a request answered with this status may succeed later.
pub fn is_for_now(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long an answer asks to wait: `Retry-After` in seconds, or as a date, which is read by the server's own clock.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text("retry-after")?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = text("date").and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    impl Reason for u32 {
        fn reason(&self) -> String {
            format!("failure {self}")
        }
    }

    fn pauses(failures: &[Option<u64>], max_attempts: u32) -> (Result<u32, u32>, Vec<u64>) {
        let backoff = Backoff { max_attempts, ..Backoff::default() };
        let waited = RefCell::new(Vec::new());
        let pause = |retry: &Retry| {
            assert_eq!((&*retry.reason, retry.max_attempts), (&*retry.attempts.reason(), max_attempts));
            waited.borrow_mut().push(retry.wait.as_secs());
        };
        let result = backoff.run(&pause, |number| match failures.get(number as usize - 1) {
            Some(asked) => Err(Failure::ForNow(number, asked.map(Duration::from_secs))),
            None => Ok(number),
        });
        (result, waited.into_inner())
    }

    #[test]
    fn waits_longer_each_time_or_as_long_as_asked() {
        assert_eq!(pauses(&[], 5), (Ok(1), vec![]));
        assert_eq!(pauses(&[None, None, None], 5), (Ok(4), vec![1, 2, 4]));
        assert_eq!(pauses(&[None, Some(30), Some(3600)], 5), (Ok(4), vec![1, 30, 60]));
        assert_eq!(pauses(&[None; 9], 3), (Err(3), vec![1, 2]));
        assert_eq!(pauses(&[None; 8], 9), (Ok(9), vec![1, 2, 4, 8, 16, 32, 60, 60]));
    }

    #[test]
    fn gives_up_at_once_when_it_is_hopeless() {
        fn no_pause(_: &Retry) {
            panic!("waited for something hopeless");
        }
        let result: Result<(), u32> = Backoff::default().run(&no_pause, |_| Err(Failure::ForGood(404)));
        assert_eq!(result, Err(404));
        assert!(is_for_now(429) && is_for_now(503) && !is_for_now(404) && !is_for_now(401));
    }

    #[test]
    fn patience_is_asked_for_in_seconds_or_by_date() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            retry_after(&pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect())
        };
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&[("retry-after", " 17 ")]), Some(Duration::from_secs(17)));
        let (date, later) = ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:29:30 GMT");
        assert_eq!(asked(&[("date", date), ("retry-after", later)]), Some(Duration::from_secs(90)));
        assert_eq!(asked(&[("date", later), ("retry-after", date)]), Some(Duration::ZERO));
        assert_eq!(asked(&[("retry-after", "soon")]), None);
    }
}
