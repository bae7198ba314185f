//! Delay levels: which message of `SCHEDULE_TOPIC_XXXX` is due when, and how far each level has been delivered.
//!
//! Serve core, plain state: it is told the time, what arrived and what became of deliveries; the task that reads and re-puts
//! the messages is `processor/delayed.rs`. Each level is one queue of the schedule topic and hence in order of due
//! time, so that only its head is looked at, and a level with nothing in it costs nothing.
//!
//! Order of positions, per level: `delivered <= next <= end of the queue`. Before `delivered` everything is durable in its
//! real topic; only that is persisted, so that a restart delivers at least once. Between the two, deliveries are under way.

use std::rc::Rc;

use runtime::task::Signal;
use shards::limits::DELAYED_IN_FLIGHT_MAX;
use shards::position::QueueOffset;

/// RocketMQ's levels 1 to 18 (`messageDelayLevel`).
pub const DELAY_LEVELS_DEFAULT: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// How long a level rests after the log refused a delivery.
const RETRY_AFTER_MS: i64 = 1_000;
/// A message whose store timestamp lies further in the future than this was stored under a clock that was wrong; it is due
/// at once, as in RocketMQ. A smaller step of the clock is waited out, so that nothing comes early because of it.
const CLOCK_STEP_MS_MAX: i64 = 60_000;
/// After this long the levels are looked at again, whatever was known of them: the clock may have jumped meanwhile.
const LOOK_AGAIN_MS: i64 = 10_000;

/// How long each level delays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels(Vec<i64>);

/// What is wrong with a `messageDelayLevel` text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "messageDelayLevel: `{level}` is not a delay; write a number above 0 and one of s, m, h, d, as in `{DELAY_LEVELS_DEFAULT}`"
)]
pub struct DelayLevelsError {
    level: String,
}

impl DelayLevels {
    /// Reads RocketMQ's form: delays with unit, separated by spaces, level 1 first.
    ///
    /// # Errors
    /// A word that is no delay, or none at all.
    pub fn parse(text: &str) -> Result<Self, DelayLevelsError> {
        let levels: Result<Vec<i64>, _> = text.split_whitespace().map(parse_delay).collect();
        match levels {
            Ok(levels) if !levels.is_empty() => Ok(Self(levels)),
            Ok(_) => Err(DelayLevelsError { level: text.to_owned() }),
            Err(level) => Err(DelayLevelsError { level: level.to_owned() }),
        }
    }

    /// The delays in milliseconds, level 1 first.
    pub fn delays_ms(&self) -> &[i64] {
        &self.0
    }

    /// The level that a message asks for by its DELAY property: none for zero and below, the highest for any above it.
    pub fn asked_for(&self, level: i32) -> Option<DelayLevel> {
        let level = u32::try_from(level).ok()?.checked_sub(1)?;
        Some(DelayLevel(level.min(self.highest())))
    }

    /// The level of a queue of the schedule topic.
    pub fn of_queue(&self, queue_id: u32) -> Option<DelayLevel> {
        (queue_id <= self.highest()).then_some(DelayLevel(queue_id))
    }

    fn highest(&self) -> u32 {
        u32::try_from(self.0.len() - 1).expect("a text has fewer words than 2^32")
    }
}

impl Default for DelayLevels {
    fn default() -> Self {
        Self::parse(DELAY_LEVELS_DEFAULT).expect("the default is well formed")
    }
}

fn parse_delay(word: &str) -> Result<i64, &str> {
    let unit_ms = match word.as_bytes().last() {
        Some(b's') => 1_000,
        Some(b'm') => 60_000,
        Some(b'h') => 3_600_000,
        Some(b'd') => 86_400_000,
        _ => return Err(word),
    };
    let number: i64 = word[..word.len() - 1].parse().map_err(|_| word)?;
    number.checked_mul(unit_ms).filter(|delay_ms| *delay_ms > 0).ok_or(word)
}

/// A level that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayLevel(u32);

