//! Removes the oldest files of the log, on the side thread and in small steps, so that neither it nor the disk is kept busy by one large
//! step.
//!
//! 1. The files get another name, the oldest first, each durably: what a crash leaves is a log without a gap.
//! 2. Queues and index start where the log does now.
//! 3. The files are cut from their ends, a piece at a time, and removed.
//!
//! Nothing is removed that a start would read: the positions on the disk cover the log up to there before the first file goes. A crash in
//! between leaves files that the next start removes, and queues whose start it moves.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::consume_queue::files::QueueStart;
use crate::derived_files::DerivedFiles;
use crate::io::disk::{Disk, DiskFile};
use crate::io::log_file::UNFINISHED_SUFFIX;
use crate::position::PhysicalOffset;
use crate::segment::{list_segments, segment_path};

/// What one step frees, bytes.
const STEP_BYTES: u64 = 64 << 20;
/// Queues that one step looks at.
const STEP_QUEUES: usize = 512;

/// Files of the log on their way out.
pub(super) struct Removal {
    log_start: PhysicalOffset,
    /// The queue to go on with; `None` when all were looked at.
    next_queue: Option<usize>,
    moved: Vec<QueueStart>,
    /// Renamed and not removed yet.
    doomed: VecDeque<PathBuf>,
}

impl Removal {
    /// Takes the files before `log_start` out of the log in the shard's folder `dir`.
    ///
    /// # Errors
    /// The positions cannot be made durable, or a file cannot be renamed. The call can be repeated.
    pub(super) fn begin<D: Disk>(
        files: &mut DerivedFiles<D>,
        dir: &Path,
        segment_bytes: u64,
        log_start: PhysicalOffset,
    ) -> io::Result<Self> {
        let doomed = rename_before(files, dir, segment_bytes, log_start)?;
        Ok(Self { log_start, next_queue: Some(0), moved: Vec::new(), doomed })
    }

    /// Does a little of it; true when all is done.
    ///
    /// # Errors
    /// The disk refuses. The next step tries again.
    pub(super) fn step<D: Disk>(&mut self, files: &mut DerivedFiles<D>) -> io::Result<bool> {
        if let Some(from) = self.next_queue {
            self.next_queue = files.advance_starts(self.log_start, from, STEP_QUEUES, &mut self.moved)?;
            return Ok(self.next_queue.is_none() && self.doomed.is_empty());
        }
        let Some(path) = self.doomed.front() else { return Ok(true) };
        let disk = files.disk();
        let file = match disk.open(path) {
            Ok(file) => Some(file),
            // Somebody else has made room with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let bytes = file.as_ref().map_or(Ok(0), DiskFile::len)?;
        match (file, bytes.checked_sub(STEP_BYTES)) {
            (Some(file), Some(rest)) if rest > 0 => file.set_len(rest)?,
            _ => {
                disk.remove_file(path)?;
                self.doomed.pop_front();
            }
        }
        Ok(self.doomed.is_empty())
    }

    /// The starts of queues that have moved.
    pub(super) fn into_moved(self) -> Vec<QueueStart> {
        self.moved
    }

    /// Removes in one go what is left: the store is closing.
    ///
    /// # Errors
    /// A file cannot be removed. The next start does it.
    pub(super) fn hurry<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        while let Some(path) = self.doomed.pop_front() {
            disk.remove_file(&path)?;
        }
        Ok(())
    }
}

fn rename_before<D: Disk>(
    files: &mut DerivedFiles<D>,
    dir: &Path,
    segment_bytes: u64,
    log_start: PhysicalOffset,
) -> io::Result<VecDeque<PathBuf>> {
    if log_start > files.log_synced() {
        files.snapshot()?;
    }
    assert!(log_start <= files.log_synced(), "only what is covered by the positions is removed");
    let log_dir = dir.join("commitlog");
    let segments = list_segments(files.disk(), &log_dir, segment_bytes).map_err(io::Error::other)?;
    let mut doomed = VecDeque::new();
    for start in segments.into_iter().take_while(|start| *start < log_start) {
        let path = segment_path(&log_dir, start);
        let mut renamed = path.clone().into_os_string();
        renamed.push(UNFINISHED_SUFFIX);
        let renamed = PathBuf::from(renamed);
        let taken_out = files.disk().rename(&path, &renamed).and_then(|()| {
            doomed.push_back(renamed);
            files.disk().sync_dir(&log_dir)
        });
        if let Err(error) = taken_out {
            if doomed.is_empty() {
                return Err(error);
            }
            tracing::error!(path = %path.display(), %error, "this old CommitLog file and later ones stay until the next look");
            break;
        }
    }
    Ok(doomed)
}
