//! The real log half on a real executor and real files: append, stop or die, read back.

mod plain_record;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use plain_record::encode_plain;
use runtime::executor::{Backend, CoreSpec, start_core, write_probe_file};
use runtime::host::allowed_cpus;
use runtime::task::{Signal, spawn};
use shards::append::{AppendBatch, AppendOutcome, AppendRefusal, Committed, Placement};
use shards::commit_log::RecoveredLog;
use shards::commit_log::scan::{
    ScanEnd, ScanError, ScanLog, Scanned, UNSYNCED_MARKER, scan, torn_window_bytes,
};
use shards::io::block::BlockPool;
use shards::io::disk::StdDisk;
use shards::limits::SEGMENT_BYTES_MIN;
use shards::log_shard::{FlushMode, LogError, LogShard, LogShardConfig};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::segment::list_segments;

const BODY_BYTES: usize = 100_000;

fn batch(first: u64, count: u32) -> AppendBatch {
    let mut records = BytesMut::new();
    for index in first..first + u64::from(count) {
        let mut body = vec![b'.'; BODY_BYTES];
        body[..8].copy_from_slice(&index.to_be_bytes());
        encode_plain(&mut records, "topic", u32::try_from(index % 3).unwrap(), b"KEYS\x01k\x02", &body);
    }
    AppendBatch { records: records.freeze(), count }
}

/// Runs `main` with an open log on an executor of its own, until `main` ends; then the executor dies, whatever is
/// under way.
fn on_a_core<F>(
    root: &Path,
    flush: FlushMode,
    main: impl FnOnce(Rc<LogShard>, Rc<Commits>) -> F + Send + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let dir = root.join("commitlog");
    std::fs::create_dir_all(&dir).unwrap();
    let recovered = recover(root).0;
    let spec = CoreSpec {
        backend: Backend::best(),
        name: "test".into(),
        cpu: allowed_cpus().unwrap()[0],
        ring_depth: 128,
        spin: Duration::ZERO,
        locked_memory_bytes: 1 << 20,
        probe_file: write_probe_file(root).unwrap(),
    };
    let config = LogShardConfig { dir, segment_bytes: SEGMENT_BYTES_MIN, disk_reserve_bytes: 0, flush };
    let core = start_core(spec, move || async move {
        let pool = BlockPool::new(1 << 20, 8);
        let shard = LogShard::open(recovered, config, pool).await.unwrap();
        let commits = Rc::new(Commits::default());
        let running = Rc::clone(&shard);
        let seen = Rc::clone(&commits);
        spawn(async move {
            running.run(async |committed| seen.add(committed)).await;
            seen.ended.set(true);
            seen.arrived.raise();
        });
        main(shard, commits).await;
    });
    core.unwrap().join().unwrap().unwrap();
}

#[derive(Default)]
struct Commits {
    outcomes: RefCell<Vec<AppendOutcome>>,
    confirm_offset: Cell<PhysicalOffset>,
    ended: Cell<bool>,
    arrived: Signal,
}

impl Commits {
    fn add(&self, committed: Committed) {
        assert!(committed.confirm_offset >= self.confirm_offset.get(), "what is confirmed stays so");
        self.confirm_offset.set(committed.confirm_offset);
        self.outcomes.borrow_mut().extend(committed.outcomes);
        self.arrived.raise();
    }

    async fn wait_for(&self, count: usize) {
        while self.outcomes.borrow().len() < count {
            self.arrived.wait().await;
        }
    }

    async fn wait_for_end(&self) {
        while !self.ended.get() {
            self.arrived.wait().await;
        }
    }

    fn placements(&self) -> Vec<Placement> {
        let placement = |outcome: &AppendOutcome| match outcome {
            AppendOutcome::Placed(placement) => *placement,
            AppendOutcome::Refused(refusal) => panic!("{refusal}"),
        };
        self.outcomes.borrow().iter().map(placement).collect()
    }
}

/// The log as a scan from its start finds it, and number and place of each record.
fn recover(root: &Path) -> (RecoveredLog, Vec<(u64, Placement)>) {
    let dir = root.join("commitlog");
    let segments = list_segments(&StdDisk, &dir, SEGMENT_BYTES_MIN).unwrap();
    let log = ScanLog {
        dir: &dir,
        segments: &segments,
        segment_bytes: SEGMENT_BYTES_MIN,
        torn_window_bytes: torn_window_bytes(&StdDisk, root).unwrap(),
        durable_to: PhysicalOffset::ZERO,
        is_in_use: false,
    };
    let mut found = Vec::new();
    let mut next = [0_u64; 3];
    let ScanEnd { end, tail_page, torn } = scan(&StdDisk, &log, PhysicalOffset::ZERO, &mut |scanned| {
        let Scanned::Record(record) = scanned else { panic!("damaged: {scanned:?}") };
        let index = u64::from_be_bytes(record.body()[..8].try_into().unwrap());
        assert_eq!(record.queue_offset().get(), next[record.queue_id() as usize], "queue offsets are dense");
        next[record.queue_id() as usize] += 1;
        let placement = Placement {
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            store_timestamp_ms: record.store_timestamp_ms(),
        };
        found.push((index, placement));
        Ok::<_, ScanError>(())
    })
    .unwrap();
    if let Some(torn) = torn {
        shards::commit_log::scan::cut(&StdDisk, &log, &torn).unwrap();
    }
    let queue_offsets =
        (0..3).map(|queue| ("topic".to_owned(), queue, QueueOffset::new(next[queue as usize]))).collect();
    let last_store_timestamp_ms = found.last().map_or(0, |(_, placement)| placement.store_timestamp_ms);
    (RecoveredLog { segments, end, tail_page, queue_offsets, last_store_timestamp_ms }, found)
}

