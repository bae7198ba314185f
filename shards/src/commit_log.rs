//! The decisions of a CommitLog, without any I/O: where a record goes, what to flush next, what may be acknowledged.

pub mod scan;
pub mod segment;
