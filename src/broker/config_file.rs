//! The JSON files of a broker: written by the shard's side thread, whole and atomically, never more often than the disk keeps up.
//!
//! A table counts its changes in a generation. Whoever needs a change to be durable asks the file to hold that generation and
//! waits. Whoever asks first writes the table as it is then; changes that come meanwhile go into the next write, together.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use shards::io::disk::{Disk, StdDisk};
use shards::side_writer::{ConfigWriteError, SideWriter};

/// A file that cannot be understood, nor the version before it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not what RocketMQ or RingMQ write there ({reason}), and neither is {path}.bak: restore it, or move both \
         away to start without it"
    )]
    Malformed { path: PathBuf, reason: String },
}

/// One file and how much of its table it holds.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    writer: SideWriter,
    /// Whether it speaks of messages in the log, which must be durable before.
    follows_log: bool,
    /// The newest generation that is on the disk.
    durable: Cell<u64>,
    writing: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// Marks a write as under way; when it ends, or the task that writes is dropped, the next in line goes on.
struct Writing<'a>(&'a ConfigFile);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.set(false);
        for waker in self.0.waiting.take() {
            waker.wake();
        }
    }
}

impl ConfigFile {
    pub fn new(path: PathBuf, writer: SideWriter) -> Rc<Self> {
        Self::of(path, writer, false)
    }

    /// A file that speaks of messages in the log: see [`SideWriter::write_offsets`].
    pub fn of_offsets(path: PathBuf, writer: SideWriter) -> Rc<Self> {
        Self::of(path, writer, true)
    }

    fn of(path: PathBuf, writer: SideWriter, follows_log: bool) -> Rc<Self> {
        Rc::new(Self {
            path,
            writer,
            follows_log,
            durable: Cell::new(0),
            writing: Cell::new(false),
            waiting: RefCell::default(),
        })
    }

    /// The newest generation that the disk has.
    pub fn held(&self) -> u64 {
        self.durable.get()
    }

    /// Whether the disk has `generation`.
    pub fn holds(&self, generation: u64) -> bool {
        self.durable.get() >= generation
    }

    /// Waits until the disk has `generation`. `encode` gives the table's generation and contents at the time of a write.
    ///
    /// # Errors
    /// The write that should have held it failed; the change is still in memory, and the next write tries again.
    pub async fn hold(
        &self,
        generation: u64,
        encode: impl Fn() -> (u64, Vec<u8>),
    ) -> Result<(), ConfigWriteError> {
        while !self.holds(generation) {
            if self.writing.replace(true) {
                self.write_ended().await;
                continue;
            }
            let _writing = Writing(self);
            let (written, contents) = encode();
            assert!(written >= generation, "a table's generation went back");
            self.write(contents).await?;
            self.durable.set(written);
        }
        Ok(())
    }

