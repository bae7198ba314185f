//! The store's root folder: who may use it, and what it holds.
//!
//! ```text
//! <root>/lock       locked (flock) by the process that uses the store; holds its process id
//! <root>/manifest   see `manifest.rs`
//! <root>/shard-<n>  RocketMQ's layout: commitlog, consumequeue, index, config, checkpoint, abort, lock; and our `positions`
//! ```
//! A stock RocketMQ broker can be pointed at a shard's folder. It locks the file `lock` there (by `fcntl`, as Java does); a store that is
//! open holds these locks, too, so that never both write.
//!
//! Used once, before the cores start. A [`StoreDir`] holds the lock until it is dropped; the kernel lets go of it when the
//! process dies, however it dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::damage::KnownDamage;
use crate::io::disk::{Disk, StdDisk, lock_file};
use crate::limits::{SEGMENT_BYTES, SEGMENT_BYTES_MIN};
use crate::log_failure;
use crate::manifest::{Manifest, random_store_id};
use crate::sealed_file::SealedFileError;

/// Folders of a shard that must be there before anything is written into it.
const SHARD_FOLDERS: [&str; 4] = ["commitlog", "consumequeue", "index", "config"];

/// Folder in a shard's folder in which an adoption keeps what a stock broker had made, until there is a manifest.
pub(crate) const STOCK_ASIDE: &str = "of-stock";

/// What a configuration wants of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Shards that the store must have; `None`: as many as it has, `shards_if_new` when it is new.
    pub shards: Option<u32>,
    pub shards_if_new: u32,
    /// Size of one CommitLog file of a new store, bytes; `None`: as the store has, [`SEGMENT_BYTES`] when it is new.
    pub segment_bytes: Option<u64>,
    /// Name of the node that uses the store.
    pub node: String,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreDirError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the store {path} is in use by process {process}; stop it first, or choose another folder with --data"
    )]
    InUse { path: PathBuf, process: String },
    #[error("a RocketMQ broker is running on {path}; stop it first")]
    InUseByStock { path: PathBuf },
    #[error(
        "{path} is the store of a RocketMQ broker; `ringmq store adopt {path} --data DIR` makes it the store of a node, without copying"
    )]
    StockStore { path: PathBuf },
    #[error("the manifest of the store {path} is not usable: {source}")]
    Manifest { path: PathBuf, source: SealedFileError },
    #[error(
        "{path} holds shards but no manifest, so how it was made is not known; restore the file manifest, or choose another \
         folder with --data; when shard-0 there was written by RocketMQ, `ringmq store adopt {path}/shard-0 --data {path}`"
    )]
    ManifestMissing { path: PathBuf },
    #[error(
        "the store {path} was made with {found} shards, the configuration wants {wanted}; the number of shards is fixed when \
         a store is made: configure {found}, or choose another folder with --data"
    )]
    OtherShards { path: PathBuf, found: u32, wanted: u32 },
    #[error(
        "the store {path} was made with CommitLog files of {found} bytes, the configuration wants {wanted}; the size is fixed \
         when a store is made: configure {found}, or choose another folder with --data"
    )]
    OtherSegmentBytes { path: PathBuf, found: u64, wanted: u64 },
    #[error(
        "the store {path} belongs to the node {found}, this node is {wanted}; its queues are known to clients under the name \
         of its node: configure {found}, or choose another folder with --data"
    )]
    OtherNode { path: PathBuf, found: String, wanted: String },
    #[error("{path} holds no store: it has no manifest")]
    NoStore { path: PathBuf },
    #[error("a store needs at least one shard")]
    NoShards,
    #[error("CommitLog files of {wanted} bytes are not possible: a multiple of 4096, at least {least}, is")]
    BadSegmentBytes { wanted: u64, least: u64 },
}

/// An opened store: locked until it is dropped.
#[derive(Debug)]
pub struct StoreDir {
    root: PathBuf,
    manifest: Manifest,
    /// Holds the lock while it is open.
    _lock: File,
    /// The same for stock brokers.
    shard_locks: Vec<File>,
}

