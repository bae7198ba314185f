//! The serve half of a shard on real files: dispatch, reads from memory and from the disk, the side writer, and recovery of all that
//! is derived. The log half is played by [`fixture::Log`], which places records and confirms them when the test says so.

mod damage;
mod fixture;
mod fuzz;
mod migration;
mod old_files;
mod plain_record;
mod rebuild;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fixture::{Log, each_record, get, on_a_core, open, recover, recover_result, request, wait_until_written};
use runtime::task::{sleep, spawn, yield_now};
use shards::message_store::{
    FilterSteps, Get, GetRequest, GetStatus, MessageStore, MessageStoreConfig, PropertyFilter, PropertyTest,
    QueueBounds, RecordLookup, StoreExit, TagFilter, TimeBoundary,
};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::RecordView;
use shards::record::properties::java_string_hash;
use shards::recovery::RecoveryError;
use shards::side_writer::SideWriter;

fn queue_offsets(records: &[Bytes]) -> Vec<u64> {
    records.iter().map(|record| RecordView::parse(record).unwrap().queue_offset().get()).collect()
}

/// Reads a whole queue; says whether anything of it came from memory and from the disk.
async fn read_all(store: &MessageStore, queue_id: u32) -> (Vec<Bytes>, bool, bool) {
    let (mut records, mut any_hot, mut any_cold) = (Vec::new(), false, false);
    let mut next = 0;
    loop {
        let (is_hot, result) = get(store, &request("orders", queue_id, next)).await.unwrap();
        if result.status == GetStatus::OffsetOverflowOne {
            return (records, any_hot, any_cold);
        }
        assert_eq!(result.status, GetStatus::Found);
        any_hot |= is_hot;
        any_cold |= !is_hot;
        records.extend(result.records);
        next = result.next_begin_offset.get();
        assert_eq!(next, records.len() as u64);
    }
}

#[test]
fn statuses_are_rocketmqs() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        for _ in 0..3 {
            log.append("orders", 0, b"TAGS\x01a\x02", b"body");
        }
        let mut arrivals = Vec::new();
        store.dispatch(&log.commit(), &mut |arrival| {
            arrivals.push((arrival.topic.to_owned(), arrival.queue_id, arrival.queue_offset.get()));
        });
        assert_eq!(arrivals, [0, 1, 2].map(|offset| ("orders".to_owned(), 0, offset)));
        let none = TagFilter::Codes(vec![i64::from(java_string_hash("b"))]);
        let cases = [
            (0, 0, &TagFilter::All, GetStatus::Found, 3),
            (0, 2, &TagFilter::All, GetStatus::Found, 3),
            (0, 1, &none, GetStatus::NoMatchedMessage, 3),
            (0, 3, &TagFilter::All, GetStatus::OffsetOverflowOne, 3),
            (0, 9, &TagFilter::All, GetStatus::OffsetOverflowBadly, 3),
            (1, 7, &TagFilter::All, GetStatus::NoMatchedLogicQueue, 0),
        ];
        for (queue_id, offset, filter, status, next) in cases {
            let request = GetRequest { filter, ..request("orders", queue_id, offset) };
            let (_, result) = get(&store, &request).await.unwrap();
            assert_eq!((result.status, result.next_begin_offset.get()), (status, next), "at {offset}");
            let max = if queue_id == 0 { 3 } else { 0 };
            assert_eq!((result.min_offset.get(), result.max_offset.get()), (0, max));
            assert_eq!(result.records.len(), result.messages as usize);
            assert_eq!(result.bytes, result.records.iter().map(Bytes::len).sum::<usize>());
        }
        store.delete_topic("orders");
        assert_eq!(store.bounds("orders", 0), None);
        log.append("orders", 0, b"", b"after");
        store.dispatch(&log.commit(), &mut |_| {});
        let bounds = QueueBounds { min: QueueOffset::new(3), max: QueueOffset::new(4) };
        assert_eq!(store.bounds("orders", 0), Some(bounds), "its offsets go on");
        let (_, result) = get(&store, &request("orders", 0, 0)).await.unwrap();
        assert_eq!((result.status, result.next_begin_offset.get()), (GetStatus::OffsetTooSmall, 3));
        let (_, result) = get(&store, &request("orders", 0, 3)).await.unwrap();
        assert_eq!(queue_offsets(&result.records), [3]);
        store.close(StoreExit::Clean).await.unwrap();
        // The deleted messages do not come back, and neither do their offsets.
        let mut store = open(&root, MessageStoreConfig::default());
        assert_eq!(store.bounds("orders", 0), Some(bounds));
        let (is_hot, result) = get(&store, &request("orders", 0, 3)).await.unwrap();
        assert_eq!((is_hot, queue_offsets(&result.records)), (false, vec![3]));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

