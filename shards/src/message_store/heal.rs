//! What becomes of a message that cannot be read where its ConsumeQueue entry leads. The log decides: entries are derived from it.
//!
//! ```text
//!  entries   k-1          k           k+1          when the record at the place of k does not look like message k at all,
//!             │           ?            │           everything between its neighbours is searched: k is there, or it is lost
//!  log   ═════╪═══════╪═══════╪═══════╪══════
//! ```

use bytes::Bytes;

use crate::consume_queue::QueueName;
use crate::consume_queue::selection::Selected;
use crate::io::cold_file::DIRECT_ALIGNMENT;
use crate::message_store::ReadError;
use crate::message_store::log_reader::LogReader;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::{IDENTITY_BYTES, MAGIC_V1, MAGIC_V2, RecordView, takes_queue_offset};

/// Most bytes of the log that are searched for one message.
const SEARCH_BYTES_MAX: u64 = 32 << 20;
const SEARCH_CHUNK_BYTES: u64 = 256 << 10;
/// Which neighbours on each side are tried, by their distance: the nearest, and some beyond a block of entries that cannot be read.
const NEIGHBOURS: [u64; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256, 512, 1024];

/// The part of a queue that is in its files.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePart {
    pub(super) min: QueueOffset,
    /// Where it ends.
    pub(super) written: QueueOffset,
}

