//! What consumers are answered, at once or later.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::sending::send;
use super::shard::{Answer, Ask, TestShard, answer, answers};
use crate::processor::{Served, connection_closed, pull, serve};
use crate::remoting::body::topic::{TopicConfig, perm};
use crate::remoting::field_text::FieldText;
use crate::remoting::frame::{Frame, SerializeType, split_frame};
use crate::remoting::response::write_request;
use crate::transport::Connection;

/// Bits of a pull's flag: hold it, and take the subscription from the request.
const HOLD: &str = "6";
const AT_ONCE: &str = "4";

const PULL: [(&str, &str); 10] = [
    ("consumerGroup", "g"),
    ("topic", "Orders"),
    ("queueId", "1"),
    ("queueOffset", "0"),
    ("maxMsgNums", "32"),
    ("sysFlag", AT_ONCE),
    ("commitOffset", "0"),
    ("suspendTimeoutMillis", "15000"),
    ("subscription", "*"),
    ("subVersion", "0"),
];

fn ask_pull(shard: &TestShard, client: &Rc<Connection>, opaque: i32, changes: &[(&str, &str)]) {
    let mut fields = PULL.to_vec();
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        fields.push((name, value));
    }
    shard.ask(client, opaque, &Ask { code: 11, fields: &fields, body: b"", oneway: false });
}

/// What is in a queue from its first message on.
pub(super) fn pull_all(shard: &mut TestShard, topic: &str, queue_id: u32) -> Answer {
    pull_from(shard, topic, queue_id, 0)
}

pub(super) fn pull_from(shard: &mut TestShard, topic: &str, queue_id: u32, offset: usize) -> Answer {
    let client = shard.client();
    let (queue_id, offset) = (queue_id.to_string(), offset.to_string());
    let changes = [("topic", topic), ("queueId", &queue_id), ("queueOffset", &offset)];
    ask_pull(shard, &client, 1, &changes);
    answer(&client)
}

fn store(shard: &mut TestShard, tags: &[&str]) {
    let client = shard.client();
    for tag in tags {
        let properties = if tag.is_empty() { String::new() } else { format!("TAGS\u{1}{tag}\u{2}") };
        let body = if tag.is_empty() { "untagged" } else { tag };
        send(shard, &client, 1, &[("i", &properties)], body.as_bytes());
    }
    shard.commit();
    assert!(answers(&client).iter().all(|answer| answer.code == 0));
}

fn bodies(answer: &Answer) -> Vec<String> {
    answer.records().iter().map(|view| String::from_utf8_lossy(view.body()).into_owned()).collect()
}

/// What is left: the list of what was selected, the count of its block, the list of pieces, and the nodes of trees now and then.
#[test]
fn a_pull_that_is_held_takes_no_allocation_and_its_answer_a_few() {
    const PULLS: u64 = 64;
    let mut shard = TestShard::with_topic("Orders");
    store(&mut shard, &["a"]);
    let client = shard.client();
    let held = pull_frame(&[("queueOffset", "1"), ("sysFlag", HOLD)]);
    let answered = pull_frame(&[]);
    let serve_all = |frame: &Frame| {
        for _ in 0..PULLS {
            assert!(matches!(serve(&shard.broker, &client, frame), Ok(Served::Now)));
        }
    };
    serve_all(&held);
    let used = allocation_counter::measure(|| serve_all(&held));
    assert!(used.count_total < PULLS / 2, "{} for {PULLS} pulls that are held", used.count_total);
    connection_closed(&shard.broker, client.id());
    serve_all(&answered);
    client.take_output();
    let used = allocation_counter::measure(|| serve_all(&answered));
    assert!(used.count_total <= 3 * PULLS + 16, "{} for {PULLS} answers", used.count_total);
    assert_eq!(answers(&client).len() as u64, PULLS);
}

fn pull_frame(changes: &[(&str, &str)]) -> Frame {
    let mut fields = PULL.to_vec();
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        fields.push((name, value));
    }
    let fields: Vec<(&str, &dyn FieldText)> =
        fields.iter().map(|(name, value)| (*name, value as &dyn FieldText)).collect();
    let mut bytes = BytesMut::new();
    write_request(&mut bytes, SerializeType::Json, 11, 1, false, &fields, &[]);
    split_frame(&mut bytes).expect("a frame").expect("a whole frame")
}

