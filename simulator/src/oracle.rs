//! What the outside world knows of a shard, and what may therefore never be otherwise.
//!
//! It is told what the node was given, what it let out (acknowledgements, messages read, offsets) and what it claims to be durable,
//! and judges each read and each recovery:
//! - what was acknowledged is there after a kill; after a power cut, what was durable; each record where its producer was told;
//! - what is there is a first part of what was given, with nothing between; queue offsets are dense, store times never go back;
//! - a consumer reads confirmed messages only, all of them, in order, unchanged: so no restart takes back what was seen;
//! - a group's offset is one that it committed, and after a restart none older than the last that was persisted;
//! - a delayed message is delivered at its time or later, and in the end it is; a half message never is;
//! - old messages are removed in log order, whole files of them, none before its time; nobody has to read them from then on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use shards::append::Placement;
use shards::dispatch::SCHEDULE_TOPIC;
use shards::position::PhysicalOffset;
use shards::record::{RecordView, SYS_FLAG_TRANSACTION_MASK};

use crate::disk::Stop;
use crate::plan::QueueKey;

/// A delivery whose store time lies further ahead of the clock than this was stored under a wrong clock: it may come at once.
const CLOCK_STEP_MS_MAX: i64 = 60_000;

/// A record as the log was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub id: u64,
    pub topic: &'static str,
    pub queue_id: u32,
    pub bytes: u32,
    /// Whether it takes a queue offset and is read by consumers.
    pub is_queued: bool,
}

/// A record that was found, or whose place its producer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub given: Given,
    pub placement: Placement,
}

/// What is known of a group's offset in a queue.
#[derive(Clone, Copy, Debug, Default)]
struct OffsetSpan {
    /// What the running process was told last.
    current: Option<u64>,
    /// What was on the disk for certain.
    persisted: Option<u64>,
    /// The greatest that was ever committed.
    greatest: u64,
}

/// A group's offset in a queue, for the files: consumer, queue, offset.
pub type CommittedOffset = (usize, QueueKey, u64);

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    acknowledged: Vec<Known>,
    /// How many of those survive a power cut.
    durable: usize,
    /// Given to the log of the running process, in order, result unknown.
    pending: VecDeque<Given>,
    /// Given before those, refused when the log failed: perhaps on the disk.
    doubtful: Vec<Given>,
    /// What was acknowledged and not synced may be gone even without a power cut.
    sync_failed: bool,
    /// Indexes into `acknowledged` by queue, in the order of queue offsets.
    queues: BTreeMap<(&'static str, u32), Vec<usize>>,
    offsets: BTreeMap<(usize, QueueKey), OffsetSpan>,
    next_id: u64,
    reads: u64,
    recoveries: u64,
    /// The log was allowed to begin here.
    removed_before: PhysicalOffset,
    /// When something in a file of the log was last confirmed, by the node's clock, by the file's start.
    last_confirmed_ms: BTreeMap<PhysicalOffset, i64>,
    /// Messages that were tampered with.
    may_be_lost: BTreeSet<u64>,
    passed_over: u64,
    violation: Option<String>,
}

impl Oracle {
    /// What was wrong first.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A number for the next message.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Messages read and judged.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Recoveries judged.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    /// All that was acknowledged and was not lost since as it may be, in log order.
    pub fn acknowledged(&self) -> &[Known] {
        &self.acknowledged
    }

    /// How many messages of a queue are confirmed.
    pub fn queue_len(&self, topic: &str, queue_id: u32) -> u64 {
        self.queue(topic, queue_id).len() as u64
    }

    /// Whether a message may be gone because its time was over.
    pub fn is_removed(&self, known: &Known) -> bool {
        known.placement.physical_offset < self.removed_before
    }

    /// Where the log was allowed to begin, at the latest.
    pub fn removed_before(&self) -> PhysicalOffset {
        self.removed_before
    }

    fn queue(&self, topic: &str, queue_id: u32) -> &[usize] {
        // Keys have static names; there are few.
        let mut queues = self.queues.iter();
        queues
            .find(|((of, id), _)| *of == topic && *id == queue_id)
            .map_or(&[], |(_, indexes)| indexes.as_slice())
    }

    // What the node is given and lets out.

    /// The log is given a record, behind all others.
    pub fn given(&mut self, given: Given) {
        self.pending.push_back(given);
    }

