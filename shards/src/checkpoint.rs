//! RocketMQ's `checkpoint` file. We recover by our own positions; it is written for a stock RocketMQ that opens the folder, and tells
//! whether one has.
//!
//! ```text
//!    0  physicMsgTimestamp   8  logicsMsgTimestamp   16  indexMsgTimestamp   24  masterFlushedOffset   32  confirmPhyOffset
//! 4088  our mark             4092  CRC-32 of all before
//! ```
//! Times and offsets are i64, all is big-endian; the file has 4096 bytes. RocketMQ reads and writes the first five fields only: a file that it
//! wrote has no mark, or, when the file was ours before, a CRC that does not agree.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::disk::{Disk, DiskFile};

const FILE_NAME: &str = "checkpoint";
const FILE_BYTES: usize = 4096;
/// RocketMQ writes what is before.
const STOCK_BYTES: usize = 40;
const MARK_AT: usize = 4088;
const CRC_AT: usize = 4092;
const MARK: [u8; 4] = *b"RQCP";

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Missing,
    /// As we wrote it.
    Ours(Checkpoint),
    /// It has no check value: a stock RocketMQ wrote it, or we did before there was one.
    Unmarked(Checkpoint),
    /// It was ours, and what RocketMQ writes of it has changed since: a stock broker has used the folder, or it is damaged.
    Changed,
    /// It is damaged, also where RocketMQ writes nothing.
    Damaged,
}

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Store timestamp of the last record that is durable in the log.
    pub(crate) log_timestamp_ms: i64,
    /// Store timestamp of the last record whose ConsumeQueue entry is durable.
    pub(crate) queues_timestamp_ms: i64,
    /// Store timestamp of the last record whose index keys are durable.
    pub(crate) index_timestamp_ms: i64,
    /// End of what may be read.
    pub(crate) confirm_offset: i64,
}

impl Checkpoint {
    /// Writes the file, durably.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        let file = disk.open_or_create(&dir.join(FILE_NAME))?;
        file.write_all_at(&self.encode(), 0)?;
        file.sync_data()
    }

    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(FILE_NAME)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Found> {
        match disk.read_file(&Self::path(dir), FILE_BYTES) {
            Ok(bytes) => Ok(Self::decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(Found::Damaged),
            Err(error) => Err(error),
        }
    }

    /// Takes our mark from a file that has it, for a stock RocketMQ: what it writes into the file is no damage.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn unmark<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
        let file = disk.open_or_create(&Self::path(dir))?;
        file.write_all_at(&[0; FILE_BYTES - MARK_AT], MARK_AT as u64)?;
        file.sync_data()
    }

    fn decode(bytes: &[u8]) -> Found {
        let Ok(bytes) = <&[u8; FILE_BYTES]>::try_from(bytes) else { return Found::Damaged };
        let field = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let found = Self {
            log_timestamp_ms: field(0),
            queues_timestamp_ms: field(8),
            index_timestamp_ms: field(16),
            confirm_offset: field(32),
        };
        if *bytes == found.encode() {
            Found::Ours(found)
        } else if bytes[MARK_AT..].iter().all(|byte| *byte == 0) {
            Found::Unmarked(found)
        } else if bytes[MARK_AT..CRC_AT] == MARK && bytes[STOCK_BYTES..MARK_AT].iter().all(|byte| *byte == 0)
        {
            Found::Changed
        } else {
            Found::Damaged
        }
    }

    fn encode(&self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        let master_flushed_offset = 0;
        let fields = [
            self.log_timestamp_ms,
            self.queues_timestamp_ms,
            self.index_timestamp_ms,
            master_flushed_offset,
            self.confirm_offset,
        ];
        for (place, value) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        bytes[MARK_AT..CRC_AT].copy_from_slice(&MARK);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::StdDisk;

    fn example() -> Checkpoint {
        Checkpoint {
            log_timestamp_ms: 1,
            queues_timestamp_ms: 2,
            index_timestamp_ms: 3,
            confirm_offset: 0x0405,
        }
    }

    #[test]
    fn fields_are_where_rocketmq_reads_them() {
        let bytes = example().encode();
        let used = bytes[..MARK_AT].iter().enumerate().filter(|(_, byte)| **byte != 0);
        assert_eq!(used.collect::<Vec<_>>(), [(7, &1), (15, &2), (23, &3), (38, &4), (39, &5)]);
    }

    #[test]
    fn every_bit_that_flips_is_seen() {
        let bytes = example().encode();
        assert_eq!(Checkpoint::decode(&bytes), Found::Ours(example()));
        for bit in 0..FILE_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let seen = match bit / 8 {
                ..STOCK_BYTES | CRC_AT.. => Found::Changed,
                _ => Found::Damaged,
            };
            assert_eq!(Checkpoint::decode(&flipped), seen, "bit {bit}");
        }
        assert_eq!(Checkpoint::decode(&bytes[..100]), Found::Damaged);
    }

    #[test]
    fn what_rocketmq_wrote_is_told_from_what_we_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Checkpoint::read(&StdDisk, dir.path()).unwrap();
        assert_eq!(read(), Found::Missing);
        example().write(&StdDisk, dir.path()).unwrap();
        assert_eq!(read(), Found::Ours(example()));
        Checkpoint::unmark(&StdDisk, dir.path()).unwrap();
        assert_eq!(read(), Found::Unmarked(example()));
        let file = std::fs::OpenOptions::new().write(true).open(Checkpoint::path(dir.path())).unwrap();
        // The fourth field is RocketMQ's alone.
        file.write_all_at(&77_i64.to_be_bytes(), 24).unwrap();
        assert_eq!(read(), Found::Unmarked(example()));
        example().write(&StdDisk, dir.path()).unwrap();
        file.write_all_at(&77_i64.to_be_bytes(), 24).unwrap();
        assert_eq!(read(), Found::Changed);
    }
}
