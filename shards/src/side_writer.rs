//! The side thread of a shard: everything that is written lazily and buffered.

use std::io;
use std::path::{Path, PathBuf};

use crate::recovery::RecoveredSide;

/// The handle of a shard's side thread. Clones share the thread.
#[derive(Clone, Debug)]
pub struct SideWriter {}

/// Why a file of a shard's configuration could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigWriteError {
    #[error("cannot write {path}: {reason}")]
    Io { path: String, reason: String },
    #[error("cannot write {path}: the store is closing")]
    Closing { path: String },
}

/// The completion of [`SideWriter::write_config`].
#[derive(Debug)]
pub struct ConfigWrite {}

impl ConfigWrite {
    /// Waits until the file is durable. Dropping this instead does not cancel the write.
    pub async fn done(self) -> Result<(), ConfigWriteError> {
        todo!()
    }
}

impl SideWriter {
    /// Starts the side thread of the shard that was recovered.
    pub fn start(_recovered: RecoveredSide) -> io::Result<Self> {
        todo!()
    }

    /// Replaces the file at `path` durably and atomically; the file before stays as `path` + `.bak`.
    pub fn write_config(&self, _path: PathBuf, _contents: Vec<u8>) -> ConfigWrite {
        todo!()
    }

    /// The content of a file written by [`Self::write_config`], or of its `.bak` when it is missing or empty. Blocks: for start.
    pub fn read_config(_path: &Path) -> io::Result<Option<Vec<u8>>> {
        todo!()
    }
}
