//! The table of routes: topics, brokers, and who is alive. Pure: told the time, changed only by its methods.
//!
//! Invariants: a broker name is listed while it has an address, and has queues only while it is listed; every address has
//! exactly one entry in `live`. A broker that is silent for its time is gone at the next [`RouteTable::evict_silent`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use shards::limits::ROUTE_QUEUE_ENTRIES_MAX;

use crate::remoting::body::route::{BrokerData, BrokerMemberGroup, ClusterInfo, QueueData, TopicRoute};
use crate::remoting::body::topic::{DataVersion, TopicConfig, perm};
use crate::transport::ConnectionId;

/// How long a broker that names no time of its own may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How often silence is looked for.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// The broker id of a leader.
const MASTER_ID: i64 = 0;

/// What a broker says of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    pub cluster: String,
    pub broker_name: String,
    pub broker_id: i64,
    /// `host:port` as clients shall use it.
    pub broker_addr: String,
    pub ha_server_addr: String,
    pub zone_name: Option<String>,
    /// `None`: a broker older than slave-acting-master.
    pub enable_acting_master: Option<bool>,
    pub data_version: DataVersion,
    pub topics: Vec<TopicConfig>,
    /// Whether `topics` are all that the broker has: others are forgotten.
    pub complete: bool,
    pub origin: Origin,
}

/// Where a registration came from, which decides how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By value, from a broker of this node; stays until it is taken back.
    ThisNode,
    /// By request. Ends with the connection, or with silence longer than `silence_max`, or 120 s.
    Connection { id: ConnectionId, silence_max: Option<Duration> },
}

/// What a registering broker is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Of its leader, when it is not one itself.
    pub ha_server_addr: Option<String>,
    pub master_addr: Option<String>,
}

/// Why a registration did not count; answered with SYSTEM_ERROR.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A broker tells of a single changed topic although it never told of all.
    #[error("register broker failed: {broker_name} ({broker_addr}) must first register all its topics")]
    SingleTopicFirst { broker_name: String, broker_addr: String },
    #[error(
        "the name server holds {held} of {limit} queue entries, {wanted} more do not fit; delete unused topics"
    )]
    Full { held: usize, wanted: usize, limit: usize },
}

/// A broker that left the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub broker_name: String,
    pub broker_addr: String,
}

/// One address of a broker.
#[derive(Debug)]
struct Live {
    broker_name: String,
    origin: Origin,
    heard_at: Instant,
    data_version: DataVersion,
    ha_server_addr: String,
}

/// Identity of an address: the cluster counts, as in RocketMQ.
type Address = (String, String);

/// See the file's head.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Topic, then broker name.
    topics: HashMap<String, BTreeMap<String, QueueData>>,
    brokers: BTreeMap<String, BrokerData>,
    live: HashMap<Address, Live>,
    /// Queue entries over all topics.
    entries: usize,
    scanned_at: Option<Instant>,
}

impl RouteTable {
    /// Takes in what a broker says of itself.
    ///
    /// A broker that moved to another id leaves the old one. One that claims an id held at another address by a broker of a
    /// newer state version is ignored, and told nothing.
    ///
    /// # Errors
    /// The registration does not count, for the reason given; nothing has changed.
    pub fn register(
        &mut self,
        registration: Registration,
        now: Instant,
    ) -> Result<Registered, RegisterError> {
        let address = (registration.cluster.clone(), registration.broker_addr.clone());
        if self.is_outdated(&registration) {
            self.live.remove(&address);
            return Ok(Registered::default());
        }
        let id_known =
            self.addrs(&registration.broker_name).is_some_and(|a| a.contains_key(&registration.broker_id));
        self.check(&registration, id_known)?;

        self.place_address(&registration);
        let changed = !id_known
            || self.live.get(&address).is_none_or(|known| known.data_version != registration.data_version);
        if self.speaks_for_topics(&registration) {
            self.update_topics(&registration, changed);
        }
        let told = self.leader_of(&registration);
        let live = Live {
            broker_name: registration.broker_name,
            origin: registration.origin,
            heard_at: now,
            data_version: registration.data_version,
            ha_server_addr: registration.ha_server_addr,
        };
        self.live.insert(address, live);
        Ok(told)
    }

