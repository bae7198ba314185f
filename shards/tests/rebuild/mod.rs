//! ConsumeQueue and index files that a start finds missing or damaged are built anew while the shard serves. On real files.

use std::fs;
use std::path::Path;
use std::thread::{self, JoinHandle};

use runtime::task::yield_now;
use shards::io::disk::StdDisk;
use shards::message_store::{
    GetStatus, MessageStore, MessageStoreConfig, ReadError, StoreExit, TimeBoundary,
};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::recovery::{Rebuild, RecoveryReport, ShardConfig, recover_shard};
use shards::side_writer::{SideWork, SideWriter};
use shards::verify::verify_shard;

use crate::damage::Filled;
use crate::fixture::{self, Log, SEGMENT_BYTES, config, get, on_a_core, recover, request};
use crate::{derived_files, filled};

/// Several steps' worth of log.
const MESSAGES: u64 = 600;
const BODY_BYTES: usize = 50_000;

/// A shard that serves, while the test does the work of its side thread.
struct Serving {
    store: MessageStore,
    work: SideWork<StdDisk>,
    report: RecoveryReport,
}

fn serve(root: &Path) -> Serving {
    let config = ShardConfig { rebuild: Rebuild::BesideServing, ..config() };
    let recovered = recover_shard(&StdDisk, root, &config, &mut |_| {}).unwrap();
    let (writer, work) = SideWriter::without_thread(StdDisk, recovered.side).unwrap();
    let store = MessageStore::open(recovered.serve, MessageStoreConfig::default(), writer);
    Serving { store, work, report: recovered.report }
}

impl Serving {
    fn is_rebuilding(&self) -> bool {
        self.store.load().rebuild_left_bytes > 0
    }

    /// Builds anew what is missing; returns how many steps that took.
    fn rebuild(&mut self) -> usize {
        for step in 0.. {
            if !self.is_rebuilding() {
                return step;
            }
            self.work.turn(false);
            self.store.take_rebuilt();
        }
        unreachable!("it ends before numbers do")
    }

    /// Lets a thread do the side thread's work until the store is closed.
    fn with_thread(self) -> (MessageStore, JoinHandle<()>) {
        let Self { store, mut work, .. } = self;
        let thread = thread::spawn(move || {
            while !work.turn(false) {
                thread::yield_now();
            }
        });
        (store, thread)
    }

    async fn close(self) {
        close(self.with_thread()).await;
    }
}

async fn close((mut store, thread): (MessageStore, JoinHandle<()>)) {
    store.close(StoreExit::Clean).await.unwrap();
    thread.join().expect("what went wrong is printed above");
}

/// A log with a message of `orders` after the other in three queues, and all files of it.
fn filled_and_derived(root: &Path) -> Filled {
    let filled = Filled::new(root, MESSAGES, BODY_BYTES);
    recover(root);
    filled
}

fn lose_queue(root: &Path, queue_id: u32) {
    fs::remove_dir_all(root.join("consumequeue/orders").join(queue_id.to_string())).unwrap();
}

async fn found_under(store: &MessageStore, number: u64) -> usize {
    store.query_by_key("orders", &format!("k{number}"), 10, 0, i64::MAX).await.unwrap().len()
}

#[test]
fn whatever_is_missing_or_damaged_is_built_anew_identically_and_nothing_is_scanned_for_it_before() {
    on_a_core(|root| async move {
        drop(filled(&root));
        recover(&root);
        let expected = derived_files(&root);
        let file_of = |part: &str| expected.keys().find(|path| path.contains(part)).unwrap().clone();
        let (queue_file, index_file) = (file_of("orders"), file_of("index"));
        let damages: [(&str, &dyn Fn()); 7] = [
            ("all gone", &|| {
                fs::remove_dir_all(root.join("consumequeue")).unwrap();
                fs::remove_dir_all(root.join("index")).unwrap();
            }),
            ("a queue's file gone", &|| fs::remove_file(&queue_file).unwrap()),
            ("a queue's file cut", &|| {
                fs::File::options().write(true).open(&queue_file).unwrap().set_len(100).unwrap();
            }),
            ("a queue's file zeroed", &|| {
                fs::write(&queue_file, b"").unwrap();
                fs::File::options().write(true).open(&queue_file).unwrap().set_len(6_000_000).unwrap();
            }),
            ("the index gone", &|| fs::remove_file(&index_file).unwrap()),
            ("the index cut", &|| fs::write(&index_file, b"short").unwrap()),
            ("a lookup was led astray", &|| fs::write(root.join("index-damaged"), b"").unwrap()),
        ];
        for (name, damage) in damages {
            damage();
            let mut serving = serve(&root);
            let RecoveryReport { records, rebuilt, rebuilding, .. } = &serving.report;
            assert_eq!((*records, rebuilt, rebuilding.is_some()), (0, &None, true), "{name}");
            assert!(serving.rebuild() > 0, "{name}");
            serving.close().await;
            assert!(derived_files(&root) == expected, "{name}");
            let serving = serve(&root);
            assert_eq!((&serving.report.rebuilding, serving.is_rebuilding()), (&None, false), "{name}: once");
            serving.close().await;
        }
        let checked = verify_shard(&StdDisk, &root, &config(), &mut |_| {}).unwrap();
        assert!(checked.is_good(), "{:?}", checked.findings);
    });
}

