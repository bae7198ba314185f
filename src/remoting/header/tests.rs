//! Examples of typed headers; the golden files hold those of real clients.

use bytes::BytesMut;

use super::offset::SearchOffsetHeader;
use super::pull::{PullHeader, pull_flag};
use super::send::{SendBackHeader, SendHeader};
use crate::remoting::field_text::FieldText;
use crate::remoting::frame::{Frame, SerializeType, split_frame};
use crate::remoting::request::{HeaderError, Request};
use crate::remoting::response::write_request;

fn frame(code: i32, fields: &[(&str, &str)]) -> Frame {
    let ext: Vec<(&str, &dyn FieldText)> =
        fields.iter().map(|(key, value)| (*key, value as &dyn FieldText)).collect();
    let mut out = BytesMut::new();
    write_request(&mut out, SerializeType::Json, code, 1, false, &ext, b"");
    split_frame(&mut out).unwrap().unwrap()
}

const SHORT: [(&str, &str); 14] = [
    ("a", "group"),
    ("b", "Orders"),
    ("c", "TBW102"),
    ("d", "4"),
    ("e", "-1"),
    ("f", "0"),
    ("g", "1700000000000"),
    ("h", "7"),
    ("i", "KEYS\u{1}k\u{2}"),
    ("j", "2"),
    ("k", "false"),
    ("l", "16"),
    ("m", "true"),
    ("n", "ringmq-0"),
];

const LONG_NAMES: [&str; 14] = [
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

#[test]
fn a_send_reads_the_same_in_both_shapes_and_under_any_code() {
    let long: Vec<(&str, &str)> =
        LONG_NAMES.iter().zip(SHORT).map(|(name, (_, value))| (*name, value)).collect();
    for (code, fields) in [(10, &long[..]), (310, &SHORT[..]), (320, &long[..]), (320, &SHORT[..])] {
        let frame = frame(code, fields);
        let request = Request::decode(&frame).unwrap();
        let header = SendHeader::parse(&request).unwrap();
        let expected = SendHeader {
            producer_group: "group",
            topic: "Orders",
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: -1,
            sys_flag: 0,
            born_timestamp_ms: 1_700_000_000_000,
            flag: 7,
            properties: "KEYS\u{1}k\u{2}",
            reconsume_times: 2,
            unit_mode: false,
            max_reconsume_times: Some(16),
            batch: true,
            broker_name: Some("ringmq-0"),
        };
        assert_eq!(header, expected, "code {code}");
    }
}

#[test]
fn optional_fields_of_a_send_may_be_missing_and_required_ones_may_not() {
    for missing in 0..SHORT.len() {
        let mut fields = SHORT.to_vec();
        let (name, _) = fields.remove(missing);
        let frame = frame(310, &fields);
        let request = Request::decode(&frame).unwrap();
        let parsed = SendHeader::parse(&request);
        // Without `a` the long names are looked for.
        let wanted = if name == "a" { "producerGroup" } else { name };
        if name <= "h" {
            assert_eq!(parsed.unwrap_err(), HeaderError::Missing { field: wanted });
        } else {
            parsed.unwrap();
        }
    }
}

#[test]
fn a_malformed_number_names_field_and_value() {
    let mut fields = SHORT.to_vec();
    fields[4].1 = "12x";
    let frame = frame(310, &fields);
    let request = Request::decode(&frame).unwrap();
    let error = SendHeader::parse(&request).unwrap_err();
    assert_eq!(error.to_string(), "the field <e> = \"12x\" is not a 32-bit number");
}

#[test]
fn headers_of_consumers_read_their_defaults() {
    let pull = [
        ("consumerGroup", "g"),
        ("topic", "t"),
        ("queueId", "3"),
        ("queueOffset", "9"),
        ("maxMsgNums", "32"),
        ("sysFlag", "6"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "15000"),
        ("subVersion", "5"),
    ];
    let pull_frame = frame(11, &pull);
    let request = Request::decode(&pull_frame).unwrap();
    let header = PullHeader::parse(&request).unwrap();
    assert!(header.has(pull_flag::SUSPEND) && header.has(pull_flag::SUBSCRIPTION));
    assert!(!header.has(pull_flag::COMMIT_OFFSET));
    assert_eq!((header.subscription, header.max_msg_bytes), (None, None));

    let back_frame =
        frame(36, &[("offset", "77"), ("group", "g"), ("delayLevel", "-1"), ("maxReconsumeTimes", "")]);
    let request = Request::decode(&back_frame).unwrap();
    let header = SendBackHeader::parse(&request).unwrap();
    assert_eq!((header.offset, header.delay_level, header.max_reconsume_times), (77, -1, None));

    let search_frame =
        frame(29, &[("topic", "t"), ("queueId", "0"), ("timestamp", "1"), ("boundaryType", "Upper")]);
    let request = Request::decode(&search_frame).unwrap();
    assert!(SearchOffsetHeader::parse(&request).unwrap().wants_upper());
}
