//! Seeded fuzzing of a shard's folder: images of the log, ConsumeQueues, index files, the checkpoint and everything else, changed in
//! ways that no crash and no bit flip makes. A start goes on, takes bounded memory, changes no record that is whole, and cuts none but behind
//! what looks like an unfinished write.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use shards::message_store::{MessageStoreConfig, StoreExit};
use shards::position::PhysicalOffset;
use shards::record::RecordView;

use crate::damage::{Contents, Filled, contents, restore};
use crate::fixture::{self, on_a_core, open, recover_result};

#[path = "../../../tests/fuzzing/mod.rs"]
mod fuzzing;

use fuzzing::{Target, assert_the_canary_is_seen_to_fail, run_all, seeds};

/// Rounds of a target whose every round starts a shard.
const ROUNDS: u64 = 80;
/// Memory that a start may take for a folder of this size: a read step of the scan, tables of few queues, the known damage.
const START_BYTES_MAX: u64 = 48 << 20;

#[test]
fn a_log_with_any_bytes_in_it_keeps_every_whole_record_before_its_end() {
    run_all(&[Target { name: "log_images", round: log_image }], ROUNDS);
}

#[test]
fn the_canary_is_seen_to_fail() {
    assert_the_canary_is_seen_to_fail();
}

thread_local! {
    /// A closed shard of 120 messages and what its files hold, made once.
    static SHARD: RefCell<Option<(tempfile::TempDir, Filled, Image)>> = const { RefCell::new(None) };
}

fn log_file(root: &Path) -> PathBuf {
    root.join(format!("commitlog/{:020}", 0))
}

fn with_shard(round: impl FnOnce(&Path, &Filled)) {
    SHARD.with(|shard| {
        let mut shard = shard.borrow_mut();
        let (dir, filled, before) = shard.get_or_insert_with(|| {
            let dir = fixture::folder();
            let filled = Filled::new(dir.path(), 120, 300);
            fixture::recover(dir.path());
            let before = Image::of(dir.path());
            (dir, filled, before)
        });
        before.put_back(dir.path());
        // What a round left behind the end of the log.
        let log = fs::File::options().write(true).open(log_file(dir.path())).unwrap();
        log.set_len(filled.log.end().get()).unwrap();
        log.set_len(fixture::SEGMENT_BYTES).unwrap();
        round(dir.path(), filled);
    });
}

/// Bytes that stand where records do: noise, zeros, other records, records whose numbers were changed.
fn noise(random: &mut StdRng, filled: &Filled) -> Vec<u8> {
    match random.random_range(0..5) {
        0 => vec![0; random.random_range(1..2000)],
        1 => {
            let mut bytes = vec![0; random.random_range(1..2000)];
            random.fill_bytes(&mut bytes);
            bytes
        }
        kind => {
            let (_, record) =
                filled.records.iter().nth(random.random_range(0..filled.records.len())).unwrap();
            let mut record = record.to_vec();
            match kind {
                2 => {}
                // Sizes, magic, queue, offsets.
                3 => {
                    let at = *[0, 4, 8, 12, 20, 28, 36].choose(random).unwrap();
                    let number = *[0, 1, -1, i32::MAX, i32::MIN, 1 << 22, 100].choose(random).unwrap();
                    record[at..at + 4].copy_from_slice(&i32::to_be_bytes(number));
                }
                _ => fuzzing::mutate(random, &mut record),
            }
            record
        }
    }
}

