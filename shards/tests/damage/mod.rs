//! Damage on the disk: of a log, its ConsumeQueues, its index and everything else in a shard's folder. A start goes on, a reader gets every
//! message that is not lost, at its queue offset, and no byte of one that is; what was lost keeps its place.
//!
//! `SEED=n` and `FLIPS=n` choose the random part; a failure prints its seed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::io::disk::StdDisk;
use shards::message_store::scrub::{Scrub, ScrubStep};
use shards::message_store::{GetStatus, MessageStore, MessageStoreConfig, StoreExit, TimeBoundary};
use shards::position::PhysicalOffset;
use shards::record::RecordView;
use shards::repair::{allocated_bytes, copy_store, repair_shard};
use shards::verify::{Part, verify_shard};

use crate::fixture::{self, Log, files, get, on_a_core, open, recover, request};

const QUEUES: u32 = 3;

/// What a consumer reads of a queue, which goes where it is sent until the end.
async fn consume(store: &MessageStore, topic: &str, queue_id: u32) -> BTreeMap<u64, Bytes> {
    let mut read = BTreeMap::new();
    let mut offset = 0;
    loop {
        let result = get(store, &request(topic, queue_id, offset)).await;
        let (_, result) = result.unwrap_or_else(|error| panic!("at {offset}: {error}"));
        for bytes in result.records {
            let record = RecordView::parse(&bytes).unwrap();
            record.verify_crc().expect("nothing damaged leaves the store");
            let at = record.queue_offset().get();
            assert_eq!((record.topic(), record.queue_id()), (topic, queue_id));
            assert!(read.insert(at, bytes).is_none(), "message {at} comes once");
        }
        match result.status {
            GetStatus::OffsetOverflowOne | GetStatus::NoMatchedLogicQueue | GetStatus::NoMessageInQueue => {
                return read;
            }
            GetStatus::Found | GetStatus::MessageWasRemoving => {
                let next = result.next_begin_offset.get();
                assert!(next > offset, "a reader gets on: {offset}, {:?}", result.status);
                offset = next;
            }
            other => panic!("{other:?} at {offset}"),
        }
    }
}

/// Messages `0..count` of the topic `orders`, over all queues, and where they are: by queue and offset.
pub(crate) struct Filled {
    pub(crate) log: Log,
    pub(crate) records: BTreeMap<(u32, u64), Bytes>,
    /// The same in the order in which they were appended.
    pub(crate) order: Vec<(u32, u64)>,
}

impl Filled {
    pub(crate) fn new(root: &Path, count: u64, body_bytes: usize) -> Self {
        let mut filled = Self { log: Log::new(root), records: BTreeMap::new(), order: Vec::new() };
        for _ in 0..count {
            filled.append(body_bytes);
        }
        filled
    }

    pub(crate) fn append(&mut self, body_bytes: usize) {
        let number = self.order.len() as u64;
        let place = (u32::try_from(number).unwrap() % QUEUES, number / u64::from(QUEUES));
        let body = vec![b'a' + u8::try_from(number % 26).unwrap(); body_bytes];
        let keys = format!("KEYS\x01k{number}\x02");
        let record = self.log.append("orders", place.0, keys.as_bytes(), &body);
        self.records.insert(place, record);
        self.order.push(place);
    }

    /// What is left of a queue without those that were appended with these numbers.
    fn expected(&self, queue_id: u32, lost: &[usize]) -> BTreeMap<u64, Bytes> {
        let is_lost = |place: &(u32, u64)| lost.iter().any(|lost| self.order[*lost] == *place);
        let of_queue = self.records.iter().filter(|(place, _)| place.0 == queue_id && !is_lost(place));
        of_queue.map(|((_, offset), record)| (*offset, record.clone())).collect()
    }

    pub(crate) async fn assert_consumed(&self, store: &MessageStore, lost: &[usize]) {
        for queue_id in 0..QUEUES {
            let read = consume(store, "orders", queue_id).await;
            let expected = self.expected(queue_id, lost);
            let offsets = |read: &BTreeMap<u64, Bytes>| read.keys().copied().collect::<Vec<_>>();
            assert_eq!(offsets(&read), offsets(&expected), "queue {queue_id}");
            assert!(read == expected);
        }
    }

    fn ends(&self) -> Vec<u64> {
        (0..QUEUES).map(|queue| self.records.keys().filter(|place| place.0 == queue).count() as u64).collect()
    }
}

