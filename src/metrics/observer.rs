//! What a core counts of the requests that it answers. Lives on its core, shared by everything that serves there.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use runtime::meter::{Distribution, Meter, nanos};

use super::slow::{Slow, SlowRing, Subject};
use super::snapshot::StageSummary;
use super::stage::{Stage, StageHistograms, StageTimes, Timeline};

/// The counters of one core.
#[derive(Debug)]
pub struct Observer {
    /// From the read of a send's last bytes until its answer is made, nanoseconds.
    sends: Meter,
    slow: RefCell<SlowRing>,
    stages_on: Cell<bool>,
    /// Made when the stages are first switched on.
    stages: RefCell<Option<Box<StageHistograms>>>,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            sends: Meter::default(),
            slow: RefCell::new(SlowRing::new(Instant::now())),
            stages_on: Cell::new(false),
            stages: RefCell::default(),
        }
    }
}

impl Observer {
    /// Whether the time of every stage of every message is recorded.
    pub fn has_stages(&self) -> bool {
        self.stages_on.get()
    }

    /// Switches the stages on or off. What was recorded before is forgotten when they are switched on.
    pub fn set_stages(&self, on: bool) {
        if on && !self.stages_on.get() {
            *self.stages.borrow_mut() = Some(Box::new(StageHistograms::new()));
        }
        self.stages_on.set(on);
    }

    /// A request was decoded, and its record encoded, since `began`. Only while stages are on.
    pub fn decoded(&self, began: Instant) {
        if let Some(stages) = &mut *self.stages.borrow_mut() {
            stages.record(Stage::Decode, nanos(began.elapsed()));
        }
    }

    /// `appends` that went this way are answered.
    pub fn appended(&self, timeline: &Timeline, appends: u64) {
        self.sends.record_n(timeline.total_ns(), appends);
        if self.stages_on.get()
            && let Some(stages) = &mut *self.stages.borrow_mut()
        {
            stages.record_all(&timeline.stages(), appends);
        }
    }

    /// Keeps an append of `subject`, which took `total_ns`, if it is one of the slowest.
    pub fn look_at(&self, timeline: &Timeline, total_ns: u64, subject: impl FnOnce() -> Subject) {
        let mut slow = self.slow.borrow_mut();
        if slow.takes(total_ns) {
            let (stages, ended) = (timeline.stages(), timeline.answered);
            slow.put(Slow { total_ns, stages, ended, subject: subject() });
        }
    }

    /// A pull was read from the disk since `began` and is answered.
    pub fn read_from_disk(&self, began: Instant, subject: Subject) {
        let ended = Instant::now();
        let mut stages = StageTimes::default();
        let total_ns = nanos(ended - began);
        stages[Stage::Disk as usize] = total_ns;
        if self.stages_on.get()
            && let Some(histograms) = &mut *self.stages.borrow_mut()
        {
            histograms.record(Stage::Disk, total_ns);
        }
        let mut slow = self.slow.borrow_mut();
        slow.turn_over(ended);
        if slow.takes(total_ns) {
            slow.put(Slow { total_ns, stages, ended, subject });
        }
    }

    /// Everything of one commit was answered at `now`.
    pub fn commit_ended(&self, now: Instant) {
        self.slow.borrow_mut().turn_over(now);
    }

    pub fn sends(&self) -> Distribution {
        self.sends.distribution()
    }

    pub fn stages(&self) -> Vec<StageSummary> {
        self.stages.borrow().as_ref().map_or_else(Vec::new, |stages| stages.summaries())
    }

    /// The slowest requests, slowest first.
    pub fn slowest(&self) -> Vec<Slow> {
        self.slow.borrow().slowest()
    }
}
