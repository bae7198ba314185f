//! Files as recovery, the side thread and the tests see them: blocking, and behind a trait, so that the crash model
//! can stand in for the kernel. Never used on a core while it serves: it blocks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use runtime::host::disk_usage;

pub use runtime::host::DiskUsage;

use crate::io::fault::{self, Operation, Share};

/// A place that holds files. What a method did survives a power cut only after the sync that its comment names.
pub trait Disk: Send + Sync {
    type File: DiskFile;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file for reading and writing, and makes it if it is missing. Its name is durable after
    /// [`Self::sync_dir`].
    fn open_or_create(&self, path: &Path) -> io::Result<Self::File>;

    /// Names of what the folder holds, sorted; none when there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// When the content of the file last changed, milliseconds since the epoch.
    fn modified_ms(&self, path: &Path) -> io::Result<i64>;

    /// How full the disk is that holds `dir`.
    fn usage(&self, dir: &Path) -> io::Result<DiskUsage>;

    /// Makes the folder and all above it, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Durable after [`Self::sync_dir`]. A file that is not there is no error.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes the folder with all it holds. Durable after [`Self::sync_dir`] of its parent. A missing one is no error.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Replaces `to` in one step, on the same file system. Durable after [`Self::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in the folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes content and names of all these files, on one file system, durable; those that are gone do not matter.
    fn sync_files(&self, paths: &[PathBuf]) -> io::Result<()> {
        sync_one_by_one(self, paths)
    }

    /// The whole file, when it has at most `bytes_max`.
    ///
    /// # Errors
    /// `NotFound` when it is missing, `FileTooLarge` when it is longer.
    fn read_file(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if length > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} has {length} bytes, at most {bytes_max} were expected", path.display()),
            ));
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces the file with `bytes` so that a crash leaves either the old or the new content, durably: beside it,
    /// synced, renamed, folder synced.
    fn write_file_atomically(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file name with a folder is needed"));
        };
        let mut beside = name.to_owned();
        beside.push(".tmp");
        let beside = dir.join(beside);
        let file = self.open_or_create(&beside)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&beside, path)?;
        self.sync_dir(dir)
    }
}

/// An open file.
pub trait DiskFile: Send {
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file or lengthens it with zeros. Durable after [`Self::sync_data`].
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Reads into `buffer` and returns how many bytes; fewer than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, lengthening the file if needed. Durable after [`Self::sync_data`].
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes content and length durable. An error is final: what was written before may be lost without another error.
    fn sync_data(&self) -> io::Result<()>;

    /// Waits for direct writes that a process which has died left under way, so that they cannot land after what is
    /// written next.
    fn settle(&self) -> io::Result<()>;

    /// Fills `buffer`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = self.read_at(buffer, offset)?;
        if read == buffer.len() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{read} of {} bytes at {offset}", buffer.len()),
        ))
    }
}

/// How many files are synced one by one; for more, the whole file system is.
const SYNCED_ONE_BY_ONE_MAX: usize = 64;

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    type File = File;

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn open_or_create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names =
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let modified = fs::metadata(path)?.modified()?;
        let since_epoch = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn usage(&self, dir: &Path) -> io::Result<DiskUsage> {
        disk_usage(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_dir(parent),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        missing_is_fine(fs::remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        missing_is_fine(fs::remove_dir_all(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = File::open(dir)?;
        fault::before_blocking(Operation::Sync, &dir, fault::Bytes::ALL)?;
        dir.sync_all()
    }

    fn sync_files(&self, paths: &[PathBuf]) -> io::Result<()> {
        if paths.len() <= SYNCED_ONE_BY_ONE_MAX {
            return sync_one_by_one(self, paths);
        }
        // Each file of its own is a commit of the file system's journal; all together are one. They are on one file
        // system.
        let Some(dir) = paths.iter().find_map(|path| File::open(path.parent()?).ok()) else {
            return Ok(());
        };
        // SAFETY: the descriptor is open as long as `dir`, and the call takes no memory.
        match unsafe { libc::syncfs(dir.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether it is what the kernel says of sectors that cannot be read, or whose checksum is wrong; and not of what may be better soon, as
/// memory or descriptors that are short.
pub fn is_about_the_place(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG | libc::EUCLEAN | libc::EREMOTEIO)
    )
}

/// Locks the whole file against everybody who locks it with `fcntl`, as Java does, and other open files of this process; `false` when it is
/// locked already. The lock is that of the open file: it ends when `file` and its clones are closed. One of the process (`F_SETLK`) would
/// end when the process closes any file that it has opened at this path, for whatever purpose.
///
/// # Errors
/// The file system has no locks.
pub(crate) fn lock_file(file: &File) -> io::Result<bool> {
    // SAFETY: all zeros are a value of this struct of integers.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::c_short::try_from(libc::F_WRLCK).expect("one of a few small numbers");
    whole.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("one of a few small numbers");
    // SAFETY: the descriptor is open as long as `file`, and the call only reads `whole`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) => Ok(false),
            error => Err(error),
        },
    }
}

fn sync_one_by_one<D: Disk + ?Sized>(disk: &D, paths: &[PathBuf]) -> io::Result<()> {
    let mut dirs = BTreeSet::new();
    for path in paths {
        match disk.open(path) {
            Ok(file) => file.sync_data()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        dirs.extend(path.parent());
    }
    dirs.into_iter().try_for_each(|dir| disk.sync_dir(dir))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        fault::before_blocking(Operation::Read, self, fault::Bytes::at(offset, buffer.len()))?;
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let share = fault::before_blocking(Operation::Write, self, fault::Bytes::at(offset, bytes.len()))?;
        if share == Share::Half {
            FileExt::write_all_at(self, &bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::WriteZero.into());
        }
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fault::before_blocking(Operation::Sync, self, fault::Bytes::ALL)?;
        File::sync_data(self)
    }

    fn settle(&self) -> io::Result<()> {
        let length = libc::off_t::try_from(DiskFile::len(self)?)
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if length == 0 {
            return Ok(());
        }
        // Allocating what is allocated already changes nothing, but the kernel drains the file's direct I/O before it.
        // SAFETY: the descriptor is open as long as `self`, and the call takes no memory.
        let result =
            unsafe { libc::fallocate(self.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, length.min(4096)) };
        if result == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // A file system without it has no direct I/O to drain that way either.
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        StdDisk.create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        StdDisk.write_file_atomically(&path, b"the first, longer one").unwrap();
        StdDisk.write_file_atomically(&path, b"second").unwrap();
        assert_eq!(StdDisk.read_file(&path, 100).unwrap(), b"second");
        assert_eq!(StdDisk.list(&dir).unwrap(), ["file"]);
        assert_eq!(StdDisk.read_file(&path, 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        StdDisk.open(&path).unwrap().settle().unwrap();
        StdDisk.remove_file(&path).unwrap();
        StdDisk.remove_file(&path).unwrap();
        assert!(StdDisk.list(&root.path().join("nothing")).unwrap().is_empty());
    }
}
