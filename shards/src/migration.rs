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
use crate::store_dir::{
    STOCK_ASIDE, StoreDir, StoreDirError, forget_stock_aside, lock_against_stock, lock_root,
};

mod unsupported;

/// What a stock broker derived from its log, and how far it says that all of it is durable; made anew.
const MADE_ANEW: [&str; 3] = ["consumequeue", "index", "checkpoint"];

/// Why a store cannot be taken over. It is where and as it was, unless the error says otherwise.
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
    #[error(
        "{reason}; after that, {path} could not be made again what it was: {source}; adopt it once more when the disk works, or move what is in \
         {path}/{STOCK_ASIDE} back to {path}, over what is there, and remove {path}/{STOCK_MARKER}"
    )]
    NotPutBack { reason: Box<Self>, path: PathBuf, source: io::Error },
    #[error("{reason}; after that, {from} could not be moved back to {to}: {source}; move it there yourself")]
    NotMovedBack { reason: Box<Self>, from: PathBuf, to: PathBuf, source: io::Error },
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
    let adopted = adopt_into(root, stock, segment_bytes, node, progress);
    if adopted.is_err() && !was_there {
        // What was made for nothing goes, unless somebody else has put something into it.
        let _ = fs::remove_file(root.join("lock"));
        let _ = fs::remove_dir(root);
    }
    adopted
}

/// Makes `stock` the shard of the folder `root`, which is there.
fn adopt_into(
    root: &Path,
    stock: &Path,
    segment_bytes: u64,
    node: &str,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<Adopted, AdoptError> {
    let failed = |source| AdoptError::Io { path: root.to_owned(), source };
    if root.starts_with(stock) {
        return Err(AdoptError::Inside { root: root.to_owned(), store: stock.to_owned() });
    }
    let _lock = lock_root(root)?;
    let shard_dir = root.join("shard-0");
    let is_in_place = *stock == shard_dir;
    let has_manifest = Manifest::read(root).map_err(failed)?.is_ok_and(|found| found.is_some());
    if has_manifest || !is_in_place && (shard_dir.exists() || root.join("commitlog").exists()) {
        return Err(AdoptError::RootInUse { path: root.to_owned() });
    }
    let mut make_store = || {
        let store_id = random_store_id().map_err(failed)?;
        Manifest { store_id, shards: 1, segment_bytes, node: node.to_owned() }.write(root).map_err(failed)
    };
    let (report, messages, was_clean) = if is_in_place {
        take_over(&shard_dir, segment_bytes, progress, &mut make_store)?
    } else {
        move_folder(stock, &shard_dir)?;
        sync_parents(stock, &shard_dir)
            .map_err(failed)
            .and_then(|()| take_over(&shard_dir, segment_bytes, progress, &mut make_store))
            .map_err(|reason| move_back(&shard_dir, stock, reason))?
    };
    Ok(Adopted { root: root.to_owned(), shard_dir, segment_bytes, was_clean, report, messages })
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
    fs::rename(from, to).map_err(|source| match source.kind() {
        io::ErrorKind::CrossesDevices => {
            AdoptError::OtherFileSystem { from: from.to_owned(), to: to.to_owned() }
        }
        _ => AdoptError::Io { path: from.to_owned(), source },
    })
}

/// Makes it durable that what was at `from` is at `to`.
fn sync_parents(from: &Path, to: &Path) -> io::Result<()> {
    [from.parent(), to.parent()].into_iter().flatten().try_for_each(|folder| StdDisk.sync_dir(folder))
}

/// Moves the folder of the stock broker back to where it was, for a `reason`, which is returned.
fn move_back(from: &Path, to: &Path, reason: AdoptError) -> AdoptError {
    if let Err(source) = fs::rename(from, to) {
        let (reason, from, to) = (Box::new(reason), from.to_owned(), to.to_owned());
        return AdoptError::NotMovedBack { reason, from, to, source };
    }
    // Should the power go before this is durable, the folder is found in the other place, where it can be adopted as well.
    let _ = sync_parents(from, to);
    match reason {
        AdoptError::NotPutBack { reason, source, .. } => {
            AdoptError::NotPutBack { reason, path: to.to_owned(), source }
        }
        reason => reason,
    }
}

type TakenOver = (RecoveryReport, Vec<(String, u64)>, bool);

/// Builds ConsumeQueues and index from the log, and lets `make_store` make the folder a part of a store. When anything of that fails, all is
/// put back as the stock broker had left it.
fn take_over(
    dir: &Path,
    segment_bytes: u64,
    progress: &mut dyn FnMut(RecoveryProgress),
    make_store: &mut dyn FnMut() -> Result<(), AdoptError>,
) -> Result<TakenOver, AdoptError> {
    let failed = |source| AdoptError::Io { path: dir.to_owned(), source };
    let before = Before::of(dir).map_err(failed)?;
    let mut build = || {
        set_aside(dir).map_err(failed)?;
        keep_places(dir, segment_bytes)?;
        let recovered = recover_shard(&StdDisk, dir, &ShardConfig::new(segment_bytes), progress)?;
        remove_abort(&StdDisk, dir).map_err(failed)?;
        make_store()?;
        Ok(recovered)
    };
    match build() {
        Ok(recovered) => {
            // Not before there is a store: until then this is what a further attempt goes by.
            forget_stock_aside(dir);
            Ok((recovered.report.clone(), recovered.messages(), before.was_clean))
        }
        Err(reason) => match put_back(dir, &before) {
            Ok(()) => Err(reason),
            Err(source) => {
                Err(AdoptError::NotPutBack { reason: Box::new(reason), path: dir.to_owned(), source })
            }
        },
    }
}

/// What there was of a stock broker before it was taken over.
struct Before {
    was_clean: bool,
    /// Whether there was each of [`MADE_ANEW`].
    had: [bool; MADE_ANEW.len()],
}

impl Before {
    fn of(dir: &Path) -> io::Result<Self> {
        let mut had = [false; MADE_ANEW.len()];
        for (had, name) in had.iter_mut().zip(MADE_ANEW) {
            *had = dir.join(name).try_exists()? || aside(dir, name).try_exists()?;
        }
        Ok(Self { was_clean: !abort_path(dir).try_exists()?, had })
    }
}

/// Where what the stock broker had as `name` is while its successor is built.
fn aside(dir: &Path, name: &str) -> PathBuf {
    dir.join(STOCK_ASIDE).join(name)
}

/// Removes a file, or a folder with all it holds; a missing one is no error.
fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { StdDisk.remove_dir_all(path) } else { StdDisk.remove_file(path) }
}