impl LogReader {
    /// The record of a message whose entry is right; `None` when it is lost, or removed since the log began at `planned_min`.
    pub(super) async fn message_in_place(
        &self,
        queue: &QueueName,
        message: &Selected,
        planned_min: PhysicalOffset,
    ) -> Result<Option<Bytes>, ReadError> {
        match self.message(queue, message).await {
            Ok(record) => Ok(Some(record)),
            Err(_) if self.is_removed(message.entry.physical_offset, planned_min) => Ok(None),
            Err(error @ (ReadError::Damaged { .. } | ReadError::DamagedQueue { .. })) => {
                self.damage.skipped(queue, message, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The record of a message whose entry comes from a file; `None` when it is lost, or removed since the log began at `planned_min`.
    ///
    /// # Errors
    /// The disk refuses, or what is between the message's neighbours is too much to be searched.
    pub(super) async fn message_or_loss(
        &self,
        queue: &QueueName,
        message: &Selected,
        part: QueuePart,
        planned_min: PhysicalOffset,
    ) -> Result<Option<Bytes>, ReadError> {
        let error = match self.message(queue, message).await {
            Ok(record) => return Ok(Some(record)),
            Err(_) if self.is_removed(message.entry.physical_offset, planned_min) => return Ok(None),
            Err(error @ (ReadError::Damaged { .. } | ReadError::DamagedQueue { .. })) => error,
            Err(error) => return Err(error),
        };
        let at = message.entry.physical_offset;
        if self.damage.knows(at) || self.resembles(queue, message).await? {
            self.damage.skipped(queue, message, &error);
            return Ok(None);
        }
        let found = self.find_message(queue, message.queue_offset, part).await?;
        if found.is_none() {
            self.damage.lost(queue, message, &error);
        }
        Ok(found)
    }

    /// Whether the place of an entry holds the rests of its message, and not something else.
    async fn resembles(&self, queue: &QueueName, message: &Selected) -> Result<bool, ReadError> {
        let at = message.entry.physical_offset;
        if self.readable_bytes(at) < IDENTITY_BYTES as u64 {
            return Ok(false);
        }
        let head = match self.bytes(at, IDENTITY_BYTES).await {
            // What is there cannot be told from what should be.
            Err(ReadError::Damaged { .. }) => return Ok(true),
            read => read?,
        };
        let is_its_place = head[28..36] == at.to_i64().to_be_bytes();
        let is_its_queue = head[12..16] == queue.queue_id.to_be_bytes()
            && head[20..28] == message.queue_offset.to_i64().to_be_bytes();
        // One of the two may be what is damaged; of the first message of queue 0 any zeros would do. A whole good record of something else is
        // not this message.
        let is_head = matches!(u32::from_be_bytes([head[4], head[5], head[6], head[7]]), MAGIC_V1 | MAGIC_V2);
        Ok((is_its_place || is_its_queue && is_head) && !matches!(self.record(at).await, Ok(Some(_))))
    }

    /// Searches the log for a message, between its neighbours; `None` when it is lost.
    ///
    /// # Errors
    /// The disk refuses, or what is between the neighbours is too much to be searched.
    pub(super) async fn find_message(
        &self,
        queue: &QueueName,
        offset: QueueOffset,
        part: QueuePart,
    ) -> Result<Option<Bytes>, ReadError> {
        let error = self.damaged_queue(queue, offset);
        let from = self.end_of_earlier(queue, offset, part).await?;
        let to = self.start_of_later(queue, offset, part).await?;
        if from > to || to.since(from) > SEARCH_BYTES_MAX {
            return Err(error);
        }
        let mut at = from;
        while at < to {
            let len = to.since(at).min(SEARCH_CHUNK_BYTES).min(self.readable_bytes(at));
            if len == 0 {
                break;
            }
            let in_memory = usize::try_from(len).expect("a chunk fits in memory");
            let chunk = match self.bytes(at, in_memory).await {
                Err(ReadError::Damaged { .. }) => self.readable_log(at, in_memory).await?,
                read => read?,
            };
            for index in 0..chunk.len().saturating_sub(7) {
                let is_head = matches!(
                    u32::from_be_bytes([
                        chunk[index + 4],
                        chunk[index + 5],
                        chunk[index + 6],
                        chunk[index + 7]
                    ]),
                    MAGIC_V1 | MAGIC_V2
                );
                if is_head && let Ok(Some(record)) = self.record(at.plus(index as u64)).await {
                    let view = RecordView::parse(&record).expect("the record was checked when it was read");
                    if takes_queue_offset(view.sys_flag())
                        && view.topic() == &*queue.topic
                        && view.queue_id() == queue.queue_id
                        && view.queue_offset() == offset
                    {
                        self.damage.healed(&error);
                        return Ok(Some(record));
                    }
                }
            }
            at = match chunk.len() as u64 {
                // A block that cannot be read is passed over.
                read if read < len => {
                    PhysicalOffset::new((at.get() + read + 1).next_multiple_of(DIRECT_ALIGNMENT))
                }
                // A head may lie across the end of the chunk.
                SEARCH_CHUNK_BYTES => at.plus(len - 7),
                _ => at.plus(len),
            };
        }
        Ok(None)
    }

    /// Where the record of the nearest earlier message that can be read ends; the start of the log when there is none.
    async fn end_of_earlier(
        &self,
        queue: &QueueName,
        offset: QueueOffset,
        part: QueuePart,
    ) -> Result<PhysicalOffset, ReadError> {
        for back in NEIGHBOURS {
            let Some(earlier) = offset.get().checked_sub(back).map(QueueOffset::new) else { break };
            if earlier < part.min {
                break;
            }
            if let Some((at, size)) = self.place(queue, earlier, part).await? {
                return Ok(at.plus(size));
            }
        }
        Ok(self.log_min.get())
    }

    /// Where the record of the nearest later message that can be read starts; the end of the log when there is none.
    async fn start_of_later(
        &self,
        queue: &QueueName,
        offset: QueueOffset,
        part: QueuePart,
    ) -> Result<PhysicalOffset, ReadError> {
        for ahead in NEIGHBOURS {
            let later = offset.plus(ahead);
            if later >= part.written {
                break;
            }
            if let Some((at, _)) = self.place(queue, later, part).await? {
                return Ok(at);
            }
        }
        Ok(self.confirm_offset.get())
    }

    /// Where a message is, and its bytes, when entry and record agree.
    async fn place(
        &self,
        queue: &QueueName,
        offset: QueueOffset,
        part: QueuePart,
    ) -> Result<Option<(PhysicalOffset, u64)>, ReadError> {
        let entries = self.entries(queue, offset, 1, part.written).await?;
        let Some(entry) = entries.first().copied() else { return Ok(None) };
        match self.message(queue, &Selected { queue_offset: offset, entry }).await {
            Ok(_) => Ok(Some((entry.physical_offset, u64::from(entry.size_bytes)))),
            Err(ReadError::Damaged { .. } | ReadError::DamagedQueue { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
