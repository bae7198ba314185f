//! Checks a shard that nobody uses: every record of its log by its CRCs, and everything that was derived from the log against it. Blocking;
//! changes nothing.
//!
//! One pass over the log. What a snapshot of the positions covers must be in the ConsumeQueues and the index, entry by entry; what came
//! later is written by the next start anyway. Memory does not grow with the store.

use std::io;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use serde::Serialize;

use crate::checkpoint::{self, Checkpoint};
use crate::commit_log::scan::{Damage, ScanEnd, ScanError, ScanLog, Scanned, scan, torn_window_bytes};
use crate::damage::KnownDamage;
use crate::dispatch::derive;
use crate::io::disk::Disk;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::Positions;
use crate::record::{RECORD_BYTES_MIN, RecordView};
use crate::recovery::{RecoveryProgress, STOCK_MARKER, ShardConfig, durable_to};
use crate::segment::{SegmentError, list_segments, segment_path, segment_start};
use crate::side_writer::abort_path;

mod index_check;
mod queue_check;

use index_check::IndexCheck;
use queue_check::QueueCheck;

/// Findings that a report holds. Further ones are counted.
const FINDINGS_MAX: usize = 1000;
/// Stretches of lost messages that a report holds. Further ones are counted.
const LOST_MAX: usize = 1000;
/// Bytes of log between two reports of progress.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    CommitLog,
    ConsumeQueue,
    Index,
    Positions,
    Checkpoint,
    Config,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub part: Part,
    pub file: PathBuf,
    /// The place in the file, and how much of it is concerned, bytes.
    pub offset: u64,
    pub bytes: u64,
    pub what: String,
    pub lost: String,
    pub cure: String,
}

/// Messages of one queue that are in no good record, the end excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostMessages {
    pub topic: String,
    pub queue_id: u32,
    pub from: u64,
    pub to: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    pub log_start: u64,
    pub log_end: u64,
    pub records: u64,
    /// Entries and keys that were compared with the log.
    pub queue_entries: u64,
    pub index_keys: u64,
    /// Bytes behind the end that a crash left and that the next start cuts. Nothing of them was acknowledged.
    pub torn_bytes: u64,
    pub findings: Vec<Finding>,
    /// Findings that there was no room for.
    pub findings_left_out: u64,
    pub lost: Vec<LostMessages>,
    pub lost_messages: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    fn lose(&mut self, topic: &str, queue_id: u32, from: QueueOffset, to: QueueOffset) {
        self.lost_messages += to.since(from);
        if self.lost.len() < LOST_MAX {
            let topic = topic.to_owned();
            self.lost.push(LostMessages { topic, queue_id, from: from.get(), to: to.get() });
        }
    }
}

/// Why a shard cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Log(#[from] ScanError),
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Checks the shard in the folder `dir`.
///
/// # Errors
/// The disk refuses. Damage is no error but a finding.
pub fn verify_shard<D: Disk + Clone>(
    disk: &D,
    dir: &Path,
    config: &ShardConfig,
    progress: &mut dyn FnMut(RecoveryProgress),
) -> Result<VerifyReport, VerifyError> {
    let io_error = |source| VerifyError::Io { path: dir.to_owned(), source };
    let mut report = VerifyReport::default();
    let log_dir = dir.join("commitlog");
    let segments = match list_segments(disk, &log_dir, config.segment_bytes) {
        Ok(segments) => segments,
        Err(SegmentError::Io { path, source }) => return Err(VerifyError::Io { path, source }),
        Err(error) => {
            report.add(odd_segments(&log_dir, &error));
            return Ok(report);
        }
    };
    let log = ScanLog {
        dir: &log_dir,
        segments: &segments,
        segment_bytes: config.segment_bytes,
        torn_window_bytes: torn_window_bytes(disk, dir)?,
        durable_to: durable_to(disk, dir).map_err(io_error)?,
        is_in_use: false,
    };
    let is_clean = !disk.exists(&abort_path(dir)).map_err(io_error)?;
    let positions = usable_positions(disk, dir, &mut report).map_err(io_error)?;
    if let Some(positions) = &positions {
        check_checkpoint(disk, dir, positions, is_clean, &mut report).map_err(io_error)?;
    }
    if KnownDamage::is_unusable(disk, dir).map_err(io_error)? {
        report.add(Finding {
            part: Part::Positions,
            file: dir.join(crate::damage::FILE_NAME),
            offset: 0,
            bytes: 0,
            what: "the list of known damage is not usable".to_owned(),
            lost: "nothing: what is damaged is found again".to_owned(),
            cure: "ringmq store repair, or delete the file".to_owned(),
        });
    }
    let log_start = segments.first().copied().unwrap_or_default();
    let end = segments.last().map_or(log_start, |last| last.plus(config.segment_bytes));
    let total_bytes = end.since(log_start);
    let mut pass = Pass {
        log: &log,
        log_start,
        covered: positions
            .as_ref()
            .map_or(PhysicalOffset::ZERO, |positions| PhysicalOffset::new(positions.log_end)),
        index_end: positions
            .as_ref()
            .and_then(|positions| positions.rebuild.index_end)
            .map(PhysicalOffset::new),
        next_offsets: HashMap::new(),
        has_damage: false,
        queues_may_restart: disk.exists(&dir.join(STOCK_MARKER)).map_err(io_error)?,
        queues: QueueCheck::new(disk, dir, positions.as_ref()),
        index: IndexCheck::new(disk, dir, config.index, positions.as_ref(), log_start, is_clean),
        report,
    };
    let mut reported = log_start;
    let end = scan(disk, &log, log_start, &mut |scanned| {
        let at = match &scanned {
            Scanned::Record(record) => record.physical_offset(),
            Scanned::Damaged(damage) => damage.range.from,
        };
        match scanned {
            Scanned::Record(record) => pass.record(&record)?,
            Scanned::Damaged(damage) => pass.damaged(&damage),
        }
        if at.since(reported) >= PROGRESS_BYTES {
            reported = at;
            progress(RecoveryProgress { scanned_bytes: at.since(log_start), total_bytes });
        }
        Ok::<(), VerifyError>(())
    })?;
    pass.finish(&end, positions.as_ref())
}