fn store() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn what_is_delivered_is_read_back_over_several_segments_and_restarts() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let root = store();
        for round in 0..3 {
            let delivered = Arc::new(Mutex::new(Vec::new()));
            let deliver_to = Arc::clone(&delivered);
            let marker = root.path().join(UNSYNCED_MARKER);
            let is_async = flush == FlushMode::Async;
            on_a_core(root.path(), flush, move |shard, commits| async move {
                assert_eq!(marker.exists(), is_async);
                for index in 0..40 {
                    shard.append(batch(round * 200 + index * 5, 5));
                    if index % 8 == 0 {
                        commits.wait_for(usize::try_from(index * 5).unwrap()).await;
                    }
                }
                shard.stop();
                shard.append(batch(0, 1));
                commits.wait_for_end().await;
                let stopped = commits.outcomes.borrow_mut().pop();
                assert_eq!(stopped, Some(AppendOutcome::Refused(AppendRefusal::Stopping)));
                let status = shard.status();
                assert_eq!((status.failed, status.disk_full), (None, None));
                assert_eq!(status.placed_end, commits.confirm_offset.get());
                *deliver_to.lock().unwrap() = commits.placements();
                assert!(!marker.exists(), "after a clean end nothing is undurable");
            });
            let delivered = delivered.lock().unwrap();
            assert_eq!(delivered.len(), 200);
            let (recovered, found) = recover(root.path());
            assert_eq!(found.len(), usize::try_from((round + 1) * 200).unwrap());
            assert!(recovered.segments.len() > 1);
            for (index, placement) in delivered.iter().enumerate() {
                let index = round * 200 + index as u64;
                assert_eq!(found[usize::try_from(index).unwrap()], (index, *placement));
            }
        }
    }
}

#[test]
fn a_core_that_dies_at_work_loses_nothing_that_was_delivered() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let root = store();
        let mut before = Vec::new();
        for round in 0..4_u64 {
            let delivered = Arc::new(Mutex::new(Vec::new()));
            let deliver_to = Arc::clone(&delivered);
            let first = before.len() as u64;
            on_a_core(root.path(), flush, move |shard, commits| async move {
                for index in 0..50 {
                    shard.append(batch(first + index * 2, 2));
                }
                commits.wait_for(10 + 20 * usize::try_from(round).unwrap()).await;
                *deliver_to.lock().unwrap() = commits.placements();
            });
            let delivered = delivered.lock().unwrap();
            let (_, found) = recover(root.path());
            assert!(found.len() >= before.len() + delivered.len());
            assert_eq!(found[..before.len()], before);
            for (index, placement) in delivered.iter().enumerate() {
                assert_eq!(found[before.len() + index], (first + index as u64, *placement));
            }
            before = found;
        }
    }
}

/// The story: clients had taken all file descriptors when the next segment was due, and the shard was given up for good.
#[test]
fn a_segment_that_cannot_be_made_is_tried_again_and_nothing_is_lost() {
    let root = store();
    let in_the_way = root.path().join(format!("commitlog/{SEGMENT_BYTES_MIN:020}.tmp"));
    on_a_core(root.path(), FlushMode::Sync, move |shard, commits| async move {
        std::fs::create_dir(&in_the_way).unwrap();
        // Three segments' worth.
        for index in 0..100 {
            shard.append(batch(index * 5, 5));
        }
        commits.wait_for(500).await;
        let refused = commits.outcomes.borrow().iter().filter(|outcome| is_no_segment(outcome)).count();
        assert!((1..500).contains(&refused), "{refused} refused");
        assert_eq!(shard.status().failed, None);
        std::fs::remove_dir(&in_the_way).unwrap();
        let mut appended = 500;
        loop {
            shard.append(batch(0, 1));
            appended += 1;
            commits.wait_for(appended).await;
            if matches!(commits.outcomes.borrow().last(), Some(AppendOutcome::Placed(_))) {
                break;
            }
            runtime::task::sleep(Duration::from_millis(100)).await;
        }
        shard.stop();
        commits.wait_for_end().await;
    });
}

fn is_no_segment(outcome: &AppendOutcome) -> bool {
    matches!(outcome, AppendOutcome::Refused(AppendRefusal::NoSegment { .. }))
}

#[test]
fn an_impossible_segment_size_is_refused() {
    let root = store();
    on_a_core(root.path(), FlushMode::Sync, |shard, commits| async move {
        let config = LogShardConfig {
            dir: "/nowhere".into(),
            segment_bytes: 4096,
            disk_reserve_bytes: 0,
            flush: FlushMode::Sync,
        };
        let error = LogShard::open(RecoveredLog::default(), config, BlockPool::new(1 << 20, 1)).await;
        assert!(matches!(error, Err(LogError::SegmentBytes { segment_bytes: 4096 })));
        shard.stop();
        commits.wait_for_end().await;
    });
}
