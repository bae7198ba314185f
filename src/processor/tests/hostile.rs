//! Requests with fields and bodies that nobody should send.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::shard::{Ask, TestShard, answers};
use crate::processor::send::batch;

const NAMES: [&str; 30] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "topic",
    "queueId",
    "queueOffset",
    "maxMsgNums",
    "sysFlag",
    "commitOffset",
    "suspendTimeoutMillis",
    "subscription",
    "subVersion",
    "expressionType",
    "maxMsgBytes",
    "consumerGroup",
    "offset",
    "group",
    "delayLevel",
    "maxReconsumeTimes",
    "unitMode",
];
const VALUES: [&str; 22] = [
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
    "Orders",
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
    for opaque in 0..4_000 {
        let code = [10, 310, 320, 11, 361, 36, 33][random.random_range(0..7)];
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for name in NAMES {
            if random.random_ratio(9, 10) {
                fields.push((name, VALUES[random.random_range(0..VALUES.len())]));
            }
        }
        // Most must get past the first checks.
        for (name, value) in
            [("b", "Orders"), ("topic", "Orders"), ("e", "1"), ("queueId", "1"), ("g", "5"), ("f", "0")]
        {
            if random.random_ratio(9, 10) {
                fields.retain(|(known, _)| *known != name);
                fields.push((name, value));
            }
        }
        let mut body = if random.random() { batch.clone() } else { vec![7; random.random_range(0..64)] };
        if random.random() && !body.is_empty() {
            let at = random.random_range(0..body.len());
            body[at] = random.random();
        }
        shard.ask(&client, opaque, &Ask { code, fields: &fields, body: &body, oneway: false });
        shard.commit();
        let held = shard.broker.borrow().held_pulls.len();
        let answered = answers(&client);
        assert!(answered.iter().all(|answer| answer.opaque <= opaque));
        assert!(answered.iter().filter(|answer| answer.opaque == opaque).count() <= 1);
        assert!(held <= 4_000 && shard.broker.borrow().appends.waiting() == 0);
    }
    let held = shard.broker.borrow().held_pulls.len();
    super::super::connection_closed(&shard.broker, client.id());
    println!("{held} pulls were held at the end");
    assert!(shard.broker.borrow().held_pulls.is_empty());
}
