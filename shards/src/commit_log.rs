//! The decisions of a CommitLog, without any I/O: where a record goes, what to flush next, what may be acknowledged.
//!
//! It lives on the log core; [`crate::log_shard`] drives it, and the simulator does, with a disk that forgets.
//!
//! ```text
//!        confirm_offset   flushed_end                placed_end          ready_end
//!  ──────┴────────────────┴──────────────────────────┴───────────────────┴─────────
//!   given out as           durable, results           in memory only      segments are made
//!   Committed              not yet given out                              up to here
//! ```
//! These four never go back, and stand in this order. A record lies in one segment and in one block; where one ends
//! early, a BLANK says so on the disk. Results are given out in the order of appends, refusals too.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::append::{AppendBatch, AppendRefusal, Committed, Placement};
use crate::commit_log::flush_plan::FlushPlan;
use crate::commit_log::outcome_queue::OutcomeQueue;
use crate::commit_log::queue_offsets::QueueOffsets;
use crate::deliberate::{Mistake, makes};
use crate::io::block::{BlockPool, BlockWriter, TailBlock};
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::{BLANK_BYTES, MAGIC_BLANK, RecordView, place, takes_queue_offset};
use crate::segment::segment_start;

pub mod flush_plan;
mod outcome_queue;
pub mod prewrite;
mod queue_offsets;
pub mod scan;

/// What the log is written in: every write starts and ends at a multiple of it.
pub const PAGE_BYTES: usize = 4096;

/// The page boundary at or before `at`.
pub fn page_floor(at: PhysicalOffset) -> PhysicalOffset {
    PhysicalOffset::new(at.get() - at.get() % PAGE_BYTES as u64)
}

/// Sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct CommitLogConfig {
    /// Size of a segment, bytes, a multiple of a page.
    pub segment_bytes: u64,
    /// Most bytes of one flush, a multiple of a page, at least two.
    pub flush_bytes_max: usize,
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

/// A log and what is not yet durable of it.
#[derive(Debug)]
pub struct CommitLog {
    config: CommitLogConfig,
    pool: BlockPool,
    queue_offsets: QueueOffsets,
    last_store_timestamp_ms: i64,

    confirm_offset: PhysicalOffset,
    flushed_end: PhysicalOffset,
    placed_end: PhysicalOffset,
    ready_end: PhysicalOffset,

    /// Writes at `placed_end`, into the last of `unflushed`.
    writer: Option<BlockWriter>,
    /// Blocks that hold something at or behind `flushed_end`, in log order.
    unflushed: VecDeque<TailBlock>,
    /// Blocks that were not given out yet, in log order.
    new_blocks: VecDeque<TailBlock>,
    /// Where BLANKs go that are not flushed.
    blanks: VecDeque<PhysicalOffset>,
    /// The bytes before `flushed_end` in its page.
    tail_page: Vec<u8>,
    flush_under_way: Option<FlushPlan>,

    /// Records that wait for the next segment.
    waiting: VecDeque<Bytes>,
    outcomes: OutcomeQueue,
    /// Set while the next segment cannot be made.
    disk_full: Option<AppendRefusal>,
    /// Set when nothing is taken any more.
    closed: Option<AppendRefusal>,
}

impl CommitLog {
    /// The log as recovery left it. All of `recovered.segments` are ready to be written to.
    ///
    /// # Panics
    /// When the sizes are not multiples of a page, or the tail page does not fit the end.
    pub fn new(recovered: RecoveredLog, config: CommitLogConfig, pool: BlockPool) -> Self {
        assert!(config.segment_bytes.is_multiple_of(PAGE_BYTES as u64), "segments are whole pages");
        assert!(config.flush_bytes_max.is_multiple_of(PAGE_BYTES), "a flush writes whole pages");
        assert!(config.flush_bytes_max >= 2 * PAGE_BYTES, "a BLANK and the rest of a page go out together");
        let end = recovered.end;
        assert_eq!(
            recovered.tail_page.len() as u64,
            end.since(page_floor(end)),
            "the tail page holds the bytes before the end"
        );
        let ready_end =
            recovered.segments.last().map_or(end, |start| start.plus(config.segment_bytes).max(end));
        Self {
            config,
            pool,
            queue_offsets: QueueOffsets::new(recovered.queue_offsets),
            last_store_timestamp_ms: recovered.last_store_timestamp_ms,
            confirm_offset: end,
            flushed_end: end,
            placed_end: end,
            ready_end,
            writer: None,
            unflushed: VecDeque::new(),
            new_blocks: VecDeque::new(),
            blanks: VecDeque::new(),
            tail_page: recovered.tail_page,
            flush_under_way: None,
            waiting: VecDeque::new(),
            outcomes: OutcomeQueue::default(),
            disk_full: None,
            closed: None,
        }
    }