/// Wants messages whose property string holds a text.
#[derive(Debug)]
struct Holds(&'static [u8]);

impl PropertyTest for Holds {
    fn matches(&self, properties: &[u8], steps: &mut FilterSteps) -> bool {
        steps.add(properties.len());
        properties.windows(self.0.len()).any(|part| part == self.0)
    }
}

fn holds(text: &'static [u8]) -> TagFilter {
    TagFilter::Properties(PropertyFilter::new(Rc::new(Holds(text))))
}

/// Where every pull from the last one's `next_begin_offset` on leads: what was found, how many pulls it took, and whether some of them
/// were hot and some cold.
async fn read_filtered(store: &MessageStore, filter: &TagFilter) -> (Vec<u64>, u32, [bool; 2]) {
    let (mut found, mut next, mut pulls, mut hot_cold) = (Vec::new(), 0, 0, [false; 2]);
    loop {
        let asked = GetRequest { filter, ..request("orders", 0, next) };
        let (is_hot, result) = get(store, &asked).await.unwrap();
        if result.status == GetStatus::OffsetOverflowOne {
            return (found, pulls, hot_cold);
        }
        pulls += 1;
        hot_cold[usize::from(!is_hot)] = true;
        let expected = if result.messages > 0 { GetStatus::Found } else { GetStatus::NoMatchedMessage };
        assert_eq!(result.status, expected, "from {next}");
        assert_eq!(result.bytes, result.records.iter().map(Bytes::len).sum::<usize>());
        assert!(result.next_begin_offset.get() > next, "every pull goes on");
        let offsets = queue_offsets(&result.records);
        assert_eq!(offsets.len(), result.messages as usize);
        found.extend(offsets);
        next = result.next_begin_offset.get();
    }
}

/// C6: a filter by properties reads records, from memory where they are, and passes over what it does not want.
#[test]
fn a_filter_by_properties_finds_its_messages_in_memory_and_on_the_disk() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let small = MessageStoreConfig {
            hot_tail_bytes: 2 * fixture::BLOCK_BYTES,
            cold_cache_bytes: 1 << 20,
            recent_bytes: 1 << 30,
        };
        let mut store = open(&root, small.clone());
        let mut expected = Vec::new();
        for number in 0..3000_u64 {
            let is_wanted = number % 97 == 3;
            let properties: &[u8] = if is_wanted { b"a\x01yes\x02" } else { b"a\x01no\x02" };
            let body = vec![b'x'; if number < 2500 { 3000 } else { 100 }];
            log.append("orders", 0, properties, &body);
            if is_wanted {
                expected.push(number);
            }
            if number % 50 == 0 {
                store.dispatch(&log.commit(), &mut |_| {});
            }
        }
        store.dispatch(&log.commit(), &mut |_| {});
        wait_until_written(&mut store, &mut log).await;
        let (found, pulls, hot_cold) = read_filtered(&store, &holds(b"yes")).await;
        assert_eq!((found, hot_cold), (expected.clone(), [true, true]));
        assert!(pulls < 20, "many are looked at for one pull: {pulls}");
        let (found, pulls, _) = read_filtered(&store, &holds(b"nothing")).await;
        assert!(found.is_empty() && (3..20).contains(&pulls), "one pull looks at a bounded number: {pulls}");
        let (found, ..) = read_filtered(&store, &holds(b"a\x01")).await;
        assert_eq!(found, (0..3000).collect::<Vec<_>>());
        store.close(StoreExit::Clean).await.unwrap();
        // All of it is on the disk now.
        let mut store = open(&root, small);
        let (found, _, hot_cold) = read_filtered(&store, &holds(b"yes")).await;
        assert_eq!((found, hot_cold), (expected, [false, true]));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

/// C6: what one pull judges is bounded, however much there is to judge.
#[test]
fn a_pull_whose_filter_has_much_to_do_ends_early_and_goes_on() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        let mut properties = b"a\x01".to_vec();
        properties.resize(32_000, b'x');
        for _ in 0..700 {
            log.append("orders", 0, &properties, b"");
            store.dispatch(&log.commit(), &mut |_| {});
        }
        let filter = holds(b"nothing");
        let asked = GetRequest { filter: &filter, ..request("orders", 0, 0) };
        let (is_hot, result) = get(&store, &asked).await.unwrap();
        let judged = result.next_begin_offset.get();
        assert_eq!((is_hot, result.status), (true, GetStatus::NoMatchedMessage));
        assert!((500..600).contains(&judged), "judged {judged}");
        let (found, pulls, _) = read_filtered(&store, &filter).await;
        assert_eq!((found.len(), pulls), (0, 2));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn every_message_is_read_from_memory_or_disk_whatever_the_tail_holds() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let small = MessageStoreConfig {
            hot_tail_bytes: 2 * fixture::BLOCK_BYTES,
            cold_cache_bytes: 1 << 20,
            recent_bytes: 1 << 30,
        };
        let mut store = open(&root, small.clone());
        let mut expected = Vec::new();
        // Records of all sizes, up to one that is larger than a block and than a chunk of the cache, over three files.
        for number in 0..3000_usize {
            let body = vec![b'x'; if number % 701 == 700 { 900_000 } else { number * 37 % 30_000 }];
            expected.push(log.append("orders", 0, b"KEYS\x01k\x02", &body));
            log.append("other", 5, b"", b"between");
            if number % 50 == 0 {
                store.dispatch(&log.commit(), &mut |_| {});
            }
        }
        store.dispatch(&log.commit(), &mut |_| {});
        wait_until_written(&mut store, &mut log).await;
        let (records, any_hot, any_cold) = read_all(&store, 0).await;
        assert!(any_hot && any_cold);
        assert!(records == expected, "bytes as appended");
        store.close(StoreExit::Clean).await.unwrap();

        // After a start nothing is in memory.
        let mut store = open(&root, small);
        let (records, any_hot, any_cold) = read_all(&store, 0).await;
        assert!(any_cold && !any_hot);
        assert!(records == expected, "bytes as appended");
        let at = RecordView::parse(&expected[700]).unwrap().physical_offset();
        let RecordLookup::Cold(plan) = store.record(at) else { panic!("not in memory") };
        assert_eq!(plan.run().await.unwrap().as_ref(), Some(&expected[700]));
        let RecordLookup::Cold(plan) = store.record(at.plus(1)) else { panic!("not in memory") };
        assert_eq!(plan.run().await.unwrap(), None, "no record starts there");
        assert!(matches!(store.record(store.confirm_offset()), RecordLookup::None));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn records_that_lie_side_by_side_in_memory_leave_as_one_piece() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        let body = vec![b'x'; fixture::BLOCK_BYTES / 64];
        // Three neighbours, then one after a message of another queue, then two of which the second begins a block.
        let mut expected: Vec<_> = (0..3).map(|_| log.append("orders", 0, b"", &body)).collect();
        log.append("other", 0, b"", &body);
        expected.extend([log.append("orders", 0, b"", &body), log.append("orders", 0, b"", &body)]);
        log.end_block_here();
        expected.push(log.append("orders", 0, b"", &body));
        store.dispatch(&log.commit(), &mut |_| {});
        let Get::Ready(result) = store.get(&request("orders", 0, 0)) else { panic!("all is in memory") };
        assert_eq!(
            result.records.iter().map(|piece| each_record(piece).len()).collect::<Vec<_>>(),
            [3, 2, 1]
        );
        assert_eq!((result.messages, result.bytes), (6, expected.iter().map(Bytes::len).sum()));
        assert_eq!(result.records.concat(), expected.concat());
        let Get::Ready(middle) = store.get(&GetRequest { messages_max: 1, ..request("orders", 0, 1) }) else {
            panic!("all is in memory")
        };
        assert_eq!(middle.records, [expected[1].clone()]);
        store.close(StoreExit::Clean).await.unwrap();
    });
}