fn ends(store: &MessageStore) -> Vec<u64> {
    (0..QUEUES).map(|queue| store.bounds("orders", queue).map_or(0, |bounds| bounds.max.get())).collect()
}

#[test]
fn a_damaged_message_is_passed_over_and_counted_and_its_neighbours_are_given() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 30, 500);
        let store = open(&root, MessageStoreConfig::default());
        for number in [3, 4, 20] {
            filled.log.damage(number);
        }
        filled.assert_consumed(&store, &[3, 4, 20]).await;
        let load = store.load();
        assert_eq!(
            (load.skipped_messages, load.damaged_ranges, load.healed_entries),
            (3, 2, 0),
            "3 and 4 touch"
        );
        let (_, around) = get(&store, &request("orders", 0, 1)).await.unwrap();
        assert_eq!(around.messages, 9 - 1, "message 1 of queue 0 is lost, the others of the answer are not");
        let mut store = store;
        store.remember_damage();
        store.close(StoreExit::Clean).await.unwrap();
        // It is known after a start, which scans nothing of it.
        let recovered = recover(&root);
        assert_eq!((recovered.report.records, recovered.report.rebuilt), (0, None));
        assert_eq!(recovered.damage.ranges().len(), 2);
    });
}

#[test]
fn a_reader_that_finds_only_damage_is_sent_on() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 30, 500);
        let mut store = open(&root, MessageStoreConfig::default());
        for number in (0..30).filter(|number| number % 3 == 1) {
            filled.log.damage(number);
        }
        let (_, result) = get(&store, &request("orders", 1, 0)).await.unwrap();
        assert_eq!((result.status, result.messages, result.bytes), (GetStatus::MessageWasRemoving, 0, 0));
        assert_eq!(result.next_begin_offset.get(), 10);
        filled.assert_consumed(&store, &(0..30).filter(|number| number % 3 == 1).collect::<Vec<_>>()).await;
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn damage_in_the_middle_does_not_refuse_the_start_and_keeps_every_place() {
    on_a_core(|root| async move {
        let mut filled = Filled::new(&root, 3000, 1000);
        // Nothing was derived yet: the start has to scan all.
        let lost = [7, 100, 101, 102, 103, 900];
        for number in lost {
            filled.log.damage(number);
        }
        let recovered = recover(&root);
        assert_eq!((recovered.report.damaged_ranges, recovered.report.lost_messages), (6, 6));
        assert_eq!(
            (recovered.report.end, recovered.report.torn_bytes),
            (filled.log.end(), 0),
            "nothing is cut"
        );
        drop(recovered);
        for _ in 0..2 {
            let mut store = open(&root, MessageStoreConfig::default());
            assert_eq!(ends(&store), filled.ends());
            filled.log.end_block();
            filled.append(100);
            store.dispatch(&filled.log.commit(), &mut |_| {});
            filled.assert_consumed(&store, &lost).await;
            assert_eq!(store.load().skipped_messages, 6);
            store.close(StoreExit::Clean).await.unwrap();
            assert_eq!(recover(&root).report.rebuilt, None);
        }
    });
}

#[test]
fn the_last_messages_of_queues_keep_their_places_when_they_are_lost() {
    on_a_core(|root| async move {
        let mut filled = Filled::new(&root, 30, 500);
        recover(&root);
        // The last message of each queue; after the third of them comes nothing more.
        let lost = [27, 28, 29];
        for number in lost {
            filled.log.overwrite(number, 0, &[0xEE; 200]);
        }
        fs::remove_dir_all(root.join("consumequeue")).unwrap();
        let recovered = recover(&root);
        assert!(recovered.report.rebuilt.is_some());
        assert_eq!((recovered.report.lost_messages, recovered.report.torn_bytes), (3, 0));
        assert_eq!(recovered.report.end, filled.log.end());
        drop(recovered);
        let mut store = open(&root, MessageStoreConfig::default());
        assert_eq!(ends(&store), [10, 10, 10], "no later message gets a place that consumers have gone past");
        filled.log.end_block();
        filled.append(100);
        store.dispatch(&filled.log.commit(), &mut |_| {});
        filled.assert_consumed(&store, &lost).await;
        store.close(StoreExit::Clean).await.unwrap();
        assert_eq!(
            recover(&root).report.rebuilt,
            None,
            "what is known to be damaged is no reason to build anew"
        );
    });
}

