//! Direct reads of old data, on the ring of the core that asks.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use runtime::file::{Access, File};

use crate::io::fault::{self, Operation, Share};

pub use runtime::file::DIRECT_ALIGNMENT;

/// A file open for direct reads. Lives on one core.
#[derive(Debug)]
pub struct ColdFile {
    file: File,
    path: PathBuf,
}

impl ColdFile {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// It cannot be opened, or its file system has no direct I/O.
    pub async fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path, Access::Read).await?, path: path.to_owned() })
    }

    /// Reads `[at, at + len)`, both multiples of [`DIRECT_ALIGNMENT`]; shorter only where the file ends.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let share = fault::before(Operation::Read, &self.path, fault::Bytes::at(at, len)).await?;
        // The buffer of a direct read belongs to this core; bytes that are handed out may go anywhere.
        let bytes = self.file.read(at, len, Bytes::copy_from_slice).await?;
        Ok(if share == Share::Half { bytes.slice(..bytes.len() / 2) } else { bytes })
    }
}