/// Reads records that lie far from each other, all at once; returns the most reads of the disk that were under way.
async fn read_at_once(store: &mut MessageStore, log: &mut Log, expected: &[Bytes], commits: bool) -> u64 {
    let landed = Rc::new(Cell::new(0));
    let wanted: Vec<_> = expected.iter().step_by(5).cloned().collect();
    for record in &wanted {
        let at = RecordView::parse(record).unwrap().physical_offset();
        let RecordLookup::Cold(plan) = store.record(at) else { panic!("{at} is not in memory") };
        let (record, landed) = (record.clone(), Rc::clone(&landed));
        spawn(async move {
            assert_eq!(plan.run().await.unwrap(), Some(record));
            landed.set(landed.get() + 1);
        });
    }
    let mut most = 0;
    while landed.get() < wanted.len() {
        if commits {
            log.append("other", 0, b"", b"new");
            store.dispatch(&log.commit(), &mut |_| {});
        }
        yield_now().await;
        most = most.max(store.load().cold.reads_under_way);
    }
    most
}

#[test]
fn old_data_is_read_in_one_place_at_a_time_while_the_log_is_written_to() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        let expected: Vec<_> = (0..60).map(|_| log.append("orders", 0, b"", &[b'x'; 100_000])).collect();
        store.dispatch(&log.commit(), &mut |_| {});
        wait_until_written(&mut store, &mut log).await;
        store.close(StoreExit::Clean).await.unwrap();
        log.end_block();

        let mut store = open(&root, MessageStoreConfig::default());
        let most = read_at_once(&mut store, &mut log, &expected, false).await;
        assert!((2..=4).contains(&most), "nobody writes, but {most} reads were under way");
        let load = store.load().cold;
        assert_eq!((load.reads_under_way, load.reads_waiting, load.rested_micros), (0, 0, 0));
        assert!(load.cache_misses >= 12, "each record is in a chunk of its own: {load:?}");
        store.close(StoreExit::Clean).await.unwrap();

        let mut store = open(&root, MessageStoreConfig::default());
        let most = read_at_once(&mut store, &mut log, &expected, true).await;
        assert_eq!(most, 1, "reads under way beside a log that is written to");
        assert!(store.load().cold.rested_micros > 0);
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn times_lead_to_the_messages_around_them() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        // Messages 0..20 are stored at 1000, 1000, 1010, 1010, 1020 and so on; the second half is in memory.
        let at = |number: i64| 1000 + number / 2 * 10;
        for number in 0..10 {
            log.append_at("orders", 0, b"", b"old", at(number));
        }
        log.end_block();
        let mut store = open(&root, MessageStoreConfig::default());
        for number in 10..20 {
            log.append_at("orders", 0, b"", b"new", at(number));
        }
        store.dispatch(&log.commit(), &mut |_| {});
        for time in 990..1105 {
            let lower = (0..20).find(|number| at(*number) >= time).unwrap_or(20);
            let upper = (0..20).rev().find(|number| at(*number) <= time).unwrap_or(0);
            for (boundary, expected) in [(TimeBoundary::Lower, lower), (TimeBoundary::Upper, upper)] {
                let found = store.offset_by_time("orders", 0, time, boundary).await.unwrap();
                assert_eq!(found.to_i64(), expected, "{boundary:?} {time}");
            }
        }
        let unknown = store.offset_by_time("unknown", 0, 1000, TimeBoundary::Lower).await;
        assert_eq!(unknown, Ok(QueueOffset::ZERO));
        for number in [0, 9, 10, 19] {
            let offset = QueueOffset::from_i64(number).unwrap();
            assert_eq!(store.store_time("orders", 0, offset).await, Ok(Some(at(number))));
        }
        assert_eq!(store.store_time("orders", 0, QueueOffset::new(20)).await, Ok(None));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn keys_lead_to_messages_also_after_a_start() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        for number in 0..100 {
            let properties = format!("KEYS\x01all k{number}\x02UNIQ_KEY\x01u{number}\x02");
            log.append_at("orders", number % 4, properties.as_bytes(), b"", 1000 * i64::from(number));
        }
        log.append("other", 0, b"KEYS\x01k7\x02", b"");
        store.dispatch(&log.commit(), &mut |_| {});
        for _ in 0..2 {
            for key in ["k7", "u7"] {
                let found = store.query_by_key("orders", key, 32, 0, i64::MAX).await.unwrap();
                let [record] = &found[..] else { panic!("{} records", found.len()) };
                assert_eq!(RecordView::parse(record).unwrap().store_timestamp_ms(), 7000);
            }
            assert_eq!(store.query_by_key("orders", "all", 1000, 0, i64::MAX).await.unwrap().len(), 64);
            assert_eq!(store.query_by_key("orders", "all", 64, 10_000, 19_000).await.unwrap().len(), 10);
            assert!(store.query_by_key("orders", "unknown", 32, 0, i64::MAX).await.unwrap().is_empty());
            store.close(StoreExit::Clean).await.unwrap();
            store = open(&root, MessageStoreConfig::default());
        }
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn a_new_group_may_start_at_messages_that_are_recent() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let config = MessageStoreConfig { recent_bytes: 1100, ..MessageStoreConfig::default() };
        let mut store = open(&root, config);
        log.append("orders", 0, b"", &[0; 100]);
        store.dispatch(&log.commit(), &mut |_| {});
        assert!(store.is_recent("orders", 0, QueueOffset::ZERO));
        assert!(!store.is_recent("orders", 0, QueueOffset::new(1)));
        assert!(!store.is_recent("unknown", 0, QueueOffset::ZERO));
        log.append("orders", 0, b"", &[0; 900]);
        store.dispatch(&log.commit(), &mut |_| {});
        assert!(!store.is_recent("orders", 0, QueueOffset::ZERO));
        assert!(store.is_recent("orders", 0, QueueOffset::new(1)));
        store.close(StoreExit::Clean).await.unwrap();
    });
}