/// Leaves of what is derived nothing that recovery could go on from, and says how far it may trust the log's end.
fn set_aside(dir: &Path) -> io::Result<()> {
    StdDisk.create_dir_all(&dir.join(STOCK_ASIDE))?;
    for name in MADE_ANEW {
        let (current, aside) = (dir.join(name), aside(dir, name));
        if aside.try_exists()? {
            // An adoption before this one was cut short: what is there now is what it had built.
            remove(&current)?;
        } else if current.try_exists()? {
            fs::rename(&current, &aside)?;
        }
    }
    StdDisk.sync_dir(&dir.join(STOCK_ASIDE))?;
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

fn put_back(dir: &Path, before: &Before) -> io::Result<()> {
    for (name, had) in MADE_ANEW.into_iter().zip(before.had) {
        let (current, aside) = (dir.join(name), aside(dir, name));
        if aside.try_exists()? {
            remove(&current)?;
            fs::rename(&aside, &current)?;
        } else if !had {
            remove(&current)?;
        }
    }
    StdDisk.remove_dir_all(&dir.join(STOCK_ASIDE))?;
    for ours in [STOCK_MARKER, UNSYNCED_MARKER, damage::FILE_NAME] {
        StdDisk.remove_file(&dir.join(ours))?;
    }
    StdDisk.remove_file(&Positions::path(dir))?;
    Positions::forget_set_aside(&StdDisk, dir)?;
    if before.was_clean { remove_abort(&StdDisk, dir) } else { StdDisk.sync_dir(dir) }
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
    #[error(
        "cannot move {from} to {to}: {reason}; after that, the manifest of {root} could not be written again: {source}; `ringmq store adopt \
         {from} --data {root} --node {node}` writes it"
    )]
    NoManifest {
        from: PathBuf,
        to: PathBuf,
        reason: io::Error,
        root: PathBuf,
        node: String,
        source: io::Error,
    },
    #[error(
        "{from} was moved to {to} and is ready for a stock broker, but the disk does not say that this survives a power cut: {source}; after one, \
         look for it in both places"
    )]
    NotDurable { from: PathBuf, to: PathBuf, source: io::Error },
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
    // Were it there when the folder is adopted again, it would be taken for what the stock broker has left.
    StdDisk.remove_dir_all(&dir.join(STOCK_ASIDE)).map_err(failed)?;
    let store_dir = match to {
        None => dir.clone(),
        Some(to) => move_away(&store, to, &|folder| StdDisk.sync_dir(folder))?,
    };
    let node = store.node().to_owned();
    Ok(Released { store_dir, segment_bytes, node, report: recovered.report })
}