    pub fn confirm_offset(&self) -> PhysicalOffset {
        self.confirm_offset
    }

    pub fn flushed_end(&self) -> PhysicalOffset {
        self.flushed_end
    }

    pub fn placed_end(&self) -> PhysicalOffset {
        self.placed_end
    }

    /// The end of the segments that are ready; the next one to make starts here.
    pub fn ready_end(&self) -> PhysicalOffset {
        self.ready_end
    }

    /// Why nothing is taken any more, if so.
    pub fn closed(&self) -> Option<&AppendRefusal> {
        self.closed.as_ref()
    }

    /// Whether a write failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.closed, Some(AppendRefusal::ShardFailed { .. }))
    }

    /// Why the next segment is missing, if it cannot be made.
    pub fn disk_full(&self) -> Option<&AppendRefusal> {
        self.disk_full.as_ref()
    }

    /// Places the records of `batch` behind all earlier ones. `now_ms` becomes their store timestamp, unless an
    /// earlier record has a later one. Every record gets one result, from [`Self::take_committed`].
    ///
    /// # Panics
    /// When the batch does not hold as many whole records as it says: the serve core encodes them.
    pub fn append(&mut self, batch: AppendBatch, now_ms: i64) {
        assert_eq!(count_records(&batch.records), batch.count, "a batch holds as many records as it says");
        if let Some(refusal) = &self.closed {
            for _ in 0..batch.count {
                self.outcomes.refused(refusal.clone());
            }
            return;
        }
        self.waiting.push_back(batch.records);
        if self.waiting.len() == 1 {
            self.place_waiting(now_ms);
        }
    }

    /// The segment that starts at [`Self::ready_end`] is made. Records that waited for it are placed.
    pub fn segment_ready(&mut self, now_ms: i64) {
        self.ready_end = self.ready_end.plus(self.config.segment_bytes);
        self.disk_full = None;
        if self.closed.is_none() {
            self.place_waiting(now_ms);
        }
    }

    /// The segment that starts at [`Self::ready_end`] cannot be made for now: records that need it are refused until
    /// it is.
    pub fn segment_missing(&mut self, refusal: AppendRefusal, now_ms: i64) {
        self.disk_full = Some(refusal);
        if self.closed.is_none() {
            self.place_waiting(now_ms);
        }
    }

    /// Takes nothing more, for `refusal`. What is placed goes on to the disk.
    pub fn close(&mut self, refusal: AppendRefusal) {
        for records in std::mem::take(&mut self.waiting) {
            for _ in 0..count_records(&records) {
                self.outcomes.refused(refusal.clone());
            }
        }
        self.closed.get_or_insert(refusal);
    }

    /// A write failed. Final: what is not acknowledged never will be, as nobody can know what the disk holds of it.
    pub fn fail(&mut self, reason: String) {
        let refusal = AppendRefusal::ShardFailed { reason };
        self.close(refusal.clone());
        self.closed = Some(refusal.clone());
        self.outcomes.refuse_all(&refusal);
        self.flush_under_way = None;
        self.writer = None;
        self.unflushed.clear();
        self.new_blocks.clear();
        self.blanks.clear();
        self.placed_end = self.flushed_end;
    }

    fn place_waiting(&mut self, now_ms: i64) {
        while let Some(mut records) = self.waiting.pop_front() {
            let mut rest = &records[..];
            while !rest.is_empty() {
                let record = RecordView::parse(rest).expect("the serve core encodes whole records");
                let size = record.total_size();
                if self.make_room(size) {
                    self.place(&record, now_ms);
                } else if let Some(refusal) = &self.disk_full {
                    self.outcomes.refused(refusal.clone());
                } else {
                    let done = records.len() - rest.len();
                    records.advance(done);
                    self.waiting.push_front(records);
                    return;
                }
                rest = &rest[size..];
            }
        }
    }

    /// Moves to where a record of `size` fits; `false` when that needs a segment that is not ready.
    fn make_room(&mut self, size: usize) -> bool {
        if self.placed_end == self.ready_end {
            return false;
        }
        let segment_end =
            segment_start(self.placed_end, self.config.segment_bytes).plus(self.config.segment_bytes);
        let kept_bytes = if makes(Mistake::SegmentEndOffByOne) { 0 } else { BLANK_BYTES };
        if (size + kept_bytes) as u64 <= segment_end.since(self.placed_end) {
            return true;
        }
        assert!((size + BLANK_BYTES) as u64 <= self.config.segment_bytes, "a record fits in a segment");
        if segment_end == self.ready_end {
            return false;
        }
        self.blanks.push_back(self.placed_end);
        self.placed_end = segment_end;
        self.writer = None;
        true
    }

    fn place(&mut self, record: &RecordView<'_>, now_ms: i64) {
        let size = record.total_size();
        let writer = match &mut self.writer {
            Some(writer) if writer.room_bytes() >= size => writer,
            full => {
                let writer = full.insert(self.pool.writer(self.placed_end, size));
                self.unflushed.push_back(writer.block());
                self.new_blocks.push_back(writer.block());
                writer
            }
        };
        let queue_offset = if takes_queue_offset(record.sys_flag()) {
            self.queue_offsets.take(record.topic(), record.queue_id())
        } else {
            QueueOffset::ZERO
        };
        self.last_store_timestamp_ms = self.last_store_timestamp_ms.max(now_ms);
        if makes(Mistake::StoreTimeGoesBack) {
            self.last_store_timestamp_ms = now_ms;
        }
        let placement = Placement {
            queue_offset,
            physical_offset: self.placed_end,
            store_timestamp_ms: self.last_store_timestamp_ms,
        };
        let placed_at = writer.append(record.raw(), |copy| place(copy, &placement));
        assert_eq!(placed_at, self.placed_end, "the block's end is the log's end");
        self.placed_end = self.placed_end.plus(size as u64);
        assert!(self.placed_end <= self.ready_end, "records lie in segments that are ready");
        self.outcomes.placed(placement, self.placed_end);
    }

    /// The next write, unless nothing is there to write; it is then under way until [`Self::flushed`] or
    /// [`Self::fail`].
    ///
    /// # Panics
    /// When a write is under way.
    pub fn plan_flush(&mut self) -> Option<FlushPlan> {
        assert_eq!(self.flush_under_way, None, "one flush at a time");
        let from = self.flushed_end;
        let segment = segment_start(from, self.config.segment_bytes);
        // The blanks are in log order, and there is one in this segment if anything is placed behind it.
        let blank_at = self.blanks.front().copied();
        let content_end = blank_at.unwrap_or(self.placed_end);
        let blank_end = blank_at.map(|at| at.plus(BLANK_BYTES as u64));
        let flush_end = page_floor(from).plus(self.config.flush_bytes_max as u64);
        let plan = match blank_end {
            Some(end) if end <= flush_end => FlushPlan::new(segment, from, end, blank_at),
            _ if from == content_end => return None,
            _ => FlushPlan::new(segment, from, content_end.min(flush_end), None),
        };
        assert!(plan.end() <= segment.plus(self.config.segment_bytes), "a write stays in its segment");
        assert!(plan.bytes <= self.config.flush_bytes_max, "a write is bounded");
        self.flush_under_way = Some(plan.clone());
        Some(plan)
    }

    /// Writes into `buffer` what `plan` wants on the disk.
    ///
    /// # Panics
    /// When the buffer is not as long as the plan says.
    pub fn fill(&self, plan: &FlushPlan, buffer: &mut [u8]) {
        assert_eq!(buffer.len(), plan.bytes, "the buffer is as long as the write");
        let (before, rest) = buffer.split_at_mut(self.tail_page.len());
        before.copy_from_slice(&self.tail_page);
        if makes(Mistake::TailPageForgotten) {
            before.fill(0);
        }
        let content_end = plan.blank_at.unwrap_or(plan.to);
        let (content, rest) = rest.split_at_mut(bytes_between(plan.from, content_end));
        self.copy_placed(plan.from, content);
        let mut padding = rest;
        if let Some(blank_at) = plan.blank_at {
            let (blank, rest) = padding.split_at_mut(BLANK_BYTES);
            let segment_end = plan.segment.plus(self.config.segment_bytes);
            let missing_bytes = u64::from(makes(Mistake::BlankOffByOne));
            let blank_size = u32::try_from(segment_end.since(blank_at) - missing_bytes)
                .expect("a BLANK is in one segment");
            blank[..4].copy_from_slice(&blank_size.to_be_bytes());
            blank[4..].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
            padding = rest;
        }
        padding.fill(0);
    }

    /// Copies placed bytes from `from` on, which lie in blocks without a gap.
    fn copy_placed(&self, from: PhysicalOffset, mut out: &mut [u8]) {
        let mut at = from;
        for block in &self.unflushed {
            if out.is_empty() {
                break;
            }
            if block.end() <= at {
                continue;
            }
            let part = bytes_between(at, block.end()).min(out.len());
            let (now, later) = out.split_at_mut(part);
            now.copy_from_slice(block.bytes(at, part));
            at = at.plus(part as u64);
            out = later;
        }
        assert!(out.is_empty(), "what is not flushed is in the blocks");
    }

    /// The write that was under way is durable, as far as the flush mode asks.
    ///
    /// # Panics
    /// When `plan` is not the write under way.
    pub fn flushed(&mut self, plan: &FlushPlan) {
        assert_eq!(
            self.flush_under_way.take().as_ref(),
            Some(plan),
            "the flush under way is the one that ends"
        );
        if plan.blank_at.is_some() {
            self.blanks.pop_front();
            self.tail_page.clear();
            self.flushed_end = plan.segment.plus(self.config.segment_bytes);
        } else {
            let page = page_floor(plan.to);
            let mut tail_page = vec![0; bytes_between(page, plan.to)];
            let kept = if page == plan.start { self.tail_page.len() } else { 0 };
            tail_page[..kept].copy_from_slice(&self.tail_page[..kept]);
            self.copy_placed(page.max(plan.from), &mut tail_page[kept..]);
            self.tail_page = tail_page;
            self.flushed_end = plan.to;
        }
        assert!(self.flushed_end <= self.placed_end, "only what is placed is flushed");
        while let Some(block) = self.unflushed.front() {
            let is_open = self.writer.is_some() && self.unflushed.len() == 1;
            if is_open || block.end() > self.flushed_end {
                break;
            }
            self.unflushed.pop_front();
        }
    }

    /// Results that may be given out now, `None` if there are none.
    pub fn take_committed(&mut self) -> Option<Committed> {
        let outcomes = self.outcomes.take(self.flushed_end, &mut self.confirm_offset);
        if outcomes.is_empty() {
            return None;
        }
        assert!(self.confirm_offset <= self.flushed_end, "only what is flushed is confirmed");
        let known = self.new_blocks.iter().take_while(|block| block.start() < self.confirm_offset).count();
        let new_blocks = self.new_blocks.drain(..known).collect();
        Some(Committed { confirm_offset: self.confirm_offset, new_blocks, outcomes, times: Box::default() })
    }

    /// Whether [`Self::take_committed`] has something to give.
    pub fn has_results(&self) -> bool {
        self.outcomes.is_ready(self.flushed_end)
    }

    /// Whether everything that was taken is flushed and its results are given out.
    pub fn is_idle(&self) -> bool {
        self.outcomes.is_empty() && self.flushed_end == self.placed_end
    }
}

fn count_records(mut records: &[u8]) -> u32 {
    let mut count = 0;
    while !records.is_empty() {
        let size = crate::record::peek_size(records).expect("the serve core encodes whole records");
        records = records.get(size..).expect("the serve core encodes whole records");
        count += 1;
    }
    count
}

fn bytes_between(from: PhysicalOffset, to: PhysicalOffset) -> usize {
    usize::try_from(to.since(from)).expect("what is in memory has a size")
}

#[cfg(test)]
mod tests;
