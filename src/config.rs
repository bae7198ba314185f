//! Configuration in two steps: the text as typed ([`text`]: file, environment, flags), then this, resolved: every value with
//! its type and unit, every shard on its cores. The program sees only the second.

pub mod placement;
mod retention;
pub mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use runtime::executor::Backend;
use shards::limits;
use shards::retention::RetentionRules;

use crate::metrics;
use placement::PlacementError;
use text::ConfigText;

/// Most shards of one store.
const SHARDS_MAX: u32 = 1024;

/// When a message is acknowledged (RocketMQ's `flushDiskType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FlushDiskType {
    /// After it is on the disk.
    #[default]
    SyncFlush,
    /// After the kernel and device took it; flushed every 500 ms.
    AsyncFlush,
}

/// As RocketMQ's clients expect, which send a heartbeat every 30 s.
const IDLE_CLOSE_S: u64 = 120;
/// Time for one check of all that is stored, unless configured: a week.
const SCRUB_INTERVAL_S: u64 = 7 * 24 * 3600;

/// What a new CommitLog file leaves free, unless configured: room for offsets and ConsumeQueue files.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// Everything that a node needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Broker names are this and the shard's number: `ringmq-0`, `ringmq-1`.
    pub node_name: String,
    pub cluster: String,
    /// Bound, and told to clients.
    pub host: IpAddr,
    /// Port of shard 0; shard `i` listens on `port + i`.
    pub port: u16,
    pub namesrv_port: u16,
    pub data: PathBuf,
    pub shards: u32,
    pub flush: FlushDiskType,
    /// What the cores run on; the best that the kernel can when nothing was asked for.
    pub runtime: Option<Backend>,
    /// Where metrics are served on the loopback interface; `None` when they are not.
    pub metrics_port: Option<MetricsPort>,
    /// Measure the time of every stage of every message from the start.
    pub stages: bool,
    /// Size of one CommitLog file, bytes.
    pub segment_bytes: u64,
    /// Read-ahead cache for old data, bytes per shard.
    pub cold_cache_bytes: usize,
    /// How long one check of all that is stored may take; `None` when nothing is checked in the background.
    pub scrub_interval: Option<Duration>,
    /// A connection on which nothing moves for so long is closed.
    pub idle_close: Duration,
    /// How long messages are kept, and what a full disk changes.
    pub retention: RetentionRules,
    /// What a new CommitLog file leaves free on the disk, bytes.
    pub disk_reserve_bytes: u64,
    pub auto_create_topic: bool,
    pub auto_create_subscription_group: bool,
    /// Consumers may filter by SQL92 expressions. RocketMQ's default is the opposite.
    pub enable_property_filter: bool,
    /// Queues of TBW102, the most that an automatically made topic gets on one shard.
    pub default_topic_queues: u32,
    pub cores: Vec<CoreConfig>,
}

/// The port of the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsPort {
    pub number: u16,
    /// It stands in the configuration.
    pub was_asked_for: bool,
}

impl MetricsPort {
    fn of(text: Option<u16>) -> Option<Self> {
        let number = text.unwrap_or(metrics::DEFAULT_PORT);
        (number != 0).then_some(Self { number, was_asked_for: text.is_some() })
    }
}

/// One core: its CPU, the shard halves that live on it, and its budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    pub cpu: usize,
    /// Shards whose CommitLog lives here.
    pub log: Vec<u32>,
    /// Shards whose clients are served here.
    pub serve: Vec<u32>,
    pub ring_depth: usize,
    pub write_buffers: WriteBuffers,
    /// Memory for recent messages, bytes, shared evenly by the shards that are served here.
    pub hot_tail_bytes: usize,
    /// Busy polling before the core parks.
    pub spin: Duration,
}

/// The blocks into which records are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBuffers {
    /// Size of a block, bytes: a multiple of 4096.
    pub block_bytes: usize,
    /// Blocks whose memory is taken at the start and kept, for the log of this core.
    pub count: usize,
}

impl Default for WriteBuffers {
    fn default() -> Self {
        Self { block_bytes: limits::TAIL_BLOCK_BYTES, count: 64 }
    }
}

