//! Files with direct I/O, on the core that opened them. Memory goes in with a request and comes back when it is done: nobody else
//! touches it meanwhile.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use crate::ring::core::current;
use crate::ring::file::RingFile;
use crate::ring::{self, Memory};
use crate::via_glommio::file as glommio_file;

/// Positions, lengths and memory of direct I/O are multiples of this, bytes.
pub const DIRECT_ALIGNMENT: u64 = 4096;

/// What a finished write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The bytes are on the disk and survive a power cut.
    Durable,
    /// The kernel and the device have the bytes; [`File::sync`] makes them durable.
    Plain,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// An existing file, to be read and written.
    Write(WriteKind),
    /// A new file, empty whatever was there before.
    Create(WriteKind),
}

/// An open file.
#[derive(Debug)]
pub struct File(Backend);

#[derive(Debug)]
enum Backend {
    Ring(RingFile),
    Glommio(glommio::io::DmaFile),
}

/// Memory for one write.
#[derive(Debug)]
pub struct WriteBuffer {
    memory: BufferMemory,
    bytes: usize,
}

#[derive(Debug)]
enum BufferMemory {
    Ring(Memory),
    Glommio(glommio::io::DmaBuffer),
}

impl AsMut<[u8]> for WriteBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            BufferMemory::Ring(memory) => memory.as_mut_slice(self.bytes),
            BufferMemory::Glommio(buffer) => buffer.as_bytes_mut(),
        }
    }
}

impl WriteBuffer {
    /// How much is written from it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Zeros to be written again and again.
#[derive(Clone, Debug)]
pub struct ZeroBuffer {
    memory: ZeroMemory,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum ZeroMemory {
    Ring(Rc<Memory>),
    Glommio(Rc<glommio::io::DmaBuffer>),
}

impl ZeroBuffer {
    /// How much is written from it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl File {
    /// Opens `path`.
    ///
    /// # Errors
    /// It cannot be opened, or its file system has no direct I/O.
    pub async fn open(path: &Path, access: Access) -> io::Result<Self> {
        if current().is_none() {
            return Ok(Self(Backend::Glommio(glommio_file::open(path, access).await?)));
        }
        let flags = match access {
            Access::Read => libc::O_RDONLY,
            Access::Write(_) => libc::O_RDWR,
            Access::Create(_) => libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
        };
        Ok(Self(Backend::Ring(
            RingFile::open(path, flags | libc::O_DIRECT | access.sync_flag(), 0o644).await?,
        )))
    }

    /// Memory of `bytes` for one write, whose content is undefined: fill all of it.
    pub fn buffer(&self, bytes: usize) -> WriteBuffer {
        let memory = match &self.0 {
            Backend::Ring(_) => BufferMemory::Ring(Memory::take(bytes)),
            Backend::Glommio(file) => BufferMemory::Glommio(file.alloc_dma_buffer(bytes)),
        };
        WriteBuffer { memory, bytes }
    }

    /// A buffer of `bytes` zeros.
    pub fn zero_buffer(&self, bytes: usize) -> ZeroBuffer {
        let memory = match &self.0 {
            Backend::Ring(_) => ZeroMemory::Ring(Rc::new(Memory::zeroed(bytes))),
            Backend::Glommio(file) => {
                let mut buffer = file.alloc_dma_buffer(bytes);
                buffer.as_bytes_mut().fill(0);
                ZeroMemory::Glommio(Rc::new(buffer))
            }
        };
        ZeroBuffer { memory, bytes }
    }

    /// Writes all of `buffer` at `offset`; both are whole pages.
    ///
    /// # Errors
    /// Also when the kernel wrote only a part. What the file then holds there is not known.
    pub async fn write(&self, buffer: WriteBuffer, offset: u64) -> io::Result<()> {
        let WriteBuffer { memory, bytes } = buffer;
        let written = match (&self.0, memory) {
            (Backend::Ring(file), BufferMemory::Ring(memory)) => {
                let (written, memory) = file.write(memory, bytes, offset).await;
                if let Some(memory) = memory {
                    memory.keep();
                }
                written?
            }
            (Backend::Glommio(file), BufferMemory::Glommio(buffer)) => {
                file.write_at(buffer, offset).await.map_err(glommio_file::io_error)?
            }
            _ => unreachable!("a core has one backend"),
        };
        expect_whole(bytes, written)
    }

