//! The only way to start a shard: finds the end of the log, brings ConsumeQueues and index in step with it, and says where
//! everything goes on. Blocking, on the [`Disk`] trait, before the cores start.
//!
//! 1. The marker `abort` is made. Was it there, the last exit was not clean.
//! 2. The positions snapshot is checked against the files and the log. Files that disagree are removed, to be built anew while the shard
//!    serves ([`Rebuild`]). Without a snapshot that agrees with the log, nobody knows where queues go on: ConsumeQueues and index are
//!    built anew from the whole log before anything is served. After an unclean exit the files are cut back to the snapshot.
//! 3. The log is scanned from there on, and what was derived from each record is written.
//! 4. A torn end is cut; a snapshot is taken.
//!
//! A crash at any point leaves a shard that recovers in the same way: nothing is claimed before it is durable, and what is
//! there already is left out or written again with the same content.
//!
//! Damage in the log is told, remembered ([`crate::damage`]) and passed over; nothing of it is cut. The messages that are lost keep their
//! queue offsets ([`dispatch`]): readers go on past them, and no other message ever gets their place.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use crate::checkpoint::{self, Checkpoint};
use crate::commit_log::RecoveredLog;
use crate::commit_log::scan::{
    Damage, ScanError, ScanLog, Scanned, UNSYNCED_MARKER, cut, scan, torn_window_bytes,
};
use crate::consume_queue::QueueName;
use crate::consume_queue::files::QueueState;
use crate::consume_queue::places::read_places;
use crate::damage::{INDEX_MARKER, KnownDamage};
use crate::deliberate::{Mistake, makes};
use crate::derived_files::DerivedFiles;
use crate::index_file::{IndexLayout, Slots};
use crate::io::disk::Disk;
use crate::message_store::RecoveredServe;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::{Positions, QueuePosition};
use crate::segment::{SegmentError, list_segments, segment_path, segment_start};
use crate::side_writer::{RecoveredSide, abort_path};

/// Name of the file in a shard's folder that says that a stock RocketMQ broker wrote parts of its log, or may have. When one
/// deletes a topic and makes it again, the offsets of its queues begin anew.
pub(crate) const STOCK_MARKER: &str = "stock";

mod dispatch;
pub(crate) mod snapshot_check;

use dispatch::Dispatch;
use snapshot_check::Disagreement;

/// How much is scanned between two reports of progress, bytes.
const PROGRESS_BYTES: u64 = 16 << 20;
/// Why files are built anew that the last life was building anew.
const NOT_OVER: &str = "the last life had not built all of them anew";
/// Damaged stretches that one start tells one by one.
const TOLD_MAX: u64 = 20;

/// What recovery must know of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Size of the index files.
    pub index: IndexLayout,
    pub rebuild: Rebuild,
}

/// When damaged or missing ConsumeQueue and index files are built anew, where a snapshot of the positions still says where queues go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebuild {
    /// While the shard serves, by its side thread. Until then messages of such a queue cannot be read, nor be found by their keys.
    BesideServing,
    /// Before the start is over: for those who want the files whole.
    BeforeServing,
}