/// What is derived, as bytes: every file below the two folders.
fn derived_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn collect(dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else {
                let bytes = fs::read(&path).unwrap();
                let mut written = &bytes[..];
                while let Some(rest) = written.strip_suffix(&[0; 4096]) {
                    written = rest;
                }
                files.insert(path.display().to_string(), written.to_vec());
            }
        }
    }
    let mut files = BTreeMap::new();
    for dir in ["consumequeue", "index"] {
        collect(&root.join(dir), &mut files);
    }
    files
}

fn filled(root: &Path) -> Log {
    let mut log = Log::new(root);
    for number in 0..2000_u32 {
        let properties = format!("TAGS\x01t{}\x02KEYS\x01k{number}\x02", number % 7);
        let topic = if number % 3 == 0 { "orders" } else { "other" };
        log.append(topic, number % 4, properties.as_bytes(), &vec![b'.'; number as usize]);
    }
    log
}

#[test]
fn what_is_derived_is_rebuilt_identically() {
    let dir = fixture::folder();
    let root = dir.path();
    drop(filled(root));
    let report = recover(root).report;
    assert_eq!((report.records, report.clean), (2000, true));
    assert!(report.rebuilt.is_some(), "there was no snapshot");
    let expected = derived_files(root);
    assert_eq!(expected.len(), 9, "eight queues and one index file");
    let files: Vec<_> = expected.keys().cloned().collect();
    let queue_file = files.iter().find(|path| path.contains("orders")).unwrap().clone();
    let index_file = files.iter().find(|path| path.contains("index")).unwrap().clone();
    let damages: [(&str, &dyn Fn()); 6] = [
        ("all gone", &|| {
            fs::remove_dir_all(root.join("consumequeue")).unwrap();
            fs::remove_dir_all(root.join("index")).unwrap();
        }),
        ("no snapshot", &|| fs::remove_file(root.join("positions")).unwrap()),
        ("a broken snapshot", &|| fs::write(root.join("positions"), b"RINGMQPS...").unwrap()),
        ("a queue's file gone", &|| fs::remove_file(&queue_file).unwrap()),
        ("a queue's file zeroed", &|| {
            fs::write(&queue_file, b"").unwrap();
            fs::File::options().write(true).open(&queue_file).unwrap().set_len(6_000_000).unwrap();
        }),
        ("the index gone", &|| fs::remove_file(&index_file).unwrap()),
    ];
    for (name, damage) in damages {
        damage();
        let report = recover(root).report;
        assert!(report.rebuilt.is_some(), "{name}");
        assert!(derived_files(root) == expected, "{name}");
    }
    let report = recover(root).report;
    assert_eq!((report.rebuilt, report.records), (None, 0), "nothing is left to do");
    assert!(derived_files(root) == expected);
}

