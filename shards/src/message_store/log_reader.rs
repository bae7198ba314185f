//! Reads records of the log on the serve core: from the hot tail where they are there, otherwise from the disk. Shared by the
//! store and by the reads that are under way. Nothing that was not confirmed is ever read, and nothing leaves from the disk
//! before its CRC was checked. What is in the hot tail was placed in this memory by this process and never was on a disk: it is as good as
//! the memory is, and leaves unchecked.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use crate::cold_read::{ColdName, ColdReader, ReadError, Stretch};
use crate::consume_queue::selection::Selected;
use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, QueueName, file_place};
use crate::deliberate::{Mistake, makes};
use crate::io::cold_file::DIRECT_ALIGNMENT;
use crate::limits::RECORD_BYTES_MAX;
use crate::message_store::hot_tail::HotTail;
use crate::message_store::met_damage::MetDamage;
use crate::message_store::scrub::ScrubMeter;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::{BLANK_BYTES, RecordError, RecordView, peek_size};
use crate::segment::segment_start;

#[derive(Debug)]
pub(crate) struct LogReader {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) tail: RefCell<HotTail>,
    pub(crate) cold: ColdReader,
    /// End of what may be read.
    pub(crate) confirm_offset: Cell<PhysicalOffset>,
    /// Start of the log.
    pub(crate) log_min: Cell<PhysicalOffset>,
    /// The log before its start is being removed: entries of what is gone may still be met.
    pub(crate) is_being_removed: Cell<bool>,
    pub(crate) damage: MetDamage,
    pub(crate) scrub: ScrubMeter,
}

impl LogReader {
    /// Bytes of the hot tail.
    pub(crate) fn hot(&self, at: PhysicalOffset, len: usize) -> Option<Bytes> {
        self.tail.borrow().bytes(at, len)
    }

    /// Bytes of the log, wherever they are. They must be confirmed.
    pub(crate) async fn bytes(&self, at: PhysicalOffset, len: usize) -> Result<Bytes, ReadError> {
        match self.hot(at, len) {
            Some(bytes) => Ok(bytes),
            None => self.cold.read(&self.stretch(at, len)?).await.map_err(|error| lost(at, error)),
        }
    }

    /// The same once more from the disk, whatever the cache holds.
    async fn bytes_anew(&self, at: PhysicalOffset, len: usize) -> Result<Bytes, ReadError> {
        let stretch = self.stretch(at, len)?;
        self.cold.forget(&stretch);
        self.cold.read(&stretch).await.map_err(|error| lost(at, error))
    }

    fn stretch(&self, at: PhysicalOffset, len: usize) -> Result<Stretch, ReadError> {
        let start = segment_start(at, self.segment_bytes);
        // Where entries lead to that come from a disk may be anywhere.
        let confirmed = self.confirm_offset.get().get().saturating_sub(start.get()).min(self.segment_bytes);
        let stretch =
            Stretch { name: ColdName::Segment { start }, at: at.since(start), len, final_bytes: confirmed };
        if stretch.at + len as u64 > confirmed {
            let reason = format!("{len} bytes go beyond the end of the file or of the log");
            return Err(ReadError::Damaged { at, reason });
        }
        Ok(stretch)
    }

    /// Whether the record at `at` was removed after a read was planned, when the log began at `planned_min`, or is being removed now: what is
    /// read there means nothing.
    pub(crate) fn is_removed(&self, at: PhysicalOffset, planned_min: PhysicalOffset) -> bool {
        at < self.log_min.get() && (at >= planned_min || self.is_being_removed.get())
    }

    /// Records before this are passed over without a word, as they are being removed; at other times no entry should lead there.
    pub(crate) fn passed_before(&self) -> PhysicalOffset {
        if self.is_being_removed.get() { self.log_min.get() } else { PhysicalOffset::ZERO }
    }

    /// The record that starts at `at`; `None` when none does, or it may not be read. Damage is told and remembered.
    pub(crate) async fn record(&self, at: PhysicalOffset) -> Result<Option<Bytes>, ReadError> {
        match self.record_at(at).await {
            Err(_) if at < self.log_min.get() => Ok(None),
            read => read,
        }
    }

