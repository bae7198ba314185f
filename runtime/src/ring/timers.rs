//! Who sleeps on a core, and until when.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::{Duration, Instant};

/// Names one sleep; those of the same moment are told apart by their number.
pub(super) type TimerKey = (Instant, u64);

/// The sleeps of one core, in the order in which they end.
#[derive(Default)]
pub(super) struct Timers {
    sleeping: BTreeMap<TimerKey, Waker>,
    made: u64,
}

impl Timers {
    pub(super) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        self.made += 1;
        let key = (deadline, self.made);
        self.sleeping.insert(key, waker);
        key
    }

    /// Wakes another task at the end of a sleep than before. Whether it still sleeps.
    pub(super) fn update(&mut self, key: &TimerKey, waker: &Waker) -> bool {
        let Some(known) = self.sleeping.get_mut(key) else { return false };
        known.clone_from(waker);
        true
    }

    pub(super) fn remove(&mut self, key: &TimerKey) {
        self.sleeping.remove(key);
    }

    /// Takes one sleep that is over at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.sleeping.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// The time from `now` to the end of the first sleep.
    pub(super) fn until_first(&self, now: Instant) -> Option<Duration> {
        let (deadline, _) = self.sleeping.first_key_value()?.0;
        Some(deadline.saturating_duration_since(now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sleeping.is_empty()
    }
}
