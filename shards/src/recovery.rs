//! The only way to start a shard.

use std::path::PathBuf;

use crate::log_shard::RecoveredLog;
use crate::position::PhysicalOffset;

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