impl DelayLevel {
    /// Its queue in the schedule topic.
    pub fn queue_id(self) -> u32 {
        self.0
    }

    /// RocketMQ's number, from 1.
    pub fn number(self) -> u32 {
        self.0 + 1
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Part of the schedule topic's queue of one level that is to be read: the message at `next` is due, or its due time is
/// not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub level: DelayLevel,
    pub next: QueueOffset,
    /// Most messages that may be delivered now.
    pub messages_max: u32,
}

/// How far all levels are.
#[derive(Debug)]
pub struct DelaySchedule {
    levels: Vec<Level>,
    delays: DelayLevels,
    /// A `delivered` has moved since it was last taken for persisting.
    moved: bool,
    changed: Rc<Signal>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    delivered: QueueOffset,
    next: QueueOffset,
    in_flight: u32,
    /// A delivery under way was refused: nothing more is read until all results are in, then from `delivered` again.
    refused: bool,
    /// When the message at `next` has to be looked at, milliseconds since the epoch; `None` when there is none.
    head_at_ms: Option<i64>,
}

impl DelaySchedule {
    /// A schedule of levels that have delivered nothing; tell it of each queue by [`Self::resume`].
    pub fn new(delays: DelayLevels) -> Self {
        let level = Level {
            delivered: QueueOffset::ZERO,
            next: QueueOffset::ZERO,
            in_flight: 0,
            refused: false,
            head_at_ms: None,
        };
        let levels = vec![level; delays.0.len()];
        Self { levels, delays, moved: false, changed: Rc::default() }
    }

    pub fn delays(&self) -> &DelayLevels {
        &self.delays
    }

    /// Raised when [`Self::wait_ms`] may have become shorter. One task waits for it.
    pub fn changed(&self) -> Rc<Signal> {
        Rc::clone(&self.changed)
    }

    /// Starts a level where it was: `delivered` as persisted, brought into the bounds `[min, max)` of its queue.
    pub fn resume(&mut self, level: DelayLevel, delivered: QueueOffset, queue: std::ops::Range<QueueOffset>) {
        let delivered = delivered.clamp(queue.start, queue.end);
        let level = &mut self.levels[level.index()];
        assert!(level.in_flight == 0, "a level resumes before it delivers");
        level.delivered = delivered;
        level.next = delivered;
        level.head_at_ms = (delivered < queue.end).then_some(i64::MIN);
        self.changed.raise();
    }

    /// A message of the schedule topic can be read from now on.
    pub fn arrived(&mut self, queue_id: u32, store_timestamp_ms: i64) {
        let Some(level) = self.delays.of_queue(queue_id) else { return };
        let delay_ms = self.delays.0[level.index()];
        let level = &mut self.levels[level.index()];
        if level.head_at_ms.is_none() {
            level.head_at_ms = Some(store_timestamp_ms.saturating_add(delay_ms));
            self.changed.raise();
        }
    }

    /// How long to wait at `now_ms` until a level has to be looked at, milliseconds; `None` while all are empty. Never longer than a
    /// jump of the clock may stay unnoticed.
    pub fn wait_ms(&self, now_ms: i64) -> Option<i64> {
        let heads = self.levels.iter().filter(|level| level.may_read()).filter_map(|level| level.head_at_ms);
        heads.min().map(|at_ms| at_ms.saturating_sub(now_ms).clamp(0, LOOK_AGAIN_MS))
    }

    /// A level whose head is due at `now_ms` or not known yet.
    pub fn due(&self, now_ms: i64) -> Option<Due> {
        let is_due = |(level, delay_ms): (&Level, &i64)| {
            let comes = |at_ms: i64| at_ms <= now_ms || clock_was_wrong(at_ms - delay_ms, now_ms);
            level.may_read() && level.head_at_ms.is_some_and(comes)
        };
        let index = self.levels.iter().zip(&self.delays.0).position(is_due)?;
        let level = &self.levels[index];
        Some(Due {
            level: self.delays.of_queue(u32::try_from(index).ok()?)?,
            next: level.next,
            messages_max: DELAYED_IN_FLIGHT_MAX - level.in_flight,
        })
    }

