//! Everything that is derived from the log and kept in files: ConsumeQueues and index, with the snapshot that says up to where
//! they are durable. Used by the side thread and by recovery; blocking.
//!
//! Order of its positions: snapshot on the disk <= [`DerivedFiles::covered`], what is in the files <= what is durable in the log.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::consume_queue::files::{QueueFiles, QueueStart, QueueState, QueuedEntry};
use crate::consume_queue::{Entry, QueueHandle, QueueName, first_in_file_of};
use crate::damage::DamagedRange;
use crate::deliberate::{Mistake, makes};
use crate::dispatch::IndexKey;
use crate::index_file::{IndexFiles, IndexLayout, KeyLookup, Slots};
use crate::io::disk::Disk;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::positions::{Positions, QueuePosition, RebuildPosition};
use crate::record::RECORD_BYTES_MIN;
use crate::segment::{segment_path, segment_start};

/// Placeholders that are written at once.
const PLACEHOLDERS_AT_ONCE: usize = 64 << 10;

/// Up to where the log is covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// End of the last record that is covered.
    pub(crate) log_end: PhysicalOffset,
    /// Where that record starts; equal to `log_end` when there is none.
    pub(crate) last_record: PhysicalOffset,
    /// When it was stored, milliseconds.
    pub(crate) last_store_timestamp_ms: i64,
}

/// What was derived from a stretch of the log.
#[derive(Debug, Default)]
pub(crate) struct DerivedBatch {
    /// Queues that were deleted before the stretch.
    pub(crate) deleted: Vec<QueueHandle>,
    /// Queues that had no message before, in the order of their handles.
    pub(crate) new_queues: Vec<(QueueHandle, QueueName)>,
    pub(crate) entries: Vec<QueuedEntry>,
    /// Where queues begin after the stretch, if that has changed.
    pub(crate) starts: Vec<(QueueHandle, QueueOffset)>,
    pub(crate) keys: Vec<IndexKey>,
    /// The end of the stretch.
    pub(crate) covered: Covered,
    /// Keys that are in the index already: a batch that failed goes on there.
    pub(crate) keys_done: usize,
}

impl DerivedBatch {
    /// Whether it says nothing that the batches before, up to `covered`, did not say.
    fn is_nothing(&self, covered: Covered) -> bool {
        let is_empty = self.entries.is_empty() && self.keys.is_empty() && self.deleted.is_empty();
        self.covered == covered && is_empty && self.new_queues.is_empty() && self.starts.is_empty()
    }
}

/// Entries for the messages `[from, to)` of a queue that no record of the log has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placeholders {
    queue: QueueHandle,
    from: QueueOffset,
    to: QueueOffset,
    entry: Entry,
}

impl Placeholders {
    /// For messages that are lost with a damaged stretch of the log: the entries lead there.
    pub(crate) fn lost(queue: QueueHandle, from: QueueOffset, to: QueueOffset, damage: DamagedRange) -> Self {
        let size_bytes = u32::try_from(RECORD_BYTES_MIN).expect("a few bytes");
        let entry = Entry { physical_offset: damage.from, size_bytes, tags_code: 0 };
        Self { queue, from, to, entry }
    }

    /// For messages that were removed with the log's first files, so that the file of the last of them has entries from its start on.
    pub(crate) fn removed(queue: QueueHandle, from: QueueOffset, to: QueueOffset) -> Self {
        let last = QueueOffset::new(to.get().saturating_sub(1));
        Self { queue, from: from.max(first_in_file_of(last)), to, entry: Entry::FILLER }
    }

    pub(crate) fn count(&self) -> u64 {
        self.to.since(self.from)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = QueuedEntry> {
        let Self { queue, from, to, entry } = *self;
        (from.get()..to.get()).map(move |offset| QueuedEntry {
            queue,
            offset: QueueOffset::new(offset),
            entry,
        })
    }
}

/// Batches that wait, in log order; joined where that changes nothing.
#[derive(Debug, Default)]
pub(crate) struct DerivedBacklog(VecDeque<DerivedBatch>);

impl DerivedBacklog {
    pub(crate) fn entries(&self) -> usize {
        self.0.iter().map(|batch| batch.entries.len()).sum()
    }

