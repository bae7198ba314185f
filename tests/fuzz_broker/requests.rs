//! Headers: the fields of every request that a broker reads, the two forms in which a header is written, and the dialect of bodies.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use ringmq::remoting::fastjson;
use ringmq::remoting::field_text::FieldText;
use ringmq::remoting::frame::{Frame, SerializeType, split_frame};
use ringmq::remoting::header::admin::{CreateTopicHeader, DeleteGroupHeader, GroupHeader, TopicHeader};
use ringmq::remoting::header::client::{
    ConsumeStatsHeader, ConsumerGroupHeader, ProducerGroupHeader, UnregisterClientHeader,
};
use ringmq::remoting::header::offset::{
    QueryConsumerOffsetHeader, QueueHeader, SearchOffsetHeader, UpdateConsumerOffsetHeader,
};
use ringmq::remoting::header::pull::PullHeader;
use ringmq::remoting::header::query::{QueryMessageHeader, ViewMessageHeader};
use ringmq::remoting::header::send::{SendBackHeader, SendHeader};
use ringmq::remoting::request::{HeaderError, Request};
use ringmq::remoting::response::write_request;
use serde_json::{Map, Value};
use shards::limits::HEADER_FIELDS_MAX;

use crate::fuzzing::{mutate, text};

/// What the text of a field must be, and what stands for a missing one. An absent or empty optional number counts as missing.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    OptionalText,
    TextOrEmpty,
    Number { bits: u32 },
    OptionalNumber { bits: u32 },
    NumberOrZero { bits: u32 },
    OptionalFlag,
    FlagOr(bool),
}

use Kind::{FlagOr, OptionalFlag, OptionalText, Text, TextOrEmpty};
const INT: Kind = Kind::Number { bits: 32 };
const LONG: Kind = Kind::Number { bits: 64 };
const OPTIONAL_INT: Kind = Kind::OptionalNumber { bits: 32 };
const INT_OR_ZERO: Kind = Kind::NumberOrZero { bits: 32 };

type Parsed = Result<String, HeaderError>;

