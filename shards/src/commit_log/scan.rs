//! Reads a log from a known good place to its end and says how it ends: cleanly, torn by a crash, or damaged.
//!
//! A record counts when magic, sizes, its own physical offset and its CRCs agree. At the first place `X` where that is not so the log ends,
//! and what lies behind decides why:
//!
//! ```text
//!  good records │X            torn window              │ searched for good records
//!  ─────────────┼──────────────────────────────────────┼──────────────────────────►
//!               │ can hold parts of the one write that │ was durable before that write began:
//!               │ was under way when the process died  │ a good record here means that X is damage
//! ```
//! Nothing but zeros in the window: a clean end. Otherwise the tail is torn: it holds nothing that was acknowledged, and must be zeroed
//! ([`cut`]) before the log is used, so that a later reader cannot take its rests for records.

use std::io;
use std::path::{Path, PathBuf};

use crate::commit_log::segment::Segment;
use crate::io::disk::Disk;
use crate::position::PhysicalOffset;
use crate::record::RecordView;

/// Why the log cannot be read. The shard does not start; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read or repair {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a CommitLog file name: 20 digits, a multiple of the file size {segment_bytes}, are needed; move it away if it does not belong here"
    )]
    SegmentName { path: PathBuf, segment_bytes: u64 },
    #[error(
        "{path} has {found_bytes} bytes, the store's CommitLog files have {segment_bytes}; set the size the store was made with"
    )]
    SegmentSize { path: PathBuf, found_bytes: u64, segment_bytes: u64 },
    #[error("{path} is missing between other CommitLog files; bring it back")]
    SegmentMissing { path: PathBuf },
    #[error("the scan should start at {from}, but the log has bytes {log_start}..{log_end} only")]
    FromOutside { from: PhysicalOffset, log_start: PhysicalOffset, log_end: PhysicalOffset },
    /// A bad place with good, newer records behind it. Never cut: it would lose acknowledged messages.
    #[error(
        "{path} is damaged at byte {file_offset} (log offset {at}: {reason}), but good records follow at log offset {good_at}; restore the file from a copy"
    )]
    Corrupt { path: PathBuf, file_offset: u64, at: PhysicalOffset, reason: String, good_at: PhysicalOffset },
}

/// What is scanned.
#[derive(Clone, Copy, Debug)]
pub struct ScanLog<'a> {
    /// As [`crate::commit_log::segment::list_segments`] gives them.
    pub segments: &'a [Segment],
    pub segment_bytes: u64,
    /// Most bytes that could be written and not yet durable when the process died: see [`torn_window_bytes`].
    pub torn_window_bytes: u64,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// Where the next record goes.
    pub end: PhysicalOffset,
    /// The bytes of the last, partly filled page: from the page boundary to `end`.
    pub tail_page: Vec<u8>,
    /// The rest of a write that a crash cut short. [`cut`] it before anything is appended.
    pub torn: Option<TornTail>,
}

/// A range of the log that must become zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub from: PhysicalOffset,
    pub to: PhysicalOffset,
    /// What was wrong at `from`.
    pub reason: String,
}

/// How much a crash can have left half-written, as the shard was run last: a marker in `shard_dir` says that it flushed lazily.
///
/// # Errors
/// When the folder cannot be read.
pub fn torn_window_bytes<D: Disk>(_disk: &D, _shard_dir: &Path) -> Result<u64, ScanError> {
    unimplemented!("follows")
}

/// Gives every record from `from` on to `sink`, in log order, and judges the end. Changes nothing on the disk.
///
/// # Errors
/// [`ScanError`], or the first error of `sink`.
pub fn scan<D: Disk, E: From<ScanError>>(
    _disk: &D,
    _log: &ScanLog<'_>,
    _from: PhysicalOffset,
    _sink: &mut dyn FnMut(&RecordView<'_>) -> Result<(), E>,
) -> Result<ScanEnd, E> {
    unimplemented!("follows")
}

/// Zeroes a torn tail, durably.
///
/// # Errors
/// When a file cannot be written.
pub fn cut<D: Disk>(_disk: &D, _log: &ScanLog<'_>, _torn: &TornTail) -> Result<(), ScanError> {
    unimplemented!("follows")
}