#[test]
fn recovery_goes_on_from_the_snapshot_and_is_idempotent() {
    let dir = fixture::folder();
    let root = dir.path();
    let mut log = filled(root);
    let first = recover(root);
    let snapshot = fs::read(root.join("positions")).unwrap();
    for number in 0..500_u32 {
        log.append("orders", number % 6, b"KEYS\x01later\x02", b"later");
    }
    let second = recover(root).report;
    assert_eq!((second.records, second.clean, &second.rebuilt), (500, false, &None));
    assert_eq!(second.scanned_from, first.report.end);
    let expected = derived_files(root);
    // The process died before the second snapshot was taken; whatever had been written by then is written again.
    for _ in 0..2 {
        fs::write(root.join("positions"), &snapshot).unwrap();
        let again = recover(root);
        assert_eq!((again.report.records, again.report.rebuilt), (500, None));
        assert!(derived_files(root) == expected);
        let next: BTreeMap<_, _> = again
            .log
            .queue_offsets
            .iter()
            .map(|(topic, queue, next)| ((topic.as_str(), *queue), next.get()))
            .collect();
        let messages: u64 = next.values().sum();
        assert_eq!(messages, 2500);
        assert_eq!(next[&("orders", 5)], 83);
    }
}

#[test]
fn what_was_derived_from_records_that_are_gone_is_gone_too() {
    let dir = fixture::folder();
    let root = dir.path();
    let mut log = filled(root);
    recover(root);
    let expected = derived_files(root);
    let snapshot = fs::read(root.join("positions")).unwrap();
    let end = log.end();
    for queue_id in 0..8 {
        log.append("orders", queue_id, b"KEYS\x01lost\x02", b"lost");
        log.append("new", queue_id, b"KEYS\x01lost\x02", b"lost");
    }
    recover(root);
    assert_ne!(derived_files(root).len(), expected.len());
    // A power cut took the last records, which were acknowledged lazily, but not what was derived from them.
    log.forget_from(end);
    fs::write(root.join("positions"), &snapshot).unwrap();
    let report = recover(root).report;
    assert_eq!((report.end, report.rebuilt), (end, None));
    assert!(derived_files(root) == expected);
}