    async fn record_at(&self, at: PhysicalOffset) -> Result<Option<Bytes>, ReadError> {
        if self.readable_bytes(at) < BLANK_BYTES as u64 {
            return Ok(None);
        }
        let Ok(size) = peek_size(&self.bytes_told(at, BLANK_BYTES).await?) else { return Ok(None) };
        if self.readable_bytes(at) < size as u64 {
            return Ok(None);
        }
        let mut bytes = self.bytes_told(at, size).await?;
        let mut checked = checked_record(&bytes, at);
        if checked.is_err() {
            bytes = self.bytes_anew(at, size).await?;
            checked = checked_record(&bytes, at);
        }
        if let Err(error) = &checked {
            self.damage.met(at, size as u64, error);
        }
        checked.map(|is_record| is_record.then_some(bytes))
    }

    /// As [`Self::bytes`]; what cannot be read is told and remembered, up to the end of its block: what is behind it is not known.
    async fn bytes_told(&self, at: PhysicalOffset, len: usize) -> Result<Bytes, ReadError> {
        let read = self.bytes(at, len).await;
        if let Err(error @ ReadError::Damaged { .. }) = &read {
            let block_rest = DIRECT_ALIGNMENT - at.get() % DIRECT_ALIGNMENT;
            self.damage.met(at, block_rest.min(len as u64), error);
        }
        read
    }

    /// The same from the hot tail alone; `None` when it is not there.
    pub(crate) fn hot_record(&self, at: PhysicalOffset) -> Option<Result<Option<Bytes>, ReadError>> {
        let head = self.hot(at, BLANK_BYTES)?;
        let Ok(size) = peek_size(&head) else { return Some(Ok(None)) };
        if self.readable_bytes(at) < size as u64 {
            return Some(Ok(None));
        }
        let bytes = self.hot(at, size)?;
        Some(checked_record(&bytes, at).map(|is_record| is_record.then_some(bytes)))
    }

    /// Whether something that leads to `at` is wrong when there is no record: it is not before the log's start, as what retention has
    /// removed, and not known to be damaged.
    pub(crate) fn should_hold_a_record(&self, at: PhysicalOffset) -> bool {
        let is_in_log = at >= self.confirm_offset.get() || self.readable_bytes(at) > 0;
        is_in_log && !self.damage.knows(at)
    }

    /// How much from `at` on may be read, up to the end of its file.
    pub(crate) fn readable_bytes(&self, at: PhysicalOffset) -> u64 {
        let confirm_offset = self.confirm_offset.get();
        if at < self.log_min.get() || at >= confirm_offset {
            return 0;
        }
        let file_rest = self.segment_bytes - at.get() % self.segment_bytes;
        confirm_offset.since(at).min(file_rest)
    }

    /// The record that a ConsumeQueue entry names.
    pub(crate) async fn message(&self, queue: &QueueName, message: &Selected) -> Result<Bytes, ReadError> {
        let Entry { physical_offset: at, size_bytes, .. } = message.entry;
        if at < self.log_min.get() || size_bytes as usize > RECORD_BYTES_MAX {
            return Err(self.damaged_queue(queue, message.queue_offset));
        }
        let bytes = self.bytes(at, size_bytes as usize).await?;
        if makes(Mistake::TrustAConsumeQueue) || self.check_message(&bytes, queue, message).is_ok() {
            return Ok(bytes);
        }
        // Once more, in case that the disk is well and the way from it was not.
        let bytes = self.bytes_anew(at, size_bytes as usize).await?;
        self.check_message(&bytes, queue, message).map(|()| bytes)
    }

    /// Whether the bytes are the record that a ConsumeQueue entry names.
    fn check_message(&self, bytes: &[u8], queue: &QueueName, message: &Selected) -> Result<(), ReadError> {
        let at = message.entry.physical_offset;
        let damaged = |error: RecordError| {
            let QueueName { topic, queue_id } = queue;
            let reason = format!("{error} (message {} of queue {queue_id} of {topic})", message.queue_offset);
            ReadError::Damaged { at, reason }
        };
        let record = RecordView::parse(bytes).map_err(damaged)?;
        record.verify_crc().map_err(damaged)?;
        let is_it = record.physical_offset() == at
            && record.total_size() == bytes.len()
            && record.topic() == &*queue.topic
            && record.queue_id() == queue.queue_id
            && record.queue_offset() == message.queue_offset;
        if is_it { Ok(()) } else { Err(self.damaged_queue(queue, message.queue_offset)) }
    }

