//! RocketMQ's `checkpoint` file. We recover by our own positions; it is written for a stock RocketMQ that opens the folder.
//!
//! ```text
//! 0  physicMsgTimestamp   8  logicsMsgTimestamp   16  indexMsgTimestamp   24  masterFlushedOffset   32  confirmPhyOffset
//! ```
//! All i64, big-endian; the file has 4096 bytes.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::disk::{Disk, DiskFile};

const FILE_NAME: &str = "checkpoint";
const FILE_BYTES: usize = 4096;

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

    /// Reads the file; `None` when there is none. Inner `None`: what it holds is no checkpoint.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<Option<Self>>> {
        let bytes = match disk.read_file(&Self::path(dir), FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok(Some(None)),
            Err(error) => return Err(error),
        };
        let field =
            |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().expect("eight bytes")));
        let decode = || {
            Some(Self {
                log_timestamp_ms: field(0)?,
                queues_timestamp_ms: field(8)?,
                index_timestamp_ms: field(16)?,
                confirm_offset: field(32)?,
            })
        };
        Ok(Some(decode().filter(|found| bytes == found.encode())))
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
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_rocketmq_reads_them() {
        let bytes = Checkpoint {
            log_timestamp_ms: 1,
            queues_timestamp_ms: 2,
            index_timestamp_ms: 3,
            confirm_offset: 0x0405,
        }
        .encode();
        let dir = tempfile::tempdir().unwrap();
        let read = || Checkpoint::read(&crate::io::disk::StdDisk, dir.path()).unwrap();
        assert_eq!(read(), None);
        std::fs::write(Checkpoint::path(dir.path()), bytes).unwrap();
        assert_eq!(read().flatten().map(|found| found.confirm_offset), Some(0x0405));
        std::fs::write(Checkpoint::path(dir.path()), &bytes[..100]).unwrap();
        assert_eq!(read(), Some(None));
        let nonzero: Vec<_> = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
        assert_eq!(nonzero, [(7, &1), (15, &2), (23, &3), (38, &4), (39, &5)]);
    }
}