    /// Whether `due` is still what is to be read. A read from the disk takes a while, and a refusal meanwhile takes the level back.
    pub fn is_current(&self, due: &Due) -> bool {
        let level = &self.levels[due.level.index()];
        level.may_read() && level.next == due.next
    }

    /// Whether a message of `level` stored at `store_timestamp_ms` may be delivered at `now_ms`; otherwise when.
    ///
    /// # Errors
    /// The due time, milliseconds since the epoch.
    pub fn judge(&self, level: DelayLevel, store_timestamp_ms: i64, now_ms: i64) -> Result<(), i64> {
        let due_ms = store_timestamp_ms.saturating_add(self.delays.0[level.index()]);
        if due_ms <= now_ms || clock_was_wrong(store_timestamp_ms, now_ms) { Ok(()) } else { Err(due_ms) }
    }

    /// The message at `next - 1` is on its way to its real topic; [`Self::completed`] follows.
    pub fn delivering(&mut self, level: DelayLevel, next: QueueOffset) {
        let level = &mut self.levels[level.index()];
        assert!(next > level.next, "deliveries of a level are in order");
        level.next = next;
        level.in_flight += 1;
    }

    /// What lies before `next` and was not delivered never will be: it cannot be read or has no real topic.
    pub fn skipped(&mut self, level: DelayLevel, next: QueueOffset) {
        let level = &mut self.levels[level.index()];
        level.next = level.next.max(next);
        if level.in_flight == 0 {
            level.delivered = level.next;
            self.moved = true;
        }
    }

    /// Says when the message at the level's `next` has to be looked at; `None` when the queue ends there.
    pub fn look_at(&mut self, level: DelayLevel, head_at_ms: Option<i64>) {
        self.levels[level.index()].head_at_ms = head_at_ms;
    }

    /// The result of a delivery: `delivered` is the offset after its message. Results come in the order of the deliveries.
    pub fn completed(&mut self, level: DelayLevel, delivered: QueueOffset, is_stored: bool, now_ms: i64) {
        let level = &mut self.levels[level.index()];
        level.in_flight = level.in_flight.checked_sub(1).expect("a result follows its delivery");
        if is_stored && !level.refused {
            assert!(
                level.delivered < delivered && delivered <= level.next,
                "results of a level are in order"
            );
            level.delivered = delivered;
            self.moved = true;
        } else {
            level.refused = true;
        }
        if level.in_flight == 0 && level.refused {
            level.refused = false;
            level.next = level.delivered;
            level.head_at_ms = Some(now_ms + RETRY_AFTER_MS);
        }
        if level.may_read() && level.head_at_ms.is_some() {
            self.changed.raise();
        }
    }

    /// Each level's number and the offset before which all is delivered; `None` when none has moved since the last call.
    pub fn take_moved(&mut self) -> Option<Vec<(u32, QueueOffset)>> {
        if !std::mem::take(&mut self.moved) {
            return None;
        }
        let started = self.levels.iter().zip(1..).filter(|(level, _)| level.delivered > QueueOffset::ZERO);
        Some(started.map(|(level, number)| (number, level.delivered)).collect())
    }

