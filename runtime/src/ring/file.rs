//! Files with direct I/O through the core's own ring.

use std::ffi::CString;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};

use super::core::{Core, current};
use super::memory::Memory;
use super::operation::Owned;

/// An open file.
#[derive(Debug)]
pub(crate) struct RingFile(ManuallyDrop<OwnedFd>);

impl RingFile {
    /// Opens `path` with the given flags of open(2).
    pub(crate) async fn open(path: &Path, flags: i32, mode: u32) -> io::Result<Self> {
        let names = names(path, Path::new(""))?;
        let request = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), names[0].as_ptr())
            .flags(flags | libc::O_CLOEXEC)
            .mode(mode)
            .build();
        // SAFETY: the name is in `names`, on the heap.
        let (descriptor, _) = unsafe { perform(request, Owned::Names(names)) }.await?;
        let descriptor = RawFd::try_from(descriptor).expect("a descriptor is an i32");
        // SAFETY: the kernel just made the descriptor for us.
        Ok(Self(ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.descriptor())
    }

    /// Writes `bytes` of `memory` at `offset`, and gives the memory back. How many were written.
    pub(crate) async fn write(
        &self,
        memory: Memory,
        bytes: usize,
        offset: u64,
    ) -> (io::Result<usize>, Option<Memory>) {
        assert!(bytes <= memory.bytes());
        let request = opcode::Write::new(self.fd(), memory.address(), length(bytes)).offset(offset).build();
        // SAFETY: the memory is passed on, and as long as asserted. The file is borrowed until the end.
        match unsafe { perform(request, Owned::Memory(memory)) }.await {
            Ok((written, Owned::Memory(memory))) => (Ok(written), Some(memory)),
            Ok(_) => unreachable!("an operation gives back what it got"),
            Err(error) => (Err(error), None),
        }
    }

    /// The same with memory that others write from, too.
    pub(crate) async fn write_shared(
        &self,
        memory: Rc<Memory>,
        bytes: usize,
        offset: u64,
    ) -> io::Result<usize> {
        assert!(bytes <= memory.bytes());
        let request = opcode::Write::new(self.fd(), memory.address(), length(bytes)).offset(offset).build();
        // SAFETY: as in `write`.
        let (written, _) = unsafe { perform(request, Owned::Shared(memory)) }.await?;
        Ok(written)
    }

    /// Reads up to `bytes` at `offset`. How many were read, into what.
    pub(crate) async fn read(&self, bytes: usize, offset: u64) -> io::Result<(usize, Memory)> {
        let memory = Memory::take(bytes);
        let request = opcode::Read::new(self.fd(), memory.address(), length(bytes)).offset(offset).build();
        // SAFETY: the memory is passed on and has at least `bytes`. The file is borrowed until the end.
        match unsafe { perform(request, Owned::Memory(memory)) }.await? {
            (read, Owned::Memory(memory)) => Ok((read, memory)),
            _ => unreachable!("an operation gives back what it got"),
        }
    }

    /// Makes what was written durable, and the size.
    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        let request = opcode::Fsync::new(self.fd()).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the request names no memory. The file is borrowed until the end.
        unsafe { perform(request, Owned::Nothing) }.await?;
        Ok(())
    }

    /// The same for a folder: its names.
    pub(crate) async fn sync_all(&self) -> io::Result<()> {
        // SAFETY: as in `sync_data`.
        unsafe { perform(opcode::Fsync::new(self.fd()).build(), Owned::Nothing) }.await?;
        Ok(())
    }

    /// Gives the file `bytes` of room, and this size.
    pub(crate) async fn allocate(&self, bytes: u64) -> io::Result<()> {
        // SAFETY: as in `sync_data`.
        unsafe { perform(opcode::Fallocate::new(self.fd(), bytes).build(), Owned::Nothing) }.await?;
        Ok(())
    }

    /// Closes the file off this thread's time: the last close of a removed file takes long.
    pub(crate) async fn close(self) -> io::Result<()> {
        let descriptor = ManuallyDrop::new(self).fd();
        let request = opcode::Close::new(descriptor).build();
        // SAFETY: the request names no memory, and the descriptor is nobody's any more: the file is not dropped.
        unsafe { perform(request, Owned::Nothing) }.await?;
        Ok(())
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(core) = current() {
            core.submit();
        }
        // SAFETY: dropped once, here, and not used again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// Renames a file.
pub(crate) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let names = names(from, to)?;
    let here = types::Fd(libc::AT_FDCWD);
    let request = opcode::RenameAt::new(here, names[0].as_ptr(), here, names[1].as_ptr()).build();
    // SAFETY: both names are in `names`, on the heap.
    unsafe { perform(request, Owned::Names(names)) }.await?;
    Ok(())
}

/// Removes a file.
pub(crate) async fn remove(path: &Path) -> io::Result<()> {
    let names = names(path, Path::new(""))?;
    let request = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), names[0].as_ptr()).build();
    // SAFETY: the name is in `names`, on the heap.
    unsafe { perform(request, Owned::Names(names)) }.await?;
    Ok(())
}

/// Performs a request on this core.
///
/// # Safety
/// As [`Core::start`].
unsafe fn perform(request: squeue::Entry, owned: Owned) -> impl Future<Output = io::Result<(usize, Owned)>> {
    let core: Rc<Core> = current().expect("a file of a ring is used on a core of this backend");
    // SAFETY: passed on.
    let operation = unsafe { core.start(request, owned) };
    async move {
        let (result, owned) = operation.await;
        match usize::try_from(result) {
            Ok(result) => Ok((result, owned)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }
}

fn names(first: &Path, second: &Path) -> io::Result<[CString; 2]> {
    Ok([CString::new(first.as_os_str().as_bytes())?, CString::new(second.as_os_str().as_bytes())?])
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a buffer has less than 4 GiB")
}
