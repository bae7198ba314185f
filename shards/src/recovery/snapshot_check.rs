//! Whether a positions snapshot agrees with the files and the log, so that a start may go on from it.
//!
//! Checked are the last record that it covers, and of each queue and each index file the presence, the size and the newest
//! item. What is damaged in the middle of a ConsumeQueue is found when it is read: every record knows its place in its queue.

use std::io;
use std::path::Path;

use hashbrown::HashSet;

use crate::commit_log::scan::ScanLog;
use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, QueueName, file_place};
use crate::damage::KnownDamage;
use crate::index_file;
use crate::io::disk::{Disk, DiskFile};
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::{Positions, QueuePosition};
use crate::record::{RecordView, peek_size};
use crate::recovery::ShardConfig;
use crate::segment::{segment_path, segment_start};

/// As much of a record as says where it belongs: its queue id, its queue offset and its physical offset.
const IDENTITY_BYTES: usize = 36;
/// As much of a record as says how long it is.
const SIZE_BYTES: usize = 8;

/// What of the files does not agree with positions that agree with the log: it is to be built anew.
#[derive(Debug, Default)]
pub(crate) struct Disagreement {
    /// Places in [`Positions::queues`].
    pub(crate) queues: Vec<u32>,
    pub(crate) index: bool,
    /// The first thing that was found.
    pub(crate) reason: Option<String>,
}

impl Disagreement {
    pub(crate) fn index(&mut self, reason: String) {
        self.index = true;
        self.reason.get_or_insert(reason);
    }
}

/// What disagrees with the positions. Inner error: why they are of no use at all.
///
/// # Errors
/// The disk refuses to say.
pub(crate) fn check<D: Disk>(
    disk: &D,
    dir: &Path,
    config: &ShardConfig,
    log: &ScanLog<'_>,
    positions: &Positions,
    damage: &KnownDamage,
) -> io::Result<Result<Disagreement, String>> {
    let mut check = Check { disk, dir, log, damage, open: None };
    if let Some(reason) = check.log_end(positions)? {
        return Ok(Err(reason));
    }
    let mut found = Disagreement::default();
    let mut names = HashSet::new();
    for (place, queue) in (0..).zip(&positions.queues) {
        if !names.insert((queue.topic.as_str(), queue.queue_id)) || queue.min > queue.max {
            return Ok(Err(format!("the snapshot is odd about queue {} of {}", queue.queue_id, queue.topic)));
        }
        if positions.rebuild.queues.binary_search(&place).is_err()
            && let Some(reason) = check.queue(queue, positions.log_end)?
        {
            found.queues.push(place);
            found.reason.get_or_insert(reason);
        }
    }
    for file in &positions.index {
        if !index_file::is_plausible(disk, dir, config.index, file)? {
            found.index(format!("the index file {} is missing or damaged", file.name));
        }
    }
    let rebuild = &positions.rebuild;
    if rebuild.queues.iter().any(|place| *place as usize >= positions.queues.len()) {
        return Ok(Err("the snapshot is odd about the queues that are built anew".to_owned()));
    }
    Ok(Ok(found))
}

struct Check<'a, D: Disk> {
    disk: &'a D,
    dir: &'a Path,
    log: &'a ScanLog<'a>,
    /// A record in there cannot agree with anything.
    damage: &'a KnownDamage,
    /// The segment read last.
    open: Option<(PhysicalOffset, D::File)>,
}

