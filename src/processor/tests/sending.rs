//! What producers are answered and what is stored of their messages.

use std::rc::Rc;

use bytes::BytesMut;
use shards::append::AppendRefusal;
use shards::limits::MESSAGE_BODY_BYTES_MAX;
use shards::record::properties::Properties;

use super::pulling::pull_all;
use super::shard::{Answer, Ask, STORED_MS, TestShard, answer, answers};
use crate::broker::Settings;
use crate::broker::delay_schedule::DelayLevel;
use crate::processor::send::batch;
use crate::processor::{Served, delayed, serve};
use crate::remoting::body::queue::MessageQueue;
use crate::remoting::field_text::FieldText;
use crate::remoting::frame::{SerializeType, split_frame};
use crate::remoting::response::write_request;
use crate::transport::Connection;

/// A good send of the second form; a test changes some fields.
const SEND: [(&str, &str); 10] = [
    ("a", "producers"),
    ("b", "Orders"),
    ("c", "TBW102"),
    ("d", "4"),
    ("e", "1"),
    ("f", "0"),
    ("g", "1690000000000"),
    ("h", "7"),
    ("i", "KEYS\u{1}k1 k2\u{2}UNIQ_KEY\u{1}AC1400010000000000000000000000FF\u{2}TAGS\u{1}TagA"),
    ("m", "false"),
];

/// `SEND` with other values; an empty one leaves the field out.
fn changed<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = SEND.to_vec();
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    fields
}

pub(super) fn send(
    shard: &TestShard,
    client: &Rc<Connection>,
    opaque: i32,
    changes: &[(&str, &str)],
    body: &[u8],
) {
    let fields = changed(changes);
    shard.ask(client, opaque, &Ask { code: 310, fields: &fields, body, oneway: false });
}

/// The one allocation left holds the properties: clients write their separators as escapes.
#[test]
fn a_send_takes_one_allocation_until_it_is_with_the_log_core() {
    const SENDS: u64 = 64;
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    let fields: Vec<(&str, &dyn FieldText)> =
        SEND.iter().map(|(name, value)| (*name, value as &dyn FieldText)).collect();
    let mut bytes = BytesMut::new();
    write_request(&mut bytes, SerializeType::Json, 310, 1, false, &fields, &[7; 1024]);
    let frame = split_frame(&mut bytes).expect("a frame").expect("a whole frame");
    let send = || {
        for _ in 0..SENDS {
            assert!(matches!(serve(&shard.broker, &client, &frame), Ok(Served::Now)));
        }
    };
    send();
    let used = allocation_counter::measure(send);
    // And now and then the queues of what waits grow.
    assert!((SENDS..SENDS + 8).contains(&used.count_total), "{} in {SENDS} sends", used.count_total);
    shard.commit();
    assert_eq!(answers(&client).len() as u64, 2 * SENDS);
}

#[test]
fn a_send_is_answered_when_it_is_committed_and_with_every_field() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    send(&shard, &client, 41, &[], b"hello");
    assert_eq!(answers(&client), [], "nothing is acknowledged before it is durable");
    shard.commit();
    let output: Vec<u8> = client.take_output().concat();
    let expected = concat!(
        r#"{"code":0,"extFields":{"msgId":"7F00000100002A9F0000000000000000","queueId":"1","queueOffset":"0","#,
        r#""MSG_REGION":"DefaultRegion","TRACE_ON":"true","transactionId":"AC1400010000000000000000000000FF"},"#,
        r#""flag":1,"language":"JAVA","opaque":41,"serializeTypeCurrentRPC":"JSON","version":479}"#,
    );
    assert_eq!(String::from_utf8_lossy(&output[8..]), expected);
}

