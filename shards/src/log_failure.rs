//! Why a shard's log takes nothing any more: the file `log-failed` in the folder of the shard, for people and for `ringmq check`, from a
//! failed write until the log is opened again.
//!
//! It is as good as the disk that has just refused: the failure itself is in the answers, the metrics and the log of the process, too.

use std::io;
use std::path::Path;

use crate::io::disk::Disk;

/// Name of the file in a shard's folder. Its content is text.
const FILE_NAME: &str = "log-failed";
const FILE_BYTES_MAX: usize = 64 << 10;

/// Writes down `reason`, durably.
///
/// # Errors
/// The folder cannot be written.
pub fn write<D: Disk>(disk: &D, dir: &Path, reason: &str) -> io::Result<()> {
    disk.write_file_atomically(&dir.join(FILE_NAME), reason.as_bytes())
}

/// What was written down of the shard at `dir`; `None` when its log is well.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<String>> {
    match disk.read_file(&dir.join(FILE_NAME), FILE_BYTES_MAX) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the file away, durably, and returns what it said, as far as it can be read: nothing depends on that.
///
/// # Errors
/// The folder cannot be written.
pub fn forget<D: Disk>(disk: &D, dir: &Path) -> io::Result<Option<String>> {
    let path = dir.join(FILE_NAME);
    let reason = match read(disk, dir) {
        Ok(None) => return Ok(None),
        Ok(reason) => reason,
        Err(error) => {
            tracing::warn!(
                path = %path.display(), %error,
                "why the log failed in an earlier run cannot be read; the file is removed"
            );
            None
        }
    };
    disk.remove_file(&path).and_then(|()| disk.sync_dir(dir)).map_err(|error| {
        io::Error::new(error.kind(), format!("{} cannot be removed: {error}", path.display()))
    })?;
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::StdDisk;

    #[test]
    fn what_cannot_be_read_is_forgotten_too() {
        let dir = tempfile::tempdir().unwrap();
        let too_long = vec![b'x'; FILE_BYTES_MAX + 1];
        std::fs::write(dir.path().join(FILE_NAME), too_long).unwrap();
        assert_eq!(read(&StdDisk, dir.path()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(forget(&StdDisk, dir.path()).unwrap(), None);
        assert_eq!(read(&StdDisk, dir.path()).unwrap(), None);
    }

    #[test]
    fn a_failure_is_known_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&StdDisk, dir.path()).unwrap(), None);
        write(&StdDisk, dir.path(), "writing failed").unwrap();
        assert_eq!(read(&StdDisk, dir.path()).unwrap().as_deref(), Some("writing failed"));
        assert_eq!(forget(&StdDisk, dir.path()).unwrap().as_deref(), Some("writing failed"));
        assert_eq!(forget(&StdDisk, dir.path()).unwrap(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
