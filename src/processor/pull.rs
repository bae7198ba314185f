//! PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361): reads of one queue, held while there is nothing new. Serve core.
//!
//! Records leave as they lie in the hot tail, counted and not copied. A read that needs the disk runs as a task of its own,
//! so that other requests of the same connection go on; its bytes count against the connection meanwhile.

use crate::remoting::field_text::FieldText;
use std::rc::Rc;
use std::time::{Duration, Instant};

use runtime::task;
use shards::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX, TAGS_PER_PULL_MAX};
use shards::message_store::{Get, GetRequest, GetResult, GetStatus, TagFilter};
use shards::position::QueueOffset;
use shards::record::properties::java_string_hash;

use crate::broker::held_pulls::HeldPull;
use crate::broker::{Broker, BrokerCell, name};
use crate::metrics::slow::Subject;
use crate::processor::{Call, Refusal, Served};
use crate::remoting::body::heartbeat::{MessageModel, SubscriptionData};
use crate::remoting::body::subscription_group::SubscriptionGroupConfig;
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::code::response;
use crate::remoting::header::pull::{PullHeader, pull_flag};

/// Longest time that a pull is held, whatever the client says: the longest that clients wait for an answer.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// Overdue pulls answered before other tasks of the core get their turn.
const OVERDUE_PER_TURN: usize = 64;

/// Serves a pull.
///
/// # Errors
/// The [`Refusal`] that the checks come to, in RocketMQ's order.
pub fn pull(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = PullHeader::parse(call.request)?;
    let broker = &mut *call.broker.borrow_mut();
    let group = group(broker, &header, call.now_ms)?;
    let topic = topic(broker, &header)?;
    let queue_id = queue_id(&header, &topic, call)?;
    let filter = filter(broker, &header, &group)?;
    if header.has(pull_flag::COMMIT_OFFSET) {
        let (group, topic) = (header.consumer_group, header.topic);
        broker.offsets.commit(group, topic, header.queue_id, header.commit_offset, call.now_ms);
    }
    let hold_until = header.has(pull_flag::SUSPEND).then(|| {
        let wanted_ms = u64::try_from(header.suspend_timeout_ms).unwrap_or(0);
        Instant::now() + Duration::from_millis(wanted_ms).min(HOLD_MAX)
    });
    let (topic_name, group_name) = (header.topic, header.consumer_group);
    let is_system = || broker.topics.is_system(topic_name) || name::is_system_group(group_name);
    let traffic = broker.traffic.group(topic_name, group_name, is_system);
    let pull = HeldPull {
        connection: Rc::clone(call.connection),
        reply_to: call.reply_to,
        topic,
        queue_id,
        offset: QueueOffset::from_i64(header.queue_offset).unwrap_or_default(),
        messages_max: u32::try_from(header.max_msg_nums).unwrap_or(0).clamp(1, PULL_MESSAGES_MAX),
        bytes_max: bytes_max(&header),
        filter,
        group_sys_flag: group.group_sys_flag,
        traffic,
    };
    if header.queue_offset < 0 {
        let result = before_the_first(broker, &pull);
        answer(&pull, header.queue_offset, result);
        return Ok(Served::Now);
    }
    read(broker, pull, hold_until);
    Ok(Served::Now)
}

fn bytes_max(header: &PullHeader<'_>) -> usize {
    let wanted =
        header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    wanted.unwrap_or(PULL_BYTES_MAX).min(PULL_BYTES_MAX)
}

