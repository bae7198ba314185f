//! The only way to start a shard: finds the end of the log, brings ConsumeQueues and index in step with it, and says where
//! everything goes on. Blocking, on the [`Disk`] trait, before the cores start.
//!
//! 1. The marker `abort` is made. Was it there, the last exit was not clean.
//! 2. The positions snapshot is checked against the files and the log. Does anything disagree, ConsumeQueues and index are removed
//!    and built anew from the whole log. Otherwise they are cut back to the snapshot, after an unclean exit.
//! 3. The log is scanned from there on, and what was derived from each record is written.
//! 4. A torn end is cut; a snapshot is taken.
//!
//! A crash at any point leaves a shard that recovers in the same way: nothing is claimed before it is durable, and what is
//! there already is left out or written again with the same content. Damage in the log is an error; nothing is cut then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::commit_log::RecoveredLog;
use crate::commit_log::scan::{ScanError, ScanLog, cut, scan, torn_window_bytes};
use crate::consume_queue::files::{QueueState, QueuedEntry};
use crate::consume_queue::{QueueHandle, QueueName};
use crate::derived_files::{Covered, DerivedBatch, DerivedFiles};
use crate::dispatch::derive;
use crate::index_file::{IndexLayout, Slots};
use crate::io::disk::Disk;
use crate::message_store::RecoveredServe;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::Positions;
use crate::record::RecordView;
use crate::segment::{SegmentError, list_segments};
use crate::side_writer::{RecoveredSide, abort_path};

mod snapshot_check;

/// Entries and keys that are gathered before they are written.
const BATCH_ENTRIES: usize = 64 * 1024;
/// How much is scanned between two reports of progress, bytes.
const PROGRESS_BYTES: u64 = 16 << 20;

/// What recovery must know of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Size of the index files.
    pub index: IndexLayout,
}

impl ShardConfig {
    /// With index files of RocketMQ's size.
    pub fn new(segment_bytes: u64) -> Self {
        Self { segment_bytes, index: IndexLayout::ROCKETMQ }
    }
}

/// A recovered shard, in the parts that go to its cores and threads.
#[derive(Debug)]
pub struct RecoveredShard {
    /// For the log core: [`crate::log_shard::LogShard::open`].
    pub log: RecoveredLog,
    /// For the serve core: [`crate::message_store::MessageStore::open`].
    pub serve: RecoveredServe,
    /// For the side thread: [`crate::side_writer::SideWriter::start`].
    pub side: RecoveredSide,
    pub report: RecoveryReport,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// Bytes of log scanned so far.
    pub scanned_bytes: u64,
    /// Bytes of log to scan at most: the end of the records is not known before.
    pub total_bytes: u64,
}

/// What a recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Where the scan began.
    pub scanned_from: PhysicalOffset,
    /// Where the log ends.
    pub end: PhysicalOffset,
    /// Records scanned.
    pub records: u64,
    /// Whether the last exit was clean.
    pub clean: bool,
    /// Whether ConsumeQueues and index were built anew, and why.
    pub rebuilt: Option<String>,
    /// Bytes behind the last good record that were zeroed, as the torn end of an unfinished flush.
    pub torn_bytes: u64,
}

/// Why a shard cannot start. The log was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Segments(#[from] SegmentError),
    #[error(transparent)]
    Log(#[from] ScanError),
    #[error("cannot restore what is derived from the log in {dir}: {source}")]
    Derived { dir: PathBuf, source: io::Error },
    #[error(
        "the log of {dir} is damaged: at log offset {at} is message {found} of queue {queue_id} of {topic}, where message \
         {expected} should be; restore the log from a copy"
    )]
    QueueOffset {
        dir: PathBuf,
        at: PhysicalOffset,
        topic: String,
        queue_id: u32,
        found: QueueOffset,
        expected: QueueOffset,
    },
    #[error(
        "the log of {dir} holds at log offset {at} a message of the topic {topic:?}, which no folder can be named for"
    )]
    TopicName { dir: PathBuf, at: PhysicalOffset, topic: String },
}