impl ShardConfig {
    /// With index files of RocketMQ's size, and whole when the start is over.
    pub fn new(segment_bytes: u64) -> Self {
        Self { segment_bytes, index: IndexLayout::ROCKETMQ, rebuild: Rebuild::BeforeServing }
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
    /// What is known to be damaged in the log, from this start and those before.
    pub damage: KnownDamage,
}

impl RecoveredShard {
    /// How many messages each topic has, by name.
    pub(crate) fn messages(&self) -> Vec<(String, u64)> {
        let mut messages: BTreeMap<String, u64> = BTreeMap::new();
        for queue in self.serve.queues.iter().filter(|queue| !queue.is_deleted) {
            *messages.entry(queue.name.topic.to_string()).or_default() += queue.max.since(queue.min);
        }
        messages.into_iter().collect()
    }
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
    /// Whether some of them are being built anew beside serving, and why.
    pub rebuilding: Option<String>,
    /// Bytes behind the last good record that were zeroed, as the torn end of an unfinished flush.
    pub torn_bytes: u64,
    /// Damaged stretches of the log that the scan passed over, and their bytes.
    pub damaged_ranges: u64,
    pub damaged_bytes: u64,
    /// Messages in them whose queue offset is known. Readers go on past them.
    pub lost_messages: u64,
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
    let log_start = segments.first().copied().unwrap_or_default();
    let mut snapshot = Snapshot::read(disk, dir).map_err(derived_error)?;
    if log_start > PhysicalOffset::ZERO {
        snapshot.keep_places(disk, dir, log_start).map_err(derived_error)?;
    }
    let was_stopped = !mark_in_use(disk, dir).map_err(derived_error)?;
    let is_ours = look_for_others(disk, dir, &snapshot, was_stopped).map_err(derived_error)?;
    let exit = LastExit { clean: was_stopped && is_ours, is_ours };
    let log = ScanLog {
        dir: &log_dir,
        segments: &segments,
        segment_bytes: config.segment_bytes,
        torn_window_bytes: torn_window_bytes(disk, dir)?,
        durable_to: snapshot.durable_to(),
        is_in_use: false,
    };
    let mut damage = KnownDamage::read(disk, dir).map_err(derived_error)?;
    let Opened { files, rebuilt, rebuilding } =
        open_files(disk, dir, config, &log, &snapshot, &damage, exit).map_err(derived_error)?;

    let scanned_from = files.covered().log_end;
    let mut report = RecoveryReport {
        scanned_from,
        clean: exit.clean,
        rebuilt,
        rebuilding,
        end: scanned_from,
        ..RecoveryReport::default()
    };
    let known_before = damage.clone();
    if report.rebuilt.is_some() {
        // All of the log is looked at again.
        damage = KnownDamage::default();
    }
    let queues_may_restart = disk.exists(&dir.join(STOCK_MARKER)).map_err(derived_error)?;
    let mut dispatch = Dispatch::new(dir, log_start, queues_may_restart, files);
    let log_end = segments.last().map_or(scanned_from, |last| last.plus(config.segment_bytes));
    let total_bytes = log_end.since(scanned_from);
    let mut reported = scanned_from;
    let end = scan(disk, &log, scanned_from, &mut |scanned| {
        let at = match scanned {
            Scanned::Record(record) => {
                report.records += 1;
                dispatch.record(&record)?;
                record.physical_offset()
            }
            Scanned::Damaged(found) => {
                report.damaged_ranges += 1;
                report.damaged_bytes += found.range.bytes();
                tell_damage(&log, &found, report.damaged_ranges);
                damage.add(found.range);
                dispatch.damaged(&found);
                found.range.to
            }
        };
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
        if !makes(Mistake::TornTailLeft) {
            cut(disk, &log, torn)?;
        }
    }
    report.end = end.end;
    let from_before = if report.rebuilt.is_some() { snapshot.queues() } else { &[] };
    let (mut files, lost_messages) = dispatch.finish(from_before)?;
    report.lost_messages = lost_messages;
    damage.forget_before(log_start);
    if damage != known_before {
        damage.write(disk, dir).map_err(derived_error)?;
    }
    files.finish().map_err(derived_error)?;
    Positions::forget_set_aside(disk, dir).map_err(derived_error)?;
    if disk.exists(&dir.join(INDEX_MARKER)).map_err(derived_error)? {
        disk.remove_file(&dir.join(INDEX_MARKER)).map_err(derived_error)?;
    }
    progress(RecoveryProgress { scanned_bytes: end.end.since(scanned_from), total_bytes });

    let queues = files.queues().to_vec();
    let covered = files.covered();
    let next_offset = |state: &QueueState| {
        let is_forgotten = makes(Mistake::EmptiedQueueStartsAnew) && state.min == state.max;
        let next = if is_forgotten { QueueOffset::ZERO } else { state.max };
        (state.name.topic.to_string(), state.name.queue_id, next)
    };
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
            rebuilding: files.rebuilding().to_vec(),
            damage: damage.clone(),
        },
        side: RecoveredSide {
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            index: config.index,
            positions: files.positions(),
        },
        report,
        damage,
    })
}