#[test]
fn a_pull_gets_the_messages_that_match_and_where_to_go_on() {
    let mut shard = TestShard::with_topic("Orders");
    store(&mut shard, &["a", "b", "", "a", "c"]);
    let client = shard.client();
    ask_pull(&shard, &client, 7, &[("subscription", "a || c")]);
    let found = answer(&client);
    assert_eq!((found.opaque, found.code, found.remark.as_str()), (7, 0, "FOUND"));
    assert_eq!(bodies(&found), ["a", "a", "c"]);
    assert_eq!((found.field("minOffset"), found.field("maxOffset")), ("0", "5"));
    assert_eq!((found.field("nextBeginOffset"), found.field("suggestWhichBrokerId")), ("5", "0"));
    ask_pull(&shard, &client, 8, &[("subscription", "zzz")]);
    let none = answer(&client);
    assert_eq!(
        (none.code, none.remark.as_str(), none.field("nextBeginOffset")),
        (20, "NO_MATCHED_MESSAGE", "5")
    );
    ask_pull(&shard, &client, 9, &[("maxMsgNums", "2")]);
    let two = answer(&client);
    assert_eq!((bodies(&two).len(), two.field("nextBeginOffset")), (2, "2"));
}

#[test]
fn offsets_outside_the_queue_are_answered_as_rocketmq_does() {
    let mut shard = TestShard::with_topic("Orders");
    store(&mut shard, &["a", "b"]);
    let client = shard.client();
    for (queue, offset, code, next) in [
        ("1", "2", 19, "2"),
        ("1", "3", 21, "2"),
        ("1", "-1", 21, "0"),
        ("2", "0", 19, "0"),
        ("2", "5", 21, "0"),
    ] {
        ask_pull(&shard, &client, 1, &[("queueId", queue), ("queueOffset", offset)]);
        let answer = answer(&client);
        let found = (answer.code, answer.field("nextBeginOffset"));
        assert_eq!(found, (code, next), "queue {queue} offset {offset}: {}", answer.remark);
    }
}

#[test]
fn what_cannot_be_pulled_is_refused_with_rocketmqs_code() {
    let mut shard = TestShard::with_topic("Orders");
    shard.make_topic(TopicConfig { perm: perm::WRITE, ..TopicConfig::new("Deaf", 1) });
    let client = shard.client();
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a str);
    let rows: &[Row<'_>] = &[
        ("group name", &[("consumerGroup", "a b")], 26, "[a b] does not exist"),
        ("topic", &[("topic", "Unknown")], 17, "topic[Unknown] not exist"),
        ("permission", &[("topic", "Deaf"), ("queueId", "0")], 16, "topic[Deaf]"),
        ("queue", &[("queueId", "4")], 29, "queueId[4] is illegal"),
        ("negative queue", &[("queueId", "-1")], 29, "queueId[-1] is illegal"),
        ("expression", &[("subscription", "||")], 23, "parse the consumer's subscription"),
        (
            "SQL",
            &[("expressionType", "SQL92"), ("subscription", "a >")],
            23,
            "subscription failed found the end",
        ),
        ("kind", &[("expressionType", "XPATH"), ("subscription", "a")], 23, "no filters of the kind XPATH"),
        ("no heartbeat", &[("sysFlag", "0")], 24, "group info not exist"),
        ("number", &[("queueOffset", "x")], 1, "queueOffset"),
    ];
    for (name, changes, code, text) in rows {
        ask_pull(&shard, &client, 9, changes);
        let answer = answer(&client);
        assert_eq!(answer.code, *code, "{name}: {}", answer.remark);
        assert!(answer.remark.contains(text), "{name}: {}", answer.remark);
    }
}