#[test]
fn a_stored_message_is_what_was_sent_with_the_brokers_own_properties() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    let properties = "KEYS\u{1}日本\u{2}POP_CK\u{1}mine\u{2}";
    send(&shard, &client, 1, &[("i", properties), ("j", "2"), ("f", "1")], b"hello");
    shard.commit();
    let sent = answer(&client);
    let pulled = pull_all(&mut shard, "Orders", 1);
    let record = pulled.records()[0];
    assert_eq!((record.topic(), record.queue_id(), record.body()), ("Orders", 1, &b"hello"[..]));
    assert_eq!((record.flag(), record.sys_flag(), record.reconsume_times()), (7, 1, 2));
    assert_eq!((record.born_timestamp_ms(), record.store_timestamp_ms()), (1_690_000_000_000, STORED_MS));
    assert_eq!(record.born_host(), client.peer());
    assert_eq!(record.store_host(), shard.broker.borrow().identity.addr);
    let stored = Properties::new(record.properties());
    assert_eq!(stored.get("KEYS"), Some("日本"));
    assert_eq!(stored.get("POP_CK"), None);
    assert_eq!(stored.get("CLUSTER"), Some("DefaultCluster"));
    assert_eq!(stored.get("MSG_REGION"), Some("DefaultRegion"));
    assert_eq!(stored.get("UNIQ_KEY"), Some(sent.field("transactionId")), "made by the broker");
    assert_eq!(sent.field("transactionId").len(), 32);
}

#[test]
fn what_cannot_be_sent_is_refused_with_rocketmqs_code() {
    let shard = &mut TestShard::with_topic("Orders");
    shard.make_topic(crate::remoting::body::topic::TopicConfig::new("%RETRY%g", 1));
    let client = &shard.client();
    let long_properties = format!("A\u{1}{}\u{2}", "x".repeat(32_700));
    // The answer repeats the key, in a header that has 16 MiB at most.
    let long_unique_key = format!("UNIQ_KEY\u{1}{}", "x".repeat(40_000));
    let long_topic = "t".repeat(128);
    let large_body = vec![0; MESSAGE_BODY_BYTES_MAX + 1];
    let batch = &batch::encode(&[(0, b"a", b"")])[..];
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], i32, &'a str);
    let rows: &[Row<'_>] = &[
        ("no topic field", &[("b", "")], b"x", 1, "<b>"),
        ("number", &[("e", "one")], b"x", 1, "\"one\""),
        ("topic name", &[("b", "a b")], b"x", 29, "illegal characters"),
        ("topic length", &[("b", &long_topic)], b"x", 29, "longer"),
        ("system topic", &[("b", "SCHEDULE_TOPIC_XXXX")], b"x", 16, "forbidden"),
        ("half topic", &[("b", "RMQ_SYS_TRANS_HALF_TOPIC")], b"x", 16, "forbidden"),
        ("default topic", &[("b", "New"), ("c", "Orders")], b"x", 17, "topic[New] not exist"),
        ("queue", &[("e", "4")], b"x", 29, "request queueId[4] is illegal"),
        ("no body", &[], b"", 13, "body length limit 4194304B"),
        ("body", &[], &large_body, 13, "body length limit 4194304B"),
        ("properties", &[("i", &long_properties)], b"x", 13, "properties length limit 32KB"),
        ("half message", &[("i", "TRAN_MSG\u{1}true\u{2}")], b"x", 16, "transaction"),
        ("half flag", &[("f", "4")], b"x", 16, "transaction"),
        ("timer", &[("i", "TIMER_DELAY_SEC\u{1}5\u{2}")], b"x", 1, "timerWheelEnable is false"),
        ("inner batch", &[("i", "INNER_NUM\u{1}2\u{2}")], b"x", 13, "one record"),
        ("delay level", &[("i", "DELAY\u{1}x\u{2}")], b"x", 1, "DELAY"),
        ("garbage batch", &[("m", "true")], b"xyz", 13, "head"),
        ("retry batch", &[("m", "true"), ("b", "%RETRY%g"), ("e", "0")], batch, 13, "%RETRY%g"),
        ("delayed batch", &[("m", "true"), ("i", "DELAY\u{1}3\u{2}")], batch, 13, "illegal"),
        ("half batch", &[("m", "true"), ("f", "4")], batch, 13, "illegal"),
        ("batch properties", &[("m", "true"), ("i", &long_unique_key)], batch, 13, "properties length limit"),
    ];
    for (name, changes, body, code, text) in rows {
        send(shard, client, 9, changes, body);
        let answer = answer(client);
        assert_eq!((answer.opaque, answer.code), (9, *code), "{name}: {}", answer.remark);
        assert!(answer.remark.contains(text), "{name}: {}", answer.remark);
    }
    assert_eq!(shard.broker.borrow().appends.waiting(), 0, "nothing of it was stored");
}

