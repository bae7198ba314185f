//! Stores that change hands between a stock broker and RingMQ, without the broker: what it leaves is made by hand. With the real one:
//! `tests/system/moving.rs`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use shards::io::disk::StdDisk;
use shards::migration::{AdoptError, ReleaseError, adopt, release};
use shards::recovery::{ShardConfig, recover_shard};
use shards::store_dir::{StoreDir, StoreDirError, StoreSettings};
use shards::verify::verify_shard;

use crate::damage::{Contents, contents};
use crate::fixture::{self, Log};

/// A store as a stock broker leaves it after a clean stop: two topics, and what it derives and writes besides.
fn stock_store(dir: &Path) -> (PathBuf, Log) {
    let store = dir.join("store");
    let mut log = Log::new(&store);
    for number in 0..30 {
        log.append("orders", number % 2, b"", b"an order");
    }
    log.append(
        "SCHEDULE_TOPIC_XXXX",
        2,
        b"DELAY\x013\x02REAL_TOPIC\x01orders\x02REAL_QID\x010\x02",
        b"later",
    );
    fs::create_dir_all(store.join("consumequeue/orders/0")).unwrap();
    fs::write(store.join("consumequeue/orders/0/00000000000000000000"), [7; 100]).unwrap();
    fs::create_dir_all(store.join("index")).unwrap();
    fs::create_dir_all(store.join("config")).unwrap();
    fs::create_dir_all(store.join("compaction/compactionLog")).unwrap();
    fs::write(store.join("compaction/position-checkpoint"), b"{}").unwrap();
    fs::write(store.join("config/topics.json"), b"{\"topicConfigTable\":{}}").unwrap();
    let mut checkpoint = [0; 4096];
    checkpoint[..8].copy_from_slice(&1_600_000_000_000_i64.to_be_bytes());
    fs::write(store.join("checkpoint"), checkpoint).unwrap();
    (store, log)
}

/// A store whose first file of the log is gone, and with it all messages of a queue of five.
fn aged_store(dir: &Path) -> PathBuf {
    let store = dir.join("store");
    let mut log = Log::new(&store);
    let mut entries = Vec::new();
    for _ in 0..5 {
        let at = log.end().get();
        let size = u32::try_from(log.append("gone", 0, b"", b"old").len()).unwrap();
        entries.extend([&at.to_be_bytes()[..], &size.to_be_bytes(), &[0; 8]].concat());
    }
    while log.end().get() <= fixture::SEGMENT_BYTES {
        log.append("orders", 0, b"", &[7; 60_000]);
    }
    fs::remove_file(store.join("commitlog/00000000000000000000")).unwrap();
    entries.resize(6_000_000, 0);
    fs::create_dir_all(store.join("consumequeue/gone/0")).unwrap();
    fs::write(store.join("consumequeue/gone/0/00000000000000000000"), entries).unwrap();
    store
}

/// Everything in a folder but the lock that was taken on it.
fn picture(dir: &Path) -> (Vec<PathBuf>, Contents) {
    let mut files = fixture::files(dir);
    files.retain(|path| !path.ends_with("lock"));
    (files, contents(dir))
}

fn settings(node: &str) -> StoreSettings {
    StoreSettings { shards: None, shards_if_new: 2, segment_bytes: None, node: node.to_owned() }
}

#[test]
fn a_stock_store_becomes_the_only_shard_of_a_node() {
    let dir = fixture::folder();
    let (store, log) = stock_store(dir.path());
    let data = dir.path().join("data");
    // Somebody serves the folder as it is: the message says what to do.
    let refusal = StoreDir::open(&store, &settings("n")).unwrap_err();
    assert!(matches!(refusal, StoreDirError::StockStore { .. }), "{refusal}");
    fs::remove_file(store.join("lock")).unwrap();

    let adopted = adopt(&store, &data, "n", &mut |_| {}).unwrap();
    assert_eq!((adopted.report.records, adopted.report.end, adopted.was_clean), (31, log.end(), true));
    assert_eq!(adopted.messages, [("SCHEDULE_TOPIC_XXXX".to_owned(), 1), ("orders".to_owned(), 30)]);
    assert!(!store.exists());
    let opened = StoreDir::open(&data, &settings("n")).unwrap();
    assert_eq!((opened.shards(), opened.segment_bytes()), (1, fixture::SEGMENT_BYTES));
    let shard = opened.shard_dir(0);
    assert!(shard.join("config/topics.json").exists() && !shard.join("abort").exists());
    assert_eq!(shard.join("consumequeue/orders/0/00000000000000000000").metadata().unwrap().len(), 6_000_000);
    assert!(!shard.join("of-stock").exists());
    drop(opened);
    let other = StoreDir::open(&data, &settings("m")).unwrap_err();
    assert!(matches!(other, StoreDirError::OtherNode { .. }), "{other}");
}

