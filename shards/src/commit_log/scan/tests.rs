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

/// A log of records in two segments, written by hand.
struct Log {
    dir: TempDir,
    segments: Vec<PhysicalOffset>,
    records: Vec<(PhysicalOffset, usize)>,
    end: PhysicalOffset,
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
        let body = vec![b'b'; body_bytes];
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
            body: &body,
            properties: b"",
        };
        let mut record = BytesMut::new();
        let size = fields.encode(&mut record).unwrap();
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
        }
    }

    fn scan(&self) -> Result<(Vec<PhysicalOffset>, ScanEnd), ScanError> {
        let mut seen = Vec::new();
        let end = scan(&StdDisk, &self.as_scanned(), PhysicalOffset::ZERO, &mut |record| {
            seen.push(record.physical_offset());
            Ok::<_, ScanError>(())
        })?;
        Ok((seen, end))
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
    let sink = &mut |_: &RecordView<'_>| Ok::<_, ScanError>(());
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
fn good_records_behind_the_window_make_it_damage() {
    let log = Log::with_records(60, 1000);
    let (bad_at, _) = log.records[15];
    log.write(bad_at.plus(100), b"X");
    let error = log.scan().unwrap_err();
    let ScanError::Corrupt { at, file_offset, good_at, ref path, .. } = error else { panic!("{error}") };
    assert_eq!((at, file_offset), (bad_at, bad_at.get()));
    assert!(good_at.get() >= bad_at.get() + WINDOW_BYTES);
    assert!(path.ends_with("00000000000000000000"), "{error}");
}

#[test]
fn a_zeroed_hole_with_a_good_next_segment_is_damage() {
    let log = Log::with_records(300, 1000);
    let (second_start, _) = *log.records.iter().find(|(start, _)| start.get() >= SEGMENT_BYTES).unwrap();
    let from = log.records[10].0;
    log.write(from, &vec![0; usize::try_from(SEGMENT_BYTES - from.get()).unwrap()]);
    let error = log.scan().unwrap_err();
    assert!(matches!(error, ScanError::Corrupt { good_at, .. } if good_at == second_start), "{error}");
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
