//! What recovery derives from the records of a scan, and what it makes of those that are lost.
//!
//! Queue offsets are dense. A message in a damaged stretch of the log leaves a gap there, which is filled with an entry that leads into the
//! damage: who reads it finds no good record and goes on past it. That a message is missing is known
//! - from the next message of its queue, whose offset is one too far;
//! - when there is none, from the snapshot before, which knows how far the queue had come;
//! - or, where neither explains a damaged stretch, from its bytes, when they still look like the next message of a queue.
//!
//! More messages than the damaged bytes can have held are never made up: a gap without damage refuses the start.

use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::commit_log::scan::Damage;
use crate::consume_queue::files::{QueueState, QueuedEntry};
use crate::consume_queue::{Entry, QueueHandle, QueueName};
use crate::damage::DamagedRange;
use crate::derived_files::{Covered, DerivedBatch, DerivedFiles, Placeholders};
use crate::dispatch::derive;
use crate::io::disk::Disk;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::QueuePosition;
use crate::record::{RECORD_BYTES_MIN, RecordView, takes_queue_offset};
use crate::recovery::RecoveryError;

/// Entries and keys that are gathered before they are written.
const BATCH_ENTRIES: usize = 64 * 1024;
/// Damaged records that are remembered until the end, in case that nothing else tells of them.
const RESEMBLANCES_MAX: usize = 4096;

/// Derives entries and keys from the records of a scan, and writes them in batches.
pub(super) struct Dispatch<'a, D: Disk> {
    dir: &'a Path,
    /// Where the log starts: beyond 0, queues need not start at offset 0.
    log_start: PhysicalOffset,
    /// A stock broker may have deleted a topic and made it again.
    queues_may_restart: bool,
    files: DerivedFiles<D>,
    /// Handle and next offset of each queue.
    queues: HashMap<Arc<str>, HashMap<u32, (QueueHandle, QueueOffset)>>,
    queue_count: usize,
    batch: DerivedBatch,
    /// The last damaged stretch.
    damage: Option<DamagedRange>,
    damaged_ranges: u64,
    /// How many more messages the damaged stretches can have held.
    losses_left: u64,
    lost_messages: u64,
    resemblances: Vec<Resemblance>,
}

/// What a damaged record seems to be.
struct Resemblance {
    name: QueueName,
    offset: QueueOffset,
    entry: Entry,
}

impl<'a, D: Disk> Dispatch<'a, D> {
    pub(super) fn new(
        dir: &'a Path,
        log_start: PhysicalOffset,
        queues_may_restart: bool,
        files: DerivedFiles<D>,
    ) -> Self {
        let mut queues: HashMap<Arc<str>, HashMap<u32, _>> = HashMap::new();
        let queue_count = files.queues().len();
        for (index, QueueState { name, max, .. }) in files.queues().iter().enumerate() {
            let ids = queues.entry(Arc::clone(&name.topic)).or_default();
            ids.insert(name.queue_id, (QueueHandle::at(index), *max));
        }
        let batch = DerivedBatch { covered: files.covered(), ..DerivedBatch::default() };
        Self {
            dir,
            log_start,
            queues_may_restart,
            files,
            queues,
            queue_count,
            batch,
            damage: None,
            damaged_ranges: 0,
            losses_left: 0,
            lost_messages: 0,
            resemblances: Vec::new(),
        }
    }

    pub(super) fn record(&mut self, record: &RecordView<'_>) -> Result<(), RecoveryError> {
        let at = record.physical_offset();
        self.restart_queue(record)?;
        if let Some(entry) = derive(record, &mut self.batch.keys) {
            let queue = self.queue(record)?;
            self.batch.entries.push(QueuedEntry { queue, offset: record.queue_offset(), entry });
        }
        self.batch.covered = Covered {
            log_end: at.plus(record.total_size() as u64),
            last_record: at,
            last_store_timestamp_ms: record.store_timestamp_ms(),
        };
        self.write_when_full()
    }

