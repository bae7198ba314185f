//! The serve side of one shard, which to clients is one RocketMQ broker: its topics, groups, members, offsets and locks.
//!
//! Lives on the shard's serve core, is `!Send` and shares nothing with other shards. Everything in it is plain state that is
//! told the time; requests reach it through [`crate::processor`], which borrows the [`BrokerCell`] only between awaits.

pub mod append_queue;
pub mod config_file;
pub mod consumer_offset;
pub mod consumer_table;
pub mod delay_offset;
pub mod delay_schedule;
pub mod disk_watch;
pub mod expression_cache;
pub mod held_pulls;
pub mod name;
pub mod observation;
pub mod producer_table;
pub mod queue_lock;
pub mod subscription_group;
pub mod topic_creation;
pub mod topic_table;
pub mod unique_key;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shards::message_store::{MessageStore, StoreExit};
use shards::position::QueueOffset;
use shards::retention::RetentionRules;
use shards::side_writer::{ConfigWriteError, SideWriter};

use crate::metrics::observer::Observer;
use crate::metrics::traffic::Traffic;
use crate::remoting::body::topic::{DataVersion, TopicConfig};
use append_queue::AppendQueue;
use config_file::{ConfigFile, ConfigFileError, load_file};
use consumer_offset::{ConsumerOffsetTable, OffsetsFileError};
use consumer_table::ConsumerTable;
use delay_schedule::{DelayLevels, DelaySchedule};
use disk_watch::DiskWatch;
use expression_cache::ExpressionCache;
use held_pulls::HeldPulls;
use producer_table::ProducerTable;
use queue_lock::QueueLockTable;
use subscription_group::SubscriptionGroupTable;
pub use topic_creation::create_topic_from_elsewhere;
use topic_table::TopicTable;
use unique_key::UniqueKeys;

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
    /// Consumers may filter by SQL92 expressions (`enablePropertyFilter`).
    pub enable_property_filter: bool,
    /// Queues of TBW102, the most that an automatically made topic gets (`defaultTopicQueueNums`).
    pub default_topic_queues: u32,
    /// How long one check of all that is stored may take; `None` when nothing is checked in the background.
    pub scrub_interval: Option<Duration>,
    /// How long messages are kept, and what a full disk changes.
    pub retention: RetentionRules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auto_create_topic: true,
            auto_create_subscription_group: true,
            enable_property_filter: true,
            default_topic_queues: 8,
            scrub_interval: None,
            retention: RetentionRules::default(),
        }
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
    /// The longest time that each core of the node did not turn, milliseconds; 0 for one that was never late.
    fn longest_stalls_ms(&self) -> Vec<u64>;
}

