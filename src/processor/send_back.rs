//! CONSUMER_SEND_MSG_BACK (36): a consumer could not handle a message and wants it again later. The broker reads its own record
//! and stores it once more, delayed, for the group's retry topic; after the last try, among the group's dead letters.

use std::rc::Rc;

use bytes::Bytes;
use shards::message_store::RecordLookup;
use shards::position::PhysicalOffset;
use shards::record::message_id::offset_message_id;
use shards::record::properties::{self, PropertyError, PropertyString};
use shards::record::{RecordFields, RecordView};

use crate::broker::append_queue::{Completion, Waiting};
use crate::broker::delay_schedule::DelayLevel;
use crate::broker::name::{self, SCHEDULE_TOPIC};
use crate::broker::topic_creation::{TopicReady, TopicUnavailable, topic_for_group};
use crate::broker::{Broker, BrokerCell};
use crate::processor::send::{
    DLQ_QUEUES, TOPIC_FLAG_UNIT_SUB, VERSION_MAX_RECONSUME_TIMES, any_queue, not_pushed,
};
use crate::processor::{Call, Refusal, Served, retention};
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::code::response;
use crate::remoting::header::send::SendBackHeader;
use crate::remoting::response::ReplyTo;
use crate::transport::Connection;

/// The level of a first retry when the consumer leaves it to the broker: 10 s. Each further one is a level higher.
const FIRST_RETRY_LEVEL: i32 = 3;

/// A request as far as it is needed after its frame is gone.
struct SendBack {
    broker: BrokerCell,
    connection: Rc<Connection>,
    reply_to: ReplyTo,
    group: String,
    /// Of the record.
    offset: i64,
    /// As asked for: negative goes to the dead letters, 0 leaves it to the broker.
    delay_level: i32,
    reconsume_times_max: i32,
    retry_queue_id: u32,
    now_ms: i64,
}

/// Serves a consumer that gives a message back.
///
/// # Errors
/// The [`Refusal`] that the first checks come to; later ones are answered when they are made.
pub fn send_back(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let header = SendBackHeader::parse(call.request)?;
    let Some(group) = call.broker.borrow_mut().groups.find_or_create(header.group, call.now_ms) else {
        let remark = format!("subscription group not exist, {}", header.group);
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    };
    retention::check_room(&call.broker.borrow())?;
    let retry_queues = u32::try_from(group.retry_queue_nums).unwrap_or(0);
    if retry_queues == 0 {
        return call.ok(&[], &[]);
    }
    let of_request =
        header.max_reconsume_times.filter(|_| call.request.version >= VERSION_MAX_RECONSUME_TIMES);
    let send_back = SendBack {
        broker: Rc::clone(call.broker),
        connection: Rc::clone(call.connection),
        reply_to: call.reply_to,
        group: header.group.to_owned(),
        offset: header.offset,
        delay_level: header.delay_level,
        reconsume_times_max: of_request.unwrap_or(group.retry_max_times),
        retry_queue_id: any_queue(call.request.opaque, retry_queues),
        now_ms: call.now_ms,
    };
    let topic_sys_flag = if header.unit_mode { TOPIC_FLAG_UNIT_SUB } else { 0 };
    Ok(Served::Later(Box::pin(async move {
        if let Err(refusal) = send_back.run(retry_queues, topic_sys_flag).await {
            refusal.send(&send_back.connection, send_back.reply_to);
        }
    })))
}

