//! The topics of one broker: RocketMQ's system topics, those that tools make, those that a first send makes, and the `%RETRY%`
//! and `%DLQ%` topics of groups. Kept in `topics.json`, in RocketMQ's form.
//!
//! Every change moves [`TopicTable::generation`] on; whoever has to be sure that a change is durable waits until the file
//! holds that generation ([`super::config_file`]). Configurations are shared and never change in place, so that a reader may keep one.

use std::collections::BTreeMap;
use std::rc::Rc;

use hashbrown::HashMap;

use super::name::{self, NameError};
use super::{Identity, Settings};
use crate::remoting::body::registration::TopicConfigTable;
use crate::remoting::body::topic::{DataVersion, TopicConfig, perm};
use crate::remoting::fastjson;
use crate::remoting::request::HeaderError;
use shards::limits::{QUEUES_PER_TOPIC_MAX, TOPICS_MAX};

/// What a first send to an unknown topic asks for.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic<'a> {
    pub topic: &'a str,
    /// The topic to inherit from, normally TBW102.
    pub default_topic: &'a str,
    /// The most queues that the client wants.
    pub queues: i32,
    pub topic_sys_flag: i32,
}

/// Why a topic cannot be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the default topic[{default_topic}] does not exist")]
    NoDefaultTopic { default_topic: String },
    #[error("the default topic[{default_topic}] has no perm [{perm}] to make others from it")]
    NotInherited { default_topic: String, perm: i32 },
    #[error("topic[{topic}] asks for {queues} queues, the most is {QUEUES_PER_TOPIC_MAX}")]
    TooManyQueues { topic: String, queues: u32 },
    #[error(
        "this broker has {TOPICS_MAX} topics, the most that it may have: remove some before making {topic}"
    )]
    TooManyTopics { topic: String },
}

/// Reads a `topics.json`.
///
/// # Errors
/// A file that is not in RocketMQ's form, or has a topic that no broker makes.
pub fn read_file(file: &[u8]) -> Result<TopicConfigTable, HeaderError> {
    let table: TopicConfigTable = fastjson::read("topics.json", file)?;
    match table.topic_config_table.iter().find_map(|(name, config)| unmakeable(name, config)) {
        Some(reason) => Err(HeaderError::Body { what: "topics.json", bytes: file.len(), reason }),
        None => Ok(table),
    }
}

/// Why no broker has made a topic: of so many queues memory would run out, of such a name there is no folder. Names that only newer
/// brokers refuse are taken.
fn unmakeable(name: &str, config: &TopicConfig) -> Option<String> {
    let queues = config.read_queue_nums.max(config.write_queue_nums);
    if queues > QUEUES_PER_TOPIC_MAX {
        return Some(format!("the topic {name:?} has {queues} queues, the most is {QUEUES_PER_TOPIC_MAX}"));
    }
    let is_folder_name = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    (!is_folder_name).then(|| format!("no folder can be named for the topic {name:?}"))
}

/// All topics of a broker by name.
#[derive(Debug)]
pub struct TopicTable {
    topics: HashMap<String, Topic>,
    data_version: DataVersion,
    generation: u64,
    /// Topics that are named after this broker and its cluster, system topics as well.
    own_names: [String; 4],
}

#[derive(Debug)]
struct Topic {
    config: Rc<TopicConfig>,
    /// The generation in which it came to be as it is.
    generation: u64,
}

impl TopicTable {
    /// A table with the system topics only.
    pub fn new(identity: &Identity, settings: &Settings) -> Self {
        let Identity { cluster, broker_name, .. } = identity;
        let own_names = [
            cluster.clone(),
            broker_name.clone(),
            format!("{cluster}_REPLY_TOPIC"),
            format!("{}SYNC_BROKER_MEMBER_{broker_name}", name::SYSTEM_TOPIC_PREFIX),
        ];
        let mut table =
            Self { topics: HashMap::new(), data_version: DataVersion::default(), generation: 0, own_names };
        for config in system_topics(identity, settings) {
            table.insert(config);
        }
        table
    }

    fn insert(&mut self, config: TopicConfig) -> Rc<TopicConfig> {
        let config = Rc::new(config);
        let topic = Topic { config: Rc::clone(&config), generation: self.generation };
        self.topics.insert(config.topic_name.clone(), topic);
        config
    }