/// Moves the only shard of the store to `to`, as an absolute path, which is returned; it is no store any more then. `sync` makes the names in a
/// folder durable.
fn move_away(
    store: &StoreDir,
    to: &Path,
    sync: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<PathBuf, ReleaseError> {
    let (root, from) = (store.root(), store.shard_dir(0));
    let to = std::path::absolute(to).map_err(|source| ReleaseError::Move {
        from: from.clone(),
        to: to.to_owned(),
        source,
    })?;
    // The manifest goes first: without its shard the store would be taken for an empty one, and the shard without it can be adopted.
    if let Err(reason) = Manifest::remove(root).and_then(|()| fs::rename(&from, &to)) {
        return Err(match store.manifest().write(root) {
            Ok(()) => ReleaseError::Move { from, to, source: reason },
            Err(source) => {
                let (root, node) = (root.to_owned(), store.node().to_owned());
                ReleaseError::NoManifest { from, to, reason, root, node, source }
            }
        });
    }
    let synced = to.parent().into_iter().chain([root]).try_for_each(sync);
    match synced {
        Ok(()) => Ok(to),
        Err(source) => Err(ReleaseError::NotDurable { from, to, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_dir::StoreSettings;

    fn store(root: &Path) -> StoreDir {
        let settings = StoreSettings {
            shards: Some(1),
            shards_if_new: 1,
            segment_bytes: None,
            node: "ringmq".to_owned(),
        };
        StoreDir::open(root, &settings).unwrap()
    }

    #[test]
    fn a_store_that_cannot_be_moved_away_is_the_same_store_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir.path().join("data"));
        let nowhere = dir.path().join("none/store");
        let error = move_away(&store, &nowhere, &|_| Ok(())).unwrap_err();
        assert!(matches!(error, ReleaseError::Move { .. }), "{error}");
        let manifest = Manifest::read(store.root()).unwrap().unwrap();
        assert_eq!(manifest.as_ref(), Some(store.manifest()));

        // When not even the manifest can be written.
        fs::create_dir(store.root().join("manifest.tmp")).unwrap();
        let error = move_away(&store, &nowhere, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("ringmq store adopt"), "{error}");
    }

    #[test]
    fn a_store_that_has_moved_is_said_to_have_moved_also_when_the_disk_refuses_to_sync() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir.path().join("data"));
        let to = dir.path().join("store");
        let sync = |_: &Path| {
            let manifest = Manifest::read(store.root()).unwrap().unwrap();
            assert_eq!(manifest, None, "a start would make an empty shard");
            Err(io::Error::other("the disk is gone"))
        };
        let error = move_away(&store, &to, &sync).unwrap_err();
        assert!(matches!(error, ReleaseError::NotDurable { .. }), "{error}");
        assert!(to.join("commitlog").is_dir() && !store.shard_dir(0).exists());
    }
}
