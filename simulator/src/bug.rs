//! Mistakes made on purpose, to see whether the oracle sees them: those of the simulator's own driver, and those of the engine
//! (`shards/src/deliberate.rs`), which exist only where its feature `deliberate-bugs` is on, as in this crate's tests.

use clap::ValueEnum;
use shards::deliberate::Mistake;

/// One mistake. `docs/simulator.md` says how many seeds it takes to catch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Bug {
    /// A write counts as durable when it begins
    AcknowledgeBeforeTheFlush,
    /// Every fifth write is not done, and counts as done
    SkipAFlush,
    /// A write that failed counts as done
    BelieveAWriteError,
    /// A write that stored a part counts as done
    BelieveAShortWrite,
    /// A sync that failed counts as done
    BelieveASyncError,
    /// After a sync that failed, the next one is believed
    SyncAgainAndBelieve,
    /// Writes are acknowledged without a sync
    NeverSync,
    /// The name of a new segment is not made durable
    ForgetTheNameOfASegment,
    /// Zeros ahead of the records begin a page too early
    ZerosOverRecords,
    /// A write does not wait for the zeros in its place
    ZerosAcrossAFlush,
    /// Messages that a full disk refused are acknowledged
    AcknowledgeOnAFullDisk,
    /// Two answers of one batch change places
    SwapAnswers,
    /// Queue offsets start anew after a restart
    ForgetQueueOffsets,
    /// A group's offset is kept one further than it was committed
    OffsetCommittedAhead,
    /// Offsets count as persisted and are never written
    OffsetsNeverWritten,
    /// Delayed messages are delivered 700 ms early
    TimerFiredEarly,
    /// Delayed messages of the life before are forgotten
    TimerForgottenAtStart,
    /// A delayed message counts as delivered before it is stored
    DeliveredBeforeStored,
    /// Writes that a dead process left under way are not waited for
    NoSettling,
    /// A log that is damaged in the middle is cut there
    CutAtDamage,
    /// The engine: bytes before a write in its first page are written as zeros
    TailPageForgotten,
    /// The engine: the filler at a segment's end is one byte too short
    BlankOffByOne,
    /// The engine: a record that leaves no room for the filler goes into the segment
    SegmentEndOffByOne,
    /// The engine: half messages get an entry in their ConsumeQueue
    HalfMessageDelivered,
    /// The engine: store times follow a clock that goes back
    StoreTimeGoesBack,
    /// The engine: a snapshot covers what is not durable in the log
    SnapshotAheadOfTheLog,
    /// The engine: a snapshot covers ConsumeQueues that are not synced
    SnapshotAheadOfTheQueues,
    /// The engine: a torn tail is left as it is
    TornTailLeft,
    /// The engine: recovery checks no CRC
    ScanWithoutCrc,
    /// The engine: what a ConsumeQueue names is served unseen
    TrustAConsumeQueue,
    /// The engine: offsets are written before the log that they speak of is synced
    OffsetsAheadOfTheLog,
    /// The engine: files of the log go a tenth too early
    RemoveBeforeItsTime,
    /// The engine: a queue starts one message too late after old files went
    QueueStartTooFar,
    /// The engine: a queue whose messages have all been removed starts at 0 again
    EmptiedQueueStartsAnew,
}

impl Bug {
    /// The mistake of the engine, if it is one.
    pub fn mistake(self) -> Option<Mistake> {
        match self {
            Self::TailPageForgotten => Some(Mistake::TailPageForgotten),
            Self::BlankOffByOne => Some(Mistake::BlankOffByOne),
            Self::SegmentEndOffByOne => Some(Mistake::SegmentEndOffByOne),
            Self::HalfMessageDelivered => Some(Mistake::HalfMessageDelivered),
            Self::StoreTimeGoesBack => Some(Mistake::StoreTimeGoesBack),
            Self::SnapshotAheadOfTheLog => Some(Mistake::SnapshotAheadOfTheLog),
            Self::SnapshotAheadOfTheQueues => Some(Mistake::SnapshotAheadOfTheQueues),
            Self::TornTailLeft => Some(Mistake::TornTailLeft),
            Self::ScanWithoutCrc => Some(Mistake::ScanWithoutCrc),
            Self::TrustAConsumeQueue => Some(Mistake::TrustAConsumeQueue),
            Self::OffsetsAheadOfTheLog => Some(Mistake::OffsetsAheadOfTheLog),
            Self::RemoveBeforeItsTime => Some(Mistake::RemoveBeforeItsTime),
            Self::QueueStartTooFar => Some(Mistake::QueueStartTooFar),
            Self::EmptiedQueueStartsAnew => Some(Mistake::EmptiedQueueStartsAnew),
            _ => None,
        }
    }

    /// The name on the command line and in the table.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
