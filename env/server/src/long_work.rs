//! When there was long work last. The threads that took part in it have freed memory that they keep for themselves.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// The time in which an answer is usually taken and its memory freed.
const SETTLING: Duration = Duration::from_secs(3);

/// Wakes of the threads in that time.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct LongWork {
    last: Mutex<Option<Instant>>,
}

impl LongWork {
    /// Notes that there is some, and that each thread is to wake now and then until it has settled.
    pub(crate) fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            tokio::spawn(async {
                for _ in 0..SETTLING.as_millis() / PAUSE.as_millis() {
                    sleep(PAUSE).await;
                }
            });
        }
    }

    /// Whether there was some a moment ago.
    pub(crate) fn is_recent(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < 2 * SETTLING)
    }
}