#[test]
fn a_queue_that_is_built_anew_is_refused_where_it_lacks_entries_and_nothing_else_is() {
    on_a_core(|root| async move {
        let mut filled = filled_and_derived(&root);
        lose_queue(&root, 1);
        let mut serving = serve(&root);
        let old = MESSAGES / 3;
        filled.log.end_block();
        for _ in 0..3 {
            filled.append(BODY_BYTES);
        }
        serving.store.dispatch(&filled.log.commit(), &mut |_| {});
        let mut steps = 0;
        while serving.is_rebuilding() {
            let store = &serving.store;
            for offset in [0, old - 1] {
                let refused = get(store, &request("orders", 1, offset)).await;
                assert!(matches!(refused, Err(ReadError::Rebuilding { queue_id: 1, .. })), "{refused:?}");
                let time = store.store_time("orders", 1, QueueOffset::new(offset)).await;
                assert!(matches!(time, Err(ReadError::Rebuilding { .. })), "{time:?}");
            }
            let by_time = store.offset_by_time("orders", 1, 0, TimeBoundary::Lower).await;
            assert!(matches!(by_time, Err(ReadError::Rebuilding { .. })), "{by_time:?}");
            let (_, new) = get(store, &request("orders", 1, old)).await.unwrap();
            assert_eq!((new.status, new.messages), (GetStatus::Found, 1), "what comes meanwhile is read");
            let (_, other) = get(store, &request("orders", 0, 0)).await.unwrap();
            assert_eq!(other.status, GetStatus::Found);
            serving.work.turn(false);
            serving.store.take_rebuilt();
            steps += 1;
        }
        assert!(steps > 2, "{steps} steps are not beside anything");
        filled.assert_consumed(&serving.store, &[]).await;
        serving.close().await;
        assert_eq!(recover(&root).report.rebuilt, None);
    });
}

#[test]
fn the_next_start_goes_on_with_what_a_crash_interrupted_and_no_key_comes_twice() {
    on_a_core(|root| async move {
        let mut filled = filled_and_derived(&root);
        lose_queue(&root, 1);
        fs::remove_dir_all(root.join("index")).unwrap();
        for takes_snapshot in [true, false, true] {
            let mut serving = serve(&root);
            assert_eq!(serving.report.rebuilt, None);
            filled.log.end_block();
            filled.append(BODY_BYTES);
            serving.store.dispatch(&filled.log.commit(), &mut |_| {});
            serving.work.turn(takes_snapshot);
            assert!(serving.is_rebuilding());
            let refused = get(&serving.store, &request("orders", 1, 0)).await;
            assert!(matches!(refused, Err(ReadError::Rebuilding { .. })), "{refused:?}");
        }
        let mut serving = serve(&root);
        assert!(serving.report.rebuilding.is_some());
        serving.rebuild();
        filled.assert_consumed(&serving.store, &[]).await;
        let (store, thread) = serving.with_thread();
        for number in 0..MESSAGES + 3 {
            assert_eq!(found_under(&store, number).await, 1, "message {number}");
        }
        close((store, thread)).await;
        let checked = verify_shard(&StdDisk, &root, &config(), &mut |_| {}).unwrap();
        assert!(checked.is_good(), "{:?}", checked.findings);
    });
}

