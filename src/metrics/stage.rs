//! The stages of a request on its way through the cores, and the histograms of their times while they are switched on.

use std::time::Instant;

use hdrhistogram::Histogram;
use runtime::meter::nanos;

use super::snapshot::StageSummary;

/// Longest time that a histogram tells apart, nanoseconds. Longer ones count as this.
const LONGEST_NS: u64 = 60_000_000_000;
/// Decimal digits to which a time is kept.
const DIGITS: u8 = 2;

/// Where the time of a request goes. [`Stage::Decode`] is a part of [`Stage::Queue`]; the others follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Its header was read, it was checked, its record encoded. Measured only while stages are on.
    Decode,
    /// From the read of its last bytes until its batch left the serve core.
    Queue,
    /// Until the log core had the batch.
    Hop,
    /// Until its records had their places.
    Place,
    /// Until they were on the disk as the flush mode asks.
    Flush,
    /// Until the serve core had the result.
    AckHop,
    /// Until it was dispatched to its ConsumeQueue and its answer was made.
    Reply,
    /// Until a pull had its messages from the disk.
    Disk,
}

impl Stage {
    pub const ALL: [Self; 8] = [
        Self::Decode,
        Self::Queue,
        Self::Hop,
        Self::Place,
        Self::Flush,
        Self::AckHop,
        Self::Reply,
        Self::Disk,
    ];

    /// The name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Queue => "queue",
            Self::Hop => "hop",
            Self::Place => "place",
            Self::Flush => "flush",
            Self::AckHop => "ack_hop",
            Self::Reply => "reply",
            Self::Disk => "disk",
        }
    }
}

/// Nanoseconds by stage; 0 for a stage that a request does not have.
pub type StageTimes = [u64; Stage::ALL.len()];

/// The moments of an append, each not before the one above it.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// Its last bytes were read from the connection.
    pub arrived: Instant,
    /// Its batch left the serve core.
    pub taken: Instant,
    /// The log core had the batch.
    pub at_log: Instant,
    pub placed: Instant,
    pub flushed: Instant,
    /// The serve core had the commit.
    pub committed: Instant,
    /// Its answer is made.
    pub answered: Instant,
}

impl Timeline {
    /// All of it, nanoseconds.
    pub fn total_ns(&self) -> u64 {
        nanos(self.answered.saturating_duration_since(self.arrived))
    }

    /// The time of each stage.
    pub fn stages(&self) -> StageTimes {
        let between = |from: Instant, to: Instant| nanos(to.saturating_duration_since(from));
        let mut times = StageTimes::default();
        times[Stage::Queue as usize] = between(self.arrived, self.taken);
        times[Stage::Hop as usize] = between(self.taken, self.at_log);
        times[Stage::Place as usize] = between(self.at_log, self.placed);
        times[Stage::Flush as usize] = between(self.placed, self.flushed);
        times[Stage::AckHop as usize] = between(self.flushed, self.committed);
        times[Stage::Reply as usize] = between(self.committed, self.answered);
        times
    }
}

/// One histogram per stage, about 50 KiB each.
#[derive(Debug)]
pub(super) struct StageHistograms([Histogram<u64>; Stage::ALL.len()]);

impl StageHistograms {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds and digits are in range");
        Self(std::array::from_fn(|_| histogram()))
    }

    pub(super) fn record(&mut self, stage: Stage, time_ns: u64) {
        self.0[stage as usize].saturating_record(time_ns);
    }

    /// Records the same times for several `requests`.
    pub(super) fn record_all(&mut self, times: &StageTimes, requests: u64) {
        for (histogram, &time_ns) in self.0.iter_mut().zip(times) {
            if time_ns > 0 {
                histogram.saturating_record_n(time_ns, requests);
            }
        }
    }

    /// What was recorded, by stage; stages without a record are left out.
    pub(super) fn summaries(&self) -> Vec<StageSummary> {
        let recorded = Stage::ALL.iter().zip(&self.0).filter(|(_, histogram)| !histogram.is_empty());
        recorded
            .map(|(stage, histogram)| {
                let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
                StageSummary {
                    stage: stage.name().to_owned(),
                    requests: histogram.len(),
                    mean_us: histogram.mean() / 1000.0,
                    p50_us: micros(0.5),
                    p90_us: micros(0.9),
                    p99_us: micros(0.99),
                    p999_us: micros(0.999),
                    max_us: histogram.max() as f64 / 1000.0,
                    buckets: buckets(histogram),
                }
            })
            .collect()
    }
}

/// Counts by powers of two.
fn buckets(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let steps = histogram
        .iter_log(1, 2.0)
        .map(|step| ((step.value_iterated_to() + 1) as f64 / 1000.0, step.count_since_last_iteration()));
    steps.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_stages_of_an_append_add_up_to_its_time() {
        let start = Instant::now();
        let after = |us| start + Duration::from_micros(us);
        let timeline = Timeline {
            arrived: start,
            taken: after(10),
            at_log: after(30),
            placed: after(31),
            flushed: after(131),
            committed: after(135),
            answered: after(140),
        };
        let times = timeline.stages();
        assert_eq!(times, [0, 10_000, 20_000, 1_000, 100_000, 4_000, 5_000, 0]);
        assert_eq!(times.iter().sum::<u64>(), timeline.total_ns());
    }

    #[test]
    fn a_summary_has_the_stages_that_were_recorded() {
        let mut histograms = StageHistograms::new();
        assert_eq!(histograms.summaries(), []);
        (1..=100).for_each(|us| histograms.record(Stage::Flush, us * 1000));
        histograms.record(Stage::Disk, u64::MAX);
        let [flush, disk] = &histograms.summaries()[..] else { panic!("two stages") };
        assert_eq!((flush.stage.as_str(), flush.requests), ("flush", 100));
        assert!((50.0..51.0).contains(&flush.p50_us) && (100.0..102.0).contains(&flush.max_us), "{flush:?}");
        let upto =
            |us: f64| flush.buckets.iter().filter(|(end, _)| *end <= us).map(|(_, count)| count).sum::<u64>();
        assert_eq!((upto(16.384), upto(65.536), upto(131.072)), (16, 65, 100), "{flush:?}");
        assert!(disk.max_us >= 59_000_000.0, "{disk:?}");
    }
}
