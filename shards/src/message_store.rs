//! The serve half of a shard.

use std::future::Future;

use bytes::Bytes;

use crate::append::Committed;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::recovery::RecoveredServe;
use crate::side_writer::SideWriter;

mod get;

pub use get::{GetRequest, GetResult, GetStatus, QueueBounds, ReadError, TagFilter, TimeBoundary};

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

/// A read's answer, or the plan that gets it from the disk.
#[derive(Debug)]
pub enum Get {
    Ready(GetResult),
    Cold(ColdGet),
}

/// A read that needs the disk. Owns what it needs.
#[derive(Debug)]
pub struct ColdGet {}

impl ColdGet {
    /// Reads.
    pub async fn run(self) -> Result<GetResult, ReadError> {
        todo!()
    }
}

/// One record's bytes, or the plan that gets them from the disk.
#[derive(Debug)]
pub enum RecordLookup {
    Ready(Bytes),
    Cold(ColdRecord),
    /// There is no record at this place, or it may not be read yet.
    None,
}

/// A read of one record that needs the disk.
#[derive(Debug)]
pub struct ColdRecord {}

impl ColdRecord {
    /// Reads; `None` when no record starts at the place.
    pub async fn run(self) -> Result<Option<Bytes>, ReadError> {
        todo!()
    }
}

/// The serve half of a shard.
#[derive(Debug)]
pub struct MessageStore {}

impl MessageStore {
    pub fn open(_recovered: RecoveredServe, _config: MessageStoreConfig, _writer: SideWriter) -> Self {
        todo!()
    }

    pub fn dispatch(&mut self, _committed: &Committed, _arrived: &mut dyn FnMut(Arrival<'_>)) {
        todo!()
    }

    /// Everything before this is dispatched and may be read.
    pub fn confirm_offset(&self) -> PhysicalOffset {
        todo!()
    }

    /// Dispatched entries that wait for the side writer. At [`crate::limits::DERIVED_BACKLOG_ENTRIES_MAX`] sends are refused.
    pub fn derived_backlog_entries(&self) -> usize {
        todo!()
    }

    pub fn bounds(&self, _topic: &str, _queue_id: u32) -> Option<QueueBounds> {
        todo!()
    }

    /// Every queue that holds messages, by topic and id.
    pub fn queues(&self) -> Vec<(String, u32)> {
        todo!()
    }

    pub fn get(&self, _request: &GetRequest<'_>) -> Get {
        todo!()
    }

    pub fn record(&self, _at: PhysicalOffset) -> RecordLookup {
        todo!()
    }

    pub fn offset_by_time(
        &self,
        _topic: &str,
        _queue_id: u32,
        _timestamp_ms: i64,
        _boundary: TimeBoundary,
    ) -> impl Future<Output = Result<QueueOffset, ReadError>> + 'static + use<> {
        async { todo!() }
    }

    /// When the message at `offset` was stored; `None` when there is none.
    pub fn store_time(
        &self,
        _topic: &str,
        _queue_id: u32,
        _offset: QueueOffset,
    ) -> impl Future<Output = Result<Option<i64>, ReadError>> + 'static + use<> {
        async { todo!() }
    }

    pub fn query_by_key(
        &self,
        _topic: &str,
        _key: &str,
        _messages_max: usize,
        _begin_ms: i64,
        _end_ms: i64,
    ) -> impl Future<Output = Result<Vec<Bytes>, ReadError>> + 'static + use<> {
        async { todo!() }
    }

    pub fn is_recent(&self, _topic: &str, _queue_id: u32, _offset: QueueOffset) -> bool {
        todo!()
    }

    pub fn delete_topic(&mut self, _topic: &str) {
        todo!()
    }

    pub fn close(
        &mut self,
        _exit: StoreExit,
    ) -> impl Future<Output = Result<(), ReadError>> + 'static + use<> {
        async { todo!() }
    }
}