/// Up to where the log of the shard in `dir` is known to have been durable: see [`ScanLog::durable_to`].
///
/// # Errors
/// The folder cannot be read.
pub fn durable_to<D: Disk>(disk: &D, dir: &Path) -> io::Result<PhysicalOffset> {
    Ok(Snapshot::read(disk, dir)?.durable_to())
}

/// The positions snapshot that the last life left, or the one that a rebuild which did not end has set aside.
struct Snapshot {
    /// As the file `positions` has it, or what is wrong with that.
    current: Result<Positions, String>,
    set_aside: Option<Positions>,
    /// Up to where the checkpoint says that the log was durable, which is written after the snapshot; 0 when it says nothing.
    checkpoint_end: PhysicalOffset,
}

impl Snapshot {
    fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Self> {
        let current = match Positions::read(disk, dir)? {
            Ok(Some(positions)) => Ok(positions),
            Ok(None) => Err("there is no positions snapshot".to_owned()),
            Err(damage) => Err(format!("the positions snapshot is not usable: {damage}")),
        };
        let checkpoint_end = match Checkpoint::read(disk, dir)? {
            checkpoint::Found::Ours(found) => PhysicalOffset::from_i64(found.confirm_offset),
            _ => None,
        };
        Ok(Self {
            current,
            set_aside: Positions::read_set_aside(disk, dir)?,
            checkpoint_end: checkpoint_end.unwrap_or_default(),
        })
    }

    /// Where nothing says how far queues had come, keeps what their files say of it.
    fn keep_places<D: Disk>(&mut self, disk: &D, dir: &Path, log_start: PhysicalOffset) -> io::Result<()> {
        if self.newest().is_none() {
            let places = Positions {
                queues: read_places(disk, &dir.join("consumequeue"), log_start)?,
                ..Positions::default()
            };
            places.write_set_aside(disk, dir)?;
            self.set_aside = Some(places);
        }
        Ok(())
    }

    fn newest(&self) -> Option<&Positions> {
        self.current.as_ref().ok().or(self.set_aside.as_ref())
    }

    /// Snapshots and checkpoints are taken of what is durable: whatever else may be wrong with them, no crash tore the log before this.
    fn durable_to(&self) -> PhysicalOffset {
        let snapshot_end = self.newest().map(|positions| PhysicalOffset::new(positions.log_end));
        snapshot_end.unwrap_or_default().max(self.checkpoint_end)
    }

    fn queues(&self) -> &[QueuePosition] {
        self.newest().map_or(&[], |positions| &positions.queues)
    }
}

/// Says what is wrong with the log, but not more often than somebody reads.
fn tell_damage(log: &ScanLog<'_>, damage: &Damage<'_>, number: u64) {
    let start = segment_start(damage.range.from, log.segment_bytes);
    match number {
        0..TOLD_MAX => tracing::error!(
            path = %segment_path(log.dir, start).display(),
            at_byte = damage.range.from.since(start),
            bytes = damage.range.bytes(),
            log_offset = %damage.range.from,
            reason = damage.reason,
            "the log is damaged; what is there is passed over, nothing is cut"
        ),
        TOLD_MAX => {
            tracing::error!(dir = %log.dir.display(), "there is more damage; `ringmq store verify` lists it")
        }
        _ => {}
    }
}