/// One header: its name, its fields as in the struct, on the wire and of which kind, in the order in which they are read.
struct Shape {
    name: &'static str,
    parse: fn(&Request<'_>) -> Parsed,
    fields: &'static [(&'static str, &'static str, Kind)],
}

fn debug<T: Debug>(parsed: Result<T, HeaderError>) -> Parsed {
    parsed.map(|header| format!("{header:?}"))
}

macro_rules! shape {
    ($header:ident, $fields:expr) => {
        Shape { name: stringify!($header), parse: |request| debug($header::parse(request)), fields: &$fields }
    };
}

const SHAPES: [Shape; 18] = [
    // SEND_MESSAGE, SEND_BATCH_MESSAGE of older clients.
    shape!(
        SendHeader,
        [
            ("producer_group", "producerGroup", Text),
            ("topic", "topic", Text),
            ("default_topic", "defaultTopic", Text),
            ("default_topic_queue_nums", "defaultTopicQueueNums", INT),
            ("queue_id", "queueId", INT),
            ("sys_flag", "sysFlag", INT),
            ("born_timestamp_ms", "bornTimestamp", LONG),
            ("flag", "flag", INT),
            ("properties", "properties", TextOrEmpty),
            ("reconsume_times", "reconsumeTimes", INT_OR_ZERO),
            ("unit_mode", "unitMode", FlagOr(false)),
            ("max_reconsume_times", "maxReconsumeTimes", OPTIONAL_INT),
            ("batch", "batch", FlagOr(false)),
            ("broker_name", "bname", OptionalText),
        ]
    ),
    // SEND_MESSAGE_V2, SEND_BATCH_MESSAGE.
    shape!(
        SendHeader,
        [
            ("producer_group", "a", Text),
            ("topic", "b", Text),
            ("default_topic", "c", Text),
            ("default_topic_queue_nums", "d", INT),
            ("queue_id", "e", INT),
            ("sys_flag", "f", INT),
            ("born_timestamp_ms", "g", LONG),
            ("flag", "h", INT),
            ("properties", "i", TextOrEmpty),
            ("reconsume_times", "j", INT_OR_ZERO),
            ("unit_mode", "k", FlagOr(false)),
            ("max_reconsume_times", "l", OPTIONAL_INT),
            ("batch", "m", FlagOr(false)),
            ("broker_name", "n", OptionalText),
        ]
    ),
    shape!(
        SendBackHeader,
        [
            ("offset", "offset", LONG),
            ("group", "group", Text),
            ("delay_level", "delayLevel", INT),
            ("origin_msg_id", "originMsgId", OptionalText),
            ("origin_topic", "originTopic", OptionalText),
            ("unit_mode", "unitMode", FlagOr(false)),
            ("max_reconsume_times", "maxReconsumeTimes", OPTIONAL_INT),
            ("broker_name", "bname", OptionalText),
        ]
    ),
    // PULL_MESSAGE, LITE_PULL_MESSAGE.
    shape!(
        PullHeader,
        [
            ("consumer_group", "consumerGroup", Text),
            ("topic", "topic", Text),
            ("queue_id", "queueId", INT),
            ("queue_offset", "queueOffset", LONG),
            ("max_msg_nums", "maxMsgNums", INT),
            ("sys_flag", "sysFlag", INT),
            ("commit_offset", "commitOffset", LONG),
            ("suspend_timeout_ms", "suspendTimeoutMillis", LONG),
            ("subscription", "subscription", OptionalText),
            ("sub_version", "subVersion", LONG),
            ("expression_type", "expressionType", OptionalText),
            ("max_msg_bytes", "maxMsgBytes", OPTIONAL_INT),
            ("request_source", "requestSource", OPTIONAL_INT),
        ]
    ),
    shape!(
        QueryConsumerOffsetHeader,
        [
            ("consumer_group", "consumerGroup", Text),
            ("topic", "topic", Text),
            ("queue_id", "queueId", INT),
            ("set_zero_if_not_found", "setZeroIfNotFound", OptionalFlag),
        ]
    ),
    shape!(
        UpdateConsumerOffsetHeader,
        [
            ("consumer_group", "consumerGroup", Text),
            ("topic", "topic", Text),
            ("queue_id", "queueId", INT),
            ("commit_offset", "commitOffset", LONG),
        ]
    ),
    shape!(
        QueueHeader,
        [("topic", "topic", Text), ("queue_id", "queueId", INT), ("committed", "committed", FlagOr(true))]
    ),
    shape!(
        SearchOffsetHeader,
        [
            ("topic", "topic", Text),
            ("queue_id", "queueId", INT),
            ("timestamp_ms", "timestamp", LONG),
            ("boundary_type", "boundaryType", OptionalText),
        ]
    ),
    shape!(
        QueryMessageHeader,
        [
            ("topic", "topic", Text),
            ("key", "key", Text),
            ("max_num", "maxNum", INT),
            ("begin_timestamp_ms", "beginTimestamp", LONG),
            ("end_timestamp_ms", "endTimestamp", LONG),
            ("unique_key", "_UNIQUE_KEY_QUERY", FlagOr(false)),
        ]
    ),
    shape!(ViewMessageHeader, [("topic", "topic", OptionalText), ("offset", "offset", LONG)]),
    shape!(
        UnregisterClientHeader,
        [
            ("client_id", "clientID", Text),
            ("producer_group", "producerGroup", OptionalText),
            ("consumer_group", "consumerGroup", OptionalText),
        ]
    ),
    shape!(ConsumerGroupHeader, [("consumer_group", "consumerGroup", Text)]),
    shape!(ProducerGroupHeader, [("producer_group", "producerGroup", Text)]),
    shape!(
        ConsumeStatsHeader,
        [
            ("consumer_group", "consumerGroup", Text),
            ("topic", "topic", OptionalText),
            ("topic_list", "topicList", OptionalText),
        ]
    ),
    shape!(
        CreateTopicHeader,
        [
            ("topic", "topic", Text),
            ("default_topic", "defaultTopic", OptionalText),
            ("read_queue_nums", "readQueueNums", INT),
            ("write_queue_nums", "writeQueueNums", INT),
            ("perm", "perm", INT),
            ("topic_filter_type", "topicFilterType", OptionalText),
            ("topic_sys_flag", "topicSysFlag", INT_OR_ZERO),
            ("order", "order", FlagOr(false)),
            ("attributes", "attributes", OptionalText),
        ]
    ),
    shape!(TopicHeader, [("topic", "topic", Text)]),
    shape!(
        DeleteGroupHeader,
        [("group_name", "groupName", Text), ("clean_offset", "cleanOffset", FlagOr(false))]
    ),
    shape!(GroupHeader, [("group", "group", Text), ("topic", "topic", OptionalText)]),
];

/// What a field is read as, as its struct shows it; `None` when the request has to be refused for it.
fn value(kind: Kind, sent: Option<&str>) -> Option<String> {
    let number = |text: &str, bits: u32| {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse::<i128>().ok())??;
        let most = 1_i128 << (bits - 1);
        (-most..most).contains(&number).then(|| number.to_string())
    };
    let flag = |text: &str| text.eq_ignore_ascii_case("true").to_string();
    let given = sent.filter(|text| !text.is_empty());
    match kind {
        Text => Some(format!("{:?}", sent?)),
        OptionalText => Some(format!("{sent:?}")),
        TextOrEmpty => Some(format!("{:?}", sent.unwrap_or_default())),
        Kind::Number { bits } => number(sent?, bits),
        Kind::OptionalNumber { bits } => {
            given.map_or(Some("None".to_owned()), |text| Some(format!("Some({})", number(text, bits)?)))
        }
        Kind::NumberOrZero { bits } => number(given.unwrap_or("0"), bits),
        OptionalFlag => Some(given.map_or_else(|| "None".to_owned(), |text| format!("Some({})", flag(text)))),
        FlagOr(default) => Some(given.map_or_else(|| default.to_string(), flag)),
    }
}