    /// Adds the topics of a `topics.json`; what it says of system topics counts, too.
    ///
    /// # Errors
    /// As [`read_file`].
    pub fn load(&mut self, file: &[u8]) -> Result<(), HeaderError> {
        let file = read_file(file)?;
        for (name, mut config) in file.topic_config_table {
            config.topic_name = name;
            self.insert(config);
        }
        self.data_version = file.data_version;
        Ok(())
    }

    /// The table as `topics.json`.
    pub fn to_file(&self) -> Vec<u8> {
        let configs = self.topics.iter().map(|(name, topic)| (name.clone(), (*topic.config).clone()));
        fastjson::write_pretty(&TopicConfigTable {
            data_version: self.data_version,
            topic_config_table: configs.collect(),
        })
    }

    pub fn get(&self, topic: &str) -> Option<&Rc<TopicConfig>> {
        self.topics.get(topic).map(|topic| &topic.config)
    }

    /// The topic if it is as it is since `generation` or longer.
    pub fn get_made_by(&self, topic: &str, generation: u64) -> Option<&Rc<TopicConfig>> {
        self.topics.get(topic).filter(|topic| topic.generation <= generation).map(|topic| &topic.config)
    }

    pub fn len(&self) -> usize {
        self.topics.len()
    }

    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub fn contains(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rc<TopicConfig>> {
        self.topics.values().map(|topic| &topic.config)
    }

    pub fn data_version(&self) -> DataVersion {
        self.data_version
    }

    /// Counts the changes of this table since the start.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation in which a topic came to be as it is.
    pub fn generation_of(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic).map(|topic| topic.generation)
    }

    /// Whether a topic is the broker's own.
    pub fn is_system(&self, topic: &str) -> bool {
        name::is_system_topic(topic) || self.own_names.iter().any(|own| own == topic)
    }

    /// Makes a topic as a first send asks for it, or returns the one that there is.
    ///
    /// # Errors
    /// [`TopicError`] when the default topic does not allow it.
    pub fn create_for_send(
        &mut self,
        new: &NewTopic<'_>,
        now_ms: i64,
    ) -> Result<Rc<TopicConfig>, TopicError> {
        if let Some(config) = self.get(new.topic) {
            return Ok(Rc::clone(config));
        }
        let Some(default) = self.get(new.default_topic).map(Rc::clone) else {
            return Err(TopicError::NoDefaultTopic { default_topic: new.default_topic.to_owned() });
        };
        if default.perm & perm::INHERIT == 0 {
            let default_topic = new.default_topic.to_owned();
            return Err(TopicError::NotInherited { default_topic, perm: default.perm });
        }
        let queues = u32::try_from(new.queues).unwrap_or(0).min(default.write_queue_nums);
        let config = TopicConfig {
            perm: default.perm & !perm::INHERIT,
            topic_sys_flag: new.topic_sys_flag,
            topic_filter_type: default.topic_filter_type.clone(),
            ..TopicConfig::new(new.topic, queues)
        };
        self.put(config, now_ms)
    }

    /// Makes a group's `%RETRY%` or `%DLQ%` topic, or returns the one that there is.
    ///
    /// # Errors
    /// [`TopicError`] for a name or a number of queues that cannot be.
    pub fn create_for_group(
        &mut self,
        topic: &str,
        queues: u32,
        topic_sys_flag: i32,
        now_ms: i64,
    ) -> Result<Rc<TopicConfig>, TopicError> {
        match self.get(topic) {
            Some(config) => Ok(Rc::clone(config)),
            None => self.put(TopicConfig { topic_sys_flag, ..TopicConfig::new(topic, queues) }, now_ms),
        }
    }

    /// Makes a topic, or replaces the one that there is. Without any change the generation stays.
    ///
    /// # Errors
    /// [`TopicError`] for a name or a number of queues that cannot be.
    pub fn put(&mut self, config: TopicConfig, now_ms: i64) -> Result<Rc<TopicConfig>, TopicError> {
        name::check_topic(&config.topic_name)?;
        let queues = config.read_queue_nums.max(config.write_queue_nums);
        if queues > QUEUES_PER_TOPIC_MAX {
            return Err(TopicError::TooManyQueues { topic: config.topic_name, queues });
        }
        match self.get(&config.topic_name) {
            Some(known) if **known == config => return Ok(Rc::clone(known)),
            None if self.topics.len() >= TOPICS_MAX => {
                return Err(TopicError::TooManyTopics { topic: config.topic_name });
            }
            _ => {}
        }
        self.changed(now_ms);
        Ok(self.insert(config))
    }