#[test]
fn who_wants_whole_files_gets_them_after_an_interrupted_rebuild() {
    on_a_core(|root| async move {
        let filled = filled_and_derived(&root);
        let expected = derived_files(&root);
        lose_queue(&root, 2);
        let mut serving = serve(&root);
        serving.work.turn(true);
        assert!(serving.is_rebuilding());
        drop(serving);
        let checked = verify_shard(&StdDisk, &root, &config(), &mut |_| {}).unwrap();
        assert!(checked.is_good(), "what is to be built is not damaged: {:?}", checked.findings);
        assert!(recover(&root).report.rebuilt.is_some());
        assert!(derived_files(&root) == expected);
        filled.assert_consumed(&fixture::open(&root, MessageStoreConfig::default()), &[]).await;
    });
}

#[test]
fn lost_messages_keep_their_places_in_queues_that_are_built_anew() {
    on_a_core(|root| async move {
        let filled = filled_and_derived(&root);
        let last_of_queue_1 = usize::try_from(MESSAGES).unwrap() - 2;
        let lost = [1, 5, 6, last_of_queue_1];
        for number in lost {
            filled.log.damage(number);
        }
        fs::remove_dir_all(root.join("consumequeue")).unwrap();
        let mut serving = serve(&root);
        assert_eq!(serving.report.rebuilt, None);
        serving.rebuild();
        filled.assert_consumed(&serving.store, &lost).await;
        serving.close().await;
    });
}

#[test]
fn a_queue_whose_first_messages_are_removed_meanwhile_begins_where_the_log_does() {
    on_a_core(|root| async move {
        let mut log = Log::new(&root);
        let mut places = Vec::new();
        while log.end().get() < 3 * SEGMENT_BYTES {
            places.push(log.end());
            log.append("orders", 0, b"", &[7; BODY_BYTES]);
            if log.end().get() < SEGMENT_BYTES / 2 {
                log.append("gone", 0, b"", b"early");
            }
        }
        let gone = u64::try_from(places.iter().filter(|at| at.get() < SEGMENT_BYTES / 2).count()).unwrap();
        recover(&root);
        fs::remove_dir_all(root.join("consumequeue")).unwrap();
        let serving = serve(&root);
        let log_start = PhysicalOffset::new(2 * SEGMENT_BYTES);
        let (mut store, thread) = serving.with_thread();
        let starts = store.remove_before(log_start, 100.0).await.unwrap();
        store.removed(starts);
        while store.load().rebuild_left_bytes > 0 {
            store.take_rebuilt();
            yield_now().await;
        }
        let bounds =
            |topic| store.bounds(topic, 0).map(|bounds| (bounds.min.get(), bounds.max.get())).unwrap();
        let (min, max) = bounds("orders");
        assert_eq!(max, places.len() as u64);
        let (_, first) = get(&store, &request("orders", 0, min)).await.unwrap();
        assert_eq!(first.status, GetStatus::Found);
        let (_, before) = get(&store, &request("orders", 0, min - 1)).await.unwrap();
        assert_eq!((before.status, before.next_begin_offset.get()), (GetStatus::OffsetTooSmall, min));
        let kept = places.iter().filter(|at| **at >= log_start).count() as u64;
        assert!(
            max - min == kept || max - min == kept + 1,
            "the end of a file may have moved one: {min} {kept}"
        );
        assert!(gone > 0);
        assert_eq!(bounds("gone").0, bounds("gone").1, "all are gone");
        close((store, thread)).await;
        assert_eq!(recover(&root).report.rebuilt, None);
    });
}

#[test]
fn a_topic_that_is_deleted_meanwhile_is_gone_and_can_come_back() {
    on_a_core(|root| async move {
        let mut filled = filled_and_derived(&root);
        fs::remove_dir_all(root.join("consumequeue")).unwrap();
        let mut serving = serve(&root);
        serving.work.turn(false);
        serving.store.delete_topic("orders");
        filled.log.end_block();
        filled.append(10);
        serving.store.dispatch(&filled.log.commit(), &mut |_| {});
        serving.rebuild();
        let old = MESSAGES / 3;
        let (_, back) = get(&serving.store, &request("orders", 0, old)).await.unwrap();
        assert_eq!((back.status, back.messages), (GetStatus::Found, 1));
        let (_, before) = get(&serving.store, &request("orders", 0, 0)).await.unwrap();
        assert_eq!(before.status, GetStatus::OffsetTooSmall);
        serving.close().await;
        assert!(!root.join("consumequeue/orders/1").exists());
        assert_eq!(recover(&root).report.rebuilt, None);
    });
}
