//! What a pull asks of the store and what it gets.

use bytes::Bytes;

use crate::position::{PhysicalOffset, QueueOffset};

/// A read of one queue from one offset on.
#[derive(Clone, Copy, Debug)]
pub struct GetRequest<'a> {
    pub topic: &'a str,
    pub queue_id: u32,
    /// The first message wanted.
    pub offset: QueueOffset,
    /// Most messages wanted. The store's own limits apply too; the first message is given whatever its size.
    pub messages_max: u32,
    /// Most bytes of records wanted.
    pub bytes_max: usize,
    pub filter: &'a TagFilter,
}

/// Which messages of a queue are wanted, by the hash of their tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TagFilter {
    /// All of them.
    #[default]
    All,
    /// Those whose tag hashes to one of these. A message without a tag has the code 0.
    Codes(Vec<i64>),
}

impl TagFilter {
    /// Whether a message with this tags code is wanted.
    pub fn matches(&self, tags_code: i64) -> bool {
        match self {
            Self::All => true,
            Self::Codes(codes) => codes.contains(&tags_code),
        }
    }
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

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetResult {
    pub status: GetStatus,
    /// Where the reader goes on: behind everything scanned, also when nothing matched.
    pub next_begin_offset: QueueOffset,
    /// First offset of the queue.
    pub min_offset: QueueOffset,
    /// The offset that the queue's next message gets.
    pub max_offset: QueueOffset,
    /// Whole records, in queue order.
    pub records: Vec<Bytes>,
    /// Sum of the lengths of `records`.
    pub bytes: usize,
    /// How many messages `records` holds.
    pub messages: u32,
}

impl GetResult {
    /// An answer without messages.
    pub(crate) fn empty(status: GetStatus, next_begin_offset: QueueOffset, bounds: QueueBounds) -> Self {
        Self {
            status,
            next_begin_offset,
            min_offset: bounds.min,
            max_offset: bounds.max,
            records: Vec::new(),
            bytes: 0,
            messages: 0,
        }
    }
}

/// First and next offset of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    pub min: QueueOffset,
    /// The offset that the queue's next message gets.
    pub max: QueueOffset,
}

/// Which of the messages around a time a search by time wants (RocketMQ's `BoundaryType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeBoundary {
    /// The first message stored at or after the time; the end of the queue when there is none.
    #[default]
    Lower,
    /// The last message stored at or before the time; 0 when there is none.
    Upper,
}

/// Why stored messages could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("cannot read {path} at byte {at}: {reason}")]
    Io { path: String, at: u64, reason: String },
    /// What is on the disk is not the record that was stored there. Nothing of it leaves the store.
    #[error(
        "the CommitLog is damaged at physical offset {at}: {reason}; restore it from a copy or a replica"
    )]
    Damaged { at: PhysicalOffset, reason: String },
    /// A ConsumeQueue file does not say what the CommitLog says. Deleting it makes the next start rebuild it.
    #[error(
        "the ConsumeQueue file {path} is damaged at byte {at}; stop the broker, delete the file and start again"
    )]
    DamagedQueue { path: String, at: u64 },
}