impl SendBack {
    async fn run(&self, retry_queues: u32, topic_sys_flag: i32) -> Result<(), Refusal> {
        let retry_topic = self.topic(name::retry_topic(&self.group), retry_queues, topic_sys_flag).await?;
        if !retry_topic.is_writable() {
            let remark = format!("the topic[{}] sending message is forbidden", retry_topic.topic_name);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let record = self.record().await?;
        let view = RecordView::parse(&record).map_err(|error| {
            let remark = format!("look message by offset failed, {}: {error}", self.offset);
            Refusal::new(response::SYSTEM_ERROR, remark)
        })?;
        let is_dead_letter = view.reconsume_times() >= self.reconsume_times_max || self.delay_level < 0;
        if is_dead_letter {
            let topic = self.topic(name::dlq_topic(&self.group), DLQ_QUEUES, 0).await?;
            let broker = &mut *self.broker.borrow_mut();
            self.push(broker, &view, &topic.topic_name, 0, None)?;
            let is_system = || broker.topics.is_system(view.topic());
            broker.traffic.group(view.topic(), &self.group, is_system).dead_letter();
            return Ok(());
        }
        let wanted = match self.delay_level {
            0 => FIRST_RETRY_LEVEL.saturating_add(view.reconsume_times()),
            level => level,
        };
        let broker = &mut *self.broker.borrow_mut();
        let level = broker.delay.delays().asked_for(wanted);
        self.push(broker, &view, &retry_topic.topic_name, self.retry_queue_id, level)
    }

    async fn topic(
        &self,
        topic: String,
        queues: u32,
        topic_sys_flag: i32,
    ) -> Result<Rc<TopicConfig>, Refusal> {
        let config = match topic_for_group(&self.broker, &topic, queues, topic_sys_flag, self.now_ms) {
            Ok(TopicReady::Now(config)) => Ok(config),
            Ok(TopicReady::Later(ready)) => ready.await,
            Err(error) => Err(error),
        };
        config.map_err(|error| {
            let remark = match error {
                TopicUnavailable::Refused(_) => format!("topic[{topic}] not exist"),
                TopicUnavailable::NotDurable(_) => error.to_string(),
            };
            Refusal::new(response::SYSTEM_ERROR, remark)
        })
    }

    /// The record that is given back.
    async fn record(&self) -> Result<Bytes, Refusal> {
        let not_found = || {
            let remark = format!("look message by offset failed, {}", self.offset);
            Refusal::new(response::SYSTEM_ERROR, remark)
        };
        let at = PhysicalOffset::from_i64(self.offset).ok_or_else(not_found)?;
        let lookup = self.broker.borrow().store.record(at);
        match lookup {
            RecordLookup::Ready(record) => Ok(record),
            RecordLookup::Cold(cold) => cold
                .run()
                .await
                .map_err(|error| Refusal::new(response::SYSTEM_ERROR, error.to_string()))?
                .ok_or_else(not_found),
            RecordLookup::None => Err(not_found()),
        }
    }

    /// Stores the message for `topic`, by way of the delay schedule if there is a level.
    fn push(
        &self,
        broker: &mut Broker,
        view: &RecordView<'_>,
        topic: &str,
        queue_id: u32,
        level: Option<DelayLevel>,
    ) -> Result<(), Refusal> {
        let properties = properties_to_store(view, topic, queue_id, level)
            .map_err(|error| Refusal::new(response::MESSAGE_ILLEGAL, error.to_string()))?;
        let record = RecordFields {
            topic: if level.is_some() { SCHEDULE_TOPIC } else { topic },
            queue_id: level.map_or(queue_id, DelayLevel::queue_id),
            flag: view.flag(),
            sys_flag: view.sys_flag(),
            born_timestamp_ms: view.born_timestamp_ms(),
            born_host: view.born_host(),
            store_host: broker.identity.addr,
            reconsume_times: view.reconsume_times().saturating_add(1),
            prepared_transaction_offset: 0,
            body: view.body(),
            properties: properties.as_bytes(),
        };
        let waiting = Waiting::SendBack { connection: Rc::clone(&self.connection), reply_to: self.reply_to };
        broker.appends.push(record, waiting).map_err(not_pushed)
    }
}

/// The properties of the message as it was, and on top: where it came from, which message it was first, and where it goes.
fn properties_to_store(
    view: &RecordView<'_>,
    topic: &str,
    queue_id: u32,
    level: Option<DelayLevel>,
) -> Result<PropertyString, PropertyError> {
    let mut stored = PropertyString::from_encoded(view.properties());
    stored.remove(properties::CRC32);
    if stored.get(properties::RETRY_TOPIC).is_none() {
        stored.set(properties::RETRY_TOPIC, view.topic())?;
    }
    stored.set(properties::WAIT, "false")?;
    let number = level.map_or(0, DelayLevel::number);
    stored.set(properties::DELAY, &number.to_string())?;
    if stored.get(properties::ORIGIN_MESSAGE_ID).is_none_or(|id| id.trim().is_empty()) {
        let id = offset_message_id(view.store_host(), view.physical_offset());
        stored.set(properties::ORIGIN_MESSAGE_ID, &id)?;
    }
    if level.is_some() {
        stored.set(properties::REAL_TOPIC, topic)?;
        stored.set(properties::REAL_QUEUE_ID, &queue_id.to_string())?;
    }
    Ok(stored)
}

/// Answers a consumer whose message has its result.
pub(super) fn answer(connection: &Connection, reply_to: ReplyTo, completion: &Completion) {
    match completion {
        Completion::Placed(_) => connection.reply(reply_to, response::SUCCESS, None, &[], &[]),
        Completion::Refused(reason) => {
            let remark = format!("SERVICE_NOT_AVAILABLE: {reason}");
            connection.reply(reply_to, response::SYSTEM_ERROR, Some(&remark), &[], &[]);
        }
    }
}
