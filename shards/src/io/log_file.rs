//! The files of a CommitLog while it runs: direct I/O through the ring of the log core.
//!
//! A core must have opened its probe file (see [`crate::io::executor`]) before it opens one of these.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::{Directory, DmaBuffer, DmaFile, OpenOptions};

/// A file of the log has this ending while it is being made; the final name appears when it has its full size.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

/// What a finished write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The bytes are on the disk and survive a power cut.
    Durable,
    /// The kernel and the device have the bytes; [`LogFile::sync`] makes them durable.
    Plain,
}

/// One open segment.
#[derive(Debug)]
pub struct LogFile {
    file: DmaFile,
    path: PathBuf,
}

/// Memory that the kernel can write from, for one write.
#[derive(Debug)]
pub struct WriteBuffer(DmaBuffer);

impl AsMut<[u8]> for WriteBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

/// Zeros to prewrite with, used again and again.
#[derive(Debug)]
pub struct ZeroBuffer(Rc<DmaBuffer>);

impl LogFile {
    /// Opens a segment that exists.
    pub async fn open(path: PathBuf, kind: WriteKind) -> io::Result<Self> {
        let file = options(kind).dma_open(&path).await?;
        Ok(Self { file, path })
    }

    /// Makes a segment of `bytes`, with room for all of them and reading as zeros. When this returns it is there
    /// durably; when it is cut short there is at most an unfinished file, which the next start removes.
    pub async fn make(path: PathBuf, bytes: u64, kind: WriteKind) -> io::Result<Self> {
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED_SUFFIX);
        let unfinished = PathBuf::from(unfinished);
        let file = options(kind).create(true).truncate(true).mode(0o644).dma_open(&unfinished).await?;
        match Self::finish(&file, &path, bytes).await {
            Ok(()) => Ok(Self { file, path }),
            Err(error) => {
                // The error that matters is the first one; what stays behind is removed at the next try or start.
                let _ = glommio::io::remove(&unfinished).await;
                let _ = file.close().await;
                Err(error)
            }
        }
    }

    async fn finish(file: &DmaFile, path: &Path, bytes: u64) -> io::Result<()> {
        match file.pre_allocate(bytes, false).await.map_err(io::Error::from) {
            // Without this on a file system, running out of room shows at the first write to it instead.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => file.truncate(bytes).await?,
            other => other?,
        }
        file.fdatasync().await?;
        file.rename(path).await?;
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        sync_dir(dir).await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A buffer of `bytes`, whose content is undefined: fill all of it.
    pub fn buffer(&self, bytes: usize) -> WriteBuffer {
        WriteBuffer(self.file.alloc_dma_buffer(bytes))
    }

    /// A buffer of `bytes` zeros.
    pub fn zero_buffer(&self, bytes: usize) -> ZeroBuffer {
        let mut buffer = self.file.alloc_dma_buffer(bytes);
        buffer.as_bytes_mut().fill(0);
        ZeroBuffer(Rc::new(buffer))
    }

    /// Writes all of `buffer` at `offset`; both are whole pages.
    ///
    /// # Errors
    /// Also when the kernel wrote only a part. What the file then holds there is not known.
    pub async fn write(&self, buffer: WriteBuffer, offset: u64) -> io::Result<()> {
        let wanted = buffer.0.as_bytes().len();
        written(wanted, self.file.write_at(buffer.0, offset).await?)
    }

    /// Writes the zeros of `buffer` at `offset`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeros(&self, buffer: &ZeroBuffer, offset: u64) -> io::Result<()> {
        let wanted = buffer.0.as_bytes().len();
        written(wanted, self.file.write_rc_at(Rc::clone(&buffer.0), offset).await?)
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// Final: a later success would not mean that the bytes are there.
    pub async fn sync(&self) -> io::Result<()> {
        Ok(self.file.fdatasync().await?)
    }

    /// How far the file is written without a gap from `offset` on; `offset` itself if it is not, or if the file
    /// system cannot tell.
    pub fn written_end(&self, offset: u64) -> u64 {
        let Ok(from) = libc::off_t::try_from(offset) else { return offset };
        // SAFETY: the descriptor is open as long as `self`. The position that is moved is used by nobody: all reads
        // and writes name theirs.
        let hole = unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_HOLE) };
        u64::try_from(hole).unwrap_or(offset).max(offset)
    }

    /// Closes the file. Nothing that was written is lost when it fails.
    pub async fn close(self) {
        if let Err(error) = self.file.close().await {
            tracing::warn!(path = %self.path.display(), %error, "a CommitLog file was not closed properly");
        }
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub async fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = Directory::open(dir).await?;
    dir.sync().await?;
    Ok(dir.close().await?)
}

fn options(kind: WriteKind) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind == WriteKind::Durable {
        options.custom_flags(libc::O_DSYNC);
    }
    options
}

fn written(wanted: usize, written: usize) -> io::Result<()> {
    if written == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("only {written} of {wanted} bytes were written")))
}
