//! Decides which messages a pull gets, as RocketMQ's `getMessage` decides it: from ConsumeQueue entries alone, or, where properties
//! count, from what the reader of the records says of each.

use std::fmt;
use std::rc::Rc;

use crate::consume_queue::{ENTRY_BYTES, Entry};
use crate::limits::{FILTER_STEPS_PER_PULL_MAX, PULL_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::position::{PhysicalOffset, QueueOffset};

/// Entries looked at for one pull, in bytes of ConsumeQueue, unless it asks for more messages than that.
const SCAN_BYTES_MAX: u64 = 16_000;
/// Most messages and bytes of one answer that goes back further than what counts as recent.
const OLD_MESSAGES_MAX: u32 = 8;
const OLD_BYTES_MAX: usize = 64 * 1024;
/// What a client may ask for at least and at most, bytes.
const ASKED_BYTES_MIN: usize = 100;
const ASKED_BYTES_MAX: usize = 128 << 20;

/// Which messages of a queue are wanted: by the hash of their tag, or by all their properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TagFilter {
    /// All of them.
    #[default]
    All,
    /// Those whose tag hashes to one of these. A message without a tag has the code 0.
    Codes(Vec<i64>),
    /// Those whose properties pass a test. Their ConsumeQueue entries do not tell.
    Properties(PropertyFilter),
}

impl TagFilter {
    /// Whether a message with this tags code can be wanted.
    pub fn matches(&self, tags_code: i64) -> bool {
        match self {
            Self::All | Self::Properties(_) => true,
            Self::Codes(codes) => codes.contains(&tags_code),
        }
    }

    /// Whether a message with this tags code and encoded property string is wanted.
    pub fn matches_message(&self, tags_code: i64, properties: &[u8]) -> bool {
        match self {
            Self::All | Self::Codes(_) => self.matches(tags_code),
            Self::Properties(filter) => filter.matches(properties, &mut FilterSteps::default()),
        }
    }
}

/// Judges messages by their properties, for all pulls that share it.
pub trait PropertyTest: fmt::Debug {
    /// Whether a message with this encoded property string is wanted. Adds to `steps` what it took: one for each look at something, and
    /// one for every 64 bytes of it.
    fn matches(&self, properties: &[u8], steps: &mut FilterSteps) -> bool;
}

/// A [`PropertyTest`] that is shared. Two are equal when they are the same one.
#[derive(Clone, Debug)]
pub struct PropertyFilter(Rc<dyn PropertyTest>);

impl PropertyFilter {
    pub fn new(test: Rc<dyn PropertyTest>) -> Self {
        Self(test)
    }

    pub(crate) fn matches(&self, properties: &[u8], steps: &mut FilterSteps) -> bool {
        self.0.matches(properties, steps)
    }
}

impl PartialEq for PropertyFilter {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for PropertyFilter {}

/// What the judging of messages has taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterSteps(u64);

impl FilterSteps {
    /// Notes one look at something of so many bytes.
    pub fn add(&mut self, bytes: usize) {
        self.0 += 1 + bytes as u64 / 64;
    }

    pub fn get(self) -> u64 {
        self.0
    }

    /// Whether a pull that has taken so many judges no further message.
    pub(crate) fn are_spent(self) -> bool {
        self.0 >= FILTER_STEPS_PER_PULL_MAX
    }
}

/// What the reader of a record says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Wanted,
    Unwanted,
    /// It cannot be judged now. The selection ends before it.
    Unknown,
}

/// How a read went, with RocketMQ's names, which clients see as the remark of a pull answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetStatus {
    Found,
    NoMatchedMessage,
    MessageWasRemoving,
    OffsetFoundNull,
    OffsetOverflowBadly,
    OffsetOverflowOne,
    OffsetTooSmall,
    NoMatchedLogicQueue,
    NoMessageInQueue,
    OffsetReset,
}

impl GetStatus {
    /// RocketMQ's name of this status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "FOUND",
            Self::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Self::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            Self::OffsetFoundNull => "OFFSET_FOUND_NULL",
            Self::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Self::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Self::OffsetTooSmall => "OFFSET_TOO_SMALL",
            Self::NoMatchedLogicQueue => "NO_MATCHED_LOGIC_QUEUE",
            Self::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Self::OffsetReset => "OFFSET_RESET",
        }
    }
}

