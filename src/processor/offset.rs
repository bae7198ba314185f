//! Offsets of groups (QUERY_CONSUMER_OFFSET, UPDATE_CONSUMER_OFFSET) and of queues (GET_MAX_OFFSET, GET_MIN_OFFSET,
//! GET_EARLIEST_MSG_STORETIME, SEARCH_OFFSET_BY_TIMESTAMP).

use std::rc::Rc;

use shards::limits::QUEUES_PER_TOPIC_MAX;
use shards::message_store::TimeBoundary;
use shards::position::QueueOffset;

use super::{Call, Refusal, Served};
use crate::broker::Broker;
use crate::remoting::code::response;
use crate::remoting::header::offset::{
    QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader, UpdateConsumerOffsetHeader,
};

/// QUERY_CONSUMER_OFFSET (14). For a group that never committed, the answer decides where it starts: 0 in a queue that is still
/// whole and recent, so that a group that comes with a new topic misses nothing; elsewhere "not found", upon which the
/// client does as its `consumeFromWhere` says.
pub fn query(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = QueryConsumerOffsetHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    if let Some(offset) = broker.offsets.get(header.consumer_group, header.topic, header.queue_id)
        && offset >= 0
    {
        return call.ok(&[("offset", &offset)], &[]);
    }
    if header.set_zero_if_not_found == Some(false) {
        let remark = "Not found, do not set to zero, maybe this group boot first";
        return Err(Refusal::new(response::QUERY_NOT_FOUND, remark));
    }
    if starts_at_zero(&broker, header.topic, header.queue_id) {
        return call.ok(&[("offset", &0)], &[]);
    }
    let remark = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
    Err(Refusal::new(response::QUERY_NOT_FOUND, remark))
}

/// Whether nothing of a queue has been removed and its first message, if there is one, is recent. A queue that is still empty
/// counts: a message that comes now would otherwise be missed by a group that starts at the end.
fn starts_at_zero(broker: &Broker, topic: &str, queue_id: i32) -> bool {
    let Ok(queue_id) = u32::try_from(queue_id) else { return false };
    let exists = broker.topics.get(topic).is_some_and(|config| queue_id < config.read_queue_nums);
    let bounds = broker.store.bounds(topic, queue_id).unwrap_or_default();
    let is_whole = exists && bounds.min == QueueOffset::ZERO;
    is_whole
        && (bounds.max == QueueOffset::ZERO || broker.store.is_recent(topic, queue_id, QueueOffset::ZERO))
}

/// UPDATE_CONSUMER_OFFSET (15). Any value is taken, also one that goes back.
pub fn update(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = UpdateConsumerOffsetHeader::parse(call.request)?;
    let broker = &mut *call.broker.borrow_mut();
    if !broker.groups.contains_or_may_create(header.consumer_group) {
        let remark = format!("Group {} not exist!", header.consumer_group);
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    if !broker.topics.contains(header.topic) {
        let remark = format!("Topic {} not exist!", header.topic);
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
    }
    // A topic that has fewer queues since still lets a group say where it was in the others.
    if !u32::try_from(header.queue_id).is_ok_and(|queue_id| queue_id < QUEUES_PER_TOPIC_MAX) {
        let remark = format!("queueId {} of topic {} is none that may be", header.queue_id, header.topic);
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    broker.groups.find_or_create(header.consumer_group, call.now_ms);
    broker.offsets.commit(
        header.consumer_group,
        header.topic,
        header.queue_id,
        header.commit_offset,
        call.now_ms,
    );
    call.ok(&[], &[])
}

/// GET_MAX_OFFSET (30): the offset that the queue's next message gets; 0 for a queue without messages.
pub fn max(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let queue = QueueHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let bounds = queue_id(&queue).and_then(|id| broker.store.bounds(queue.topic, id)).unwrap_or_default();
    call.ok(&[("offset", &bounds.max.get())], &[])
}

/// GET_MIN_OFFSET (31).
pub fn min(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let queue = QueueHeader::parse(call.request)?;
    let broker = call.broker.borrow();
    let bounds = queue_id(&queue).and_then(|id| broker.store.bounds(queue.topic, id)).unwrap_or_default();
    call.ok(&[("offset", &bounds.min.get())], &[])
}

/// GET_EARLIEST_MSG_STORETIME (32): -1 for a queue without messages.
pub fn earliest_store_time(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let queue = QueueHeader::parse(call.request)?;
    let bounds = {
        let broker = call.broker.borrow();
        queue_id(&queue).and_then(|id| Some((id, broker.store.bounds(queue.topic, id)?)))
    };
    let Some((queue_id, bounds)) = bounds.filter(|(_, bounds)| bounds.min < bounds.max) else {
        return call.ok(&[("timestamp", &-1)], &[]);
    };
    let read = call.broker.borrow().store.store_time(queue.topic, queue_id, bounds.min);
    let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
    call.answer_later(async move {
        match read.await {
            Ok(time) => {
                let time = time.unwrap_or(-1);
                connection.reply(reply_to, response::SUCCESS, None, &[("timestamp", &time)], &[]);
            }
            Err(error) => {
                connection.reply(reply_to, response::SYSTEM_ERROR, Some(&error.to_string()), &[], &[]);
            }
        }
    })
}

/// SEARCH_OFFSET_BY_TIMESTAMP (29).
pub fn search(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = SearchOffsetHeader::parse(call.request)?;
    let boundary = if header.wants_upper() { TimeBoundary::Upper } else { TimeBoundary::Lower };
    let Ok(queue_id) = u32::try_from(header.queue_id) else {
        return call.ok(&[("offset", &0)], &[]);
    };
    let search =
        call.broker.borrow().store.offset_by_time(header.topic, queue_id, header.timestamp_ms, boundary);
    let (connection, reply_to) = (Rc::clone(call.connection), call.reply_to);
    call.answer_later(async move {
        match search.await {
            Ok(offset) => {
                connection.reply(reply_to, response::SUCCESS, None, &[("offset", &offset.get())], &[])
            }
            Err(error) => {
                connection.reply(reply_to, response::SYSTEM_ERROR, Some(&error.to_string()), &[], &[]);
            }
        }
    })
}

fn queue_id(header: &QueueHeader<'_>) -> Option<u32> {
    u32::try_from(header.queue_id).ok()
}