impl StoreDir {
    /// Locks a store that exists, whatever it was made for.
    ///
    /// # Errors
    /// Another process uses it, or there is none.
    pub fn open_existing(root: &Path) -> Result<Self, StoreDirError> {
        let failed = |source| StoreDirError::Io { path: root.to_owned(), source };
        let root = &fs::canonicalize(root).map_err(failed)?;
        let found = Manifest::read(root)
            .map_err(failed)?
            .map_err(|source| StoreDirError::Manifest { path: root.to_owned(), source })?;
        let Some(manifest) = found else { return Err(StoreDirError::NoStore { path: root.to_owned() }) };
        let lock = lock_root(root)?;
        let mut store = Self { root: root.to_owned(), manifest, _lock: lock, shard_locks: Vec::new() };
        store.lock_shards()?;
        Ok(store)
    }

    /// Locks the store at `root`; makes it when the folder is missing or empty.
    ///
    /// # Errors
    /// Another process uses it, it is not what the configuration wants, or the folder cannot be written.
    pub fn open(root: &Path, wanted: &StoreSettings) -> Result<Self, StoreDirError> {
        let failed = |source| StoreDirError::Io { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(failed)?;
        // The runtime opens nothing by a relative path.
        let root = &fs::canonicalize(root).map_err(failed)?;
        let lock = lock_root(root)?;
        let found = Manifest::read(root)
            .map_err(failed)?
            .map_err(|source| StoreDirError::Manifest { path: root.to_owned(), source })?;
        let manifest = match found {
            Some(manifest) => {
                compare(root, &manifest, wanted)?;
                manifest
            }
            None => create(root, wanted)?,
        };
        let mut store = Self { root: root.to_owned(), manifest, _lock: lock, shard_locks: Vec::new() };
        for index in 0..store.shards() {
            for folder in SHARD_FOLDERS {
                let path = store.shard_dir(index).join(folder);
                fs::create_dir_all(&path).map_err(|source| StoreDirError::Io { path, source })?;
            }
        }
        store.lock_shards()?;
        (0..store.shards()).for_each(|index| forget_stock_aside(&store.shard_dir(index)));
        Ok(store)
    }

    fn lock_shards(&mut self) -> Result<(), StoreDirError> {
        let dirs = (0..self.shards()).map(|shard| self.shard_dir(shard)).filter(|dir| dir.exists());
        self.shard_locks = dirs.map(|dir| lock_against_stock(&dir)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// How many shards the store has.
    pub fn shards(&self) -> u32 {
        self.manifest.shards
    }

    /// Size of one CommitLog file, bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.manifest.segment_bytes
    }

    /// Random identity of the store, fixed when it was made.
    pub fn store_id(&self) -> u128 {
        u128::from_be_bytes(self.manifest.store_id)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Name of the node that the store was made for.
    pub fn node(&self) -> &str {
        &self.manifest.node
    }

    /// The folder of shard `index`.
    pub fn shard_dir(&self, index: u32) -> PathBuf {
        shard_dir(&self.root, index)
    }
}

/// A store that is looked at and not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLook {
    pub shards: u32,
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Name of the node that it was made for.
    pub node: String,
    /// The process that uses it now.
    pub user: Option<String>,
    /// Damaged stretches of its logs that are known.
    pub damaged_ranges: u64,
    /// Why logs take nothing any more, one text for each shard whose log failed.
    pub failed_logs: Vec<String>,
}

/// Looks at the store at `root`; `None` when there is none. Changes nothing.
///
/// # Errors
/// The folder or its manifest cannot be read.
pub fn look(root: &Path) -> Result<Option<StoreLook>, StoreDirError> {
    let failed = |source| StoreDirError::Io { path: root.to_owned(), source };
    let found = Manifest::read(root)
        .map_err(failed)?
        .map_err(|source| StoreDirError::Manifest { path: root.to_owned(), source })?;
    let Some(Manifest { shards, segment_bytes, node, .. }) = found else { return Ok(None) };
    let user = user_of(root).map_err(failed)?;
    let (mut damaged_ranges, mut failed_logs) = (0, Vec::new());
    for index in 0..shards {
        let dir = shard_dir(root, index);
        damaged_ranges += KnownDamage::read(&StdDisk, &dir).map_err(failed)?.ranges().len() as u64;
        failed_logs.extend(log_failure::read(&StdDisk, &dir).map_err(failed)?);
    }
    Ok(Some(StoreLook { shards, segment_bytes, node, user, damaged_ranges, failed_logs }))
}

/// Who holds the lock. Others may look at the same moment, hence a shared one; it is gone when this returns.
fn user_of(root: &Path) -> io::Result<Option<String>> {
    let file = match File::open(root.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(process_in(file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that a lock file names. It may be about to write its id, or have other rights: then the answer says less.
fn process_in(mut lock: File) -> String {
    let mut process = String::new();
    let _ = lock.read_to_string(&mut process);
    let process = process.trim();
    if process.is_empty() { "(not known)".to_owned() } else { process.to_owned() }
}

fn shard_dir(root: &Path, index: u32) -> PathBuf {
    root.join(format!("shard-{index}"))
}

/// Removes what an adoption that is complete has kept of a stock broker. Nobody needs it, so that an error is told only; the next start tries
/// again.
pub(crate) fn forget_stock_aside(shard_dir: &Path) {
    let path = shard_dir.join(STOCK_ASIDE);
    if let Err(error) = StdDisk.remove_dir_all(&path) {
        tracing::warn!(path = %path.display(), %error, "what a stock broker had derived could not be removed; the next start tries again");
    }
}

/// Locks the root folder of a store.
///
/// # Errors
/// Another process has it, or the folder cannot be written.
pub(crate) fn lock_root(root: &Path) -> Result<File, StoreDirError> {
    let path = root.join("lock");
    let failed = |source| StoreDirError::Io { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreDirError::InUse { path: root.to_owned(), process: process_in(file) });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Takes the lock that a stock broker holds on its store while it runs. Let go of when the returned file is closed, and not when others of
/// this process close the same file, as who copies the store does: see [`lock_file`].
///
/// # Errors
/// A broker runs there, or the folder cannot be written.
pub(crate) fn lock_against_stock(dir: &Path) -> Result<File, StoreDirError> {
    let path = dir.join("lock");
    let failed = |source| StoreDirError::Io { path: path.clone(), source };
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if lock_file(&file).map_err(failed)? {
        Ok(file)
    } else {
        Err(StoreDirError::InUseByStock { path: dir.to_owned() })
    }
}

fn compare(root: &Path, found: &Manifest, wanted: &StoreSettings) -> Result<(), StoreDirError> {
    let path = root.to_owned();
    match wanted.shards {
        Some(shards) if shards != found.shards => {
            return Err(StoreDirError::OtherShards { path, found: found.shards, wanted: shards });
        }
        _ => {}
    }
    match wanted.segment_bytes {
        Some(bytes) if bytes != found.segment_bytes => {
            return Err(StoreDirError::OtherSegmentBytes { path, found: found.segment_bytes, wanted: bytes });
        }
        _ => {}
    }
    if wanted.node != found.node {
        let (found, wanted) = (found.node.clone(), wanted.node.clone());
        return Err(StoreDirError::OtherNode { path, found, wanted });
    }
    Ok(())
}

fn create(root: &Path, wanted: &StoreSettings) -> Result<Manifest, StoreDirError> {
    let failed = |source| StoreDirError::Io { path: root.to_owned(), source };
    if shard_dir(root, 0).exists() {
        return Err(StoreDirError::ManifestMissing { path: root.to_owned() });
    }
    if root.join("commitlog").exists() {
        return Err(StoreDirError::StockStore { path: root.to_owned() });
    }
    let manifest = Manifest {
        store_id: random_store_id().map_err(failed)?,
        shards: wanted.shards.unwrap_or(wanted.shards_if_new),
        segment_bytes: wanted.segment_bytes.unwrap_or(SEGMENT_BYTES),
        node: wanted.node.clone(),
    };
    if manifest.shards == 0 {
        return Err(StoreDirError::NoShards);
    }
    if manifest.segment_bytes < SEGMENT_BYTES_MIN || !manifest.segment_bytes.is_multiple_of(4096) {
        return Err(StoreDirError::BadSegmentBytes {
            wanted: manifest.segment_bytes,
            least: SEGMENT_BYTES_MIN,
        });
    }
    manifest.write(root).map_err(failed)?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, fcntl_lock};
    use rustix::io::Errno;

    use super::*;
    use crate::repair::copy_store;

    fn settings() -> StoreSettings {
        StoreSettings { shards: Some(2), shards_if_new: 1, segment_bytes: None, node: "ringmq".to_owned() }
    }

    #[test]
    fn the_second_opener_is_refused_and_told_who_holds_the_store() {
        let root = tempfile::tempdir().unwrap();
        let first = StoreDir::open(root.path(), &settings()).unwrap();
        let refusal = StoreDir::open(root.path(), &settings()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("in use by process {}", std::process::id())), "{refusal}");
        let refusal = StoreDir::open_existing(root.path()).unwrap_err().to_string();
        assert!(refusal.contains("in use by process"), "{refusal}");
        drop(first);
        StoreDir::open(root.path(), &settings()).unwrap();
    }

    #[test]
    fn a_stock_broker_is_kept_out_also_after_the_store_was_copied() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = StoreDir::open(&root, &settings()).unwrap();
        let shard = store.shard_dir(0);
        copy_store(&root, &dir.path().join("copy"), &mut |_| {}).unwrap();
        // As Java does.
        let stock = || {
            let file = OpenOptions::new().write(true).open(shard.join("lock")).unwrap();
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map(|()| file)
        };
        assert_eq!(stock().err(), Some(Errno::AGAIN));
        assert!(matches!(lock_against_stock(&shard), Err(StoreDirError::InUseByStock { .. })));
        drop(store);
        let running = stock().unwrap();
        let refusal = StoreDir::open_existing(&root).unwrap_err();
        assert!(matches!(refusal, StoreDirError::InUseByStock { .. }), "{refusal}");
        drop(running);
        StoreDir::open_existing(&root).unwrap();
    }

    #[test]
    fn a_store_is_opened_as_it_is_and_none_is_made() {
        let root = tempfile::tempdir().unwrap();
        let refusal = StoreDir::open_existing(root.path()).unwrap_err().to_string();
        assert!(refusal.contains("holds no store"), "{refusal}");
        assert!(StoreDir::open_existing(&root.path().join("none")).is_err());
        drop(StoreDir::open(root.path(), &settings()).unwrap());
        let store = StoreDir::open_existing(root.path()).unwrap();
        assert_eq!((store.shards(), store.node()), (2, "ringmq"));
    }

    #[test]
    fn a_look_tells_what_a_store_is_and_who_uses_it_and_leaves_it_alone() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()).unwrap(), None);
        let store = StoreDir::open(root.path(), &settings()).unwrap();
        let seen = look(root.path()).unwrap().unwrap();
        assert_eq!((seen.shards, seen.segment_bytes, seen.node.as_str()), (2, SEGMENT_BYTES, "ringmq"));
        assert_eq!(seen.user, Some(std::process::id().to_string()));
        drop(store);
        assert_eq!(look(root.path()).unwrap().unwrap().user, None);
        StoreDir::open(root.path(), &settings()).unwrap();
    }

    #[test]
    fn a_store_keeps_what_it_was_made_with() {
        let root = tempfile::tempdir().unwrap();
        let made = StoreDir::open(root.path(), &settings()).unwrap();
        let id = made.store_id();
        assert!(made.shard_dir(1).join("commitlog").is_dir());
        drop(made);
        let any =
            StoreSettings { shards: None, shards_if_new: 1, segment_bytes: None, node: "ringmq".to_owned() };
        let again = StoreDir::open(root.path(), &any).unwrap();
        assert_eq!((again.shards(), again.segment_bytes(), again.store_id()), (2, SEGMENT_BYTES, id));
    }

    #[test]
    fn what_does_not_fit_the_manifest_is_refused_with_both_values() {
        let root = tempfile::tempdir().unwrap();
        drop(StoreDir::open(root.path(), &settings()).unwrap());
        let refused = |change: &dyn Fn(&mut StoreSettings)| {
            let mut other = settings();
            change(&mut other);
            StoreDir::open(root.path(), &other).unwrap_err()
        };
        let shards = refused(&|wanted| wanted.shards = Some(3));
        assert!(matches!(shards, StoreDirError::OtherShards { found: 2, wanted: 3, .. }), "{shards}");
        let bytes = refused(&|wanted| wanted.segment_bytes = Some(SEGMENT_BYTES_MIN));
        assert!(
            matches!(bytes, StoreDirError::OtherSegmentBytes { wanted: SEGMENT_BYTES_MIN, .. }),
            "{bytes}"
        );
        let node = refused(&|wanted| wanted.node = "other".to_owned());
        assert!(matches!(node, StoreDirError::OtherNode { .. }), "{node}");
        fs::remove_file(root.path().join("manifest")).unwrap();
        let missing = refused(&|_| {});
        assert!(matches!(missing, StoreDirError::ManifestMissing { .. }), "{missing}");
    }
}