/// What went wrong while closing. The next start repairs what is derived; offsets of the last seconds may be lost.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error("tables are not durable: {0}")]
    Tables(#[from] ConfigWriteError),
    #[error("the store did not close: {0}")]
    Store(#[from] std::io::Error),
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
    pub expressions: ExpressionCache,
    pub delay: DelaySchedule,
    pub disk: DiskWatch,
    pub unique_keys: UniqueKeys,
    /// Memory in which a send makes its stored properties; what is in it means nothing to the next one.
    pub properties: Vec<u8>,
    pub traffic: Traffic,
    /// The counters of this core, which its brokers share.
    pub observer: Rc<Observer>,
    pub outside: Rc<dyn Outside>,
    /// When this broker was opened, milliseconds since the epoch.
    pub opened_ms: i64,
    files: Files,
    /// The delay schedule rests: the node drains.
    delivers: bool,
    closed: bool,
}

/// The files of the tables.
#[derive(Clone, Debug)]
struct Files {
    topics: Rc<ConfigFile>,
    groups: Rc<ConfigFile>,
    offsets: Rc<ConfigFile>,
    delay_offsets: Rc<ConfigFile>,
}

/// Borrowed only synchronously, never across an await.
pub type BrokerCell = Rc<RefCell<Broker>>;

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Broker {
    /// A broker over an opened store, with the tables that `config_dir` (the shard's `config` folder) keeps. Topics that
    /// the store holds messages of come back even if no file names them. Blocks on small files: for start.
    ///
    /// # Errors
    /// A file that cannot be read, or understood in either of its two versions.
    pub fn open(
        identity: Identity,
        settings: Settings,
        store: MessageStore,
        side_writer: SideWriter,
        config_dir: impl AsRef<Path>,
        outside: Rc<dyn Outside>,
    ) -> Result<BrokerCell, ConfigFileError> {
        let now_ms = wall_clock_ms();
        let path = |name: &str| config_dir.as_ref().join(name);
        let file = |name: &str| ConfigFile::new(path(name), side_writer.clone());
        let offsets_file = |name: &str| ConfigFile::of_offsets(path(name), side_writer.clone());

        let mut topics = TopicTable::new(&identity, &settings);
        load_file(&path("topics.json"), |contents| topics.load(contents))?;
        let queues = store.queues();
        let recovered = topics.recover(queues.iter().map(|(topic, id)| (topic.as_str(), *id)), now_ms);
        if recovered > 0 {
            tracing::warn!(
                broker = identity.broker_name,
                recovered,
                "topics without configuration found in the log"
            );
        }
        let mut groups = SubscriptionGroupTable::new(settings.auto_create_subscription_group);
        load_file(&path("subscriptionGroup.json"), |contents| groups.load(contents))?;
        let mut offsets = ConsumerOffsetTable::default();
        load_file(&path("consumerOffset.json"), |contents| offsets.load(contents))?;
        let mut delivered = BTreeMap::new();
        load_file(&path("delayOffset.json"), |contents| {
            delivered = delay_offset::from_file(contents)?;
            Ok::<(), OffsetsFileError>(())
        })?;
        let mut delay = DelaySchedule::new(DelayLevels::default());
        resume_delays(&mut delay, &delivered, &store);

        let files = Files {
            topics: file("topics.json"),
            groups: file("subscriptionGroup.json"),
            offsets: offsets_file("consumerOffset.json"),
            delay_offsets: offsets_file("delayOffset.json"),
        };
        Ok(Rc::new(RefCell::new(Self {
            unique_keys: UniqueKeys::new(identity.addr),
            properties: Vec::new(),
            traffic: Traffic::default(),
            observer: Rc::default(),
            identity,
            settings,
            store,
            topics,
            groups,
            consumers: ConsumerTable::default(),
            producers: ProducerTable::default(),
            offsets,
            queue_locks: QueueLockTable::default(),
            appends: AppendQueue::default(),
            held_pulls: HeldPulls::default(),
            expressions: ExpressionCache::default(),
            delay,
            disk: DiskWatch::default(),
            outside,
            opened_ms: now_ms,
            files,
            delivers: true,
            closed: false,
        })))
    }

    /// Everything that name servers have to know.
    pub fn registration(&self) -> BrokerRegistration {
        BrokerRegistration {
            identity: self.identity.clone(),
            data_version: self.topics.data_version(),
            topics: self.topics.iter().map(|config| (**config).clone()).collect(),
            complete: true,
        }
    }

    /// What name servers have to know of one topic that has changed.
    pub fn registration_of(&self, topic: TopicConfig) -> BrokerRegistration {
        BrokerRegistration {
            identity: self.identity.clone(),
            data_version: self.topics.data_version(),
            topics: vec![topic],
            complete: false,
        }
    }

    /// Tells the name servers everything. Nothing is borrowed meanwhile: it may lead back here.
    pub fn register_everything(cell: &BrokerCell) {
        let (outside, registration) = {
            let broker = cell.borrow();
            (Rc::clone(&broker.outside), broker.registration())
        };
        outside.register(registration);
    }

    /// A topic that exists for good: a message to it may be acknowledged. A topic that is not durable yet is waited for by
    /// [`topic_creation::topic_for_send`].
    pub fn durable_topic(&self, topic: &str) -> Option<&Rc<TopicConfig>> {
        self.topics.get_made_by(topic, self.files.topics.held())
    }

    /// Whether [`close`] has begun: whatever goes on by the clock ends.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Delivers no more delayed messages: what is not under way yet waits for the next start.
    pub fn stop_delivering(&mut self) {
        self.delivers = false;
        self.delay.changed().raise();
    }

    /// Whether delayed messages may be delivered.
    pub fn is_delivering(&self) -> bool {
        self.delivers && !self.closed
    }

    /// Marks the broker as closed and wakes the tasks that wait for something to do, so that they end.
    fn end_tasks(&mut self) {
        self.closed = true;
        self.held_pulls.deadline_moved().raise();
        self.delay.changed().raise();
    }

    /// Waits until `topics.json` holds this generation of the topic table.
    async fn hold_topics(cell: &BrokerCell, generation: u64) -> Result<(), ConfigWriteError> {
        let file = Rc::clone(&cell.borrow().files.topics);
        let encode = || (cell.borrow().topics.generation(), cell.borrow().topics.to_file());
        file.hold(generation, encode).await
    }

    /// Waits until `subscriptionGroup.json` holds this generation of the group table.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn hold_groups(cell: &BrokerCell, generation: u64) -> Result<(), ConfigWriteError> {
        let file = Rc::clone(&cell.borrow().files.groups);
        let encode = || (cell.borrow().groups.generation(), cell.borrow().groups.to_file());
        file.hold(generation, encode).await
    }

    /// Writes what has changed in any table since it was last written; returns when it is durable.
    ///
    /// # Errors
    /// The first file that cannot be written; the others are tried all the same.
    pub async fn persist(cell: &BrokerCell) -> Result<(), ConfigWriteError> {
        let (files, topics, groups, offsets, delays) = {
            let broker = &mut *cell.borrow_mut();
            let generations =
                (broker.topics.generation(), broker.groups.generation(), broker.offsets.generation());
            let delays = broker.delay.take_moved();
            (broker.files.clone(), generations.0, generations.1, generations.2, delays)
        };
        let topics = Self::hold_topics(cell, topics).await;
        let groups = Self::hold_groups(cell, groups).await;
        let encode = || (cell.borrow().offsets.generation(), cell.borrow().offsets.to_file());
        let offsets = files.offsets.hold(offsets, encode).await;
        let delays = match delays {
            Some(offsets) => {
                let file = delay_offset::to_file(&offsets, wall_clock_ms());
                let written = files.delay_offsets.write(file).await;
                if written.is_err() {
                    cell.borrow_mut().delay.not_persisted();
                }
                written
            }
            None => Ok(()),
        };
        topics.and(groups).and(offsets).and(delays)
    }
}

/// Writes all tables and what the store derives from the log, and closes. The log half has flushed before, and no request
/// is served any more.
///
/// # Errors
/// What could not be written; the rest is closed all the same.
pub async fn close(cell: &BrokerCell, exit: StoreExit) -> Result<(), CloseError> {
    cell.borrow_mut().end_tasks();
    let tables = Broker::persist(cell).await;
    let store = cell.borrow_mut().store.close(exit);
    store.await?;
    Ok(tables?)
}

/// Starts every delay level where its file says; a level that the file does not name starts at the front of its queue.
pub fn resume_delays(
    delay: &mut DelaySchedule,
    delivered: &BTreeMap<u32, QueueOffset>,
    store: &MessageStore,
) {
    for queue_id in 0u32.. {
        let Some(level) = delay.delays().of_queue(queue_id) else { return };
        let bounds = store.bounds(name::SCHEDULE_TOPIC, queue_id).unwrap_or_default();
        let delivered = delivered.get(&level.number()).copied().unwrap_or_default();
        delay.resume(level, delivered, bounds.min..bounds.max);
    }
}

/// The wall clock, milliseconds since the epoch. Read once per request and passed on.
pub fn wall_clock_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
