//! The files of a CommitLog: names, sizes, order.
//!
//! All segments of a log have the same size. A segment's name is the log offset of its first byte in 20 digits, so
//! its start says all.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::disk::{Disk, DiskFile};
use crate::io::log_file::UNFINISHED_SUFFIX;
use crate::position::PhysicalOffset;

/// Why the segments of a log cannot be told. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not named like a CommitLog file of {segment_bytes} bytes (20 digits, a multiple of that size); \
         move it away, or use the size that the store was made with"
    )]
    Name { path: PathBuf, segment_bytes: u64 },
    #[error(
        "{path} has {found_bytes} bytes, but the CommitLog files of this store have {segment_bytes}; \
         restore it, or use the size that the store was made with"
    )]
    Size { path: PathBuf, found_bytes: u64, segment_bytes: u64 },
    #[error("{path} is missing between other CommitLog files; restore it")]
    Missing { path: PathBuf },
}

/// The file of the segment that starts at `start`.
pub fn segment_path(dir: &Path, start: PhysicalOffset) -> PathBuf {
    dir.join(format!("{:020}", start.get()))
}

/// The start of the segment that holds `at`.
pub fn segment_start(at: PhysicalOffset, segment_bytes: u64) -> PhysicalOffset {
    PhysicalOffset::new(at.get() - at.get() % segment_bytes)
}

/// The starts of the segments in `dir`, in log order. Left out: unfinished ones, and an empty last file, which
/// RocketMQ may leave.
///
/// # Errors
/// When a file has a wrong name or size, or one is missing between others.
pub fn list_segments<D: Disk>(
    disk: &D,
    dir: &Path,
    segment_bytes: u64,
) -> Result<Vec<PhysicalOffset>, SegmentError> {
    let io_error = |path: &Path, source| SegmentError::Io { path: path.to_owned(), source };
    let mut names = disk.list(dir).map_err(|error| io_error(dir, error))?;
    names.retain(|name| !name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes()));
    let mut starts: Vec<PhysicalOffset> = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let path = dir.join(name);
        let start = name
            .to_str()
            .and_then(|name| parse_name(name, segment_bytes))
            .ok_or_else(|| SegmentError::Name { path: path.clone(), segment_bytes })?;
        let found_bytes =
            disk.open(&path).and_then(|file| file.len()).map_err(|error| io_error(&path, error))?;
        if found_bytes == 0 && index + 1 == names.len() {
            break;
        }
        if found_bytes != segment_bytes {
            return Err(SegmentError::Size { path, found_bytes, segment_bytes });
        }
        if let Some(expected) = starts.last().map(|previous| previous.plus(segment_bytes))
            && expected != start
        {
            return Err(SegmentError::Missing { path: segment_path(dir, expected) });
        }
        starts.push(start);
    }
    Ok(starts)
}

fn parse_name(name: &str, segment_bytes: u64) -> Option<PhysicalOffset> {
    if name.len() != 20 || !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let start: u64 = name.parse().ok()?;
    // One whole segment behind the start must still be a valid position.
    let end = start.checked_add(segment_bytes)?;
    (start.is_multiple_of(segment_bytes) && i64::try_from(end).is_ok()).then(|| PhysicalOffset::new(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::StdDisk;

    fn dir_with(files: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), vec![0; *bytes]).unwrap();
        }
        dir
    }

    #[test]
    fn segments_are_listed_in_log_order_without_unfinished_ones() {
        let dir = dir_with(&[
            ("00000000000000016384", 8192),
            ("00000000000000008192", 8192),
            ("00000000000000024576.tmp", 100),
            ("00000000000000024576", 0),
        ]);
        let starts = list_segments(&StdDisk, dir.path(), 8192).unwrap();
        assert_eq!(starts, [PhysicalOffset::new(8192), PhysicalOffset::new(16384)]);
        assert_eq!(
            segment_path(dir.path(), starts[0]).file_name().unwrap().to_str(),
            Some("00000000000000008192")
        );
        assert_eq!(segment_start(PhysicalOffset::new(16383), 8192), starts[0]);
    }

    #[test]
    fn odd_files_are_named() {
        let dir = dir_with(&[("00000000000000000000", 8192), ("00000000000000016384", 8192)]);
        let error = list_segments(&StdDisk, dir.path(), 8192).unwrap_err();
        assert!(error.to_string().contains("00000000000000008192 is missing"), "{error}");
        let dir = dir_with(&[("00000000000000000000", 8000), ("00000000000000008192", 8192)]);
        let error = list_segments(&StdDisk, dir.path(), 8192).unwrap_err();
        assert!(error.to_string().contains("has 8000 bytes"), "{error}");
        for name in ["notes.txt", "00000000000000000001", "99999999999999999999", "+0000000000000008192"] {
            let dir = dir_with(&[(name, 8192)]);
            let error = list_segments(&StdDisk, dir.path(), 8192).unwrap_err();
            assert!(matches!(error, SegmentError::Name { .. }), "{name}: {error}");
        }
    }
}
