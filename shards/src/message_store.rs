//! The serve half of a shard: what was committed becomes readable here.
//!
//! Lives on the shard's serve core. [`MessageStore::dispatch`] walks the committed records in the tail blocks, adds their
//! ConsumeQueue entries and hands those and the index keys to the side thread. Reads are answered from memory where possible;
//! otherwise they become a plan that owns what it needs, which the caller awaits without holding the store.
//!
//! ```text
//!            log start        side thread has written        hot tail starts              confirmed
//!  log       ├────────────────────────┼───────────────────────────┼────────────────────────┤
//!  records    from the disk, through the cold reader               from memory, no copy
//!  entries    from the ConsumeQueue files, before the lower of the two middle marks; from memory after it
//! ```
//!
//! Invariants: nothing beyond the confirm offset is read; the entries of a queue are dense; an entry leaves memory only when it is
//! in the files.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::append::Committed;
use crate::cold_read::ColdReader;
use crate::consume_queue::files::{QueueStart, QueueState, QueuedEntry};
use crate::consume_queue::selection::{self, Judgement, Selected, select};
use crate::consume_queue::table::{ConsumeQueue, QueueTable};
use crate::consume_queue::{Entry, QueueHandle, QueueName};
use crate::damage::{self, KnownDamage};
use crate::derived_files::{Covered, DerivedBacklog, DerivedBatch};
use crate::dispatch::{derive, key_hash};
use crate::index_file::KeyLookup;
use crate::io::block::TailBlock;
use crate::io::disk::Disk;
use crate::limits::{COLD_CACHE_BYTES, HOT_TAIL_BYTES, KEY_ANSWER_BYTES_MAX};
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::{RecordError, RecordView};
use crate::retention::DiskSurvey;
use crate::side_writer::SideWriter;

mod cold;
mod get;
mod heal;
mod hot_tail;
mod log_reader;
mod met_damage;
pub mod scrub;

pub use crate::cold_read::{ColdLoad, ReadError};
pub use crate::consume_queue::selection::{FilterSteps, GetStatus, PropertyFilter, PropertyTest, TagFilter};
pub use cold::{ColdGet, ColdRecord};
pub use get::{GetRequest, GetResult, QueueBounds, TimeBoundary};

use cold::{GetPlan, OldMessages, REMOVED_MS, ReadFrom, TimeMark};
use hot_tail::HotTail;
use log_reader::LogReader;
use met_damage::MetDamage;
use scrub::{Scrub, ScrubLoad, ScrubMeter};

/// Most records that a lookup by key gives (RocketMQ's `maxMsgsNumBatch`).
const KEY_RECORDS_MAX: usize = 64;
/// How far behind the end of the log a message counts as recent, bytes, unless configured. RocketMQ takes 40 % of the memory.
const RECENT_BYTES: u64 = 4 << 30;

/// How much a [`MessageStore`] keeps in memory.
#[derive(Clone, Debug)]
pub struct MessageStoreConfig {
    /// Hot tail kept for readers, bytes.
    pub hot_tail_bytes: usize,
    /// Read-ahead cache for old data, bytes.
    pub cold_cache_bytes: usize,
    /// How far behind the end of the log a message counts as recent, bytes: it decides the limits of one pull answer and
    /// where a new group starts.
    pub recent_bytes: u64,
}

impl Default for MessageStoreConfig {
    fn default() -> Self {
        Self {
            hot_tail_bytes: HOT_TAIL_BYTES,
            cold_cache_bytes: COLD_CACHE_BYTES,
            recent_bytes: RECENT_BYTES,
        }
    }
}

/// What the serve core goes on from.
#[derive(Debug)]
pub struct RecoveredServe {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) log_min: PhysicalOffset,
    pub(crate) confirm_offset: PhysicalOffset,
    pub(crate) covered: Covered,
    pub(crate) queues: Vec<QueueState>,
    /// Queues whose entries are not in the files yet.
    pub(crate) rebuilding: Vec<QueueHandle>,
    pub(crate) damage: KnownDamage,
}

/// A message that has become readable.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub topic: &'a str,
    pub queue_id: u32,
    pub queue_offset: QueueOffset,
    pub tags_code: i64,
    pub store_timestamp_ms: i64,
    /// The encoded property string.
    pub properties: &'a [u8],
}

