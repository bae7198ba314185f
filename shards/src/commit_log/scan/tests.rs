//! How a log's end is judged.

use bytes::BytesMut;
use tempfile::TempDir;

use super::*;
use crate::append::Placement;
use crate::io::disk::StdDisk;
use crate::position::QueueOffset;
use crate::record::{MAGIC_BLANK, RecordFields, place};

const SEGMENT_BYTES: u64 = 256 << 10;
const WINDOW_BYTES: u64 = 16 << 10;

/// What a scan passes: good records; damaged stretches, with the queue offset of the record that each looks like; the end.
type Passed = (Vec<PhysicalOffset>, Vec<(PhysicalOffset, PhysicalOffset, Option<u64>)>, ScanEnd);

/// A log of records in two segments, written by hand.
struct Log {
    dir: TempDir,
    segments: Vec<PhysicalOffset>,
    records: Vec<(PhysicalOffset, usize)>,
    end: PhysicalOffset,
}

/// A record, placement fields still empty.
fn encoded(body: &[u8]) -> BytesMut {
    let host = "127.0.0.1:1".parse().unwrap();
    let fields = RecordFields {
        topic: "t",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: b"",
    };
    let mut record = BytesMut::new();
    fields.encode(&mut record).unwrap();
    record
}

impl Log {
    fn with_records(count: u64, body_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let segments = vec![PhysicalOffset::ZERO, PhysicalOffset::new(SEGMENT_BYTES)];
        for start in &segments {
            let file = StdDisk.open_or_create(&segment_path(dir.path(), *start)).unwrap();
            DiskFile::set_len(&file, SEGMENT_BYTES).unwrap();
        }
        let mut log = Self { dir, segments, records: Vec::new(), end: PhysicalOffset::ZERO };
        for index in 0..count {
            log.append(index, body_bytes);
        }
        log
    }

    fn append(&mut self, index: u64, body_bytes: usize) {
        let mut record = encoded(&vec![b'b'; body_bytes]);
        let size = record.len();
        let rest = SEGMENT_BYTES - self.end.get() % SEGMENT_BYTES;
        if size as u64 + 8 > rest {
            let mut blank = u32::try_from(rest).unwrap().to_be_bytes().to_vec();
            blank.extend_from_slice(&MAGIC_BLANK.to_be_bytes());
            self.write(self.end, &blank);
            self.end = self.end.plus(rest);
        }
        let placement = Placement {
            queue_offset: QueueOffset::new(index),
            physical_offset: self.end,
            store_timestamp_ms: 5,
        };
        place(&mut record, &placement);
        self.write(self.end, &record);
        self.records.push((self.end, size));
        self.end = self.end.plus(size as u64);
    }

    fn write(&self, at: PhysicalOffset, bytes: &[u8]) {
        let start = segment_start(at, SEGMENT_BYTES);
        let file = StdDisk.open(&segment_path(self.dir.path(), start)).unwrap();
        DiskFile::write_all_at(&file, bytes, at.since(start)).unwrap();
    }

    fn as_scanned(&self) -> ScanLog<'_> {
        ScanLog {
            dir: self.dir.path(),
            segments: &self.segments,
            segment_bytes: SEGMENT_BYTES,
            torn_window_bytes: WINDOW_BYTES,
            durable_to: PhysicalOffset::ZERO,
            is_in_use: false,
        }
    }

    /// A scan of a log that nothing is known of and that is not damaged.
    fn scan(&self) -> Result<(Vec<PhysicalOffset>, ScanEnd), ScanError> {
        let (seen, damaged, end) = self.scan_damaged(PhysicalOffset::ZERO)?;
        assert_eq!(damaged, [], "nothing is damaged");
        Ok((seen, end))
    }

    fn scan_damaged(&self, durable_to: PhysicalOffset) -> Result<Passed, ScanError> {
        let (mut seen, mut damaged) = (Vec::new(), Vec::new());
        let log = ScanLog { durable_to, ..self.as_scanned() };
        let end = scan(&StdDisk, &log, PhysicalOffset::ZERO, &mut |scanned| {
            match scanned {
                Scanned::Record(record) => seen.push(record.physical_offset()),
                Scanned::Damaged(Damage { range, resembles, .. }) => {
                    damaged.push((range.from, range.to, resembles.map(|record| record.queue_offset().get())));
                }
            }
            Ok::<_, ScanError>(())
        })?;
        Ok((seen, damaged, end))
    }

    /// The starts of all records but those.
    fn starts_without(&self, without: std::ops::Range<usize>) -> Vec<PhysicalOffset> {
        let all = self.records.iter().enumerate();
        all.filter(|(index, _)| !without.contains(index)).map(|(_, (start, _))| *start).collect()
    }

    fn starts(&self, count: usize) -> Vec<PhysicalOffset> {
        self.records[..count].iter().map(|(start, _)| *start).collect()
    }
}

