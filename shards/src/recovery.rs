//! The only way to start a shard.

use std::path::PathBuf;

use crate::position::{PhysicalOffset, QueueOffset};

/// What recovery must know of a shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
}

/// A recovered shard, in the parts that go to its cores and threads.
#[derive(Debug)]
pub struct RecoveredShard {
    /// For the log core: [`crate::log_shard`].
    pub log: RecoveredLog,
    /// For the serve core: [`crate::message_store::MessageStore::open`].
    pub serve: RecoveredServe,
    /// For the side thread: [`crate::side_writer::SideWriter::start`].
    pub side: RecoveredSide,
    pub report: RecoveryReport,
}

/// What the log core goes on from.
#[derive(Debug)]
pub struct RecoveredLog {
    /// First positions of the CommitLog files that exist, in order.
    pub segments: Vec<PhysicalOffset>,
    /// Where the next record goes.
    pub end: PhysicalOffset,
    /// The bytes of the last, partly filled 4 KiB page, up to `end`.
    pub tail_page: Vec<u8>,
    /// The next offset of every queue.
    pub queue_offsets: Vec<(String, u32, QueueOffset)>,
    /// Store timestamp of the last record; 0 when there is none.
    pub last_store_timestamp_ms: i64,
}

/// What the serve core goes on from.
#[derive(Debug)]
pub struct RecoveredServe {
    pub dir: PathBuf,
}

/// What the side thread goes on from.
#[derive(Debug)]
pub struct RecoveredSide {
    pub dir: PathBuf,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryProgress {
    /// Bytes of log scanned so far, and to scan at most.
    pub scanned_bytes: u64,
    pub total_bytes: u64,
}

/// What a recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Where the scan began.
    pub scanned_from: PhysicalOffset,
    /// Where the log ends.
    pub end: PhysicalOffset,
    /// Records scanned.
    pub records: u64,
    /// Whether the last exit was clean.
    pub clean: bool,
    /// Whether ConsumeQueues and index were built anew, and why.
    pub rebuilt: Option<String>,
    /// Bytes behind the last good record that were cut as the torn end of an unfinished flush.
    pub torn_bytes: u64,
}