fn odd_segments(log_dir: &Path, error: &SegmentError) -> Finding {
    let (file, bytes) = match error {
        SegmentError::Io { path, .. } | SegmentError::Name { path, .. } => (path.clone(), 0),
        SegmentError::Size { path, found_bytes, .. } => (path.clone(), *found_bytes),
        SegmentError::Missing { path } => (path.clone(), 0),
    };
    Finding {
        part: Part::CommitLog,
        file,
        offset: 0,
        bytes,
        what: format!("the files of {} are not one log: {error}", log_dir.display()),
        lost: "not known before the files are in order; the log was not read".to_owned(),
        cure: "restore the file from a copy, or ringmq store repair".to_owned(),
    }
}

/// The positions snapshot, unless there is none or it is damaged.
fn usable_positions<D: Disk>(
    disk: &D,
    dir: &Path,
    report: &mut VerifyReport,
) -> io::Result<Option<Positions>> {
    match Positions::read(disk, dir)? {
        Ok(positions) => Ok(positions),
        Err(damage) => {
            report.add(Finding {
                part: Part::Positions,
                file: Positions::path(dir),
                offset: 0,
                bytes: 0,
                what: damage.to_string(),
                lost: "nothing: ConsumeQueues and index are built anew from the log".to_owned(),
                cure: "none needed: the next start does it, or ringmq store repair".to_owned(),
            });
            Ok(None)
        }
    }
}

fn check_checkpoint<D: Disk>(
    disk: &D,
    dir: &Path,
    positions: &Positions,
    is_clean: bool,
    report: &mut VerifyReport,
) -> io::Result<()> {
    let what = match Checkpoint::read(disk, dir)? {
        // What a stock broker has written says nothing of us.
        checkpoint::Found::Missing | checkpoint::Found::Unmarked(_) => return Ok(()),
        checkpoint::Found::Changed => {
            "its checksum does not agree: it is damaged, or a stock RocketMQ has used the folder"
        }
        checkpoint::Found::Damaged => "its checksum does not agree: it is damaged",
        checkpoint::Found::Ours(found) => {
            let covered = i64::try_from(positions.log_end).unwrap_or(i64::MAX);
            let is_behind = found.confirm_offset <= covered
                && found.log_timestamp_ms <= positions.last_store_timestamp_ms
                && found.log_timestamp_ms == found.queues_timestamp_ms
                && found.log_timestamp_ms == found.index_timestamp_ms;
            let is_there = found.confirm_offset == covered
                && found.log_timestamp_ms == positions.last_store_timestamp_ms;
            if is_behind && (is_there || !is_clean) {
                return Ok(());
            }
            "it does not agree with the positions snapshot"
        }
    };
    report.add(Finding {
        part: Part::Checkpoint,
        file: Checkpoint::path(dir),
        offset: 0,
        bytes: 0,
        what: what.to_owned(),
        lost: "nothing: only a stock RocketMQ reads it".to_owned(),
        cure: "none needed: the next start writes it anew".to_owned(),
    });
    Ok(())
}

