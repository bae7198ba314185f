//! Each kind of damage to a topic is found.

use super::*;
use crate::payload::patch_body;
use bytes::BufMut;

const SIZE: usize = 40;

fn head() -> AcksHead {
    AcksHead { topic: "t".into(), run: 5, size: SIZE, brokers: vec!["b".into()] }
}

fn queue() -> Queue {
    Queue { topic: "t".into(), broker_name: "b".into(), addr: String::new(), queue_id: 0 }
}

/// The record of message `sequence` at `offset`, as a broker stores it.
fn record(sequence: u64, offset: u64) -> Vec<u8> {
    let payload = Payload::new(RunId(5), SIZE);
    let mut body = payload.template().to_vec();
    patch_body(&mut body, sequence, 1);
    let key = String::from_utf8(payload.key(sequence).to_vec()).unwrap();
    let properties = format!("UNIQ_KEY\u{1}{key}\u{2}");
    let mut out = Vec::new();
    out.put_u32(0);
    out.put_u32(0xDAA3_20A7);
    out.put_u32(crc32fast::hash(&body) & 0x7FFF_FFFF);
    out.put_u32(0);
    out.put_u32(0);
    out.put_u64(offset);
    out.put_bytes(0, 8 + 4 + 8 + 8 + 8 + 8 + 4 + 8);
    out.put_u32(u32::try_from(body.len()).unwrap());
    out.put_slice(&body);
    out.put_u8(1);
    out.put_slice(b"t");
    out.put_u16(u16::try_from(properties.len()).unwrap());
    out.put_slice(properties.as_bytes());
    let size = u32::try_from(out.len()).unwrap();
    out[..4].copy_from_slice(&size.to_be_bytes());
    out
}

/// Judges `records` against acknowledgements of message 10 + i at offset i, for i below `acknowledged`.
fn judge(acknowledged: u64, records: &[Vec<u8>], allow: bool) -> Findings {
    let mut expected = Expected::default();
    let acks: Vec<_> = (0..acknowledged)
        .map(|offset| Ack { broker: 0, queue_id: 0, queue_offset: offset, sequence: 10 + offset })
        .collect();
    expected.add(&head(), &acks);
    for record in records {
        expected.see(&queue(), &MessageView::parse(record).unwrap().0);
    }
    expected.finish(allow, allow)
}

#[test]
fn a_topic_as_acknowledged_has_no_problems() {
    let findings = judge(3, &[record(10, 0), record(11, 1), record(12, 2)], false);
    assert_eq!((findings.problems, findings.acknowledged, findings.read), (0, 3, 3));
}

#[test]
fn a_missing_message_is_found() {
    let findings = judge(3, &[record(10, 0), record(11, 1)], true);
    assert_eq!(findings.problems, 1);
    assert!(findings.first_problems[0].contains("message 12, acknowledged at offset 2, is missing"));
}

#[test]
fn a_message_at_another_offset_is_found() {
    assert_eq!(judge(2, &[record(11, 0), record(10, 1)], true).problems, 2);
}

#[test]
fn a_duplicate_is_found_even_when_extra_messages_are_allowed() {
    assert_eq!(judge(2, &[record(10, 0), record(11, 1), record(11, 2)], true).problems, 1);
    assert_eq!(judge(1, &[record(10, 0), record(99, 1), record(99, 2)], true).problems, 1);
}

#[test]
fn a_changed_body_is_found_by_content_and_by_checksum() {
    let mut changed = record(10, 0);
    changed[100] ^= 1;
    assert_eq!(judge(1, &[changed], true).problems, 2);
}

#[test]
fn unacknowledged_messages_count_only_when_they_are_not_allowed() {
    let records = [record(10, 0), record(11, 1)];
    assert_eq!(judge(1, &records, true).problems, 0);
    assert_eq!(judge(1, &records, false).problems, 1);
}