/// Recovers the shard in the folder `dir`, which may be empty.
///
/// # Errors
/// The log is damaged, or the disk refuses. The shard must not start.
pub fn recover_shard<D: Disk + Clone>(
    disk: &D,
    dir: &Path,
    config: &ShardConfig,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<RecoveredShard, RecoveryError> {
    let derived_error = |source| RecoveryError::Derived { dir: dir.to_owned(), source };
    let log_dir = dir.join("commitlog");
    disk.create_dir_all(&log_dir).map_err(derived_error)?;
    let segments = list_segments(disk, &log_dir, config.segment_bytes)?;
    let log = ScanLog {
        dir: &log_dir,
        segments: &segments,
        segment_bytes: config.segment_bytes,
        torn_window_bytes: torn_window_bytes(disk, dir)?,
    };
    let clean = !mark_in_use(disk, dir).map_err(derived_error)?;
    let (files, rebuilt) = open_files(disk, dir, config, &log, clean).map_err(derived_error)?;

    let scanned_from = files.covered().log_end;
    let mut report =
        RecoveryReport { scanned_from, clean, rebuilt, end: scanned_from, records: 0, torn_bytes: 0 };
    let log_start = segments.first().copied().unwrap_or_default();
    let mut dispatch = Dispatch::new(dir, log_start, files);
    let log_end = segments.last().map_or(scanned_from, |last| last.plus(config.segment_bytes));
    let total_bytes = log_end.since(scanned_from);
    let mut reported = scanned_from;
    let end = scan(disk, &log, scanned_from, &mut |record| {
        report.records += 1;
        dispatch.record(record)?;
        let at = record.physical_offset();
        if at.since(reported) >= PROGRESS_BYTES {
            reported = at;
            progress(RecoveryProgress { scanned_bytes: at.since(scanned_from), total_bytes });
        }
        Ok::<(), RecoveryError>(())
    })?;
    if let Some(torn) = &end.torn {
        tracing::warn!(
            dir = %dir.display(), from = %torn.from, to = %torn.to, reason = torn.reason,
            "the log ends with the rest of an unfinished write, which is cut"
        );
        report.torn_bytes = torn.to.since(torn.from);
        cut(disk, &log, torn)?;
    }
    report.end = end.end;
    let mut files = dispatch.finish()?;
    files.finish().map_err(derived_error)?;
    progress(RecoveryProgress { scanned_bytes: end.end.since(scanned_from), total_bytes });

    let queues = files.queues().to_vec();
    let covered = files.covered();
    let next_offset = |state: &QueueState| (state.name.topic.to_string(), state.name.queue_id, state.max);
    Ok(RecoveredShard {
        log: RecoveredLog {
            end: end.end,
            tail_page: end.tail_page,
            queue_offsets: queues.iter().map(next_offset).collect(),
            last_store_timestamp_ms: covered.last_store_timestamp_ms,
            segments,
        },
        serve: RecoveredServe {
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            log_min: log_start,
            confirm_offset: end.end,
            covered,
            queues,
        },
        side: RecoveredSide {
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            index: config.index,
            positions: files.positions(),
        },
        report,
    })
}

/// Makes the marker of a shard in use, durably; returns whether it was there.
fn mark_in_use<D: Disk>(disk: &D, dir: &Path) -> io::Result<bool> {
    let path = abort_path(dir);
    if disk.exists(&path)? {
        return Ok(true);
    }
    disk.open_or_create(&path)?;
    disk.sync_dir(dir)?;
    Ok(false)
}

/// Opens what was derived: as the snapshot says, or empty, with the reason why the snapshot is of no use.
fn open_files<D: Disk + Clone>(
    disk: &D,
    dir: &Path,
    config: &ShardConfig,
    log: &ScanLog<'_>,
    clean: bool,
) -> io::Result<(DerivedFiles<D>, Option<String>)> {
    let open = |positions, slots| {
        DerivedFiles::open(disk.clone(), dir, config.segment_bytes, config.index, positions, slots)
    };
    let found = match Positions::read(disk, dir)? {
        Ok(Some(positions)) => snapshot_check::check(disk, dir, config, log, positions)?,
        Ok(None) => Err("there is no positions snapshot".to_owned()),
        Err(damage) => Err(format!("the positions snapshot is not usable: {damage}")),
    };
    match found {
        Ok(positions) if clean => Ok((open(positions, Slots::Read)?, None)),
        Ok(positions) => {
            let mut files = open(positions, Slots::Rebuild)?;
            remove_unknown_queues(disk, dir, files.queues())?;
            files.cut()?;
            Ok((files, None))
        }
        Err(reason) => {
            Positions::remove(disk, dir)?;
            for derived in ["consumequeue", "index"] {
                disk.remove_dir_all(&dir.join(derived))?;
                disk.create_dir_all(&dir.join(derived))?;
            }
            let start = log.segments.first().copied().unwrap_or_default().get();
            let nothing = Positions { log_end: start, last_record: start, ..Positions::default() };
            let mut files = open(nothing, Slots::Rebuild)?;
            files.cut()?;
            let is_new = log.segments.is_empty();
            if !is_new {
                tracing::warn!(dir = %dir.display(), reason, "ConsumeQueues and index are built anew from the log");
            }
            Ok((files, (!is_new).then_some(reason)))
        }
    }
}

/// Removes the ConsumeQueues that came after the snapshot: those of records that are still there come again.
fn remove_unknown_queues<D: Disk>(disk: &D, dir: &Path, known: &[QueueState]) -> io::Result<()> {
    let mut ids: HashMap<&str, Vec<String>> = HashMap::new();
    for state in known {
        ids.entry(&state.name.topic).or_default().push(state.name.queue_id.to_string());
    }
    let root = dir.join("consumequeue");
    for topic in disk.list(&root)? {
        let topic_dir = root.join(&topic);
        let Some(ids) = topic.to_str().and_then(|topic| ids.get(topic)) else {
            disk.remove_dir_all(&topic_dir)?;
            continue;
        };
        for id in disk.list(&topic_dir)? {
            if !ids.iter().any(|known| **known == *id) {
                disk.remove_dir_all(&topic_dir.join(id))?;
            }
        }
    }
    Ok(())
}

/// Derives entries and keys from the records of a scan, and writes them in batches.
struct Dispatch<'a, D: Disk> {
    dir: &'a Path,
    /// Where the log starts: beyond 0, queues need not start at offset 0.
    log_start: PhysicalOffset,
    files: DerivedFiles<D>,
    /// Handle and next offset of each queue.
    queues: HashMap<Arc<str>, HashMap<u32, (QueueHandle, QueueOffset)>>,
    queue_count: usize,
    batch: DerivedBatch,
}

