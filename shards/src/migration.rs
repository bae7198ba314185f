//! Takes over the store of a stock RocketMQ broker, and gives one back. Blocking; used by commands, while nothing serves the store.
//!
//! A shard's folder has RocketMQ's layout, so that neither way copies a message:
//!
//! ```text
//! adopt     store/{commitlog,config,…}      ── moved ──►  <root>/shard-0, manifest made, ConsumeQueues and index built from the log
//! release   <root>/shard-0                  stays, or is moved away; brought to the state of a clean stop that RocketMQ expects
//! ```
//! A stock broker and RingMQ never use one folder at a time: both take the stock broker's lock on it ([`crate::store_dir`]).
//!
//! What both know of a shard that the other has written to is the file [`STOCK_MARKER`] in its folder: the log may hold a queue of a topic
//! that was deleted and made again, whose offsets began anew ([`crate::recovery`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::commit_log::scan::UNSYNCED_MARKER;
use crate::consume_queue::places::read_places;
use crate::damage;
use crate::io::disk::{Disk, StdDisk};
use crate::io::log_file::UNFINISHED_SUFFIX;
use crate::limits::SEGMENT_BYTES_MIN;
use crate::manifest::{Manifest, random_store_id};
use crate::position::PhysicalOffset;
use crate::positions::Positions;
use crate::recovery::{
    RecoveryError, RecoveryProgress, RecoveryReport, STOCK_MARKER, ShardConfig, recover_shard,
};
use crate::segment::{SegmentError, list_segments, segment_path, segment_start};
use crate::side_writer::{abort_path, remove_abort};
use crate::store_dir::{StoreDir, StoreDirError, lock_against_stock, lock_root};

mod unsupported;

/// What a stock broker derived from its log; built anew.
const DERIVED: [&str; 2] = ["consumequeue", "index"];
/// Behind the name of a derived folder while its successor is built.
const ASIDE_SUFFIX: &str = ".of-stock";