#[test]
fn a_queue_whose_messages_the_stock_broker_has_removed_goes_on_where_it_was() {
    let dir = fixture::folder();
    let store = aged_store(dir.path());
    // As ConsumeQueues in RocksDB lie there, and what people leave behind.
    fs::write(store.join("consumequeue/CURRENT"), b"MANIFEST-000004").unwrap();
    fs::write(store.join("consumequeue/gone/notes"), b"").unwrap();
    fs::write(store.join("consumequeue/gone/1"), b"").unwrap();

    let data = dir.path().join("data");
    adopt(&store, &data, "n", &mut |_| {}).unwrap();
    let shard = data.join("shard-0");
    let config = ShardConfig::new(fixture::SEGMENT_BYTES);
    let recovered = recover_shard(&StdDisk, &shard, &config, &mut |_| {}).unwrap();
    let next = recovered.log.queue_offsets.iter().find(|(topic, _, _)| topic == "gone");
    assert_eq!(next.map(|(_, _, next)| next.get()), Some(5));
}

#[test]
fn a_store_that_was_moved_by_hand_is_adopted_where_it_is() {
    let dir = fixture::folder();
    let (store, _log) = stock_store(dir.path());
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::rename(&store, data.join("shard-0")).unwrap();
    let refusal = StoreDir::open(&data, &settings("n")).unwrap_err().to_string();
    assert!(refusal.contains("ringmq store adopt"), "{refusal}");
    // An adoption that was cut short has left what it had built.
    fs::write(data.join("shard-0/abort"), b"").unwrap();
    fs::create_dir_all(data.join("shard-0/of-stock/consumequeue")).unwrap();
    let adopted = adopt(&data.join("shard-0"), &data, "n", &mut |_| {}).unwrap();
    assert_eq!((adopted.report.records, adopted.was_clean), (31, false));
    assert!(StoreDir::open(&data, &settings("n")).is_ok());
}

#[test]
fn what_cannot_be_taken_over_stays_as_it_was() {
    let dir = fixture::folder();
    let (store, mut log) = stock_store(dir.path());
    // Message 15 of queue 0 is nowhere, and nothing is damaged.
    log.skip_queue_offset("orders", 0);
    log.append("orders", 0, b"", b"an order");
    let before = picture(&store);
    let data = dir.path().join("data");
    let error = adopt(&store, &data, "n", &mut |_| {}).unwrap_err();
    assert!(matches!(error, AdoptError::Recovery(_)), "{error}");
    assert!(picture(&store) == before);
    assert!(!data.exists());

    let error = adopt(&dir.path().join("nothing"), &data, "n", &mut |_| {}).unwrap_err();
    assert!(matches!(error, AdoptError::Io { .. }), "{error}");
    fs::create_dir_all(dir.path().join("empty/commitlog")).unwrap();
    let error = adopt(&dir.path().join("empty"), &data, "n", &mut |_| {}).unwrap_err();
    assert!(matches!(error, AdoptError::NoStockStore { .. }), "{error}");
    let error = adopt(&store, &store.join("data"), "n", &mut |_| {}).unwrap_err();
    assert!(matches!(error, AdoptError::Inside { .. }), "{error}");
    drop(StoreDir::open(&data, &settings("n")).unwrap());
    let error = adopt(&store, &data, "n", &mut |_| {}).unwrap_err();
    assert!(matches!(error, AdoptError::RootInUse { .. }), "{error}");
}

/// The stories: the disk refused between the first change and the last, and the broker found neither its ConsumeQueues nor, once, its folder.
#[test]
fn an_adoption_that_fails_at_any_step_leaves_the_stock_brokers_store_as_it_was() {
    let fails = |store: PathBuf, change: &dyn Fn(&Path, &Path)| {
        let data = store.parent().unwrap().join("data");
        fs::create_dir(&data).unwrap();
        change(&store, &data);
        let before = picture(&store);
        let error = adopt(&store, &data, "n", &mut |_| {}).unwrap_err();
        assert!(matches!(error, AdoptError::Io { .. }), "{error}");
        assert!(picture(&store) == before, "{:?} was {:?}", picture(&store).0, before.0);
        assert!(!data.join("manifest").exists() && !data.join("shard-0").exists());
    };
    // Where the places of queues are read.
    let dir = fixture::folder();
    fails(aged_store(dir.path()), &|store, _| {
        fs::create_dir_all(store.join("consumequeue/odd/0/00000000000000000000")).unwrap();
    });
    // Where the folder is marked as no longer in use.
    let dir = fixture::folder();
    fails(stock_store(dir.path()).0, &|store, _| fs::create_dir(store.join("abort")).unwrap());
    // Where the manifest is written.
    let dir = fixture::folder();
    fails(stock_store(dir.path()).0, &|_, data| fs::create_dir(data.join("manifest.tmp")).unwrap());
    // And in its place.
    let dir = fixture::folder();
    let (store, _log) = stock_store(dir.path());
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("manifest.tmp")).unwrap();
    fs::rename(&store, data.join("shard-0")).unwrap();
    let before = picture(&data.join("shard-0"));
    adopt(&data.join("shard-0"), &data, "n", &mut |_| {}).unwrap_err();
    assert!(picture(&data.join("shard-0")) == before);
}