/// What is wrong with a configuration, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error("{place}: unknown key `{key}`{}", nearest.as_ref().map_or(String::new(), |n| format!("; did you mean `{n}`?")))]
    UnknownKey { place: String, key: String, nearest: Option<String> },
    #[error("{place}: {error}")]
    Malformed { place: String, error: String },
    #[error("{key} = {value}: {problem}")]
    Value { key: &'static str, value: String, problem: String },
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

impl Config {
    /// Resolves what was typed, for a store of `shards` shards on a host with these CPUs.
    ///
    /// # Errors
    /// A value out of its range, or cores that do not place every shard exactly once.
    pub fn resolve(text: ConfigText, shards: u32, allowed_cpus: &[usize]) -> Result<Self, ConfigError> {
        let port = text.port.unwrap_or(10_911);
        let ports_left = u32::from(u16::MAX - port) + 1;
        in_range("shards", shards, 1, ports_left.min(SHARDS_MAX))?;
        let segment_bytes = text.mapped_file_size_commit_log.map_or(limits::SEGMENT_BYTES, |size| size.0);
        in_range("mappedFileSizeCommitLog", segment_bytes, limits::SEGMENT_BYTES_MIN, 1 << 30)?;
        if !segment_bytes.is_multiple_of(4096) {
            return Err(value_error("mappedFileSizeCommitLog", segment_bytes, "must be a multiple of 4096"));
        }
        let default_topic_queues = text.default_topic_queue_nums.unwrap_or(8);
        in_range("defaultTopicQueueNums", default_topic_queues, 1, limits::QUEUES_PER_TOPIC_MAX)?;
        let cold_cache_bytes = bytes(text.cold_cache, limits::COLD_CACHE_BYTES);
        in_range("cold_cache", cold_cache_bytes, 1 << 20, usize::MAX)?;
        let scrub_interval_s = text.scrub_interval_s.unwrap_or(SCRUB_INTERVAL_S);
        in_range("scrub_interval_s", scrub_interval_s, 0, 366 * 24 * 3600)?;
        let idle_close_s = text.server_channel_max_idle_time_seconds.unwrap_or(IDLE_CLOSE_S);
        in_range("serverChannelMaxIdleTimeSeconds", idle_close_s, 1, 24 * 3600)?;
        Ok(Self {
            node_name: text.node_name_or_default(),
            cluster: text.broker_cluster_name.clone().unwrap_or_else(|| "DefaultCluster".to_owned()),
            host: text.host.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            port,
            namesrv_port: text.namesrv_port.unwrap_or(9876),
            data: text.data_or_default(),
            shards,
            flush: text.flush_disk_type.unwrap_or_default(),
            runtime: text.runtime,
            metrics_port: MetricsPort::of(text.metrics_port),
            stages: text.stages.unwrap_or(false),
            segment_bytes,
            cold_cache_bytes,
            scrub_interval: (scrub_interval_s > 0).then(|| Duration::from_secs(scrub_interval_s)),
            idle_close: Duration::from_secs(idle_close_s),
            retention: retention::resolve(&text)?,
            disk_reserve_bytes: text.disk_reserve.map_or(DISK_RESERVE_BYTES, |size| size.0),
            auto_create_topic: text.auto_create_topic_enable.unwrap_or(true),
            auto_create_subscription_group: text.auto_create_subscription_group.unwrap_or(true),
            enable_property_filter: text.enable_property_filter.unwrap_or(true),
            default_topic_queues,
            cores: placement::resolve(&text, shards, allowed_cpus)?,
        })
    }

    /// The address of a shard's listener.
    pub fn shard_address(&self, shard: u32) -> SocketAddr {
        let port = u16::try_from(u32::from(self.port) + shard).expect("resolve checked that all ports fit");
        SocketAddr::new(self.host, port)
    }

    /// The name that clients know a shard by.
    pub fn broker_name(&self, shard: u32) -> String {
        format!("{}-{shard}", self.node_name)
    }

    /// The core on which a shard's CommitLog lives.
    pub fn log_core(&self, shard: u32) -> usize {
        self.core_where(|core| core.log.contains(&shard))
    }

    /// The core on which a shard's clients are served.
    pub fn serve_core(&self, shard: u32) -> usize {
        self.core_where(|core| core.serve.contains(&shard))
    }

    fn core_where(&self, holds: impl Fn(&CoreConfig) -> bool) -> usize {
        self.cores.iter().position(holds).expect("resolve placed every shard")
    }
}

fn bytes(size: Option<text::Size>, default: usize) -> usize {
    size.map_or(default, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
}

fn value_error(key: &'static str, value: impl ToString, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), problem: problem.into() }
}

fn in_range<T: PartialOrd + ToString + Copy>(
    key: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        let problem = format!("must be from {} to {}", least.to_string(), most.to_string());
        return Err(value_error(key, value, problem));
    }
    Ok(())
}
