//! The store's root folder: who may use it, and what it holds.

use std::path::{Path, PathBuf};

/// What a configuration wants of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Shards of a new store; `None`: as many as the store has, one when it is new.
    pub shards: Option<u32>,
    /// Size of one CommitLog file of a new store, bytes; `None`: as the store has, [`crate::limits::SEGMENT_BYTES`] when it is new.
    pub segment_bytes: Option<u64>,
    /// Name of the node that uses the store.
    pub node: String,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreDirError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "the store {path} is in use by process {process}; stop it first, or choose another folder with --data"
    )]
    InUse { path: PathBuf, process: String },
}

/// An opened store: locked until it is dropped.
#[derive(Debug)]
pub struct StoreDir {}

impl StoreDir {
    pub fn open(_root: &Path, _wanted: &StoreSettings) -> Result<Self, StoreDirError> {
        todo!()
    }
    /// How many shards the store has.
    pub fn shards(&self) -> u32 {
        todo!()
    }
    /// Size of one CommitLog file, bytes.
    pub fn segment_bytes(&self) -> u64 {
        todo!()
    }
    /// Random identity of the store, fixed when it was made.
    pub fn store_id(&self) -> u128 {
        todo!()
    }
    /// The folder of shard `index`.
    pub fn shard_dir(&self, _index: u32) -> PathBuf {
        todo!()
    }
}