/// Requests with good and bad, missing, doubled and foreign fields, written in either form: read as the model reads them, or refused
/// for the first field that the model refuses.
pub(crate) fn fields(random: &mut StdRng) {
    const VALUES: [&str; 24] = [
        "",
        "0",
        "1",
        "-1",
        "+7",
        "true",
        "TRUE",
        "false",
        "yes",
        "Orders",
        "%RETRY%g",
        "é消😀",
        "2147483647",
        "2147483648",
        "-2147483648",
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "1 ",
        " 1",
        "1.0",
        "-",
        "0x1F",
        "KEYS\u{1}k\u{2}TAGS\u{1}a\"b\\\u{2}",
    ];
    let shape = SHAPES.choose(random).expect("not empty");
    let form = if random.random() { SerializeType::Json } else { SerializeType::RocketMq };
    let mut sent: Vec<(&str, String)> = Vec::new();
    for (_, wire, kind) in shape.fields {
        for _ in 0..*[0, 1, 1, 1, 1, 1, 1, 1, 1, 2].choose(random).expect("not empty") {
            let is_number = matches!(kind, Kind::Number { .. });
            let value = match random.random_range(0..20) {
                0 => (*VALUES.choose(random).expect("not empty")).to_owned(),
                1 => text(random, 20),
                _ if is_number => random.random::<i32>().to_string(),
                _ => ["1", "16", "true", "Orders"].choose(random).expect("not empty").to_string(),
            };
            sent.push((wire, value));
        }
    }
    if random.random_bool(0.3) {
        sent.push(("traceparent", text(random, 30)));
    }
    let ext: Vec<(&str, &dyn FieldText)> =
        sent.iter().map(|(name, value)| (*name, value as &dyn FieldText)).collect();
    let mut out = BytesMut::new();
    write_request(&mut out, form, 310, 7, false, &ext, b"");
    let frame = split_frame(&mut out).expect("our own").expect("whole");
    let request = Request::decode(&frame).expect("our own");

    // Of several the last one counts; the binary form has no empty texts.
    let arrived = |wire: &str| {
        let counts = |value: &str| form == SerializeType::Json || !value.is_empty();
        let last = sent.iter().rfind(|(name, value)| *name == wire && counts(value));
        last.map(|(_, value)| value.as_str())
    };
    let read: Vec<(&str, &str, Option<String>)> =
        shape.fields.iter().map(|(field, wire, kind)| (*field, *wire, value(*kind, arrived(wire)))).collect();
    match (read.iter().find(|(_, _, value)| value.is_none()), (shape.parse)(&request)) {
        (None, Ok(parsed)) => {
            let fields = read.iter().map(|(field, _, value)| format!("{field}: {}", value.as_ref().unwrap()));
            let fields = fields.collect::<Vec<_>>().join(", ");
            assert_eq!(parsed, format!("{} {{ {fields} }}", shape.name));
        }
        (Some((_, wire, _)), Err(error)) => {
            let text = error.to_string();
            // A send without its first short field is taken for one with long names.
            let named = if *wire == "a" { "producerGroup" } else { wire };
            assert!(text.contains(&format!("<{named}>")), "{}: {wire}: {text}", shape.name);
        }
        (expected, parsed) => panic!("{} of {sent:?}: {expected:?}, but {parsed:?}", shape.name),
    }
}

