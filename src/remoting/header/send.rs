//! Sends: SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320); and CONSUMER_SEND_MSG_BACK (36).

use super::header;
use crate::remoting::request::{ExtFields, FieldValue, HeaderError, Request};

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

/// How many fields a send may have.
const FIELDS: usize = 14;
/// Their names in the order of the short ones, which are the letters from `a` on.
const LONG_NAMES: [&str; FIELDS] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];
const SHORT_NAMES: [&str; FIELDS] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];

/// The texts of the fields in the order of the names, found in one pass over the request's fields.
struct Texts<'r> {
    names: &'static [&'static str; FIELDS],
    texts: [Option<&'r str>; FIELDS],
}

impl<'r> Texts<'r> {
    /// The shape is told by the field `a` and not by the code: old Go clients send code 320 with the long names, newer ones with
    /// the short ones.
    fn find(ext: &'r ExtFields<'_>) -> Self {
        let mut texts = [None; FIELDS];
        for (name, text) in ext.iter() {
            if let [letter] = name.as_bytes()
                && let Some(slot) = texts.get_mut(usize::from(letter.wrapping_sub(b'a')))
            {
                // Of several the last one counts.
                *slot = Some(text);
            }
        }
        if texts[0].is_some() {
            return Self { names: &SHORT_NAMES, texts };
        }
        Self { names: &LONG_NAMES, texts: LONG_NAMES.map(|name| ext.get(name)) }
    }

    fn required(&self, index: usize) -> Result<&'r str, HeaderError> {
        self.texts[index].ok_or(HeaderError::Missing { field: self.names[index] })
    }

    fn parse<T: FieldValue>(&self, index: usize) -> Result<T, HeaderError> {
        T::read(self.names[index], self.required(index)?)
    }

    fn parse_optional<T: FieldValue>(&self, index: usize) -> Result<Option<T>, HeaderError> {
        let text = self.texts[index].filter(|text| !text.is_empty());
        text.map(|text| T::read(self.names[index], text)).transpose()
    }

    fn parse_or<T: FieldValue>(&self, index: usize, default: T) -> Result<T, HeaderError> {
        Ok(self.parse_optional(index)?.unwrap_or(default))
    }
}

impl<'r> SendHeader<'r> {
    /// Reads the header.
    ///
    /// # Errors
    /// A required field is missing, or a field is not of its type.
    pub fn parse(request: &'r Request<'_>) -> Result<Self, HeaderError> {
        let texts = Texts::find(&request.ext);
        Ok(Self {
            producer_group: texts.required(0)?,
            topic: texts.required(1)?,
            default_topic: texts.required(2)?,
            default_topic_queue_nums: texts.parse(3)?,
            queue_id: texts.parse(4)?,
            sys_flag: texts.parse(5)?,
            born_timestamp_ms: texts.parse(6)?,
            flag: texts.parse(7)?,
            properties: texts.texts[8].unwrap_or_default(),
            reconsume_times: texts.parse_or(9, 0)?,
            unit_mode: texts.parse_or(10, false)?,
            max_reconsume_times: texts.parse_optional(11)?,
            batch: texts.parse_or(12, false)?,
            broker_name: texts.texts[13],
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
