//! Direct reads of old data, on the ring of the core that asks.

use std::io;
use std::path::Path;

use bytes::Bytes;
use runtime::file::{Access, File};

pub use runtime::file::DIRECT_ALIGNMENT;

/// A file open for direct reads. Lives on one core.
#[derive(Debug)]
pub struct ColdFile(File);

impl ColdFile {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// It cannot be opened, or its file system has no direct I/O.
    pub async fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path, Access::Read).await?))
    }

    /// Reads `[at, at + len)`, both multiples of [`DIRECT_ALIGNMENT`]; shorter only where the file ends.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        // The buffer of a direct read belongs to this core; bytes that are handed out may go anywhere.
        self.0.read(at, len, Bytes::copy_from_slice).await
    }
}