/// How a store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreExit {
    /// The log was flushed to its end and everything of it was dispatched: the next start has nothing to repair.
    Clean,
    /// The log failed: the next start scans.
    Abnormal,
}

/// How much a store holds and how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreLoad {
    /// End of what is durable and readable, a physical offset.
    pub confirm_offset: u64,
    /// Start of the log, a physical offset.
    pub log_min: u64,
    /// Confirmed bytes whose ConsumeQueue entries are not in the files yet.
    pub dispatch_behind_bytes: u64,
    /// Dispatched entries that wait for the side thread.
    pub derived_backlog_entries: u64,
    /// Messages dispatched since the start.
    pub dispatched_entries: u64,
    /// Memory of the hot tail, bytes.
    pub hot_tail_bytes: u64,
    /// Damaged stretches of the log that are known.
    pub damaged_ranges: u64,
    /// Messages that readers went past since the start because they are damaged.
    pub skipped_messages: u64,
    /// Wrong ConsumeQueue entries since the start whose messages were found in the log.
    pub healed_entries: u64,
    /// Index items since the start that led to no record with their key, once for each lookup.
    pub wrong_index_items: u64,
    /// Bytes of log that are still to be read for ConsumeQueue and index files that are being built anew; 0 when all can be read.
    pub rebuild_left_bytes: u64,
    pub scrub: ScrubLoad,
    pub cold: ColdLoad,
}

/// Where queues start after a part of the log was removed.
#[derive(Debug)]
pub struct QueueStarts(Vec<QueueStart>);

/// A read's answer, or the plan that gets it from the disk.
#[derive(Debug)]
pub enum Get {
    Ready(GetResult),
    Cold(ColdGet),
}

/// One record's bytes, or the plan that gets them from the disk.
#[derive(Debug)]
pub enum RecordLookup {
    Ready(Bytes),
    Cold(ColdRecord),
    /// There is no record at this place, or it may not be read yet.
    None,
}

/// The serve half of a shard. `!Send`: it lives on its serve core.
#[derive(Debug)]
pub struct MessageStore {
    reader: Rc<LogReader>,
    queues: QueueTable,
    writer: SideWriter,
    recent_bytes: u64,
    /// Everything before this is dispatched. At the end of a file it may be beyond the last record.
    dispatched_end: PhysicalOffset,
    /// The last record that was dispatched.
    covered: Covered,
    /// What was dispatched and could not be handed to the side thread yet.
    unsent: DerivedBacklog,
    dispatched_entries: u64,
    /// Queues cannot be read as their entries are being built anew.
    is_rebuilding: bool,
}

impl MessageStore {
    /// Opens the store that was recovered; `writer` is the side thread that was started for it.
    pub fn open(recovered: RecoveredServe, config: MessageStoreConfig, writer: SideWriter) -> Self {
        let cold = ColdReader::new(recovered.dir.clone(), config.cold_cache_bytes);
        Self::with_cold_reader(recovered, config, writer, cold)
    }

