//! The files of a CommitLog while it runs: direct I/O through the ring of the log core.

use std::io;
use std::path::{Path, PathBuf};

use runtime::file::{Access, File, remove, rename};

pub use runtime::file::{WriteBuffer, WriteKind, ZeroBuffer, sync_dir};

/// A file of the log has this ending while it is being made; the final name appears when it has its full size.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

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
        file.allocate(bytes).await?;
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
        self.file.write(buffer, offset).await
    }

    /// See [`File::write_zeros`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeros(&self, buffer: &ZeroBuffer, offset: u64) -> io::Result<()> {
        self.file.write_zeros(buffer, offset).await
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// Final: a later success would not mean that the bytes are there.
    pub async fn sync(&self) -> io::Result<()> {
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
