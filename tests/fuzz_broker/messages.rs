//! What a message is made of: batches, properties as sent and as stored, filters by tags, records.

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use ringmq::processor::pull::tag_filter;
use ringmq::processor::send::batch;
use ringmq::processor::send::stored_properties::{Additions, Wishes, encode};
use shards::append::Placement;
use shards::limits::{PROPERTIES_BYTES_MAX, TAGS_PER_PULL_MAX};
use shards::message_store::TagFilter;
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::properties::{Properties, PropertyString};
use shards::record::{RecordFields, RecordView, place};

use crate::fuzzing::{mutate, text};

fn random_bytes(random: &mut StdRng, length_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..=length_max)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A batch reads back; a changed one is refused, or is one whose parts make up all of its bytes.
pub(crate) fn batches(random: &mut StdRng) {
    let write = |messages: &[(i32, Vec<u8>, Vec<u8>)], marks: &[u8]| {
        let mut out = Vec::new();
        for (flag, body, properties) in messages {
            let total = i32::try_from(22 + body.len() + properties.len()).expect("small");
            out.extend(total.to_be_bytes());
            out.extend(marks);
            out.extend(flag.to_be_bytes());
            out.extend(i32::try_from(body.len()).expect("small").to_be_bytes());
            out.extend(body);
            out.extend(i16::try_from(properties.len()).expect("small").to_be_bytes());
            out.extend(properties);
        }
        out
    };
    let made: Vec<(i32, Vec<u8>, Vec<u8>)> = (0..random.random_range(1..20))
        .map(|_| (random.random(), random_bytes(random, 40), random_bytes(random, 40)))
        .collect();
    let mut body = write(&made, &[0; 8]);
    let read = |body: &[u8]| -> Vec<(i32, Vec<u8>, Vec<u8>)> {
        batch::messages(body).map(|m| (m.flag, m.body.to_vec(), m.properties.to_vec())).collect()
    };
    assert_eq!(batch::judge(&body), Ok(made.len()));
    assert_eq!(read(&body), made);

    mutate(random, &mut body);
    if random.random_bool(0.3) && body.len() > 20 {
        // The length of a body or of a whole message.
        let at = *[0, 16].choose(random).expect("not empty");
        body[at..at + 4].copy_from_slice(&random.random_range(-2..200_i32).to_be_bytes());
    }
    let mut judged = Ok(0);
    let used = allocation_counter::measure(|| judged = batch::judge(&body));
    assert_eq!(used.bytes_total, 0, "judging keeps nothing");
    if let Ok(count) = judged {
        let messages = read(&body);
        assert_eq!(messages.len(), count);
        let mut again = write(&messages, &[0; 8]);
        assert_eq!(again.len(), body.len());
        // Magic and CRC of a message say nothing.
        let mut at = 0;
        for (_, body_of_one, properties) in &messages {
            again[at + 4..at + 12].copy_from_slice(&body[at + 4..at + 12]);
            at += 22 + body_of_one.len() + properties.len();
        }
        assert_eq!(again, body, "nothing of a batch is left out");
    }
}

/// Pairs of a property string, read in the plainest way.
fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    let of_segment = |segment: &[u8]| {
        let separator = segment.iter().position(|byte| *byte == 1)?;
        let (name, value) = (&segment[..separator], &segment[separator + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.is_empty());
        Some((text(name)?, text(value)?))
    };
    encoded.split(|byte| *byte == 2).filter_map(of_segment).collect()
}

/// Names and values of which some mean something to a broker, with separators where they belong and where they do not.
fn property_string(random: &mut StdRng) -> String {
    const NAMES: [&str; 22] = [
        "KEYS",
        "TAGS",
        "WAIT",
        "DELAY",
        "REAL_TOPIC",
        "REAL_QID",
        "TRAN_MSG",
        "PGROUP",
        "UNIQ_KEY",
        "MSG_REGION",
        "TRACE_ON",
        "CLUSTER",
        "POP_CK",
        "POP_CKX",
        "__CRC32#",
        "TIMER_DELAY_SEC",
        "TIMER_DELAY_MS",
        "TIMER_DELIVER_MS",
        "INNER_NUM",
        "__SHARDINGKEY",
        "é消",
        "A",
    ];
    const VALUES: [&str; 8] = ["1", "18", "true", "TRUE", "", "a b", "日本", "2147483648"];
    let mut out = String::new();
    for _ in 0..random.random_range(0..10) {
        match random.random_range(0..12) {
            0 => out += &text(random, 12),
            1 => out.push('\u{2}'),
            2 => out.push('\u{1}'),
            _ => {
                let (name, value) = (NAMES.choose(random), VALUES.choose(random));
                out += &format!("{}\u{1}{}\u{2}", name.expect("not empty"), value.expect("not empty"));
            }
        }
    }
    if random.random_bool(0.2) {
        out.pop();
    }
    out
}