    /// Writes the zeros of `buffer` at `offset`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeros(&self, buffer: &ZeroBuffer, offset: u64) -> io::Result<()> {
        let written = match (&self.0, &buffer.memory) {
            (Backend::Ring(file), ZeroMemory::Ring(memory)) => {
                file.write_shared(Rc::clone(memory), buffer.bytes, offset).await?
            }
            (Backend::Glommio(file), ZeroMemory::Glommio(zeros)) => {
                file.write_rc_at(Rc::clone(zeros), offset).await.map_err(glommio_file::io_error)?
            }
            _ => unreachable!("a core has one backend"),
        };
        expect_whole(buffer.bytes, written)
    }

    /// Reads `[at, at + bytes)`, both multiples of [`DIRECT_ALIGNMENT`], and gives `take` what was read: less only where the file
    /// ends.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn read<T>(&self, at: u64, bytes: usize, take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        assert!(at.is_multiple_of(DIRECT_ALIGNMENT));
        assert!((bytes as u64).is_multiple_of(DIRECT_ALIGNMENT));
        match &self.0 {
            Backend::Ring(file) => {
                let (read, memory) = file.read(bytes, at).await?;
                let taken = take(memory.as_slice(read));
                memory.keep();
                Ok(taken)
            }
            Backend::Glommio(file) => {
                Ok(take(&file.read_at_aligned(at, bytes).await.map_err(glommio_file::io_error)?))
            }
        }
    }

    /// Gives the file `bytes` of room and this size; what was not written reads as zeros.
    ///
    /// # Errors
    /// The disk is full, or refuses.
    pub async fn allocate(&self, bytes: u64) -> io::Result<()> {
        let allocated = match &self.0 {
            Backend::Ring(file) => file.allocate(bytes).await,
            Backend::Glommio(file) => file.pre_allocate(bytes, false).await.map_err(io::Error::from),
        };
        match allocated {
            // Without this on a file system, running out of room shows at the first write to it instead.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.truncate(bytes),
            other => other,
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let size = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the descriptor is open as long as `self`, and the call takes no memory.
        match unsafe { libc::ftruncate(self.descriptor(), size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// Final: a later success would not mean that the bytes are there.
    pub async fn sync(&self) -> io::Result<()> {
        match &self.0 {
            Backend::Ring(file) => file.sync_data().await,
            Backend::Glommio(file) => file.fdatasync().await.map_err(glommio_file::io_error),
        }
    }

    /// How far the file is written without a gap from `offset` on; `offset` itself if it is not, or if the file system cannot tell.
    pub fn written_end(&self, offset: u64) -> u64 {
        let Ok(from) = libc::off_t::try_from(offset) else { return offset };
        // SAFETY: the descriptor is open as long as `self`. The position that is moved is used by nobody: all reads and writes name
        // theirs.
        let hole = unsafe { libc::lseek(self.descriptor(), from, libc::SEEK_HOLE) };
        u64::try_from(hole).unwrap_or(offset).max(offset)
    }

    /// Closes the file.
    ///
    /// # Errors
    /// Nothing that was written is lost then.
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            Backend::Ring(file) => file.close().await,
            Backend::Glommio(file) => Ok(file.close().await?),
        }
    }

    fn descriptor(&self) -> RawFd {
        match &self.0 {
            Backend::Ring(file) => file.descriptor(),
            Backend::Glommio(file) => file.as_raw_fd(),
        }
    }
}

impl Access {
    pub(crate) fn sync_flag(self) -> i32 {
        match self {
            Self::Write(WriteKind::Durable) | Self::Create(WriteKind::Durable) => libc::O_DSYNC,
            Self::Read | Self::Write(WriteKind::Plain) | Self::Create(WriteKind::Plain) => 0,
        }
    }
}

/// Renames a file; durable after [`sync_dir`] of both folders.
///
/// # Errors
/// As rename(2).
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match current() {
        Some(_) => ring::file::rename(from, to).await,
        None => Ok(glommio::io::rename(from, to).await?),
    }
}

/// Removes a file.
///
/// # Errors
/// As unlink(2).
pub async fn remove(path: &Path) -> io::Result<()> {
    match current() {
        Some(_) => ring::file::remove(path).await,
        None => Ok(glommio::io::remove(path).await?),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub async fn sync_dir(dir: &Path) -> io::Result<()> {
    if current().is_none() {
        return glommio_file::sync_dir(dir).await;
    }
    let dir = RingFile::open(dir, libc::O_RDONLY | libc::O_DIRECTORY, 0).await?;
    dir.sync_all().await?;
    dir.close().await
}

fn expect_whole(wanted: usize, written: usize) -> io::Result<()> {
    if written == wanted {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::WriteZero, format!("only {written} of {wanted} bytes were written")))
}
