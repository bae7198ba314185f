//! What tools ask of a broker beyond topics: how it is, who is connected, groups and their progress.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use shards::message_store::QueueBounds;

use super::{Call, Refusal, Served};
use crate::broker::consumer_table::Member;
use crate::broker::{Broker, BrokerCell};
use crate::remoting::body::group::{ConsumerConnection, GroupList, MemberConnection, ProducerConnection};
use crate::remoting::body::heartbeat::SubscriptionData;
use crate::remoting::body::queue::MessageQueue;
use crate::remoting::body::stats::{ConsumeStats, KVTable, OffsetWrapper, TopicOffset, TopicStatsTable};
use crate::remoting::body::subscription_group::SubscriptionGroupConfig;
use crate::remoting::code::{language, response};
use crate::remoting::fastjson::{self, ObjectKeyed};
use crate::remoting::header::admin::{DeleteGroupHeader, GroupHeader, TopicHeader};
use crate::remoting::header::client::{ConsumeStatsHeader, ConsumerGroupHeader, ProducerGroupHeader};
use crate::remoting::response::ReplyTo;
use crate::transport::Connection;
use shards::side_writer::ConfigWriteError;

/// The release of RocketMQ whose behaviour this broker has, as tools read it: its ordinal and its name.
const VERSION_ORDINAL: i32 = 479;
const VERSION_NAME: &str = "V5_3_3";

/// GET_BROKER_RUNTIME_INFO (28). Tools need the keys that RocketMQ has; figures that this broker does not keep are 0.
pub fn runtime_info(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let table = runtime_table(&call.broker.borrow(), call.now_ms);
    call.ok(&[], &fastjson::write(&KVTable { table }))
}

fn runtime_table(broker: &Broker, now_ms: i64) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut put = |key: &str, value: String| drop(table.insert(key.to_owned(), value));
    put("brokerVersion", VERSION_ORDINAL.to_string());
    put("brokerVersionDesc", VERSION_NAME.to_owned());
    put("brokerActive", "true".to_owned());
    put("bootTimestamp", broker.opened_ms.to_string());
    put("runtime", runtime_text(now_ms - broker.opened_ms));
    put("commitLogMinOffset", broker.store.load().log_min.to_string());
    put("commitLogMaxOffset", broker.store.confirm_offset().to_string());
    put("commitLogDiskRatio", (broker.disk.usage().used_percent() / 100.0).to_string());
    // This broker's own figures.
    put("ringmq.appendsWaiting", broker.appends.waiting().to_string());
    put("ringmq.appendQueuedBytes", broker.appends.queued_bytes().to_string());
    put("ringmq.heldPulls", broker.held_pulls.len().to_string());
    put("ringmq.consumers", broker.consumers.len().to_string());
    put("ringmq.producers", broker.producers.len().to_string());
    put("ringmq.derivedBacklogEntries", broker.store.derived_backlog_entries().to_string());
    for (core, stall_ms) in broker.outside.longest_stalls_ms().into_iter().enumerate() {
        put(&format!("ringmq.core.{core}.longestStallMs"), stall_ms.to_string());
    }
    table
}

/// How long a broker has been up, as RocketMQ's tools print it.
fn runtime_text(up_ms: i64) -> String {
    let seconds = up_ms.max(0) / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]")
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP (200): answered when durable.
pub fn put_group(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let config: SubscriptionGroupConfig = call.request.json_body("SubscriptionGroupConfig")?;
    call.broker
        .borrow_mut()
        .groups
        .put(config, call.now_ms)
        .map_err(|error| Refusal::new(response::INVALID_PARAMETER, error.to_string()))?;
    Ok(answer_when_groups_durable(call))
}

/// DELETE_SUBSCRIPTIONGROUP (207): answered when durable.
pub fn delete_group(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = DeleteGroupHeader::parse(call.request)?;
    {
        let broker = &mut *call.broker.borrow_mut();
        broker.groups.remove(header.group_name, call.now_ms);
        broker.traffic.forget_group(header.group_name);
        if header.clean_offset {
            broker.offsets.remove_group(header.group_name, call.now_ms);
        }
    }
    Ok(answer_when_groups_durable(call))
}

