//! Records byte by byte.

use super::*;

fn fields<'a>(body: &'a [u8], properties: &'a [u8]) -> RecordFields<'a> {
    RecordFields {
        topic: "TopicTest",
        queue_id: 3,
        flag: 9,
        sys_flag: 0,
        born_timestamp_ms: 1_700_000_000_001,
        born_host: "10.0.0.7:54321".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 2,
        prepared_transaction_offset: 77,
        body,
        properties,
    }
}

fn placed(fields: &RecordFields<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    fields.encode(&mut out).unwrap();
    place(
        &mut out,
        &Placement {
            queue_offset: QueueOffset::new(5),
            physical_offset: PhysicalOffset::new(4096),
            store_timestamp_ms: 1_700_000_000_002,
        },
    );
    out.to_vec()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn a_record_has_rocketmqs_bytes() {
    let before_crc = unhex(concat!(
        "0000008c daa320a7 3610a686 00000003 00000009",
        "0000000000000005 0000000000001000 00000000",
        "0000018bcfe56801 0a000007 0000d431",
        "0000018bcfe56802 7f000001 00002a9f",
        "00000002 000000000000004d",
        "00000005 68656c6c6f 09 546f70696354657374",
        "0023 54414753 01 61 02 4b455953 01 6b31 02",
    ));
    let mut fields = fields(b"hello", b"TAGS\x01a\x02KEYS\x01k1\x02");
    // The bits for IPv6 hosts are not the caller's to set.
    fields.sys_flag = SYS_FLAG_BORN_HOST_V6;
    let record = placed(&fields);
    let (covered, property) = record.split_at(record.len() - 20);
    assert_eq!(covered, before_crc);
    // Worked out with another CRC-32.
    assert_eq!(property, b"__CRC32#\x018745629070\x02");
}

#[test]
fn a_view_reads_what_was_encoded() {
    let fields = fields(b"hello", b"TAGS\x01a\x02");
    let record = placed(&fields);
    assert_eq!(peek_size(&record), Ok(record.len()));
    let mut longer = record.clone();
    longer.extend_from_slice(b"something else");
    let view = RecordView::parse(&longer).unwrap();
    view.verify_crc().unwrap();
    assert!(view.has_record_crc());
    assert_eq!(view.raw(), record);
    assert_eq!((view.topic(), view.queue_id(), view.flag()), ("TopicTest", 3, 9));
    assert_eq!((view.queue_offset().get(), view.physical_offset().get()), (5, 4096));
    assert_eq!((view.born_timestamp_ms(), view.store_timestamp_ms()), (1_700_000_000_001, 1_700_000_000_002));
    assert_eq!((view.born_host(), view.store_host()), (fields.born_host, fields.store_host));
    assert_eq!((view.reconsume_times(), view.prepared_transaction_offset()), (2, 77));
    assert_eq!(view.body(), b"hello");
    assert_eq!(properties::Properties::new(view.properties()).get("TAGS"), Some("a"));
}

#[test]
fn ipv6_hosts_long_topics_and_missing_separators_are_encoded() {
    let topic = "%RETRY%".to_owned() + &"g".repeat(200);
    let mut fields = fields(b"", b"TAGS\x01a");
    fields.topic = &topic;
    fields.born_host = "[::1]:80".parse().unwrap();
    fields.store_host = "[fe80::2]:81".parse().unwrap();
    let record = placed(&fields);
    assert_eq!(record.len(), 91 + 24 + 1 + topic.len() + 7 + 20);
    let view = RecordView::parse(&record).unwrap();
    view.verify_crc().unwrap();
    assert_eq!(view.topic(), topic);
    assert_eq!((view.born_host(), view.store_host()), (fields.born_host, fields.store_host));
    assert_eq!(view.store_timestamp_ms(), 1_700_000_000_002);
    assert!(view.properties().starts_with(b"TAGS\x01a\x02__CRC32#\x01"));
}

#[test]
fn what_is_too_large_is_refused_and_leaves_the_buffer_alone() {
    let mut out = BytesMut::from(&b"before"[..]);
    let properties = vec![b'x'; PROPERTIES_BYTES_MAX - 20];
    let error = fields(b"", &properties).encode(&mut out).unwrap_err();
    assert_eq!(error, RecordError::PropertiesTooLong { bytes: PROPERTIES_BYTES_MAX + 1 });
    let body = vec![0; RECORD_BYTES_MAX];
    assert!(matches!(fields(&body, b"").encode(&mut out), Err(RecordError::TooLong { .. })));
    assert_eq!(out, b"before"[..]);
}

#[test]
fn any_changed_byte_is_noticed() {
    let record = placed(&fields(b"hello", b"TAGS\x01a\x02"));
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut damaged = record.clone();
            damaged[at] ^= 1 << bit;
            let verdict = RecordView::parse(&damaged).and_then(|view| view.verify_crc());
            // A damaged name of the CRC property makes the record one without; all that it covers is intact then.
            let covered = at < record.len() - 20;
            assert!(verdict.is_err() || !covered, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn a_record_whose_end_was_never_written_is_noticed() {
    let record = placed(&fields(b"hello", b"TAGS\x01a\x02"));
    for kept in 0..record.len() {
        let mut torn = record.clone();
        torn[kept..].fill(0);
        let verdict = RecordView::parse(&torn).and_then(|view| view.verify_crc());
        assert!(verdict.is_err(), "only {kept} bytes kept");
    }
}

#[test]
fn garbage_never_panics() {
    use rand::{Rng, SeedableRng};
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let record = placed(&fields(b"hello", b"TAGS\x01a\x02"));
    for _ in 0..20_000 {
        let mut bytes = record.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=record.len()));
        if let Ok(view) = RecordView::parse(&bytes) {
            let _ = (view.verify_crc(), view.born_host(), view.store_host(), view.store_timestamp_ms());
        }
    }
}