/// Why a store cannot be taken over. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(
        "{path} is no store of a RocketMQ broker: it has no folder commitlog with files in it; name the broker's storePathRootDir, and \
         when its storePathCommitLog is elsewhere, stop the broker and move that folder there"
    )]
    NoStockStore { path: PathBuf },
    #[error("{path} uses what RingMQ cannot take over: {}", reasons.join("; "))]
    Unsupported { path: PathBuf, reasons: Vec<String> },
    #[error(
        "the CommitLog files of {path} have {found} bytes (mappedFileSizeCommitLog); RingMQ needs a multiple of 4096, at least {least}"
    )]
    SegmentBytes { path: PathBuf, found: u64, least: u64 },
    #[error("{path} holds a store already; name a folder that is empty or not there")]
    RootInUse { path: PathBuf },
    #[error("{root} lies inside of {store}; name a folder outside of it")]
    Inside { root: PathBuf, store: PathBuf },
    #[error(
        "{from} cannot become {to}: they are on different file systems; move it there yourself (keep holes: cp --sparse=always), then \
         adopt it where it is"
    )]
    OtherFileSystem { from: PathBuf, to: PathBuf },
    #[error(transparent)]
    Store(#[from] StoreDirError),
    #[error(transparent)]
    Segments(#[from] SegmentError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("cannot take over {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A store that was taken over.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub root: PathBuf,
    /// Where the stock broker's folder is now.
    pub shard_dir: PathBuf,
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Whether the stock broker had ended cleanly.
    pub was_clean: bool,
    pub report: RecoveryReport,
    /// Messages of all queues, by topic.
    pub messages: Vec<(String, u64)>,
}

/// Makes the folder `stock` of a stock broker the only shard of a new store at `root`, for the node `node`. All of its log is read.
///
/// When it is `<root>/shard-0` already, it stays where it is.
///
/// # Errors
/// The broker runs, the store is not one that RingMQ can serve, or the disk refuses. It is where and as it was then, but for the rest of
/// an unfinished write at the end of its log, which RocketMQ cuts as well.
pub fn adopt(
    stock: &Path,
    root: &Path,
    node: &str,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<Adopted, AdoptError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| AdoptError::Io { path, source }
    };
    let stock = &fs::canonicalize(stock).map_err(failed(stock))?;
    let segment_bytes = segment_bytes_of(stock)?;
    let _broker_is_gone = lock_against_stock(stock)?;
    let reasons = unsupported::find(stock).map_err(failed(stock))?;
    if !reasons.is_empty() {
        return Err(AdoptError::Unsupported { path: stock.clone(), reasons });
    }
    list_segments(&StdDisk, &stock.join("commitlog"), segment_bytes)?;

    let was_there = root.exists();
    fs::create_dir_all(root).map_err(failed(root))?;
    let root = &fs::canonicalize(root).map_err(failed(root))?;
    let shard_dir = root.join("shard-0");
    let is_in_place = *stock == shard_dir;
    let take_over = || {
        if root.starts_with(stock) {
            return Err(AdoptError::Inside { root: root.clone(), store: stock.clone() });
        }
        let _lock = lock_root(root)?;
        let has_manifest = Manifest::read(root).map_err(failed(root))?.is_ok_and(|found| found.is_some());
        if has_manifest || !is_in_place && (shard_dir.exists() || root.join("commitlog").exists()) {
            return Err(AdoptError::RootInUse { path: root.clone() });
        }
        if !is_in_place {
            move_folder(stock, &shard_dir)?;
        }
        let taken = derive(&shard_dir, segment_bytes, progress);
        if taken.is_err() && !is_in_place {
            move_folder(&shard_dir, stock)?;
        }
        let (report, messages, was_clean) = taken?;
        let manifest = Manifest {
            store_id: random_store_id().map_err(failed(root))?,
            shards: 1,
            segment_bytes,
            node: node.to_owned(),
        };
        manifest.write(root).map_err(failed(root))?;
        let (root, shard_dir) = (root.clone(), shard_dir.clone());
        Ok(Adopted { root, shard_dir, segment_bytes, was_clean, report, messages })
    };
    let mut take_over = take_over;
    let adopted = take_over();
    if adopted.is_err() && !was_there {
        // What was made for nothing goes, unless somebody else has put something into it.
        let _ = fs::remove_file(root.join("lock"));
        let _ = fs::remove_dir(root);
    }
    adopted
}

/// The size of the CommitLog files, from the first one.
fn segment_bytes_of(stock: &Path) -> Result<u64, AdoptError> {
    let log_dir = stock.join("commitlog");
    let no_store = || AdoptError::NoStockStore { path: stock.to_owned() };
    let io_error = |source| AdoptError::Io { path: log_dir.clone(), source };
    let mut names = StdDisk.list(&log_dir).map_err(io_error)?;
    names.retain(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    let first = names.first().ok_or_else(no_store)?;
    let found = fs::metadata(log_dir.join(first)).map_err(io_error)?.len();
    if found < SEGMENT_BYTES_MIN || !found.is_multiple_of(4096) {
        return Err(AdoptError::SegmentBytes { path: stock.to_owned(), found, least: SEGMENT_BYTES_MIN });
    }
    Ok(found)
}

fn move_folder(from: &Path, to: &Path) -> Result<(), AdoptError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::CrossesDevices => {
            AdoptError::OtherFileSystem { from: from.to_owned(), to: to.to_owned() }
        }
        _ => AdoptError::Io { path: from.to_owned(), source },
    };
    fs::rename(from, to).map_err(failed)?;
    for folder in [from.parent(), to.parent()].into_iter().flatten() {
        StdDisk.sync_dir(folder).map_err(failed)?;
    }
    Ok(())
}

type Derived = (RecoveryReport, Vec<(String, u64)>, bool);