    /// Forgets the messages of a queue that begins anew. Readers get the later ones only, as from the stock broker.
    fn restart_queue(&mut self, record: &RecordView<'_>) -> Result<(), RecoveryError> {
        let is_first = record.queue_offset() == QueueOffset::ZERO && takes_queue_offset(record.sys_flag());
        if !(is_first && self.queues_may_restart) {
            return Ok(());
        }
        match self.next(record.topic(), record.queue_id()) {
            Some((handle, next)) if next > QueueOffset::ZERO => {
                self.write()?;
                self.batch.deleted.push(handle);
                self.set_next(record.topic(), record.queue_id(), QueueOffset::ZERO);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The log goes on behind a damaged stretch.
    pub(super) fn damaged(&mut self, damage: &Damage<'_>) {
        let range = damage.range;
        self.damage = Some(range);
        self.damaged_ranges += 1;
        self.losses_left += range.bytes() / RECORD_BYTES_MIN as u64;
        self.batch.covered.log_end = range.to;
        self.batch.covered.last_record = range.from;
        if let Some(record) = &damage.resembles
            && self.resemblances.len() < RESEMBLANCES_MAX
            && let Some(entry) = derive(record, &mut Vec::new())
        {
            let name = QueueName { topic: record.topic().into(), queue_id: record.queue_id() };
            self.resemblances.push(Resemblance { name, offset: record.queue_offset(), entry });
        }
    }

    /// The queue of a record, which must be the next of its queue, those that are lost left out.
    fn queue(&mut self, record: &RecordView<'_>) -> Result<QueueHandle, RecoveryError> {
        let (topic, queue_id, found) = (record.topic(), record.queue_id(), record.queue_offset());
        let (handle, next) = match self.next(topic, queue_id) {
            Some(known) => known,
            None => {
                if !is_folder_name(topic) {
                    let (dir, at) = (self.dir.to_owned(), record.physical_offset());
                    return Err(RecoveryError::TopicName { dir, at, topic: topic.to_owned() });
                }
                let first = if self.log_start == PhysicalOffset::ZERO { QueueOffset::ZERO } else { found };
                if !self.may_be_lost(first, found) {
                    return Err(self.not_dense(record, first));
                }
                (self.add_queue(topic, queue_id, first), first)
            }
        };
        if found != next {
            if !self.may_be_lost(next, found) {
                return Err(self.not_dense(record, next));
            }
            self.lose(handle, next, found)?;
        }
        self.set_next(topic, queue_id, found.plus(1));
        Ok(handle)
    }

    fn next(&self, topic: &str, queue_id: u32) -> Option<(QueueHandle, QueueOffset)> {
        self.queues.get(topic)?.get(&queue_id).copied()
    }

    fn set_next(&mut self, topic: &str, queue_id: u32, next: QueueOffset) {
        let queue = self.queues.get_mut(topic).and_then(|ids| ids.get_mut(&queue_id));
        queue.expect("the queue is known").1 = next;
    }

    fn add_queue(&mut self, topic: &str, queue_id: u32, next: QueueOffset) -> QueueHandle {
        let handle = QueueHandle::at(self.queue_count);
        self.queue_count += 1;
        let topic =
            self.queues.get_key_value(topic).map_or_else(|| topic.into(), |(name, _)| Arc::clone(name));
        let ids = self.queues.entry(Arc::clone(&topic)).or_default();
        ids.insert(queue_id, (handle, next));
        self.batch.new_queues.push((handle, QueueName { topic, queue_id }));
        handle
    }

    /// Whether the messages `[from, to)` of a queue can have been in what is damaged.
    fn may_be_lost(&self, from: QueueOffset, to: QueueOffset) -> bool {
        from <= to && to.since(from) <= self.losses_left
    }

    /// Gives the messages `[from, to)` of a queue, which are lost, entries that lead into the damage.
    fn lose(&mut self, queue: QueueHandle, from: QueueOffset, to: QueueOffset) -> Result<(), RecoveryError> {
        let damage = self.damage.expect("nothing is lost without damage");
        for entry in Placeholders::lost(queue, from, to, damage).entries() {
            self.batch.entries.push(entry);
            self.write_when_full()?;
        }
        self.losses_left -= to.since(from);
        self.lost_messages += to.since(from);
        Ok(())
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

    fn write_when_full(&mut self) -> Result<(), RecoveryError> {
        if self.batch.entries.len() + self.batch.keys.len() >= BATCH_ENTRIES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), RecoveryError> {
        let covered = self.batch.covered;
        let mut batch = std::mem::take(&mut self.batch);
        self.batch.covered = covered;
        self.files
            .write(&mut batch)
            .map_err(|source| RecoveryError::Derived { dir: self.dir.to_owned(), source })
    }

    /// Writes the rest. `before` are the queues as the last snapshot had them, when all of the log was scanned. Returns also how many
    /// messages are lost.
    pub(super) fn finish(
        mut self,
        before: &[QueuePosition],
    ) -> Result<(DerivedFiles<D>, u64), RecoveryError> {
        if self.damage.is_some() {
            self.lose_last_messages(before)?;
        }
        if self.batch.covered != self.files.covered() || !self.batch.entries.is_empty() {
            self.write()?;
        }
        self.keep_places(before)?;
        Ok((self.files, self.lost_messages))
    }

    /// Lets queues all of whose messages were removed with the log's old files go on where they were.
    fn keep_places(&mut self, before: &[QueuePosition]) -> Result<(), RecoveryError> {
        if self.log_start == PhysicalOffset::ZERO {
            return Ok(());
        }
        for QueuePosition { topic, queue_id, max, is_deleted, .. } in before {
            if !is_deleted && self.next(topic, *queue_id).is_none() && is_folder_name(topic) {
                let max = QueueOffset::new(*max);
                let queue = self.add_queue(topic, *queue_id, max);
                self.write()?;
                let derived = |source| RecoveryError::Derived { dir: self.dir.to_owned(), source };
                self.files.start_empty_at(queue, max).map_err(derived)?;
            }
        }
        Ok(())
    }

    /// Keeps the places of lost messages that no later one of their queue tells of.
    fn lose_last_messages(&mut self, before: &[QueuePosition]) -> Result<(), RecoveryError> {
        for position in before.iter().filter(|position| !position.is_deleted) {
            let QueuePosition { topic, queue_id, min, max, .. } = position;
            let (min, max) = (QueueOffset::new(*min), QueueOffset::new(*max));
            let known = self.next(topic, *queue_id);
            let next = known.map_or(min, |(_, next)| next);
            if next >= max || !self.may_be_lost(next, max) || !is_folder_name(topic) {
                continue;
            }
            let queue = known.map_or_else(|| self.add_queue(topic, *queue_id, next), |(queue, _)| queue);
            self.lose(queue, next, max)?;
            self.set_next(topic, *queue_id, max);
        }
        // What such a record says of itself may be wrong too: it counts only where nothing else tells what is missing.
        for Resemblance { name, offset, entry } in std::mem::take(&mut self.resemblances) {
            if let Some((queue, next)) = self.next(&name.topic, name.queue_id)
                && next == offset
                && self.lost_messages < self.damaged_ranges
            {
                self.batch.entries.push(QueuedEntry { queue, offset, entry });
                self.lost_messages += 1;
                self.set_next(&name.topic, name.queue_id, offset.plus(1));
            }
        }
        Ok(())
    }
}

/// Whether a topic can be the name of a folder of its own.
fn is_folder_name(topic: &str) -> bool {
    !matches!(topic, "" | "." | "..") && !topic.contains(['/', '\0'])
}