/// What bounds a selection.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages_max: u32,
    pub(crate) bytes_max: usize,
    /// Records from here on count as recent.
    pub(crate) recent_from: PhysicalOffset,
    /// Records before are no longer in the log.
    pub(crate) log_min: PhysicalOffset,
}

/// A message that a pull gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) queue_offset: QueueOffset,
    pub(crate) entry: Entry,
}

/// What a pull gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) status: GetStatus,
    pub(crate) next_begin_offset: QueueOffset,
    pub(crate) messages: Vec<Selected>,
    pub(crate) bytes: usize,
}

/// Most entries that [`select`] looks at.
pub(crate) fn scan_entries_max(messages_max: u32) -> u64 {
    let bytes = SCAN_BYTES_MAX.max(u64::from(messages_max) * ENTRY_BYTES as u64);
    bytes.div_ceil(ENTRY_BYTES as u64)
}

/// Selects from `entries`, the first of which is at `offset` in its queue. Those that `filter` lets through as far as an entry tells
/// are put to `judge`.
pub(crate) fn select(
    entries: impl Iterator<Item = Entry>,
    offset: QueueOffset,
    filter: &TagFilter,
    bounds: &Bounds,
    mut judge: impl FnMut(&Entry) -> Judgement,
) -> Selection {
    let mut selection = Selection::at(offset);
    let scan_max = usize::try_from(scan_entries_max(bounds.messages_max)).expect("a count in memory");
    for entry in entries.take(scan_max) {
        if selection.is_full_before(&entry, bounds) {
            break;
        }
        if !filter.matches(entry.tags_code) {
            selection.pass(GetStatus::NoMatchedMessage);
        } else if entry.physical_offset < bounds.log_min {
            selection.pass(GetStatus::MessageWasRemoving);
        } else {
            match judge(&entry) {
                Judgement::Wanted => selection.take(entry),
                Judgement::Unwanted => selection.pass(GetStatus::NoMatchedMessage),
                Judgement::Unknown => break,
            }
        }
    }
    selection
}

impl Selection {
    /// Nothing yet, of a queue from `offset` on.
    pub(crate) fn at(offset: QueueOffset) -> Self {
        Self {
            status: GetStatus::NoMatchedMessage,
            next_begin_offset: offset,
            messages: Vec::new(),
            bytes: 0,
        }
    }

    /// The next message goes in.
    pub(crate) fn take(&mut self, entry: Entry) {
        self.status = GetStatus::Found;
        self.bytes += entry.size_bytes as usize;
        self.messages.push(Selected { queue_offset: self.next_begin_offset, entry });
        self.next_begin_offset = self.next_begin_offset.plus(1);
    }

    /// The next message does not go in: that is what a pull without any is told.
    pub(crate) fn pass(&mut self, why: GetStatus) {
        if self.messages.is_empty() {
            self.status = why;
        }
        self.next_begin_offset = self.next_begin_offset.plus(1);
    }

