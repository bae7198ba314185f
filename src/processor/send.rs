//! SEND_MESSAGE (10), SEND_MESSAGE_V2 (310) and SEND_BATCH_MESSAGE (320): from a producer's request to encoded records in the
//! append queue, and from their results to the producer's answer. Serve core.
//!
//! A send reads the header where it lies, writes the stored properties into memory that all sends share, and encodes the record
//! once, straight into the batch for the log core. Only a send that has to make its topic first waits; it is served again, from
//! its frame, when the topic is durable.

pub mod batch;
pub mod stored_properties;

use std::net::SocketAddr;
use std::rc::Rc;

use shards::append::Placement;
use shards::limits::{DERIVED_BACKLOG_ENTRIES_MAX, MESSAGE_BODY_BYTES_MAX, PROPERTIES_BYTES_MAX};
use shards::record::message_id::OffsetMessageId;
use shards::record::{RecordFields, SYS_FLAG_MULTI_TAGS, SYS_FLAG_TRANSACTION_MASK};
use smallvec::SmallVec;

use self::stored_properties::{Additions, Wishes};
use crate::broker::append_queue::{Completion, PushError, Waiting, WaitingProducer};
use crate::broker::delay_schedule::DelayLevel;
use crate::broker::name::{self, RETRY_PREFIX, SCHEDULE_TOPIC};
use crate::broker::topic_creation::{TopicReady, TopicUnavailable, topic_for_group, topic_for_send};
use crate::broker::topic_table::NewTopic;
use crate::broker::{Broker, Identity};
use crate::metrics::traffic::{MessageType, TopicTraffic};
use crate::processor::{Call, Refusal, Served, retention, serve};
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::code::response;
use crate::remoting::field_text::{FieldText, FieldWriter};
use crate::remoting::header::send::SendHeader;

/// The region that stock brokers are in unless told otherwise; traces are grouped by it.
const REGION: &str = "DefaultRegion";
/// From this client version on, `maxReconsumeTimes` of a request counts (3.4.9).
pub(super) const VERSION_MAX_RECONSUME_TIMES: i32 = 121;
pub(super) const DLQ_QUEUES: u32 = 1;
/// Topics made for clients in unit mode: of a unit, or subscribed to by units.
const TOPIC_FLAG_UNIT: i32 = 1;
pub(super) const TOPIC_FLAG_UNIT_SUB: i32 = 2;
/// The record holds several messages in one body, for a kind of queue that we do not have.
const SYS_FLAG_INNER_BATCH: i32 = 1 << 7;
/// The record is to be unwrapped on delivery; goes with an inner batch.
const SYS_FLAG_NEED_UNWRAP: i32 = 1 << 6;

