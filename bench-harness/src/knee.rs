//! Where a rate ladder ends: the highest rate that a broker held.

use std::fmt;
use std::time::Duration;

use crate::report::{Outcome, grouped_rate, time};
use crate::workload::Ladder;

/// Rates that are not held one after the other until the rest of the ladder is left out. One may be a stall of the disk.
const FAILED_MAX: u32 = 2;

/// The steps of a ladder so far.
#[derive(Clone, Debug)]
pub struct Knee {
    p99_max: Duration,
    /// The highest rate held, with its p99 in microseconds.
    held: Option<(f64, f64)>,
    failed: u32,
}

impl Knee {
    pub fn new(ladder: Ladder) -> Self {
        Self { p99_max: ladder.p99_max, held: None, failed: 0 }
    }

    /// Judges the step of `rate` messages per second. A broker holds a rate when every send left, none failed, and p99 stayed below
    /// the ladder's limit. A rate that was not held while the disk stalled says nothing.
    pub fn add(&mut self, rate: Option<f64>, result: &Outcome, disk_stalled: bool) {
        let (Some(rate), Some(latency)) = (rate, &result.send_latency_us) else { return };
        let in_time = latency.p99 <= self.p99_max.as_secs_f64() * 1e6;
        if in_time && result.missed == Some(0) && result.errors.total() == 0 {
            self.failed = 0;
            if self.held.is_none_or(|(held, _)| held < rate) {
                self.held = Some((rate, latency.p99));
            }
        } else if !disk_stalled {
            self.failed += 1;
        }
    }

    /// Whether higher rates need not be tried.
    pub fn is_past(&self) -> bool {
        self.failed >= FAILED_MAX
    }

    /// The highest rate held, messages per second.
    pub fn rate(&self) -> Option<f64> {
        self.held.map(|(rate, _)| rate)
    }
}

impl fmt::Display for Knee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = time(self.p99_max.as_secs_f64() * 1e6);
        match self.held {
            Some((rate, p99)) => write!(
                f,
                "the highest rate held with p99 below {limit} is {} msg/s (p99 {})",
                grouped_rate(rate),
                time(p99)
            ),
            None => write!(f, "no rate was held with p99 below {limit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Percentiles;

    fn outcome(p99_ms: f64, missed: u64) -> Outcome {
        let latency = Percentiles { p99: p99_ms * 1000.0, ..Percentiles::default() };
        Outcome { send_latency_us: Some(latency), missed: Some(missed), ..Outcome::default() }
    }

    #[test]
    fn the_knee_is_the_last_rate_held_and_one_stall_does_not_end_the_ladder() {
        let mut knee = Knee::new(Ladder { p99_max: Duration::from_millis(20) });
        for (rate, p99_ms, missed, disk_stalled) in [
            (1e3, 1.0, 0, false),
            (2e3, 90.0, 0, false),
            (4e3, 2.0, 0, true),
            (8e3, 3.0, 10, false),
            (12e3, 90.0, 0, true),
            (16e3, 300.0, 0, false),
        ] {
            assert!(!knee.is_past(), "{rate}");
            knee.add(Some(rate), &outcome(p99_ms, missed), disk_stalled);
        }
        assert!(knee.is_past());
        assert_eq!(knee.rate(), Some(4e3));
        assert_eq!(
            knee.to_string(),
            "the highest rate held with p99 below 20.00 ms is 4,000 msg/s (p99 2.00 ms)"
        );
    }

    #[test]
    fn a_broker_that_holds_nothing_is_said_so() {
        let mut knee = Knee::new(Ladder { p99_max: Duration::from_millis(20) });
        knee.add(Some(1e3), &outcome(50.0, 0), false);
        assert_eq!(knee.to_string(), "no rate was held with p99 below 20.00 ms");
    }
}
