//! Reads that need the disk. Each owns what it needs, so that nothing of the store is borrowed while it waits.
//!
//! A message that is damaged on the disk is passed over: its neighbours are given, and the reader goes on behind it.

use std::rc::Rc;

use bytes::Bytes;

use crate::consume_queue::selection::{Bounds, Judgement, Selected, Selection, select};
use crate::consume_queue::{Entry, QueueName};
use crate::dispatch::derive;
use crate::limits::FILTER_COLD_BYTES_PER_PULL_MAX;
use crate::message_store::heal::QueuePart;
use crate::message_store::log_reader::{LogReader, stored_time};
use crate::message_store::{
    FilterSteps, GetResult, GetStatus, PropertyFilter, QueueBounds, ReadError, TagFilter, TimeBoundary,
};
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::RecordView;

/// Damaged messages next to each other that a search by time looks past.
const PASSED_MAX: u64 = 64;

/// The store time of a message whose record is being removed: before all that are kept.
pub(super) const REMOVED_MS: i64 = i64::MIN;

/// A pull that needs the disk.
#[derive(Debug)]
pub struct ColdGet {
    pub(super) from: ReadFrom,
    pub(super) plan: GetPlan,
}

/// Where a pull reads.
#[derive(Debug)]
pub(super) struct ReadFrom {
    pub(super) reader: Rc<LogReader>,
    pub(super) queue: QueueName,
    pub(super) bounds: QueueBounds,
    /// The first offset that is wanted.
    pub(super) offset: QueueOffset,
    /// Where the log began when this was planned.
    pub(super) planned_min: PhysicalOffset,
}

/// What is known of a pull that needs the disk.
#[derive(Debug)]
pub(super) enum GetPlan {
    /// Its messages; some are not in memory.
    Messages(Selection),
    /// Its entries, whose records have to be read to know which are wanted.
    Judged { entries: Vec<Entry>, filter: PropertyFilter, limits: Bounds },
    /// Its entries are in the files.
    Entries { count: u64, written: QueueOffset, filter: TagFilter, limits: Bounds },
    /// It cannot be answered now.
    Refused(ReadError),
}

impl ColdGet {
    /// Reads.
    ///
    /// # Errors
    /// The disk refuses; or a ConsumeQueue is damaged in such a way that it is not known whether a message is lost.
    pub async fn run(self) -> Result<GetResult, ReadError> {
        let Self { from, plan } = self;
        match from.read(plan).await {
            // The files may have gone during the read. Who comes back for the same is told where the queue begins.
            Err(_) if from.reader.log_min.get() > from.planned_min => {
                Ok(GetResult::empty(GetStatus::MessageWasRemoving, from.offset, from.bounds))
            }
            read => read,
        }
    }
}

impl ReadFrom {
    async fn read(&self, plan: GetPlan) -> Result<GetResult, ReadError> {
        let (reader, queue, offset) = (&self.reader, &self.queue, self.offset);
        let (mut selection, part) = match plan {
            GetPlan::Messages(selection) => (selection, None),
            GetPlan::Refused(error) => return Err(error),
            GetPlan::Judged { entries, filter, limits } => {
                return self.judge(&entries, &filter, &limits, None).await;
            }
            GetPlan::Entries { count, written, filter, limits } => {
                let part = QueuePart { min: self.bounds.min, written };
                let entries = reader.entries(queue, offset, count, written).await?;
                if entries.is_empty() {
                    let found = reader.find_message(queue, offset, part).await?;
                    return Ok(only(found, offset, self.bounds, &filter));
                }
                if let TagFilter::Properties(filter) = &filter {
                    return self.judge(&entries, filter, &limits, Some(part)).await;
                }
                let wanted = |_: &Entry| Judgement::Wanted;
                (select(entries.into_iter(), offset, &filter, &limits, wanted), Some(part))
            }
        };
        let mut records = Vec::with_capacity(selection.messages.len());
        for message in std::mem::take(&mut selection.messages) {
            match self.message(&message, part).await {
                Ok(Some(record)) => {
                    records.push(record);
                    selection.messages.push(message);
                }
                Ok(None) => {}
                Err(error) if message.queue_offset == offset => return Err(error),
                // What there is before goes first; who comes back for this one is told.
                Err(_) => {
                    selection.next_begin_offset = message.queue_offset;
                    break;
                }
            }
        }
        selection.bytes = records.iter().map(Bytes::len).sum();
        if records.is_empty() && selection.status == GetStatus::Found {
            selection.status = GetStatus::MessageWasRemoving;
        }
        Ok(result(selection, self.bounds, records))
    }