    /// The oldest record without a result is confirmed at this place.
    pub fn confirmed(&mut self, id: u64, placement: Placement) {
        let Some(given) = self.pending.pop_front() else {
            return self.violate(format!("message {id} is confirmed, but none was given"));
        };
        if given.id != id {
            self.violate(format!("message {id} is confirmed, message {} was before it", given.id));
        }
        let previous_ms = self.acknowledged.last().map_or(i64::MIN, |last| last.placement.store_timestamp_ms);
        if placement.store_timestamp_ms < previous_ms {
            self.violate(format!("message {id} was stored before the one in front of it"));
        }
        self.push(Known { given, placement });
    }

    // Removal of what is old.

    /// Something in the file of the log that starts there was confirmed at `now_ms` of the node's clock.
    pub fn written(&mut self, segment: PhysicalOffset, now_ms: i64) {
        self.last_confirmed_ms.insert(segment, now_ms);
    }

    /// The node's clock jumps by so many milliseconds.
    pub fn clock_jumps(&mut self, ms: i64) {
        if ms < 0 {
            // The ages of what was written before mean nothing any more.
            self.last_confirmed_ms.clear();
        }
    }

    /// The node removes the files of the log before `before`, whose last write must be older than `reserved_ms`.
    pub fn removes(&mut self, before: PhysicalOffset, now_ms: i64, reserved_ms: i64) {
        let young = self
            .last_confirmed_ms
            .range(..before)
            .find(|(_, confirmed_ms)| confirmed_ms.saturating_add(reserved_ms) >= now_ms);
        if let Some((segment, confirmed_ms)) = young {
            let age_ms = now_ms - confirmed_ms;
            self.violate(format!(
                "the file at {segment} is removed {age_ms} ms after its last message, {reserved_ms} were promised"
            ));
        }
        self.last_confirmed_ms = self.last_confirmed_ms.split_off(&before);
        self.removed_before = self.removed_before.max(before);
    }

    fn push(&mut self, known: Known) {
        if known.given.is_queued {
            let index = self.acknowledged.len();
            let (topic, queue_id) = (known.given.topic, known.given.queue_id);
            let queue = self.queues.entry((topic, queue_id)).or_default();
            let offset = known.placement.queue_offset.get();
            if offset != queue.len() as u64 {
                let expected = queue.len();
                self.violate(format!(
                    "message {} of {topic}/{queue_id} has queue offset {offset}, {expected} comes next",
                    known.given.id
                ));
            } else {
                queue.push(index);
            }
        }
        self.acknowledged.push(known);
    }

    /// The oldest record without a result is refused. `may_be_stored`: the log failed, the record may be on the disk.
    pub fn refused(&mut self, id: u64, may_be_stored: bool) {
        let Some(given) = self.pending.pop_front() else {
            return self.violate(format!("message {id} is refused, but none was given"));
        };
        if given.id != id {
            self.violate(format!("message {id} is refused, message {} was before it", given.id));
        }
        if may_be_stored {
            self.doubtful.push(given);
        }
    }

    /// The node says that everything before `end` survives a power cut.
    pub fn durable_before(&mut self, end: u64) {
        let is_before =
            |known: &Known| known.placement.physical_offset.get() + u64::from(known.given.bytes) <= end;
        let more = self.acknowledged[self.durable..].iter().take_while(|known| is_before(known)).count();
        self.durable += more;
    }

    /// A sync of the log failed: what it should have made durable may be gone.
    pub fn sync_failed(&mut self) {
        self.sync_failed = true;
    }

    // Recovery.

