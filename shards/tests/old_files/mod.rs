//! The oldest files of the log go, with what is derived from them: ConsumeQueue files, index files, starts of queues. On real files.

use std::fs;
use std::path::Path;

use crate::fixture::{Log, SEGMENT_BYTES, config, get, on_a_core, open, request, wait_until_written};
use shards::consume_queue::FILE_ENTRIES;
use shards::io::disk::StdDisk;
use shards::message_store::{GetStatus, MessageStore, MessageStoreConfig, StoreExit};
use shards::position::PhysicalOffset;
use shards::record::RecordView;
use shards::verify::verify_shard;

/// More than one ConsumeQueue file of messages, in a few files of the log.
const MESSAGES: u64 = FILE_ENTRIES + 150_000;

fn bounds(store: &MessageStore, topic: &str) -> (u64, u64) {
    let bounds = store.bounds(topic, 0).unwrap();
    (bounds.min.get(), bounds.max.get())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fills a log with a message of `gone` first, then many of `orders`; returns where each of those is.
fn fill(log: &mut Log, store: &mut MessageStore) -> Vec<PhysicalOffset> {
    log.append("gone", 0, b"KEYS\x01early\x02", b"the first");
    log.append("gone", 0, b"", b"the second");
    let mut places = Vec::new();
    for number in 0..MESSAGES {
        places.push(log.end());
        let body = number.to_be_bytes();
        let record = log.append("orders", 0, if number % 100 == 0 { b"KEYS\x01k\x02" } else { b"" }, &body);
        // The end of a file may have moved it.
        *places.last_mut().unwrap() = RecordView::parse(&record).unwrap().physical_offset();
        if number % 10_000 == 0 {
            store.dispatch(&log.commit(), &mut |_| {});
        }
    }
    store.dispatch(&log.commit(), &mut |_| {});
    places
}

#[test]
fn queues_and_index_begin_where_the_log_does_and_stay_so() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig { hot_tail_bytes: 1 << 20, ..Default::default() });
        let places = fill(&mut log, &mut store);
        wait_until_written(&mut store, &mut log).await;
        let survey = store.survey().await.unwrap();
        assert!(survey.segments.len() > 3, "{survey:?}");
        let log_start = survey.segments[survey.segments.len() - 1].start;
        assert!(log_start <= store.written_end());
        let starts = store.remove_before(log_start, 100.0).await.unwrap();
        store.removed(starts);

        let first = places.iter().position(|at| *at >= log_start).unwrap() as u64;
        assert!(first > FILE_ENTRIES, "the first ConsumeQueue file is of no use any more");
        let judge = async |store: &MessageStore| {
            assert_eq!(bounds(store, "orders"), (first, MESSAGES));
            assert_eq!(bounds(store, "gone"), (2, 2), "all are gone, and it does not start anew");
            let (_, result) = get(store, &request("orders", 0, 0)).await.unwrap();
            assert_eq!((result.status, result.next_begin_offset.get()), (GetStatus::OffsetTooSmall, first));
            for offset in [first, first + 1, MESSAGES - 1] {
                let (_, result) = get(store, &request("orders", 0, offset)).await.unwrap();
                let record = RecordView::parse(&result.records[0]).unwrap();
                assert_eq!((record.queue_offset().get(), record.body()), (offset, &offset.to_be_bytes()[..]));
            }
            let (_, result) = get(store, &request("gone", 0, 0)).await.unwrap();
            assert_eq!(result.status, GetStatus::OffsetTooSmall);
            let found = store.query_by_key("gone", "early", 8, i64::MIN, i64::MAX).await.unwrap();
            assert!(found.is_empty(), "its record is gone");
        };
        judge(&store).await;
        let load = store.load();
        assert_eq!((load.log_min, load.damaged_ranges, load.skipped_messages), (log_start.get(), 0, 0));
        store.close(StoreExit::Clean).await.unwrap();
        assert_eq!(names(&root.join("commitlog")), [format!("{:020}", log_start.get())]);
        assert_eq!(names(&root.join("consumequeue/orders/0")), ["00000000000006000000"]);
        assert_eq!(names(&root.join("consumequeue/gone/0")), ["00000000000000000000"]);

        let checked = verify_shard(&StdDisk, &root, &config(), &mut |_| {}).unwrap();
        assert!(checked.findings.is_empty(), "{:?}", checked.findings);

        // A start finds the same, the next message of a queue that is empty has the next offset, and so does a start that builds all anew,
        // with nothing but the log and the ConsumeQueue files.
        let mut store = open(&root, MessageStoreConfig::default());
        judge(&store).await;
        log.append("gone", 0, b"", b"the third");
        log.end_block();
        store.close(StoreExit::Clean).await.unwrap();
        fs::remove_file(root.join("positions")).unwrap();
        let mut store = open(&root, MessageStoreConfig::default());
        assert_eq!(bounds(&store, "gone"), (2, 3));
        assert_eq!(bounds(&store, "orders"), (first, MESSAGES));
        let found = store.query_by_key("orders", "k", 64, i64::MIN, i64::MAX).await.unwrap();
        assert!(!found.is_empty());
        store.close(StoreExit::Clean).await.unwrap();
    });
}

/// The story: a queue whose messages had all been removed began at 0 again when nothing but the log was left to go by, and groups that had
/// read it waited for messages that they would then skip.
#[test]
fn an_empty_queue_goes_on_where_its_files_end_when_the_snapshot_is_gone() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut store = open(&root, MessageStoreConfig::default());
        for _ in 0..5 {
            log.append("gone", 0, b"", b"old");
        }
        while log.end().get() < SEGMENT_BYTES {
            log.append("orders", 0, b"", &[7; 60_000]);
        }
        store.dispatch(&log.commit(), &mut |_| {});
        wait_until_written(&mut store, &mut log).await;
        let starts = store.remove_before(PhysicalOffset::new(SEGMENT_BYTES), 100.0).await.unwrap();
        store.removed(starts);
        store.close(StoreExit::Clean).await.unwrap();
        fs::remove_file(root.join("positions")).unwrap();
        let mut store = open(&root, MessageStoreConfig::default());
        assert_eq!(bounds(&store, "gone"), (5, 5));
        log.end_block();
        log.append("gone", 0, b"", b"new");
        store.dispatch(&log.commit(), &mut |_| {});
        assert_eq!(bounds(&store, "gone"), (5, 6));
        store.close(StoreExit::Clean).await.unwrap();
    });
}
