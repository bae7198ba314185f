//! ConsumeQueues: for every queue of every topic, where its messages are in the CommitLog.
//!
//! Derived from the log and never believed over it. The entries of the recent past are in memory on the serve core
//! ([`table`]); all are in files that the side thread writes ([`files`]), in RocketMQ's layout:
//!
//! ```text
//! consumequeue/<topic>/<queue id>/<20 digits: byte position of the file in the queue>     6,000,000 bytes each, sparse
//!
//! entry:  0 physical offset i64   8 size i32   12 tags code i64        big-endian, 20 bytes
//! ```
//!
//! An entry's queue offset is its byte position divided by 20.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::position::{PhysicalOffset, QueueOffset};

pub(crate) mod files;
pub(crate) mod places;
pub(crate) mod selection;
pub(crate) mod table;

/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 20;
/// Entries in one file.
pub const FILE_ENTRIES: u64 = 300_000;
/// Bytes of one file.
pub const FILE_BYTES: u64 = FILE_ENTRIES * ENTRY_BYTES as u64;

const _: () = assert!(FILE_BYTES == 6_000_000);

/// Where one message is, and what it can be filtered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub physical_offset: PhysicalOffset,
    pub size_bytes: u32,
    /// Hash of the message's tag, 0 without one; in the schedule topic the time of delivery, milliseconds.
    pub tags_code: i64,
}

impl Entry {
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.physical_offset.to_i64().to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size_bytes.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// `None` when the bytes are no entry: never written, or a filler before the first one.
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let eight = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let size = i32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
        if size <= 0 || size == i32::MAX {
            return None;
        }
        Some(Self {
            physical_offset: PhysicalOffset::from_i64(eight(0))?,
            size_bytes: size.unsigned_abs(),
            tags_code: eight(12),
        })
    }

    /// What fills a file before the queue's first entry, as RocketMQ writes it. It leads nowhere.
    pub(crate) const FILLER: Self =
        Self { physical_offset: PhysicalOffset::ZERO, size_bytes: i32::MAX.unsigned_abs(), tags_code: 0 };

    /// The bytes of [`Self::FILLER`].
    pub(crate) fn filler() -> [u8; ENTRY_BYTES] {
        Self::FILLER.encode()
    }
}

/// Which queue of which topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueName {
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: u32,
}

impl QueueName {
    /// The queue's folder in the shard's folder `dir`.
    pub(crate) fn dir(&self, dir: &Path) -> PathBuf {
        dir.join("consumequeue").join(&*self.topic).join(self.queue_id.to_string())
    }

    /// The file that starts at byte `file_start` of the queue.
    pub(crate) fn file_path(&self, dir: &Path, file_start: u64) -> PathBuf {
        self.dir(dir).join(format!("{file_start:020}"))
    }
}

/// A queue's place in the tables of the serve core and of the side thread, which number them alike. Not used again for another
/// queue while the shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueHandle(pub(crate) u32);

impl QueueHandle {
    pub(crate) fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 queues fit in memory"))
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Byte position of an entry in its queue, as the start of its file and the place in that file.
pub(crate) fn file_place(offset: QueueOffset) -> (u64, u64) {
    let at = offset.get() * ENTRY_BYTES as u64;
    (at - at % FILE_BYTES, at % FILE_BYTES)
}

/// The first offset of the file that the entry at `offset` is in.
pub(crate) fn first_in_file_of(offset: QueueOffset) -> QueueOffset {
    QueueOffset::new(offset.get() / FILE_ENTRIES * FILE_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_rocketmqs_bytes() {
        let entry = Entry { physical_offset: PhysicalOffset::new(0x0102), size_bytes: 0x30, tags_code: -2 };
        let mut expected = [0; 20];
        expected[6..8].copy_from_slice(&[1, 2]);
        expected[11] = 0x30;
        expected[12..19].fill(0xFF);
        expected[19] = 0xFE;
        assert_eq!(entry.encode(), expected);
        assert_eq!(Entry::decode(&expected), Some(entry));
        assert_eq!(Entry::decode(&[0; 20]), None);
        assert_eq!(Entry::decode(&Entry::filler()), None);
    }

    #[test]
    fn files_are_named_by_their_first_byte() {
        assert_eq!(file_place(QueueOffset::new(300_001)), (6_000_000, 20));
        let name = QueueName { topic: "Orders".into(), queue_id: 3 };
        assert_eq!(
            name.file_path(Path::new("/s"), 6_000_000),
            Path::new("/s/consumequeue/Orders/3/00000000000006000000")
        );
    }
}
