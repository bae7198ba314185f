//! One write to one segment.

use crate::commit_log::{PAGE_BYTES, page_floor};
use crate::position::PhysicalOffset;

/// What the next write covers.
///
/// ```text
///  segment      start      from              to       start + bytes
///  │            │ as before │ new             │ zeros  │
///  └────────────┴───────────┴─────────────────┴────────┘
/// ```
/// `segment ≤ start ≤ from < to ≤ start + bytes`; `start` and `bytes` are multiples of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushPlan {
    /// The start of the segment that is written to.
    pub segment: PhysicalOffset,
    /// Where the write starts: the boundary of the page that was written partly.
    pub start: PhysicalOffset,
    /// How much is written, bytes.
    pub bytes: usize,
    /// What is written before `from` is on the disk already, with the same bytes.
    pub(crate) from: PhysicalOffset,
    /// The end of what is worth writing.
    pub(crate) to: PhysicalOffset,
    /// Set when this write ends the segment: where its BLANK goes.
    pub(crate) blank_at: Option<PhysicalOffset>,
}

impl FlushPlan {
    pub(crate) fn new(
        segment: PhysicalOffset,
        from: PhysicalOffset,
        to: PhysicalOffset,
        blank_at: Option<PhysicalOffset>,
    ) -> Self {
        let start = page_floor(from);
        let bytes =
            usize::try_from(to.since(start)).expect("a flush is bounded").next_multiple_of(PAGE_BYTES);
        assert!(segment <= start, "a write starts in its segment");
        assert!(from < to, "a write has something to write");
        Self { segment, start, bytes, from, to, blank_at }
    }

    /// Where in its file the write starts.
    pub fn file_offset(&self) -> u64 {
        self.start.since(self.segment)
    }

    /// The end of the write, whole pages.
    pub fn end(&self) -> PhysicalOffset {
        self.start.plus(self.bytes as u64)
    }
}
