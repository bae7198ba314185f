//! What the two halves of a shard say to each other: batches of records go to the log core, results come back.
//!
//! Results come in the order of the appends, one for each record, so that the serve core pairs them with the requests that
//! wait, in a plain queue.

use std::time::Instant;

use bytes::Bytes;

use crate::io::block::TailBlock;
use crate::position::{PhysicalOffset, QueueOffset};

/// Encoded records for one shard, in the order in which they must be placed. Serve core → log core.
#[derive(Clone, Debug, Default)]
pub struct AppendBatch {
    /// Records back to back, each as [`crate::record`] encodes it with its placement fields still empty.
    pub records: Bytes,
    /// How many records `records` holds.
    pub count: u32,
}

/// Where and when a record was placed: final as soon as it is given, durable only when it arrives in a [`Committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub queue_offset: QueueOffset,
    pub physical_offset: PhysicalOffset,
    /// Milliseconds since the epoch; never goes back within a shard.
    pub store_timestamp_ms: i64,
}

/// Why the log took a record not at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// A write or flush failed before: the shard acknowledges nothing any more. Status SERVICE_NOT_AVAILABLE.
    #[error(
        "the CommitLog of this shard failed and takes no more messages: {reason}; what it has is still read, what others have goes \
         on: look after the disk, then restart the broker"
    )]
    ShardFailed { reason: String },
    /// The next CommitLog file could not be made. Goes away by itself. Status SERVICE_NOT_AVAILABLE.
    #[error(
        "no room for the next CommitLog file in {path}: {free_bytes} bytes free, {needed_bytes} needed; free some space"
    )]
    DiskFull { path: String, free_bytes: u64, needed_bytes: u64 },
    /// The next CommitLog file could not be made for another reason, such as too many open files. Goes away by itself. Status
    /// SERVICE_NOT_AVAILABLE.
    #[error("the next CommitLog file {path} cannot be made: {reason}")]
    NoSegment { path: String, reason: String },
    /// The shard is stopping. Status SERVICE_NOT_AVAILABLE.
    #[error("the broker is stopping")]
    Stopping,
}

/// The result of one record's append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Durable as the flush mode asks, at this place.
    Placed(Placement),
    /// Not stored. For a failed flush: not acknowledged, and never readable in this process.
    Refused(AppendRefusal),
}

/// A commit. At once the acknowledgement of appends and the dispatch to ConsumeQueues and index. Log core → serve core.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Everything before this is durable and may be read.
    pub confirm_offset: PhysicalOffset,
    /// Tail blocks that the serve core does not know yet, in log order.
    pub new_blocks: Vec<TailBlock>,
    /// One result for each record appended, in append order.
    pub outcomes: Vec<AppendOutcome>,
    /// When the log core had them in hand, in the order of the outcomes. Empty if nobody looked at the clock.
    pub times: Box<[AppendTimes]>,
}

/// When the log core had some records in hand that came as one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTimes {
    pub records: u32,
    /// The batch had arrived.
    pub arrived: Instant,
    /// Its records had their places.
    pub placed: Instant,
    /// They were on the disk, as far as the flush mode asks.
    pub flushed: Instant,
}