/// The place in the other queue would be taken from a message to come.
#[test]
fn a_damaged_queue_id_takes_no_place_in_the_queue_that_it_names() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 29, 500);
        recover(&root);
        // The last message of queue 0, offset 9, now says that it is of queue 2, which has offsets 0 to 8.
        filled.log.overwrite(27, 12, &[0, 0, 0, 2]);
        fs::remove_dir_all(root.join("consumequeue")).unwrap();
        assert_eq!(recover(&root).report.lost_messages, 1);
        let store = open(&root, MessageStoreConfig::default());
        assert_eq!(ends(&store), [10, 10, 9]);
        filled.assert_consumed(&store, &[27]).await;
    });
}

#[test]
fn a_torn_tail_behind_damage_is_still_cut() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 3000, 1000);
        filled.log.damage(50);
        filled.log.damage(2990);
        let recovered = recover(&root);
        assert_eq!((recovered.report.damaged_ranges, recovered.report.lost_messages), (1, 1));
        assert_eq!(recovered.report.end, filled.log.place(2990), "the last flush may have torn it");
        assert!(recovered.report.torn_bytes > 0);
    });
}

#[test]
fn a_wrong_consume_queue_entry_does_not_hide_its_message() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 300, 500);
        recover(&root);
        let file = root.join("consumequeue/orders/1/00000000000000000000");
        let queue = fs::File::options().read(true).write(true).open(&file).unwrap();
        let mut entry = [0; 20];
        queue.read_exact_at(&mut entry, 7 * 20).unwrap();
        let wrong: [(&str, u64, &[u8]); 7] = [
            ("no entry", 0, &[0; 20]),
            ("beyond the log", 1, &[0x7F]),
            ("a negative place", 0, &[0xFF]),
            ("inside another record", 7, &[entry[7] ^ 0x08]),
            ("a record of another queue", 0, &filled.log.place(0).to_i64().to_be_bytes()),
            ("far too large", 8, &[0x70]),
            ("a little too small", 11, &[entry[11] ^ 1]),
        ];
        for (what, at_byte, bytes) in wrong {
            queue.write_all_at(bytes, 7 * 20 + at_byte).unwrap();
            let mut store = open(&root, MessageStoreConfig::default());
            println!("{what}");
            filled.assert_consumed(&store, &[]).await;
            let load = store.load();
            assert_eq!((load.skipped_messages, load.damaged_ranges), (0, 0), "{what}");
            assert!(load.healed_entries > 0, "{what}");
            store.close(StoreExit::Clean).await.unwrap();
            queue.write_all_at(&entry, 7 * 20).unwrap();
        }
    });
}

#[test]
fn searches_by_time_and_by_key_look_past_damage() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 300, 500);
        let mut store = open(&root, MessageStoreConfig::default());
        let damaged = [147, 150, 153];
        for number in damaged {
            filled.log.damage(number);
        }
        let record = &filled.records[&(0, 60)];
        let time = RecordView::parse(record).unwrap().store_timestamp_ms();
        let found = store.offset_by_time("orders", 0, time, TimeBoundary::Lower).await.unwrap();
        assert_eq!(found.get(), 60);
        let time_of =
            |number: u64| RecordView::parse(&filled.records[&(0, number)]).unwrap().store_timestamp_ms();
        let found = store.offset_by_time("orders", 0, time_of(49), TimeBoundary::Lower).await.unwrap();
        assert!((49..=52).contains(&found.get()), "{found}: at most what is damaged there is left out");
        assert_eq!(store.query_by_key("orders", "k150", 10, 0, i64::MAX).await.unwrap(), Vec::<Bytes>::new());
        assert_eq!(store.query_by_key("orders", "k151", 10, 0, i64::MAX).await.unwrap().len(), 1);
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn an_index_that_leads_astray_is_told_and_gives_no_other_message() {
    on_a_core(|root| async move {
        let filled = Filled::new(&root, 300, 500);
        let mut store = open(&root, MessageStoreConfig::default());
        store.close(StoreExit::Clean).await.unwrap();
        let index = files(&root.join("index")).remove(0);
        let file = fs::File::options().read(true).write(true).open(&index).unwrap();
        // Item n + 1 is of message n. Where each leads to is at byte 4 of 20, behind the header and 1000 slots.
        let leads_to = |number: u64| 4040 + (number + 1) * 20 + 4;
        let put = |number: u64, at: u64| file.write_all_at(&at.to_be_bytes(), leads_to(number)).unwrap();
        put(10, filled.log.place(11).get());
        put(20, filled.log.place(20).get() + 8);
        put(30, 1 << 40);
        let mut store = open(&root, MessageStoreConfig::default());
        for (number, count) in [(10, 0), (20, 0), (30, 0), (40, 1)] {
            let key = format!("k{number}");
            let found = store.query_by_key("orders", &key, 10, 0, i64::MAX).await.unwrap();
            assert_eq!(found.len(), count, "{key}");
        }
        let load = store.load();
        assert_eq!((load.wrong_index_items, load.damaged_ranges), (3, 0));
        store.remember_damage();
        store.close(StoreExit::Clean).await.unwrap();

        let recovered = recover(&root);
        assert!(recovered.report.rebuilt.is_some_and(|reason| reason.contains("index")), "built anew");
        let mut store = open(&root, MessageStoreConfig::default());
        for number in [10, 20, 30] {
            let key = format!("k{number}");
            assert_eq!(store.query_by_key("orders", &key, 10, 0, i64::MAX).await.unwrap().len(), 1, "{key}");
        }
        store.close(StoreExit::Clean).await.unwrap();
        assert_eq!(recover(&root).report.rebuilt, None, "once");
    });
}

