//! What a log core counts of one shard's log: how large group commits are, how long records wait for a flush to begin, how long
//! flushes take, and when each batch was where, for whoever asks for the time of every stage.
//!
//! Costs two looks at the clock per batch and none per record.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use runtime::meter::{Distribution, Meter};
use serde::{Deserialize, Serialize};

use crate::append::AppendTimes;

/// What was counted of one log since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLoad {
    /// Records that one flush acknowledged.
    pub group_commit_records: Distribution,
    /// How long the first record of a flush had waited when its write began, nanoseconds.
    pub group_commit_wait: Distribution,
    /// Bytes of one write, padding included.
    pub flush_bytes: Distribution,
    /// How long one write took until it was durable as the flush mode asks, nanoseconds.
    pub flush_time: Distribution,
    /// Records whose places are fixed and that are not durable, bytes.
    pub flush_behind_bytes: u64,
}

/// The counters of one log. Lives on its log core.
#[derive(Debug)]
pub(crate) struct LogMeter {
    group_commit_records: Meter,
    group_commit_wait: Meter,
    flush_bytes: Meter,
    flush_time: Meter,
    /// Batches of which a record has no result yet, in order.
    batches: RefCell<VecDeque<Batch>>,
    last_flushed: Cell<Instant>,
}

#[derive(Debug)]
struct Batch {
    records: u32,
    arrived: Instant,
    placed: Instant,
}

impl LogMeter {
    pub(crate) fn new() -> Self {
        Self {
            group_commit_records: Meter::default(),
            group_commit_wait: Meter::default(),
            flush_bytes: Meter::default(),
            flush_time: Meter::default(),
            batches: RefCell::default(),
            last_flushed: Cell::new(Instant::now()),
        }
    }

    /// A batch has come and was placed.
    pub(crate) fn appended(&self, records: u32, arrived: Instant) {
        if records > 0 {
            self.batches.borrow_mut().push_back(Batch { records, arrived, placed: Instant::now() });
        }
    }

    /// A write began at `started`, took `took`, and wrote `bytes`.
    pub(crate) fn flushed(&self, started: Instant, took: Duration, bytes: usize) {
        if let Some(first) = self.batches.borrow().front() {
            self.group_commit_wait.record_time(started.saturating_duration_since(first.arrived));
        }
        self.flush_bytes.record(bytes as u64);
        self.flush_time.record_time(took);
        self.last_flushed.set(started + took);
    }

    /// The next `records` have their results.
    pub(crate) fn committed(&self, records: usize) -> Box<[AppendTimes]> {
        self.group_commit_records.record(records as u64);
        let flushed = self.last_flushed.get();
        let mut batches = self.batches.borrow_mut();
        let mut left = u32::try_from(records).expect("a commit is bounded");
        let mut times = Vec::with_capacity(batches.len());
        while left > 0 {
            let first = batches.front_mut().expect("a result belongs to a batch that has come");
            let (arrived, placed) = (first.arrived, first.placed);
            let taken = first.records.min(left);
            // One that was refused was never flushed: its time ends when it was.
            times.push(AppendTimes { records: taken, arrived, placed, flushed: flushed.max(placed) });
            first.records -= taken;
            left -= taken;
            if first.records == 0 {
                batches.pop_front();
            }
        }
        times.into_boxed_slice()
    }

    pub(crate) fn load(&self, flush_behind_bytes: u64) -> LogLoad {
        LogLoad {
            group_commit_records: self.group_commit_records.distribution(),
            group_commit_wait: self.group_commit_wait.distribution(),
            flush_bytes: self.flush_bytes.distribution(),
            flush_time: self.flush_time.distribution(),
            flush_behind_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_the_times_of_its_batches_whichever_way_they_were_cut() {
        let meter = LogMeter::new();
        let start = Instant::now();
        meter.appended(3, start);
        meter.appended(0, start);
        meter.appended(2, start + Duration::from_micros(5));
        meter.flushed(start + Duration::from_micros(20), Duration::from_micros(80), 8192);
        let first = meter.committed(4);
        assert_eq!(first.iter().map(|times| times.records).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((first[0].arrived, first[1].arrived), (start, start + Duration::from_micros(5)));
        assert!(first.iter().all(|times| times.placed <= times.flushed));
        assert_eq!(meter.committed(1).len(), 1);
        let load = meter.load(7);
        assert_eq!(load.flush_behind_bytes, 7);
        assert_eq!((load.group_commit_records.count(), load.group_commit_records.sum), (2, 5));
        assert_eq!(
            (load.group_commit_wait.sum, load.flush_time.sum, load.flush_bytes.sum),
            (20_000, 80_000, 8192)
        );
    }
}
