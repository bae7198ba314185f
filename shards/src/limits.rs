//! Every bound of the product, in one place, with its unit and with what happens at it.

use std::time::Duration;

/// Largest message body, bytes. A larger one is refused with MESSAGE_ILLEGAL (RocketMQ's `maxMessageSize`).
pub const MESSAGE_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest encoded property string, bytes, as its length field is an `i16`. Larger: MESSAGE_ILLEGAL.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;
/// Longest topic name, bytes. Longer: INVALID_PARAMETER.
pub const TOPIC_BYTES_MAX: usize = 127;
/// Longest name of a `%RETRY%` or `%DLQ%` topic, bytes.
pub const RETRY_TOPIC_BYTES_MAX: usize = 255;
/// Longest group name, bytes. Longer: SUBSCRIPTION_GROUP_NOT_EXIST.
pub const GROUP_BYTES_MAX: usize = 120;
/// Most queues that one topic may have on one shard. More: INVALID_PARAMETER.
pub const QUEUES_PER_TOPIC_MAX: u32 = 65_536;
/// Most topics on one shard. More are refused with SYSTEM_ERROR.
pub const TOPICS_MAX: usize = 65_536;
/// Most consumer groups on one shard. More do not come into being: SUBSCRIPTION_GROUP_NOT_EXIST.
pub const GROUPS_MAX: usize = 65_536;
/// Most groups of one client, and most subscriptions of one group. A heartbeat with more is refused with SYSTEM_ERROR.
pub const GROUPS_PER_CLIENT_MAX: usize = 4096;
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 4096;
/// Most queue locks that one shard keeps. Further queues are not granted.
pub const QUEUE_LOCKS_MAX: usize = 1 << 20;
/// Largest record: the fixed part with IPv6 hosts, body, topic, properties with the CRC property.
pub const RECORD_BYTES_MAX: usize =
    128 + MESSAGE_BODY_BYTES_MAX + RETRY_TOPIC_BYTES_MAX + PROPERTIES_BYTES_MAX;

/// Size of one CommitLog file, bytes (RocketMQ's `mappedFileSizeCommitLog`).
pub const SEGMENT_BYTES: u64 = 1 << 30;
/// Smallest CommitLog file that can be configured, bytes: two of the largest records.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// Most bytes that one flush writes. What was placed beyond goes out with the next flush. Recovery relies on it: nothing that
/// is further than this behind a torn record can belong to the same unfinished flush.
pub const FLUSH_BYTES_MAX: usize = 1 << 20;
/// Most bytes that are written and not yet durable in the lazy flush mode. Beyond it the next write waits for the disk. Recovery
/// relies on it in the same way.
pub const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Size of one block of the hot tail, bytes, unless configured. A larger record gets a block of its own.
pub const TAIL_BLOCK_BYTES: usize = 1 << 20;
/// Hot tail kept for readers per shard, bytes, unless configured. Older data is read from the disk.
pub const HOT_TAIL_BYTES: usize = 64 << 20;
/// Read-ahead cache for old data per shard, bytes, unless configured. The least recently used chunk makes room.
pub const COLD_CACHE_BYTES: usize = 16 << 20;
/// Encoded records that a serve core may have handed to its log core without a result, bytes. Beyond it the serve core keeps
/// them, and stops reading from the connections that sent them.
pub const APPEND_IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Encoded records that a serve core keeps for a later batch, bytes. Beyond it sends get SYSTEM_BUSY.
pub const APPEND_QUEUED_BYTES_MAX: usize = 64 << 20;
/// How long the first of the sends that wait for the log may have waited (RocketMQ's `waitTimeMillsInSendQueue`) when as much as this,
/// bytes, waits with it. Beyond both, further sends get SYSTEM_BUSY: their answers would come too late.
pub const APPEND_WAIT_MAX: Duration = Duration::from_millis(200);
pub const APPEND_PATIENT_BYTES_MAX: usize = 16 << 20;
/// Delayed messages of one level that may be on their way to their real topics at once. The next wait for their turn.
pub const DELAYED_IN_FLIGHT_MAX: u32 = 1024;
/// Dispatched entries that wait for the side thread, per shard. Beyond it sends get SYSTEM_BUSY.
pub const DERIVED_BACKLOG_ENTRIES_MAX: usize = 4 << 20;
/// Damaged stretches of one shard's log that are remembered. Further ones are told and counted, and told again when they are met again.
pub const DAMAGED_RANGES_MAX: usize = 65_536;

/// Messages between two cores that may wait in one mailbox. A sender waits when it is full.
pub const MAILBOX_MESSAGES_MAX: usize = 4096;