fn decode(frame: &Frame) -> Option<(i32, i32, i32, BTreeMap<String, String>)> {
    let request = Request::decode(frame).ok()?;
    let ext = request.ext.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Some((request.code, request.opaque, request.flag, ext))
}

/// JSON headers as a general reader of JSON reads them, too, however they are written.
pub(crate) fn json_headers(random: &mut StdRng) {
    let mut ext = Map::new();
    for _ in 0..random.random_range(0..20) {
        ext.insert(text(random, 8), Value::String(text(random, 40)));
    }
    let (code, opaque, flag): (i32, i32, i32) = (random.random(), random.random(), random.random());
    let spaces = |random: &mut StdRng| *["", "", "", " ", "\n\t"].choose(random).expect("not empty");
    let mut members = vec![
        ("code", code.to_string()),
        ("opaque", opaque.to_string()),
        ("flag", flag.to_string()),
        ("language", "\"GO\"".to_owned()),
        ("version", "317".to_owned()),
        ("serializeTypeCurrentRPC", "\"JSON\"".to_owned()),
        ("extFields", Value::Object(ext.clone()).to_string()),
    ];
    if random.random_bool(0.3) {
        members.push(("remark", Value::String(text(random, 30)).to_string()));
    }
    for _ in 0..members.len() {
        let (a, b) = (random.random_range(0..members.len()), random.random_range(0..members.len()));
        members.swap(a, b);
    }
    let mut header = "{".to_owned();
    for (index, (name, value)) in members.iter().enumerate() {
        header += if index > 0 { "," } else { "" };
        header += &format!("{}\"{name}\"{}:{}{value}", spaces(random), spaces(random), spaces(random));
    }
    header.push('}');
    let frame = |header: Vec<u8>| Frame {
        serialize_type: SerializeType::Json,
        header: header.into(),
        body: Bytes::new(),
    };
    let expected: BTreeMap<String, String> =
        ext.iter().map(|(name, value)| (name.clone(), value.as_str().expect("made so").to_owned())).collect();
    let whole = decode(&frame(header.clone().into_bytes()));
    assert_eq!(whole, Some((code, opaque, flag, expected)), "{header}");

    let mut changed = header.into_bytes();
    mutate(random, &mut changed);
    let read = decode(&frame(changed.clone()));
    let Ok(Value::Object(general)) = serde_json::from_slice::<Value>(&changed) else { return };
    let number = |name: &str| general.get(name).map_or(Some(0), Value::as_i64);
    if let Some((code, opaque, flag, ext)) = read {
        let numbers = [number("code"), number("opaque"), number("flag")];
        assert_eq!(numbers, [code, opaque, flag].map(|number| Some(i64::from(number))));
        if let Some(Value::Object(fields)) = general.get("extFields") {
            for (name, value) in fields {
                if let Value::String(value) = value {
                    assert_eq!(ext.get(name), Some(value), "{name} of {}", String::from_utf8_lossy(&changed));
                }
            }
        }
    }
}

