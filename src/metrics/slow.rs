//! The slowest requests of a core, with the time of each of their stages.
//!
//! The slowest are kept of a stretch of time and of the one before it, so that what is slow today is not hidden by what was slow when the
//! node started. A request that is not among them costs one comparison.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use shards::limits::SLOW_REQUESTS_MAX;

use super::snapshot::SlowRequest;
use super::stage::{Stage, StageTimes};
use super::traffic::TopicTraffic;

/// How long one stretch is: what is shown is of the last one or two.
const STRETCH: Duration = Duration::from_secs(600);

/// A request that was slow.
#[derive(Clone, Debug)]
pub struct Slow {
    pub(super) total_ns: u64,
    pub(super) stages: StageTimes,
    pub(super) ended: Instant,
    pub(super) subject: Subject,
}

impl Slow {
    /// As core `core` tells of it. `wall_ms` is the time of day at `now`, milliseconds since the epoch.
    pub fn describe(&self, core: usize, now: Instant, wall_ms: i64) -> SlowRequest {
        let Subject { request, topic, queue_id, peer, records, bytes } = &self.subject;
        let ago_ms = now.saturating_duration_since(self.ended).as_millis();
        let micros = |ns: u64| ns as f64 / 1000.0;
        let stages = Stage::ALL.iter().zip(self.stages).filter(|(_, ns)| *ns > 0);
        SlowRequest {
            at_ms: wall_ms.saturating_sub(i64::try_from(ago_ms).unwrap_or(i64::MAX)),
            core,
            request: (*request).to_owned(),
            topic: topic.name().to_owned(),
            queue_id: *queue_id,
            peer: peer.to_string(),
            records: *records,
            bytes: *bytes,
            total_us: micros(self.total_ns),
            stages_us: stages.map(|(stage, ns)| (stage.name().to_owned(), micros(ns))).collect(),
        }
    }
}

/// What a request was about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it asked for, such as `send`.
    pub request: &'static str,
    pub topic: Rc<TopicTraffic>,
    pub queue_id: u32,
    pub peer: SocketAddr,
    pub records: u32,
    pub bytes: usize,
}

/// The fastest is the greatest, so that a heap gives it up first.
impl Ord for Slow {
    fn cmp(&self, other: &Self) -> Ordering {
        other.total_ns.cmp(&self.total_ns)
    }
}

impl PartialOrd for Slow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Slow {}

/// The slowest requests of one core.
#[derive(Debug)]
pub(super) struct SlowRing {
    current: BinaryHeap<Slow>,
    before: BinaryHeap<Slow>,
    began: Instant,
    /// What does not take longer than this is not among them.
    threshold_ns: u64,
}

impl SlowRing {
    pub(super) fn new(now: Instant) -> Self {
        Self { current: BinaryHeap::new(), before: BinaryHeap::new(), began: now, threshold_ns: 0 }
    }

    /// Begins a new stretch when the current one is over.
    pub(super) fn turn_over(&mut self, now: Instant) {
        if now.saturating_duration_since(self.began) < STRETCH {
            return;
        }
        self.before = std::mem::take(&mut self.current);
        self.began = now;
        self.threshold_ns = 0;
    }

    /// Whether a request that took so long belongs here.
    pub(super) fn takes(&self, total_ns: u64) -> bool {
        total_ns > self.threshold_ns
    }

    /// Keeps a request that [`Self::takes`] it.
    pub(super) fn put(&mut self, slow: Slow) {
        if self.current.len() == SLOW_REQUESTS_MAX {
            self.current.pop();
        }
        self.current.push(slow);
        if self.current.len() == SLOW_REQUESTS_MAX {
            self.threshold_ns = self.current.peek().map_or(0, |fastest| fastest.total_ns);
        }
    }

    /// The slowest, slowest first.
    pub(super) fn slowest(&self) -> Vec<Slow> {
        let mut all: Vec<&Slow> = self.current.iter().chain(&self.before).collect();
        all.sort_unstable_by_key(|slow| std::cmp::Reverse(slow.total_ns));
        all.into_iter().take(SLOW_REQUESTS_MAX).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(total_ns: u64, ended: Instant) -> Slow {
        let subject = Subject {
            request: "send",
            topic: Rc::new(TopicTraffic::of("t", false)),
            queue_id: 3,
            peer: "127.0.0.1:4000".parse().expect("an address"),
            records: 1,
            bytes: 100,
        };
        let mut stages = StageTimes::default();
        stages[Stage::Flush as usize] = total_ns;
        Slow { total_ns, stages, ended, subject }
    }

    #[test]
    fn the_slowest_stay_whatever_the_order_in_which_they_come() {
        let start = Instant::now();
        let mut ring = SlowRing::new(start);
        let count = SLOW_REQUESTS_MAX as u64 * 3;
        // Every number below `count` once: the step has no factor in common with it.
        for i in 0..count {
            let total_ns = 1 + i * 7 % count;
            if ring.takes(total_ns) {
                ring.put(slow(total_ns, start));
            }
        }
        let found = ring.slowest();
        let expected: Vec<u64> = (0..SLOW_REQUESTS_MAX as u64).map(|i| count - i).collect();
        assert_eq!(found.iter().map(|slow| slow.total_ns).collect::<Vec<_>>(), expected);
        let told = found[0].describe(1, start + Duration::from_secs(2), 5_000);
        assert_eq!((told.core, told.at_ms, told.total_us), (1, 3_000, count as f64 / 1000.0));
        assert_eq!(told.stages_us.keys().collect::<Vec<_>>(), ["flush"]);
    }

    #[test]
    fn what_was_slow_two_stretches_ago_is_forgotten() {
        let start = Instant::now();
        let mut ring = SlowRing::new(start);
        ring.put(slow(9_000, start));
        let later = start + STRETCH;
        ring.turn_over(later);
        ring.put(slow(1_000, later));
        let kept = |ring: &SlowRing| ring.slowest().iter().map(|slow| slow.total_ns).collect::<Vec<_>>();
        assert_eq!(kept(&ring), [9_000, 1_000]);
        ring.turn_over(later + STRETCH);
        assert_eq!(kept(&ring), [1_000]);
    }
}
