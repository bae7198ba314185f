//! What is derived from one record: its ConsumeQueue entry and its index keys. Pure; the serve core and recovery use the same code,
//! so that what is rebuilt equals what was lost.

use crate::consume_queue::Entry;
use crate::position::PhysicalOffset;
use crate::record::properties::{DELAY, KEYS, Properties, TAGS, UNIQ_KEY, extended_java_hash};
use crate::record::{
    RecordView, SYS_FLAG_TRANSACTION_MASK, SYS_FLAG_TRANSACTION_ROLLBACK, takes_queue_offset,
};

/// Topic of the messages that wait for their delay level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Delay of the levels 1 to 18, milliseconds (RocketMQ's `messageDelayLevel`).
pub const DELAY_LEVELS_MS: [i64; 18] = {
    const S: i64 = 1000;
    const M: i64 = 60 * S;
    const H: i64 = 60 * M;
    [
        S,
        5 * S,
        10 * S,
        30 * S,
        M,
        2 * M,
        3 * M,
        4 * M,
        5 * M,
        6 * M,
        7 * M,
        8 * M,
        9 * M,
        10 * M,
        20 * M,
        30 * M,
        H,
        2 * H,
    ]
};

/// A key under which a record can be found: only the hash is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexKey {
    /// As [`key_hash`] makes it.
    pub(crate) hash: u32,
    pub(crate) physical_offset: PhysicalOffset,
    pub(crate) store_timestamp_ms: i64,
}

/// The ConsumeQueue entry of a record; `None` for half messages and rollbacks, which no consumer sees.
/// Pushes the record's index keys to `keys`.
pub(crate) fn derive(record: &RecordView<'_>, keys: &mut Vec<IndexKey>) -> Option<Entry> {
    let mut found = Found::default();
    for (name, value) in Properties::new(record.properties()) {
        match name {
            TAGS => found.tags = Some(value),
            KEYS => found.keys = Some(value),
            UNIQ_KEY => found.uniq_key = Some(value),
            DELAY => found.delay = Some(value),
            _ => {}
        }
    }
    if record.sys_flag() & SYS_FLAG_TRANSACTION_MASK != SYS_FLAG_TRANSACTION_ROLLBACK {
        let topic_hash = topic_prefix_hash(record.topic());
        let all_keys = found.keys.unwrap_or_default().split(' ').filter(|key| !key.is_empty());
        keys.extend(found.uniq_key.into_iter().chain(all_keys).map(|key| IndexKey {
            hash: positive(extended_java_hash(topic_hash, key)),
            physical_offset: record.physical_offset(),
            store_timestamp_ms: record.store_timestamp_ms(),
        }));
    }
    takes_queue_offset(record.sys_flag()).then(|| Entry {
        physical_offset: record.physical_offset(),
        size_bytes: u32::try_from(record.total_size()).expect("a record has at most a few mebibytes"),
        tags_code: tags_code(record, &found),
    })
}

#[derive(Default)]
struct Found<'a> {
    tags: Option<&'a str>,
    keys: Option<&'a str>,
    uniq_key: Option<&'a str>,
    delay: Option<&'a str>,
}

/// What a ConsumeQueue entry holds to filter by: the hash of the tag, or in the schedule topic the time of delivery.
fn tags_code(record: &RecordView<'_>, found: &Found<'_>) -> i64 {
    if record.topic() == SCHEDULE_TOPIC
        && let Some(level) = found.delay.and_then(|delay| delay.parse::<usize>().ok())
        && level > 0
    {
        let level = level.min(DELAY_LEVELS_MS.len());
        return record.store_timestamp_ms() + DELAY_LEVELS_MS[level - 1];
    }
    found.tags.map_or(0, tag_hash)
}

/// The tags code of a tag: Java's hash of it, sign-extended.
pub fn tag_hash(tag: &str) -> i64 {
    i64::from(extended_java_hash(0, tag))
}

/// The index hash of a key of a topic.
pub(crate) fn key_hash(topic: &str, key: &str) -> u32 {
    positive(extended_java_hash(topic_prefix_hash(topic), key))
}

fn topic_prefix_hash(topic: &str) -> i32 {
    extended_java_hash(extended_java_hash(0, topic), "#")
}

/// The hash without its sign; the one value that has no positive counterpart becomes 0.
fn positive(hash: i32) -> u32 {
    hash.checked_abs().map_or(0, i32::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::append::Placement;
    use crate::position::QueueOffset;
    use crate::record::properties::java_string_hash;
    use crate::record::{RecordFields, SYS_FLAG_TRANSACTION_PREPARED, SYS_FLAG_TRANSACTION_ROLLBACK, place};

    fn record(topic: &str, sys_flag: i32, properties: &[u8]) -> Vec<u8> {
        let host = "127.0.0.1:10911".parse().unwrap();
        let mut out = BytesMut::new();
        RecordFields {
            topic,
            queue_id: 1,
            flag: 0,
            sys_flag,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties,
        }
        .encode(&mut out)
        .unwrap();
        let placement = Placement {
            queue_offset: QueueOffset::new(7),
            physical_offset: PhysicalOffset::new(1000),
            store_timestamp_ms: 50_000,
        };
        place(&mut out, &placement);
        out.to_vec()
    }

    fn derived(record: &[u8]) -> (Option<Entry>, Vec<u32>) {
        let mut keys = Vec::new();
        let entry = derive(&RecordView::parse(record).unwrap(), &mut keys);
        (entry, keys.iter().map(|key| key.hash).collect())
    }

    #[test]
    fn tags_and_keys_are_hashed_as_java_does() {
        let (entry, keys) = derived(&record("T", 0, b"TAGS\x01TagA\x02KEYS\x01k1 k2\x02UNIQ_KEY\x01u\x02"));
        let hash = |text: &str| java_string_hash(text).unsigned_abs();
        assert_eq!(entry.unwrap().tags_code, i64::from(java_string_hash("TagA")));
        assert_eq!(keys, [hash("T#u"), hash("T#k1"), hash("T#k2")]);
        assert_eq!(tag_hash("polygenelubricants"), i64::from(i32::MIN), "the sign stays");
        assert_eq!(positive(i32::MIN), 0);
        assert_eq!(derived(&record("T", 0, b"")).0.unwrap().tags_code, 0);
    }

    #[test]
    fn delayed_messages_carry_their_delivery_time() {
        let code = |topic, properties| derived(&record(topic, 0, properties)).0.unwrap().tags_code;
        assert_eq!(code(SCHEDULE_TOPIC, b"DELAY\x013\x02TAGS\x01a\x02"), 60_000);
        assert_eq!(code(SCHEDULE_TOPIC, b"DELAY\x0199\x02"), 50_000 + 7_200_000);
        assert_eq!(code(SCHEDULE_TOPIC, b"DELAY\x010\x02TAGS\x01a\x02"), 97);
        assert_eq!(code("T", b"DELAY\x013\x02TAGS\x01a\x02"), 97, "delivered: filtered by its tag again");
    }

    #[test]
    fn transactions_are_seen_only_when_committed() {
        let (entry, keys) = derived(&record("T", SYS_FLAG_TRANSACTION_PREPARED, b"KEYS\x01k\x02"));
        assert_eq!((entry, keys.len()), (None, 1));
        let (entry, keys) = derived(&record("T", SYS_FLAG_TRANSACTION_ROLLBACK, b"KEYS\x01k\x02"));
        assert_eq!((entry, keys.len()), (None, 0));
    }
}