    /// Whether the answer ends before `entry`. The first message always goes in.
    pub(crate) fn is_full_before(&self, entry: &Entry, bounds: &Bounds) -> bool {
        if self.messages.is_empty() {
            return false;
        }
        let is_recent = entry.physical_offset >= bounds.recent_from;
        let (messages_max, bytes_max) =
            if is_recent { (PULL_MESSAGES_MAX, PULL_BYTES_MAX) } else { (OLD_MESSAGES_MAX, OLD_BYTES_MAX) };
        let messages_max = messages_max.min(bounds.messages_max) as usize;
        let bytes_max = bytes_max.min(bounds.bytes_max.clamp(ASKED_BYTES_MIN, ASKED_BYTES_MAX));
        self.messages.len() >= messages_max || self.bytes + entry.size_bytes as usize > bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(messages_max: u32, bytes_max: usize) -> Bounds {
        Bounds {
            messages_max,
            bytes_max,
            recent_from: PhysicalOffset::new(1000),
            log_min: PhysicalOffset::ZERO,
        }
    }

    fn entries(from: u64, size_bytes: u32) -> impl Iterator<Item = Entry> {
        (from..from + 2000).map(move |at| Entry {
            physical_offset: PhysicalOffset::new(at),
            size_bytes,
            tags_code: i64::from(at % 2 == 0),
        })
    }

    fn wanted(_: &Entry) -> Judgement {
        Judgement::Wanted
    }

    fn counted(entries: impl Iterator<Item = Entry>, bounds: &Bounds) -> (usize, u64) {
        let selection = select(entries, QueueOffset::new(5), &TagFilter::All, bounds, wanted);
        (selection.messages.len(), selection.next_begin_offset.get())
    }

    #[test]
    fn limits_are_rocketmqs() {
        assert_eq!(counted(entries(1000, 10), &bounds(16, 1 << 20)), (16, 21));
        assert_eq!(counted(entries(1000, 10), &bounds(64, 1 << 20)), (32, 37), "recent: 32 messages");
        assert_eq!(counted(entries(0, 10), &bounds(64, 1 << 20)), (8, 13), "old: 8 messages");
        assert_eq!(counted(entries(1000, 100_000), &bounds(32, 1 << 30)), (2, 7), "recent: 256 KiB");
        assert_eq!(counted(entries(0, 30_000), &bounds(32, 1 << 30)), (2, 7), "old: 64 KiB");
        assert_eq!(counted(entries(0, 3_000_000), &bounds(32, 1)), (1, 6), "the first whatever its size");
        assert_eq!(counted(entries(1000, 40), &bounds(32, 1)), (2, 7), "at least 100 bytes");
    }

    #[test]
    fn filtered_messages_are_passed_over_up_to_the_scan_limit() {
        let none = TagFilter::Codes(vec![7]);
        let selection = select(entries(1000, 10), QueueOffset::ZERO, &none, &bounds(32, 1 << 20), wanted);
        assert_eq!(selection.status, GetStatus::NoMatchedMessage);
        assert_eq!(selection.next_begin_offset.get(), 800);
        let even = TagFilter::Codes(vec![1]);
        let selection = select(entries(1000, 10), QueueOffset::ZERO, &even, &bounds(3, 1 << 20), wanted);
        let offsets: Vec<_> = selection.messages.iter().map(|message| message.queue_offset.get()).collect();
        assert_eq!((offsets, selection.bytes), (vec![0, 2, 4], 30));
        assert_eq!(selection.next_begin_offset.get(), 5);
    }

    #[test]
    fn removed_messages_are_passed_over() {
        let mut bounds = bounds(4, 1 << 20);
        bounds.log_min = PhysicalOffset::new(10_000);
        let selection = select(entries(0, 10), QueueOffset::ZERO, &TagFilter::All, &bounds, wanted);
        assert_eq!(selection.status, GetStatus::MessageWasRemoving);
        assert_eq!(selection.next_begin_offset.get(), 800);
    }

    #[test]
    fn a_selection_goes_past_what_is_judged_unwanted_and_ends_before_what_cannot_be_judged() {
        let judged = |entry: &Entry| match entry.physical_offset.get() {
            1700.. => Judgement::Unknown,
            at if at % 100 == 0 => Judgement::Wanted,
            _ => Judgement::Unwanted,
        };
        let bounds = bounds(32, 1 << 20);
        let all = TagFilter::All;
        let selection = select(entries(1000, 10), QueueOffset::ZERO, &all, &bounds, judged);
        let offsets: Vec<_> = selection.messages.iter().map(|message| message.queue_offset.get()).collect();
        assert_eq!(offsets, [0, 100, 200, 300, 400, 500, 600]);
        assert_eq!((selection.status, selection.next_begin_offset.get()), (GetStatus::Found, 700));
        let selection = select(entries(1701, 10), QueueOffset::ZERO, &all, &bounds, judged);
        assert_eq!((selection.status, selection.next_begin_offset.get()), (GetStatus::NoMatchedMessage, 0));
    }
}