/// Serves a producer's request of any of the three codes.
///
/// # Errors
/// The [`Refusal`] that the checks come to; they are made in RocketMQ's order.
pub fn send(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = SendHeader::parse(call.request)?;
    if name::is_send_forbidden(header.topic) {
        let remark = format!("Sending message to topic[{}] is forbidden.", header.topic);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let durable = call.broker.borrow().durable_topic(header.topic).map(Rc::clone);
    let config = match durable {
        Some(config) => config,
        None => match missing_topic(call, &header)? {
            TopicReady::Now(config) => config,
            TopicReady::Later(ready) => return Ok(serve_again(call, ready)),
        },
    };
    let target = match target(call, &header, config)? {
        Ok(target) => target,
        Err(dead_letters) => return Ok(serve_again(call, dead_letters)),
    };
    let broker = &mut *call.broker.borrow_mut();
    let backlog = broker.store.derived_backlog_entries();
    if backlog >= DERIVED_BACKLOG_ENTRIES_MAX {
        let remark = format!(
            "[OVERLOAD]system busy, start flow control for a while: {backlog} messages wait for the ConsumeQueue writer, the \
             limit is {DERIVED_BACKLOG_ENTRIES_MAX}"
        );
        return Err(Refusal::new(response::SYSTEM_BUSY, remark));
    }
    retention::check_room(broker)?;
    if header.batch {
        push_batch(broker, call, &header, &target)?;
    } else {
        push_message(broker, call, &header, &target)?;
    }
    Ok(Served::Now)
}

type Awaited = std::pin::Pin<Box<dyn Future<Output = Result<Rc<TopicConfig>, TopicUnavailable>>>>;

/// The topic of a send, which may have to be made, or may be on its way to the disk.
fn missing_topic(call: &Call<'_, '_>, header: &SendHeader<'_>) -> Result<TopicReady, Refusal> {
    let topic = header.topic;
    name::check_topic(topic).map_err(|error| Refusal::new(response::INVALID_PARAMETER, error.to_string()))?;
    let is_retry = topic.starts_with(RETRY_PREFIX);
    let topic_sys_flag = match (header.unit_mode, is_retry) {
        (false, _) => 0,
        (true, false) => TOPIC_FLAG_UNIT,
        (true, true) => TOPIC_FLAG_UNIT_SUB,
    };
    let new = NewTopic {
        topic,
        default_topic: header.default_topic,
        queues: header.default_topic_queue_nums,
        topic_sys_flag,
    };
    let ready = match topic_for_send(call.broker, &new, call.now_ms) {
        Err(TopicUnavailable::Refused(_)) if is_retry => {
            topic_for_group(call.broker, topic, 1, topic_sys_flag, call.now_ms)
        }
        ready => ready,
    };
    ready.map_err(|error| {
        let refusal = Refusal::from(error);
        match refusal.code {
            response::TOPIC_NOT_EXIST => {
                let remark = format!("topic[{topic}] not exist, apply first please! {}", refusal.remark);
                Refusal::new(refusal.code, remark)
            }
            _ => refusal,
        }
    })
}

/// Serves the same request once more when a topic that it needs is there.
fn serve_again(call: &Call<'_, '_>, ready: Awaited) -> Served {
    let (broker, connection) = (Rc::clone(call.broker), Rc::clone(call.connection));
    let (frame, reply_to) = (call.frame.clone(), call.reply_to);
    Served::Later(Box::pin(async move {
        if let Err(error) = ready.await {
            return Refusal::from(error).send(&connection, reply_to);
        }
        match serve(&broker, &connection, &frame) {
            Ok(Served::Now) => {}
            Ok(Served::Later(more)) => more.await,
            Err(error) => unreachable!("the frame was read before: {error}"),
        }
    }))
}

/// Where a message goes.
#[derive(Debug)]
struct Target {
    config: Rc<TopicConfig>,
    queue_id: u32,
    /// It failed too often and goes to the dead letters of its group.
    is_dead_letter: bool,
}

/// Picks the queue; a message for a retry topic may end among the dead letters, whose topic may have to be made.
fn target(
    call: &Call<'_, '_>,
    header: &SendHeader<'_>,
    config: Rc<TopicConfig>,
) -> Result<Result<Target, Awaited>, Refusal> {
    let queues = config.write_queue_nums.max(config.read_queue_nums);
    let queue_id = match u32::try_from(header.queue_id) {
        Ok(queue_id) if queue_id < queues => queue_id,
        Ok(queue_id) => {
            let remark = format!(
                "request queueId[{queue_id}] is illegal, topic[{}] has {} write and {} read queues, Producer: {}",
                config.topic_name,
                config.write_queue_nums,
                config.read_queue_nums,
                call.connection.peer()
            );
            return Err(Refusal::new(response::INVALID_PARAMETER, remark));
        }
        Err(_) => any_queue(call.request.opaque, config.write_queue_nums),
    };
    if header.batch || !header.topic.starts_with(RETRY_PREFIX) {
        return Ok(Ok(Target { config, queue_id, is_dead_letter: false }));
    }
    let group = &header.topic[RETRY_PREFIX.len()..];
    if !goes_to_dead_letters(call, header, group)? {
        return Ok(Ok(Target { config, queue_id, is_dead_letter: false }));
    }
    let topic = name::dlq_topic(group);
    match topic_for_group(call.broker, &topic, DLQ_QUEUES, 0, call.now_ms) {
        Ok(TopicReady::Now(config)) => Ok(Ok(Target { config, queue_id: 0, is_dead_letter: true })),
        Ok(TopicReady::Later(ready)) => Ok(Err(ready)),
        Err(_) => Err(Refusal::new(response::SYSTEM_ERROR, format!("topic[{topic}] not exist"))),
    }
}

/// A queue for whoever does not care: one after the other for a client that counts its requests.
pub(super) fn any_queue(opaque: i32, queues: u32) -> u32 {
    opaque.unsigned_abs() % queues.max(1)
}

/// Whether a message that a consumer sends to its retry topic has failed too often. Note the strict comparison; the request
/// CONSUMER_SEND_MSG_BACK compares otherwise. A group that holds queue locks consumes in order and has tried enough already.
fn goes_to_dead_letters(call: &Call<'_, '_>, header: &SendHeader<'_>, group: &str) -> Result<bool, Refusal> {
    let broker = &mut *call.broker.borrow_mut();
    let Some(config) = broker.groups.find_or_create(group, call.now_ms) else {
        let remark = format!("subscription group not exist, {group}");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    };
    let of_request =
        header.max_reconsume_times.filter(|_| call.request.version >= VERSION_MAX_RECONSUME_TIMES);
    let most = of_request.unwrap_or(config.retry_max_times);
    Ok(header.reconsume_times > most || broker.queue_locks.is_any_held(group, call.now_ms))
}

fn push_message(
    broker: &mut Broker,
    call: &Call<'_, '_>,
    header: &SendHeader<'_>,
    target: &Target,
) -> Result<(), Refusal> {
    let body = &call.request.body[..];
    if body.is_empty() || body.len() > MESSAGE_BODY_BYTES_MAX {
        return Err(illegal());
    }
    let wishes = Wishes::read(header.properties);
    let level = delay_level(broker, &wishes, target)?;
    refuse_unsupported(header, &wishes, level)?;

    let made_key;
    let unique_key = match wishes.unique_key {
        Some(unique_key) => unique_key,
        None => {
            made_key = broker.unique_keys.next(call.now_ms);
            &made_key
        }
    };
    let topic = &target.config.topic_name;
    stored_properties::encode(
        &mut broker.properties,
        header.properties,
        &wishes,
        &Additions {
            region: REGION,
            cluster: &broker.identity.cluster,
            unique_key: wishes.unique_key.is_none().then_some(unique_key),
            real_place: level.map(|_| (topic.as_str(), target.queue_id)),
            delay_level: target.is_dead_letter.then_some(-1),
        },
    );
    let record = RecordFields {
        topic: if level.is_some() { SCHEDULE_TOPIC } else { topic },
        queue_id: level.map_or(target.queue_id, DelayLevel::queue_id),
        flag: header.flag,
        sys_flag: stored_sys_flag(header.sys_flag, &target.config),
        born_timestamp_ms: header.born_timestamp_ms,
        born_host: call.connection.peer(),
        store_host: broker.identity.addr,
        reconsume_times: header.reconsume_times,
        prepared_transaction_offset: 0,
        body,
        properties: &broker.properties,
    };
    let traffic = broker.traffic.topic(topic, || broker.topics.is_system(topic));
    let waiting = waiting(call, target.queue_id, unique_key, traffic, message_type(&wishes, level));
    broker.appends.push(record, waiting).map_err(not_pushed)?;
    if target.is_dead_letter {
        let group = &header.topic[RETRY_PREFIX.len()..];
        broker.traffic.group(header.topic, group, || false).dead_letter();
    }
    Ok(())
}

/// The level that a message is delayed by. Dead letters are not.
fn delay_level(broker: &Broker, wishes: &Wishes<'_>, target: &Target) -> Result<Option<DelayLevel>, Refusal> {
    let Some(text) = wishes.delay_level.filter(|_| !target.is_dead_letter) else { return Ok(None) };
    let level: i32 = text.parse().map_err(|_| {
        Refusal::new(response::SYSTEM_ERROR, format!("the property DELAY = \"{text}\" is not a number"))
    })?;
    Ok(broker.delay.delays().asked_for(level))
}

/// Refuses, each with the code that a stock broker without the feature gives, what this broker cannot do.
fn refuse_unsupported(
    header: &SendHeader<'_>,
    wishes: &Wishes<'_>,
    level: Option<DelayLevel>,
) -> Result<(), Refusal> {
    // Clients before 4.6.1 leave the mark on a message that is retried; it is an ordinary one.
    let is_retry = header.reconsume_times > 0 && level.is_some();
    let is_half = header.sys_flag & SYS_FLAG_TRANSACTION_MASK != 0;
    if is_half || (wishes.is_transaction && !is_retry) {
        let remark =
            "sending transaction message is forbidden: this broker does not support transactions yet";
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    if wishes.is_timer && level.is_none() {
        let remark = "accurate timer message is not enabled, timerWheelEnable is false";
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    if wishes.is_inner_batch || header.sys_flag & SYS_FLAG_INNER_BATCH != 0 {
        let remark = "the message is illegal: no topic of this broker takes several messages as one record";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

fn push_batch(
    broker: &mut Broker,
    call: &Call<'_, '_>,
    header: &SendHeader<'_>,
    target: &Target,
) -> Result<(), Refusal> {
    if header.topic.starts_with(RETRY_PREFIX) {
        let remark = format!("batch request does not support retry group {}", header.topic);
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    if header.properties.len() > PROPERTIES_BYTES_MAX {
        return Err(illegal());
    }
    let wishes = Wishes::read(header.properties);
    let is_delayed = wishes.delay_level.is_some_and(|level| level.parse().is_ok_and(|level: i32| level > 0));
    let is_half = header.sys_flag & SYS_FLAG_TRANSACTION_MASK != 0;
    let body = &call.request.body[..];
    if is_delayed || is_half || body.len() > MESSAGE_BODY_BYTES_MAX {
        return Err(illegal());
    }
    batch::judge(body).map_err(|error| Refusal::new(response::MESSAGE_ILLEGAL, error.to_string()))?;
    let sys_flag = stored_sys_flag(header.sys_flag, &target.config);
    let (born_host, store_host) = (call.connection.peer(), broker.identity.addr);
    let records = batch::messages(body).map(|message| RecordFields {
        topic: &target.config.topic_name,
        queue_id: target.queue_id,
        flag: message.flag,
        sys_flag,
        born_timestamp_ms: header.born_timestamp_ms,
        born_host,
        store_host,
        reconsume_times: header.reconsume_times,
        prepared_transaction_offset: 0,
        body: message.body,
        properties: message.properties,
    });
    let topic = &target.config.topic_name;
    let traffic = broker.traffic.topic(topic, || broker.topics.is_system(topic));
    let unique_key = wishes.unique_key.unwrap_or_default();
    let waiting = waiting(call, target.queue_id, unique_key, traffic, message_type(&wishes, None));
    broker.appends.push_all(records, waiting).map_err(not_pushed)
}

fn stored_sys_flag(sent: i32, config: &TopicConfig) -> i32 {
    let of_client = sent & !(SYS_FLAG_TRANSACTION_MASK | SYS_FLAG_NEED_UNWRAP | SYS_FLAG_INNER_BATCH);
    if config.topic_filter_type == "MULTI_TAG" { of_client | SYS_FLAG_MULTI_TAGS } else { of_client }
}

fn message_type(wishes: &Wishes<'_>, level: Option<DelayLevel>) -> MessageType {
    match level {
        _ if wishes.is_ordered => MessageType::Fifo,
        Some(_) => MessageType::Delay,
        None => MessageType::Normal,
    }
}

fn waiting(
    call: &Call<'_, '_>,
    queue_id: u32,
    unique_key: &str,
    traffic: Rc<TopicTraffic>,
    message_type: MessageType,
) -> Waiting {
    Waiting::Producer(WaitingProducer {
        connection: Rc::clone(call.connection),
        reply_to: call.reply_to,
        queue_id,
        unique_key: SmallVec::from_slice(unique_key.as_bytes()),
        traffic,
        message_type,
    })
}

fn illegal() -> Refusal {
    let remark = format!(
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit \
         {MESSAGE_BODY_BYTES_MAX}B, msg properties length limit 32KB."
    );
    Refusal::new(response::MESSAGE_ILLEGAL, remark)
}

pub(super) fn not_pushed(error: PushError) -> Refusal {
    match error {
        PushError::Record(_) => illegal(),
        PushError::Overload { .. } | PushError::Late { .. } => {
            Refusal::new(response::SYSTEM_BUSY, error.to_string())
        }
    }
}

/// Answers a producer whose records have their result.
pub(super) fn answer(identity: &Identity, producer: &WaitingProducer, completion: &Completion) {
    let WaitingProducer { connection, reply_to, queue_id, unique_key, .. } = producer;
    match completion {
        Completion::Placed(placements) => {
            let message_ids = MessageIds { store_host: identity.addr, placements };
            let queue_offset = placements.first().map_or(0, |first| first.queue_offset.to_i64());
            let transaction_id =
                std::str::from_utf8(unique_key).expect("it was copied from a property, which is text");
            let ext: [(&str, &dyn FieldText); 6] = [
                ("msgId", &message_ids),
                ("queueId", queue_id),
                ("queueOffset", &queue_offset),
                ("MSG_REGION", &REGION),
                ("TRACE_ON", &true),
                ("transactionId", &transaction_id),
            ];
            let fields = if transaction_id.is_empty() { &ext[..5] } else { &ext[..] };
            connection.reply(*reply_to, response::SUCCESS, None, fields, &[]);
        }
        Completion::Refused(reason) => {
            let remark = format!("service not available now: {reason}");
            connection.reply(*reply_to, response::SERVICE_NOT_AVAILABLE, Some(&remark), &[], &[]);
        }
    }
}

/// The offset message ids of a push, with commas between them.
struct MessageIds<'a> {
    store_host: SocketAddr,
    placements: &'a [Placement],
}

impl FieldText for MessageIds<'_> {
    fn write(&self, out: &mut FieldWriter<'_>) {
        for (index, placement) in self.placements.iter().enumerate() {
            if index > 0 {
                out.plain(",");
            }
            let id =
                OffsetMessageId { store_host: self.store_host, physical_offset: placement.physical_offset };
            id.with_text(|text| out.plain(text));
        }
    }
}
