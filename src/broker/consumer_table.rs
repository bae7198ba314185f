//! Which consumers are connected, by group, and what each group subscribes to.
//!
//! Members come by heartbeat and go by UNREGISTER_CLIENT, with their connection, or after 120 s of silence. Whoever changes
//! the table gets the connections to tell (NOTIFY_CONSUMER_IDS_CHANGED), so that the table itself talks to nobody. Every
//! member of a group is taken to have the same subscriptions, as in RocketMQ: the newest heartbeat counts.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use crate::remoting::body::heartbeat::{ConsumeType, ConsumerData, MessageModel, SubscriptionData};
use crate::transport::{Connection, ConnectionId};

/// How long a client may be silent before it is forgotten, milliseconds.
pub const CLIENT_EXPIRY_MS: i64 = 120_000;

/// One connected client.
#[derive(Debug)]
pub struct Member {
    pub connection: Rc<Connection>,
    pub client_id: String,
    /// RocketMQ's byte for the client's language.
    pub language: u8,
    /// Ordinal of the client's release.
    pub version: i32,
    pub last_heartbeat_ms: Cell<i64>,
}

/// A group with at least one member.
#[derive(Debug, Default)]
pub struct ConsumerGroup {
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: String,
    members: BTreeMap<ConnectionId, Rc<Member>>,
    subscriptions: BTreeMap<String, Rc<SubscriptionData>>,
    /// Of the last heartbeat that named the subscriptions, when it was one of the second version.
    fingerprint: Option<i32>,
}

/// What came of a heartbeat.
#[derive(Debug, Default)]
pub struct Registered {
    /// Everyone to tell that the group has changed; empty when it has not, or nobody needs to know.
    pub notify: Vec<Rc<Connection>>,
    /// The client must send its subscriptions with the next heartbeat.
    pub subscriptions_wanted: bool,
}

/// How a heartbeat names its subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatForm {
    /// In full, every time.
    Plain,
    /// In full, with a hash over all of them.
    Full { fingerprint: i32 },
    /// Only by the hash.
    WithoutSubscriptions { fingerprint: i32 },
}

/// Consumer groups that have members.
#[derive(Debug, Default)]
pub struct ConsumerTable {
    groups: HashMap<String, ConsumerGroup>,
}

impl ConsumerTable {
    /// Takes note of a heartbeat for one group. `notify_enabled` is the group's own setting.
    pub fn register(
        &mut self,
        data: &ConsumerData,
        member: &Rc<Member>,
        form: HeartbeatForm,
        notify_enabled: bool,
        now_ms: i64,
    ) -> Registered {
        let group = match self.groups.get_mut(&data.group_name) {
            Some(group) => group,
            None => self.groups.entry(data.group_name.clone()).or_default(),
        };
        group.consume_type = data.consume_type;
        group.message_model = data.message_model;
        group.consume_from_where.clone_from(&data.consume_from_where);

        let joined = group.update_member(member, now_ms);
        let (resubscribed, subscriptions_wanted) = match form {
            HeartbeatForm::Plain => {
                group.fingerprint = None;
                (group.update_subscriptions(&data.subscription_data_set), true)
            }
            HeartbeatForm::Full { fingerprint } => {
                let before = group.fingerprint.replace(fingerprint);
                let wanted = before.is_some_and(|before| before != fingerprint);
                (group.update_subscriptions(&data.subscription_data_set), wanted)
            }
            // A broker that was restarted, or heard of other subscriptions since, does not know what the hash stands for.
            HeartbeatForm::WithoutSubscriptions { fingerprint } => {
                (false, group.fingerprint != Some(fingerprint))
            }
        };
        let notify = if (joined || resubscribed) && notify_enabled { group.to_notify() } else { Vec::new() };
        Registered { notify, subscriptions_wanted }
    }

    /// Takes a connection out of one group. Returns whom to tell.
    pub fn unregister(&mut self, group_name: &str, id: ConnectionId) -> Vec<Rc<Connection>> {
        let Some(group) = self.groups.get_mut(group_name) else { return Vec::new() };
        if group.members.remove(&id).is_none() {
            return Vec::new();
        }
        let notify = group.to_notify();
        if group.members.is_empty() {
            self.groups.remove(group_name);
        }
        notify
    }

    /// Takes a connection out of all groups. Returns whom to tell of which group.
    pub fn connection_closed(&mut self, id: ConnectionId) -> Vec<(String, Vec<Rc<Connection>>)> {
        self.remove_members(|member| member.connection.id() == id)
    }

