//! Requests with fields and bodies that nobody should send.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::shard::{Ask, TestShard, answers};
use crate::processor::connection_closed;
use crate::processor::send::batch;

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