/// Builds ConsumeQueues and index from the log. What the stock broker had built is put back when that fails.
fn derive(
    dir: &Path,
    segment_bytes: u64,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<Derived, AdoptError> {
    let failed = |source| AdoptError::Io { path: dir.to_owned(), source };
    let was_clean = !abort_path(dir).exists();
    let checkpoint = match fs::read(Checkpoint::path(dir)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    set_aside(dir).map_err(failed)?;
    keep_places(dir, segment_bytes)?;
    let recovered = recover_shard(&StdDisk, dir, &ShardConfig::new(segment_bytes), progress);
    let recovered = match recovered {
        Ok(recovered) => recovered,
        Err(error) => {
            put_back(dir, was_clean, checkpoint.as_deref()).map_err(failed)?;
            return Err(error.into());
        }
    };
    remove_abort(&StdDisk, dir).map_err(failed)?;
    for name in DERIVED {
        StdDisk.remove_dir_all(&aside(dir, name)).map_err(failed)?;
    }
    Ok((recovered.report.clone(), recovered.messages(), was_clean))
}

fn aside(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{ASIDE_SUFFIX}"))
}

/// Leaves of what is derived nothing that recovery could go on from, and says how far it may trust the log's end.
fn set_aside(dir: &Path) -> io::Result<()> {
    for name in DERIVED {
        let (current, aside) = (dir.join(name), aside(dir, name));
        if aside.exists() {
            // An adoption before this one was cut short: what is there now is what it had built.
            StdDisk.remove_dir_all(&current)?;
        } else if current.exists() {
            fs::rename(&current, &aside)?;
        }
    }
    for stale in [Positions::path(dir), dir.join(damage::FILE_NAME)] {
        StdDisk.remove_file(&stale)?;
    }
    Positions::forget_set_aside(&StdDisk, dir)?;
    fs::write(dir.join(STOCK_MARKER), b"")?;
    if abort_path(dir).exists() {
        // With its lazy flush, much may be written and not durable when the power goes.
        fs::write(dir.join(UNSYNCED_MARKER), b"")?;
    }
    fs::create_dir_all(dir.join("config"))?;
    StdDisk.sync_dir(dir)
}

/// Keeps how far the stock broker's queues had come, where it has removed old files of its log: of a queue whose messages are all gone,
/// nothing else says where it goes on.
fn keep_places(dir: &Path, segment_bytes: u64) -> Result<(), AdoptError> {
    let log_start = list_segments(&StdDisk, &dir.join("commitlog"), segment_bytes)?.first().copied();
    let log_start = log_start.unwrap_or_default();
    if log_start > PhysicalOffset::ZERO {
        read_places(&StdDisk, &aside(dir, "consumequeue"), log_start)
            .and_then(|queues| Positions { queues, ..Positions::default() }.write_set_aside(&StdDisk, dir))
            .map_err(|source| AdoptError::Io { path: dir.to_owned(), source })?;
    }
    Ok(())
}

fn put_back(dir: &Path, was_clean: bool, checkpoint: Option<&[u8]>) -> io::Result<()> {
    for name in DERIVED {
        let (current, aside) = (dir.join(name), aside(dir, name));
        StdDisk.remove_dir_all(&current)?;
        if aside.exists() {
            fs::rename(&aside, &current)?;
        }
    }
    for ours in [STOCK_MARKER, UNSYNCED_MARKER, damage::FILE_NAME] {
        StdDisk.remove_file(&dir.join(ours))?;
    }
    StdDisk.remove_file(&Positions::path(dir))?;
    Positions::forget_set_aside(&StdDisk, dir)?;
    match checkpoint {
        Some(bytes) => fs::write(Checkpoint::path(dir), bytes)?,
        None => StdDisk.remove_file(&Checkpoint::path(dir))?,
    }
    if was_clean { remove_abort(&StdDisk, dir) } else { StdDisk.sync_dir(dir) }
}

/// Why a store cannot be given to a stock broker. Its messages are as they were.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error(transparent)]
    Store(#[from] StoreDirError),
    #[error(
        "the store {path} has {shards} shards; a stock broker can take one with a single shard only (`ringmq serve --shards 1` makes one)"
    )]
    Shards { path: PathBuf, shards: u32 },
    #[error(
        "the log is damaged at {} places, the first at byte {at_byte} of {file}: a stock broker may cut all behind it; run `ringmq store \
         verify`, and restore the file from a copy first",
        ranges
    )]
    Damaged { ranges: usize, file: PathBuf, at_byte: u64 },
    #[error("{path} exists already; name a folder that does not")]
    Exists { path: PathBuf },
    #[error("cannot move {from} to {to}, give it where it is: {source}")]
    Move { from: PathBuf, to: PathBuf, source: io::Error },
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("cannot prepare {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A store that a stock broker can take.
#[derive(Clone, Debug)]
pub struct Released {
    /// For the stock broker's `storePathRootDir`.
    pub store_dir: PathBuf,
    /// For its `mappedFileSizeCommitLog`.
    pub segment_bytes: u64,
    pub node: String,
    pub report: RecoveryReport,
}

/// Brings the store at `root`, which has one shard, into the state of a clean stop, also after a kill, so that a stock broker can take its
/// folder; with `to` the folder is moved there, and `root` is no store any more.
///
/// # Errors
/// The store is in use, has several shards or damage in its log that is known, or the disk refuses.
pub fn release(
    root: &Path,
    to: Option<&Path>,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<Released, ReleaseError> {
    let store = StoreDir::open_existing(root)?;
    let (segment_bytes, shards) = (store.segment_bytes(), store.shards());
    if shards != 1 {
        return Err(ReleaseError::Shards { path: root.to_owned(), shards });
    }
    if let Some(to) = to.filter(|to| to.exists()) {
        return Err(ReleaseError::Exists { path: to.to_owned() });
    }
    let dir = store.shard_dir(0);
    let failed = |source| ReleaseError::Io { path: dir.clone(), source };
    let recovered = recover_shard(&StdDisk, &dir, &ShardConfig::new(segment_bytes), progress)?;
    if let Some(first) = recovered.damage.ranges().first() {
        let start = segment_start(first.from, segment_bytes);
        return Err(ReleaseError::Damaged {
            ranges: recovered.damage.ranges().len(),
            file: segment_path(&dir.join("commitlog"), start),
            at_byte: first.from.since(start),
        });
    }
    // RocketMQ takes every name in there for a log offset.
    let log_dir = dir.join("commitlog");
    for name in StdDisk.list(&log_dir).map_err(failed)? {
        if name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes()) {
            StdDisk.remove_file(&log_dir.join(name)).map_err(failed)?;
        }
    }
    fs::write(dir.join(STOCK_MARKER), b"").map_err(failed)?;
    StdDisk.sync_dir(&log_dir).map_err(failed)?;
    Checkpoint::unmark(&StdDisk, &dir).map_err(failed)?;
    remove_abort(&StdDisk, &dir).map_err(failed)?;
    let store_dir = match to {
        None => dir.clone(),
        Some(to) => {
            move_away(store.root(), &dir, to)?;
            fs::canonicalize(to).map_err(failed)?
        }
    };
    let node = store.node().to_owned();
    Ok(Released { store_dir, segment_bytes, node, report: recovered.report })
}

fn move_away(root: &Path, dir: &Path, to: &Path) -> Result<(), ReleaseError> {
    let failed = |source| ReleaseError::Move { from: dir.to_owned(), to: to.to_owned(), source };
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(dir, to).map_err(failed)?;
    StdDisk.sync_dir(parent).map_err(failed)?;
    // Without its shard the store would be taken for an empty one.
    Manifest::remove(root).map_err(failed)
}
