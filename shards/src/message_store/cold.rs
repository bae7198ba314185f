//! Reads that need the disk. Each owns what it needs, so that nothing of the store is borrowed while it waits.

use std::rc::Rc;

use bytes::Bytes;

use crate::consume_queue::selection::{Bounds, Selected, Selection, select};
use crate::consume_queue::{Entry, QueueName};
use crate::message_store::log_reader::{LogReader, stored_time};
use crate::message_store::{GetResult, QueueBounds, ReadError, TagFilter, TimeBoundary};
use crate::position::{PhysicalOffset, QueueOffset};

/// A pull that needs the disk.
#[derive(Debug)]
pub struct ColdGet {
    pub(super) reader: Rc<LogReader>,
    pub(super) queue: QueueName,
    pub(super) bounds: QueueBounds,
    pub(super) plan: GetPlan,
}

/// What is known of a pull that needs the disk.
#[derive(Debug)]
pub(super) enum GetPlan {
    /// Its messages; some are not in memory.
    Messages(Selection),
    /// Its entries are in the files.
    Entries { offset: QueueOffset, count: u64, written: QueueOffset, filter: TagFilter, limits: Bounds },
}

impl ColdGet {
    /// Reads.
    ///
    /// # Errors
    /// The disk refuses, or what it holds is damaged.
    pub async fn run(self) -> Result<GetResult, ReadError> {
        let selection = match self.plan {
            GetPlan::Messages(selection) => selection,
            GetPlan::Entries { offset, count, written, filter, limits } => {
                let entries = self.reader.entries(&self.queue, offset, count, written).await?;
                select(entries.into_iter(), offset, &filter, &limits)
            }
        };
        let mut records = Vec::with_capacity(selection.messages.len());
        for message in &selection.messages {
            records.push(self.reader.message(&self.queue, message).await?);
        }
        Ok(result(selection, self.bounds, records))
    }
}

/// The answer to a pull whose records are there.
pub(super) fn result(selection: Selection, bounds: QueueBounds, records: Vec<Bytes>) -> GetResult {
    assert!(records.len() <= selection.messages.len(), "a piece holds a record or more");
    GetResult {
        status: selection.status,
        next_begin_offset: selection.next_begin_offset,
        min_offset: bounds.min,
        max_offset: bounds.max,
        messages: u32::try_from(selection.messages.len()).expect("a pull gets a few messages"),
        bytes: selection.bytes,
        records,
    }
}

/// A read of one record that needs the disk.
#[derive(Debug)]
pub struct ColdRecord {
    pub(super) reader: Rc<LogReader>,
    pub(super) at: PhysicalOffset,
}

impl ColdRecord {
    /// Reads; `None` when no record starts at the place.
    ///
    /// # Errors
    /// The disk refuses, or the record is damaged.
    pub async fn run(self) -> Result<Option<Bytes>, ReadError> {
        self.reader.record(self.at).await
    }
}

/// One queue's older part, as far as a search by time must look there.
#[derive(Debug)]
pub(super) struct OldMessages {
    pub(super) reader: Rc<LogReader>,
    pub(super) queue: QueueName,
    pub(super) from: QueueOffset,
    pub(super) to: QueueOffset,
    /// Entries before this are in the files.
    pub(super) written: QueueOffset,
    /// The entries from there on, up to `to`.
    pub(super) entries: Vec<Entry>,
}

impl OldMessages {
    /// When the message at `offset` was stored.
    pub(super) async fn store_time(&self, offset: QueueOffset) -> Result<i64, ReadError> {
        let entry = match offset.get().checked_sub(self.written.get()) {
            Some(index) => self.entries[usize::try_from(index).expect("an index in memory")],
            None => self.reader.entries(&self.queue, offset, 1, self.written).await?[0],
        };
        self.reader.store_time(&self.queue, &Selected { queue_offset: offset, entry }).await
    }

    /// The first offset of this part that is not `before` the time; its end when all are.
    pub(super) async fn search(&self, time: TimeMark) -> Result<QueueOffset, ReadError> {
        let (mut low, mut high) = (self.from, self.to);
        while low < high {
            let middle = low.plus(high.since(low) / 2);
            if time.is_after(self.store_time(middle).await?) {
                low = middle.plus(1);
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// A time that splits a queue in two.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeMark {
    pub(super) timestamp_ms: i64,
    pub(super) boundary: TimeBoundary,
}

impl TimeMark {
    /// Whether a message that was stored then belongs to the part before the mark.
    pub(super) fn is_after(self, store_timestamp_ms: i64) -> bool {
        match self.boundary {
            TimeBoundary::Lower => store_timestamp_ms < self.timestamp_ms,
            TimeBoundary::Upper => store_timestamp_ms <= self.timestamp_ms,
        }
    }

    pub(super) fn is_after_record(self, record: &[u8]) -> bool {
        self.is_after(stored_time(record))
    }

    /// The answer, given where the second part starts in a queue that starts at `min`.
    pub(super) fn offset(self, split: QueueOffset, min: QueueOffset) -> QueueOffset {
        match self.boundary {
            TimeBoundary::Lower => split,
            TimeBoundary::Upper if split > min => QueueOffset::new(split.get() - 1),
            TimeBoundary::Upper => QueueOffset::ZERO,
        }
    }
}
