//! The files of a CommitLog: names, sizes, order.

use std::path::{Path, PathBuf};

use crate::commit_log::scan::ScanError;
use crate::io::disk::{Disk, DiskFile};
use crate::position::PhysicalOffset;

/// One file of the log. All have the same size; the name is the offset of the first byte, in 20 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: PhysicalOffset,
    pub path: PathBuf,
}

/// A segment gets this ending while it is being made; the final name appears when it has its full size.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

/// The file of the segment that starts at `start`.
pub fn segment_path(dir: &Path, start: PhysicalOffset) -> PathBuf {
    dir.join(format!("{:020}", start.get()))
}

/// The start of the segment that holds `at`.
pub fn segment_start(at: PhysicalOffset, segment_bytes: u64) -> PhysicalOffset {
    PhysicalOffset::new(at.get() - at.get() % segment_bytes)
}

/// The segments in `dir`, in log order. Unfinished ones are left out. An empty last file, which RocketMQ may leave, too.
///
/// # Errors
/// When a file has a wrong name or size, or one is missing between others.
pub fn list_segments<D: Disk>(disk: &D, dir: &Path, segment_bytes: u64) -> Result<Vec<Segment>, ScanError> {
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ScanError::Io { path, source }
    };
    let mut segments: Vec<Segment> = Vec::new();
    let names = disk.list(dir).map_err(io_error(dir))?;
    let names: Vec<_> = names
        .iter()
        .filter(|name| !name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes()))
        .collect();
    for (index, name) in names.iter().enumerate() {
        let path = dir.join(name);
        let start = name
            .to_str()
            .filter(|name| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|name| name.parse::<u64>().ok())
            .filter(|start| start % segment_bytes == 0)
            .ok_or_else(|| ScanError::SegmentName { path: path.clone(), segment_bytes })?;
        let found_bytes = disk.open(&path).and_then(|file| file.len()).map_err(io_error(&path))?;
        if found_bytes == 0 && index + 1 == names.len() {
            break;
        }
        if found_bytes != segment_bytes {
            return Err(ScanError::SegmentSize { path, found_bytes, segment_bytes });
        }
        if let Some(previous) = segments.last()
            && previous.start.plus(segment_bytes).get() != start
        {
            let missing = segment_path(dir, previous.start.plus(segment_bytes));
            return Err(ScanError::SegmentMissing { path: missing });
        }
        segments.push(Segment { start: PhysicalOffset::new(start), path });
    }
    Ok(segments)
}