#[test]
fn an_adoption_that_cannot_put_the_folder_back_says_why_it_failed_and_where_the_folder_is() {
    let dir = fixture::folder();
    let (store, _log) = stock_store(dir.path());
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("manifest.tmp")).unwrap();
    let mut take_its_place = |_| {
        fs::create_dir_all(store.join("config")).unwrap();
    };
    let error = adopt(&store, &data, "n", &mut take_its_place).unwrap_err();
    let AdoptError::NotMovedBack { reason, from, to, .. } = &error else { panic!("{error}") };
    assert!(matches!(**reason, AdoptError::Io { .. }), "{reason}");
    assert_eq!((from, to), (&data.join("shard-0"), &store));
    assert_eq!(fs::read(from.join("consumequeue/orders/0/00000000000000000000")).unwrap(), [7; 100]);
}

#[test]
fn what_an_adoption_kept_of_the_stock_broker_is_never_taken_for_a_later_brokers() {
    let dir = fixture::folder();
    let store = aged_store(dir.path());
    let data = dir.path().join("data");
    adopt(&store, &data, "n", &mut |_| {}).unwrap();
    let aside = data.join("shard-0/of-stock");
    // As when the power went behind the manifest.
    let keep = || fs::create_dir_all(aside.join("consumequeue/gone/0")).unwrap();
    keep();
    drop(StoreDir::open(&data, &settings("n")).unwrap());
    assert!(!aside.exists());
    keep();
    release(&data, Some(&store), &mut |_| {}).unwrap();
    assert!(!store.join("of-stock").exists());
}

#[test]
fn what_a_node_cannot_serve_is_named() {
    let named = |change: &dyn Fn(&Path)| {
        let dir = fixture::folder();
        let (store, _log) = stock_store(dir.path());
        change(&store);
        match adopt(&store, &dir.path().join("data"), "n", &mut |_| {}) {
            Err(AdoptError::Unsupported { reasons, .. }) => reasons.join("; "),
            other => panic!("{other:?}"),
        }
    };
    let file = |path: &'static str, bytes: &'static [u8]| {
        move |store: &Path| {
            fs::create_dir_all(store.join(path).parent().unwrap()).unwrap();
            fs::write(store.join(path), bytes).unwrap();
        }
    };
    for (path, word) in [
        ("dledger-n0/data/00000000000000000000", "DLedger"),
        ("batchconsumequeue/t/0/00000000000000000000", "BatchCQ"),
        ("compaction/compactionLog/t/0/00000000000000000000", "COMPACTION"),
        ("consumequeue/%LMQ%a/0/00000000000000000000", "light message queues"),
        ("config/rdb/CURRENT", "RocksDB"),
        ("config/consumerOffsets/CURRENT", "RocksDB"),
    ] {
        let reasons = named(&file(path, b"x"));
        assert!(reasons.contains(word), "{path}: {reasons}");
    }
    // One message on the wheel at 2000 s, delivered is what was due before 1000 s, and one is not on the wheel yet.
    let mut check = [0; 4096];
    check[..8].copy_from_slice(&1_000_000_i64.to_be_bytes());
    let mut wheel = vec![0; 64];
    wheel[32..40].copy_from_slice(&2000_i64.to_be_bytes());
    wheel[56..60].copy_from_slice(&1_i32.to_be_bytes());
    let mut queue = vec![0; 60];
    queue[8..12].copy_from_slice(&100_i32.to_be_bytes());
    let with_timers = |store: &Path| {
        fs::write(store.join("config/timercheck"), check).unwrap();
        fs::write(store.join("timerwheel"), &wheel).unwrap();
        fs::create_dir_all(store.join("consumequeue/rmq_sys_wheel_timer/0")).unwrap();
        fs::write(store.join("consumequeue/rmq_sys_wheel_timer/0/00000000000000000000"), &queue).unwrap();
    };
    let reasons = named(&with_timers);
    assert!(reasons.contains("2 messages wait"), "{reasons}");
}

