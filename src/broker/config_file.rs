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
        Rc::new(Self {
            path,
            writer,
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
            self.writer.write_config(self.path.clone(), contents).done().await?;
            self.durable.set(written);
        }
        Ok(())
    }

    /// Writes `contents` whatever the file holds, for a table that counts no generations.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn write(&self, contents: Vec<u8>) -> Result<(), ConfigWriteError> {
        self.writer.write_config(self.path.clone(), contents).done().await
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
    mut load: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), ConfigFileError> {
    let read = |source| ConfigFileError::Read { path: path.to_owned(), source };
    let Some(contents) = SideWriter::read_config(path).map_err(read)? else { return Ok(()) };
    let Err(error) = load(&contents) else { return Ok(()) };
    let mut before = path.as_os_str().to_owned();
    before.push(".bak");
    if std::fs::read(&before).is_ok_and(|contents| load(&contents).is_ok()) {
        tracing::warn!(path = %path.display(), %error, "the file is damaged: going on with the version before it");
        return Ok(());
    }
    Err(ConfigFileError::Malformed { path: path.to_owned(), reason: error.to_string() })
}