    /// Takes an address out; with the last one of a broker name go its queues.
    pub fn unregister(&mut self, cluster: &str, broker_addr: &str, broker_name: &str) -> Option<Gone> {
        let known = self.live.remove(&(cluster.to_owned(), broker_addr.to_owned()));
        let broker = self.brokers.get_mut(broker_name)?;
        let before = broker.broker_addrs.len();
        broker.broker_addrs.retain(|_, addr| addr != broker_addr);
        if broker.broker_addrs.is_empty() {
            self.brokers.remove(broker_name);
            self.forget_topics_of(broker_name, |_| false);
        } else if broker.enable_acting_master && !broker.broker_addrs.contains_key(&MASTER_ID) {
            // A follower may act for its leader, but not take writes.
            self.change_perm(broker_name, |perm| perm & !perm::WRITE);
        }
        let left = known.is_some() || self.addrs(broker_name).map_or(0, BTreeMap::len) < before;
        left.then(|| Gone { broker_name: broker_name.to_owned(), broker_addr: broker_addr.to_owned() })
    }

    /// Takes out the brokers of this node.
    pub fn unregister_own(&mut self) -> Vec<Gone> {
        self.unregister_where(|live| live.origin == Origin::ThisNode)
    }

    /// Takes out the brokers that registered over `closed`.
    pub fn connection_closed(&mut self, closed: ConnectionId) -> Vec<Gone> {
        self.unregister_where(|live| matches!(live.origin, Origin::Connection { id, .. } if id == closed))
    }

    /// Takes out the brokers that were silent for too long. Looks every 5 s only, so it may be called with every request.
    pub fn evict_silent(&mut self, now: Instant) -> Vec<Gone> {
        if self.scanned_at.is_some_and(|at| now.saturating_duration_since(at) < SCAN_INTERVAL) {
            return Vec::new();
        }
        self.scanned_at = Some(now);
        self.unregister_where(|live| match live.origin {
            Origin::ThisNode => false,
            Origin::Connection { silence_max, .. } => {
                now.saturating_duration_since(live.heard_at) > silence_max.unwrap_or(SILENCE_MAX)
            }
        })
    }

    /// Notes a sign of life, and gives the version that the address registered with last.
    pub fn heard(&mut self, cluster: &str, broker_addr: &str, now: Instant) -> Option<DataVersion> {
        let live = self.live.get_mut(&(cluster.to_owned(), broker_addr.to_owned()))?;
        live.heard_at = now;
        Some(live.data_version)
    }