/// What the files of a shard hold. Behind it there is nothing that could be damaged.
pub(crate) type Contents = Vec<(PathBuf, Vec<u8>)>;

pub(crate) fn contents(root: &Path) -> Contents {
    let used = |path: PathBuf| {
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        (path, bytes)
    };
    files(root).into_iter().map(used).filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// Makes everything as it was.
pub(crate) fn restore(root: &Path, before: &Contents) {
    for (path, bytes) in before {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = fs::File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
    for path in files(root) {
        if !before.iter().any(|(known, _)| *known == path) && !path.to_string_lossy().contains("index") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Flips one bit of a shard's folder at a time, anywhere before the end of its log: it starts, and at most the one message that was hit is
/// missing.
#[test]
fn whatever_bit_flips_the_shard_starts_and_only_the_message_that_was_hit_is_missing() {
    let number = |variable: &str| Some(std::env::var(variable).ok()?.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    let flips = number("FLIPS").unwrap_or(200);
    println!("SEED={seed} FLIPS={flips}");
    on_a_core(move |root| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let filled = Filled::new(&root, 120, 300);
        let mut store = open(&root, MessageStoreConfig::default());
        store.close(StoreExit::Clean).await.unwrap();
        let before = contents(&root);
        let mut kinds = BTreeMap::<String, u64>::new();
        for _ in 0..flips {
            let (path, bytes) = &before[random.random_range(0..before.len())];
            let at = random.random_range(0..bytes.len());
            let bit = random.random_range(0..8);
            let place = format!("{} byte {at} bit {bit}, SEED={seed}", path.display());
            println!("{place}");
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(&[bytes[at] ^ (1 << bit)], at as u64)
                .unwrap();
            if random.random_bool(0.5) {
                // The process was killed, or its derived files are to be built anew.
                fs::write(root.join("abort"), b"").unwrap();
            }
            if random.random_bool(0.3) {
                fs::remove_file(root.join("positions")).unwrap();
            }
            let is_log = path.to_string_lossy().contains("commitlog");
            *kinds
                .entry(
                    path.strip_prefix(&root).unwrap().iter().next().unwrap().to_string_lossy().into_owned(),
                )
                .or_default() += 1;
            let mut store = open(&root, MessageStoreConfig::default());
            let hit = is_log.then(|| filled.log.number_at(PhysicalOffset::new(at as u64))).flatten();
            // Without the snapshot nobody knows that the end of the log was durable: it may be cut as a torn tail.
            let cut_to = store.confirm_offset();
            let lost: Vec<usize> = (0..filled.order.len())
                .filter(|number| hit == Some(*number) || filled.log.place(*number) >= cut_to)
                .collect();
            if !root.join("positions").exists() || cut_to == filled.log.end() {
                assert!(lost.len() <= 1, "{place}: lost {lost:?}");
            } else {
                assert!(is_log, "{place}: the log was cut at {cut_to}");
            }
            filled.assert_consumed(&store, &lost).await;
            store.close(StoreExit::Clean).await.unwrap();
            restore(&root, &before);
        }
        println!("{kinds:?}");
    });
}

#[test]
fn a_check_sees_every_bit_that_flips_and_says_in_which_file() {
    let seed = std::env::var("SEED")
        .map_or_else(|_| rand::rng().random_range(0..1 << 40), |seed| seed.parse().unwrap());
    let flips: u64 = std::env::var("FLIPS").map_or(300, |flips| flips.parse().unwrap());
    println!("SEED={seed} FLIPS={flips}");
    on_a_core(move |root| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let _filled = Filled::new(&root, 120, 300);
        let mut store = open(&root, MessageStoreConfig::default());
        store.close(StoreExit::Clean).await.unwrap();
        let verify = || verify_shard(&StdDisk, &root, &fixture::config(), &mut |_| {}).unwrap();
        let good = verify();
        assert_eq!(
            (&good.findings, good.records, good.queue_entries, good.index_keys),
            (&vec![], 120, 120, 120)
        );
        let before = contents(&root);
        for _ in 0..flips {
            let (path, bytes) = &before[random.random_range(0..before.len())];
            let at = random.random_range(0..bytes.len());
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&[bytes[at] ^ (1 << random.random_range(0..8))], at as u64).unwrap();
            let report = verify();
            let place = format!("{} byte {at}, SEED={seed}", path.display());
            // Without a snapshot the end of the log may be torn, and nothing derived is compared.
            assert!(!report.is_good(), "{place} is not seen");
            assert!(
                report.findings.iter().any(|finding| finding.file == *path),
                "{place}: {:?}",
                report.findings
            );
            if path.to_string_lossy().contains("commitlog") {
                let finding = &report.findings[0];
                let hit = finding.offset..finding.offset + finding.bytes;
                assert!(hit.contains(&(at as u64)), "{place}: {finding:?}");
                assert_eq!(report.lost_messages, 1, "{place}");
            } else {
                assert_eq!(report.lost_messages, 0, "{place}");
            }
            file.write_all_at(&[bytes[at]], at as u64).unwrap();
        }
        assert_eq!(verify().findings, []);
    });
}

#[test]
fn a_check_says_which_messages_are_lost_and_is_content_with_a_torn_tail() {
    let dir = fixture::folder();
    let root = dir.path();
    let filled = Filled::new(root, 3000, 1000);
    recover(root);
    for number in [30, 33, 36, 100] {
        filled.log.damage(number);
    }
    let report = verify_shard(&StdDisk, root, &fixture::config(), &mut |_| {}).unwrap();
    let lost: Vec<_> = report.lost.iter().map(|lost| (lost.queue_id, lost.from, lost.to)).collect();
    assert_eq!(lost, [(0, 10, 13), (1, 33, 34)]);
    assert_eq!((report.lost_messages, report.findings.len(), report.torn_bytes), (4, 4, 0));
    assert!(report.findings[0].lost.contains("message 10 of queue 0 of orders"), "{:?}", report.findings[0]);

    let dir = fixture::folder();
    let root = dir.path();
    let filled = Filled::new(root, 3000, 1000);
    filled.log.damage(2990);
    let report = verify_shard(&StdDisk, root, &fixture::config(), &mut |_| {}).unwrap();
    assert!(report.is_good() && report.torn_bytes > 0, "{report:?}");
}

#[test]
fn a_repaired_shard_starts_whatever_was_wrong_with_its_files() {
    on_a_core(|root| async move {
        // Three files of the log.
        let filled = Filled::new(&root, 100, 400_000);
        recover(&root);
        let log_dir = root.join("commitlog");
        let starts: Vec<_> = (0..3).map(|index| format!("{:020}", index * fixture::SEGMENT_BYTES)).collect();
        fs::remove_file(log_dir.join(&starts[1])).unwrap();
        let first = fs::File::options().write(true).open(log_dir.join(&starts[0])).unwrap();
        let cut_at = filled.log.place(30).get() + 100;
        first.set_len(cut_at).unwrap();
        fs::write(log_dir.join("notes.txt"), b"not of the log").unwrap();
        fs::write(root.join("checkpoint"), b"???").unwrap();
        assert!(!verify_shard(&StdDisk, &root, &fixture::config(), &mut |_| {}).unwrap().is_good());
        assert!(fixture::recover_result(&root).is_err());

        let report = repair_shard(&root, &fixture::config(), &mut |_| {}).unwrap();
        let done = report.done.join("\n");
        for what in ["notes.txt", "lengthened", "made", "built ConsumeQueues and index anew"] {
            assert!(done.contains(what), "{what} is missing in {done}");
        }
        let third = PhysicalOffset::new(2 * fixture::SEGMENT_BYTES);
        let lost: Vec<_> = (30..100).filter(|number| filled.log.place(*number) < third).collect();
        assert_eq!(report.lost_messages, lost.len() as u64);
        assert_eq!(report.log_end, filled.log.end().get());
        assert!(root.join("set-aside-by-repair/notes.txt").exists());
        assert!(!root.join("abort").exists(), "the next start has nothing to repair");
        let again = verify_shard(&StdDisk, &root, &fixture::config(), &mut |_| {}).unwrap();
        assert!(again.findings.iter().all(|finding| finding.part == Part::CommitLog), "{:?}", again.findings);
        let mut store = open(&root, MessageStoreConfig::default());
        filled.assert_consumed(&store, &lost).await;
        assert_eq!(ends(&store), filled.ends());
        store.close(StoreExit::Clean).await.unwrap();
    });
}

#[test]
fn a_copy_holds_the_same_and_takes_no_more_room() {
    let dir = fixture::folder();
    let root = dir.path().join("store");
    fs::create_dir(&root).unwrap();
    Filled::new(&root, 1000, 1000);
    recover(&root);
    let copy = dir.path().join("copy");
    let mut copied = 0;
    copy_store(&root, &copy, &mut |bytes| copied = bytes).unwrap();
    let relative = |of: &Path| {
        files(of).iter().map(|path| path.strip_prefix(of).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(relative(&copy), relative(&root));
    for path in relative(&root) {
        assert!(
            fs::read(root.join(&path)).unwrap() == fs::read(copy.join(&path)).unwrap(),
            "{}",
            path.display()
        );
    }
    assert!(copied >= fixture::SEGMENT_BYTES);
    let (original, of_copy) = (allocated_bytes(&root).unwrap(), allocated_bytes(&copy).unwrap());
    assert!(of_copy <= original + (256 << 10), "{of_copy} instead of {original}");
    assert!(copy_store(&root, &copy, &mut |_| {}).is_err(), "never over what is there");
}

#[test]
fn the_background_check_finds_damage_that_nobody_reads() {
    on_a_core(|root| async move {
        // Over two files, with records longer than what it reads at once.
        let mut filled = Filled::new(&root, 100, 1000);
        for _ in 0..60 {
            filled.append(300_000);
        }
        for _ in 0..100 {
            filled.append(1000);
        }
        let mut store = open(&root, MessageStoreConfig::default());
        let mut scrub = store.scrub();
        assert_eq!(pass(&mut scrub).await, filled.log.end().get());
        let load = store.load();
        assert_eq!((load.scrub.passes, load.scrub.found_ranges, load.damaged_ranges), (1, 0, 0));
        assert_eq!(load.cold.cached_bytes, 0, "readers keep their cache");

        for number in [3, 4, 120, 259] {
            filled.log.damage(number);
        }
        // A head of which nothing can be told.
        filled.log.overwrite(200, 0, &[0xEE; 600]);
        assert_eq!(pass(&mut scrub).await, filled.log.end().get());
        let load = store.load();
        assert_eq!(
            (load.scrub.passes, load.scrub.found_ranges, load.damaged_ranges),
            (2, 5, 4),
            "3 and 4 touch"
        );
        let known: Vec<_> = {
            store.remember_damage();
            store.close(StoreExit::Clean).await.unwrap();
            recover(&root).damage.ranges().to_vec()
        };
        let starts: Vec<_> = known.iter().map(|range| range.from).collect();
        assert_eq!(starts, [3, 120, 200, 259].map(|number| filled.log.place(number)));
        let ends: Vec<_> = known[..3].iter().map(|range| range.to).collect();
        assert_eq!(ends, [5, 121, 201].map(|number| filled.log.place(number)));
    });
}

/// One pass; the bytes that it went through.
async fn pass(scrub: &mut Scrub) -> u64 {
    let mut bytes = 0;
    loop {
        match scrub.step().await.unwrap() {
            ScrubStep::Checked(checked) => {
                assert!(checked > 0, "it gets on");
                bytes += checked;
            }
            ScrubStep::PassEnded => return bytes,
        }
    }
}
