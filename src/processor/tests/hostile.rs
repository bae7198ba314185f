//! Requests with fields and bodies that nobody should send. `RINGMQ_FUZZ_SEED=n` runs one seed, `RINGMQ_FUZZ_ROUNDS=n` so many rounds.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use shards::record::RecordView;

use super::running_shard::{Client, RunningShard, on_core};
use super::shard::{Ask, TestShard, answers};
use crate::processor::connection_closed;
use crate::processor::send::batch;
use crate::remoting::code::{request, response};
use crate::remoting::field_text::FieldText;

/// Good fields for every request that is tried; some are spoilt each time.
const GOOD: [(&str, &str); 29] = [
    ("a", "producers"),
    ("b", "Orders"),
    ("c", "TBW102"),
    ("d", "4"),
    ("e", "1"),
    ("f", "0"),
    ("g", "5"),
    ("h", "0"),
    ("i", "KEYS\u{1}k\u{2}"),
    ("j", "0"),
    ("k", "false"),
    ("l", "16"),
    ("m", "false"),
    ("topic", "Orders"),
    ("queueId", "1"),
    ("queueOffset", "0"),
    ("maxMsgNums", "32"),
    ("sysFlag", "6"),
    ("commitOffset", "0"),
    ("suspendTimeoutMillis", "15000"),
    ("subscription", "*"),
    ("subVersion", "0"),
    ("expressionType", "TAG"),
    ("maxMsgBytes", "1000"),
    ("consumerGroup", "g"),
    ("offset", "0"),
    ("group", "g"),
    ("delayLevel", "0"),
    ("maxReconsumeTimes", "16"),
];
const BAD: [&str; 22] = [
    "",
    "0",
    "1",
    "2",
    "-1",
    "4",
    "7",
    "true",
    "*",
    "TagA || TagB",
    "9223372036854775807",
    "-9223372036854775808",
    "2147483647",
    "Unknown",
    "TBW102",
    "%RETRY%g",
    "%RETRY%",
    "%DLQ%g",
    "SCHEDULE_TOPIC_XXXX",
    "g",
    "DELAY\u{1}18\u{2}KEYS\u{1}\u{2}\u{1}x\u{2}",
    "DELAY\u{1}2147483648\u{2}UNIQ_KEY\u{1}é",
];

#[test]
fn whatever_is_asked_is_answered_once_and_the_broker_goes_on() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    let batch = batch::encode(&[(0, b"one", b"A\x01b"), (1, b"two", b"")]);
    let (mut held, mut good) = (0, 0);
    for opaque in 0..4_000 {
        let code = [10, 310, 320, 11, 361, 36, 33][random.random_range(0..7)];
        let mut fields = GOOD.to_vec();
        for _ in 0..random.random_range(0..4) {
            fields[random.random_range(0..GOOD.len())].1 = BAD[random.random_range(0..BAD.len())];
        }
        let mut body = if random.random() { batch.clone() } else { vec![7; random.random_range(0..64)] };
        if random.random() && !body.is_empty() {
            let at = random.random_range(0..body.len());
            body[at] = random.random();
        }
        shard.ask(&client, opaque, &Ask { code, fields: &fields, body: &body, oneway: false });
        let is_held = shard.broker.borrow().held_pulls.len() > held;
        shard.commit();
        let answered = answers(&client);
        let to_this = answered.iter().filter(|answer| answer.opaque == opaque).count();
        assert_eq!(to_this + usize::from(is_held), 1, "code {code} {fields:?}: {answered:?}");
        held = shard.broker.borrow().held_pulls.len();
        good += answered.iter().filter(|answer| answer.code == 0).count();
        assert_eq!(shard.broker.borrow().appends.waiting(), 0);
    }
    assert!(good > 500, "only {good} of 4000 requests had success: the test has lost its reach");
    connection_closed(&shard.broker, client.id());
    assert!(shard.broker.borrow().held_pulls.is_empty());
}