#[test]
fn a_pull_without_a_subscription_takes_the_one_of_the_heartbeat() {
    let mut shard = TestShard::with_topic("Orders");
    store(&mut shard, &["a", "b"]);
    let client = shard.client();
    let heartbeat = br#"{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":"CONSUME_PASSIVELY",
        "messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","subscriptionDataSet":[
        {"topic":"Orders","subString":"b","tagsSet":["b"],"codeSet":[98],"subVersion":5,"expressionType":"TAG"}]}]}"#;
    shard.ask(&client, 1, &Ask { code: 34, fields: &[], body: heartbeat, oneway: false });
    client.take_output();
    ask_pull(&shard, &client, 2, &[("sysFlag", "0"), ("subVersion", "5")]);
    assert_eq!(bodies(&answer(&client)), ["b"]);
    ask_pull(&shard, &client, 3, &[("sysFlag", "0"), ("subVersion", "6")]);
    assert_eq!(answer(&client).code, 25);
    shard.make_topic(TopicConfig::new("Other", 4));
    ask_pull(&shard, &client, 4, &[("sysFlag", "0"), ("topic", "Other")]);
    assert_eq!(answer(&client).code, 24);
}

#[test]
fn a_pull_commits_the_offset_that_it_names() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[("sysFlag", "5"), ("commitOffset", "17")]);
    assert_eq!(shard.broker.borrow().offsets.get("g", "Orders", 1), Some(17));
    ask_pull(&shard, &client, 2, &[("sysFlag", "4"), ("commitOffset", "18")]);
    assert_eq!(shard.broker.borrow().offsets.get("g", "Orders", 1), Some(17));
}

#[test]
fn a_held_pull_is_answered_by_the_commit_that_brings_its_message() {
    let mut shard = TestShard::with_topic("Orders");
    let (all, tagged, elsewhere) = (shard.client(), shard.client(), shard.client());
    ask_pull(&shard, &all, 1, &[("sysFlag", HOLD)]);
    ask_pull(&shard, &tagged, 2, &[("sysFlag", HOLD), ("subscription", "b")]);
    ask_pull(&shard, &elsewhere, 3, &[("sysFlag", HOLD), ("queueId", "2")]);
    assert_eq!(shard.broker.borrow().held_pulls.len(), 3);
    store(&mut shard, &["a", "x"]);
    assert_eq!(bodies(&answer(&all)), ["a", "x"], "one answer with everything of the commit");
    assert!(answers(&tagged).is_empty());
    store(&mut shard, &["b"]);
    let woken = answer(&tagged);
    assert_eq!((woken.opaque, bodies(&woken)), (2, vec!["b".to_owned()]));
    assert_eq!(woken.field("nextBeginOffset"), "3");
    assert!(answers(&elsewhere).is_empty());
    assert_eq!(shard.broker.borrow().held_pulls.len(), 1);
}

#[test]
fn a_held_pull_is_answered_when_its_time_is_over() {
    let mut shard = TestShard::with_topic("Orders");
    store(&mut shard, &["a"]);
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[("sysFlag", HOLD), ("queueOffset", "1")]);
    pull::answer_due(&shard.broker, Instant::now() + Duration::from_secs(14));
    assert!(answers(&client).is_empty());
    pull::answer_due(&shard.broker, Instant::now() + Duration::from_secs(15));
    let answer = answer(&client);
    assert_eq!((answer.code, answer.field("nextBeginOffset")), (19, "1"));
    assert_eq!((answer.field("minOffset"), answer.field("maxOffset")), ("0", "1"));
}

#[test]
fn messages_that_do_not_match_move_a_held_pull_on_when_its_time_is_over() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[("sysFlag", HOLD), ("subscription", "b")]);
    store(&mut shard, &["a", "a"]);
    pull::answer_due(&shard.broker, Instant::now() + Duration::from_secs(15));
    let answer = answer(&client);
    assert_eq!((answer.code, answer.field("nextBeginOffset")), (20, "2"));
}

#[test]
fn a_connection_that_ends_takes_its_held_pulls_along() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[("sysFlag", HOLD)]);
    connection_closed(&shard.broker, client.id());
    assert!(shard.broker.borrow().held_pulls.is_empty());
    store(&mut shard, &["a"]);
}

const SQL: (&str, &str) = ("expressionType", "SQL92");

/// Sends messages with a property `a`.
fn store_numbers(shard: &mut TestShard, numbers: &[&str]) {
    let client = shard.client();
    for number in numbers {
        let properties = format!("a\u{1}{number}\u{2}");
        send(shard, &client, 1, &[("i", &properties)], number.as_bytes());
    }
    shard.commit();
    assert!(answers(&client).iter().all(|answer| answer.code == 0));
}