    /// The route of a topic; `None` when no listed broker has it.
    #[must_use]
    pub fn route(&self, topic: &str) -> Option<TopicRoute<'_>> {
        let queues = self.topics.get(topic)?;
        let broker_datas: Vec<&BrokerData> =
            queues.keys().filter_map(|name| self.brokers.get(name)).collect();
        (!broker_datas.is_empty()).then(|| TopicRoute {
            broker_datas,
            filter_server_table: BTreeMap::new(),
            order_topic_conf: None,
            queue_datas: queues.values().collect(),
        })
    }

    /// All brokers, and the names in each cluster.
    #[must_use]
    pub fn cluster_info(&self) -> ClusterInfo {
        let mut cluster_addr_table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for broker in self.brokers.values() {
            cluster_addr_table.entry(broker.cluster.clone()).or_default().insert(broker.broker_name.clone());
        }
        ClusterInfo { broker_addr_table: self.brokers.clone(), cluster_addr_table }
    }

    /// The addresses behind one broker name.
    #[must_use]
    pub fn member_group(&self, cluster: &str, broker_name: &str) -> BrokerMemberGroup {
        BrokerMemberGroup {
            broker_addrs: self.addrs(broker_name).cloned().unwrap_or_default(),
            broker_name: broker_name.to_owned(),
            cluster: cluster.to_owned(),
        }
    }

    /// The names of all topics, sorted.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        let mut names: Vec<String> = self.topics.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The topics that brokers of a cluster have, sorted.
    #[must_use]
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let has = |name: &String| self.brokers.get(name).is_some_and(|broker| broker.cluster == cluster);
        let of_cluster = self.topics.iter().filter(|(_, queues)| queues.keys().any(has));
        let mut names: Vec<String> = of_cluster.map(|(topic, _)| topic.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Adds the queues of a topic on brokers that are listed; ignores all of them when one is not.
    pub fn add_topic(&mut self, topic: &str, queues: Vec<QueueData>) {
        if queues.iter().all(|queue| self.brokers.contains_key(&queue.broker_name))
            && self.entries + queues.len() <= ROUTE_QUEUE_ENTRIES_MAX
        {
            for queue in queues {
                self.put_queue(topic, queue);
            }
        }
    }

    /// Forgets a topic on the brokers of one cluster, or on all.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Entry::Occupied(mut queues) = self.topics.entry(topic.to_owned()) else { return };
        let before = queues.get().len();
        let brokers = &self.brokers;
        queues.get_mut().retain(|name, _| match cluster {
            Some(cluster) => brokers.get(name).is_none_or(|broker| broker.cluster != cluster),
            None => false,
        });
        self.entries -= before - queues.get().len();
        if queues.get().is_empty() {
            queues.remove();
        }
    }

    /// Takes write permission from all topics of a broker, or gives it back; the number of topics.
    pub fn set_writable(&mut self, broker_name: &str, writable: bool) -> usize {
        self.change_perm(
            broker_name,
            |perm| if writable { perm::READ | perm::WRITE } else { perm & !perm::WRITE },
        )
    }

    fn addrs(&self, broker_name: &str) -> Option<&BTreeMap<i64, String>> {
        self.brokers.get(broker_name).map(|broker| &broker.broker_addrs)
    }

    /// Whether the id belongs to another address whose state version is newer.
    fn is_outdated(&self, registration: &Registration) -> bool {
        let holder =
            self.addrs(&registration.broker_name).and_then(|addrs| addrs.get(&registration.broker_id));
        holder.filter(|&addr| *addr != registration.broker_addr).is_some_and(|addr| {
            let live = self.live.get(&(registration.cluster.clone(), addr.clone()));
            live.is_some_and(|live| live.data_version.state_version > registration.data_version.state_version)
        })
    }

    fn check(&self, registration: &Registration, id_known: bool) -> Result<(), RegisterError> {
        let by_request = registration.origin != Origin::ThisNode;
        if by_request && !id_known && registration.topics.len() == 1 {
            return Err(RegisterError::SingleTopicFirst {
                broker_name: registration.broker_name.clone(),
                broker_addr: registration.broker_addr.clone(),
            });
        }
        let is_new = |topic: &&TopicConfig| {
            !self.topics.get(&topic.topic_name).is_some_and(|q| q.contains_key(&registration.broker_name))
        };
        let wanted = registration.topics.iter().filter(is_new).count();
        if self.entries + wanted > ROUTE_QUEUE_ENTRIES_MAX {
            return Err(RegisterError::Full { held: self.entries, wanted, limit: ROUTE_QUEUE_ENTRIES_MAX });
        }
        Ok(())
    }

    /// Lists the address under its id, and under no other.
    fn place_address(&mut self, registration: &Registration) {
        let broker = self.brokers.entry(registration.broker_name.clone()).or_default();
        broker.broker_name.clone_from(&registration.broker_name);
        broker.cluster.clone_from(&registration.cluster);
        broker.enable_acting_master = registration.enable_acting_master.unwrap_or_default();
        broker.zone_name.clone_from(&registration.zone_name);
        let addr = &registration.broker_addr;
        broker.broker_addrs.retain(|id, known| known != addr || *id == registration.broker_id);
        let displaced = broker.broker_addrs.insert(registration.broker_id, addr.clone());
        if let Some(displaced) = displaced.filter(|displaced| displaced != addr) {
            self.live.remove(&(registration.cluster.clone(), displaced));
        }
    }

    /// The leader does; in its absence the follower with the smallest id, of a version that knows of acting for it.
    fn speaks_for_topics(&self, registration: &Registration) -> bool {
        let smallest = self.addrs(&registration.broker_name).and_then(|addrs| addrs.keys().next());
        registration.broker_id == MASTER_ID
            || (registration.enable_acting_master.is_some() && smallest == Some(&registration.broker_id))
    }

    /// Takes over topics that are new here, or all when the version changed: so a wiped permission stays wiped until then.
    fn update_topics(&mut self, registration: &Registration, changed: bool) {
        let broker_name = &registration.broker_name;
        if registration.complete {
            let kept: BTreeSet<&str> = registration.topics.iter().map(|topic| &*topic.topic_name).collect();
            self.forget_topics_of(broker_name, |topic| kept.contains(topic));
        }
        let acts = registration.broker_id != MASTER_ID && registration.enable_acting_master == Some(true);
        for topic in &registration.topics {
            let known =
                self.topics.get(&topic.topic_name).is_some_and(|queues| queues.contains_key(broker_name));
            if known && !changed {
                continue;
            }
            let queue = QueueData {
                broker_name: broker_name.clone(),
                perm: if acts { topic.perm & !perm::WRITE } else { topic.perm },
                read_queue_nums: topic.read_queue_nums,
                topic_sys_flag: topic.topic_sys_flag,
                write_queue_nums: topic.write_queue_nums,
            };
            self.put_queue(&topic.topic_name, queue);
        }
    }

    fn leader_of(&self, registration: &Registration) -> Registered {
        if registration.broker_id == MASTER_ID {
            return Registered::default();
        }
        let master = self.addrs(&registration.broker_name).and_then(|addrs| addrs.get(&MASTER_ID));
        let live = master.and_then(|addr| self.live.get(&(registration.cluster.clone(), addr.clone())));
        live.map_or_else(Registered::default, |live| Registered {
            ha_server_addr: Some(live.ha_server_addr.clone()),
            master_addr: master.cloned(),
        })
    }

    fn put_queue(&mut self, topic: &str, queue: QueueData) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), BTreeMap::new());
        }
        let queues = self.topics.get_mut(topic).expect("just inserted");
        if queues.insert(queue.broker_name.clone(), queue).is_none() {
            self.entries += 1;
        }
    }

    /// Forgets the broker's topics, except for those that `keep` names.
    fn forget_topics_of(&mut self, broker_name: &str, keep: impl Fn(&str) -> bool) {
        let entries = &mut self.entries;
        self.topics.retain(|topic, queues| {
            if !keep(topic) && queues.remove(broker_name).is_some() {
                *entries -= 1;
            }
            !queues.is_empty()
        });
    }

    fn change_perm(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> usize {
        let queues = self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name));
        queues.map(|queue| queue.perm = change(queue.perm)).count()
    }

    fn unregister_where(&mut self, is_gone: impl Fn(&Live) -> bool) -> Vec<Gone> {
        let gone: Vec<(Address, String)> = self
            .live
            .iter()
            .filter(|(_, live)| is_gone(live))
            .map(|(address, live)| (address.clone(), live.broker_name.clone()))
            .collect();
        gone.iter().filter_map(|((cluster, addr), name)| self.unregister(cluster, addr, name)).collect()
    }
}

#[cfg(test)]
mod tests;
