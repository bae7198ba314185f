//! The positions snapshot: up to where ConsumeQueues and index are durable, so that a start need not scan the whole log.
//!
//! The file `positions` of a shard, replaced atomically by the side thread once what it claims is durable. Recovery checks it
//! against the files and the log, and builds everything anew when they disagree.

use std::io;
use std::path::{Path, PathBuf};

use rkyv::{Archive, Deserialize, Serialize};

use crate::io::disk::Disk;
use crate::sealed_file::{Seal, SealedFileError};

const SEAL: Seal = Seal { name: *b"RINGMQPS", version: 2 };
const FILE_NAME: &str = "positions";
const SET_ASIDE_NAME: &str = "positions.before";
const FILE_BYTES_MAX: usize = 1 << 30;

/// Everything that a start needs to know of what was derived from the log before [`Self::log_end`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Positions {
    /// First byte of the log that is not covered: the end of the last record that is.
    pub(crate) log_end: u64,
    /// Where the last covered record starts; equal to `log_end` when there is none.
    pub(crate) last_record: u64,
    /// Store timestamp of the last covered record, milliseconds; 0 without one.
    pub(crate) last_store_timestamp_ms: i64,
    /// All queues, in the order of their handles.
    pub(crate) queues: Vec<QueuePosition>,
    /// All index files, oldest first.
    pub(crate) index: Vec<IndexPosition>,
    /// What of the files is not there yet: it is being built anew from the log.
    pub(crate) rebuild: RebuildPosition,
}

/// What is being built anew beside serving.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct RebuildPosition {
    /// Places in [`Positions::queues`] of the queues whose files are to be filled. Where they go on is known.
    pub(crate) queues: Vec<u32>,
    /// The index has only the keys of the records before this; `None` when it has those up to [`Positions::log_end`].
    pub(crate) index_end: Option<u64>,
}

impl RebuildPosition {
    pub(crate) fn is_over(&self) -> bool {
        self.queues.is_empty() && self.index_end.is_none()
    }
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct QueuePosition {
    pub(crate) topic: String,
    pub(crate) queue_id: u32,
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Physical offset of the message at `min`.
    pub(crate) first_physical: u64,
    /// The topic was deleted; only `max` has a meaning.
    pub(crate) is_deleted: bool,
}

/// One index file.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct IndexPosition {
    pub(crate) name: String,
    pub(crate) header: IndexHeader,
}

/// The header of an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct IndexHeader {
    pub(crate) begin_timestamp_ms: i64,
    pub(crate) end_timestamp_ms: i64,
    pub(crate) begin_physical: i64,
    pub(crate) end_physical: i64,
    /// Slots in use.
    pub(crate) slots_used: i32,
    /// The number that the next item gets. The first is 1.
    pub(crate) next_item: i32,
}

impl Positions {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(FILE_NAME)
    }

    /// Reads the snapshot of the shard at `dir`; `Ok(Ok(None))` when there is none.
    ///
    /// # Errors
    /// Outer: the file cannot be read. Inner: what it holds is no snapshot.
    pub(crate) fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Result<Option<Self>, SealedFileError>> {
        Self::read_from(disk, &dir.join(FILE_NAME))
    }

    fn read_from<D: Disk>(disk: &D, path: &Path) -> io::Result<Result<Option<Self>, SealedFileError>> {
        match disk.read_file(path, FILE_BYTES_MAX) {
            Ok(file) => Ok(SEAL.decode(&file).map(Some)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(error),
        }
    }

    /// What [`Self::set_aside`] kept, if it is usable.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read_set_aside<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<Self>> {
        Ok(Self::read_from(disk, &dir.join(SET_ASIDE_NAME))?.ok().flatten())
    }

    /// Replaces the snapshot, durably. What it claims must be durable before.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        assert!(self.last_record <= self.log_end);
        disk.write_file_atomically(&dir.join(FILE_NAME), &SEAL.encode(self))
    }

    /// Moves the snapshot out of the way, durably: before what it claims of the files stops being true. What it says of the log and
    /// of the queues' ends is still of use, until the next snapshot is there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn set_aside<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
        disk.rename(&dir.join(FILE_NAME), &dir.join(SET_ASIDE_NAME))?;
        disk.sync_dir(dir)
    }

    /// Keeps these positions as [`Self::set_aside`] does, where there is no snapshot.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write_set_aside<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        disk.write_file_atomically(&dir.join(SET_ASIDE_NAME), &SEAL.encode(self))
    }

    /// Removes what [`Self::set_aside`] kept; done again by the next start when a crash undoes it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn forget_set_aside<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
        let path = dir.join(SET_ASIDE_NAME);
        if disk.exists(&path)? { disk.remove_file(&path) } else { Ok(()) }
    }

    /// Removes the snapshot, durably: it is of no use.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn remove<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
        disk.remove_file(&dir.join(FILE_NAME))?;
        disk.sync_dir(dir)
    }
}
