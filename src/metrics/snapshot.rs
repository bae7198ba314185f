//! What a core tells of itself when it is asked: plain values that leave the core, as JSON too.

use std::collections::BTreeMap;

use runtime::allocation::Allocations;
use runtime::load::Load;
use runtime::meter::Distribution;
use serde::{Deserialize, Serialize};
use shards::log_meter::LogLoad;
use shards::message_store::StoreLoad;

/// One core at one moment. Counters count from the start of the node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CoreSnapshot {
    pub core: usize,
    pub cpu: usize,
    /// The thread's folder below `/proc`, such as `12/task/15`.
    pub thread: String,
    pub load: Load,
    /// What its thread has allocated.
    #[serde(default)]
    pub allocations: Allocations,
    /// Messages that wait in its mailbox.
    pub mailbox_messages: usize,
    /// Messages that do not fit into other cores' mailboxes.
    pub outgoing_messages: usize,
    /// How long messages from other threads were on their way, nanoseconds.
    pub hops: Distribution,
    pub connections: usize,
    /// Request bytes that are taken and not answered.
    pub in_flight_bytes: usize,
    /// Answers that the kernel has not taken, bytes.
    pub unsent_bytes: usize,
    /// From the read of a send's last bytes until its answer is made, nanoseconds.
    pub sends: Distribution,
    pub stages_on: bool,
    pub stages: Vec<StageSummary>,
    pub logs: Vec<LogSnapshot>,
    pub shards: Vec<ShardSnapshot>,
    /// Slowest first. Only when asked for.
    pub slow: Vec<SlowRequest>,
}

/// The log half of a shard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogSnapshot {
    pub shard: u32,
    /// The broker name.
    pub broker: String,
    /// A write failed: the shard takes nothing any more.
    pub failed: bool,
    /// The next CommitLog file cannot be made.
    pub disk_full: bool,
    pub load: LogLoad,
    /// Times a flush waited for zeros that were being written in its place.
    pub prewrite_waits: u64,
}

/// The serve half of a shard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShardSnapshot {
    pub shard: u32,
    pub cluster: String,
    /// The broker name.
    pub broker: String,
    pub store: StoreLoad,
    /// Requests whose records have no result yet.
    pub appends_waiting: usize,
    pub append_queued_bytes: usize,
    /// How full its disk is, 0 to 1.
    pub disk_used_ratio: f64,
    pub held_pulls: usize,
    /// Pulls that were answered from memory, and those that had to read the disk.
    pub hot_reads: u64,
    pub cold_reads: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    pub topics: usize,
    pub groups: usize,
    /// What has time series by name. Only when asked for.
    pub series: Option<Series>,
}

/// What has a time series by topic, group or client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    pub topics: Vec<TopicSample>,
    pub groups: Vec<GroupSample>,
    pub lags: Vec<LagSample>,
    pub producers: Vec<ClientSample>,
    pub consumers: Vec<ClientSample>,
    /// How long the oldest message is stored, milliseconds.
    pub reserve_time_ms: Option<i64>,
}

/// Messages of a topic and kind that were stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSample {
    pub topic: String,
    pub is_system: bool,
    pub message_type: String,
    pub messages: u64,
    pub bytes: u64,
    /// Messages by size: the buckets of [`super::traffic::SIZE_BUCKETS`], and those beyond.
    pub sizes: Vec<u64>,
}

/// Messages of a topic that a group was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSample {
    pub topic: String,
    pub group: String,
    pub is_system: bool,
    pub messages: u64,
    pub bytes: u64,
    /// Messages that failed too often.
    pub dead_letters: u64,
}

/// How far a group is behind in a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagSample {
    pub topic: String,
    pub group: String,
    pub is_retry: bool,
    pub is_system: bool,
    /// Messages that it has not confirmed.
    pub messages: u64,
    /// How long the oldest of them is stored, milliseconds; `None` when that would take a look at the disk.
    pub latency_ms: Option<i64>,
}

/// Clients of one kind that are connected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientSample {
    /// Empty for producers, which are not told apart by group.
    pub group: String,
    pub language: String,
    pub version: String,
    /// Empty for producers.
    pub consume_mode: String,
    pub is_system: bool,
    pub connections: u64,
}

/// The times of one stage on one core, microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    pub stage: String,
    pub requests: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// Requests by time: how many took up to so many microseconds and more than the pair before. The ends are powers of two
    /// nanoseconds; empty buckets are left out.
    #[serde(default)]
    pub buckets: Vec<(f64, u64)>,
}

/// One of the slowest requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// When it was answered, milliseconds since the epoch.
    pub at_ms: i64,
    pub core: usize,
    pub request: String,
    pub topic: String,
    pub queue_id: u32,
    pub peer: String,
    pub records: u32,
    pub bytes: usize,
    pub total_us: f64,
    /// By stage; they add up to the total.
    pub stages_us: BTreeMap<String, f64>,
}