fn answer_when_groups_durable(call: &Call<'_, '_>) -> Served {
    let generation = call.broker.borrow().groups.generation();
    let (broker, connection, reply_to) = (Rc::clone(call.broker), Rc::clone(call.connection), call.reply_to);
    Served::Later(Box::pin(async move {
        let held = Broker::hold_groups(&broker, generation).await;
        answer_written(held, &connection, reply_to);
    }))
}

fn answer_written(written: Result<(), ConfigWriteError>, connection: &Connection, reply_to: ReplyTo) {
    match written {
        Ok(()) => connection.reply(reply_to, response::SUCCESS, None, &[], &[]),
        Err(error) => Refusal::new(response::SYSTEM_ERROR, error.to_string()).send(connection, reply_to),
    }
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201).
pub fn all_groups(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let broker = call.broker.borrow();
    call.ok(&[("totalGroupNum", &broker.groups.len())], &broker.groups.to_file())
}

/// GET_SUBSCRIPTIONGROUP_CONFIG (352).
pub fn group(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = GroupHeader::parse(call.request)?;
    match call.broker.borrow_mut().groups.find_or_create(header.group, call.now_ms) {
        Some(config) => call.ok(&[], &fastjson::write(&*config)),
        None => Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, "No group in this broker")),
    }
}

/// GET_CONSUMER_CONNECTION_LIST (203).
pub fn consumer_connections(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = ConsumerGroupHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let Some(group) = broker.consumers.group(header.consumer_group) else {
        let remark = format!("the consumer group[{}] not online", header.consumer_group);
        return Err(Refusal::new(response::CONSUMER_NOT_ONLINE, remark));
    };
    let subscription =
        |(topic, subscription): (&String, &Rc<SubscriptionData>)| (topic.clone(), (**subscription).clone());
    let body = ConsumerConnection {
        connection_set: group.members().map(member_connection).collect(),
        consume_from_where: group.consume_from_where.clone(),
        consume_type: group.consume_type,
        message_model: group.message_model,
        subscription_table: group.subscriptions().iter().map(subscription).collect(),
    };
    call.ok(&[], &fastjson::write(&body))
}

/// GET_PRODUCER_CONNECTION_LIST (204).
pub fn producer_connections(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = ProducerGroupHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let Some(members) = broker.producers.members(header.producer_group) else {
        let remark = format!("the producer group[{}] not exist", header.producer_group);
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    };
    let body = ProducerConnection { connection_set: members.map(member_connection).collect() };
    call.ok(&[], &fastjson::write(&body))
}

fn member_connection(member: &Rc<Member>) -> MemberConnection {
    MemberConnection {
        client_addr: member.connection.peer().to_string(),
        client_id: member.client_id.clone(),
        language: language::name(member.language).to_owned(),
        version: member.version,
    }
}

/// QUERY_TOPIC_CONSUME_BY_WHO (300): groups that are connected for a topic or have offsets of it.
pub fn groups_of_topic(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = TopicHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let connected =
        broker.consumers.groups().filter(|(_, group)| group.subscriptions().contains_key(header.topic));
    let mut group_list: Vec<String> = connected.map(|(name, _)| name.to_owned()).collect();
    group_list.extend(broker.offsets.groups_of(header.topic).map(str::to_owned));
    group_list.sort_unstable();
    group_list.dedup();
    call.ok(&[], &fastjson::write(&GroupList { group_list }))
}

/// GET_TOPIC_STATS_INFO (202).
pub fn topic_stats(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = TopicHeader::parse(call.request)?;
    let queues = {
        let broker = call.broker.borrow();
        let Some(config) = broker.topics.get(header.topic) else {
            let remark = format!("topic[{}] not exist", header.topic);
            return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
        };
        queues_of(&broker, header.topic, config.read_queue_nums.max(config.write_queue_nums))
    };
    let (broker, connection, reply_to) = (Rc::clone(call.broker), Rc::clone(call.connection), call.reply_to);
    call.answer_later(async move {
        let mut rows = Vec::with_capacity(queues.len());
        for (queue, bounds) in queues {
            let last_update_timestamp = last_store_time(&broker, &queue, bounds.max.to_i64()).await;
            let (min_offset, max_offset) = (bounds.min.to_i64(), bounds.max.to_i64());
            rows.push((queue, TopicOffset { last_update_timestamp, max_offset, min_offset }));
        }
        let body = TopicStatsTable { offset_table: ObjectKeyed(rows), topic_put_tps: 0.0 };
        connection.reply(reply_to, response::SUCCESS, None, &[], &body.encode());
    })
}