#[test]
fn a_clean_log_is_read_over_the_end_of_a_segment() {
    let log = Log::with_records(400, 1000);
    assert!(log.end.get() > SEGMENT_BYTES);
    let (seen, end) = log.scan().unwrap();
    assert_eq!(seen, log.starts(400));
    assert_eq!((end.end, &end.torn), (log.end, &None));
    assert_eq!(end.tail_page.len() as u64, log.end.get() % 4096);
    assert!(end.tail_page.ends_with(b"\x02"), "the end of the last record's CRC property");
}

#[test]
fn an_empty_log_ends_where_it_starts() {
    let log = Log::with_records(0, 0);
    let (seen, end) = log.scan().unwrap();
    assert!(seen.is_empty());
    assert_eq!(end, ScanEnd { end: PhysicalOffset::ZERO, tail_page: Vec::new(), torn: None });
    let nothing = ScanLog { segments: &[], ..log.as_scanned() };
    let sink = &mut |_: Scanned<'_>| Ok::<_, ScanError>(());
    assert_eq!(scan(&StdDisk, &nothing, PhysicalOffset::ZERO, sink).unwrap().end, PhysicalOffset::ZERO);
    let outside = scan(&StdDisk, &nothing, PhysicalOffset::new(1), sink).unwrap_err();
    assert!(matches!(outside, ScanError::FromOutside { .. }));
}

#[test]
fn a_torn_tail_is_cut_and_then_clean() {
    let log = Log::with_records(20, 1000);
    let (torn_at, _) = log.records[15];
    log.write(torn_at.plus(600), &[0; 512]);
    let (seen, end) = log.scan().unwrap();
    assert_eq!(seen, log.starts(15));
    let torn = end.torn.expect("records of the torn write are behind");
    assert_eq!((torn.from, end.end), (torn_at, torn_at));
    assert!(torn.to >= log.end);
    cut(&StdDisk, &log.as_scanned(), &torn).unwrap();
    let (seen, end) = log.scan().unwrap();
    assert_eq!((seen, end.torn), (log.starts(15), None));
}

#[test]
fn the_unwritten_rest_of_a_large_record_is_a_torn_tail() {
    let mut log = Log::with_records(3, 1000);
    log.append(3, 100_000);
    log.append(4, 1000);
    let (large_at, _) = log.records[3];
    // The write under way held the end of the large record and the one behind; of these only the latter arrived.
    log.write(large_at.plus(90_000), &[0; 8192]);
    let (seen, end) = log.scan().unwrap();
    assert_eq!(seen, log.starts(3));
    assert!(end.torn.expect("torn").to >= log.end);
}

#[test]
fn good_records_behind_the_window_make_it_damage_that_is_passed_over() {
    let log = Log::with_records(60, 1000);
    let (bad_at, size) = log.records[15];
    log.write(bad_at.plus(200), b"X");
    let (seen, damaged, end) = log.scan_damaged(PhysicalOffset::ZERO).unwrap();
    assert_eq!(seen, log.starts_without(15..16));
    assert_eq!(damaged, [(bad_at, bad_at.plus(size as u64), Some(15))]);
    assert_eq!((end.end, end.torn), (log.end, None), "nothing is cut");
}

#[test]
fn records_behind_a_damaged_head_are_found() {
    let log = Log::with_records(60, 1000);
    for (at_byte, bytes) in [(0, &[0xFF, 0, 0, 0][..]), (2, &[1]), (4, &[0]), (30, &[1]), (0, &[0; 700])] {
        let (bad_at, size) = log.records[15];
        let mut before = vec![0; size];
        let file = StdDisk.open(&segment_path(log.dir.path(), PhysicalOffset::ZERO)).unwrap();
        DiskFile::read_exact_at(&file, &mut before, bad_at.get()).unwrap();
        log.write(bad_at.plus(at_byte), bytes);
        let (seen, damaged, end) = log.scan_damaged(PhysicalOffset::ZERO).unwrap();
        assert_eq!(seen, log.starts_without(15..16), "{at_byte}");
        assert_eq!(damaged, [(bad_at, bad_at.plus(size as u64), None)], "{at_byte}");
        assert_eq!((end.end, end.torn), (log.end, None));
        log.write(bad_at, &before);
    }
}