#[test]
fn a_log_that_refuses_is_told_to_the_producer_and_to_nobody_else() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    send(&shard, &client, 1, &[], b"x");
    shard.refuse(&AppendRefusal::DiskFull { path: "/store".to_owned(), free_bytes: 1, needed_bytes: 2 });
    let refused = answer(&client);
    assert_eq!(refused.code, 14);
    assert!(refused.remark.contains("/store"), "{}", refused.remark);
    send(&shard, &client, 2, &[], b"x");
    shard.commit();
    assert_eq!(answer(&client).field("queueOffset"), "0");
}

#[test]
fn pipelined_sends_are_answered_in_order_and_oneway_ones_not_at_all() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    for opaque in 0..5 {
        send(&shard, &client, opaque, &[("e", "-1")], b"x");
    }
    let fields = changed(&[]);
    shard.ask(&client, 5, &Ask { code: 310, fields: &fields, body: b"oneway", oneway: true });
    shard.commit();
    let answers = answers(&client);
    assert_eq!(answers.iter().map(|answer| answer.opaque).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let queues: Vec<&str> = answers.iter().map(|answer| answer.field("queueId")).collect();
    assert_eq!(queues, ["0", "1", "2", "3", "0"], "who does not care is spread over the queues");
    let bodies: Vec<Vec<u8>> =
        pull_all(&mut shard, "Orders", 1).records().iter().map(|view| view.body().to_vec()).collect();
    assert_eq!(bodies, [b"x".to_vec(), b"oneway".to_vec()]);
}

#[test]
fn a_batch_is_stored_message_by_message_and_answered_once() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    let body = batch::encode(&[(1, b"one", b"KEYS\x01k\x02TAGS\x01t"), (2, b"two", b""), (3, b"three", b"")]);
    let fields = changed(&[("m", "true")]);
    shard.ask(&client, 3, &Ask { code: 320, fields: &fields, body: &body, oneway: false });
    shard.commit();
    let answer = answer(&client);
    assert_eq!((answer.code, answer.field("queueOffset")), (0, "0"));
    let pulled = pull_all(&mut shard, "Orders", 1);
    let records = pulled.records();
    let stored: Vec<(i32, &[u8])> = records.iter().map(|view| (view.flag(), view.body())).collect();
    assert_eq!(stored, [(1, &b"one"[..]), (2, b"two"), (3, b"three")]);
    let ids: Vec<String> = records
        .iter()
        .map(|view| shards::record::message_id::offset_message_id(view.store_host(), view.physical_offset()))
        .collect();
    assert_eq!(answer.field("msgId"), ids.join(","));
    let properties = Properties::new(records[0].properties());
    assert_eq!((properties.get("KEYS"), properties.get("TAGS")), (Some("k"), Some("t")));
    assert_eq!(properties.get("CLUSTER"), None, "messages of a batch are stored as they came");
}

#[test]
fn a_first_send_makes_the_topic_durable_and_known_before_it_is_stored() {
    let mut shard = TestShard::start();
    let client = shard.client();
    let (broker, outside) = (Rc::clone(&shard.broker), Rc::clone(&shard.outside));
    send(&shard, &client, 1, &[("b", "Fresh"), ("d", "6")], b"x");
    let config = broker.borrow().durable_topic("Fresh").map(Rc::clone).expect("made and durable");
    assert_eq!((config.write_queue_nums, config.read_queue_nums, config.perm), (6, 6, 6));
    assert_eq!(outside.made_elsewhere.borrow().len(), 1);
    assert!(outside.registered.borrow().iter().any(|told| told.topics[0].topic_name == "Fresh"));
    shard.commit();
    assert_eq!(answer(&client).code, 0);
}

#[test]
fn without_automatic_topics_a_send_to_an_unknown_one_is_refused() {
    let mut shard = TestShard::with_settings(Settings { auto_create_topic: false, ..Settings::default() });
    let client = shard.client();
    send(&shard, &client, 1, &[("b", "Fresh")], b"x");
    assert_eq!(answer(&client).code, 17);
}

fn delayed_until(shard: &TestShard, now_ms: i64) {
    while futures_lite::future::block_on(delayed::deliver_due(&shard.broker, now_ms)) {}
}