    /// What [`Self::take_moved`] gave could not be written: the next call gives it again.
    pub fn not_persisted(&mut self) {
        self.moved = true;
    }
}

/// Whether a store timestamp comes from a clock that was further ahead than one waits out.
fn clock_was_wrong(store_timestamp_ms: i64, now_ms: i64) -> bool {
    store_timestamp_ms > now_ms.saturating_add(CLOCK_STEP_MS_MAX)
}

impl Level {
    fn may_read(&self) -> bool {
        !self.refused && self.in_flight < DELAYED_IN_FLIGHT_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_levels_are_rocketmqs() {
        let levels = DelayLevels::default();
        assert_eq!(levels.delays_ms(), shards::dispatch::DELAY_LEVELS_MS, "as the ConsumeQueue has them");
        assert_eq!(levels.delays_ms()[0], 1_000);
        assert_eq!(levels.delays_ms()[2], 10_000);
        assert_eq!(levels.delays_ms()[17], 7_200_000);
    }

    #[test]
    fn a_level_above_the_highest_is_the_highest_and_none_is_none() {
        let levels = DelayLevels::default();
        assert_eq!(levels.asked_for(0), None);
        assert_eq!(levels.asked_for(-1), None);
        assert_eq!(levels.asked_for(1).map(DelayLevel::queue_id), Some(0));
        assert_eq!(levels.asked_for(i32::MAX).map(DelayLevel::number), Some(18));
    }

    #[test]
    fn what_is_no_delay_is_named() {
        for text in ["1s 5x", "1s s", "1s -5s", "1s 0m", "1s 9223372036854775807d", "1s é"] {
            let error = DelayLevels::parse(text).expect_err(text).to_string();
            assert!(error.contains(&text[3..]), "{error}");
        }
        assert!(DelayLevels::parse(" ").is_err());
    }

    #[test]
    fn an_idle_schedule_has_nothing_to_wait_for() {
        let schedule = DelaySchedule::new(DelayLevels::default());
        assert_eq!(schedule.wait_ms(0), None);
        assert_eq!(schedule.due(i64::MAX), None);
    }

    #[test]
    fn a_refused_delivery_is_tried_again_from_the_first_that_is_missing() {
        let mut schedule = DelaySchedule::new(DelayLevels::default());
        let level = schedule.delays().asked_for(1).expect("level 1");
        schedule.resume(level, QueueOffset::ZERO, QueueOffset::ZERO..QueueOffset::new(3));
        for next in 1..=3 {
            schedule.delivering(level, QueueOffset::new(next));
        }
        schedule.look_at(level, None);
        schedule.completed(level, QueueOffset::new(1), true, 50);
        schedule.completed(level, QueueOffset::new(2), false, 50);
        assert_eq!(schedule.due(i64::MAX), None, "results are still to come");
        schedule.completed(level, QueueOffset::new(3), true, 50);
        assert_eq!(schedule.wait_ms(50), Some(RETRY_AFTER_MS));
        assert_eq!(schedule.due(i64::MAX).expect("again").next, QueueOffset::new(1));
        assert_eq!(schedule.take_moved(), Some(vec![(1, QueueOffset::new(1))]));
        assert_eq!(schedule.take_moved(), None);
        schedule.not_persisted();
        assert!(schedule.take_moved().is_some(), "a write that failed is made up for");
    }

    /// A message that was stored before the clock was set back by a month waited for that month, unless the broker was started
    /// again; and one that a clock ahead of time put off was not looked at when the clock was set right.
    #[test]
    fn a_clock_that_jumps_keeps_no_message_back() {
        let mut schedule = DelaySchedule::new(DelayLevels::default());
        let month_ms = 30 * 86_400_000;
        schedule.arrived(1, month_ms);
        assert_eq!(schedule.due(month_ms), None, "five seconds to go");
        assert_eq!(schedule.wait_ms(month_ms), Some(5_000));
        assert_eq!(schedule.wait_ms(0), Some(LOOK_AGAIN_MS), "the clock may jump again");
        let due = schedule.due(0).expect("no clock ever was that far ahead");
        assert_eq!(schedule.judge(due.level, month_ms, 0), Ok(()));
        assert_eq!(schedule.due(month_ms - CLOCK_STEP_MS_MAX), None, "a small step is waited out");
    }

    #[test]
    fn a_persisted_position_outside_the_queue_is_brought_into_it() {
        let mut schedule = DelaySchedule::new(DelayLevels::default());
        let level = schedule.delays().asked_for(2).expect("level 2");
        let queue = QueueOffset::new(10)..QueueOffset::new(20);
        schedule.resume(level, QueueOffset::new(3), queue.clone());
        assert_eq!(schedule.due(0).expect("not empty").next, QueueOffset::new(10));
        schedule.resume(level, QueueOffset::new(30), queue);
        assert_eq!(schedule.due(0), None, "everything is delivered");
    }

    /// One step of a run: what happens to the level, and how far the clock moves before it.
    #[derive(Clone, Debug)]
    enum Step {
        Store,
        Deliver,
        Result { is_stored: bool },
        Restart,
    }

    fn step() -> impl Strategy<Value = (i64, Step)> {
        let kind = prop_oneof![
            4 => Just(Step::Store),
            4 => Just(Step::Deliver),
            4 => any::<bool>().prop_map(|is_stored| Step::Result { is_stored }),
            1 => Just(Step::Restart),
        ];
        // The clock also steps back a little.
        (-300..1_500_i64, kind)
    }

    proptest! {
        /// A model of the queue and of the task around the schedule: no message is delivered before its time, at whatever
        /// time the task looks, and in the end every message has been delivered at least once.
        #[test]
        fn nothing_comes_early_and_nothing_is_left_out(steps in prop::collection::vec(step(), 1..120)) {
            let delays = DelayLevels::parse("2s").expect("one level");
            let mut schedule = DelaySchedule::new(delays.clone());
            let level = schedule.delays().asked_for(1).expect("level 1");
            let mut stored_at: Vec<i64> = Vec::new();
            let mut stored: Vec<bool> = Vec::new();
            let mut in_flight: VecDeque<u64> = VecDeque::new();
            let mut persisted = QueueOffset::ZERO;
            let mut now_ms = 1_000_000;
            let finish = std::iter::repeat_n((5_000, Step::Deliver), 1).chain(std::iter::repeat_n(
                (5_000, Step::Result { is_stored: true }), DELAYED_IN_FLIGHT_MAX as usize));
            let rounds = std::iter::repeat_n(finish, 3).flatten();
            for (clock_ms, step) in steps.into_iter().chain(rounds) {
                now_ms += clock_ms;
                match step {
                    Step::Store => {
                        // As the log core does: a store timestamp never goes back.
                        let at = stored_at.last().copied().unwrap_or(0).max(now_ms);
                        stored_at.push(at);
                        stored.push(false);
                        schedule.arrived(0, at);
                    }
                    Step::Deliver => {
                        let Some(due) = schedule.due(now_ms) else { continue };
                        let mut head_at_ms = None;
                        let mut room = due.messages_max;
                        for offset in due.next.get()..stored_at.len() as u64 {
                            let index = usize::try_from(offset).expect("small");
                            match schedule.judge(level, stored_at[index], now_ms) {
                                Err(due_ms) => {
                                    head_at_ms = Some(due_ms);
                                    break;
                                }
                                Ok(()) if room == 0 => {
                                    head_at_ms = Some(now_ms);
                                    break;
                                }
                                Ok(()) => {
                                    prop_assert!(now_ms >= stored_at[index] + 2_000, "delivered early");
                                    room -= 1;
                                    schedule.delivering(level, QueueOffset::new(offset + 1));
                                    in_flight.push_back(offset);
                                }
                            }
                        }
                        schedule.look_at(level, head_at_ms);
                    }
                    Step::Result { is_stored } => {
                        let Some(offset) = in_flight.pop_front() else { continue };
                        stored[usize::try_from(offset).expect("small")] |= is_stored;
                        schedule.completed(level, QueueOffset::new(offset + 1), is_stored, now_ms);
                        if let Some(moved) = schedule.take_moved() {
                            persisted = moved[0].1;
                        }
                    }
                    Step::Restart => {
                        in_flight.clear();
                        schedule = DelaySchedule::new(delays.clone());
                        let queue = QueueOffset::ZERO..QueueOffset::new(stored_at.len() as u64);
                        schedule.resume(level, persisted, queue);
                    }
                }
                let before = usize::try_from(persisted.get()).expect("small");
                prop_assert!(stored[..before].iter().all(|stored| *stored), "persisted beyond what is stored");
            }
            prop_assert!(stored.iter().all(|stored| *stored), "left out: {stored:?}");
        }
    }
}