pub(crate) fn properties(random: &mut StdRng) {
    let mut encoded = property_string(random).into_bytes();
    mutate(random, &mut encoded);
    let expected = pairs(&encoded);
    let owned = |read: Properties<'_>| -> Vec<(String, String)> {
        read.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let mut read = Vec::new();
    let used = allocation_counter::measure(|| assert!(Properties::new(&encoded).count() <= encoded.len()));
    assert_eq!(used.bytes_total, 0, "reading keeps nothing");
    read.append(&mut owned(Properties::new(&encoded)));
    assert_eq!(read, expected, "{encoded:?}");
    if let Ok(text) = std::str::from_utf8(&encoded) {
        assert_eq!(owned(Properties::of_text(text)), expected, "{encoded:?}");
    }
    for name in ["KEYS", "TAGS", "DELAY"] {
        let last = expected.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(Properties::new(&encoded).get(name), last);
    }
}

/// Changes of a property string against a list of pairs.
pub(crate) fn property_strings(random: &mut StdRng) {
    let encoded = property_string(random);
    let mut string = PropertyString::from_encoded(encoded.as_bytes());
    let mut model = pairs(encoded.as_bytes());
    for _ in 0..random.random_range(0..8) {
        let name =
            ["KEYS", "TAGS", "A", "DELAY", "", "x\u{1}y", "x\u{2}y"].choose(random).expect("not empty");
        if random.random() {
            let value = text(random, 6);
            let is_storable = |text: &str| !text.contains(['\u{1}', '\u{2}']);
            let set = string.set(name, &value);
            assert_eq!(set.is_ok(), !name.is_empty() && is_storable(name) && is_storable(&value));
            if set.is_ok() {
                model.retain(|(found, _)| found != name);
                // An empty value is stored and reads as none.
                model.extend((!value.is_empty()).then(|| ((*name).to_owned(), value)));
            }
        } else if !name.is_empty() && !name.contains(['\u{1}', '\u{2}']) {
            string.remove(name);
            model.retain(|(found, _)| found != name);
        }
        assert_eq!(pairs(string.as_bytes()), model, "{encoded:?}");
        let get =
            |name: &str| model.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(string.get("KEYS"), get("KEYS"));
    }
}

/// What is stored of a producer's properties: all that it sent but what is the broker's, and then the broker's own.
pub(crate) fn stored(random: &mut StdRng) {
    let sent = property_string(random);
    let wishes = Wishes::read(&sent);
    let given = pairs(sent.as_bytes());
    let last =
        |name: &str| given.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    assert_eq!((wishes.unique_key, wishes.delay_level), (last("UNIQ_KEY"), last("DELAY")));
    assert_eq!(
        wishes.is_transaction,
        last("TRAN_MSG").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    );
    let add = Additions {
        region: "R",
        cluster: "C",
        unique_key: wishes.unique_key.is_none().then_some("NEW"),
        real_place: random.random_bool(0.4).then_some(("T", 2)),
        delay_level: random.random_bool(0.2).then_some(-1),
    };
    let mut out = b"of the message before".to_vec();
    encode(&mut out, &sent, &wishes, &add);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let is_kept = |name: &str| match name {
        "MSG_REGION" | "TRACE_ON" | "CLUSTER" | "__CRC32#" | "POP_CK" => false,
        "DELAY" => add.delay_level.is_none(),
        "REAL_TOPIC" | "REAL_QID" | "TIMER_DELAY_SEC" | "TIMER_DELAY_MS" | "TIMER_DELIVER_MS" => {
            add.real_place.is_none()
        }
        _ => true,
    };
    let mut expected: Vec<_> = given.iter().filter(|(name, _)| is_kept(name)).cloned().collect();
    expected.extend([pair("MSG_REGION", "R"), pair("TRACE_ON", "true")]);
    expected.extend(add.unique_key.map(|key| pair("UNIQ_KEY", key)));
    expected.extend(add.delay_level.map(|_| pair("DELAY", "-1")));
    expected.push(pair("CLUSTER", "C"));
    if add.real_place.is_some() {
        expected.extend([pair("REAL_TOPIC", "T"), pair("REAL_QID", "2")]);
    }
    assert_eq!(pairs(&out), expected, "{sent:?} {add:?}");
    assert!(out.len() <= sent.len() + 256);
    assert!(!out.starts_with(b"of the message before"));
}

