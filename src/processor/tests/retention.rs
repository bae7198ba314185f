//! How long topics keep their messages, and a disk that is too full.

use std::path::Path;

use futures_lite::future::block_on;
use shards::io::disk::DiskUsage;

use super::pulling::pull_from;
use super::sending::send;
use super::shard::{Answer, TestShard, answer};
use crate::broker::wall_clock_ms;
use crate::processor::retention::move_queues_on;
use crate::remoting::body::topic::TopicConfig;
use crate::remoting::code::response;

fn send_one(shard: &mut TestShard) -> Answer {
    let client = shard.client();
    send(shard, &client, 1, &[("b", "short"), ("e", "0")], b"m");
    shard.commit();
    answer(&client)
}

#[test]
fn a_topic_with_a_reserve_time_gives_nobody_what_is_older() {
    let mut shard = TestShard::start();
    let attributes = [("reserve.time".to_owned(), "1".to_owned())].into();
    shard.make_topic(TopicConfig { attributes, ..TopicConfig::new("short", 1) });
    for _ in 0..3 {
        assert_eq!(send_one(&mut shard).code, response::SUCCESS);
    }
    shard.log_now_ms = wall_clock_ms();
    send_one(&mut shard);
    block_on(move_queues_on(&shard.broker));
    let bounds = shard.broker.borrow().store.bounds("short", 0).expect("it has messages");
    assert_eq!((bounds.min.get(), bounds.max.get()), (3, 4));
    let pulled = pull_from(&mut shard, "short", 0, 0);
    assert_eq!((pulled.code, pulled.field("nextBeginOffset")), (response::PULL_OFFSET_MOVED, "3"));
    assert_eq!(pull_from(&mut shard, "short", 0, 3).records().len(), 1);
}

#[test]
fn a_disk_that_is_too_full_refuses_sends_with_its_numbers() {
    let mut shard = TestShard::with_topic("short");
    let full = DiskUsage { used_bytes: 95 << 30, free_bytes: 5 << 30 };
    shard.broker.borrow_mut().disk.found(Path::new("/data"), full, 90.0);
    let refused = send_one(&mut shard);
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE);
    assert!(refused.remark.contains("/data is 95.0 % full"), "{}", refused.remark);
    shard.broker.borrow_mut().disk.found(Path::new("/data"), DiskUsage::default(), 90.0);
    assert_eq!(send_one(&mut shard).code, response::SUCCESS);
}
