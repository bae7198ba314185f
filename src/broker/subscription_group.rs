//! The consumer groups of one broker and their settings. Kept in `subscriptionGroup.json`, in RocketMQ's form.
//!
//! Groups come into being when they are first named, unless that is switched off. An automatic group has the default settings
//! and may be lost with the process: it comes back the same way. What a tool has set is durable before the tool is told.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use shards::limits::GROUPS_MAX;

use super::name::{self, NameError};
use crate::remoting::body::subscription_group::SubscriptionGroupConfig;
use crate::remoting::body::topic::DataVersion;
use crate::remoting::fastjson;
use crate::remoting::request::HeaderError;

/// Groups that RocketMQ's own tools and services use.
const SYSTEM_GROUPS: [&str; 8] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
];

/// Bit of the forbidden table that keeps a group from reading a topic.
const FORBIDDEN_READ: i32 = 1 << 2;

/// Why a group cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(
        "this broker has {GROUPS_MAX} groups, the most that it may have: remove some before making {group}"
    )]
    TooMany { group: String },
}

/// All groups of a broker by name.
#[derive(Debug)]
pub struct SubscriptionGroupTable {
    groups: BTreeMap<String, Rc<SubscriptionGroupConfig>>,
    /// Group → topic → bits of what the group may not do.
    forbidden: BTreeMap<String, BTreeMap<String, i32>>,
    data_version: DataVersion,
    generation: u64,
    auto_create: bool,
}

/// `subscriptionGroup.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupsFile {
    data_version: DataVersion,
    forbidden_table: BTreeMap<String, BTreeMap<String, i32>>,
    subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

impl SubscriptionGroupTable {
    /// A table with the system groups only.
    pub fn new(auto_create: bool) -> Self {
        let group = |name: &&str| {
            let config = SubscriptionGroupConfig { group_name: (*name).to_owned(), ..Default::default() };
            ((*name).to_owned(), Rc::new(config))
        };
        Self {
            groups: SYSTEM_GROUPS.iter().map(group).collect(),
            forbidden: BTreeMap::new(),
            data_version: DataVersion::default(),
            generation: 0,
            auto_create,
        }
    }

    /// Adds the groups of a `subscriptionGroup.json`.
    ///
    /// # Errors
    /// A file that is not in RocketMQ's form.
    pub fn load(&mut self, file: &[u8]) -> Result<(), HeaderError> {
        let file: GroupsFile = fastjson::read("subscriptionGroup.json", file)?;
        for (name, mut config) in file.subscription_group_table {
            config.group_name.clone_from(&name);
            self.groups.insert(name, Rc::new(config));
        }
        self.forbidden.extend(file.forbidden_table);
        self.data_version = file.data_version;
        Ok(())
    }

    /// The table as `subscriptionGroup.json`, which is also the body of GET_ALL_SUBSCRIPTIONGROUP_CONFIG.
    pub fn to_file(&self) -> Vec<u8> {
        let groups = self.groups.iter().map(|(name, config)| (name.clone(), (**config).clone()));
        fastjson::write_pretty(&GroupsFile {
            data_version: self.data_version,
            forbidden_table: self.forbidden.clone(),
            subscription_group_table: groups.collect(),
        })
    }