    /// Removes a topic; returns whether there was one.
    pub fn remove(&mut self, topic: &str, now_ms: i64) -> bool {
        let was_there = self.topics.remove(topic).is_some();
        if was_there {
            self.changed(now_ms);
        }
        was_there
    }

    /// Makes the topics that the log holds messages of but no file names, so that no message is out of reach: a process may be
    /// killed between an append and the writing of a file that lost its newest version.
    pub fn recover<'a>(&mut self, queues: impl Iterator<Item = (&'a str, u32)>, now_ms: i64) -> u32 {
        let mut missing: BTreeMap<&str, u32> = BTreeMap::new();
        for (topic, queue_id) in queues {
            if !self.contains(topic) {
                let count = missing.entry(topic).or_default();
                *count = (*count).max(queue_id.saturating_add(1));
            }
        }
        let mut recovered = 0;
        for (topic, count) in missing {
            recovered += u32::from(self.put(TopicConfig::new(topic, count), now_ms).is_ok());
        }
        recovered
    }

    fn changed(&mut self, now_ms: i64) {
        self.generation += 1;
        self.data_version.advance(now_ms);
    }
}

/// The topics that every broker has.
fn system_topics(identity: &Identity, settings: &Settings) -> Vec<TopicConfig> {
    let Identity { cluster, broker_name, .. } = identity;
    let with_perm = |config: TopicConfig, bits: i32| TopicConfig { perm: bits, ..config };
    let all = perm::INHERIT | perm::READ | perm::WRITE;
    let mut topics = vec![
        TopicConfig::new(name::SELF_TEST_TOPIC, 1),
        TopicConfig::new(name::BENCHMARK_TOPIC, 1024),
        with_perm(TopicConfig::new(cluster, 16), all),
        with_perm(TopicConfig::new(broker_name, 1), all),
        TopicConfig::new(name::OFFSET_MOVED_TOPIC, 1),
        TopicConfig::new(name::SCHEDULE_TOPIC, 18),
        TopicConfig::new(&format!("{cluster}_REPLY_TOPIC"), 1),
        TopicConfig::new(&format!("{}REVIVE_LOG_{cluster}", name::SYSTEM_TOPIC_PREFIX), 8),
        with_perm(
            TopicConfig::new(&format!("{}SYNC_BROKER_MEMBER_{broker_name}", name::SYSTEM_TOPIC_PREFIX), 1),
            perm::INHERIT,
        ),
        TopicConfig::new(name::TRANS_HALF_TOPIC, 1),
        TopicConfig::new(name::TRANS_OP_HALF_TOPIC, 1),
        TopicConfig::new(name::TIMER_TOPIC, 1),
    ];
    if settings.auto_create_topic {
        topics.push(with_perm(TopicConfig::new(name::AUTO_CREATE_TOPIC, settings.default_topic_queues), all));
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TopicTable {
        TopicTable::new(&Identity::for_tests(), &Settings::default())
    }

    fn new_topic(topic: &str, queues: i32) -> NewTopic<'_> {
        NewTopic { topic, default_topic: name::AUTO_CREATE_TOPIC, queues, topic_sys_flag: 0 }
    }

    #[test]
    fn a_first_send_makes_a_topic_with_the_smaller_number_of_queues() {
        let mut table = table();
        let four = table.create_for_send(&new_topic("Four", 4), 5).expect("inherited");
        assert_eq!((four.read_queue_nums, four.write_queue_nums, four.perm), (4, 4, 6));
        let eight = table.create_for_send(&new_topic("Eight", 100), 6).expect("inherited");
        assert_eq!(eight.write_queue_nums, 8);
        assert_eq!(table.data_version(), DataVersion { counter: 2, state_version: 0, timestamp: 6 });
        table.create_for_send(&new_topic("Eight", 1), 7).expect("it is there");
        assert_eq!(table.generation(), 2, "nothing changed");
        assert_eq!(table.generation_of("Four"), Some(1));
    }

    #[test]
    fn a_topic_is_not_made_from_one_that_does_not_pass_on() {
        let mut table = table();
        table.put(TopicConfig::new("Plain", 4), 0).expect("a good topic");
        let from = |default_topic| NewTopic { topic: "New", default_topic, queues: 4, topic_sys_flag: 0 };
        assert!(matches!(table.create_for_send(&from("Plain"), 0), Err(TopicError::NotInherited { .. })));
        assert!(matches!(table.create_for_send(&from("Nope"), 0), Err(TopicError::NoDefaultTopic { .. })));
        let off = Settings { auto_create_topic: false, ..Settings::default() };
        let mut table = TopicTable::new(&Identity::for_tests(), &off);
        assert!(table.create_for_send(&new_topic("New", 4), 0).is_err());
    }

    #[test]
    fn names_and_queue_numbers_are_checked() {
        let mut table = table();
        assert!(matches!(table.put(TopicConfig::new("a b", 4), 0), Err(TopicError::Name(_))));
        assert!(matches!(
            table.put(TopicConfig::new("T", QUEUES_PER_TOPIC_MAX + 1), 0),
            Err(TopicError::TooManyQueues { .. })
        ));
        assert!(matches!(table.create_for_send(&new_topic("日", 4), 0), Err(TopicError::Name(_))));
        assert_eq!(table.generation(), 0);
    }

    #[test]
    fn the_file_brings_everything_back() {
        let mut before = table();
        let attributes = [("queue.type".to_owned(), "SimpleCQ".to_owned())].into();
        before
            .put(TopicConfig { order: true, attributes, ..TopicConfig::new("Orders", 3) }, 9)
            .expect("good");
        let mut after = table();
        after.load(&before.to_file()).expect("our own file");
        assert_eq!(after.get("Orders"), before.get("Orders"));
        assert_eq!(after.data_version(), before.data_version());
        assert_eq!(after.iter().count(), before.iter().count());
    }

    /// A digit too many in a file made a tool's question for the topic take gigabytes.
    #[test]
    fn a_topic_that_no_broker_makes_is_refused() {
        for (name, queues) in [("Orders", 65_537), ("a/b", 4), ("", 4), ("..", 4)] {
            let file = fastjson::write(&TopicConfigTable {
                topic_config_table: [(name.to_owned(), TopicConfig::new(name, queues))].into(),
                ..TopicConfigTable::default()
            });
            let error = read_file(&file).unwrap_err().to_string();
            assert!(error.contains("topics.json") && error.contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn a_stock_file_is_read() {
        let stock = br#"{
	"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},
	"topicConfigTable":{
		"Orders":{"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG",
			"topicName":"Orders","topicSysFlag":0,"writeQueueNums":4}
	}
}"#;
        let mut table = table();
        table.load(stock).expect("RocketMQ wrote it");
        assert_eq!(table.get("Orders").expect("in the file").read_queue_nums, 4);
        assert!(table.contains(name::AUTO_CREATE_TOPIC), "system topics stay");
        assert_eq!(table.data_version().counter, 3);
        assert!(table.load(b"{\"topicConfigTable\":").is_err());
    }

    #[test]
    fn topics_in_the_log_without_a_configuration_come_back() {
        let mut table = table();
        table.put(TopicConfig::new("Known", 1), 0).expect("good");
        let queues = [("Known", 7), ("Lost", 0), ("Lost", 3), ("%RETRY%g", 0)];
        assert_eq!(table.recover(queues.into_iter(), 1), 2);
        assert_eq!(table.get("Lost").expect("recovered").read_queue_nums, 4);
        assert_eq!(table.get("Known").expect("kept").read_queue_nums, 1);
        assert!(table.contains("%RETRY%g"));
    }

    #[test]
    fn the_brokers_own_topics_are_system_topics() {
        let table = table();
        for own in ["DefaultCluster", "ringmq-0", "DefaultCluster_REPLY_TOPIC", "TBW102"] {
            assert!(table.is_system(own) && table.contains(own), "{own}");
        }
        assert!(!table.is_system("Orders"));
        assert_eq!(table.get(name::SCHEDULE_TOPIC).expect("there").write_queue_nums, 18);
    }
}
