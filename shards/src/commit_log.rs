//! The decisions of a CommitLog, without any I/O: where a record goes, what to flush next, what may be acknowledged.

use crate::position::PhysicalOffset;

pub mod scan;
pub mod segment;

/// What the log is written in: every write starts and ends at a multiple of it.
pub const PAGE_BYTES: usize = 4096;

/// The page boundary at or before `at`.
pub fn page_floor(at: PhysicalOffset) -> PhysicalOffset {
    PhysicalOffset::new(at.get() - at.get() % PAGE_BYTES as u64)
}