#[test]
fn gaps_in_a_queue_are_damage() {
    let dir = fixture::folder();
    let mut log = Log::new(dir.path());
    log.append("orders", 0, b"", b"");
    log.skip_queue_offset("orders", 0);
    log.append("orders", 0, b"", b"");
    let Err(RecoveryError::QueueOffset { found, expected, .. }) = recover_result(dir.path()) else {
        panic!("message 1 is missing");
    };
    assert_eq!((found.get(), expected.get()), (2, 1));
}

#[test]
fn a_clean_exit_leaves_no_abort_marker_and_a_checkpoint() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        assert!(root.join("abort").exists());
        log.append_at("orders", 0, b"", b"", 1234);
        store.dispatch(&log.commit(), &mut |_| {});
        let end = store.confirm_offset();
        store.close(StoreExit::Clean).await.unwrap();
        assert!(!root.join("abort").exists());
        let checkpoint = fs::read(root.join("checkpoint")).unwrap();
        assert_eq!(checkpoint.len(), 4096);
        let field = |at: usize| i64::from_be_bytes(checkpoint[at..at + 8].try_into().unwrap());
        assert_eq!([field(0), field(8), field(16), field(24)], [1234, 1234, 1234, 0]);
        assert_eq!(PhysicalOffset::from_i64(field(32)), Some(end));
        let mut store = open(&root, MessageStoreConfig::default());
        store.close(StoreExit::Abnormal).await.unwrap();
        assert!(root.join("abort").exists());
    });
}

