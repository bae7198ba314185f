//! The log half of a shard, on its log core: takes batches, writes them, says what is durable.

use std::path::PathBuf;
use std::rc::Rc;

use crate::append::{AppendBatch, Committed};
use crate::io::block::BlockPool;
use crate::position::{PhysicalOffset, QueueOffset};

/// When a message is acknowledged (RocketMQ's `flushDiskType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// After its write is durable.
    #[default]
    Sync,
    /// After its write is done; durable at most half a second later. A killed process loses nothing, a power cut may.
    Async,
}

/// Where and how a shard's log is written.
#[derive(Clone, Debug)]
pub struct LogShardConfig {
    /// The folder of the segments, which exists.
    pub dir: PathBuf,
    /// Size of one segment, bytes, a multiple of 4096.
    pub segment_bytes: u64,
    pub flush: FlushMode,
}

/// What recovery found out about the log: all that is needed to go on appending.
#[derive(Clone, Debug, Default)]
pub struct RecoveredLog {
    /// The starts of all segments, in log order, those beyond `end` too. None in a new store.
    pub segments: Vec<PhysicalOffset>,
    /// Where the next record goes.
    pub end: PhysicalOffset,
    /// Bytes of the last, partly filled page: from the page boundary to `end`.
    pub tail_page: Vec<u8>,
    /// The next queue offset of every queue that ever had a record.
    pub queue_offsets: Vec<(String, u32, QueueOffset)>,
    pub last_store_timestamp_ms: i64,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("CommitLog files of {segment_bytes} bytes are not possible: a multiple of 4096, at least {min_bytes}, is needed", min_bytes = crate::limits::SEGMENT_BYTES_MIN)]
    SegmentBytes { segment_bytes: u64 },
}

/// How a log is doing.
#[derive(Clone, Debug, Default)]
pub struct LogStatus {
    /// Set when a write failed: nothing is taken or acknowledged any more.
    pub failed: Option<String>,
    /// Set while the next segment cannot be made.
    pub disk_full: Option<String>,
    pub placed_end: PhysicalOffset,
    pub confirm_offset: PhysicalOffset,
    pub flushes: u64,
    pub flushed_bytes: u64,
}

/// The log half of one shard. `!Send`: it lives and dies on its log core.
#[derive(Debug)]
pub struct LogShard {
    _not_send: std::marker::PhantomData<Rc<()>>,
}

impl LogShard {
    /// Opens the log where recovery left it, makes the first segment of a new one.
    ///
    /// # Errors
    /// When a file cannot be opened or made.
    pub async fn open(
        _recovered: RecoveredLog,
        _config: LogShardConfig,
        _pool: BlockPool,
    ) -> Result<Rc<Self>, LogError> {
        unimplemented!("follows")
    }

    /// Places the records of `batch`, in order and behind all earlier ones; their results come through [`Self::run`].
    pub fn append(&self, _batch: AppendBatch) {
        unimplemented!("follows")
    }

    /// Writes what is placed, and gives each commit to `deliver`, until [`Self::stop`] and everything is written.
    pub async fn run(self: Rc<Self>, _deliver: impl AsyncFn(Committed)) {
        unimplemented!("follows")
    }

    /// Takes no more batches; [`Self::run`] ends when what was taken is written.
    pub fn stop(&self) {
        unimplemented!("follows")
    }

    pub fn status(&self) -> LogStatus {
        unimplemented!("follows")
    }
}