    /// Writes `contents` whatever the file holds, for a table that counts no generations.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn write(&self, contents: Vec<u8>) -> Result<(), ConfigWriteError> {
        let path = self.path.clone();
        match self.follows_log {
            true => self.writer.write_offsets(path, contents).done().await,
            false => self.writer.write_config(path, contents).done().await,
        }
    }

    async fn write_ended(&self) {
        poll_fn(|context| {
            if !self.writing.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Loads a file with `load`, or the version before it when the file is damaged. A missing file is no error. Blocks: for start.
///
/// # Errors
/// [`ConfigFileError`] when neither can be used.
pub fn load_file<E: std::fmt::Display>(
    path: &Path,
    load: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), ConfigFileError> {
    load_file_on(&StdDisk, path, load)
}

/// The same from another disk.
///
/// # Errors
/// As [`load_file`].
pub fn load_file_on<D: Disk, E: std::fmt::Display>(
    disk: &D,
    path: &Path,
    mut load: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), ConfigFileError> {
    let read = |source| ConfigFileError::Read { path: path.to_owned(), source };
    let Some(contents) = SideWriter::read_config(disk, path).map_err(read)? else { return Ok(()) };
    let Err(error) = load(&contents) else { return Ok(()) };
    let mut before = path.as_os_str().to_owned();
    before.push(".bak");
    if disk.read_file(Path::new(&before), usize::MAX).is_ok_and(|contents| load(&contents).is_ok()) {
        tracing::warn!(path = %path.display(), %error, "the file is damaged: going on with the version before it");
        return Ok(());
    }
    Err(ConfigFileError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};
    use shards::limits::SEGMENT_BYTES_MIN;
    use shards::recovery::{ShardConfig, recover_shard};

    use super::*;

    /// A table that is nothing but its generation, and its file.
    struct Table {
        generation: Cell<u64>,
        encoded: Cell<u32>,
        file: Rc<ConfigFile>,
        folder: tempfile::TempDir,
    }

    impl Table {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("config")).unwrap();
            let config = ShardConfig::new(SEGMENT_BYTES_MIN);
            let recovered = recover_shard(&StdDisk, folder.path(), &config, &mut |_| {}).unwrap();
            let writer = SideWriter::start(StdDisk, recovered.side).unwrap();
            let file = ConfigFile::new(folder.path().join("config/table.json"), writer);
            Self { generation: Cell::new(0), encoded: Cell::new(0), file, folder }
        }

        /// Changes the table, and gives the wait for that change.
        fn change(&self) -> impl Future<Output = Result<(), ConfigWriteError>> {
            self.generation.set(self.generation.get() + 1);
            self.file.hold(self.generation.get(), || {
                self.encoded.set(self.encoded.get() + 1);
                (self.generation.get(), self.generation.get().to_string().into_bytes())
            })
        }

        fn on_disk(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("config/table.json")).unwrap()
        }
    }

    #[test]
    fn a_change_is_on_the_disk_when_its_wait_ends() {
        let table = Table::new();
        assert!(table.file.holds(0) && !table.file.holds(1));
        block_on(table.change()).unwrap();
        assert!(table.file.holds(1) && !table.file.holds(2));
        assert_eq!(table.on_disk(), "1");
    }

    #[test]
    fn changes_that_come_during_a_write_share_the_next() {
        let table = Table::new();
        let mut waits: Vec<_> = (0..100).map(|_| Box::pin(table.change())).collect();
        for wait in &mut waits {
            let _ = block_on(poll_once(wait));
        }
        let late = table.change();
        for wait in waits {
            if !table.file.holds(100) {
                block_on(wait).unwrap();
            }
        }
        block_on(late).unwrap();
        assert_eq!(table.on_disk(), "101");
        assert!(table.encoded.get() <= 3, "{} writes", table.encoded.get());
    }

    #[test]
    fn whoever_waits_goes_on_when_the_one_that_writes_gives_up() {
        let table = Table::new();
        let mut first = Box::pin(table.change());
        let mut second = Box::pin(table.change());
        let _ = block_on(poll_once(&mut first));
        let _ = block_on(poll_once(&mut second));
        drop(first);
        block_on(second).unwrap();
        assert_eq!(table.on_disk(), "2");
    }

    #[test]
    fn a_write_that_fails_is_told_and_tried_again_by_the_next() {
        let table = Table::new();
        let config = table.folder.path().join("config");
        std::fs::remove_dir(&config).unwrap();
        std::fs::write(&config, "in the way").unwrap();
        assert!(block_on(table.change()).is_err());
        std::fs::remove_file(&config).unwrap();
        std::fs::create_dir(&config).unwrap();
        block_on(table.change()).unwrap();
        assert_eq!(table.on_disk(), "2");
    }

    #[test]
    fn a_damaged_file_gives_way_to_the_one_before_it_and_two_damaged_ones_stop_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topics.json");
        let load = |contents: &[u8]| {
            if contents.starts_with(b"{") { Ok(()) } else { Err("not an object") }
        };
        load_file(&path, load).expect("no file is no error");
        std::fs::write(&path, "garbage").unwrap();
        let error = load_file(&path, load).unwrap_err();
        assert!(error.to_string().contains("topics.json"), "{error}");
        std::fs::write(folder.path().join("topics.json.bak"), "{}").unwrap();
        load_file(&path, load).expect("the version before is good");
    }
}