    /// The same without a runtime: reads that need the disk block, and are ready when they are asked for the first time.
    pub fn open_blocking<D: Disk + 'static>(
        recovered: RecoveredServe,
        config: MessageStoreConfig,
        writer: SideWriter,
        disk: D,
    ) -> Self {
        let cold = ColdReader::blocking(recovered.dir.clone(), disk);
        Self::with_cold_reader(recovered, config, writer, cold)
    }

    fn with_cold_reader(
        recovered: RecoveredServe,
        config: MessageStoreConfig,
        writer: SideWriter,
        cold: ColdReader,
    ) -> Self {
        let RecoveredServe {
            dir,
            segment_bytes,
            log_min,
            confirm_offset,
            covered,
            queues: known,
            rebuilding,
            damage,
        } = recovered;
        let mut queues = QueueTable::default();
        for state in known {
            let mut queue = ConsumeQueue::new(state.name, state.min, state.max, state.first_physical);
            queue.is_deleted = state.is_deleted;
            queues.add(queue);
        }
        queues.miss(&rebuilding);
        let reader = LogReader {
            cold,
            dir,
            segment_bytes,
            tail: RefCell::new(HotTail::new(config.hot_tail_bytes)),
            confirm_offset: Cell::new(confirm_offset),
            log_min: Cell::new(log_min),
            is_being_removed: Cell::new(false),
            damage: MetDamage::new(damage),
            scrub: ScrubMeter::default(),
        };
        Self {
            reader: Rc::new(reader),
            queues,
            writer,
            recent_bytes: config.recent_bytes,
            dispatched_end: confirm_offset,
            covered,
            unsent: DerivedBacklog::default(),
            dispatched_entries: 0,
            is_rebuilding: !rebuilding.is_empty(),
        }
    }

    /// Makes committed records readable; `arrived` hears of each, in log order.
    ///
    /// # Panics
    /// If the tail blocks do not hold whole records up to the confirm offset, or queue offsets are not dense: the log core
    /// places them so.
    pub fn dispatch(&mut self, committed: &Committed, arrived: &mut dyn FnMut(Arrival<'_>)) {
        assert!(
            committed.confirm_offset >= self.reader.confirm_offset.get(),
            "the confirm offset never goes back"
        );
        for block in &committed.new_blocks {
            self.reader.tail.borrow_mut().push(block.clone());
        }
        self.reader.confirm_offset.set(committed.confirm_offset);
        self.reader.cold.log_committed(Instant::now());
        let mut batch = DerivedBatch::default();
        while self.dispatched_end < committed.confirm_offset {
            let at = self.dispatched_end;
            let block = self.reader.tail.borrow().block_at(at).cloned();
            self.dispatched_end = match block {
                Some(block) => self.dispatch_block(&block, at, &mut batch, arrived),
                // The end of a file, which no record took: the log goes on in the next file, with the next block.
                None => {
                    let next = self.reader.tail.borrow().next_start(at);
                    let file_end = self.file_end(at);
                    assert_eq!(next, Some(file_end), "no block holds the record at {at}");
                    file_end
                }
            };
        }
        self.hand_over(batch);
        self.trim();
    }

    /// Dispatches the records of one block from `at` on; returns where to go on.
    fn dispatch_block(
        &mut self,
        block: &TailBlock,
        mut at: PhysicalOffset,
        batch: &mut DerivedBatch,
        arrived: &mut dyn FnMut(Arrival<'_>),
    ) -> PhysicalOffset {
        let end = block.end().min(self.reader.confirm_offset.get());
        let len = usize::try_from(end.since(at)).expect("a block fits in memory");
        let mut bytes = block.bytes(at, len);
        while !bytes.is_empty() {
            let record = match RecordView::parse(bytes) {
                Ok(record) => record,
                Err(RecordError::Blank { .. }) => {
                    return self.file_end(at).min(self.reader.confirm_offset.get());
                }
                Err(error) => panic!("the log core places whole records, but at {at}: {error}"),
            };
            assert_eq!(record.physical_offset(), at, "a record knows its place");
            self.dispatch_record(&record, batch, arrived);
            at = at.plus(record.total_size() as u64);
            bytes = &bytes[record.total_size()..];
        }
        at
    }

    fn dispatch_record(
        &mut self,
        record: &RecordView<'_>,
        batch: &mut DerivedBatch,
        arrived: &mut dyn FnMut(Arrival<'_>),
    ) {
        let store_timestamp_ms = record.store_timestamp_ms();
        self.covered = Covered {
            log_end: record.physical_offset().plus(record.total_size() as u64),
            last_record: record.physical_offset(),
            last_store_timestamp_ms: store_timestamp_ms,
        };
        let Some(entry) = derive(record, &mut batch.keys) else { return };
        let (topic, queue_id, queue_offset) = (record.topic(), record.queue_id(), record.queue_offset());
        let queue = match self.queues.handle(topic, queue_id) {
            Some(queue) => queue,
            None => self.add_queue(topic, queue_id, batch),
        };
        self.queues.push(queue, queue_offset, entry);
        batch.entries.push(QueuedEntry { queue, offset: queue_offset, entry });
        arrived(Arrival {
            topic,
            queue_id,
            queue_offset,
            tags_code: entry.tags_code,
            store_timestamp_ms,
            properties: record.properties(),
        });
    }

    fn add_queue(&mut self, topic: &str, queue_id: u32, batch: &mut DerivedBatch) -> QueueHandle {
        let name = QueueName { topic: self.queues.topic_name(topic), queue_id };
        let queue =
            ConsumeQueue::new(name.clone(), QueueOffset::ZERO, QueueOffset::ZERO, PhysicalOffset::ZERO);
        let handle = self.queues.add(queue);
        batch.new_queues.push((handle, name));
        handle
    }

    fn file_end(&self, at: PhysicalOffset) -> PhysicalOffset {
        let segment_bytes = self.reader.segment_bytes;
        PhysicalOffset::new((at.get() / segment_bytes + 1) * segment_bytes)
    }

    /// Hands a batch to the side thread, or keeps it while too many wait there.
    fn hand_over(&mut self, mut batch: DerivedBatch) {
        batch.covered = self.covered;
        self.dispatched_entries += batch.entries.len() as u64;
        self.unsent.push(batch);
        self.hand_over_unsent();
    }

    /// Hands to the side thread what it had no room for. Each commit does it too; but where so much waits that sends are refused, no
    /// commit comes any more: call it by the clock as well.
    pub fn hand_over_unsent(&mut self) {
        while let Some(batch) = self.unsent.pop() {
            if let Some(batch) = self.writer.try_write(batch) {
                self.unsent.put_back(batch);
                return;
            }
        }
    }

    /// Lets queues be read again whose entries were built anew. Call it by the clock.
    pub fn take_rebuilt(&mut self) {
        if let Some(starts) = self.writer.take_whole_queues() {
            self.queues.miss_none();
            self.is_rebuilding = false;
            self.move_starts(starts);
        }
    }

    fn move_starts(&mut self, starts: Vec<QueueStart>) {
        for QueueStart { queue, min, first_physical } in starts {
            self.queues.start_at(queue, min, Some(first_physical));
        }
    }

    /// A way through all of the log that checks every record.
    pub fn scrub(&self) -> Scrub {
        Scrub::new(Rc::clone(&self.reader))
    }

    /// Writes down what readers have found damaged since the last call. Call it by the clock.
    pub fn remember_damage(&self) {
        if let Some(contents) = self.reader.damage.take_unsaved() {
            // Nobody waits for it: what is lost with a crash is met again.
            drop(self.writer.write_config(self.reader.dir.join(damage::FILE_NAME), contents));
        }
        if self.reader.damage.take_index_unsaved() {
            drop(self.writer.write_config(self.reader.dir.join(damage::INDEX_MARKER), Vec::new()));
        }
    }

    /// The folder of the shard.
    pub fn dir(&self) -> PathBuf {
        self.reader.dir.clone()
    }

    /// Size of one CommitLog file, bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.reader.segment_bytes
    }

    /// Where the first message of a topic is that is still there, or a position before it.
    pub fn first_physical(&self, topic: &str) -> Option<PhysicalOffset> {
        self.queues
            .of_topic(topic)
            .filter(|queue| queue.min < queue.max)
            .map(|queue| queue.first_physical)
            .min()
    }

    /// Lets a queue begin at `min` from now on, unless it begins later anyway: what is before is no longer given to anybody.
    pub fn start_queue_at(&mut self, topic: &str, queue_id: u32, min: QueueOffset) {
        let Some(handle) = self.queues.handle(topic, queue_id) else { return };
        let is_later =
            self.queues.queue(topic, queue_id).is_some_and(|queue| (queue.min..=queue.max).contains(&min));
        if is_later && self.queues.start_at(handle, min, None) {
            self.hand_over(DerivedBatch { starts: vec![(handle, min)], ..DerivedBatch::default() });
        }
    }

    /// What of the log is before this is in the ConsumeQueues and index on the disk.
    pub fn written_end(&self) -> PhysicalOffset {
        self.writer.written()
    }

    /// What the files of the log and the disk are like.
    ///
    /// # Errors
    /// The disk refuses to say.
    pub fn survey(&self) -> impl Future<Output = io::Result<DiskSurvey>> + 'static + use<> {
        self.writer.survey()
    }

    /// Lets the log begin at `log_start`, the start of a file: from now on nothing before is read. What the future returns is for
    /// [`Self::removed`]; one at a time. The files go in small steps, which are larger while the disk is fuller than
    /// `brisk_above_percent`; a survey tells what is left of them.
    ///
    /// # Panics
    /// When [`Self::written_end`] is not there yet.
    pub fn remove_before(
        &mut self,
        log_start: PhysicalOffset,
        brisk_above_percent: f64,
    ) -> impl Future<Output = io::Result<QueueStarts>> + 'static + use<> {
        let reader = &self.reader;
        assert!(log_start.get().is_multiple_of(reader.segment_bytes), "whole files are removed");
        assert!(log_start <= self.written_end(), "what is not covered on the disk stays");
        reader.log_min.set(reader.log_min.get().max(log_start));
        reader.is_being_removed.set(true);
        reader.cold.forget_log_before(log_start);
        reader.damage.forget_before(log_start);
        let removal = self.writer.remove_before(log_start, brisk_above_percent);
        async move { removal.await.map(QueueStarts) }
    }

    /// The queues start where the log does.
    pub fn removed(&mut self, starts: QueueStarts) {
        self.move_starts(starts.0);
        self.reader.is_being_removed.set(false);
    }

    fn trim(&mut self) {
        let mut tail = self.reader.tail.borrow_mut();
        tail.trim(self.dispatched_end);
        let tail_start = tail.start().unwrap_or(self.dispatched_end);
        self.queues.trim(tail_start.min(self.writer.written()));
    }

    /// Everything before this is dispatched and may be read.
    pub fn confirm_offset(&self) -> PhysicalOffset {
        self.reader.confirm_offset.get()
    }

    /// Dispatched entries that wait for the side writer. At [`crate::limits::DERIVED_BACKLOG_ENTRIES_MAX`] sends are refused.
    pub fn derived_backlog_entries(&self) -> usize {
        let waiting = self.dispatched_entries - self.writer.written_entries();
        usize::try_from(waiting).expect("they are in memory")
    }

    /// How much is held and how far everything has come.
    pub fn load(&self) -> StoreLoad {
        let confirm_offset = self.reader.confirm_offset.get();
        StoreLoad {
            confirm_offset: confirm_offset.get(),
            log_min: self.reader.log_min.get().get(),
            dispatch_behind_bytes: confirm_offset.get().saturating_sub(self.writer.written().get()),
            derived_backlog_entries: self.derived_backlog_entries() as u64,
            dispatched_entries: self.dispatched_entries,
            hot_tail_bytes: self.reader.tail.borrow().memory_bytes() as u64,
            damaged_ranges: self.reader.damage.ranges(),
            skipped_messages: self.reader.damage.skipped_messages(),
            healed_entries: self.reader.damage.healed_entries(),
            wrong_index_items: self.reader.damage.wrong_index_items(),
            rebuild_left_bytes: self.writer.rebuild_left_bytes().max(u64::from(self.is_rebuilding)),
            scrub: self.reader.scrub.load(),
            cold: self.reader.cold.load(),
        }
    }

    /// First and next offset of a queue; `None` while it never had a message.
    pub fn bounds(&self, topic: &str, queue_id: u32) -> Option<QueueBounds> {
        self.queues.queue(topic, queue_id).map(|queue| QueueBounds { min: queue.min, max: queue.max })
    }

    /// Every queue that has had messages, by topic and id, in no order.
    pub fn queues(&self) -> Vec<(String, u32)> {
        self.queues.names().map(|name| (name.topic.to_string(), name.queue_id)).collect()
    }

    /// Reads messages of a queue, as RocketMQ's `getMessage`.
    pub fn get(&self, request: &GetRequest<'_>) -> Get {
        let Some(queue) = self.queues.queue(request.topic, request.queue_id) else {
            let bounds = QueueBounds::default();
            return Get::Ready(GetResult::empty(GetStatus::NoMatchedLogicQueue, QueueOffset::ZERO, bounds));
        };
        let bounds = QueueBounds { min: queue.min, max: queue.max };
        let offset = request.offset;
        let nothing = if queue.max == QueueOffset::ZERO {
            Some((GetStatus::NoMessageInQueue, QueueOffset::ZERO))
        } else if offset < queue.min {
            Some((GetStatus::OffsetTooSmall, queue.min))
        } else if offset == queue.max {
            Some((GetStatus::OffsetOverflowOne, offset))
        } else if offset > queue.max {
            Some((GetStatus::OffsetOverflowBadly, queue.max))
        } else {
            None
        };
        if let Some((status, next_begin_offset)) = nothing {
            return Get::Ready(GetResult::empty(status, next_begin_offset, bounds));
        }
        let limits = selection::Bounds {
            messages_max: request.messages_max,
            bytes_max: request.bytes_max,
            recent_from: self.recent_from(),
            log_min: self.reader.passed_before(),
        };
        let cold = |plan| {
            let reader = Rc::clone(&self.reader);
            let planned_min = reader.log_min.get();
            let from = ReadFrom { reader, queue: queue.name.clone(), bounds, offset, planned_min };
            Get::Cold(ColdGet { from, plan })
        };
        let written = queue.memory_start();
        if let Some(rebuilding) = rebuilding(queue, offset) {
            return cold(GetPlan::Refused(rebuilding));
        }
        if offset < written {
            let wanted = match request.filter {
                TagFilter::All => u64::from(request.messages_max.clamp(1, crate::limits::PULL_MESSAGES_MAX)),
                TagFilter::Codes(_) | TagFilter::Properties(_) => {
                    selection::scan_entries_max(request.messages_max)
                }
            };
            let count = wanted.min(written.since(offset));
            let filter = request.filter.clone();
            return cold(GetPlan::Entries { count, written, filter, limits });
        }
        let judge = self.judge(request.filter);
        let selection = select(queue.entries_from(offset), offset, request.filter, &limits, judge);
        if let TagFilter::Properties(filter) = request.filter
            && selection.next_begin_offset == offset
        {
            let scan_max = selection::scan_entries_max(request.messages_max);
            let scan_max = usize::try_from(scan_max).expect("a count in memory");
            let entries = queue.entries_from(offset).take(scan_max).collect();
            return cold(GetPlan::Judged { entries, filter: filter.clone(), limits });
        }
        match self.hot_records(&selection.messages) {
            Some(records) => Get::Ready(cold::result(selection, bounds, records)),
            None => cold(GetPlan::Messages(selection)),
        }
    }

    /// Judges messages where they lie in the hot tail, as long as the steps of one pull last, if their entries do not tell.
    fn judge(&self, filter: &TagFilter) -> impl FnMut(&Entry) -> Judgement {
        let mut steps = FilterSteps::default();
        move |entry| {
            let TagFilter::Properties(filter) = filter else { return Judgement::Wanted };
            if steps.are_spent() {
                return Judgement::Unknown;
            }
            let tail = self.reader.tail.borrow();
            let record = tail.bytes_in_place(entry.physical_offset, entry.size_bytes as usize);
            match record.map(RecordView::parse) {
                Some(Ok(view)) if filter.matches(view.properties(), &mut steps) => Judgement::Wanted,
                Some(Ok(_)) => Judgement::Unwanted,
                // Not in memory, or not where its entry says: the disk is asked.
                Some(Err(_)) | None => Judgement::Unknown,
            }
        }
    }

    /// The records of messages, if all are in the hot tail. Those that are neighbours in a block come as one piece.
    fn hot_records(&self, messages: &[Selected]) -> Option<Vec<Bytes>> {
        let tail = self.reader.tail.borrow();
        let mut pieces = Vec::with_capacity(messages.len());
        // The block of the last piece: it is looked up and counted once.
        let mut block: Option<(PhysicalOffset, Bytes)> = None;
        let mut wanted = messages.iter().map(|message| message.entry).peekable();
        while let Some(first) = wanted.next() {
            let at = first.physical_offset;
            let holds_it = |(start, bytes): &&(PhysicalOffset, Bytes)| {
                *start <= at && at.since(*start) < bytes.len() as u64
            };
            if block.as_ref().filter(holds_it).is_none() {
                let found = tail.block_at(at)?;
                let len = usize::try_from(found.end().since(found.start())).expect("a block fits in memory");
                block = Some((found.start(), found.shared_bytes(found.start(), len)));
            }
            let (start, bytes) = block.as_ref()?;
            let from = usize::try_from(at.since(*start)).expect("a block fits in memory");
            let mut to = from + first.size_bytes as usize;
            while let Some(next) = wanted.next_if(|next| {
                next.physical_offset == start.plus(to as u64) && to + next.size_bytes as usize <= bytes.len()
            }) {
                to += next.size_bytes as usize;
            }
            if to > bytes.len() {
                return None;
            }
            pieces.push(bytes.slice(from..to));
        }
        Some(pieces)
    }

    /// The record that starts at `at`.
    pub fn record(&self, at: PhysicalOffset) -> RecordLookup {
        if self.reader.readable_bytes(at) == 0 {
            return RecordLookup::None;
        }
        match self.reader.hot_record(at) {
            Some(Ok(Some(record))) => RecordLookup::Ready(record),
            Some(Ok(None)) => RecordLookup::None,
            // A damaged block in memory: what the disk has is judged anew.
            Some(Err(_)) | None => RecordLookup::Cold(ColdRecord { reader: Rc::clone(&self.reader), at }),
        }
    }

    /// The message of a queue that a time leads to: see [`TimeBoundary`].
    ///
    /// # Errors
    /// The disk refuses, or what it holds is damaged.
    pub fn offset_by_time(
        &self,
        topic: &str,
        queue_id: u32,
        timestamp_ms: i64,
        boundary: TimeBoundary,
    ) -> impl Future<Output = Result<QueueOffset, ReadError>> + 'static + use<> {
        let mark = TimeMark { timestamp_ms, boundary };
        let queue = self.queues.queue(topic, queue_id).filter(|queue| queue.min < queue.max);
        let refused = queue.and_then(|queue| rebuilding(queue, queue.min));
        let plan = queue.map(|queue| {
            let (hot_start, split) = self.search_hot(queue, mark);
            let old = (split == hot_start && queue.min < hot_start)
                .then(|| self.old_messages(queue, queue.min, hot_start));
            (queue.min, split, old)
        });
        async move {
            if let Some(error) = refused {
                return Err(error);
            }
            let Some((min, split, old)) = plan else { return Ok(QueueOffset::ZERO) };
            let split = match old {
                Some(old) => old.search(mark).await?,
                None => split,
            };
            Ok(mark.offset(split, min))
        }
    }

    /// Where the messages of a queue that are in the hot tail start, and the first of them that is not before the mark.
    fn search_hot(&self, queue: &ConsumeQueue, mark: TimeMark) -> (QueueOffset, QueueOffset) {
        let partition = |from: QueueOffset, is_before: &dyn Fn(QueueOffset) -> bool| {
            let (mut low, mut high) = (from, queue.max);
            while low < high {
                let middle = low.plus(high.since(low) / 2);
                if is_before(middle) {
                    low = middle.plus(1);
                } else {
                    high = middle;
                }
            }
            low
        };
        let hot = |offset| {
            let entry = queue.entry(offset).expect("only entries in memory are looked at");
            self.reader.hot(entry.physical_offset, entry.size_bytes as usize)
        };
        let hot_start = partition(queue.memory_start().max(queue.min), &|offset| hot(offset).is_none());
        let split =
            partition(hot_start, &|offset| hot(offset).is_some_and(|record| mark.is_after_record(&record)));
        (hot_start, split)
    }

    fn old_messages(&self, queue: &ConsumeQueue, from: QueueOffset, to: QueueOffset) -> OldMessages {
        let written = queue.memory_start();
        let in_memory = usize::try_from(to.get().saturating_sub(written.get())).expect("they are in memory");
        OldMessages {
            reader: Rc::clone(&self.reader),
            queue: queue.name.clone(),
            from,
            to,
            entries: queue.entries_from(written).take(in_memory).collect(),
            written,
        }
    }

    /// When the message at `offset` was stored, milliseconds; `None` when there is none.
    ///
    /// # Errors
    /// The disk refuses, or what it holds is damaged.
    pub fn store_time(
        &self,
        topic: &str,
        queue_id: u32,
        offset: QueueOffset,
    ) -> impl Future<Output = Result<Option<i64>, ReadError>> + 'static + use<> {
        let queue = self.queues.queue(topic, queue_id);
        let queue = queue.filter(|queue| queue.min <= offset && offset < queue.max);
        let refused = queue.and_then(|queue| rebuilding(queue, offset));
        let old = queue.map(|queue| match queue.entry(offset) {
            // In memory: one entry is enough.
            Some(entry) => OldMessages {
                reader: Rc::clone(&self.reader),
                queue: queue.name.clone(),
                from: offset,
                to: offset.plus(1),
                written: offset,
                entries: vec![*entry],
            },
            None => self.old_messages(queue, offset, offset.plus(1)),
        });
        async move {
            if let Some(error) = refused {
                return Err(error);
            }
            match old {
                Some(old) => old.store_time(offset).await.map(|time| (time != REMOVED_MS).then_some(time)),
                None => Ok(None),
            }
        }
    }

    /// The records of a topic that were stored in a time window, ends included, under a key, newest first. Keys are found by their
    /// hash: who asks has to look whether a record really has the key.
    ///
    /// # Errors
    /// The disk refuses. A record that is damaged is left out.
    pub fn query_by_key(
        &self,
        topic: &str,
        key: &str,
        messages_max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> impl Future<Output = Result<Vec<Bytes>, ReadError>> + 'static + use<> {
        let lookup = KeyLookup {
            hash: key_hash(topic, key),
            records_max: messages_max.min(KEY_RECORDS_MAX),
            begin_ms,
            end_ms,
        };
        let (writer, reader, topic) = (self.writer.clone(), Rc::clone(&self.reader), topic.to_owned());
        async move {
            let found = writer.find(lookup).await.map_err(|error| ReadError::Io {
                path: reader.dir.join("index").display().to_string(),
                at: 0,
                reason: error.to_string(),
            })?;
            let (mut records, mut bytes) = (Vec::with_capacity(found.len()), 0);
            for at in found {
                let record = match reader.record(at).await {
                    // Told and remembered; the others are given.
                    Err(ReadError::Damaged { .. }) => continue,
                    read => read?,
                };
                let Some(record) = record else {
                    if reader.should_hold_a_record(at) {
                        reader.damage.wrong_index_item(&topic, at);
                    }
                    continue;
                };
                let view = RecordView::parse(&record).expect("the record was checked when it was read");
                let mut keys = Vec::new();
                derive(&view, &mut keys);
                if !keys.iter().any(|key| key.hash == lookup.hash) {
                    reader.damage.wrong_index_item(&topic, at);
                    continue;
                }
                // Keys of other topics may have the same hash.
                if view.topic() != topic {
                    continue;
                }
                bytes += record.len();
                if bytes > KEY_ANSWER_BYTES_MAX && !records.is_empty() {
                    break;
                }
                records.push(record);
            }
            Ok(records)
        }
    }

    /// Whether a message is so recent that a new group should not skip it: RocketMQ asks whether it is still in memory.
    pub fn is_recent(&self, topic: &str, queue_id: u32, offset: QueueOffset) -> bool {
        let Some(queue) = self.queues.queue(topic, queue_id) else { return false };
        if offset < queue.min || offset >= queue.max {
            return false;
        }
        // Of a message between the first and those in memory only that it is younger than the first is known.
        let physical_offset = queue.entry(offset).map_or(queue.first_physical, |entry| entry.physical_offset);
        physical_offset >= self.recent_from()
    }

    fn recent_from(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.reader.confirm_offset.get().get().saturating_sub(self.recent_bytes))
    }

    /// Forgets the queues of a topic and removes their files. A topic of this name that comes later goes on at their offsets.
    pub fn delete_topic(&mut self, topic: &str) {
        let name: Arc<str> = self.queues.topic_name(topic);
        let deleted = self.queues.delete_topic(topic);
        if !deleted.is_empty() {
            self.reader.cold.forget_topic(&name);
            self.hand_over(DerivedBatch { deleted, ..DerivedBatch::default() });
        }
    }

    /// Writes what is not on the disk yet, and ends the side thread. Call it when the last commit was dispatched; reads that are
    /// under way may still end, nothing else may follow.
    ///
    /// # Errors
    /// Something could not be written: the next start rebuilds it from the log.
    pub fn close(&mut self, exit: StoreExit) -> impl Future<Output = io::Result<()>> + 'static + use<> {
        self.writer.close(std::mem::take(&mut self.unsent), exit == StoreExit::Clean)
    }
}

/// Why the message at `offset` cannot be read yet, if so.
fn rebuilding(queue: &ConsumeQueue, offset: QueueOffset) -> Option<ReadError> {
    let QueueName { topic, queue_id } = &queue.name;
    queue.is_missing(offset).then(|| ReadError::Rebuilding {
        topic: topic.to_string(),
        queue_id: *queue_id,
        offset,
    })
}
