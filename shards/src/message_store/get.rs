//! What a pull asks of the store and what it gets.

use bytes::Bytes;

use crate::consume_queue::selection::{GetStatus, TagFilter};
use crate::position::QueueOffset;

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
    /// Whole records, in queue order. Those that lie side by side in memory come as one piece.
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