/// One pass over the log.
struct Pass<'a, D: Disk> {
    log: &'a ScanLog<'a>,
    log_start: PhysicalOffset,
    /// What was derived from the log before this must be in the files.
    covered: PhysicalOffset,
    /// Where an index that is being built anew goes on.
    index_end: Option<PhysicalOffset>,
    next_offsets: HashMap<String, HashMap<u32, QueueOffset>>,
    has_damage: bool,
    /// A stock broker may have deleted a topic and made it again.
    queues_may_restart: bool,
    queues: QueueCheck<'a, D>,
    index: IndexCheck<'a, D>,
    report: VerifyReport,
}

impl<D: Disk> Pass<'_, D> {
    fn record(&mut self, record: &RecordView<'_>) -> Result<(), VerifyError> {
        self.report.records += 1;
        let mut keys = Vec::new();
        let entry = derive(record, &mut keys);
        let is_covered = record.physical_offset() < self.covered;
        if entry.is_some() {
            self.follow_queue(record);
        }
        if is_covered {
            if let Some(entry) = entry {
                self.queues.expect(record, entry, &mut self.report)?;
            }
            if self.index_end.is_none_or(|index_end| record.physical_offset() < index_end) {
                for key in &keys {
                    self.index.expect(key, &mut self.report)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a record is the next of its queue.
    fn follow_queue(&mut self, record: &RecordView<'_>) {
        let (topic, queue_id, found) = (record.topic(), record.queue_id(), record.queue_offset());
        if !self.next_offsets.contains_key(topic) {
            self.next_offsets.insert(topic.to_owned(), HashMap::new());
        }
        let starts_at = if self.log_start == PhysicalOffset::ZERO { QueueOffset::ZERO } else { found };
        let ids = self.next_offsets.get_mut(topic).expect("inserted above");
        let next = ids.entry(queue_id).or_insert(starts_at);
        let expected = *next;
        *next = found.plus(1);
        if found == QueueOffset::ZERO && found < expected && self.queues_may_restart {
            self.queues.restart(topic, queue_id);
            return;
        }
        if found > expected {
            self.report.lose(topic, queue_id, expected, found);
        }
        if found < expected || found > expected && !self.has_damage {
            let at = record.physical_offset();
            let start = segment_start(at, self.log.segment_bytes);
            self.report.add(Finding {
                part: Part::CommitLog,
                file: segment_path(self.log.dir, start),
                offset: at.since(start),
                bytes: record.total_size() as u64,
                what: format!(
                    "message {found} of queue {queue_id} of {topic} stands where message {expected} should be"
                ),
                lost: "messages between the two, if there were any".to_owned(),
                cure: "restore the log from a copy; a start refuses it".to_owned(),
            });
        }
    }

    fn damaged(&mut self, damage: &Damage<'_>) {
        self.has_damage = true;
        self.index.pass_over(damage.range);
        let Damage { range, reason, resembles } = damage;
        let start = segment_start(range.from, self.log.segment_bytes);
        let lost = match resembles {
            Some(record) => format!(
                "one message, by the looks of it message {} of queue {} of {}",
                record.queue_offset(),
                record.queue_id(),
                record.topic()
            ),
            None => format!("up to {} messages", range.bytes().div_ceil(RECORD_BYTES_MIN as u64)),
        };
        self.report.add(Finding {
            part: Part::CommitLog,
            file: segment_path(self.log.dir, start),
            offset: range.from.since(start),
            bytes: range.bytes(),
            what: reason.clone(),
            lost,
            cure: "restore the file from a copy made before; without one the node runs and passes over it"
                .to_owned(),
        });
    }

    fn finish(mut self, end: &ScanEnd, positions: Option<&Positions>) -> Result<VerifyReport, VerifyError> {
        self.queues.finish(&mut self.report)?;
        self.index.finish(&mut self.report)?;
        let mut report = self.report;
        for queue in
            positions.iter().flat_map(|positions| &positions.queues).filter(|queue| !queue.is_deleted)
        {
            let next = self.next_offsets.get(&queue.topic).and_then(|ids| ids.get(&queue.queue_id));
            let next = next.copied().unwrap_or(QueueOffset::new(queue.min));
            let max = QueueOffset::new(queue.max);
            if next < max {
                report.lose(&queue.topic, queue.queue_id, next, max);
            }
        }
        if end.end < self.covered {
            let start = segment_start(end.end, self.log.segment_bytes);
            report.add(Finding {
                part: Part::CommitLog,
                file: segment_path(self.log.dir, start),
                offset: end.end.since(start),
                bytes: self.covered.since(end.end),
                what: format!("the log ends at {}, but it went up to {} once", end.end, self.covered),
                lost: "all messages behind".to_owned(),
                cure: "restore the log from a copy that is as new as the rest of the store".to_owned(),
            });
        }
        report.log_start = self.log_start.get();
        report.log_end = end.end.get();
        report.torn_bytes = end.torn.as_ref().map_or(0, |torn| torn.to.since(torn.from));
        Ok(report)
    }
}