/// The log is changed in a few places; its snapshot and its derived files are there, or not.
fn log_image(random: &mut StdRng) {
    with_shard(|root, filled| {
        let log = fs::File::options().write(true).open(log_file(root)).unwrap();
        let end = filled.log.end().get();
        let mut changed: Vec<(u64, u64)> = Vec::new();
        for _ in 0..random.random_range(1..5) {
            // Rarely behind the end, where the rest of an unfinished write may be.
            let at = random.random_range(0..end + end / 8);
            let bytes = noise(random, filled);
            log.write_all_at(&bytes, at).unwrap();
            changed.push((at, at + bytes.len() as u64));
        }
        for (name, probability) in
            [("positions", 0.4), ("consumequeue", 0.3), ("index", 0.3), ("checkpoint", 0.3)]
        {
            let path = root.join(name);
            if random.random_bool(probability) {
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
        let whole: Vec<usize> = (0..filled.order.len())
            .filter(|number| {
                let from = filled.log.place(*number).get();
                let to = from + filled.records[&filled.order[*number]].len() as u64;
                changed.iter().all(|(start, stop)| to <= *start || from >= *stop)
            })
            .collect();
        let had_snapshot = root.join("positions").exists();
        let mut recovered = None;
        let used = allocation_counter::measure(|| recovered = Some(recover_result(root)));
        assert!(used.bytes_max < START_BYTES_MAX, "the start took {} bytes", used.bytes_max);
        let recovered = recovered.unwrap();
        let recovered = recovered.unwrap_or_else(|error| panic!("damage does not refuse a start: {error}"));
        let report = recovered.report;
        if had_snapshot {
            assert!(report.end >= filled.log.end(), "what was durable is not cut: {report:?}");
        }
        // Nothing is cut before the first record that was hit.
        let first = PhysicalOffset::new(changed.iter().map(|(start, _)| *start).min().unwrap());
        let first_hit =
            filled.log.number_at(first).map_or(filled.log.end(), |number| filled.log.place(number));
        assert!(report.end >= first_hit, "{first_hit} is the first that was hit: {report:?}");
        let bytes = fs::read(log_file(root)).unwrap();
        // What is behind the end was taken for the rest of an unfinished write.
        let kept = whole.into_iter().map(|number| (number, filled.log.place(number)));
        for (number, place) in kept.filter(|(_, place)| *place < report.end) {
            let at = usize::try_from(place.get()).unwrap();
            let expected = &filled.records[&filled.order[number]];
            assert!(bytes[at..].starts_with(expected), "message {number} was changed by the start");
            let view = RecordView::parse(&bytes[at..]).unwrap();
            view.verify_crc().unwrap();
            let known =
                recovered.damage.ranges().iter().find(|range| range.from <= place && place < range.to);
            assert!(
                known.is_none(),
                "message {number} at {place} is whole, and {known:?} is said to be damaged"
            );
        }
    });
}

/// All files but the log: whole pieces overwritten, cut off, doubled, emptied, replaced by each other, or gone. The log decides.
#[test]
fn whatever_is_derived_from_the_log_holds_readers_get_what_the_log_says() {
    let seeds = seeds(ROUNDS);
    on_a_core(move |root| async move {
        let filled = Filled::new(&root, 120, 300);
        let mut store = open(&root, MessageStoreConfig::default());
        store.close(StoreExit::Clean).await.unwrap();
        let before = Image::of(&root);
        let derived: Vec<_> = before.derived().collect();
        for seed in seeds {
            println!("RINGMQ_FUZZ_SEED={seed}");
            let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
            let mut index_changed = false;
            for _ in 0..random.random_range(1..4) {
                let (path, bytes) = derived.choose(&mut random).unwrap();
                let other = &derived.choose(&mut random).unwrap().1;
                index_changed |= path.to_string_lossy().contains("index");
                change_file(&mut random, path, bytes, other);
            }
            if random.random_bool(0.3) {
                fs::write(root.join("abort"), b"").unwrap();
            }
            if let Err(error) = recover_result(&root) {
                panic!(
                    "RINGMQ_FUZZ_SEED={seed}: a start was refused for files that can be made anew: {error}"
                );
            }
            let mut store = open(&root, MessageStoreConfig::default());
            assert_eq!(store.confirm_offset(), filled.log.end(), "RINGMQ_FUZZ_SEED={seed}");
            filled.assert_consumed(&store, &[]).await;
            for number in [0, 7, 119] {
                let found =
                    store.query_by_key("orders", &format!("k{number}"), 4, 0, i64::MAX).await.unwrap();
                // An item of the index that is gone is not missed by anybody: the key is not found then, and no other message is.
                let is_right = found.len() == 1 || index_changed && found.is_empty();
                assert!(
                    is_right,
                    "RINGMQ_FUZZ_SEED={seed}: {} messages with the key of {number}",
                    found.len()
                );
            }
            store.close(StoreExit::Clean).await.unwrap();
            before.put_back(&root);
        }
    });
}

/// The files of a closed shard: their bytes up to the last that is not zero, and their lengths.
struct Image {
    contents: Contents,
    lengths: Vec<u64>,
}

impl Image {
    fn of(root: &Path) -> Self {
        let contents = contents(root);
        let lengths = contents.iter().map(|(path, _)| fs::metadata(path).unwrap().len()).collect();
        Self { contents, lengths }
    }

    fn derived(&self) -> impl Iterator<Item = &(PathBuf, Vec<u8>)> {
        self.contents.iter().filter(|(path, _)| !path.to_string_lossy().contains("commitlog"))
    }

    /// Makes everything as it was.
    fn put_back(&self, root: &Path) {
        for (path, _) in self.derived() {
            // A round may have left more in it.
            let _ = fs::remove_file(path);
        }
        restore(root, &self.contents);
        for ((path, _), length) in self.contents.iter().zip(&self.lengths) {
            fs::File::options().write(true).open(path).unwrap().set_len(*length).unwrap();
        }
    }
}

fn change_file(random: &mut StdRng, path: &Path, bytes: &[u8], other: &[u8]) {
    let Ok(file) = fs::File::options().write(true).open(path) else { return };
    let length = file.metadata().unwrap().len();
    let at = random.random_range(0..bytes.len() as u64);
    match random.random_range(0..8) {
        0 => file.set_len(at).unwrap(),
        1 => file.set_len(length + random.random_range(1..9000)).unwrap(),
        2 => file.write_all_at(&vec![0; random.random_range(1..400)], at).unwrap(),
        3 => {
            let mut noise = vec![0; random.random_range(1..400)];
            random.fill_bytes(&mut noise);
            file.write_all_at(&noise, at).unwrap();
        }
        // Entries at places of others.
        4 => {
            let from = usize::try_from(random.random_range(0..bytes.len() as u64) / 20 * 20).unwrap();
            let piece = &bytes[from..bytes.len().min(from + 100)];
            file.write_all_at(piece, at / 20 * 20).unwrap();
        }
        5 => file.write_all_at(other, 0).unwrap(),
        6 => {
            let number = *[0, 1, -1, i64::MAX, i64::MIN, 1 << 40].choose(random).unwrap();
            file.write_all_at(&i64::to_be_bytes(number), at / 8 * 8).unwrap();
        }
        _ => fs::remove_file(path).unwrap(),
    }
}