/// Every request that this broker knows, and one that it does not.
const CODES: [i32; 37] = [
    request::SEND_MESSAGE,
    request::SEND_MESSAGE_V2,
    request::SEND_BATCH_MESSAGE,
    request::PULL_MESSAGE,
    request::LITE_PULL_MESSAGE,
    request::CONSUMER_SEND_MSG_BACK,
    request::QUERY_MESSAGE,
    request::VIEW_MESSAGE_BY_ID,
    request::HEART_BEAT,
    request::UNREGISTER_CLIENT,
    request::GET_CONSUMER_LIST_BY_GROUP,
    request::CHECK_CLIENT_CONFIG,
    request::QUERY_CONSUMER_OFFSET,
    request::UPDATE_CONSUMER_OFFSET,
    request::GET_MAX_OFFSET,
    request::GET_MIN_OFFSET,
    request::GET_EARLIEST_MSG_STORETIME,
    request::SEARCH_OFFSET_BY_TIMESTAMP,
    request::LOCK_BATCH_MQ,
    request::UNLOCK_BATCH_MQ,
    request::UPDATE_AND_CREATE_TOPIC,
    request::DELETE_TOPIC_IN_BROKER,
    request::GET_TOPIC_CONFIG,
    request::GET_ALL_TOPIC_CONFIG,
    request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
    request::GET_BROKER_RUNTIME_INFO,
    request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
    request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
    request::GET_SUBSCRIPTIONGROUP_CONFIG,
    request::DELETE_SUBSCRIPTIONGROUP,
    request::GET_CONSUMER_CONNECTION_LIST,
    request::GET_PRODUCER_CONNECTION_LIST,
    request::GET_TOPIC_STATS_INFO,
    request::GET_CONSUME_STATS,
    request::QUERY_TOPIC_CONSUME_BY_WHO,
    request::DELETE_EXPIRED_COMMITLOG,
    99_999,
];
/// Good fields of the requests besides those in [`GOOD`].
const MORE_GOOD: [(&str, &str); 17] = [
    ("key", "k"),
    ("maxNum", "10"),
    ("beginTimestamp", "0"),
    ("endTimestamp", "9223372036854775807"),
    ("timestamp", "1"),
    ("clientID", "c@1"),
    ("producerGroup", "producers"),
    ("defaultTopic", "TBW102"),
    ("readQueueNums", "4"),
    ("writeQueueNums", "4"),
    ("perm", "6"),
    ("topicFilterType", "SINGLE_TAG"),
    ("topicSysFlag", "0"),
    ("order", "false"),
    ("groupName", "g"),
    ("cleanOffset", "true"),
    ("topicList", "Orders;Other"),
];
const BODIES: [&str; 5] = [
    r#"{"clientID":"c@1","producerDataSet":[{"groupName":"producers"}],"consumerDataSet":[{"groupName":"g","consumeType":
        "CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,
        "subscriptionDataSet":[{"topic":"Orders","subString":"*","subVersion":5,"expressionType":"TAG","tagsSet":[],"codeSet":[]}]}]}"#,
    r#"{"clientId":"c@1","consumerGroup":"g","mqSet":[{"brokerName":"ringmq-0","queueId":1,"topic":"Orders"}],
        "onlyThisBroker":false}"#,
    r#"{"clientId":"c@1","group":"g","subscriptionData":{"topic":"Orders","subString":"a > 5","expressionType":"SQL92"}}"#,
    r#"{"groupName":"g","consumeEnable":true,"retryMaxTimes":16,"retryQueueNums":1}"#,
    "not JSON",
];

/// A message of the topic `Orders` and the place that the answer named.
struct Acknowledged {
    queue_id: String,
    offset: String,
    body: Vec<u8>,
}

/// Looks for each message at its place; how many there are.
async fn find_acknowledged(client: &Client, messages: Vec<Acknowledged>) -> u64 {
    // Somebody may have taken queues or rights from the topic.
    let topic: [(&str, &dyn FieldText); 8] = [
        ("topic", &"Orders"),
        ("defaultTopic", &"TBW102"),
        ("readQueueNums", &8),
        ("writeQueueNums", &8),
        ("perm", &6),
        ("topicFilterType", &"SINGLE_TAG"),
        ("topicSysFlag", &0),
        ("order", &false),
    ];
    let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC, &topic, &[]).await;
    assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
    for Acknowledged { queue_id, offset, body } in &messages {
        let pull: [(&str, &dyn FieldText); 10] = [
            ("consumerGroup", &"reader"),
            ("topic", &"Orders"),
            ("queueId", queue_id),
            ("queueOffset", offset),
            ("maxMsgNums", &1),
            ("sysFlag", &4),
            ("commitOffset", &0),
            ("suspendTimeoutMillis", &0),
            ("subscription", &"*"),
            ("subVersion", &0),
        ];
        let answer = client.ask(request::PULL_MESSAGE, &pull, &[]).await;
        assert_eq!(answer.code, response::SUCCESS, "{offset} of queue {queue_id}: {answer:?}");
        let found = RecordView::parse(&answer.body).expect("a whole message");
        assert_eq!(found.queue_offset().to_string(), *offset);
        assert_eq!(found.body(), body, "{offset} of queue {queue_id}");
    }
    messages.len() as u64
}

