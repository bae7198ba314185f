//! Arithmetic of placement and flushing.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::append::AppendOutcome;
use crate::record::RecordFields;

const SEGMENT_BYTES: u64 = 64 << 10;
const FLUSH_BYTES_MAX: usize = 16 << 10;

fn log_with_segments(count: u64) -> CommitLog {
    let recovered = RecoveredLog {
        segments: (0..count).map(|index| PhysicalOffset::new(index * SEGMENT_BYTES)).collect(),
        ..RecoveredLog::default()
    };
    let config = CommitLogConfig { segment_bytes: SEGMENT_BYTES, flush_bytes_max: FLUSH_BYTES_MAX };
    CommitLog::new(recovered, config, BlockPool::new(32 << 10, 4))
}

fn batch(records: &[(u32, usize)]) -> AppendBatch {
    let mut out = BytesMut::new();
    for (queue_id, body_bytes) in records {
        let host = "127.0.0.1:1".parse().unwrap();
        let fields = RecordFields {
            topic: "topic",
            queue_id: *queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &vec![b'x'; *body_bytes],
            properties: b"",
        };
        fields.encode(&mut out).unwrap();
    }
    AppendBatch { records: out.freeze(), count: u32::try_from(records.len()).unwrap() }
}

fn disk_full() -> AppendRefusal {
    AppendRefusal::DiskFull { path: "/store".into(), free_bytes: 1, needed_bytes: 2 }
}

fn placements(committed: &Committed) -> Vec<Placement> {
    committed
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            AppendOutcome::Placed(placement) => *placement,
            AppendOutcome::Refused(refusal) => panic!("{refusal}"),
        })
        .collect()
}

fn flush_all(log: &mut CommitLog, disk: &mut Vec<u8>) {
    while let Some(plan) = log.plan_flush() {
        flush(log, &plan, disk);
    }
}

fn flush(log: &mut CommitLog, plan: &FlushPlan, disk: &mut Vec<u8>) {
    let mut buffer = vec![0xEE; plan.bytes];
    log.fill(plan, &mut buffer);
    let start = usize::try_from(plan.start.get()).unwrap();
    if disk.len() < start + plan.bytes {
        disk.resize(start + plan.bytes, 0);
    }
    let rewritten = usize::try_from(plan.from.since(plan.start)).unwrap();
    assert_eq!(
        disk[start..start + rewritten],
        buffer[..rewritten],
        "a rewritten page begins with its own bytes"
    );
    disk[start..start + plan.bytes].copy_from_slice(&buffer);
    log.flushed(plan);
}

/// The records in `disk`, by walking over them and over the BLANKs.
fn records(disk: &[u8], end: PhysicalOffset) -> Vec<RecordView<'_>> {
    let mut records = Vec::new();
    let mut at = 0;
    let end = usize::try_from(end.get()).unwrap();
    while at < end {
        match RecordView::parse(&disk[at..]) {
            Ok(record) => {
                record.verify_crc().unwrap();
                assert_eq!(record.physical_offset().get(), at as u64);
                at += record.total_size();
                records.push(record);
            }
            Err(crate::record::RecordError::Blank { size_bytes }) => {
                at += usize::try_from(size_bytes).unwrap();
                assert_eq!(at as u64 % SEGMENT_BYTES, 0, "a BLANK reaches to the end of its file");
            }
            Err(error) => panic!("at {at}: {error}"),
        }
    }
    records
}

#[test]
fn results_come_after_the_flush_that_holds_the_record() {
    let mut log = log_with_segments(1);
    let mut disk = Vec::new();
    log.append(batch(&[(0, 100), (0, 100)]), 1000);
    assert!(log.take_committed().is_none());
    let plan = log.plan_flush().unwrap();
    assert_eq!((plan.start.get(), plan.bytes), (0, 4096));
    log.append(batch(&[(0, 100)]), 900);
    flush(&mut log, &plan, &mut disk);
    let committed = log.take_committed().unwrap();
    assert_eq!(committed.new_blocks.len(), 1);
    let placed = placements(&committed);
    assert_eq!(placed.iter().map(|placed| placed.queue_offset.get()).collect::<Vec<_>>(), [0, 1]);
    assert!(log.take_committed().is_none(), "the third is not flushed");
    assert!(!log.is_idle());
    flush_all(&mut log, &mut disk);
    let committed = log.take_committed().unwrap();
    assert_eq!(committed.new_blocks.len(), 0, "the block is known");
    assert_eq!(placements(&committed)[0].store_timestamp_ms, 1000, "time never goes back");
    assert!(log.is_idle());
    assert_eq!(records(&disk, log.flushed_end()).len(), 3);
}