/// GET_CONSUME_STATS (208): how far a group is, for one topic, several, or all that it has offsets of.
pub fn consume_stats(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = ConsumeStatsHeader::parse(call.request)?;
    let queues: Vec<(MessageQueue, QueueBounds, i64)> = {
        let broker = call.broker.borrow();
        let mut rows = Vec::new();
        for topic in topics_of_stats(&broker, &header) {
            let Some(config) = broker.topics.get(topic) else { continue };
            for (queue, bounds) in queues_of(&broker, topic, config.read_queue_nums) {
                let consumed = broker.offsets.get(header.consumer_group, topic, queue.queue_id);
                rows.push((queue, bounds, consumed.unwrap_or(0).max(0)));
            }
        }
        rows
    };
    let (broker, connection, reply_to) = (Rc::clone(call.broker), Rc::clone(call.connection), call.reply_to);
    call.answer_later(async move {
        let mut rows = Vec::with_capacity(queues.len());
        for (queue, bounds, consumer_offset) in queues {
            let last_timestamp = last_store_time(&broker, &queue, consumer_offset).await;
            let broker_offset = bounds.max.to_i64();
            let pull_offset = consumer_offset;
            rows.push((queue, OffsetWrapper { broker_offset, consumer_offset, last_timestamp, pull_offset }));
        }
        let body = ConsumeStats { consume_tps: 0.0, offset_table: ObjectKeyed(rows) };
        connection.reply(reply_to, response::SUCCESS, None, &[], &body.encode());
    })
}

/// Which topics a request for progress is about. A topic that a connected group does not subscribe to any more is left out
/// unless it was named in the list.
fn topics_of_stats<'b>(broker: &'b Broker, header: &ConsumeStatsHeader<'b>) -> Vec<&'b str> {
    let listed = header.topic_list.unwrap_or_default();
    if !listed.is_empty() {
        // Each once: a list is as long as a frame may be, and each topic has many queues.
        let topics: BTreeSet<&str> = listed.split(';').filter(|topic| !topic.is_empty()).collect();
        return topics.into_iter().collect();
    }
    let group = header.consumer_group;
    let subscribed = broker.consumers.group(group).map(|group| group.subscriptions());
    let is_current =
        |topic: &&str| subscribed.is_none_or(|topics| topics.is_empty() || topics.contains_key(*topic));
    match header.topic {
        Some(topic) if !topic.is_empty() => Some(topic).into_iter().filter(is_current).collect(),
        _ => broker.offsets.topics_of(group).filter(is_current).collect(),
    }
}

fn queues_of(broker: &Broker, topic: &str, count: u32) -> Vec<(MessageQueue, QueueBounds)> {
    let row = |id: u32| {
        let queue = MessageQueue {
            broker_name: broker.identity.broker_name.clone(),
            queue_id: id.cast_signed(),
            topic: topic.to_owned(),
        };
        (queue, broker.store.bounds(topic, id).unwrap_or_default())
    };
    (0..count).map(row).collect()
}

/// When the message before `offset` was stored, milliseconds since the epoch; 0 when there is none.
async fn last_store_time(broker: &BrokerCell, queue: &MessageQueue, offset: i64) -> i64 {
    let Some(last) = shards::position::QueueOffset::from_i64(offset - 1) else { return 0 };
    let read = broker.borrow().store.store_time(&queue.topic, queue.queue_id.cast_unsigned(), last);
    match read.await {
        Ok(time) => time.unwrap_or(0),
        Err(error) => {
            tracing::warn!(%error, ?queue, "cannot tell when the last message was stored");
            0
        }
    }
}