    pub(crate) fn push(&mut self, mut batch: DerivedBatch) {
        let Some(last) = self.0.back_mut() else { return self.0.push_back(batch) };
        assert!(batch.covered.log_end >= last.covered.log_end, "batches come in log order");
        if last.keys_done > 0 || !batch.deleted.is_empty() {
            return self.0.push_back(batch);
        }
        last.new_queues.append(&mut batch.new_queues);
        last.entries.append(&mut batch.entries);
        last.starts.append(&mut batch.starts);
        last.keys.append(&mut batch.keys);
        last.covered = batch.covered;
    }

    pub(crate) fn pop(&mut self) -> Option<DerivedBatch> {
        self.0.pop_front()
    }

    /// Puts back what [`Self::pop`] gave.
    pub(crate) fn put_back(&mut self, batch: DerivedBatch) {
        self.0.push_front(batch);
    }
}

/// The files of one shard.
pub(crate) struct DerivedFiles<D: Disk> {
    disk: D,
    dir: PathBuf,
    segment_bytes: u64,
    queues: QueueFiles<D>,
    index: IndexFiles<D>,
    covered: Covered,
    /// Queues whose files are being filled anew, in the order of their handles. Their ends are known, and grow.
    rebuilding: Vec<QueueHandle>,
    /// The index has only the keys of the records before this; `None` when it has those of all that is covered.
    index_end: Option<PhysicalOffset>,
    /// The log before this was synced for a snapshot.
    log_synced: PhysicalOffset,
    is_changed: bool,
    sync_failure: Option<String>,
}

impl<D: Disk> DerivedFiles<D> {
    /// Opens the files where `positions` says they are.
    ///
    /// # Errors
    /// An index file cannot be read.
    pub(crate) fn open(
        disk: D,
        dir: &Path,
        segment_bytes: u64,
        layout: IndexLayout,
        positions: Positions,
        slots: Slots,
    ) -> io::Result<Self> {
        let queues = positions.queues.into_iter().map(queue_state).collect();
        let index = IndexFiles::open(&disk, dir, layout, positions.index, slots)?;
        let covered = Covered {
            log_end: PhysicalOffset::new(positions.log_end),
            last_record: PhysicalOffset::new(positions.last_record),
            last_store_timestamp_ms: positions.last_store_timestamp_ms,
        };
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            queues: QueueFiles::new(dir, queues),
            index,
            covered,
            rebuilding: positions.rebuild.queues.into_iter().map(QueueHandle).collect(),
            index_end: positions.rebuild.index_end.map(PhysicalOffset::new),
            log_synced: covered.log_end,
            is_changed: false,
            sync_failure: None,
        })
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    pub(crate) fn covered(&self) -> Covered {
        self.covered
    }

    pub(crate) fn queues(&self) -> &[QueueState] {
        self.queues.queues()
    }

    /// Writes a batch. Not durable yet.
    ///
    /// # Errors
    /// A file cannot be written; the call is to be repeated with the same batch.
    pub(crate) fn write(&mut self, batch: &mut DerivedBatch) -> io::Result<()> {
        if batch.is_nothing(self.covered) {
            return Ok(());
        }
        self.is_changed = true;
        while let Some(handle) = batch.deleted.last() {
            self.queues.delete(&self.disk, *handle)?;
            self.rebuilding.retain(|queue| queue != handle);
            batch.deleted.pop();
        }
        for (handle, name) in batch.new_queues.drain(..) {
            self.queues.add(handle, name);
        }
        self.queues.write(&self.disk, &batch.entries)?;
        for (queue, min) in batch.starts.drain(..) {
            self.queues.start_at(queue, min);
        }
        if self.index_end.is_none() {
            self.write_keys(batch)?;
        }
        self.covered = batch.covered;
        Ok(())
    }

    fn write_keys(&mut self, batch: &mut DerivedBatch) -> io::Result<()> {
        while let Some(key) = batch.keys.get(batch.keys_done) {
            self.index.add(&self.disk, key)?;
            batch.keys_done += 1;
        }
        self.index.write_items()
    }

    /// Whether files are being built anew.
    pub(crate) fn is_rebuilding(&self) -> bool {
        !self.rebuilding.is_empty() || self.index_end.is_some()
    }

    /// The queues whose files are being filled anew.
    pub(crate) fn rebuilding(&self) -> &[QueueHandle] {
        &self.rebuilding
    }

