//! What goes in and out of one shard, by topic and by group. Serve core.
//!
//! Whoever serves a request takes a handle once and counts through it. There are at most [`METRIC_TOPICS_MAX`] topics and
//! [`METRIC_GROUPS_MAX`] pairs of topic and group with counters of their own; what comes later is counted together under the name
//! [`OTHERS`], so that nobody can make the page grow without end.

use std::cell::Cell;
use std::rc::Rc;

use hashbrown::HashMap;
use shards::limits::{METRIC_GROUPS_MAX, METRIC_TOPICS_MAX};

use super::snapshot::{GroupSample, TopicSample};

/// Stands for every topic, or group, beyond those with counters of their own. No topic can be called so.
pub const OTHERS: &str = "~others";
/// Ends of the buckets in which sizes of messages are counted, bytes, as RocketMQ has them.
pub const SIZE_BUCKETS: [u64; 6] = [1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// What kind of message a producer sent (RocketMQ's `message_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    #[default]
    Normal,
    /// It has a sharding key.
    Fifo,
    /// It is to be delivered later.
    Delay,
}

impl MessageType {
    pub const ALL: [Self; 3] = [Self::Normal, Self::Fifo, Self::Delay];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
        }
    }
}

/// What was stored of one topic.
#[derive(Debug)]
pub struct TopicTraffic {
    name: Box<str>,
    is_system: bool,
    types: [TypeTraffic; MessageType::ALL.len()],
}

#[derive(Debug, Default)]
struct TypeTraffic {
    messages: Cell<u64>,
    bytes: Cell<u64>,
    sizes: [Cell<u64>; SIZE_BUCKETS.len() + 1],
}