/// Expressions of tags.
pub(crate) fn filters(random: &mut StdRng) {
    let mut expression = String::new();
    for _ in 0..random.random_range(0..8) {
        match random.random_range(0..8) {
            0 => expression += "|",
            1 => expression += " ",
            2 => expression += "*",
            3 => expression += &text(random, 5),
            4 => expression += &"a||".repeat(random.random_range(0..TAGS_PER_PULL_MAX + 10)),
            _ => {
                expression += ["||", "TagA", "标签", " || TagB", "a > 5 AND b IS NOT NULL"]
                    .choose(random)
                    .expect("not empty")
            }
        }
    }
    let by_units = |tag: &str| {
        i64::from(
            tag.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into())),
        )
    };
    let parts: Vec<&str> = expression.split("||").collect();
    let expected = if expression.is_empty() || expression == "*" {
        Some(TagFilter::All)
    } else if parts.len() > TAGS_PER_PULL_MAX || parts.iter().all(|part| part.is_empty()) {
        None
    } else {
        let tags = parts.iter().map(|part| part.trim()).filter(|tag| !tag.is_empty());
        Some(TagFilter::Codes(tags.map(by_units).collect()))
    };
    assert_eq!(tag_filter(&expression), expected, "{expression:?}");
}

/// A record reads back; one that has changed is seen to be damaged.
pub(crate) fn records(random: &mut StdRng) {
    let host = |random: &mut StdRng| match random.random() {
        true => format!("127.0.0.{}:{}", random.random_range(1..255), random.random::<u16>()),
        false => format!("[::{}]:{}", random.random_range(1..999), random.random::<u16>()),
    };
    let topic = "t".repeat(random.random_range(1..=255));
    let body = random_bytes(random, 300);
    let properties = property_string(random);
    let (born_host, store_host) = (host(random).parse().unwrap(), host(random).parse().unwrap());
    let fields = RecordFields {
        topic: &topic,
        queue_id: random.random_range(0..65_536),
        flag: random.random(),
        sys_flag: random.random_range(0..64) & !0x30,
        born_timestamp_ms: random.random(),
        born_host,
        store_host,
        reconsume_times: random.random(),
        prepared_transaction_offset: random.random(),
        body: &body,
        properties: properties.as_bytes(),
    };
    let mut out = BytesMut::new();
    let size = fields.encode(&mut out).expect("it fits");
    let placement = Placement {
        queue_offset: QueueOffset::new(random.random_range(0..1 << 40)),
        physical_offset: PhysicalOffset::new(random.random_range(0..1 << 40)),
        store_timestamp_ms: random.random(),
    };
    place(&mut out, &placement);
    let view = RecordView::parse(&out).expect("our own");
    view.verify_crc().expect("our own");
    assert_eq!((view.total_size(), view.topic(), view.body()), (size, &*topic, &*body));
    assert_eq!((view.queue_id(), view.flag()), (fields.queue_id, fields.flag));
    assert_eq!(
        (view.queue_offset(), view.physical_offset()),
        (placement.queue_offset, placement.physical_offset)
    );
    assert_eq!(view.store_timestamp_ms(), placement.store_timestamp_ms);
    assert_eq!((view.born_host(), view.store_host()), (born_host, store_host));
    let without_crc: Vec<_> =
        pairs(view.properties()).into_iter().filter(|(name, _)| name != "__CRC32#").collect();
    let sent: Vec<_> =
        pairs(properties.as_bytes()).into_iter().filter(|(name, _)| name != "__CRC32#").collect();
    assert_eq!(without_crc, sent);

    let mut changed = out.to_vec();
    mutate(random, &mut changed);
    if let Ok(view) = RecordView::parse(&changed)
        && view.verify_crc().is_ok()
    {
        if view.has_record_crc() {
            assert!(view.raw() == &out[..], "a record that passes its checks is the one that was written");
        } else {
            // Its own CRC was overwritten, name and all: it passes for one of a RocketMQ that writes none, with the body's alone.
            assert_ne!(view.properties(), RecordView::parse(&out).expect("our own").properties());
            assert!(view.body() == &body[..] || view.body().is_empty());
        }
    }
    let long = "p".repeat(PROPERTIES_BYTES_MAX);
    let mut other = BytesMut::from(&b"before"[..]);
    let refused = RecordFields { properties: long.as_bytes(), ..fields }.encode(&mut other);
    assert!(refused.is_err() && &other[..] == b"before", "nothing is left of what does not fit");
}
