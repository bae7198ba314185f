//! What the name server says: routes of topics, brokers of the cluster, names of topics. Read leniently, as different name servers
//! write them.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connection::Answer;
use super::error::ClientError;
use crate::remoting::body::topic::perm;
use crate::remoting::fastjson;

/// The broker id of a master.
const MASTER_ID: &str = "0";

/// Where a topic's queues are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TopicRoute {
    pub topic: String,
    pub queues: Vec<QueueNumbers>,
    pub brokers: Vec<BrokerAddresses>,
}

/// How many queues a topic has on one broker, and what may be done with them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueNumbers {
    pub broker_name: String,
    pub read_queue_nums: u32,
    pub write_queue_nums: u32,
    pub perm: i32,
}

/// The addresses of one broker name: by broker id, `0` is the master.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerAddresses {
    pub cluster: String,
    pub broker_name: String,
    pub broker_addrs: BTreeMap<String, String>,
}

/// All brokers that a name server knows.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    pub broker_addr_table: BTreeMap<String, BrokerAddresses>,
}

/// One queue and the address of the broker that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Queue {
    pub topic: String,
    pub broker_name: String,
    pub addr: String,
    pub queue_id: u32,
}

/// The route as it is on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RouteBody {
    queue_datas: Vec<QueueNumbers>,
    broker_datas: Vec<BrokerAddresses>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TopicListBody {
    topic_list: Vec<String>,
}

impl TopicRoute {
    pub(super) fn parse(answer: &Answer, topic: &str) -> Result<Self, ClientError> {
        let body: RouteBody = parse_body(answer, "a route")?;
        let mut route =
            Self { topic: topic.to_owned(), queues: body.queue_datas, brokers: body.broker_datas };
        route.queues.sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
        Ok(route)
    }

    /// The queues that messages can be sent to, sorted by broker and id; none of brokers without a master.
    pub fn write_queues(&self) -> Vec<Queue> {
        self.listed(perm::WRITE, |numbers| numbers.write_queue_nums)
    }

    /// The queues that messages can be read from, sorted by broker and id.
    pub fn read_queues(&self) -> Vec<Queue> {
        self.listed(perm::READ, |numbers| numbers.read_queue_nums)
    }

    fn listed(&self, needed: i32, count: impl Fn(&QueueNumbers) -> u32) -> Vec<Queue> {
        let masters: BTreeMap<_, _> = self.masters().into_iter().collect();
        let mut queues = Vec::new();
        for numbers in self.queues.iter().filter(|numbers| numbers.perm & needed != 0) {
            let Some(addr) = masters.get(&numbers.broker_name) else { continue };
            queues.extend((0..count(numbers)).map(|queue_id| Queue {
                topic: self.topic.clone(),
                broker_name: numbers.broker_name.clone(),
                addr: addr.clone(),
                queue_id,
            }));
        }
        queues
    }

    /// Name and address of each broker's master, sorted by name.
    pub fn masters(&self) -> Vec<(String, String)> {
        masters(&self.brokers)
    }

    /// This route read as the one that a new topic will have.
    pub(super) fn into_template_for(mut self, topic: &str, queues_max: u32) -> Self {
        topic.clone_into(&mut self.topic);
        for numbers in &mut self.queues {
            numbers.read_queue_nums = numbers.read_queue_nums.min(queues_max);
            numbers.write_queue_nums = numbers.write_queue_nums.min(queues_max);
        }
        self
    }
}

impl ClusterInfo {
    pub(super) fn parse(answer: &Answer) -> Result<Self, ClientError> {
        parse_body(answer, "a list of brokers")
    }

    /// Name and address of each broker's master, sorted by name.
    pub fn masters(&self) -> Vec<(String, String)> {
        masters(self.broker_addr_table.values())
    }
}

fn masters<'a>(brokers: impl IntoIterator<Item = &'a BrokerAddresses>) -> Vec<(String, String)> {
    let mut found: Vec<_> = brokers
        .into_iter()
        .filter_map(|broker| Some((broker.broker_name.clone(), broker.broker_addrs.get(MASTER_ID)?.clone())))
        .collect();
    found.sort();
    found
}

pub(super) fn parse_topic_list(answer: &Answer) -> Result<Vec<String>, ClientError> {
    let mut list: TopicListBody = parse_body(answer, "a list of topics")?;
    list.topic_list.sort();
    Ok(list.topic_list)
}

fn parse_body<T: DeserializeOwned + Default>(answer: &Answer, what: &'static str) -> Result<T, ClientError> {
    if answer.body().is_empty() {
        return Ok(T::default());
    }
    fastjson::read(what, answer.body()).map_err(|error| answer.bad_body(what, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_brokers() -> TopicRoute {
        let broker = |name: &str, id: &str, addr: &str| BrokerAddresses {
            cluster: "c".into(),
            broker_name: name.into(),
            broker_addrs: [(id.to_owned(), addr.to_owned())].into(),
        };
        let numbers = |name: &str, perm| QueueNumbers {
            broker_name: name.into(),
            read_queue_nums: 2,
            write_queue_nums: 1,
            perm,
        };
        TopicRoute {
            topic: "t".into(),
            queues: vec![numbers("a", 6), numbers("b", 4), numbers("c", 6)],
            brokers: vec![broker("b", "0", "h:2"), broker("a", "0", "h:1"), broker("c", "1", "h:3")],
        }
    }

    #[test]
    fn lists_writable_queues_of_masters_only() {
        let queues = two_brokers().write_queues();
        assert_eq!(queues.len(), 1);
        assert_eq!(
            (queues[0].broker_name.as_str(), queues[0].addr.as_str(), queues[0].queue_id),
            ("a", "h:1", 0)
        );
        assert_eq!(two_brokers().read_queues().len(), 4);
    }
}