/// Whether nobody else has used the folder since the last snapshot, as far as the checkpoint tells. What somebody has written behind it
/// into ConsumeQueues and index must go, as after an unclean exit.
fn look_for_others<D: Disk>(
    disk: &D,
    dir: &Path,
    snapshot: &Snapshot,
    was_stopped: bool,
) -> io::Result<bool> {
    match Checkpoint::read(disk, dir)? {
        checkpoint::Found::Missing | checkpoint::Found::Ours(_) => Ok(true),
        checkpoint::Found::Unmarked(found) => {
            let is_as_left = snapshot.current.as_ref().is_ok_and(|positions| {
                u64::try_from(found.confirm_offset) == Ok(positions.log_end)
                    && found.log_timestamp_ms == positions.last_store_timestamp_ms
            });
            if !is_as_left {
                tracing::info!(dir = %dir.display(), "a stock RocketMQ has used the shard; what it wrote is taken over");
                mark_as_stock(disk, dir, was_stopped)?;
            }
            Ok(is_as_left)
        }
        checkpoint::Found::Changed => {
            tracing::warn!(
                path = %Checkpoint::path(dir).display(),
                "a stock RocketMQ has used the shard without `ringmq store release`, or the checkpoint is damaged: it is written anew, what \
                 was derived from the log is checked, and what a stock RocketMQ wrote is taken over"
            );
            mark_as_stock(disk, dir, was_stopped)?;
            Ok(false)
        }
        checkpoint::Found::Damaged => {
            tracing::warn!(
                path = %Checkpoint::path(dir).display(),
                "the checkpoint is damaged: it is written anew; what was derived from the log is checked"
            );
            Ok(false)
        }
    }
}

