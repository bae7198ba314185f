//! Which part of the log to fill with zeros ahead of the records, so that a flush finds written blocks: a flush into
//! blocks that are only allocated takes twice as long.
//!
//! Invariant: the chunk that is being prewritten and the flush that is under way never overlap. The chunk starts
//! behind everything that is placed; a flush that has caught up with it waits for it.

use crate::commit_log::flush_plan::FlushPlan;
use crate::commit_log::{PAGE_BYTES, page_floor};
use crate::position::PhysicalOffset;
use crate::segment::segment_start;

/// Bytes written at once, but for the end of a segment: as long as a large flush, which may have to wait for it.
pub const CHUNK_BYTES: usize = 1 << 20;
/// How far ahead of the records is prewritten, bytes.
const AHEAD_BYTES: u64 = 256 << 20;
/// With less than this ahead there is no time for pauses between chunks, bytes.
const URGENT_BYTES: u64 = 32 << 20;

/// Zeros to write to one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub segment: PhysicalOffset,
    pub start: PhysicalOffset,
    pub bytes: usize,
}

impl Chunk {
    fn end(&self) -> PhysicalOffset {
        self.start.plus(self.bytes as u64)
    }
}

#[derive(Debug)]
pub struct Prewrite {
    segment_bytes: u64,
    /// Everything from the end of the records to here is written. A page boundary.
    written_end: PhysicalOffset,
    under_way: Option<Chunk>,
}

impl Prewrite {
    /// `written_end`: how far the last segment with records is written, zeros or not.
    pub fn new(segment_bytes: u64, written_end: PhysicalOffset) -> Self {
        Self { segment_bytes, written_end: page_floor(written_end), under_way: None }
    }

    /// The next chunk, for records up to `placed_end` and segments up to `ready_end`; it is then under way until
    /// [`Self::done`].
    pub fn next(&mut self, placed_end: PhysicalOffset, ready_end: PhysicalOffset) -> Option<Chunk> {
        assert_eq!(self.under_way, None, "one chunk at a time");
        self.under_way = self.following(placed_end, ready_end);
        self.under_way
    }

    /// Whether there is something to write.
    pub fn wants(&self, placed_end: PhysicalOffset, ready_end: PhysicalOffset) -> bool {
        self.under_way.is_none() && self.following(placed_end, ready_end).is_some()
    }

    fn following(&self, placed_end: PhysicalOffset, ready_end: PhysicalOffset) -> Option<Chunk> {
        let start = self.written_end.max(page_ceiling(placed_end));
        let end = page_floor(placed_end.plus(AHEAD_BYTES)).min(ready_end);
        let is_little = end < start.plus(CHUNK_BYTES as u64) && end != ready_end;
        if start >= end || is_little {
            return None;
        }
        let segment = segment_start(start, self.segment_bytes);
        let end = end.min(start.plus(CHUNK_BYTES as u64)).min(segment.plus(self.segment_bytes));
        let bytes = usize::try_from(end.since(start)).expect("a chunk is small");
        Some(Chunk { segment, start, bytes })
    }

    /// The chunk that is under way is written.
    pub fn done(&mut self) {
        let chunk = self.under_way.take().expect("a chunk was under way");
        self.written_end = chunk.end();
    }

    /// Whether `flush` must wait for the chunk that is under way.
    pub fn is_in_the_way_of(&self, flush: &FlushPlan) -> bool {
        self.under_way.is_some_and(|chunk| flush.start < chunk.end() && chunk.start < flush.end())
    }

    /// Whether records may reach unwritten blocks soon.
    pub fn is_urgent(&self, placed_end: PhysicalOffset) -> bool {
        self.written_end < placed_end.plus(URGENT_BYTES)
    }
}

fn page_ceiling(at: PhysicalOffset) -> PhysicalOffset {
    page_floor(at.plus(PAGE_BYTES as u64 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn at(offset: u64) -> PhysicalOffset {
        PhysicalOffset::new(offset)
    }

    #[test]
    fn chunks_follow_each_other_over_segments_and_stop_at_what_is_ready() {
        let mut prewrite = Prewrite::new(SEGMENT, at(SEGMENT - 4096));
        let chunk = prewrite.next(at(100), at(2 * SEGMENT)).unwrap();
        assert_eq!(chunk, Chunk { segment: at(0), start: at(SEGMENT - 4096), bytes: 4096 });
        prewrite.done();
        let mut end = at(SEGMENT);
        while let Some(chunk) = prewrite.next(at(100), at(2 * SEGMENT)) {
            assert_eq!((chunk.segment, chunk.start), (at(SEGMENT), end));
            end = chunk.end();
            prewrite.done();
        }
        assert_eq!(end, at(2 * SEGMENT));
    }

    #[test]
    fn a_chunk_never_touches_what_is_placed_and_a_flush_that_reaches_it_waits() {
        let mut prewrite = Prewrite::new(SEGMENT, at(0));
        let chunk = prewrite.next(at(5000), at(SEGMENT)).unwrap();
        assert_eq!(chunk.start, at(8192));
        let beside = FlushPlan::new(at(0), at(0), at(8192), None);
        let into = FlushPlan::new(at(0), at(4096), at(8193), None);
        assert!(!prewrite.is_in_the_way_of(&beside));
        assert!(prewrite.is_in_the_way_of(&into));
        prewrite.done();
        assert!(!prewrite.is_in_the_way_of(&into));
    }

    #[test]
    fn records_that_overtake_the_zeros_are_not_overwritten() {
        let mut prewrite = Prewrite::new(SEGMENT, at(0));
        let chunk = prewrite.next(at(3 << 20), at(SEGMENT)).unwrap();
        assert_eq!(chunk.start, at(3 << 20));
        assert!(prewrite.is_urgent(at(3 << 20)));
    }
}
