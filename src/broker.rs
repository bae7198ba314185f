//! The serve side of one shard, which to clients is one RocketMQ broker: its topics, groups, members, offsets and locks.
//!
//! Lives on the shard's serve core, is `!Send` and shares nothing with other shards. Everything in it is plain state that is
//! told the time; requests reach it through [`crate::processor`], which borrows the [`BrokerCell`] only between awaits.

pub mod append_queue;
pub mod config_file;
pub mod consumer_offset;
pub mod consumer_table;
pub mod delay_schedule;
pub mod held_pulls;
pub mod name;
pub mod producer_table;
pub mod queue_lock;
pub mod subscription_group;
pub mod topic_table;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use shards::message_store::MessageStore;

use crate::remoting::body::topic::{DataVersion, TopicConfig};
use append_queue::AppendQueue;
use consumer_offset::ConsumerOffsetTable;
use consumer_table::ConsumerTable;
use delay_schedule::DelaySchedule;
use held_pulls::HeldPulls;
use producer_table::ProducerTable;
use queue_lock::QueueLockTable;
use subscription_group::SubscriptionGroupTable;
use topic_table::TopicTable;

/// Who this broker is to clients and name servers.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: String,
    pub broker_name: String,
    /// 0 for a leader.
    pub broker_id: i64,
    /// The address that clients are told, and that message ids and records carry.
    pub addr: SocketAddr,
}

#[cfg(test)]
impl Identity {
    pub(crate) fn for_tests() -> Self {
        Self {
            cluster: "DefaultCluster".to_owned(),
            broker_name: "ringmq-0".to_owned(),
            broker_id: 0,
            addr: "127.0.0.1:10911".parse().expect("a literal"),
        }
    }
}

/// What can be configured of a broker's behaviour.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A send to a topic that does not exist makes it (RocketMQ's `autoCreateTopicEnable`).
    pub auto_create_topic: bool,
    /// A group comes into being when it is first named (`autoCreateSubscriptionGroup`).
    pub auto_create_subscription_group: bool,
    /// Queues of TBW102, the most that an automatically made topic gets (`defaultTopicQueueNums`).
    pub default_topic_queues: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { auto_create_topic: true, auto_create_subscription_group: true, default_topic_queues: 8 }
    }
}

/// What name servers are told: everything at start and every 30 s, what changed at once.
#[derive(Clone, Debug)]
pub struct BrokerRegistration {
    pub identity: Identity,
    pub data_version: DataVersion,
    /// All topics, or those that changed.
    pub topics: Vec<TopicConfig>,
    /// Whether `topics` are all that there are: others are forgotten.
    pub complete: bool,
}

/// What a broker asks of the node that it runs in. Calls return at once.
pub trait Outside {
    /// Tells the name servers.
    fn register(&self, registration: BrokerRegistration);
    /// Makes a topic on the other shards of the set, as one that was made here by a first send.
    fn create_topic_elsewhere(&self, config: &TopicConfig);
}

/// A broker and all its state.
pub struct Broker {
    pub identity: Identity,
    pub settings: Settings,
    pub store: MessageStore,
    pub topics: TopicTable,
    pub groups: SubscriptionGroupTable,
    pub consumers: ConsumerTable,
    pub producers: ProducerTable,
    pub offsets: ConsumerOffsetTable,
    pub queue_locks: QueueLockTable,
    pub appends: AppendQueue,
    pub held_pulls: HeldPulls,
    pub delay: DelaySchedule,
    pub outside: Rc<dyn Outside>,
}

/// Borrowed only synchronously, never across an await.
pub type BrokerCell = Rc<RefCell<Broker>>;

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The wall clock, milliseconds since the epoch. Read once per request and passed on.
pub fn wall_clock_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