    /// `found` was recovered after `stop`, the worst since the last recovery, from a log that begins at `log_start`, and is served from now
    /// on.
    pub fn recovered(&mut self, log_start: PhysicalOffset, found: &[Known], stop: Stop) {
        self.recoveries += 1;
        if log_start > self.removed_before {
            let allowed = self.removed_before;
            return self.violate(format!(
                "the log begins at {log_start}, only what is before {allowed} may be gone"
            ));
        }
        let removed = self.acknowledged.partition_point(|known| known.placement.physical_offset < log_start);
        let promised = match stop {
            Stop::Kill if !self.sync_failed => self.acknowledged.len(),
            Stop::Kill | Stop::PowerCut => self.durable,
        };
        if removed + found.len() < promised {
            let lost = &self.acknowledged[removed + found.len()];
            return self.violate(format!(
                "after {stop:?} {} records are found where {promised} were promised: message {} at {} is lost",
                removed + found.len(),
                lost.given.id,
                lost.placement.physical_offset
            ));
        }
        let kept = &self.acknowledged[removed..];
        let both = found.len().min(kept.len());
        if let Some((is, was)) = found.iter().zip(kept).find(|(is, was)| is != was) {
            return self.violate(format!("after {stop:?} {is:?} is found where {was:?} was acknowledged"));
        }
        let mut unknown = self.doubtful.iter().chain(&self.pending);
        for known in &found[both..] {
            if !unknown.any(|given| *given == known.given) {
                return self.violate(format!(
                    "after {stop:?} {known:?} is found, which was not given, or not in this order"
                ));
            }
        }
        let removed = self.acknowledged[..removed].to_vec();
        self.acknowledged.clear();
        self.queues.clear();
        let mut previous_ms = i64::MIN;
        for known in removed.iter().chain(found) {
            if known.placement.store_timestamp_ms < previous_ms {
                self.violate(format!("{known:?} was stored before the one in front of it"));
            }
            previous_ms = known.placement.store_timestamp_ms;
            self.push(known.clone());
        }
        self.durable = self.acknowledged.len();
        self.pending.clear();
        self.doubtful.clear();
        self.sync_failed = false;
        for span in self.offsets.values_mut() {
            span.current = None;
        }
    }

    // Reads.

    /// The node gives a consumer `record` as the message at `offset` of `queue`.
    pub fn read(&mut self, queue: (&str, u32), offset: u64, record: &RecordView<'_>) {
        self.reads += 1;
        let (topic, queue_id) = queue;
        let index = usize::try_from(offset).ok().and_then(|at| self.queue(topic, queue_id).get(at).copied());
        let Some(known) = index.map(|index| &self.acknowledged[index]) else {
            return self.violate(format!(
                "message {offset} of {topic}/{queue_id} is read, which was never confirmed: {record:?}"
            ));
        };
        if let Err(what) = is_the_record(known, record) {
            let expected = known.clone();
            self.violate(format!(
                "message {offset} of {topic}/{queue_id} is read with {what}, expected was {expected:?}"
            ));
        }
    }

    /// The node gives none of these messages of `queue`, and goes on behind them.
    pub fn skipped(&mut self, queue: (&str, u32), offsets: Range<u64>) {
        for offset in offsets {
            let index = usize::try_from(offset).ok().and_then(|at| self.queue(queue.0, queue.1).get(at));
            if index.is_some_and(|index| self.is_removed(&self.acknowledged[*index])) {
                continue;
            }
            let id = index.map(|index| self.acknowledged[*index].given.id);
            // What was not synced when a sync failed may be gone while the process still runs.
            let is_unsynced = self.sync_failed && index.is_some_and(|index| *index >= self.durable);
            if !is_unsynced && id.is_none_or(|id| !self.may_be_lost.contains(&id)) {
                self.violate(format!("message {offset} of {}/{} is passed over: {id:?}", queue.0, queue.1));
            }
            self.passed_over += 1;
        }
    }

    /// From now on these messages, which were tampered with, may be passed over, and no others.
    pub fn may_be_lost(&mut self, ids: BTreeSet<u64>) {
        self.may_be_lost = ids;
    }

    /// Messages that were passed over so far.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The node says that `queue` holds nothing at `offset` and behind it.
    pub fn nothing_at(&mut self, queue: (&str, u32), offset: u64) {
        let there = self.queue_len(queue.0, queue.1);
        if offset < there {
            self.violate(format!(
                "nothing is said to be at offset {offset} of {}/{}, which holds {there} messages",
                queue.0, queue.1
            ));
        }
    }

    /// The node says that `queue` ends before `offset`, up to which it says that the group has read.
    pub fn ends_before(&mut self, queue: (&str, u32), offset: u64) {
        self.violate(format!(
            "{}/{} is said to end before {offset}, up to where it was read",
            queue.0, queue.1
        ));
    }

    // Offsets of groups.

    /// The node is told that `consumer` reads `offset` next.
    pub fn offset_committed(&mut self, consumer: usize, queue: QueueKey, offset: u64) {
        let span = self.offsets.entry((consumer, queue)).or_default();
        span.current = Some(offset);
        span.greatest = span.greatest.max(offset);
        // A group that goes back means it.
        span.persisted = span.persisted.map(|at| at.min(offset));
    }