    /// Forgets members that have been silent for too long. Returns whom to tell of which group.
    pub fn expire(&mut self, now_ms: i64) -> Vec<(String, Vec<Rc<Connection>>)> {
        self.remove_members(|member| now_ms - member.last_heartbeat_ms.get() > CLIENT_EXPIRY_MS)
    }

    fn remove_members(
        &mut self,
        mut gone: impl FnMut(&Member) -> bool,
    ) -> Vec<(String, Vec<Rc<Connection>>)> {
        let mut notify = Vec::new();
        self.groups.retain(|name, group| {
            let before = group.members.len();
            group.members.retain(|_, member| !gone(member));
            if group.members.len() < before {
                notify.push((name.clone(), group.to_notify()));
            }
            !group.members.is_empty()
        });
        notify
    }

    pub fn group(&self, name: &str) -> Option<&ConsumerGroup> {
        self.groups.get(name)
    }

    /// Every group that has members.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &ConsumerGroup)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// What a group subscribes to of a topic.
    pub fn subscription(&self, group: &str, topic: &str) -> Option<&Rc<SubscriptionData>> {
        self.groups.get(group)?.subscriptions.get(topic)
    }

    /// Connected consumers, counted once for each group.
    pub fn len(&self) -> usize {
        self.groups.values().map(|group| group.members.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl ConsumerGroup {
    pub fn members(&self) -> impl Iterator<Item = &Rc<Member>> {
        self.members.values()
    }

    /// What the group subscribes to, by topic.
    pub fn subscriptions(&self) -> &BTreeMap<String, Rc<SubscriptionData>> {
        &self.subscriptions
    }

    /// Returns whether the connection was not a member before.
    fn update_member(&mut self, member: &Rc<Member>, now_ms: i64) -> bool {
        let id = member.connection.id();
        match self.members.get(&id) {
            Some(known) if known.client_id == member.client_id => {
                known.last_heartbeat_ms.set(now_ms);
                false
            }
            _ => self.members.insert(id, Rc::clone(member)).is_none(),
        }
    }

    /// Returns whether topics came or went. A new expression for a known topic counts for nobody but the filter.
    fn update_subscriptions(&mut self, wanted: &[SubscriptionData]) -> bool {
        let mut changed = false;
        for subscription in wanted {
            match self.subscriptions.get(&subscription.topic) {
                None => changed = true,
                Some(known) if subscription.sub_version > known.sub_version => {}
                Some(_) => continue,
            }
            self.subscriptions.insert(subscription.topic.clone(), Rc::new(subscription.clone()));
        }
        let before = self.subscriptions.len();
        let topics: HashSet<&str> = wanted.iter().map(|subscription| subscription.topic.as_str()).collect();
        self.subscriptions.retain(|topic, _| topics.contains(topic.as_str()));
        changed || self.subscriptions.len() < before
    }

    /// Members of a broadcasting group consume everything whoever else there is.
    fn to_notify(&self) -> Vec<Rc<Connection>> {
        match self.message_model {
            MessageModel::Broadcasting => Vec::new(),
            MessageModel::Clustering => {
                self.members.values().map(|member| Rc::clone(&member.connection)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, client_id: &str) -> Rc<Member> {
        let peer = "127.0.0.1:1000".parse().expect("a literal");
        Rc::new(Member {
            connection: Connection::detached(ConnectionId(id), peer),
            client_id: client_id.to_owned(),
            language: 0,
            version: 479,
            last_heartbeat_ms: Cell::new(0),
        })
    }

    fn consumer(topics: &[(&str, &str, i64)]) -> ConsumerData {
        let subscription = |&(topic, expression, version): &(&str, &str, i64)| SubscriptionData {
            topic: topic.to_owned(),
            sub_string: expression.to_owned(),
            sub_version: version,
            ..SubscriptionData::default()
        };
        ConsumerData {
            group_name: "g".to_owned(),
            subscription_data_set: topics.iter().map(subscription).collect(),
            ..ConsumerData::default()
        }
    }

    fn ids(connections: &[Rc<Connection>]) -> Vec<u64> {
        connections.iter().map(|connection| connection.id().0).collect()
    }

    fn register(table: &mut ConsumerTable, id: u64, topics: &[(&str, &str, i64)], now_ms: i64) -> Vec<u64> {
        let member = member(id, &format!("c{id}"));
        member.last_heartbeat_ms.set(now_ms);
        ids(&table.register(&consumer(topics), &member, HeartbeatForm::Plain, true, now_ms).notify)
    }

    #[test]
    fn everyone_hears_of_members_that_come_and_go() {
        let mut table = ConsumerTable::default();
        assert_eq!(register(&mut table, 1, &[("T", "*", 1)], 0), [1]);
        assert!(register(&mut table, 1, &[("T", "*", 1)], 1).is_empty(), "nothing new");
        assert_eq!(register(&mut table, 2, &[("T", "*", 1)], 2), [1, 2]);
        assert_eq!(register(&mut table, 3, &[("T", "*", 1)], 3), [1, 2, 3]);
        assert_eq!(ids(&table.unregister("g", ConnectionId(2))), [1, 3]);
        assert!(table.unregister("g", ConnectionId(2)).is_empty(), "it was not a member any more");
        let closed = table.connection_closed(ConnectionId(1));
        assert_eq!((closed.len(), closed[0].0.as_str(), ids(&closed[0].1)), (1, "g", vec![3]));
        assert!(table.unregister("g", ConnectionId(3)).is_empty());
        assert!(table.group("g").is_none(), "a group without members is forgotten");
    }

    #[test]
    fn topics_that_come_or_go_are_told_but_not_new_expressions() {
        let mut table = ConsumerTable::default();
        register(&mut table, 1, &[("T", "a", 1)], 0);
        assert!(register(&mut table, 1, &[("T", "b", 2)], 0).is_empty());
        assert_eq!(table.subscription("g", "T").expect("subscribed").sub_string, "b");
        register(&mut table, 1, &[("T", "old", 1)], 0);
        assert_eq!(
            table.subscription("g", "T").expect("subscribed").sub_string,
            "b",
            "an older version is ignored"
        );
        assert_eq!(register(&mut table, 1, &[("T", "b", 2), ("U", "*", 3)], 0), [1]);
        assert_eq!(register(&mut table, 1, &[("U", "*", 3)], 0), [1]);
        assert!(table.subscription("g", "T").is_none());
    }

    #[test]
    fn silent_members_expire_after_120_seconds() {
        let mut table = ConsumerTable::default();
        register(&mut table, 1, &[("T", "*", 1)], 0);
        register(&mut table, 2, &[("T", "*", 1)], 50_000);
        assert!(table.expire(CLIENT_EXPIRY_MS).is_empty());
        assert_eq!(ids(&table.expire(CLIENT_EXPIRY_MS + 1)[0].1), [2]);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn broadcasting_groups_and_groups_that_do_not_want_it_are_not_notified() {
        let mut table = ConsumerTable::default();
        let broadcast =
            ConsumerData { message_model: MessageModel::Broadcasting, ..consumer(&[("T", "*", 1)]) };
        let registered = table.register(&broadcast, &member(1, "a"), HeartbeatForm::Plain, true, 0);
        assert!(registered.notify.is_empty() && registered.subscriptions_wanted);
        let quiet = ConsumerData { group_name: "q".to_owned(), ..consumer(&[("T", "*", 1)]) };
        assert!(table.register(&quiet, &member(1, "a"), HeartbeatForm::Plain, false, 0).notify.is_empty());
    }

    #[test]
    fn a_heartbeat_without_subscriptions_keeps_them_if_its_fingerprint_is_known() {
        let mut table = ConsumerTable::default();
        let full = consumer(&[("T", "*", 1)]);
        let short = consumer(&[]);
        let heart = |table: &mut ConsumerTable, id: u64, data: &ConsumerData, form| {
            table.register(data, &member(id, "c"), form, true, 0).subscriptions_wanted
        };
        let with = |fingerprint| HeartbeatForm::Full { fingerprint };
        let without = |fingerprint| HeartbeatForm::WithoutSubscriptions { fingerprint };

        assert!(heart(&mut table, 1, &short, without(7)), "a restarted broker does not know them");
        assert!(!heart(&mut table, 1, &full, with(7)));
        assert!(!heart(&mut table, 1, &short, without(7)));
        assert!(table.subscription("g", "T").is_some());
        assert!(heart(&mut table, 2, &consumer(&[("U", "*", 2)]), with(8)), "others of the group differ");
        assert!(heart(&mut table, 1, &short, without(7)), "the table is not this client's any more");
        assert!(heart(&mut table, 1, &full, HeartbeatForm::Plain));
        assert!(heart(&mut table, 1, &short, without(7)));
    }
}
