//! The layout byte by byte, chains, rolling over, and restoring slots.

use super::*;
use crate::io::disk::StdDisk;

const LAYOUT: IndexLayout = IndexLayout { slots: 5, items: 8 };

fn key(hash: u32, at: u64, store_timestamp_ms: i64) -> IndexKey {
    IndexKey { hash, physical_offset: PhysicalOffset::new(at), store_timestamp_ms }
}

fn open(dir: &Path, known: Vec<IndexPosition>, slots: Slots) -> IndexFiles<StdDisk> {
    IndexFiles::open(&StdDisk, dir, LAYOUT, known, slots).unwrap()
}

fn lookup(hash: u32) -> KeyLookup {
    KeyLookup { hash, records_max: 64, begin_ms: 0, end_ms: i64::MAX }
}

fn found(files: &mut IndexFiles<StdDisk>, lookup: &KeyLookup) -> Vec<u64> {
    files.find(&StdDisk, lookup).unwrap().iter().map(|at| at.get()).collect()
}

#[test]
fn the_file_has_rocketmqs_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = open(dir.path(), Vec::new(), Slots::Read);
    let begin = 1_700_000_000_123;
    files.add(&StdDisk, &key(12, 0x1000, begin)).unwrap();
    files.add(&StdDisk, &key(7, 0x2000, begin + 3999)).unwrap();
    files.write_all().unwrap();
    let bytes = std::fs::read(dir.path().join("index/20231114221320123")).unwrap();
    assert_eq!(bytes.len(), 40 + 5 * 4 + 8 * 20);
    let mut expected = Vec::new();
    expected.extend_from_slice(&begin.to_be_bytes());
    expected.extend_from_slice(&(begin + 3999).to_be_bytes());
    expected.extend_from_slice(&0x1000_i64.to_be_bytes());
    expected.extend_from_slice(&0x2000_i64.to_be_bytes());
    expected.extend_from_slice(&1_i32.to_be_bytes());
    expected.extend_from_slice(&3_i32.to_be_bytes());
    for slot in [0, 0, 2, 0, 0_i32] {
        expected.extend_from_slice(&slot.to_be_bytes());
    }
    expected.extend_from_slice(&[0; 20]);
    for (hash, at, seconds, older) in [(12_i32, 0x1000_i64, 0_i32, 0_i32), (7, 0x2000, 3, 1)] {
        expected.extend_from_slice(&hash.to_be_bytes());
        expected.extend_from_slice(&at.to_be_bytes());
        expected.extend_from_slice(&seconds.to_be_bytes());
        expected.extend_from_slice(&older.to_be_bytes());
    }
    assert_eq!(&bytes[..expected.len()], expected);
    assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(IndexLayout::ROCKETMQ.file_bytes(), 420_000_040);
}

#[test]
fn lookups_go_from_new_to_old_over_files_and_within_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = open(dir.path(), Vec::new(), Slots::Read);
    for number in 0..20_u32 {
        let key = key(3 + number % 2 * 5, u64::from(number) * 100, i64::from(number) * 1000 + 500);
        files.add(&StdDisk, &key).unwrap();
    }
    assert_eq!(files.positions().len(), 3, "seven items fit in a file");
    assert_eq!(found(&mut files, &lookup(8)), [1900, 1700, 1500, 1300, 1100, 900, 700, 500, 300, 100]);
    assert_eq!(found(&mut files, &KeyLookup { records_max: 3, ..lookup(3) }), [1800, 1600, 1400]);
    let window = KeyLookup { begin_ms: 4500, end_ms: 10_500, ..lookup(3) };
    assert_eq!(found(&mut files, &window), [1000, 800, 600, 400]);
    assert!(found(&mut files, &lookup(13)).is_empty());
}

#[test]
fn slots_rebuilt_from_items_equal_those_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = open(dir.path(), Vec::new(), Slots::Read);
    for number in 0..5 {
        files.add(&StdDisk, &key(number * 3, u64::from(number), 1000)).unwrap();
    }
    files.write_all().unwrap();
    let known = files.positions();
    let path = dir.path().join("index").join(&known[0].name);
    let before = std::fs::read(&path).unwrap();
    // What is added now is not in the snapshot that a start goes on from.
    files.add(&StdDisk, &key(3, 99, 1000)).unwrap();
    files.write_all().unwrap();
    drop(files);
    std::fs::write(dir.path().join("index/20990101000000000"), b"not known").unwrap();
    let mut files = open(dir.path(), known.clone(), Slots::Rebuild);
    files.cut().unwrap();
    files.write_all().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(found(&mut files, &lookup(3)), [1]);
    drop(files);
    let mut files = open(dir.path(), known, Slots::Read);
    files.write_all().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path().join("index")).unwrap().count(), 1);
}

#[test]
fn names_are_utc_and_always_later() {
    assert_eq!(utc_digits(0), "19700101000000000");
    assert_eq!(utc_digits(951_782_400_000), "20000229000000000");
    assert_eq!(utc_digits(1_700_000_000_123), "20231114221320123");
    assert_eq!(utc_digits(4_102_444_799_999), "20991231235959999");
    assert_eq!(next_name(0, Some("20231114221320123")), "20231114221320124");
    assert_eq!(next_name(0, None), "19700101000000000");
}