#[test]
fn a_refusal_waits_for_the_records_before_it() {
    let mut log = log_with_segments(1);
    let mut disk = Vec::new();
    log.append(batch(&[(0, 40_000)]), 1);
    log.append(batch(&[(0, 40_000), (0, 100)]), 1);
    log.segment_missing(disk_full(), 1);
    assert!(log.take_committed().is_none());
    flush_all(&mut log, &mut disk);
    let committed = log.take_committed().unwrap();
    assert!(matches!(committed.outcomes[0], AppendOutcome::Placed(_)));
    assert_eq!(committed.outcomes[1], AppendOutcome::Refused(disk_full()));
    let AppendOutcome::Placed(small) = committed.outcomes[2] else { panic!("a small one still fits") };
    assert_eq!(small.queue_offset.get(), 1, "a refused record takes no queue offset");
    log.segment_ready(2);
    log.append(batch(&[(0, 40_000)]), 2);
    flush_all(&mut log, &mut disk);
    let placed = placements(&log.take_committed().unwrap());
    assert_eq!((placed[0].queue_offset.get(), placed[0].physical_offset.get()), (2, SEGMENT_BYTES));
    assert_eq!(records(&disk, log.flushed_end()).len(), 3);
}

#[test]
fn records_wait_for_a_segment_that_is_being_made() {
    let mut log = log_with_segments(1);
    let mut disk = Vec::new();
    log.append(batch(&[(0, 40_000), (0, 40_000), (1, 10)]), 1);
    log.append(batch(&[(1, 10)]), 1);
    flush_all(&mut log, &mut disk);
    assert_eq!(placements(&log.take_committed().unwrap()).len(), 1);
    log.segment_ready(7);
    flush_all(&mut log, &mut disk);
    let placed = placements(&log.take_committed().unwrap());
    assert_eq!(placed.iter().map(|placed| placed.queue_offset.get()).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(placed[0].store_timestamp_ms, 7);
}

#[test]
fn after_a_failure_everything_is_refused_and_nothing_is_flushed() {
    let mut log = log_with_segments(1);
    log.append(batch(&[(0, 100), (0, 60_000), (0, 60_000)]), 1);
    let plan = log.plan_flush().unwrap();
    assert!(plan.bytes > 0);
    log.fail("write error".into());
    log.append(batch(&[(0, 100)]), 1);
    log.segment_ready(1);
    let committed = log.take_committed().unwrap();
    assert_eq!(committed.outcomes.len(), 4);
    let refused = AppendOutcome::Refused(AppendRefusal::ShardFailed { reason: "write error".into() });
    assert!(committed.outcomes.iter().all(|outcome| *outcome == refused));
    assert_eq!((committed.confirm_offset, committed.new_blocks.len()), (PhysicalOffset::ZERO, 0));
    assert!(log.plan_flush().is_none());
    assert!(log.is_idle());
}

#[test]
fn closing_flushes_what_is_placed_and_refuses_the_rest() {
    let mut log = log_with_segments(1);
    let mut disk = Vec::new();
    log.append(batch(&[(0, 60_000), (0, 60_000)]), 1);
    log.close(AppendRefusal::Stopping);
    log.append(batch(&[(0, 1)]), 1);
    flush_all(&mut log, &mut disk);
    let outcomes = log.take_committed().unwrap().outcomes;
    assert!(matches!(outcomes[0], AppendOutcome::Placed(_)));
    assert_eq!(outcomes[1..], [const { AppendOutcome::Refused(AppendRefusal::Stopping) }; 2]);
    assert!(log.is_idle());
}

#[test]
fn a_record_larger_than_a_flush_goes_out_in_parts_and_is_confirmed_whole() {
    let mut log = log_with_segments(1);
    let mut disk = Vec::new();
    log.append(batch(&[(0, 10), (0, 50_000)]), 1);
    let plan = log.plan_flush().unwrap();
    assert_eq!(plan.bytes, FLUSH_BYTES_MAX);
    flush(&mut log, &plan, &mut disk);
    let first = log.take_committed().unwrap();
    assert_eq!(first.outcomes.len(), 1);
    assert_eq!(
        first.confirm_offset.get(),
        records(&disk[..200], PhysicalOffset::new(1))[0].total_size() as u64
    );
    flush_all(&mut log, &mut disk);
    assert_eq!(log.take_committed().unwrap().confirm_offset, log.placed_end());
    assert_eq!(records(&disk, log.flushed_end()).len(), 2);
}

proptest! {
    /// Whatever is appended, and whenever flushes start and end: the disk holds the same records as the blocks, queue
    /// offsets are dense, results come once and in order, and a log that goes on from a recovered end writes on
    /// behind it.
    #[test]
    fn disk_and_blocks_hold_the_same_records(
        steps in proptest::collection::vec((0_u32..3, 0_usize..30_000, 0_u8..4), 1..120),
        restart_at in 0_usize..120,
    ) {
        let mut log = log_with_segments(200);
        let mut disk = Vec::new();
        let mut blocks: Vec<TailBlock> = Vec::new();
        let mut placed = Vec::new();
        let mut under_way: Option<FlushPlan> = None;
        let mut appended = 0;
        for (index, (queue_id, body_bytes, action)) in steps.iter().enumerate() {
            if index == restart_at {
                if let Some(plan) = under_way.take() {
                    flush(&mut log, &plan, &mut disk);
                }
                flush_all(&mut log, &mut disk);
                if let Some(committed) = log.take_committed() {
                    blocks.extend(committed.new_blocks.clone());
                    placed.extend(placements(&committed));
                }
                let end = log.flushed_end();
                let found = records(&disk, end);
                let queue_offsets = (0..3)
                    .map(|queue| {
                        let count = found.iter().filter(|record| record.queue_id() == queue).count() as u64;
                        ("topic".to_owned(), queue, QueueOffset::new(count))
                    })
                    .collect();
                let page = usize::try_from(page_floor(end).get()).unwrap();
                let recovered = RecoveredLog {
                    segments: (0..200).map(|index| PhysicalOffset::new(index * SEGMENT_BYTES)).collect(),
                    end,
                    tail_page: disk[page.min(disk.len())..usize::try_from(end.get()).unwrap()].to_vec(),
                    queue_offsets,
                    last_store_timestamp_ms: 5,
                };
                log = CommitLog::new(recovered, log.config, BlockPool::new(32 << 10, 2));
            }
            log.append(batch(&[(*queue_id, *body_bytes)]), 5);
            appended += 1;
            match (action, under_way.take()) {
                (0, plan) => under_way = plan,
                (_, Some(plan)) => flush(&mut log, &plan, &mut disk),
                (_, None) => under_way = log.plan_flush(),
            }
            if let Some(committed) = log.take_committed() {
                blocks.extend(committed.new_blocks.clone());
                placed.extend(placements(&committed));
            }
        }
        if let Some(plan) = under_way.take() {
            flush(&mut log, &plan, &mut disk);
        }
        flush_all(&mut log, &mut disk);
        if let Some(committed) = log.take_committed() {
            prop_assert_eq!(committed.confirm_offset, log.placed_end());
            blocks.extend(committed.new_blocks.clone());
            placed.extend(placements(&committed));
        }
        prop_assert!(log.is_idle());
        prop_assert_eq!(placed.len(), appended);
        let on_disk = records(&disk, log.flushed_end());
        prop_assert_eq!(on_disk.len(), appended);
        let mut next = [0; 3];
        for (record, placement) in on_disk.iter().zip(&placed) {
            prop_assert_eq!(record.physical_offset(), placement.physical_offset);
            prop_assert_eq!(record.queue_offset(), placement.queue_offset);
            let next = &mut next[record.queue_id() as usize];
            prop_assert_eq!(record.queue_offset().get(), *next);
            *next += 1;
            let block = blocks.iter().rfind(|block| block.start() <= record.physical_offset()).unwrap();
            prop_assert_eq!(block.bytes(record.physical_offset(), record.total_size()), record.raw());
        }
    }
}