/// Largest frame of the remoting protocol, bytes (netty's `frameMaxLength`). A larger one ends its connection.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most header fields in one request. More end the connection.
pub const HEADER_FIELDS_MAX: usize = 128;
/// Longest remark in an answer, bytes. What is longer is cut: it may repeat what a peer sent.
pub const REMARK_BYTES_MAX: usize = 4096;
/// Largest JSON body of a request, bytes, registrations of brokers excepted. Values in memory are up to a hundred times their
/// text. A larger one is refused with SYSTEM_ERROR.
pub const JSON_BODY_BYTES_MAX: usize = 1 << 20;
/// Most topics that one broker may register at once. More are refused with SYSTEM_ERROR.
pub const TOPICS_PER_REGISTRATION_MAX: usize = 1 << 18;
/// Most that a compressed broker registration may inflate to, bytes. A larger one is refused with SYSTEM_ERROR.
pub const REGISTRATION_BYTES_MAX: u64 = 64 << 20;
/// Pairs of a topic and a broker that has it, in a name server. A registration beyond is refused with SYSTEM_ERROR.
pub const ROUTE_QUEUE_ENTRIES_MAX: usize = 1 << 20;
/// All of a name server's key-value configuration, bytes. A change beyond is refused with SYSTEM_ERROR.
pub const KV_CONFIG_BYTES_MAX: usize = 1 << 20;
/// Unanswered request bytes plus unsent response bytes of one connection. Beyond it the connection is not read from.
pub const CONNECTION_IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// What all connections of one listener hold together: unanswered request bytes, unsent response bytes, and requests that are not whole
/// yet. Beyond it only those connections are read from that hold no more than their share.
pub const CONNECTIONS_HELD_BYTES_MAX: usize = 192 << 20;
pub const CONNECTION_SHARE_BYTES: usize = 128 << 10;
/// Connections that one listener holds. Further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Pull requests that one shard holds for long polling. Further ones are answered at once.
pub const HELD_PULLS_MAX: usize = 131_072;
/// Most tags that one pull may name. More: SUBSCRIPTION_PARSE_FAILED.
pub const TAGS_PER_PULL_MAX: usize = 4096;
/// Longest SQL92 expression, bytes; most terms in it, the texts of an IN list counted as one; deepest nesting. More:
/// SUBSCRIPTION_PARSE_FAILED, with the limit.
pub const FILTER_EXPRESSION_BYTES_MAX: usize = 32 * 1024;
pub const FILTER_TERMS_MAX: usize = 1024;
pub const FILTER_DEPTH_MAX: usize = 64;
/// Most steps that one pull takes to judge messages by an SQL92 expression, some milliseconds, and most bytes of records that it reads from
/// the disk for it. Beyond either the pull is answered with what there is and where to go on.
pub const FILTER_STEPS_PER_PULL_MAX: u64 = 1 << 18;
pub const FILTER_COLD_BYTES_PER_PULL_MAX: usize = 4 << 20;
/// Compiled SQL92 expressions that one shard keeps, and their text, bytes. The least recently used make room.
pub const FILTERS_KEPT_MAX: usize = 1024;
pub const FILTERS_KEPT_BYTES_MAX: usize = 1 << 20;
/// Most messages in one pull answer from memory and from disk, and their bytes (RocketMQ's `maxTransfer…`).
pub const PULL_MESSAGES_MAX: u32 = 32;
pub const PULL_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of records that a lookup by key gives. The older ones that do not fit are left out; one always fits.
pub const KEY_ANSWER_BYTES_MAX: usize = 8 << 20;
/// Most messages in one batch send. More: MESSAGE_ILLEGAL.
pub const BATCH_MESSAGES_MAX: usize = 65_536;

/// Topics with counters of their own on the metrics page, and pairs of topic and group, per shard. Further ones are counted together as
/// `~others`.
pub const METRIC_TOPICS_MAX: usize = 1000;
pub const METRIC_GROUPS_MAX: usize = 2000;
/// Queues that one look at the metrics page asks for the lag of groups, per shard. Groups beyond have no lag on that page.
pub const METRIC_LAG_QUEUES_MAX: usize = 16_384;
/// Slowest requests that a core keeps. The fastest of them makes room.
pub const SLOW_REQUESTS_MAX: usize = 1000;
/// HTTP connections for metrics at once. Further ones wait to be accepted.
pub const METRIC_CONNECTIONS_MAX: usize = 32;

const _: () = assert!(RECORD_BYTES_MAX as u64 * 2 <= SEGMENT_BYTES_MIN);
const _: () = assert!(FLUSH_BYTES_MAX.is_multiple_of(4096));
// What sends may have under way comes to SYSTEM_BUSY before it comes to this.
const _: () = assert!(APPEND_IN_FLIGHT_BYTES_MAX + APPEND_QUEUED_BYTES_MAX < CONNECTIONS_HELD_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(KEY_ANSWER_BYTES_MAX + RECORD_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FILTER_EXPRESSION_BYTES_MAX <= FILTERS_KEPT_BYTES_MAX);