    /// When the record that an entry names was stored.
    pub(crate) async fn store_time(&self, queue: &QueueName, message: &Selected) -> Result<i64, ReadError> {
        let bytes = self.message(queue, message).await?;
        Ok(stored_time(&bytes))
    }

    /// At most `count` entries of a queue's files from `from` on, all before `written`: up to the first that is no entry, or cannot be
    /// read.
    pub(crate) async fn entries(
        &self,
        queue: &QueueName,
        from: QueueOffset,
        count: u64,
        written: QueueOffset,
    ) -> Result<Vec<Entry>, ReadError> {
        assert!(from.plus(count) <= written);
        let mut entries = Vec::with_capacity(usize::try_from(count).expect("a bounded number"));
        let mut next = from;
        let end = from.plus(count);
        while next < end {
            let (file_start, at) = file_place(next);
            let len = (end.since(next) * ENTRY_BYTES as u64).min(FILE_BYTES - at);
            let written_bytes = written.get() * ENTRY_BYTES as u64;
            let stretch = Stretch {
                name: ColdName::Queue { name: queue.clone(), file_start },
                at,
                len: usize::try_from(len).expect("a bounded number"),
                final_bytes: (written_bytes - file_start).min(FILE_BYTES),
            };
            let bytes = match self.cold.read(&stretch).await {
                Err(ReadError::Unreadable { .. }) => self.readable_start(&stretch).await?,
                read => read?,
            };
            let is_all = bytes.len() == stretch.len;
            for bytes in bytes.chunks_exact(ENTRY_BYTES) {
                let bytes = bytes.try_into().expect("chunks have this length");
                let Some(entry) = Entry::decode(bytes) else { return Ok(entries) };
                entries.push(entry);
                next = next.plus(1);
            }
            if !is_all {
                break;
            }
        }
        Ok(entries)
    }

    /// The bytes of a stretch up to the first block that the disk refuses.
    async fn readable_start(&self, stretch: &Stretch) -> Result<Bytes, ReadError> {
        let mut start = BytesMut::new();
        while start.len() < stretch.len {
            let at = stretch.at + start.len() as u64;
            let block_rest = DIRECT_ALIGNMENT - at % DIRECT_ALIGNMENT;
            let block_rest = usize::try_from(block_rest).expect("less than a block");
            let len = block_rest.min(stretch.len - start.len());
            match self.cold.read_once(&Stretch { at, len, ..stretch.clone() }).await {
                Ok(bytes) => start.extend_from_slice(&bytes),
                Err(ReadError::Unreadable { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(start.freeze())
    }

    /// The bytes of the log from `at` on, at most `len`, up to the first block that the disk refuses; none when it refuses the first.
    pub(crate) async fn readable_log(&self, at: PhysicalOffset, len: usize) -> Result<Bytes, ReadError> {
        self.readable_start(&self.stretch(at, len)?).await
    }

    pub(crate) fn damaged_queue(&self, queue: &QueueName, offset: QueueOffset) -> ReadError {
        let (file_start, at) = file_place(offset);
        let path = queue.file_path(&self.dir, file_start).display().to_string();
        ReadError::DamagedQueue { path, at }
    }
}

/// What cannot be read at a place of the log is as lost as what was damaged there.
fn lost(at: PhysicalOffset, error: ReadError) -> ReadError {
    match error {
        ReadError::Unreadable { .. } => ReadError::Damaged { at, reason: error.to_string() },
        other => other,
    }
}

/// When a record that has been checked was stored.
pub(crate) fn stored_time(record: &[u8]) -> i64 {
    RecordView::parse(record).expect("the record was checked when it was read").store_timestamp_ms()
}

/// Whether the bytes are the record that belongs at `at`.
fn checked_record(bytes: &[u8], at: PhysicalOffset) -> Result<bool, ReadError> {
    match RecordView::parse(bytes) {
        Ok(record) if record.physical_offset() == at => record
            .verify_crc()
            .map(|()| true)
            .map_err(|error| ReadError::Damaged { at, reason: error.to_string() }),
        // Somewhere inside a record, where its bytes look like the start of another.
        _ => Ok(false),
    }
}
