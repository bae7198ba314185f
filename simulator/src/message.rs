//! The messages that a simulation sends: each has a number, and a body that tells it and can be checked.

use std::net::SocketAddr;

use bytes::BytesMut;
use shards::dispatch::SCHEDULE_TOPIC;
use shards::record::crc::CRC_PROPERTY_BYTES;
use shards::record::properties::{DELAY, KEYS, Properties, REAL_QUEUE_ID, REAL_TOPIC, TAGS};
use shards::record::{RecordFields, RecordView, SYS_FLAG_TRANSACTION_PREPARED};

use crate::oracle::Given;
use crate::plan::{Kind, LATE_TOPIC, Outgoing, PLAIN_TOPIC};

/// Smallest body, bytes: number and length.
const BODY_BYTES_MIN: usize = 16;

/// The key under which a message can be found.
pub fn key(id: u64) -> String {
    format!("k{id}")
}

/// Appends the record of a message to `records`, placement still empty.
pub fn encode(records: &mut BytesMut, id: u64, outgoing: &Outgoing) -> Given {
    let tag_and_key = format!("{TAGS}\x01t{}\x02{KEYS}\x01{}\x02", id % 3, key(id));
    let (topic, queue_id, sys_flag, properties) = match outgoing.kind {
        Kind::Plain { queue_id } => (PLAIN_TOPIC, queue_id, 0, tag_and_key),
        Kind::Half { queue_id } => (PLAIN_TOPIC, queue_id, SYS_FLAG_TRANSACTION_PREPARED, tag_and_key),
        Kind::Delayed { level } => {
            let real =
                format!("{DELAY}\x01{level}\x02{REAL_TOPIC}\x01{LATE_TOPIC}\x02{REAL_QUEUE_ID}\x010\x02");
            (SCHEDULE_TOPIC, level - 1, 0, tag_and_key + &real)
        }
    };
    let fields = RecordFields {
        topic,
        queue_id,
        flag: 0,
        sys_flag,
        born_timestamp_ms: 1,
        born_host: host(),
        store_host: host(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &body(id, outgoing.body_bytes),
        properties: properties.as_bytes(),
    };
    let bytes = fields.encode(records).expect("the messages of a plan fit in a record");
    Given {
        id,
        topic,
        queue_id,
        bytes: u32::try_from(bytes).expect("a record is small"),
        is_queued: !matches!(outgoing.kind, Kind::Half { .. }),
    }
}

/// Appends the record that a delayed message becomes when its time has come.
pub fn encode_delivered(records: &mut BytesMut, waiting: &RecordView<'_>) -> Option<Given> {
    let properties = waiting.properties();
    let kept =
        if waiting.has_record_crc() { properties.len() - CRC_PROPERTY_BYTES } else { properties.len() };
    let queue_id = Properties::new(properties).get(REAL_QUEUE_ID)?.parse().ok()?;
    if Properties::new(properties).get(REAL_TOPIC)? != LATE_TOPIC {
        return None;
    }
    let fields = RecordFields {
        topic: LATE_TOPIC,
        queue_id,
        flag: waiting.flag(),
        sys_flag: waiting.sys_flag(),
        born_timestamp_ms: waiting.born_timestamp_ms(),
        born_host: waiting.born_host(),
        store_host: host(),
        reconsume_times: waiting.reconsume_times(),
        prepared_transaction_offset: 0,
        body: waiting.body(),
        properties: &properties[..kept],
    };
    let bytes = fields.encode(records).ok()?;
    Some(Given {
        id: body_id(waiting.body())?,
        topic: LATE_TOPIC,
        queue_id,
        bytes: u32::try_from(bytes).expect("a record is small"),
        is_queued: true,
    })
}

fn host() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_911))
}

fn body(id: u64, bytes: usize) -> Vec<u8> {
    let mut body = vec![filler(id); bytes.max(BODY_BYTES_MIN)];
    let length = body.len() as u64;
    body[..8].copy_from_slice(&id.to_be_bytes());
    body[8..16].copy_from_slice(&length.to_be_bytes());
    body
}

fn filler(id: u64) -> u8 {
    b'a' + u8::try_from(id % 26).expect("less than 26")
}

/// The number in a body.
pub fn body_id(body: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(body.get(..8)?.try_into().ok()?))
}

/// Whether a body is as it was sent.
pub fn is_body_whole(bytes: &[u8]) -> bool {
    body_id(bytes).is_some_and(|id| bytes == body(id, bytes.len()))
}
