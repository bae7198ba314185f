//! Sends: SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320); and CONSUMER_SEND_MSG_BACK (36).

use super::header;
use crate::remoting::request::{HeaderError, Request};

/// One send, whichever way its fields were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendHeader<'r> {
    pub producer_group: &'r str,
    pub topic: &'r str,
    /// The topic whose settings an automatically made one takes over; normally `TBW102`.
    pub default_topic: &'r str,
    pub default_topic_queue_nums: i32,
    /// Negative: the broker picks one.
    pub queue_id: i32,
    pub sys_flag: i32,
    pub born_timestamp_ms: i64,
    pub flag: i32,
    /// The encoded property string; empty when there is none.
    pub properties: &'r str,
    pub reconsume_times: i32,
    pub unit_mode: bool,
    pub max_reconsume_times: Option<i32>,
    /// The body is a batch. Comes from here and not from the code.
    pub batch: bool,
    pub broker_name: Option<&'r str>,
}

/// The fields' names in one of their two shapes.
struct Names {
    producer_group: &'static str,
    topic: &'static str,
    default_topic: &'static str,
    default_topic_queue_nums: &'static str,
    queue_id: &'static str,
    sys_flag: &'static str,
    born_timestamp: &'static str,
    flag: &'static str,
    properties: &'static str,
    reconsume_times: &'static str,
    unit_mode: &'static str,
    max_reconsume_times: &'static str,
    batch: &'static str,
    broker_name: &'static str,
}

const LONG: Names = Names {
    producer_group: "producerGroup",
    topic: "topic",
    default_topic: "defaultTopic",
    default_topic_queue_nums: "defaultTopicQueueNums",
    queue_id: "queueId",
    sys_flag: "sysFlag",
    born_timestamp: "bornTimestamp",
    flag: "flag",
    properties: "properties",
    reconsume_times: "reconsumeTimes",
    unit_mode: "unitMode",
    max_reconsume_times: "maxReconsumeTimes",
    batch: "batch",
    broker_name: "bname",
};

const SHORT: Names = Names {
    producer_group: "a",
    topic: "b",
    default_topic: "c",
    default_topic_queue_nums: "d",
    queue_id: "e",
    sys_flag: "f",
    born_timestamp: "g",
    flag: "h",
    properties: "i",
    reconsume_times: "j",
    unit_mode: "k",
    max_reconsume_times: "l",
    batch: "m",
    broker_name: "n",
};

impl<'r> SendHeader<'r> {
    /// Reads the header. The shape is told by the field `a` and not by the code: old Go clients send code 320 with the long
    /// names, newer ones with the short ones.
    ///
    /// # Errors
    /// A required field is missing, or a field is not of its type.
    pub fn parse(request: &'r Request<'_>) -> Result<Self, HeaderError> {
        let ext = &request.ext;
        let names = if ext.get(SHORT.producer_group).is_some() { &SHORT } else { &LONG };
        Ok(Self {
            producer_group: ext.required(names.producer_group)?,
            topic: ext.required(names.topic)?,
            default_topic: ext.required(names.default_topic)?,
            default_topic_queue_nums: ext.parse(names.default_topic_queue_nums)?,
            queue_id: ext.parse(names.queue_id)?,
            sys_flag: ext.parse(names.sys_flag)?,
            born_timestamp_ms: ext.parse(names.born_timestamp)?,
            flag: ext.parse(names.flag)?,
            properties: ext.get(names.properties).unwrap_or_default(),
            reconsume_times: ext.parse_or(names.reconsume_times, 0)?,
            unit_mode: ext.parse_or(names.unit_mode, false)?,
            max_reconsume_times: ext.parse_optional(names.max_reconsume_times)?,
            batch: ext.parse_or(names.batch, false)?,
            broker_name: ext.get(names.broker_name),
        })
    }
}

header! {
    /// CONSUMER_SEND_MSG_BACK (36): a consumer could not handle a message.
    SendBackHeader<'r> {
        /// Physical offset of the record.
        offset: i64 = value("offset"),
        group: &'r str = text("group"),
        /// Negative: to the dead letters at once; 0: the broker decides.
        delay_level: i32 = value("delayLevel"),
        origin_msg_id: Option<&'r str> = text_or_none("originMsgId"),
        origin_topic: Option<&'r str> = text_or_none("originTopic"),
        unit_mode: bool = value_or("unitMode", false),
        max_reconsume_times: Option<i32> = value_or_none("maxReconsumeTimes"),
        broker_name: Option<&'r str> = text_or_none("bname"),
    }
}
