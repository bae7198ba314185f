//! Which producers are connected, by group. Kept for tools and, later, for asking producers about transactions.

use std::collections::BTreeMap;
use std::rc::Rc;

use shards::limits::{GROUPS_MAX, RETRY_TOPIC_BYTES_MAX};

use super::consumer_table::CLIENT_EXPIRY_MS;
use super::consumer_table::Member;
use crate::transport::ConnectionId;

/// Producer groups and their members.
#[derive(Debug, Default)]
pub struct ProducerTable {
    groups: BTreeMap<String, BTreeMap<ConnectionId, Rc<Member>>>,
}

impl ProducerTable {
    /// Takes note of a heartbeat. A group whose name is too long, or beyond [`GROUPS_MAX`], is passed over: its members are served
    /// all the same.
    pub fn register(&mut self, group: &str, member: &Rc<Member>, now_ms: i64) {
        let is_new = !self.groups.contains_key(group);
        if is_new && (group.len() > RETRY_TOPIC_BYTES_MAX || self.groups.len() >= GROUPS_MAX) {
            return;
        }
        let id = member.connection.id();
        let members = match self.groups.get_mut(group) {
            Some(members) => members,
            None => self.groups.entry(group.to_owned()).or_default(),
        };
        match members.get(&id) {
            Some(known) if known.client_id == member.client_id => known.last_heartbeat_ms.set(now_ms),
            _ => drop(members.insert(id, Rc::clone(member))),
        }
    }

    /// Takes a connection out of one group.
    pub fn unregister(&mut self, group: &str, id: ConnectionId) {
        if let Some(members) = self.groups.get_mut(group) {
            members.remove(&id);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Takes a connection out of all groups.
    pub fn connection_closed(&mut self, id: ConnectionId) {
        self.retain(|member| member.connection.id() != id);
    }

    /// Forgets members that have been silent for too long.
    pub fn expire(&mut self, now_ms: i64) {
        self.retain(|member| now_ms - member.last_heartbeat_ms.get() <= CLIENT_EXPIRY_MS);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Member) -> bool) {
        self.groups.retain(|_, members| {
            members.retain(|_, member| keep(member));
            !members.is_empty()
        });
    }

    /// The members of a group; nothing when the group is unknown.
    pub fn members(&self, group: &str) -> Option<impl Iterator<Item = &Rc<Member>>> {
        self.groups.get(group).map(|members| members.values())
    }

    /// All producers, once for each of their groups.
    pub fn all_members(&self) -> impl Iterator<Item = &Rc<Member>> {
        self.groups.values().flat_map(BTreeMap::values)
    }

    /// Connected producers, counted once for each group.
    pub fn len(&self) -> usize {
        self.groups.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