    pub fn get(&self, group: &str) -> Option<&Rc<SubscriptionGroupConfig>> {
        self.groups.get(group)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Rc<SubscriptionGroupConfig>> {
        self.groups.values()
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Counts the changes of this table since the start.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a group exists, or would be made if it were named: what an offset update asks.
    pub fn contains_or_may_create(&self, group: &str) -> bool {
        self.groups.contains_key(group)
            || (self.may_create(group) && self.groups.len() < GROUPS_MAX && name::check_group(group).is_ok())
    }

    /// The group's settings; makes the group if it is missing and that is allowed. `None`: SUBSCRIPTION_GROUP_NOT_EXIST.
    pub fn find_or_create(&mut self, group: &str, now_ms: i64) -> Option<Rc<SubscriptionGroupConfig>> {
        if let Some(config) = self.groups.get(group) {
            return Some(Rc::clone(config));
        }
        if !self.contains_or_may_create(group) {
            return None;
        }
        let config = Rc::new(SubscriptionGroupConfig { group_name: group.to_owned(), ..Default::default() });
        self.groups.insert(group.to_owned(), Rc::clone(&config));
        self.changed(now_ms);
        Some(config)
    }

    fn may_create(&self, group: &str) -> bool {
        self.auto_create || group.starts_with(name::SYSTEM_GROUP_PREFIX)
    }

    /// Makes a group, or replaces its settings.
    ///
    /// # Errors
    /// A name that no group may have, or there are [`GROUPS_MAX`] others.
    pub fn put(&mut self, config: SubscriptionGroupConfig, now_ms: i64) -> Result<(), GroupError> {
        name::check_group(&config.group_name)?;
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&config.group_name) {
            return Err(GroupError::TooMany { group: config.group_name });
        }
        self.groups.insert(config.group_name.clone(), Rc::new(config));
        self.changed(now_ms);
        Ok(())
    }

    /// Removes a group; returns whether there was one.
    pub fn remove(&mut self, group: &str, now_ms: i64) -> bool {
        self.forbidden.remove(group);
        let was_there = self.groups.remove(group).is_some();
        if was_there {
            self.changed(now_ms);
        }
        was_there
    }

    /// Whether a group has been kept from reading a topic.
    pub fn is_read_forbidden(&self, group: &str, topic: &str) -> bool {
        let bits = self.forbidden.get(group).and_then(|topics| topics.get(topic));
        bits.is_some_and(|bits| bits & FORBIDDEN_READ != 0)
    }

    fn changed(&mut self, now_ms: i64) {
        self.generation += 1;
        self.data_version.advance(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_into_being_when_named() {
        let mut table = SubscriptionGroupTable::new(true);
        let config = table.find_or_create("g", 5).expect("a good name");
        assert_eq!((config.retry_max_times, config.retry_queue_nums, config.consume_enable), (16, 1, true));
        assert_eq!(table.generation(), 1);
        table.find_or_create("g", 6);
        assert_eq!(table.generation(), 1);
        assert!(table.find_or_create("a b", 0).is_none());
        assert!(table.find_or_create(&"g".repeat(121), 0).is_none());
        assert!(table.contains_or_may_create("other") && !table.contains_or_may_create("a b"));
    }

    #[test]
    fn only_the_brokers_own_groups_when_switched_off() {
        let mut table = SubscriptionGroupTable::new(false);
        assert!(table.find_or_create("g", 0).is_none());
        assert!(table.find_or_create("TOOLS_CONSUMER", 0).is_some());
        assert!(table.find_or_create("CID_RMQ_SYS_NEW", 0).is_some());
        let config = SubscriptionGroupConfig { group_name: "g".to_owned(), ..Default::default() };
        table.put(config, 0).expect("a good name");
        assert!(table.find_or_create("g", 0).is_some());
        assert!(table.remove("g", 0) && !table.remove("g", 0));
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let mut table = SubscriptionGroupTable::new(true);
        let named = |group_name: String| SubscriptionGroupConfig { group_name, ..Default::default() };
        for number in table.len()..GROUPS_MAX {
            table.put(named(format!("g{number}")), 0).expect("room");
        }
        let error = table.put(named("more".to_owned()), 0).expect_err("full");
        assert_eq!(error, GroupError::TooMany { group: "more".to_owned() });
        assert!(table.find_or_create("more", 0).is_none());
        table.put(named("TOOLS_CONSUMER".to_owned()), 0).expect("a change is no addition");
    }

    #[test]
    fn the_file_brings_everything_back() {
        let mut before = SubscriptionGroupTable::new(true);
        let group_name = "g1".to_owned();
        let config = SubscriptionGroupConfig { group_name, retry_max_times: 3, ..Default::default() };
        before.put(config, 7).expect("a good name");
        let mut after = SubscriptionGroupTable::new(true);
        after.load(&before.to_file()).expect("our own file");
        assert_eq!(after.get("g1"), before.get("g1"));
        assert_eq!(after.data_version, before.data_version);
    }

    #[test]
    fn a_stock_file_is_read() {
        let stock = br#"{"dataVersion":{"counter":2,"stateVersion":0,"timestamp":17},
            "forbiddenTable":{"g1":{"Orders":4}},
            "subscriptionGroupTable":{"g1":{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":false,
            "consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g1",
            "groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,
            "retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}}}"#;
        let mut table = SubscriptionGroupTable::new(true);
        table.load(stock).expect("RocketMQ wrote it");
        assert!(!table.get("g1").expect("in the file").consume_enable);
        assert!(table.is_read_forbidden("g1", "Orders") && !table.is_read_forbidden("g1", "Other"));
    }
}
