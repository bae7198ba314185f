//! Messages that consumers give back, and looking at single messages.

use futures_lite::future::block_on;
use shards::record::message_id::offset_message_id;
use shards::record::properties::Properties;

use super::pulling::pull_all;
use super::sending::send;
use super::shard::{Answer, Ask, STORED_MS, TestShard, answer};
use crate::processor::delayed;

fn give_back(shard: &mut TestShard, offset: &str, level: &str, more: &[(&str, &str)]) -> Answer {
    let client = shard.client();
    let mut fields = vec![("offset", offset), ("group", "g"), ("delayLevel", level)];
    fields.extend_from_slice(more);
    shard.ask(&client, 5, &Ask { code: 36, fields: &fields, body: b"", oneway: false });
    shard.commit();
    answer(&client)
}

fn one_message() -> TestShard {
    let mut shard = TestShard::with_topic("Orders");
    let client = shard.client();
    send(&shard, &client, 1, &[("e", "0")], b"trouble");
    shard.commit();
    assert_eq!(answer(&client).code, 0);
    shard
}

fn deliver_until(shard: &mut TestShard, now_ms: i64) {
    while block_on(delayed::deliver_due(&shard.broker, now_ms)) {}
    shard.log_now_ms = shard.log_now_ms.max(now_ms);
    shard.commit();
}

#[test]
fn a_message_given_back_comes_again_through_the_retry_topic_later_each_time() {
    let mut shard = one_message();
    assert_eq!(give_back(&mut shard, "0", "0", &[]).code, 0);
    deliver_until(&mut shard, STORED_MS + 9_999);
    assert!(pull_all(&mut shard, "%RETRY%g", 0).records().is_empty());
    deliver_until(&mut shard, STORED_MS + 10_000);
    let first = pull_all(&mut shard, "%RETRY%g", 0);
    let record = first.records()[0];
    assert_eq!((record.body(), record.reconsume_times(), record.flag()), (&b"trouble"[..], 1, 7));
    assert_eq!(record.born_timestamp_ms(), 1_690_000_000_000);
    let properties = Properties::new(record.properties());
    let original_id = offset_message_id(record.store_host(), shards::position::PhysicalOffset::ZERO);
    assert_eq!(properties.get("RETRY_TOPIC"), Some("Orders"));
    assert_eq!(properties.get("ORIGIN_MESSAGE_ID"), Some(original_id.as_str()));
    assert_eq!((properties.get("DELAY"), properties.get("TAGS")), (Some("3"), Some("TagA")));

    let offset = record.physical_offset().to_string();
    let retried_ms = shard.log_now_ms;
    assert_eq!(give_back(&mut shard, &offset, "0", &[]).code, 0);
    deliver_until(&mut shard, retried_ms + 29_999);
    assert_eq!(pull_all(&mut shard, "%RETRY%g", 0).records().len(), 1);
    deliver_until(&mut shard, retried_ms + 30_000);
    let second = pull_all(&mut shard, "%RETRY%g", 0);
    let record = second.records()[1];
    assert_eq!(record.reconsume_times(), 2);
    let properties = Properties::new(record.properties());
    assert_eq!(properties.get("ORIGIN_MESSAGE_ID"), Some(original_id.as_str()), "of the very first");
    assert_eq!((properties.get("RETRY_TOPIC"), properties.get("DELAY")), (Some("Orders"), Some("4")));
}

#[test]
fn the_last_try_and_a_negative_level_end_among_the_dead_letters() {
    for (level, most) in [("0", "0"), ("-1", "16")] {
        let mut shard = one_message();
        let answer = give_back(&mut shard, "0", level, &[("maxReconsumeTimes", most)]);
        assert_eq!(answer.code, 0, "{}", answer.remark);
        let dead = pull_all(&mut shard, "%DLQ%g", 0);
        let record = dead.records()[0];
        assert_eq!((record.body(), record.reconsume_times()), (&b"trouble"[..], 1));
        assert_eq!(Properties::new(record.properties()).get("DELAY"), Some("0"));
    }
}

#[test]
fn what_cannot_be_given_back_is_refused() {
    let mut shard = one_message();
    for (offset, group, code, text) in [
        ("999999", "g", 1, "look message by offset failed, 999999"),
        ("-1", "g", 1, "look message by offset failed, -1"),
        ("0", "a b", 26, "subscription group not exist, a b"),
    ] {
        let client = shard.client();
        let fields = [("offset", offset), ("group", group), ("delayLevel", "0")];
        shard.ask(&client, 5, &Ask { code: 36, fields: &fields, body: b"", oneway: false });
        let answer = answer(&client);
        assert_eq!(answer.code, code, "{}", answer.remark);
        assert!(answer.remark.contains(text), "{}", answer.remark);
    }
}

#[test]
fn a_message_is_found_by_its_id() {
    let mut shard = one_message();
    let client = shard.client();
    shard.ask(&client, 1, &Ask { code: 33, fields: &[("offset", "0")], body: b"", oneway: false });
    assert_eq!(answer(&client).records()[0].body(), b"trouble");
    shard.ask(&client, 2, &Ask { code: 33, fields: &[("offset", "77777")], body: b"", oneway: false });
    let none = answer(&client);
    assert_eq!((none.code, none.remark.as_str()), (1, "can not find message by the offset, 77777"));
}