    /// One message; `part` is what is known of its queue when its entry came from the files. `None` when it is lost or removed.
    async fn message(&self, message: &Selected, part: Option<QueuePart>) -> Result<Option<Bytes>, ReadError> {
        match part {
            Some(part) => self.reader.message_or_loss(&self.queue, message, part, self.planned_min).await,
            None => self.reader.message_in_place(&self.queue, message, self.planned_min).await,
        }
    }

    /// Reads one message after the other and keeps those that `filter` lets through, until the answer is full, or enough was read and
    /// judged for one pull.
    async fn judge(
        &self,
        entries: &[Entry],
        filter: &PropertyFilter,
        limits: &Bounds,
        part: Option<QueuePart>,
    ) -> Result<GetResult, ReadError> {
        let mut selection = Selection::at(self.offset);
        let (mut records, mut read_bytes, mut steps) = (Vec::new(), 0, FilterSteps::default());
        for entry in entries {
            let is_enough = read_bytes >= FILTER_COLD_BYTES_PER_PULL_MAX || steps.are_spent();
            if is_enough || selection.is_full_before(entry, limits) {
                break;
            }
            if entry.physical_offset < limits.log_min {
                selection.pass(GetStatus::MessageWasRemoving);
                continue;
            }
            let message = Selected { queue_offset: selection.next_begin_offset, entry: *entry };
            match self.message(&message, part).await {
                Ok(Some(record)) => {
                    let view = RecordView::parse(&record).expect("the record was checked when it was read");
                    read_bytes += record.len();
                    if filter.matches(view.properties(), &mut steps) {
                        records.push(record);
                        selection.take(*entry);
                    } else {
                        selection.pass(GetStatus::NoMatchedMessage);
                    }
                }
                Ok(None) => selection.pass(GetStatus::MessageWasRemoving),
                Err(error) if message.queue_offset == self.offset => return Err(error),
                // What there is before goes first; who comes back for this one is told.
                Err(_) => break,
            }
        }
        selection.bytes = records.iter().map(Bytes::len).sum();
        Ok(result(selection, self.bounds, records))
    }
}

/// The answer to a pull whose first message has no entry and was looked for in the log.
fn only(found: Option<Bytes>, offset: QueueOffset, bounds: QueueBounds, filter: &TagFilter) -> GetResult {
    let Some(record) = found else {
        return GetResult::empty(GetStatus::MessageWasRemoving, offset.plus(1), bounds);
    };
    let view = RecordView::parse(&record).expect("the record was checked when it was read");
    let is_wanted = derive(&view, &mut Vec::new())
        .is_some_and(|entry| filter.matches_message(entry.tags_code, view.properties()));
    if !is_wanted {
        return GetResult::empty(GetStatus::NoMatchedMessage, offset.plus(1), bounds);
    }
    GetResult {
        status: GetStatus::Found,
        messages: 1,
        bytes: record.len(),
        records: vec![record],
        ..GetResult::empty(GetStatus::Found, offset.plus(1), bounds)
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
            None => {
                let entries = self.reader.entries(&self.queue, offset, 1, self.written).await?;
                *entries.first().ok_or_else(|| self.reader.damaged_queue(&self.queue, offset))?
            }
        };
        if entry.physical_offset < self.reader.passed_before() {
            return Ok(REMOVED_MS);
        }
        self.reader.store_time(&self.queue, &Selected { queue_offset: offset, entry }).await
    }

    /// The first message from `offset` on and before `end` that can be read, with the time when it was stored.
    async fn first_store_time(
        &self,
        offset: QueueOffset,
        end: QueueOffset,
    ) -> Result<Option<(QueueOffset, i64)>, ReadError> {
        let mut at = offset;
        loop {
            match self.store_time(at).await {
                Ok(time) => return Ok(Some((at, time))),
                Err(ReadError::Damaged { .. } | ReadError::DamagedQueue { .. })
                    if at.since(offset) < PASSED_MAX =>
                {
                    at = at.plus(1);
                    if at == end {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The first offset of this part that is not `before` the time; its end when all are.
    pub(super) async fn search(&self, time: TimeMark) -> Result<QueueOffset, ReadError> {
        let (mut low, mut high) = (self.from, self.to);
        while low < high {
            let middle = low.plus(high.since(low) / 2);
            match self.first_store_time(middle, high).await? {
                Some((at, stored_ms)) if time.is_after(stored_ms) => low = at.plus(1),
                _ => high = middle,
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
