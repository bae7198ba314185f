//! Removes the oldest files of the log, on the side thread and in small steps, so that neither it nor the disk is kept busy by one large
//! step.
//!
//! 1. The files get another name, the oldest first, each durably: what a crash leaves is a log without a gap.
//! 2. Queues and index start where the log does now ([`Removal`]).
//! 3. The files are cut from their ends, a piece at a time, and removed ([`Leaving`]).
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

/// What one step frees, bytes: while there is room, so little that nobody who writes beside it feels it; otherwise as much as comes in.
const GENTLE_STEP_BYTES: u64 = 8 << 20;
const BRISK_STEP_BYTES: u64 = 64 << 20;
/// Queues that one step looks at.
const STEP_QUEUES: usize = 512;

/// Queues and index on their way to a later start.
pub(super) struct Removal {
    log_start: PhysicalOffset,
    /// The queue to go on with.
    next_queue: usize,
    moved: Vec<QueueStart>,
}

/// Files that are out of the log and still take room.
#[derive(Default)]
pub(super) struct Leaving {
    files: VecDeque<LeavingFile>,
    /// How full the disk may be before they go faster, percent.
    brisk_above_percent: f64,
}

struct LeavingFile {
    path: PathBuf,
    bytes: u64,
}

impl Removal {
    /// Takes the files before `log_start` out of the log in the shard's folder `dir`. They go faster when the disk is fuller than
    /// `brisk_above_percent`.
    ///
    /// # Errors
    /// The positions cannot be made durable, or a file cannot be renamed. The call can be repeated.
    pub(super) fn begin<D: Disk>(
        files: &mut DerivedFiles<D>,
        dir: &Path,
        segment_bytes: u64,
        log_start: PhysicalOffset,
        brisk_above_percent: f64,
        leaving: &mut Leaving,
    ) -> io::Result<Self> {
        leaving.brisk_above_percent = brisk_above_percent;
        leaving.files.extend(rename_before(files, dir, segment_bytes, log_start)?);
        Ok(Self { log_start, next_queue: 0, moved: Vec::new() })
    }

    /// Does a little of it; true when all is done.
    ///
    /// # Errors
    /// The disk refuses. The next step tries again.
    pub(super) fn step<D: Disk>(&mut self, files: &mut DerivedFiles<D>) -> io::Result<bool> {
        let next = files.advance_starts(self.log_start, self.next_queue, STEP_QUEUES, &mut self.moved)?;
        self.next_queue = next.unwrap_or(self.next_queue);
        Ok(next.is_none())
    }

    /// The starts of queues that have moved.
    pub(super) fn into_moved(self) -> Vec<QueueStart> {
        self.moved
    }
}

impl Leaving {
    /// The room that they take, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Frees a little of it.
    ///
    /// # Errors
    /// The disk refuses. The next step tries again.
    pub(super) fn step<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        let Some(LeavingFile { path, bytes }) = self.files.front_mut() else { return Ok(()) };
        let dir = path.parent().expect("a file is in a folder");
        let is_short_of_room = disk.usage(dir)?.used_percent() > self.brisk_above_percent;
        let step_bytes = if is_short_of_room { BRISK_STEP_BYTES } else { GENTLE_STEP_BYTES };
        let rest = bytes.saturating_sub(step_bytes);
        let file = match disk.open(path) {
            Ok(file) if rest > 0 => file,
            // Little is left, or somebody else has made room with it.
            Ok(_) => return self.remove_first(disk),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.remove_first(disk),
            Err(error) => return Err(error),
        };
        file.set_len(rest)?;
        *bytes = rest;
        Ok(())
    }

    fn remove_first<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        if let Some(file) = self.files.front() {
            disk.remove_file(&file.path)?;
            self.files.pop_front();
        }
        Ok(())
    }

    /// Removes all in one go: the store is closing.
    ///
    /// # Errors
    /// A file cannot be removed. The next start does it.
    pub(super) fn hurry<D: Disk>(&mut self, disk: &D) -> io::Result<()> {
        while !self.files.is_empty() {
            self.remove_first(disk)?;
        }
        Ok(())
    }
}

fn rename_before<D: Disk>(
    files: &mut DerivedFiles<D>,
    dir: &Path,
    segment_bytes: u64,
    log_start: PhysicalOffset,
) -> io::Result<Vec<LeavingFile>> {
    if log_start > files.log_synced() {
        files.snapshot()?;
    }
    assert!(log_start <= files.log_synced(), "only what is covered by the positions is removed");
    let log_dir = dir.join("commitlog");
    let segments = list_segments(files.disk(), &log_dir, segment_bytes).map_err(io::Error::other)?;
    let mut leaving = Vec::new();
    for start in segments.into_iter().take_while(|start| *start < log_start) {
        let path = segment_path(&log_dir, start);
        let mut renamed = path.clone().into_os_string();
        renamed.push(UNFINISHED_SUFFIX);
        let renamed = PathBuf::from(renamed);
        let taken_out = files.disk().rename(&path, &renamed).and_then(|()| {
            leaving.push(LeavingFile { path: renamed, bytes: segment_bytes });
            files.disk().sync_dir(&log_dir)
        });
        if let Err(error) = taken_out {
            if leaving.is_empty() {
                return Err(error);
            }
            tracing::error!(path = %path.display(), %error, "this old CommitLog file and later ones stay until the next look");
            break;
        }
    }
    Ok(leaving)
}
