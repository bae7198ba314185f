//! Direct reads of old data, on the ring of the core that asks.

use std::io;
use std::path::Path;

use bytes::Bytes;
use glommio::io::{DmaFile, OpenOptions};
use glommio::sync::Semaphore;

/// Positions and lengths of direct reads are multiples of this, bytes.
pub const DIRECT_ALIGNMENT: u64 = 4096;

/// A file open for direct reads. Lives on one core.
#[derive(Debug)]
pub struct ColdFile(DmaFile);

impl ColdFile {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// It cannot be opened, or its file system has no direct I/O.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).dma_open(path).await.map_err(io::Error::from)?;
        Ok(Self(file))
    }

    /// Reads `[at, at + len)`, both multiples of [`DIRECT_ALIGNMENT`]; shorter only where the file ends.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        assert!(at.is_multiple_of(DIRECT_ALIGNMENT));
        assert!((len as u64).is_multiple_of(DIRECT_ALIGNMENT));
        let read = self.0.read_at_aligned(at, len).await.map_err(io::Error::from)?;
        // The buffer of a direct read belongs to this core; bytes that are handed out may go anywhere.
        Ok(Bytes::copy_from_slice(&read))
    }
}

/// Bounds how many tasks of one core do something at once; the others wait in turn.
#[derive(Debug)]
pub struct Permits(Semaphore);

impl Permits {
    pub fn new(count: u64) -> Self {
        Self(Semaphore::new(count))
    }

    /// Waits for a turn, which ends when the result is dropped.
    pub async fn turn(&self) -> impl Drop + '_ {
        self.0.acquire_permit(1).await.expect("the semaphore is never closed")
    }
}