/// ROCKETMQ headers with lengths that lie: what is read does not reach beyond the header, and no more is kept than it has.
pub(crate) fn binary_headers(random: &mut StdRng) {
    let mut header = Vec::new();
    header.extend(random.random::<i16>().to_be_bytes());
    header.extend([random.random_range(0..20), 1, 61]);
    header.extend(random.random::<i32>().to_be_bytes());
    header.extend(random.random::<i32>().to_be_bytes());
    let remark = text(random, 10);
    let length = |random: &mut StdRng, right: usize| match random.random_range(0..40) {
        0 => *[-1, i32::MIN, i32::MAX, 0, 1 << 24].choose(random).expect("not empty"),
        1 => i32::try_from(right).expect("small") + random.random_range(-2..3),
        _ => i32::try_from(right).expect("small"),
    };
    let mut honest = true;
    let mut put_length = |random: &mut StdRng, header: &mut Vec<u8>, right: usize| {
        let said = length(random, right);
        honest &= usize::try_from(said) == Ok(right);
        header.extend(said.to_be_bytes());
    };
    put_length(random, &mut header, remark.len());
    header.extend(remark.as_bytes());
    let mut sent = BTreeMap::new();
    let mut fields = Vec::new();
    let mut names_lie = false;
    for number in 0..random.random_range(0..HEADER_FIELDS_MAX + 40) {
        let (name, value) = (format!("k{number}"), text(random, 12));
        let lies = random.random_bool(0.002);
        let name_bytes = if lies { random.random() } else { i16::try_from(name.len()).expect("small") };
        fields.extend(name_bytes.to_be_bytes());
        fields.extend(name.as_bytes());
        fields.extend(i32::try_from(value.len()).expect("small").to_be_bytes());
        fields.extend(value.as_bytes());
        names_lie |= lies;
        if !value.is_empty() {
            sent.insert(name, value);
        }
    }
    put_length(random, &mut header, fields.len());
    header.append(&mut fields);
    honest &= !names_lie;
    if random.random_bool(0.1) {
        mutate(random, &mut header);
        honest = false;
    }
    let frame =
        Frame { serialize_type: SerializeType::RocketMq, header: header.clone().into(), body: Bytes::new() };
    let mut read = None;
    let used = allocation_counter::measure(|| read = Request::decode(&frame).ok().map(drop));
    let bound = 4 * header.len() + HEADER_FIELDS_MAX * 128;
    assert!(used.bytes_max <= bound as u64, "a header of {} bytes took {}", header.len(), used.bytes_max);
    if honest {
        let ext = decode(&frame).map(|(.., ext)| ext);
        let expected = (sent.len() <= HEADER_FIELDS_MAX).then_some(sent);
        assert!(ext == expected, "{ext:?} instead of {expected:?}");
    }
}

/// Bodies in the dialect: what a general JSON value says, with integers and objects as keys.
pub(crate) fn dialect(random: &mut StdRng) {
    fn value(random: &mut StdRng, depth: u32) -> Value {
        match random.random_range(0..if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => random.random::<bool>().into(),
            2 => random.random::<i64>().into(),
            3 => text(random, 12).into(),
            4 => (f64::from(random.random::<i16>()) / 4.0).into(),
            5 => (0..random.random_range(0..4)).map(|_| value(random, depth - 1)).collect(),
            _ => {
                let mut object = Map::new();
                for _ in 0..random.random_range(0..4) {
                    let key = match random.random_range(0..3) {
                        0 => random.random::<i32>().to_string(),
                        1 => value_of_key(random),
                        _ => text(random, 6),
                    };
                    object.insert(key, value(random, depth - 1));
                }
                Value::Object(object)
            }
        }
    }
    /// The text of an object, as which an object key is read.
    fn value_of_key(random: &mut StdRng) -> String {
        let queue = random.random_range(0..9);
        format!("{{\"brokerName\":{},\"queueId\":{queue}}}", Value::String(text(random, 6)))
    }
    /// As Java writes it: keys that are numbers or objects stand without quotes.
    fn write(out: &mut String, value: &Value, random: &mut StdRng) {
        match value {
            Value::Object(object) => {
                out.push('{');
                for (index, (key, value)) in object.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    let is_bare = key.parse::<i32>().is_ok() || key.starts_with("{\"brokerName\"");
                    match is_bare && random.random_bool(0.8) {
                        true => out.push_str(key),
                        false => out.push_str(&Value::String(key.clone()).to_string()),
                    }
                    out.push(':');
                    write(out, value, random);
                }
                out.push('}');
            }
            Value::Array(list) => {
                out.push('[');
                for (index, value) in list.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    write(out, value, random);
                }
                out.push(']');
            }
            plain => out.push_str(&plain.to_string()),
        }
    }
    let expected = value(random, 4);
    let mut written = String::new();
    write(&mut written, &expected, random);
    let read: Value = fastjson::read("fuzz", written.as_bytes()).expect(&written);
    assert_eq!(read, expected, "{written}");
    for ours in
        [fastjson::write(&expected), fastjson::write_pretty(&expected), fastjson::write_standard(&expected)]
    {
        let read: Value = fastjson::read("fuzz", &ours).expect("our own");
        assert_eq!(read, expected, "{}", String::from_utf8_lossy(&ours));
    }
    let mut changed = written.into_bytes();
    mutate(random, &mut changed);
    if let Ok(standard) = serde_json::from_slice::<Value>(&changed) {
        assert_eq!(fastjson::read::<Value>("fuzz", &changed).expect("JSON is read as it is"), standard);
    }
}
