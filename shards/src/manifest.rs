//! What a store is: fixed when it is made, checked at every start, never changed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rkyv::{Archive, Deserialize, Serialize};

use crate::sealed_file::{Seal, SealedFileError};

const SEAL: Seal = Seal { name: *b"RINGMQMF", version: 1 };
const FILE_NAME: &str = "manifest";

/// The content of the file `manifest` in the store's root folder.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Manifest {
    /// Random; tells one store from another.
    pub store_id: [u8; 16],
    /// Number of shards, each a folder `shard-<index>`.
    pub shards: u32,
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Name of the node that the store was made for. Broker names come from it, so clients' offsets depend on it.
    pub node: String,
}

impl Manifest {
    /// Reads the manifest of the store at `root`; `Ok(Ok(None))` when it has none.
    ///
    /// # Errors
    /// Outer: the file cannot be read. Inner: what it holds is no manifest.
    pub(crate) fn read(root: &Path) -> io::Result<Result<Option<Self>, SealedFileError>> {
        match fs::read(root.join(FILE_NAME)) {
            Ok(file) => Ok(SEAL.decode(&file).map(Some)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(error),
        }
    }

    /// Writes the manifest of a store that has none, durably and at once.
    ///
    /// # Errors
    /// The folder cannot be written. There is no manifest then, as before.
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        let (new, path) = (root.join("manifest.tmp"), root.join(FILE_NAME));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&SEAL.encode(self))?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(root)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&new);
            let _ = fs::remove_file(&path);
        }
        written
    }

    /// Removes the manifest, durably: the folder is no store any more.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn remove(root: &Path) -> io::Result<()> {
        fs::remove_file(root.join(FILE_NAME))?;
        File::open(root)?.sync_all()
    }
}

/// An identity for a new store.
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn random_store_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}