#[test]
fn several_damaged_places_are_told_one_by_one_and_a_torn_tail_behind_them_is_cut() {
    let log = Log::with_records(100, 1000);
    for index in [3, 4, 40, 98] {
        log.write(log.records[index].0.plus(500), b"XX");
    }
    let (seen, damaged, end) = log.scan_damaged(PhysicalOffset::ZERO).unwrap();
    assert_eq!(
        damaged.iter().map(|(_, _, offset)| *offset).collect::<Vec<_>>(),
        [Some(3), Some(4), Some(40)]
    );
    assert_eq!(seen.len(), 95);
    let torn = end.torn.expect("the last flush may have torn record 98");
    assert_eq!(torn.from, log.records[98].0);
}

#[test]
fn a_zeroed_hole_with_a_good_next_segment_is_damage() {
    let log = Log::with_records(300, 1000);
    let second = log.records.iter().position(|(start, _)| start.get() >= SEGMENT_BYTES).unwrap();
    let from = log.records[10].0;
    log.write(from, &vec![0; usize::try_from(SEGMENT_BYTES - from.get()).unwrap()]);
    let (seen, damaged, end) = log.scan_damaged(PhysicalOffset::ZERO).unwrap();
    assert_eq!(seen, log.starts_without(10..second));
    assert_eq!(damaged, [(from, PhysicalOffset::new(SEGMENT_BYTES), None)]);
    assert_eq!((end.end, end.torn), (log.end, None));
}

#[test]
fn what_is_known_to_have_been_durable_is_damaged_and_never_torn() {
    let log = Log::with_records(20, 1000);
    let (last_at, _) = log.records[19];
    log.write(last_at.plus(500), b"X");
    let (seen, damaged, end) = log.scan_damaged(log.end).unwrap();
    assert_eq!((seen, end.end, end.torn), (log.starts(19), log.end, None));
    assert_eq!(damaged, [(last_at, log.end, Some(19))]);
    assert_eq!(end.tail_page.len() as u64, log.end.get() % 4096, "the next record goes behind it");

    // The head is gone too: the log goes on where the mark is.
    log.write(last_at, &[0xEE; 300]);
    let (_, damaged, end) = log.scan_damaged(log.end).unwrap();
    assert_eq!((damaged, end.end), (vec![(last_at, log.end, None)], log.end));

    // Without the mark it may be the rest of a flush.
    let (seen, damaged, end) = log.scan_damaged(last_at).unwrap();
    assert_eq!((seen, damaged), (log.starts(19), Vec::new()));
    assert_eq!(end.torn.expect("torn").from, last_at);
}

#[test]
fn an_older_log_than_the_mark_ends_where_its_records_do() {
    let log = Log::with_records(20, 1000);
    let (seen, damaged, end) = log.scan_damaged(log.end.plus(10_000)).unwrap();
    assert_eq!((seen, damaged), (log.starts(20), Vec::new()));
    assert_eq!((end.end, end.torn), (log.end, None));
}

#[test]
fn a_body_that_looks_like_records_is_no_place_to_go_on() {
    let mut log = Log::with_records(10, 1000);
    // The body of the damaged record is a good record for the place where it lies.
    let inner = Log::with_records(1, 500);
    let (_, inner_size) = inner.records[0];
    log.append(10, inner_size);
    let (outer_at, outer_size) = log.records[10];
    let body_at = outer_at.plus(88);
    let mut fake = encoded(b"fake");
    let placement =
        Placement { queue_offset: QueueOffset::new(10), physical_offset: body_at, store_timestamp_ms: 5 };
    place(&mut fake, &placement);
    log.write(body_at, &fake);
    for index in 11..60 {
        log.append(index, 1000);
    }
    let (seen, damaged, _) = log.scan_damaged(PhysicalOffset::ZERO).unwrap();
    assert_eq!(seen, log.starts_without(10..11));
    assert_eq!(damaged.len(), 1);
    assert_eq!((damaged[0].0, damaged[0].1), (outer_at, outer_at.plus(outer_size as u64)));
}

#[test]
fn a_record_with_the_offset_of_another_place_does_not_count() {
    let log = Log::with_records(20, 1000);
    let (first, size) = log.records[0];
    let file = StdDisk.open(&segment_path(log.dir.path(), PhysicalOffset::ZERO)).unwrap();
    let mut copy = vec![0; size];
    DiskFile::read_exact_at(&file, &mut copy, first.get()).unwrap();
    log.write(log.end, &copy);
    let (seen, end) = log.scan().unwrap();
    assert_eq!(seen.len(), 20);
    assert!(end.torn.expect("torn").reason.contains("belongs to log offset 0"));
}

#[test]
fn the_window_is_wider_when_the_shard_was_flushed_lazily() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(torn_window_bytes(&StdDisk, dir.path()).unwrap(), FLUSH_BYTES_MAX as u64);
    std::fs::write(dir.path().join(UNSYNCED_MARKER), b"").unwrap();
    assert_eq!(torn_window_bytes(&StdDisk, dir.path()).unwrap(), UNSYNCED_BYTES_MAX);
}