#[test]
fn a_delayed_message_arrives_when_it_is_due_and_not_before_and_is_not_delayed_again() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    send(&shard, &client, 1, &[("i", "DELAY\u{1}2\u{2}TAGS\u{1}t\u{2}"), ("e", "3")], b"later");
    shard.commit();
    let sent = answer(&client);
    assert_eq!((sent.code, sent.field("queueId"), sent.field("queueOffset")), (0, "3", "0"));
    let due_ms = STORED_MS + 5_000;
    delayed_until(&shard, due_ms - 1);
    shard.commit();
    assert!(pull_all(&mut shard, "Orders", 3).records().is_empty());
    delayed_until(&shard, due_ms);
    shard.commit();
    let pulled = pull_all(&mut shard, "Orders", 3);
    let records = pulled.records();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].topic(), records[0].queue_id(), records[0].body()), ("Orders", 3, &b"later"[..]));
    let properties = Properties::new(records[0].properties());
    assert_eq!((properties.get("DELAY"), properties.get("REAL_TOPIC")), (Some("2"), Some("Orders")));
    assert_eq!((properties.get("REAL_QID"), properties.get("TAGS")), (Some("3"), Some("t")));
    let of_checksum = Properties::new(records[0].properties()).filter(|(name, _)| *name == "__CRC32#");
    assert_eq!(of_checksum.count(), 1, "the first record's checksum is not taken along");
    delayed_until(&shard, i64::MAX);
    shard.commit();
    assert_eq!(pull_all(&mut shard, "Orders", 3).records().len(), 1, "delivered once");
    let level = shard.broker.borrow().delay.delays().asked_for(2).map(DelayLevel::number);
    let moved = shard.broker.borrow_mut().delay.take_moved();
    assert_eq!(moved, level.map(|level| vec![(level, shards::position::QueueOffset::new(1))]));
}

#[test]
fn many_delayed_messages_of_several_levels_all_arrive() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    for opaque in 0..100 {
        let properties = format!("DELAY\u{1}{}\u{2}", opaque % 4);
        send(&shard, &client, opaque, &[("i", &properties), ("e", "0")], opaque.to_string().as_bytes());
    }
    shard.commit();
    shard.log_now_ms += 20_000;
    delayed_until(&shard, STORED_MS + 20_000);
    shard.commit();
    let mut bodies: Vec<i32> = Vec::new();
    let mut offset = 0;
    loop {
        let pulled = super::pulling::pull_from(&mut shard, "Orders", 0, offset);
        let records = pulled.records();
        if records.is_empty() {
            break;
        }
        offset += records.len();
        let number = |body: &[u8]| String::from_utf8_lossy(body).parse::<i32>().expect("a number");
        bodies.extend(records.iter().map(|view| number(view.body())));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..100).collect::<Vec<_>>());
}

fn retry(shard: &mut TestShard, reconsume_times: &str, max: &str) -> Answer {
    let client = shard.client();
    let changes = [("b", "%RETRY%g"), ("e", "0"), ("j", reconsume_times), ("l", max)];
    send(shard, &client, 1, &changes, b"x");
    shard.commit();
    answer(&client)
}

#[test]
fn a_message_sent_to_its_retry_topic_too_often_goes_to_the_dead_letters() {
    let mut shard = TestShard::start();
    assert_eq!(retry(&mut shard, "3", "3").code, 0);
    assert_eq!(pull_all(&mut shard, "%RETRY%g", 0).records().len(), 1, "the comparison is strict");
    assert_eq!(retry(&mut shard, "4", "3").code, 0);
    assert_eq!(pull_all(&mut shard, "%RETRY%g", 0).records().len(), 1);
    let dead = pull_all(&mut shard, "%DLQ%g", 0);
    assert_eq!(dead.records().len(), 1);
    assert_eq!(Properties::new(dead.records()[0].properties()).get("DELAY"), Some("-1"));
}

#[test]
fn a_group_that_consumes_in_order_sends_to_the_dead_letters_at_once() {
    let mut shard = TestShard::start();
    let queue = MessageQueue { topic: "T".to_owned(), broker_name: "ringmq-0".to_owned(), queue_id: 0 };
    let now_ms = crate::broker::wall_clock_ms();
    shard.broker.borrow_mut().queue_locks.lock("g", "client", &[queue], now_ms);
    assert_eq!(retry(&mut shard, "0", "16").code, 0);
    assert_eq!(pull_all(&mut shard, "%DLQ%g", 0).records().len(), 1);
}