/// What a client says of itself, what tools ask and change, and messages in between: each is answered once, and what was acknowledged is
/// there until its topic goes, or at the end.
#[test]
fn every_request_that_is_known_is_answered_once_whatever_it_says() {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let rounds = number("RINGMQ_FUZZ_ROUNDS").unwrap_or(1_500);
    let seed = number("RINGMQ_FUZZ_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    println!("RINGMQ_FUZZ_SEED={seed}");
    on_core(async move |dir| {
        let mut random = StdRng::seed_from_u64(seed);
        let shard = RunningShard::open(&dir).await;
        let client = shard.client();
        let (mut good, mut committed) = (0_u64, None);
        let (mut acknowledged, mut found) = (Vec::new(), 0);
        for round in 0..rounds {
            let code = *CODES.choose(&mut random).expect("not empty");
            let mut fields: Vec<(&str, &str)> = GOOD.iter().chain(&MORE_GOOD).copied().collect();
            // The pull is not held: nothing would answer it.
            let sys_flag = fields.iter().position(|(name, _)| *name == "sysFlag").expect("in the table");
            fields[sys_flag].1 = "4";
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..fields.len());
                if at != sys_flag {
                    fields[at].1 = BAD.choose(&mut random).expect("not empty");
                }
            }
            if random.random_bool(0.1) {
                fields.remove(random.random_range(sys_flag + 1..fields.len()));
            }
            let mut body = BODIES.choose(&mut random).expect("not empty").as_bytes().to_vec();
            if random.random_bool(0.3) {
                let at = random.random_range(0..body.len());
                body[at] = random.random();
            }
            let offset = format!("{}", random.random_range(0..1000));
            if code == request::UPDATE_CONSUMER_OFFSET && random.random() {
                for (name, value) in &mut fields {
                    if *name == "commitOffset" {
                        *value = &offset;
                    }
                }
            }
            let ext: Vec<(&str, &dyn FieldText)> =
                fields.iter().map(|(name, value)| (*name, value as &dyn FieldText)).collect();
            let value =
                |wanted: &str| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
            if code == request::DELETE_TOPIC_IN_BROKER && value("topic") == Some("Orders") {
                found += find_acknowledged(&client, std::mem::take(&mut acknowledged)).await;
            }
            if random.random_bool(0.05) {
                let opaque = client.send(code, &ext, &body, true).await;
                assert!(!client.is_answered(opaque), "round {round}: code {code} was one-way");
                committed = None;
                continue;
            }
            let answer = client.ask(code, &ext, &body).await;
            good += u64::from(answer.code == response::SUCCESS);
            let is_known = code != 99_999;
            assert_eq!(
                answer.code != response::REQUEST_CODE_NOT_SUPPORTED,
                is_known,
                "code {code}: {answer:?}"
            );
            assert!(
                answer.code == response::SUCCESS || !answer.remark.is_empty(),
                "code {code} says why: {answer:?}"
            );
            // What a group committed is what it is told.
            let place = (value("consumerGroup"), value("topic"), value("queueId"));
            let place = (place.0.map(str::to_owned), place.1.map(str::to_owned), place.2.map(str::to_owned));
            match code {
                request::UPDATE_CONSUMER_OFFSET if answer.code == response::SUCCESS => {
                    committed = Some((place, value("commitOffset").map(str::to_owned)));
                }
                request::QUERY_CONSUMER_OFFSET => {
                    if let Some((of, Some(offset))) = &committed
                        && *of == place
                        && !offset.starts_with('-')
                    {
                        assert_eq!(answer.field("offset"), offset, "round {round}");
                    }
                }
                // Neither delayed nor of a transaction: it is in the queue that was asked for.
                request::SEND_MESSAGE_V2
                    if answer.code == response::SUCCESS
                        && value("b") == Some("Orders")
                        && ["f", "i", "l"]
                            .iter()
                            .all(|name| GOOD.contains(&(*name, value(name).unwrap_or_default()))) =>
                {
                    let queue_id = answer.field("queueId").to_owned();
                    let offset = answer.field("queueOffset").to_owned();
                    acknowledged.push(Acknowledged { queue_id, offset, body });
                }
                // Pulls and the removal of a topic or group change offsets, too.
                request::PULL_MESSAGE
                | request::LITE_PULL_MESSAGE
                | request::DELETE_TOPIC_IN_BROKER
                | request::DELETE_SUBSCRIPTIONGROUP => committed = None,
                _ => {}
            }
        }
        assert!(
            good * 4 > rounds,
            "only {good} of {rounds} requests had success: the test has lost its reach"
        );
        found += find_acknowledged(&client, acknowledged).await;
        assert!(
            found * 400 >= rounds.saturating_sub(400),
            "only {found} of {rounds} requests left a message that must be there"
        );
        client.hang_up();
        shard.close().await;
    });
}