#[test]
fn config_files_are_replaced_and_the_one_before_is_kept() {
    on_a_core(|root| async move {
        let writer = fixture::writer(&root);
        let path = root.join("config/topics.json");
        assert_eq!(SideWriter::read_config(&shards::io::disk::StdDisk, &path).unwrap(), None);
        writer.write_config(path.clone(), b"one".to_vec()).done().await.unwrap();
        let writes: Vec<_> =
            (0..10).map(|number: u8| writer.write_config(path.clone(), vec![number; 100])).collect();
        for write in writes {
            write.done().await.unwrap();
        }
        assert_eq!(SideWriter::read_config(&shards::io::disk::StdDisk, &path).unwrap(), Some(vec![9; 100]));
        fs::write(&path, b"").unwrap();
        assert!(
            SideWriter::read_config(&shards::io::disk::StdDisk, &path).unwrap().is_some(),
            "from the file before"
        );
        let refused = writer.write_config(root.join("abort/x"), Vec::new()).done().await.unwrap_err();
        assert!(refused.to_string().contains("abort/x"), "{refused}");
    });
}

#[test]
fn what_the_side_thread_had_no_room_for_is_written_without_a_further_commit() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        // Far more commits than may be on their way, within the time in which the thread looks once or twice.
        for _ in 0..10_000 {
            log.append("orders", 0, b"", b"x");
            store.dispatch(&log.commit(), &mut |_| {});
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while store.derived_backlog_entries() > 0 {
            assert!(Instant::now() < deadline, "{} entries are left behind", store.derived_backlog_entries());
            store.hand_over_unsent();
            sleep(Duration::from_millis(5)).await;
        }
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn a_disk_that_refuses_for_a_while_delays_the_files_but_not_the_readers() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let recovered = recover(&root);
        let disk = fixture::MoodyDisk::default();
        let writer = SideWriter::start(disk.clone(), recovered.side).unwrap();
        let config = MessageStoreConfig { hot_tail_bytes: 1, ..MessageStoreConfig::default() };
        let mut store = MessageStore::open(recovered.serve, config, writer);
        disk.refuse(true);
        let mut expected = Vec::new();
        for number in 0..300 {
            let properties = format!("KEYS\x01k{number}\x02");
            expected.push(log.append("orders", 0, properties.as_bytes(), &[b'.'; 10_000]));
            store.dispatch(&log.commit(), &mut |_| {});
        }
        disk.wait_for_refusal().await;
        let (records, any_hot, any_cold) = read_all(&store, 0).await;
        assert!(
            any_hot && any_cold,
            "old records come from the log's files, by entries that are still in memory"
        );
        assert!(records == expected);
        disk.refuse(false);
        wait_until_written(&mut store, &mut log).await;
        assert_eq!(store.query_by_key("orders", "k0", 10, 0, i64::MAX).await.unwrap().len(), 1);
        store.close(StoreExit::Clean).await.unwrap();
        assert_eq!((recover(&root).report.records, recover(&root).report.rebuilt), (0, None));
    });
}
