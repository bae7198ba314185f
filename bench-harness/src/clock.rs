//! The clock of one run: nanoseconds since the run's start, the same on every thread of the process.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Counts from the moment at which the first message is due.
#[derive(Clone, Copy, Debug)]
pub struct RunClock {
    start: Instant,
}

impl RunClock {
    /// A clock that reads 0 at `start`.
    pub fn starting_at(start: Instant) -> Self {
        Self { start }
    }

    /// Nanoseconds since the start; 0 before it.
    pub fn now_ns(&self) -> u64 {
        duration_ns(Instant::now().saturating_duration_since(self.start))
    }

    /// The moment at which the clock reads `ns`.
    pub fn instant_at(&self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }
}

/// A duration in nanoseconds; the largest number when it does not fit (after 584 years).
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since the epoch, as messages carry them.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
