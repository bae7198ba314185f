//! The name server's key-value configuration: namespaces of texts, kept in `kvConfig.json` as RocketMQ keeps them.
//!
//! The table is read from memory. A change is encoded at once and written by a thread of its own, in the order of changes;
//! who made it waits for its write. Each write replaces the file atomically and leaves the one before as `.bak`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shards::limits::KV_CONFIG_BYTES_MAX;

use crate::remoting::body::stats::KVTable;
use crate::remoting::fastjson;

/// The namespace of `broker:queues;…` lists of ordered topics.
pub const NAMESPACE_ORDER_TOPIC: &str = "ORDER_TOPIC_CONFIG";

/// What went wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum KvConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a name server's configuration ({reason}): restore it, or move it and its .bak away", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("cannot write {}: {reason}; the change is in effect until the name server stops", path.display())]
    Write { path: PathBuf, reason: String },
    #[error(
        "the configuration holds {held} of {limit} bytes, {wanted} more do not fit; delete keys that are not used"
    )]
    Full { held: usize, wanted: usize, limit: usize },
}

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

/// One write on its way to the thread: the file's content, and where the result goes.
type Job = (Vec<u8>, flume::Sender<io::Result<()>>);

/// See the file's head.
#[derive(Debug)]
pub struct KvConfig {
    content: Content,
    /// Bytes of all namespaces, keys and values.
    bytes: usize,
    path: PathBuf,
    jobs: flume::Sender<Job>,
}

impl KvConfig {
    /// Reads the file, or its `.bak`; without both, the configuration is empty. Starts the thread that writes, which ends with
    /// this value.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn open(path: PathBuf) -> Result<Self, KvConfigError> {
        let content = match read(&path)? {
            Some(content) => content,
            None => read(&backup(&path))?.unwrap_or_default(),
        };
        let bytes = content
            .config_table
            .iter()
            .flat_map(|(namespace, keys)| keys.iter().map(|(key, value)| size(namespace, key, value)))
            .sum();
        let (jobs, taken) = flume::unbounded::<Job>();
        let target = path.clone();
        let write = move || {
            for (content, result) in taken {
                // Whoever waited may be gone; the write counts all the same.
                let _ = result.send(replace(&target, &content));
            }
        };
        let thread = std::thread::Builder::new().name("kv-config".to_owned()).spawn(write);
        thread.map_err(|source| KvConfigError::Read { path: path.clone(), source })?;
        Ok(Self { content, bytes, path, jobs })
    }

    #[must_use]
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.content.config_table.get(namespace)?.get(key).map(String::as_str)
    }

    /// A whole namespace; `None` when it was never used.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<KVTable> {
        self.content.config_table.get(namespace).map(|table| KVTable { table: table.clone() })
    }

    /// Sets a value. It is in effect at once; the future ends when it is durable.
    ///
    /// # Errors
    /// There is no room. From the future: the file could not be written.
    pub fn put(
        &mut self,
        namespace: &str,
        key: &str,
        value: &str,
    ) -> Result<impl Future<Output = Result<(), KvConfigError>> + use<>, KvConfigError> {
        let wanted = size(namespace, key, value);
        let old = self.get(namespace, key).map_or(0, |old| size(namespace, key, old));
        let held = self.bytes - old;
        if held + wanted > KV_CONFIG_BYTES_MAX {
            return Err(KvConfigError::Full { held, wanted, limit: KV_CONFIG_BYTES_MAX });
        }
        self.bytes = held + wanted;
        let keys = self.content.config_table.entry(namespace.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        Ok(self.write())
    }

    /// Removes a value, if there is one. The future ends when it is durable.
    ///
    /// # Errors
    /// From the future: the file could not be written.
    pub fn delete(
        &mut self,
        namespace: &str,
        key: &str,
    ) -> impl Future<Output = Result<(), KvConfigError>> + use<> {
        let removed = self.content.config_table.get_mut(namespace).and_then(|keys| keys.remove(key));
        self.bytes -= removed.map_or(0, |value| size(namespace, key, &value));
        self.write()
    }

    fn write(&self) -> impl Future<Output = Result<(), KvConfigError>> + use<> {
        let (result, written) = flume::bounded(1);
        let path = self.path.clone();
        let sent = self.jobs.send((fastjson::write_pretty(&self.content), result));
        async move {
            let ended = || io::Error::other("the thread that writes has ended");
            sent.map_err(|_| ended())
                .and(written.recv_async().await.unwrap_or_else(|_| Err(ended())))
                .map_err(|error| KvConfigError::Write { path, reason: error.to_string() })
        }
    }
}

fn size(namespace: &str, key: &str, value: &str) -> usize {
    namespace.len() + key.len() + value.len()
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Option<Content>, KvConfigError> {
    match fs::read(path) {
        Ok(text) => fastjson::read("name server configuration", &text)
            .map(Some)
            .map_err(|error| KvConfigError::Malformed { path: path.to_owned(), reason: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KvConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Replaces `path` durably: after a crash it holds the old content or the new one, and `.bak` the old one at worst twice.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    if path.exists() {
        let backup = backup(path);
        match fs::remove_file(&backup) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::hard_link(path, &backup)?,
        }
    }
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        futures_lite::future::block_on(future)
    }

    #[test]
    fn values_survive_and_the_file_is_rocketmqs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvConfig.json");
        let mut config = KvConfig::open(path.clone()).unwrap();
        assert_eq!(config.get("n", "k"), None);
        wait(config.put("n", "k", "é").unwrap()).unwrap();
        wait(config.put(NAMESPACE_ORDER_TOPIC, "T", "b0:4").unwrap()).unwrap();
        wait(config.delete("n", "k")).unwrap();
        wait(config.delete("n", "k")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["configTable"][NAMESPACE_ORDER_TOPIC]["T"], "b0:4");
        let config = KvConfig::open(path.clone()).unwrap();
        assert_eq!(config.get(NAMESPACE_ORDER_TOPIC, "T"), Some("b0:4"));
        assert_eq!(config.get("n", "k"), None);
        assert_eq!(config.bytes, NAMESPACE_ORDER_TOPIC.len() + 1 + 4);
        fs::remove_file(&path).unwrap();
        let config = KvConfig::open(path).unwrap();
        assert_eq!(config.get(NAMESPACE_ORDER_TOPIC, "T"), Some("b0:4"), "from the .bak");
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvConfig.json");
        fs::write(&path, "{\"configTable\":").unwrap();
        assert!(KvConfig::open(path).unwrap_err().to_string().contains("kvConfig.json"));
    }

    #[test]
    fn the_table_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = KvConfig::open(folder.path().join("kvConfig.json")).unwrap();
        let large = "v".repeat(KV_CONFIG_BYTES_MAX / 2);
        wait(config.put("n", "a", &large).unwrap()).unwrap();
        assert!(matches!(config.put("n", "b", &large).map(drop), Err(KvConfigError::Full { .. })));
        wait(config.put("n", "a", &large).unwrap()).unwrap();
    }
}