/// Leaves word, durably, that a stock RocketMQ wrote parts of the log, or may have.
fn mark_as_stock<D: Disk>(disk: &D, dir: &Path, was_stopped: bool) -> io::Result<()> {
    disk.open_or_create(&dir.join(STOCK_MARKER))?;
    if !was_stopped {
        // With its lazy flush, much may have been written and not durable when the power went.
        disk.open_or_create(&dir.join(UNSYNCED_MARKER))?;
    }
    disk.sync_dir(dir)
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

/// How the last life of the shard ended.
#[derive(Clone, Copy, Debug)]
struct LastExit {
    clean: bool,
    /// Nobody else has used the folder since.
    is_ours: bool,
}

/// What was derived, and why the snapshot was of no use, or why a part of the files was not.
struct Opened<D: Disk> {
    files: DerivedFiles<D>,
    rebuilt: Option<String>,
    rebuilding: Option<String>,
}

/// Opens what was derived: as the snapshot says, without the files that disagree with it, or empty.
fn open_files<D: Disk + Clone>(
    disk: &D,
    dir: &Path,
    config: &ShardConfig,
    log: &ScanLog<'_>,
    snapshot: &Snapshot,
    damage: &KnownDamage,
    exit: LastExit,
) -> io::Result<Opened<D>> {
    let open = |positions, slots| {
        DerivedFiles::open(disk.clone(), dir, config.segment_bytes, config.index, positions, slots)
    };
    let log_start = log.segments.first().copied().unwrap_or_default();
    let found = match &snapshot.current {
        Ok(positions) => match snapshot_check::check(disk, dir, config, log, positions, damage)? {
            Ok(mut disagreement) => {
                if disk.exists(&dir.join(INDEX_MARKER))? {
                    disagreement.index("the index led a lookup by key astray".to_owned());
                }
                // Whom a stock RocketMQ's files disagree with cannot be told.
                let is_beside = config.rebuild == Rebuild::BesideServing && exit.is_ours;
                match disagreement.reason.clone() {
                    Some(reason) if !is_beside => Err(reason),
                    None if !is_beside && !positions.rebuild.is_over() => Err(NOT_OVER.to_owned()),
                    _ => Ok((positions.clone(), disagreement)),
                }
            }
            Err(reason) => Err(reason),
        },
        Err(reason) => Err(reason.clone()),
    };
    match found {
        Ok((mut positions, disagreement)) => {
            give_up(disk, dir, &mut positions, &disagreement, log_start)?;
            let mut files = open(positions, if exit.clean { Slots::Read } else { Slots::Rebuild })?;
            if !exit.clean {
                remove_unknown_queues(disk, dir, files.queues())?;
            }
            if !exit.clean || disagreement.reason.is_some() {
                files.cut()?;
            }
            // A removal of old files may have ended before the next snapshot.
            files.advance_starts(log_start, 0, usize::MAX, &mut Vec::new())?;
            let rebuilding = match disagreement.reason {
                None if files.is_rebuilding() => Some(NOT_OVER.to_owned()),
                reason => reason,
            };
            Ok(Opened { files, rebuilt: None, rebuilding })
        }
        Err(reason) => {
            if snapshot.current.is_ok() {
                Positions::set_aside(disk, dir)?;
            } else {
                Positions::remove(disk, dir)?;
            }
            for derived in ["consumequeue", "index"] {
                disk.remove_dir_all(&dir.join(derived))?;
                disk.create_dir_all(&dir.join(derived))?;
            }
            let start = log_start.get();
            let nothing = Positions { log_end: start, last_record: start, ..Positions::default() };
            let mut files = open(nothing, Slots::Rebuild)?;
            files.cut()?;
            let is_new = log.segments.is_empty();
            if !is_new {
                tracing::warn!(dir = %dir.display(), reason, "ConsumeQueues and index are built anew from the log");
            }
            Ok(Opened { files, rebuilt: (!is_new).then_some(reason), rebuilding: None })
        }
    }
}

/// Removes the files that disagree, and has the positions say that they are to be built anew. Until a snapshot says so, the next start finds
/// them missing.
fn give_up<D: Disk>(
    disk: &D,
    dir: &Path,
    positions: &mut Positions,
    disagreement: &Disagreement,
    log_start: PhysicalOffset,
) -> io::Result<()> {
    let Some(reason) = &disagreement.reason else { return Ok(()) };
    tracing::warn!(
        dir = %dir.display(), reason, queues = disagreement.queues.len(), index = disagreement.index,
        "ConsumeQueue and index files are built anew from the log, beside serving"
    );
    for place in &disagreement.queues {
        let QueuePosition { topic, queue_id, .. } = &positions.queues[*place as usize];
        disk.remove_dir_all(&QueueName { topic: topic.as_str().into(), queue_id: *queue_id }.dir(dir))?;
    }
    positions.rebuild.queues.extend_from_slice(&disagreement.queues);
    positions.rebuild.queues.sort_unstable();
    if disagreement.index {
        // All of its files go: the positions name none any more.
        positions.index.clear();
        positions.rebuild.index_end = Some(log_start.get());
    }
    Ok(())
}

/// Removes the ConsumeQueues that came after the snapshot: those of records that are still there come again. A file where only folders
/// belong stays, as it is none of ours: a stock RocketMQ with ConsumeQueues in RocksDB has such.
fn remove_unknown_queues<D: Disk>(disk: &D, dir: &Path, known: &[QueueState]) -> io::Result<()> {
    let mut ids: HashMap<&str, Vec<String>> = HashMap::new();
    for state in known {
        ids.entry(&state.name.topic).or_default().push(state.name.queue_id.to_string());
    }
    let remove_folder = |path: &Path| match disk.remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        removed => removed,
    };
    let root = dir.join("consumequeue");
    for topic in disk.list(&root)? {
        let topic_dir = root.join(&topic);
        let Some(ids) = topic.to_str().and_then(|topic| ids.get(topic)) else {
            remove_folder(&topic_dir)?;
            continue;
        };
        for id in disk.list(&topic_dir)? {
            if !ids.iter().any(|known| **known == *id) {
                remove_folder(&topic_dir.join(id))?;
            }
        }
    }
    Ok(())
}