impl<D: Disk> Check<'_, D> {
    /// Whether the last record that the snapshot covers is there and ends where it says.
    fn log_end(&mut self, positions: &Positions) -> io::Result<Option<String>> {
        let log_start = self.log.segments.first().copied().unwrap_or_default();
        let last = PhysicalOffset::new(positions.last_record);
        let claimed_end = PhysicalOffset::new(positions.log_end);
        if last == claimed_end {
            let is_start = claimed_end == log_start;
            return Ok(
                (!is_start).then(|| "the snapshot covers no record, but not the log's start".to_owned())
            );
        }
        if self.damage.contains(last) && self.holds(claimed_end) {
            return Ok(None);
        }
        let disagreement =
            || format!("the log does not hold the record at {last} that the snapshot ends with");
        let Some(head) = self.bytes(last, SIZE_BYTES)? else { return Ok(Some(disagreement())) };
        let Ok(size) = peek_size(&head) else { return Ok(Some(disagreement())) };
        let Some(bytes) = self.bytes(last, size)? else { return Ok(Some(disagreement())) };
        let is_it = last.plus(size as u64) == claimed_end
            && RecordView::parse(&bytes)
                .is_ok_and(|record| record.physical_offset() == last && record.verify_crc().is_ok());
        Ok((!is_it).then(disagreement))
    }

    /// Whether the files of a queue are all there, and the newest entry names the record that it should.
    fn queue(&mut self, queue: &QueuePosition, log_end: u64) -> io::Result<Option<String>> {
        if queue.is_deleted || queue.max == 0 {
            return Ok(None);
        }
        let name = QueueName { topic: queue.topic.as_str().into(), queue_id: queue.queue_id };
        let newest = QueueOffset::new(queue.max - 1);
        let (newest_start, place) = file_place(newest);
        let mut start = file_place(QueueOffset::new(queue.min)).0.min(newest_start);
        loop {
            let path = name.file_path(self.dir, start);
            let disagreement = |what: &str| Ok(Some(format!("{} {what}", path.display())));
            let file = match self.disk.open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return disagreement("is missing"),
                Err(error) => return Err(error),
            };
            if file.len()? != FILE_BYTES {
                return disagreement("has another size");
            }
            if start == newest_start {
                let mut entry = [0; ENTRY_BYTES];
                file.read_exact_at(&mut entry, place)?;
                let log_start = self.log.segments.first().copied().unwrap_or_default();
                let names_it = match Entry::decode(&entry) {
                    // Of its messages nothing but their number is left.
                    None => queue.min == queue.max && entry == Entry::filler(),
                    // All messages of the queue have been removed.
                    Some(entry) if entry.physical_offset < log_start => true,
                    Some(entry) if entry.physical_offset.get() < log_end => {
                        self.is_record_of(&entry, queue.queue_id, newest)?
                    }
                    _ => false,
                };
                return if names_it { Ok(None) } else { disagreement("does not agree with the log") };
            }
            start += FILE_BYTES;
        }
    }

    /// Whether the log has files up to `end`.
    fn holds(&self, end: PhysicalOffset) -> bool {
        self.log.segments.last().is_some_and(|last| end <= last.plus(self.log.segment_bytes))
    }

    fn is_record_of(&mut self, entry: &Entry, queue_id: u32, offset: QueueOffset) -> io::Result<bool> {
        if self.damage.contains(entry.physical_offset) {
            return Ok(true);
        }
        let Some(head) = self.bytes(entry.physical_offset, IDENTITY_BYTES)? else { return Ok(false) };
        let expected_size = entry.size_bytes as usize;
        Ok(peek_size(&head) == Ok(expected_size)
            && head[12..16] == queue_id.to_be_bytes()
            && head[20..28] == offset.to_i64().to_be_bytes()
            && head[28..36] == entry.physical_offset.to_i64().to_be_bytes())
    }

    /// Bytes of the log; `None` when they are not all in one file that exists.
    fn bytes(&mut self, at: PhysicalOffset, len: usize) -> io::Result<Option<Vec<u8>>> {
        let start = segment_start(at, self.log.segment_bytes);
        let is_inside = at.since(start) + len as u64 <= self.log.segment_bytes;
        if !is_inside || self.log.segments.binary_search(&start).is_err() {
            return Ok(None);
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != start) {
            let file = self.disk.open(&segment_path(self.log.dir, start))?;
            file.settle()?;
            self.open = Some((start, file));
        }
        let (_, file) = self.open.as_ref().expect("opened above");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at.since(start))?;
        Ok(Some(bytes))
    }
}