    /// All offsets as the running process was told them.
    pub fn offsets_now(&self) -> Vec<CommittedOffset> {
        let spans = self.offsets.iter();
        spans.filter_map(|((consumer, queue), span)| Some((*consumer, *queue, span.current?))).collect()
    }

    /// The node says that these offsets are on the disk.
    pub fn offsets_persisted(&mut self, offsets: &[CommittedOffset]) {
        for (consumer, queue, offset) in offsets {
            self.offsets.entry((*consumer, *queue)).or_default().persisted = Some(*offset);
        }
    }

    /// The node tells `consumer` where its group stands.
    pub fn offset_told(&mut self, consumer: usize, queue: QueueKey, told: Option<u64>) {
        let span = self.offsets.get(&(consumer, queue)).copied().unwrap_or_default();
        let wrong = match (told, span.current) {
            (told, Some(current)) => told != Some(current),
            (None, None) => span.persisted.is_some(),
            (Some(told), None) => told > span.greatest || span.persisted.is_some_and(|at| told < at),
        };
        if wrong {
            self.violate(format!(
                "consumer {consumer} is told that it stands at {told:?} of {queue}: {span:?}"
            ));
        }
        // From now on that is what the process has.
        if let Some(told) = told {
            self.offsets.entry((consumer, queue)).or_default().current = Some(told);
        }
    }

    /// The node would tell `consumer` that its group stands there, after its files were tampered with.
    pub fn offset_after_tampering(&mut self, consumer: usize, queue: QueueKey, told: Option<u64>) {
        let persisted = self.offsets.get(&(consumer, queue)).and_then(|span| span.persisted);
        if told > persisted {
            self.violate(format!(
                "consumer {consumer} stands at {told:?} of {queue}, {persisted:?} was persisted"
            ));
        }
    }

    // Delayed messages.

    /// The node delivers the message `id`, which was stored then and waits so long, at `now_ms` of its clock.
    pub fn delivers(&mut self, id: u64, store_timestamp_ms: i64, delay_ms: i64, now_ms: i64) {
        let is_due = store_timestamp_ms.saturating_add(delay_ms) <= now_ms;
        let clock_was_wrong = store_timestamp_ms > now_ms.saturating_add(CLOCK_STEP_MS_MAX);
        if !is_due && !clock_was_wrong {
            let early_ms = store_timestamp_ms.saturating_add(delay_ms).saturating_sub(now_ms);
            self.violate(format!("the delayed message {id} is delivered {early_ms} ms early"));
        }
    }

    /// Delayed messages that were acknowledged and did not arrive in their real topic.
    pub fn undelivered(&self) -> Vec<u64> {
        let arrived = |id: u64| {
            self.acknowledged.iter().any(|known| known.given.id == id && known.given.topic != SCHEDULE_TOPIC)
        };
        let waiting = self
            .acknowledged
            .iter()
            .filter(|known| known.given.topic == SCHEDULE_TOPIC && !self.is_removed(known));
        waiting.map(|known| known.given.id).filter(|id| !arrived(*id)).collect()
    }
}

/// Whether `record` is the one that was stored.
fn is_the_record(known: &Known, record: &RecordView<'_>) -> Result<(), String> {
    let is = know(record)?;
    if is != *known {
        return Err(format!("{is:?}"));
    }
    if !crate::message::is_body_whole(record.body()) {
        return Err("another body".to_owned());
    }
    Ok(())
}

/// What a record on the disk says of itself.
///
/// # Errors
/// It is none of ours; the text says why.
pub fn know(record: &RecordView<'_>) -> Result<Known, String> {
    let id = crate::message::body_id(record.body()).ok_or_else(|| format!("no number: {record:?}"))?;
    let topics = [crate::plan::PLAIN_TOPIC, crate::plan::LATE_TOPIC, SCHEDULE_TOPIC];
    let topic = topics.into_iter().find(|topic| *topic == record.topic());
    Ok(Known {
        given: Given {
            id,
            topic: topic.ok_or_else(|| format!("the topic {}", record.topic()))?,
            queue_id: record.queue_id(),
            bytes: u32::try_from(record.total_size()).map_err(|error| error.to_string())?,
            // Half messages are the only part of a transaction that is sent here.
            is_queued: record.sys_flag() & SYS_FLAG_TRANSACTION_MASK == 0,
        },
        placement: Placement {
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            store_timestamp_ms: record.store_timestamp_ms(),
        },
    })
}
