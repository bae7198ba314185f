//! The files of a CommitLog while it runs: direct I/O through the ring of the log core.

use std::io;
use std::path::{Path, PathBuf};

use runtime::file::{Access, File, remove, rename};

use crate::io::fault::{self, Operation, Share};

pub use runtime::file::{WriteBuffer, WriteKind, ZeroBuffer, sync_dir};

/// A file of the log has this ending while it is being made; the final name appears when it has its full size.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

/// Whole pages are written.
const PAGE_BYTES: usize = 4096;

/// One open segment.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    /// Opens a segment that exists.
    pub async fn open(path: PathBuf, kind: WriteKind) -> io::Result<Self> {
        let file = File::open(&path, Access::Write(kind)).await?;
        Ok(Self { file, path })
    }

    /// Makes a segment of `bytes`, with room for all of them and reading as zeros. When this returns it is there
    /// durably; when it is cut short there is at most an unfinished file, which the next start removes.
    pub async fn make(path: PathBuf, bytes: u64, kind: WriteKind) -> io::Result<Self> {
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        let file = File::open(&unfinished, Access::Create(kind)).await?;
        match Self::finish(&file, &unfinished, &path, bytes).await {
            Ok(()) => Ok(Self { file, path }),
            Err(error) => {
                // The error that matters is the first one; what stays behind is removed at the next try or start.
                let _ = remove(&unfinished).await;
                let _ = file.close().await;
                Err(error)
            }
        }
    }

    async fn finish(file: &File, unfinished: &Path, path: &Path, bytes: u64) -> io::Result<()> {
        fault::before(Operation::Allocate, unfinished, fault::Bytes::ALL).await?;
        file.allocate(bytes).await?;
        fault::before(Operation::Sync, unfinished, fault::Bytes::ALL).await?;
        file.sync().await?;
        rename(unfinished, path).await?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        sync_dir(dir).await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// See [`File::buffer`].
    pub fn buffer(&self, bytes: usize) -> WriteBuffer {
        self.file.buffer(bytes)
    }

    /// See [`File::zero_buffer`].
    pub fn zero_buffer(&self, bytes: usize) -> ZeroBuffer {
        self.file.zero_buffer(bytes)
    }

    /// See [`File::write`].
    ///
    /// # Errors
    /// Also when the kernel wrote only a part. What the file then holds there is not known.
    pub async fn write(&self, buffer: WriteBuffer, offset: u64) -> io::Result<()> {
        let place = fault::Bytes::at(offset, buffer.bytes());
        match fault::before(Operation::Write, &self.path, place).await? {
            Share::All => self.file.write(buffer, offset).await,
            Share::Half => self.write_half(buffer, offset).await,
        }
    }

    /// What the kernel does when it writes only a part.
    async fn write_half(&self, mut buffer: WriteBuffer, offset: u64) -> io::Result<()> {
        let bytes = buffer.bytes();
        let half = (bytes / 2).next_multiple_of(PAGE_BYTES).min(bytes - PAGE_BYTES);
        if half > 0 {
            let mut part = self.file.buffer(half);
            part.as_mut().copy_from_slice(&buffer.as_mut()[..half]);
            self.file.write(part, offset).await?;
        }
        let reason = format!("only {half} of {bytes} bytes were written");
        Err(io::Error::new(io::ErrorKind::WriteZero, reason))
    }

    /// See [`File::write_zeros`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeros(&self, buffer: &ZeroBuffer, offset: u64) -> io::Result<()> {
        let place = fault::Bytes::at(offset, buffer.bytes());
        fault::before(Operation::Zeros, &self.path, place).await?;
        self.file.write_zeros(buffer, offset).await
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// Final: a later success would not mean that the bytes are there.
    pub async fn sync(&self) -> io::Result<()> {
        fault::before(Operation::Sync, &self.path, fault::Bytes::ALL).await?;
        self.file.sync().await
    }

    /// See [`File::written_end`].
    pub fn written_end(&self, offset: u64) -> u64 {
        self.file.written_end(offset)
    }

    /// Closes the file. Nothing that was written is lost when it fails.
    pub async fn close(self) {
        if let Err(error) = self.file.close().await {
            tracing::warn!(path = %self.path.display(), %error, "a CommitLog file was not closed properly");
        }
    }
}