/// The story: a stock broker that deletes a topic forgets how far its queues were; their offsets begin anew when it is made again.
#[test]
fn a_topic_that_a_stock_broker_made_anew_has_its_new_messages() {
    let dir = fixture::folder();
    let (store, mut log) = stock_store(dir.path());
    log.restart_queue("orders", 0);
    for _ in 0..4 {
        log.append("orders", 0, b"KEYS\x01new\x02", b"a new order");
    }
    let data = dir.path().join("data");
    let adopted = adopt(&store, &data, "n", &mut |_| {}).unwrap();
    assert_eq!(adopted.messages[1], ("orders".to_owned(), 15 + 4));
    let config = ShardConfig::new(fixture::SEGMENT_BYTES);
    let verify = || verify_shard(&StdDisk, &adopted.shard_dir, &config, &mut |_| {}).unwrap();
    assert_eq!((verify().findings, verify().lost_messages), (vec![], 0));
    // And when everything is built anew.
    fs::remove_file(adopted.shard_dir.join("positions")).unwrap();
    let again = recover_shard(&StdDisk, &adopted.shard_dir, &config, &mut |_| {}).unwrap();
    assert!(again.report.rebuilt.is_some());
    assert_eq!(verify().findings, vec![]);
}

#[test]
fn a_store_is_given_away_and_comes_back() {
    let dir = fixture::folder();
    let (store, log) = stock_store(dir.path());
    let data = dir.path().join("data");
    adopt(&store, &data, "n", &mut |_| {}).unwrap();
    // As after a kill, and with a file of the log that was being made.
    fs::write(data.join("shard-0/abort"), b"").unwrap();
    fs::write(data.join("shard-0/commitlog/00000000000016777216.tmp"), b"").unwrap();
    let released = release(&data, None, &mut |_| {}).unwrap();
    assert_eq!((released.report.end, released.node.as_str()), (log.end(), "n"));
    assert_eq!(released.store_dir, data.join("shard-0"));
    assert!(!data.join("shard-0/abort").exists());
    assert_eq!(fixture::files(&data.join("shard-0/commitlog")).len(), 1);
    drop(StoreDir::open(&data, &settings("n")).unwrap());

    let released = release(&data, Some(&store), &mut |_| {}).unwrap();
    assert_eq!(released.store_dir, store);
    assert!(matches!(StoreDir::open_existing(&data), Err(StoreDirError::NoStore { .. })));
    assert_eq!(adopt(&store, &data, "n", &mut |_| {}).unwrap().report.records, 31);
}

/// The story: a stock broker was started on the folder without `release`, made a topic anew and was killed. The start was refused, as its
/// queue offsets began anew.
#[test]
fn a_stock_broker_that_took_the_folder_unasked_is_recognised_by_the_checkpoint() {
    let dir = fixture::folder();
    let mut log = Log::new(dir.path());
    let checkpoint = dir.path().join("checkpoint");
    let change_checkpoint = |at: u64| {
        let file = fs::File::options().write(true).open(&checkpoint).unwrap();
        file.write_all_at(&77_i64.to_be_bytes(), at).unwrap();
    };
    let markers = || ["stock", "unsynced"].map(|name| dir.path().join(name).exists());
    for _ in 0..4 {
        log.append("orders", 0, b"", b"an order");
    }
    fixture::recover(dir.path());
    change_checkpoint(100);
    fixture::recover(dir.path());
    assert_eq!(markers(), [false, false], "no broker writes there");

    log.restart_queue("orders", 0);
    log.append("orders", 0, b"", b"a new order");
    change_checkpoint(0);
    // As ConsumeQueues in RocksDB lie there.
    fs::write(dir.path().join("consumequeue/CURRENT"), b"MANIFEST-000004").unwrap();
    fs::write(dir.path().join("consumequeue/orders/notes"), b"").unwrap();
    let recovered = fixture::recover(dir.path());
    assert_eq!(recovered.log.queue_offsets.iter().map(|(_, _, next)| next.get()).collect::<Vec<_>>(), [1]);
    assert_eq!(markers(), [true, true]);
}

#[test]
fn a_store_that_a_stock_broker_would_cut_is_not_given_away() {
    let dir = fixture::folder();
    let (store, mut log) = stock_store(dir.path());
    let data = dir.path().join("data");
    // So much behind it that no unfinished write explains it.
    for _ in 0..40 {
        log.append("orders", 0, b"", &vec![b'x'; 1 << 20]);
    }
    log.damage(7);
    let adopted = adopt(&store, &data, "n", &mut |_| {}).unwrap();
    assert_eq!((adopted.report.damaged_ranges, adopted.report.lost_messages), (1, 1));
    let error = release(&data, None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ReleaseError::Damaged { ranges: 1, .. }), "{error}");
    drop(StoreDir::open(&data, &settings("n")).unwrap());

    let two = dir.path().join("two");
    drop(StoreDir::open(&two, &StoreSettings { shards: Some(2), ..settings("n") }).unwrap());
    let error = release(&two, None, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ReleaseError::Shards { shards: 2, .. }), "{error}");
}