    /// Up to where the index has the keys, while it is being built anew.
    pub(crate) fn index_end(&self) -> Option<PhysicalOffset> {
        self.index_end
    }

    /// Writes entries of queues that are being filled anew and keys that the index lacks, from a stretch of the log that was covered long
    /// ago and ends at `batch.covered.log_end`. Not durable yet.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn write_again(&mut self, batch: &mut DerivedBatch) -> io::Result<()> {
        self.is_changed = true;
        self.queues.write_again(&self.disk, &batch.entries)?;
        let end = batch.covered.log_end;
        if self.index_end.is_some_and(|index_end| index_end <= end) {
            self.write_keys(batch)?;
            self.index_end = (end < self.covered.log_end).then_some(end);
        }
        Ok(())
    }

    /// Writes placeholders into queues that are being filled anew. Not durable yet.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn write_placeholders(&mut self, placeholders: &Placeholders) -> io::Result<()> {
        self.is_changed = true;
        let mut entries = placeholders.entries().peekable();
        while entries.peek().is_some() {
            let some: Vec<_> = entries.by_ref().take(PLACEHOLDERS_AT_ONCE).collect();
            self.queues.write_again(&self.disk, &some)?;
        }
        Ok(())
    }

    /// The files of the queues are whole again. `starts` are those whose first messages were gone from the log before they were written;
    /// adds those whose first messages have gone since.
    ///
    /// # Errors
    /// A ConsumeQueue file cannot be read. The call is to be repeated.
    pub(crate) fn queues_are_whole(
        &mut self,
        log_start: PhysicalOffset,
        starts: &mut Vec<QueueStart>,
    ) -> io::Result<()> {
        self.is_changed = true;
        for start in &*starts {
            self.queues.move_start(start);
        }
        for queue in self.rebuilding.iter().copied() {
            let log_end = self.covered.log_end;
            starts.extend(self.queues.advance_start(&self.disk, queue, log_start, log_end)?);
            self.queues.keep_place(&self.disk, queue)?;
        }
        self.rebuilding.clear();
        Ok(())
    }

    /// Writes also what is otherwise rebuilt, then takes a snapshot: a start need not repair anything.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.is_changed |= self.index.write_all()?;
        self.snapshot()
    }

    /// Makes everything durable that was written, then the snapshot that says so.
    ///
    /// # Errors
    /// Something cannot be written or synced; the snapshot before stays. The call may be repeated, but after a failed sync it fails
    /// for good: what the kernel then still holds of the files cannot be known. The next start writes it again from the log.
    pub(crate) fn snapshot(&mut self) -> io::Result<()> {
        if !self.is_changed {
            return Ok(());
        }
        self.check_synced()?;
        self.index.write_items()?;
        let mut files = self.queues.unsynced();
        files.extend_from_slice(self.index.unsynced());
        files.extend(self.unsynced_segments());
        if makes(Mistake::SnapshotAheadOfTheQueues) {
            files.clear();
        }
        self.sync(&files)?;
        self.positions().write(&self.disk, &self.dir)?;
        self.queues.synced();
        self.index.synced();
        self.log_synced = self.covered.log_end;
        self.queues.remove_expired(&self.disk)?;
        self.index.remove_expired(&self.disk)?;
        self.is_changed = false;
        let timestamp_ms = self.covered.last_store_timestamp_ms;
        Checkpoint {
            log_timestamp_ms: timestamp_ms,
            queues_timestamp_ms: timestamp_ms,
            index_timestamp_ms: timestamp_ms,
            confirm_offset: self.covered.log_end.to_i64(),
        }
        .write(&self.disk, &self.dir)
    }

    /// Lets a queue without entries go on at `offset`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn start_empty_at(&mut self, queue: QueueHandle, offset: QueueOffset) -> io::Result<()> {
        self.is_changed = true;
        self.queues.start_empty_at(&self.disk, queue, offset)
    }

    /// Up to where the snapshot on the disk covers the log: what is before need not be there for a start.
    pub(crate) fn log_synced(&self) -> PhysicalOffset {
        self.log_synced
    }

    /// Moves the starts of queues and index behind what is removed of the log, for at most `queues_max` queues from number `from` on.
    /// Adds the starts that moved to `moved`; returns where to go on, if not all queues were looked at.
    ///
    /// # Errors
    /// A ConsumeQueue file cannot be read. The call can be repeated.
    pub(crate) fn advance_starts(
        &mut self,
        log_start: PhysicalOffset,
        from: usize,
        queues_max: usize,
        moved: &mut Vec<QueueStart>,
    ) -> io::Result<Option<usize>> {
        self.is_changed |= self.index.forget_before(log_start);
        let all = self.queues.queues().len();
        let end = all.min(from.saturating_add(queues_max));
        for index in from..end {
            let queue = QueueHandle::at(index);
            // Its entries are not all there. Where it starts is known when they are.
            if self.rebuilding.binary_search(&queue).is_ok() {
                continue;
            }
            if let Some(start) =
                self.queues.advance_start(&self.disk, queue, log_start, self.covered.log_end)?
            {
                self.is_changed = true;
                moved.push(start);
            }
        }
        Ok((end < all).then_some(end))
    }

    /// Makes durable what the log holds so far. With lazy flushing it may not be, and a file that speaks of positions in the log must not
    /// be ahead of it.
    ///
    /// # Errors
    /// A file cannot be synced: from then on as after a failed [`Self::snapshot`].
    pub(crate) fn sync_log(&mut self) -> io::Result<()> {
        self.check_synced()?;
        let dir = self.dir.join("commitlog");
        let mut start = segment_start(self.log_synced, self.segment_bytes);
        let mut files = Vec::new();
        while self.disk.exists(&segment_path(&dir, start))? {
            files.push(segment_path(&dir, start));
            start = start.plus(self.segment_bytes);
        }
        self.sync(&files)
    }

    fn check_synced(&self) -> io::Result<()> {
        match &self.sync_failure {
            Some(reason) => Err(io::Error::other(format!(
                "an earlier sync failed, no more snapshots are taken: {reason}"
            ))),
            None => Ok(()),
        }
    }

    fn sync(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let synced = self.disk.sync_files(files);
        if let Err(error) = &synced {
            self.sync_failure = Some(error.to_string());
        }
        synced
    }

    /// The files of the log whose records the snapshot will cover for the first time. With lazy flushing they may not be
    /// durable yet, and a snapshot must not be ahead of the log.
    fn unsynced_segments(&self) -> Vec<PathBuf> {
        if makes(Mistake::SnapshotAheadOfTheLog) {
            return Vec::new();
        }
        let dir = self.dir.join("commitlog");
        let mut start = segment_start(self.log_synced, self.segment_bytes);
        let mut files = Vec::new();
        while start < self.covered.log_end {
            files.push(segment_path(&dir, start));
            start = start.plus(self.segment_bytes);
        }
        files
    }

    /// What a snapshot says.
    pub(crate) fn positions(&self) -> Positions {
        Positions {
            log_end: self.covered.log_end.get(),
            last_record: self.covered.last_record.get(),
            last_store_timestamp_ms: self.covered.last_store_timestamp_ms,
            queues: self.queues.queues().iter().map(queue_position).collect(),
            index: self.index.positions(),
            rebuild: RebuildPosition {
                queues: self.rebuilding.iter().map(|queue| queue.0).collect(),
                index_end: self.index_end.map(PhysicalOffset::get),
            },
        }
    }

    /// Cuts all files behind what is known of them.
    ///
    /// # Errors
    /// A file cannot be cut.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.is_changed = true;
        self.queues.cut(&self.disk)?;
        self.index.cut()
    }

    /// Where records with a key are, newest first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn find(&mut self, lookup: &KeyLookup) -> io::Result<Vec<PhysicalOffset>> {
        self.index.find(&self.disk, lookup)
    }
}

fn queue_state(position: QueuePosition) -> QueueState {
    QueueState {
        name: QueueName { topic: position.topic.into(), queue_id: position.queue_id },
        min: QueueOffset::new(position.min),
        max: QueueOffset::new(position.max),
        first_physical: PhysicalOffset::new(position.first_physical),
        is_deleted: position.is_deleted,
    }
}

fn queue_position(state: &QueueState) -> QueuePosition {
    QueuePosition {
        topic: state.name.topic.to_string(),
        queue_id: state.name.queue_id,
        min: state.min.get(),
        max: state.max.get(),
        first_physical: state.first_physical.get(),
        is_deleted: state.is_deleted,
    }
}