/// C6
#[test]
fn a_pull_with_an_expression_gets_the_messages_whose_properties_match() {
    let mut shard = TestShard::with_topic("Orders");
    store_numbers(&mut shard, &["1", "7", "x", "5", "6"]);
    store(&mut shard, &["red"]);
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[SQL, ("subscription", "a BETWEEN 1 AND 5")]);
    let found = answer(&client);
    assert_eq!((found.code, bodies(&found)), (0, vec!["1".to_owned(), "5".to_owned()]));
    assert_eq!(found.field("nextBeginOffset"), "6");
    ask_pull(&shard, &client, 2, &[SQL, ("subscription", "a IS NULL AND TAGS = 'red'")]);
    assert_eq!(bodies(&answer(&client)), ["red"]);
    ask_pull(&shard, &client, 3, &[SQL, ("subscription", "a > 100")]);
    let none = answer(&client);
    assert_eq!((none.code, none.field("nextBeginOffset")), (20, "6"));
    ask_pull(&shard, &client, 4, &[SQL, ("subscription", "TRUE"), ("maxMsgNums", "2")]);
    let two = answer(&client);
    assert_eq!((bodies(&two).len(), two.field("nextBeginOffset")), (2, "2"));
    shard.broker.borrow_mut().settings.enable_property_filter = false;
    ask_pull(&shard, &client, 5, &[SQL, ("subscription", "TRUE")]);
    let refused = answer(&client);
    let remark = "The broker does not support consumer to filter message by SQL92";
    assert_eq!((refused.code, refused.remark.as_str()), (1, remark));
}

/// C6
#[test]
fn a_held_pull_with_an_expression_waits_for_a_message_that_matches() {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    ask_pull(&shard, &client, 1, &[("sysFlag", HOLD), SQL, ("subscription", "a = 2")]);
    store_numbers(&mut shard, &["1", "3", "x"]);
    assert!(answers(&client).is_empty());
    store_numbers(&mut shard, &["2", "4"]);
    let woken = answer(&client);
    assert_eq!((bodies(&woken), woken.field("nextBeginOffset")), (vec!["2".to_owned()], "5"));
    ask_pull(&shard, &client, 2, &[("sysFlag", HOLD), ("queueOffset", "5"), SQL, ("subscription", "a = 2")]);
    store_numbers(&mut shard, &["1"]);
    pull::answer_due(&shard.broker, Instant::now() + Duration::from_secs(15));
    let over = answer(&client);
    assert_eq!((over.code, over.field("nextBeginOffset")), (20, "6"), "goes on behind what was filtered out");
}

/// C6: the expression of the heartbeat counts, as push consumers have it.
#[test]
fn a_pull_without_an_expression_takes_the_one_of_the_heartbeat() {
    let mut shard = TestShard::with_topic("Orders");
    store_numbers(&mut shard, &["1", "2", "3"]);
    let client = shard.client();
    let heartbeat = |expression: &str, version: i64| {
        format!(
            r#"{{"clientID":"c@1","producerDataSet":[],"consumerDataSet":[{{"groupName":"g","consumeType":"CONSUME_PASSIVELY",
            "messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,"subscriptionDataSet":[
            {{"topic":"Orders","subString":"{expression}","subVersion":{version},"expressionType":"SQL92","tagsSet":[],"codeSet":[]}}]}}]}}"#
        )
    };
    let subscribe = |expression: &str, version: i64| {
        let body = heartbeat(expression, version);
        shard.ask(&client, 1, &Ask { code: 34, fields: &[], body: body.as_bytes(), oneway: false });
    };
    subscribe("a IN ('1', '3')", 5);
    client.take_output();
    ask_pull(&shard, &client, 2, &[("sysFlag", "0"), ("subVersion", "5")]);
    assert_eq!(bodies(&answer(&client)), ["1", "3"]);
    ask_pull(&shard, &client, 3, &[("sysFlag", "0"), ("subVersion", "6")]);
    assert_eq!(answer(&client).code, 25);
    // As stock, it is the pull that is refused.
    subscribe("a IN", 7);
    client.take_output();
    ask_pull(&shard, &client, 4, &[("sysFlag", "0"), ("subVersion", "7")]);
    let refused = answer(&client);
    assert_eq!(refused.code, 27, "{}", refused.remark);
    assert!(refused.remark.contains("Your expression may be wrong! found the end"), "{}", refused.remark);
}