impl<'a, D: Disk> Dispatch<'a, D> {
    fn new(dir: &'a Path, log_start: PhysicalOffset, files: DerivedFiles<D>) -> Self {
        let mut queues: HashMap<Arc<str>, HashMap<u32, _>> = HashMap::new();
        let queue_count = files.queues().len();
        for (index, QueueState { name, max, .. }) in files.queues().iter().enumerate() {
            let ids = queues.entry(Arc::clone(&name.topic)).or_default();
            ids.insert(name.queue_id, (QueueHandle::at(index), *max));
        }
        let batch = DerivedBatch { covered: files.covered(), ..DerivedBatch::default() };
        Self { dir, log_start, files, queues, queue_count, batch }
    }

    fn record(&mut self, record: &RecordView<'_>) -> Result<(), RecoveryError> {
        let at = record.physical_offset();
        if let Some(entry) = derive(record, &mut self.batch.keys) {
            let queue = self.queue(record)?;
            self.batch.entries.push(QueuedEntry { queue, offset: record.queue_offset(), entry });
        }
        self.batch.covered = Covered {
            log_end: at.plus(record.total_size() as u64),
            last_record: at,
            last_store_timestamp_ms: record.store_timestamp_ms(),
        };
        if self.batch.entries.len() + self.batch.keys.len() >= BATCH_ENTRIES {
            self.write()?;
        }
        Ok(())
    }

    /// The queue of a record, which must be the next of its queue.
    fn queue(&mut self, record: &RecordView<'_>) -> Result<QueueHandle, RecoveryError> {
        let (topic, queue_id, found) = (record.topic(), record.queue_id(), record.queue_offset());
        if let Some((handle, next)) = self.queues.get_mut(topic).and_then(|ids| ids.get_mut(&queue_id)) {
            if found != *next {
                let expected = *next;
                return Err(self.not_dense(record, expected));
            }
            *next = next.plus(1);
            return Ok(*handle);
        }
        if found != QueueOffset::ZERO && self.log_start == PhysicalOffset::ZERO {
            return Err(self.not_dense(record, QueueOffset::ZERO));
        }
        if !is_folder_name(topic) {
            let (dir, at) = (self.dir.to_owned(), record.physical_offset());
            return Err(RecoveryError::TopicName { dir, at, topic: topic.to_owned() });
        }
        let handle = QueueHandle::at(self.queue_count);
        self.queue_count += 1;
        let topic =
            self.queues.get_key_value(topic).map_or_else(|| topic.into(), |(name, _)| Arc::clone(name));
        let ids = self.queues.entry(Arc::clone(&topic)).or_default();
        ids.insert(queue_id, (handle, found.plus(1)));
        self.batch.new_queues.push((handle, QueueName { topic, queue_id }));
        Ok(handle)
    }

    fn not_dense(&self, record: &RecordView<'_>, expected: QueueOffset) -> RecoveryError {
        RecoveryError::QueueOffset {
            dir: self.dir.to_owned(),
            at: record.physical_offset(),
            topic: record.topic().to_owned(),
            queue_id: record.queue_id(),
            found: record.queue_offset(),
            expected,
        }
    }

    fn write(&mut self) -> Result<(), RecoveryError> {
        let covered = self.batch.covered;
        let mut batch = std::mem::take(&mut self.batch);
        self.batch.covered = covered;
        self.files
            .write(&mut batch)
            .map_err(|source| RecoveryError::Derived { dir: self.dir.to_owned(), source })
    }

    fn finish(mut self) -> Result<DerivedFiles<D>, RecoveryError> {
        if self.batch.covered != self.files.covered() {
            self.write()?;
        }
        Ok(self.files)
    }
}

/// Whether a topic can be the name of a folder of its own.
fn is_folder_name(topic: &str) -> bool {
    !matches!(topic, "" | "." | "..") && !topic.contains(['/', '\0'])
}