fn group(
    broker: &mut Broker,
    header: &PullHeader<'_>,
    now_ms: i64,
) -> Result<Rc<SubscriptionGroupConfig>, Refusal> {
    let name = header.consumer_group;
    let Some(group) = broker.groups.find_or_create(name, now_ms) else {
        let remark = format!("subscription group [{name}] does not exist");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    };
    if !group.consume_enable {
        let remark = format!("subscription group no permission, {name}");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    Ok(group)
}

fn topic(broker: &Broker, header: &PullHeader<'_>) -> Result<Rc<TopicConfig>, Refusal> {
    let name = header.topic;
    let Some(topic) = broker.topics.get(name) else {
        return Err(no_topic(name));
    };
    if !topic.is_readable() {
        let remark = format!("the topic[{name}] pulling message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    Ok(Rc::clone(topic))
}

fn no_topic(name: &str) -> Refusal {
    Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist, apply first please!"))
}

fn queue_id(header: &PullHeader<'_>, topic: &TopicConfig, call: &Call<'_, '_>) -> Result<u32, Refusal> {
    u32::try_from(header.queue_id).ok().filter(|queue_id| *queue_id < topic.read_queue_nums).ok_or_else(
        || {
            let remark = format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[{}]",
                header.queue_id,
                header.topic,
                topic.read_queue_nums,
                call.connection.peer()
            );
            Refusal::new(response::INVALID_PARAMETER, remark)
        },
    )
}

/// What the consumer wants of the queue: as the request says, or as its group's heartbeat did.
fn filter(
    broker: &mut Broker,
    header: &PullHeader<'_>,
    group: &SubscriptionGroupConfig,
) -> Result<TagFilter, Refusal> {
    if header.has(pull_flag::SUBSCRIPTION) {
        return named_filter(broker, header);
    }
    let name = header.consumer_group;
    let Some(members) = broker.consumers.group(name) else {
        let remark = format!("the consumer's group info not exist: {name}");
        return Err(Refusal::new(response::SUBSCRIPTION_NOT_EXIST, remark));
    };
    if !group.consume_broadcast_enable && members.message_model == MessageModel::Broadcasting {
        let remark = format!("the consumer group[{name}] can not consume by broadcast way");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    if broker.groups.is_read_forbidden(name, header.topic) {
        let remark = format!("the consumer group[{name}] is forbidden for topic[{}]", header.topic);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let Some(subscription) = broker.consumers.subscription(name, header.topic).cloned() else {
        let remark = format!("the consumer's subscription not exist: group {name}, topic {}", header.topic);
        return Err(Refusal::new(response::SUBSCRIPTION_NOT_EXIST, remark));
    };
    if subscription.sub_version < header.sub_version {
        let remark = "the consumer's subscription not latest";
        return Err(Refusal::new(response::SUBSCRIPTION_NOT_LATEST, remark));
    }
    if subscription.is_by_tags() {
        return Ok(registered_filter(&subscription));
    }
    let SubscriptionData { expression_type, sub_string, .. } = &*subscription;
    property_filter(broker, expression_type, sub_string).map_err(|refusal| match refusal.code {
        response::SUBSCRIPTION_PARSE_FAILED => {
            let remark = "The broker's consumer filter data is not exist!Your expression may be wrong!";
            Refusal::new(response::FILTER_DATA_NOT_EXIST, format!("{remark} {}", refusal.remark))
        }
        _ => refusal,
    })
}

/// The filter that a request names.
fn named_filter(broker: &mut Broker, header: &PullHeader<'_>) -> Result<TagFilter, Refusal> {
    let expression = header.subscription.unwrap_or_default();
    let parsed = match header.expression_type.filter(|kind| !SubscriptionData::are_tags(kind)) {
        None => tag_filter(expression).ok_or_else(|| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, "")),
        Some(kind) => property_filter(broker, kind, expression),
    };
    parsed.map_err(|refusal| match refusal.code {
        response::SUBSCRIPTION_PARSE_FAILED => {
            let remark = format!("parse the consumer's subscription failed {}", refusal.remark);
            Refusal::new(refusal.code, remark.trim_end())
        }
        _ => refusal,
    })
}

/// The filter for an expression of a kind other than tags.
///
/// # Errors
/// SYSTEM_ERROR when such filters are switched off, SUBSCRIPTION_PARSE_FAILED when the expression is none.
pub(super) fn property_filter(
    broker: &mut Broker,
    kind: &str,
    expression: &str,
) -> Result<TagFilter, Refusal> {
    if !broker.settings.enable_property_filter {
        let remark = format!("The broker does not support consumer to filter message by {kind}");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    if kind != SubscriptionData::SQL92 {
        let remark = format!("there are no filters of the kind {kind}, only TAG and SQL92");
        return Err(Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark));
    }
    match broker.expressions.filter(expression) {
        Ok(filter) => Ok(TagFilter::Properties(filter)),
        Err(error) => Err(Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string())),
    }
}

fn registered_filter(subscription: &SubscriptionData) -> TagFilter {
    match subscription.sub_string.as_str() {
        "" | "*" => TagFilter::All,
        _ => TagFilter::Codes(subscription.code_set.iter().map(|code| i64::from(*code)).collect()),
    }
}

/// Reads `a || b`; `None` when there are only separators, or too many tags.
pub fn tag_filter(expression: &str) -> Option<TagFilter> {
    if expression.is_empty() || expression == "*" {
        return Some(TagFilter::All);
    }
    let parts = expression.split("||");
    if parts.clone().all(str::is_empty) || parts.clone().count() > TAGS_PER_PULL_MAX {
        return None;
    }
    let tags = parts.map(str::trim).filter(|tag| !tag.is_empty());
    Some(TagFilter::Codes(tags.map(|tag| i64::from(java_string_hash(tag))).collect()))
}

/// Reads once more for a pull that was held. It is not held again.
pub(super) fn read_again(broker: &mut Broker, pull: HeldPull) {
    if broker.topics.contains(&pull.topic.topic_name) {
        read(broker, pull, None);
    } else {
        no_topic(&pull.topic.topic_name).send(&pull.connection, pull.reply_to);
    }
}

/// Reads and answers; or holds the pull, if it may be; or leaves the answer to a task that reads the disk.
fn read(broker: &mut Broker, pull: HeldPull, hold_until: Option<Instant>) {
    let request = GetRequest {
        topic: &pull.topic.topic_name,
        queue_id: pull.queue_id,
        offset: pull.offset,
        messages_max: pull.messages_max,
        bytes_max: pull.bytes_max,
        filter: &pull.filter,
    };
    match broker.store.get(&request) {
        Get::Ready(result) => {
            if result.messages > 0 {
                broker.traffic.read(true);
            }
            answer_or_hold(broker, pull, result, hold_until);
        }
        Get::Cold(cold) => {
            broker.traffic.read(false);
            let (observer, began) = (Rc::clone(&broker.observer), Instant::now());
            // Not what the client named: the first message is given whatever its size.
            let reserved_bytes = PULL_BYTES_MAX;
            pull.connection.add_in_flight(reserved_bytes);
            task::spawn(async move {
                let result = cold.run().await;
                pull.connection.sub_in_flight(reserved_bytes);
                match result {
                    // Not held whatever came out: what arrived during the read has not woken it.
                    Ok(result) => {
                        let subject = Subject {
                            request: "pull",
                            topic: Rc::clone(&pull.traffic.topic),
                            queue_id: pull.queue_id,
                            peer: pull.connection.peer(),
                            records: result.messages,
                            bytes: result.bytes,
                        };
                        answer(&pull, pull.offset.to_i64(), result);
                        observer.read_from_disk(began, subject);
                    }
                    Err(error) => {
                        tracing::error!(topic = %pull.topic.topic_name, queue_id = pull.queue_id, offset = %pull.offset, %error,
                            "a pull could not be read");
                        let refusal = Refusal::new(response::SYSTEM_ERROR, error.to_string());
                        refusal.send(&pull.connection, pull.reply_to);
                    }
                }
            });
        }
    }
}

fn answer_or_hold(broker: &mut Broker, pull: HeldPull, result: GetResult, hold_until: Option<Instant>) {
    let asked = pull.offset.to_i64();
    let held = match hold_until {
        Some(deadline)
            if code(result.status, asked) == response::PULL_NOT_FOUND && !pull.connection.is_closed() =>
        {
            broker.held_pulls.hold(pull, deadline)
        }
        _ => Err(pull),
    };
    if let Err(pull) = held {
        answer(&pull, asked, result);
    }
}

/// What a client is told when it asks for an offset below zero.
fn before_the_first(broker: &Broker, pull: &HeldPull) -> GetResult {
    let bounds = broker.store.bounds(&pull.topic.topic_name, pull.queue_id);
    let status = if bounds.is_some() { GetStatus::OffsetTooSmall } else { GetStatus::NoMatchedLogicQueue };
    let bounds = bounds.unwrap_or_default();
    GetResult {
        status,
        next_begin_offset: bounds.min,
        min_offset: bounds.min,
        max_offset: bounds.max,
        records: Vec::new(),
        bytes: 0,
        messages: 0,
    }
}

/// The response code of a read's status; `asked` is the offset that the client named.
fn code(status: GetStatus, asked: i64) -> i32 {
    match status {
        GetStatus::Found => response::SUCCESS,
        GetStatus::NoMatchedMessage | GetStatus::MessageWasRemoving => response::PULL_RETRY_IMMEDIATELY,
        GetStatus::NoMatchedLogicQueue | GetStatus::NoMessageInQueue if asked != 0 => {
            response::PULL_OFFSET_MOVED
        }
        GetStatus::NoMatchedLogicQueue
        | GetStatus::NoMessageInQueue
        | GetStatus::OffsetFoundNull
        | GetStatus::OffsetOverflowOne => response::PULL_NOT_FOUND,
        GetStatus::OffsetOverflowBadly | GetStatus::OffsetTooSmall | GetStatus::OffsetReset => {
            response::PULL_OFFSET_MOVED
        }
    }
}

fn answer(pull: &HeldPull, asked: i64, result: GetResult) {
    let ext: [(&str, &dyn FieldText); 6] = [
        // 0: the leader, this broker.
        ("suggestWhichBrokerId", &0),
        ("nextBeginOffset", &result.next_begin_offset.get()),
        ("minOffset", &result.min_offset.get()),
        ("maxOffset", &result.max_offset.get()),
        ("topicSysFlag", &pull.topic.topic_sys_flag),
        ("groupSysFlag", &pull.group_sys_flag),
    ];
    let code = code(result.status, asked);
    pull.traffic.delivered(result.messages, result.bytes);
    pull.connection.reply_pieces(pull.reply_to, code, Some(result.status.name()), &ext, result.records);
}

/// Answers held pulls whose time is over, until the broker closes.
pub async fn answer_overdue(cell: BrokerCell) {
    let moved = cell.borrow().held_pulls.deadline_moved();
    while !cell.borrow().is_closed() {
        let next = cell.borrow().held_pulls.next_deadline();
        let now = Instant::now();
        match next {
            None => moved.wait().await,
            Some(deadline) if deadline > now => {
                moved.wait_at_most(deadline - now).await;
            }
            Some(_) => {
                answer_due(&cell, now);
                task::yield_if_needed().await;
            }
        }
    }
}

/// Answers some of the pulls whose time is over at `now`.
pub(super) fn answer_due(cell: &BrokerCell, now: Instant) {
    let broker = &mut *cell.borrow_mut();
    for _ in 0..OVERDUE_PER_TURN {
        let Some(pull) = broker.held_pulls.take_due(now) else { return };
        read_again(broker, pull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_read_as_rocketmq_reads_them() {
        let codes = |tags: &[&str]| {
            Some(TagFilter::Codes(tags.iter().map(|tag| i64::from(java_string_hash(tag))).collect()))
        };
        assert_eq!(tag_filter(""), Some(TagFilter::All));
        assert_eq!(tag_filter("*"), Some(TagFilter::All));
        assert_eq!(tag_filter("TagA"), codes(&["TagA"]));
        assert_eq!(tag_filter("TagA||TagB"), codes(&["TagA", "TagB"]));
        assert_eq!(tag_filter(" TagA || 标签 ||"), codes(&["TagA", "标签"]));
        assert_eq!(tag_filter("||"), None);
        assert!(tag_filter(&"a||".repeat(TAGS_PER_PULL_MAX - 1)).is_some());
        assert_eq!(tag_filter(&"a||".repeat(TAGS_PER_PULL_MAX)), None, "a held pull would keep them all");
        assert_eq!(tag_filter(" "), codes(&[]), "matches nothing");
    }

    #[test]
    fn a_status_has_rocketmqs_code() {
        use GetStatus as S;
        let rows = [
            (S::Found, 5, 0),
            (S::NoMatchedMessage, 5, 20),
            (S::MessageWasRemoving, 5, 20),
            (S::NoMatchedLogicQueue, 0, 19),
            (S::NoMatchedLogicQueue, 5, 21),
            (S::NoMessageInQueue, 0, 19),
            (S::NoMessageInQueue, -1, 21),
            (S::OffsetFoundNull, 5, 19),
            (S::OffsetOverflowOne, 5, 19),
            (S::OffsetOverflowBadly, 5, 21),
            (S::OffsetTooSmall, 0, 21),
            (S::OffsetReset, 5, 21),
        ];
        for (status, asked, expected) in rows {
            assert_eq!(code(status, asked), expected, "{status:?} for offset {asked}");
        }
    }
}