impl TopicTraffic {
    pub(super) fn of(name: &str, is_system: bool) -> Self {
        Self { name: name.into(), is_system, types: Default::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts messages of one request that are stored, and the bytes of their records.
    pub fn stored(&self, message_type: MessageType, messages: u32, bytes: usize) {
        let traffic = &self.types[message_type as usize];
        let (messages, bytes) = (u64::from(messages), bytes as u64);
        add(&traffic.messages, messages);
        add(&traffic.bytes, bytes);
        // Dividing takes longer than all the rest of this.
        let size = if messages == 1 { bytes } else { bytes.checked_div(messages).unwrap_or(0) };
        let bucket = SIZE_BUCKETS.iter().take_while(|end| size > **end).count();
        add(&traffic.sizes[bucket], messages);
    }

    /// Whether it is a group's own, which RocketMQ counts nowhere.
    fn is_of_group(&self) -> bool {
        self.name.starts_with("%RETRY%") || self.name.starts_with("%DLQ%")
    }

    fn samples(&self) -> impl Iterator<Item = TopicSample> {
        let shown = |traffic: &TypeTraffic| traffic.messages.get() > 0 && !self.is_of_group();
        MessageType::ALL.iter().zip(&self.types).filter(move |(_, traffic)| shown(traffic)).map(
            |(message_type, traffic)| TopicSample {
                topic: self.name.to_string(),
                is_system: self.is_system,
                message_type: message_type.name().to_owned(),
                messages: traffic.messages.get(),
                bytes: traffic.bytes.get(),
                sizes: traffic.sizes.iter().map(Cell::get).collect(),
            },
        )
    }
}

/// What was delivered of one topic to one group, and what the group gave up.
#[derive(Debug)]
pub struct GroupTraffic {
    pub topic: Rc<TopicTraffic>,
    group: Box<str>,
    is_system: bool,
    messages: Cell<u64>,
    bytes: Cell<u64>,
    dead_letters: Cell<u64>,
}

impl GroupTraffic {
    fn of(topic: Rc<TopicTraffic>, group: &str, is_system: bool) -> Self {
        let zero = || Cell::new(0);
        Self { topic, group: group.into(), is_system, messages: zero(), bytes: zero(), dead_letters: zero() }
    }

    /// Counts messages that were handed out, and the bytes of their records.
    pub fn delivered(&self, messages: u32, bytes: usize) {
        add(&self.messages, u64::from(messages));
        add(&self.bytes, bytes as u64);
    }

    /// Counts a message that failed too often.
    pub fn dead_letter(&self) {
        add(&self.dead_letters, 1);
    }
}

/// All that was counted of one shard.
#[derive(Debug)]
pub struct Traffic {
    topics: HashMap<Box<str>, Rc<TopicTraffic>>,
    /// The one that was last asked for: mostly the next one too, and found without hashing its name.
    last_topic: Rc<TopicTraffic>,
    /// By topic, then by group.
    groups: HashMap<Box<str>, HashMap<Box<str>, Rc<GroupTraffic>>>,
    groups_len: usize,
    other_topics: Rc<TopicTraffic>,
    other_groups: Rc<GroupTraffic>,
    /// Pulls whose messages all were in memory, and those that had to read the disk.
    hot_reads: Cell<u64>,
    cold_reads: Cell<u64>,
    /// Where the log started when it was last looked at, and when its first message was stored, milliseconds since the epoch.
    pub oldest: Cell<Option<(u64, i64)>>,
}

impl Default for Traffic {
    fn default() -> Self {
        let other_topics = Rc::new(TopicTraffic::of(OTHERS, false));
        Self {
            topics: HashMap::new(),
            last_topic: Rc::clone(&other_topics),
            groups: HashMap::new(),
            groups_len: 0,
            other_groups: Rc::new(GroupTraffic::of(Rc::clone(&other_topics), OTHERS, false)),
            other_topics,
            hot_reads: Cell::new(0),
            cold_reads: Cell::new(0),
            oldest: Cell::new(None),
        }
    }
}

impl Traffic {
    /// The counters of a topic. `is_system` is asked only when it is new.
    pub fn topic(&mut self, name: &str, is_system: impl FnOnce() -> bool) -> Rc<TopicTraffic> {
        if self.last_topic.name() == name {
            return Rc::clone(&self.last_topic);
        }
        if let Some(known) = self.topics.get(name) {
            self.last_topic = Rc::clone(known);
            return Rc::clone(known);
        }
        if self.topics.len() >= METRIC_TOPICS_MAX {
            return Rc::clone(&self.other_topics);
        }
        let new = Rc::new(TopicTraffic::of(name, is_system()));
        self.topics.insert(name.into(), Rc::clone(&new));
        new
    }

    /// The counters of a group that reads a topic.
    pub fn group(&mut self, topic: &str, group: &str, is_system: impl FnOnce() -> bool) -> Rc<GroupTraffic> {
        if let Some(known) = self.groups.get(topic).and_then(|groups| groups.get(group)) {
            return Rc::clone(known);
        }
        if self.groups_len >= METRIC_GROUPS_MAX {
            return Rc::clone(&self.other_groups);
        }
        self.groups_len += 1;
        let is_system = is_system();
        let of_topic = self.topic(topic, || is_system);
        let new = Rc::new(GroupTraffic::of(of_topic, group, is_system));
        self.groups.entry(topic.into()).or_default().insert(group.into(), Rc::clone(&new));
        new
    }

    /// Forgets a topic that is deleted. Should it come back, it counts from 0.
    pub fn forget_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
        self.last_topic = Rc::clone(&self.other_topics);
        self.groups_len -= self.groups.remove(topic).map_or(0, |groups| groups.len());
    }

    /// Forgets a group that is deleted.
    pub fn forget_group(&mut self, group: &str) {
        for groups in self.groups.values_mut() {
            self.groups_len -= usize::from(groups.remove(group).is_some());
        }
        self.groups.retain(|_, groups| !groups.is_empty());
    }

    /// Counts a pull by where its messages were.
    pub fn read(&self, was_in_memory: bool) {
        add(if was_in_memory { &self.hot_reads } else { &self.cold_reads }, 1);
    }

    /// Messages that were stored and that were handed out, over all topics.
    pub fn totals(&self) -> (u64, u64) {
        let topics = self.topics.values().chain([&self.other_topics]);
        let stored = topics.flat_map(|topic| &topic.types).map(|traffic| traffic.messages.get()).sum();
        let groups = self.groups.values().flat_map(HashMap::values).chain([&self.other_groups]);
        (stored, groups.map(|group| group.messages.get()).sum())
    }

    pub fn hot_reads(&self) -> u64 {
        self.hot_reads.get()
    }

    pub fn cold_reads(&self) -> u64 {
        self.cold_reads.get()
    }

    /// Topics of which something was stored, by kind of message.
    pub fn topic_samples(&self) -> Vec<TopicSample> {
        self.topics.values().chain([&self.other_topics]).flat_map(|topic| topic.samples()).collect()
    }

    /// Groups that were given something, or gave something up, by topic.
    pub fn group_samples(&self) -> Vec<GroupSample> {
        let own = self.groups.values().flat_map(HashMap::values);
        own.chain([&self.other_groups])
            .filter(|group| group.messages.get() > 0 || group.dead_letters.get() > 0)
            .map(|group| GroupSample {
                topic: group.topic.name.to_string(),
                group: group.group.to_string(),
                is_system: group.is_system,
                messages: group.messages.get(),
                bytes: group.bytes.get(),
                dead_letters: group.dead_letters.get(),
            })
            .collect()
    }
}

fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get().wrapping_add(more));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_topic_kind_and_size() {
        let mut traffic = Traffic::default();
        traffic.topic("a", || false).stored(MessageType::Normal, 1, 1024);
        traffic.topic("a", || panic!("it is known")).stored(MessageType::Normal, 2, 3000);
        traffic.topic("a", || false).stored(MessageType::Delay, 1, 5 << 20);
        let mut samples = traffic.topic_samples();
        samples.sort_by_key(|sample| sample.message_type.clone());
        let [delay, normal] = &samples[..] else { panic!("two kinds: {samples:?}") };
        assert_eq!((normal.messages, normal.bytes, &normal.sizes[..3]), (3, 4024, &[1, 2, 0][..]));
        assert_eq!((delay.messages, delay.sizes[6]), (1, 1));
    }

    #[test]
    fn topics_and_groups_beyond_the_limits_are_counted_together() {
        let mut traffic = Traffic::default();
        for i in 0..METRIC_TOPICS_MAX + 10 {
            traffic.topic(&format!("t{i}"), || false).stored(MessageType::Normal, 1, 10);
        }
        for i in 0..METRIC_GROUPS_MAX + 7 {
            traffic.group("t0", &format!("g{i}"), || false).delivered(2, 20);
        }
        let topics = traffic.topic_samples();
        assert_eq!(topics.len(), METRIC_TOPICS_MAX + 1);
        assert_eq!(topics.iter().find(|sample| sample.topic == OTHERS).expect("the rest").messages, 10);
        let groups = traffic.group_samples();
        assert_eq!(groups.len(), METRIC_GROUPS_MAX + 1);
        assert_eq!(groups.iter().find(|sample| sample.group == OTHERS).expect("the rest").messages, 14);
        traffic.forget_topic("t0");
        traffic.topic("new", || false).stored(MessageType::Fifo, 1, 10);
        traffic.group("new", "g", || false).dead_letter();
        assert_eq!(traffic.group_samples().len(), 2, "there is room again");
        traffic.forget_group("g");
        assert_eq!(traffic.group_samples().len(), 1);
    }
}
