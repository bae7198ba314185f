//! What a run is aimed at: the topic's queues, broker by broker, found through the name server, and the brokers' processes when
//! they run on this machine.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use ringmq::client::{Client, Queue, TopicRoute, TopicSpec};

use crate::error::BenchError;
use crate::generator::BrokerTarget;
use crate::process_cpu::listener_of;

/// Queues that a new topic gets on each broker unless told otherwise.
pub const NEW_TOPIC_QUEUES: u32 = 8;
/// How long a new topic may take until the name server lists it.
const ROUTE_WAIT: Duration = Duration::from_secs(10);

/// The route of a topic that messages are to be sent to. A missing topic is created with `queues` queues on each broker;
/// with `queues` given, a topic that has another number of queues is changed.
///
/// # Errors
/// The name server or a broker cannot be reached or refuses, or the topic has no queues to write to.
pub fn producing_route(
    client: &mut Client,
    topic: &str,
    queues: Option<u32>,
) -> Result<TopicRoute, BenchError> {
    let wanted = |route: &TopicRoute| {
        queues.is_none_or(|queues| route.queues.iter().all(|numbers| numbers.write_queue_nums == queues))
    };
    if let Some(route) = client.route(topic)?.filter(wanted) {
        return Ok(route);
    }
    let created =
        client.create_topic(TopicSpec { name: topic, queues: queues.unwrap_or(NEW_TOPIC_QUEUES) })?.len();
    let deadline = Instant::now() + ROUTE_WAIT;
    while Instant::now() < deadline {
        let route = client.route(topic)?;
        if let Some(route) = route.filter(|route| route.queues.len() >= created && wanted(route)) {
            return Ok(route);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(BenchError::NoQueues { topic: topic.to_owned(), purpose: "write to" })
}

/// Queues grouped by their broker, brokers sorted by name.
pub fn by_broker(queues: &[Queue]) -> Vec<BrokerTarget> {
    let mut brokers: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    for queue in queues {
        brokers.entry((&queue.broker_name, &queue.addr)).or_default().push(queue.queue_id);
    }
    brokers
        .into_iter()
        .map(|((name, addr), queue_ids)| BrokerTarget {
            name: name.to_owned(),
            addr: addr.to_owned(),
            queue_ids,
        })
        .collect()
}

/// The processes of the brokers: those given, otherwise those that listen on the brokers' addresses on this machine.
pub fn broker_pids(given: &[u32], brokers: &[BrokerTarget]) -> Vec<u32> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let mut pids: Vec<u32> = brokers
        .iter()
        .filter_map(|broker| listener_of(broker.addr.to_socket_addrs().ok()?.next()?))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}
