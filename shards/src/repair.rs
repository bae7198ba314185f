//! Makes a shard that nobody uses startable again, and copies a store before. Blocking.
//!
//! What is derived from the log is built anew from it; a torn tail is cut; damage in the log stays where it is, is remembered and passed
//! over, so that who finds a copy of it later can put it back. Files of the log that are missing or too short become zeros there, which is
//! damage like any other; files that are none of the log's are set aside, never removed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::damage;
use crate::io::disk::{Disk, DiskFile, StdDisk};
use crate::positions::Positions;
use crate::recovery::{RecoveryError, RecoveryProgress, RecoveryReport, ShardConfig, recover_shard};
use crate::segment::{SegmentError, list_segments};
use crate::side_writer::remove_abort;

/// Folder in a shard's folder for what repair moved out of the way.
const SET_ASIDE_DIR: &str = "set-aside-by-repair";
/// Most changes of the log's files before recovery. Where more are needed, it is no log.
const FILE_CHANGES_MAX: usize = 100_000;
const COPY_BYTES: usize = 1 << 20;
/// Zeros of this length are not written into a copy, so that it takes no more room than the original.
const HOLE_BYTES: usize = 64 << 10;

/// Why a shard cannot be repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error("cannot change {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Segments(#[from] SegmentError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What a repair did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepairReport {
    /// In words.
    pub done: Vec<String>,
    pub records: u64,
    pub log_end: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    pub damaged_ranges: u64,
    pub damaged_bytes: u64,
    /// Messages in them whose places are kept.
    pub lost_messages: u64,
}

/// Repairs the shard in the folder `dir`.
///
/// # Errors
/// The disk refuses; or the log holds what neither a crash nor damage leaves, such as one queue offset twice.
pub fn repair_shard(
    dir: &Path,
    config: &ShardConfig,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<RepairReport, RepairError> {
    let failed = |source| RepairError::Io { path: dir.to_owned(), source };
    let mut done = Vec::new();
    put_segments_in_order(dir, config.segment_bytes, &mut done)?;
    match Positions::read(&StdDisk, dir).map_err(failed)? {
        Ok(Some(_)) => Positions::set_aside(&StdDisk, dir).map_err(failed)?,
        Ok(None) => {}
        Err(_) => {
            Positions::remove(&StdDisk, dir).map_err(failed)?;
            done.push("removed the damaged positions snapshot".to_owned());
        }
    }
    for path in [Checkpoint::path(dir), dir.join(damage::FILE_NAME)] {
        StdDisk.remove_file(&path).map_err(failed)?;
    }
    let recovered = recover_shard(&StdDisk, dir, config, progress)?;
    remove_abort(&StdDisk, dir).map_err(failed)?;
    let RecoveryReport { end, records, torn_bytes, damaged_ranges, damaged_bytes, lost_messages, .. } =
        recovered.report;
    done.push(format!("built ConsumeQueues and index anew from {records} records"));
    if torn_bytes > 0 {
        done.push(format!("cut the rest of an unfinished write behind log offset {end}"));
    }
    if damaged_ranges > 0 {
        done.push(format!(
            "left {damaged_ranges} damaged places ({damaged_bytes} bytes) in the log as they are; readers go on past them"
        ));
    }
    let log_end = end.get();
    Ok(RepairReport { done, records, log_end, torn_bytes, damaged_ranges, damaged_bytes, lost_messages })
}

/// Makes the log's files one log: each where it belongs, as long as it should be, none missing between others.
fn put_segments_in_order(dir: &Path, segment_bytes: u64, done: &mut Vec<String>) -> Result<(), RepairError> {
    let log_dir = dir.join("commitlog");
    for _ in 0..FILE_CHANGES_MAX {
        let error = match list_segments(&StdDisk, &log_dir, segment_bytes) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let (path, told) = match error {
            SegmentError::Size { path, found_bytes, .. } if found_bytes < segment_bytes => {
                let told = format!("lengthened {} from {found_bytes} bytes with zeros", path.display());
                (path, told)
            }
            SegmentError::Missing { path } => {
                let told = format!("made {} of zeros, as it was missing", path.display());
                (path, told)
            }
            SegmentError::Name { path, .. } | SegmentError::Size { path, .. } => {
                let to =
                    set_aside(dir, &path).map_err(|source| RepairError::Io { path: path.clone(), source })?;
                done.push(format!("moved {} to {}: it is no file of this log", path.display(), to.display()));
                continue;
            }
            error @ SegmentError::Io { .. } => return Err(error.into()),
        };
        let fill = || {
            let file = StdDisk.open_or_create(&path)?;
            DiskFile::set_len(&file, segment_bytes)?;
            DiskFile::sync_data(&file)?;
            StdDisk.sync_dir(&log_dir)
        };
        fill().map_err(|source| RepairError::Io { path: path.clone(), source })?;
        done.push(told);
    }
    Ok(())
}

fn set_aside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let aside = dir.join(SET_ASIDE_DIR);
    let to = aside.join(path.file_name().unwrap_or_default());
    StdDisk.create_dir_all(&aside)?;
    StdDisk.rename(path, &to)?;
    StdDisk.sync_dir(&aside)?;
    Ok(to)
}

/// Bytes that the folder takes on the disk, with all below it.
///
/// # Errors
/// Something of it cannot be read.
pub fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { allocated_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// Copies the folder `from` to `to`, which must not exist, durably. Long stretches of zeros take no room in the copy. `copied` hears how
/// many bytes were gone through.
///
/// # Errors
/// Something cannot be read or written; what was copied so far stays.
pub fn copy_store(from: &Path, to: &Path, copied: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut done = 0;
    copy_dir(from, to, &mut |bytes| {
        done += bytes;
        copied(done);
    })
}

fn copy_dir(from: &Path, to: &Path, copied: &mut dyn FnMut(u64)) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_dir(&entry.path(), &target, copied)?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &target, copied)?;
        }
    }
    File::open(to)?.sync_all()
}

fn copy_file(from: &Path, to: &Path, copied: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    target.set_len(source.metadata()?.len())?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        for part in buffer[..read].chunks(HOLE_BYTES) {
            if part.iter().all(|byte| *byte == 0) {
                target.seek(SeekFrom::Current(i64::try_from(part.len()).expect("a small number")))?;
            } else {
                target.write_all(part)?;
            }
        }
        copied(read as u64);
    }
    target.set_permissions(source.metadata()?.permissions())?;
    target.sync_all()
}
