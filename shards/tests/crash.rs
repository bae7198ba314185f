//! The log on a disk that forgets: stopped at every change that it makes, recovered, used again, stopped again.
//!
//! The production code for placement, flush planning, scan and cut runs on [`disk_model`]; only the driver is this
//! file's. An oracle knows what was placed and what was acknowledged, and checks after every recovery:
//! - every acknowledged record is there, at the place and with the queue offset that its producer was told;
//! - what is there is a first part of what was placed, with nothing else in between or behind;
//! - queue offsets go on where they were, and no rest of a torn write ever comes back;
//! - after a recovery of the whole shard, the ConsumeQueues on the disk say exactly what the log does.
//!
//! Half of the histories recover the whole shard as a start does. The others recover the log alone, with a torn
//! window as small as their flushes are, so that a crash that looks like damage would show.

mod disk_model;
mod plain_record;

use std::io;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use plain_record::encode_plain;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::append::{AppendBatch, AppendOutcome, Placement};
use shards::commit_log::RecoveredLog;
use shards::commit_log::scan::{ScanError, ScanLog, UNSYNCED_MARKER, cut, scan};
use shards::commit_log::{CommitLog, CommitLogConfig, PAGE_BYTES};
use shards::index_file::IndexLayout;
use shards::io::block::BlockPool;
use shards::io::disk::{Disk, DiskFile};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::RecordView;
use shards::recovery::{ShardConfig, recover_shard};
use shards::segment::{list_segments, segment_path};

use disk_model::{ModelDisk, Stop};

const SEEDS: u64 = 250;
const SEGMENT_BYTES: u64 = 96 << 10;
const FLUSH_BYTES_MAX: usize = 16 << 10;
const UNSYNCED_BYTES_MAX: u64 = 40 << 10;
const RECORD_BODY_BYTES_MAX: usize = 30_000;
const QUEUES: u32 = 3;
/// So small that files fill up.
const INDEX_LAYOUT: IndexLayout = IndexLayout { slots: 7, items: 20 };
const ENTRY_BYTES: usize = 20;

/// A record that was found, or whose place its producer was told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: u64,
    queue_id: u32,
    bytes: u32,
    placement: Placement,
}

/// What is recovered after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Log,
    Shard,
}

/// A record as the log was given it: its number, its queue, its size.
type Given = (u64, u32, u32);

/// What the outside world knows.
#[derive(Debug, Default)]
struct Oracle {
    /// All records that the log was given, in order, those that were lost with an unfinished write left out.
    given: Vec<Given>,
    /// The first of them, as they were acknowledged: may not be lost in a kill.
    acknowledged: Vec<Known>,
    /// How many of those may not be lost in a power cut.
    durable: usize,
    next_id: u64,
}

impl Oracle {
    /// `found` was recovered after `stop`.
    fn check(&mut self, found: &[Known], stop: Stop) {
        let promised = match stop {
            Stop::Kill => self.acknowledged.len(),
            Stop::PowerCut => self.durable,
        };
        assert!(found.len() >= promised, "after {stop:?} {} records found, {promised} promised", found.len());
        assert!(found.len() <= self.given.len(), "more is found than was ever given");
        let ids: Vec<_> = found.iter().map(|found| (found.id, found.queue_id, found.bytes)).collect();
        assert_eq!(ids, self.given[..found.len()], "what is found is the first part of what was given");
        let both = found.len().min(self.acknowledged.len());
        assert_eq!(found[..both], self.acknowledged[..both], "records are where their producers were told");
        let mut next = [0; QUEUES as usize];
        for found in found {
            let next = &mut next[found.queue_id as usize];
            assert_eq!(found.placement.queue_offset.get(), *next, "queue offsets are dense");
            *next += 1;
        }
        self.given.truncate(found.len());
        self.acknowledged = found.to_vec();
        self.durable = match stop {
            // What the kernel had may still be lost.
            Stop::Kill => self.durable,
            Stop::PowerCut => found.len(),
        };
    }
}

/// One life of the process, from recovery to its end.
struct Process<'a> {
    disk: &'a ModelDisk,
    random: &'a mut StdRng,
    oracle: &'a mut Oracle,
    is_async: bool,
    log: CommitLog,
}

fn log_dir() -> PathBuf {
    PathBuf::from("/shard/commitlog")
}

/// Why a recovery ended: the disk refused, as it does when the machine stops, or the log is said to be damaged, which
/// no crash may lead to.
type Failed = Box<dyn std::error::Error>;

fn recover(disk: &ModelDisk, scope: Scope) -> Result<(RecoveredLog, Vec<Known>), Failed> {
    match scope {
        Scope::Log => Ok(recover_log(disk)?),
        Scope::Shard => {
            let config = ShardConfig { segment_bytes: SEGMENT_BYTES, index: INDEX_LAYOUT };
            let recovered = recover_shard(disk, Path::new("/shard"), &config, &mut |_| {})?;
            let changes = disk.operations();
            let (log, found) = recover_log(disk)?;
            assert_eq!(disk.operations(), changes, "recovery leaves nothing to cut");
            assert_eq!(recovered.log.end, log.end, "the log ends where recovery says");
            check_consume_queues(disk, &found)?;
            Ok((recovered.log, found))
        }
    }
}

/// Whether the ConsumeQueues on the disk hold an entry for each record that was found, and nothing more.
fn check_consume_queues(disk: &ModelDisk, found: &[Known]) -> Result<(), Failed> {
    for queue_id in 0..QUEUES {
        let path = format!("/shard/consumequeue/topic/{queue_id}/00000000000000000000");
        let entries = match disk.open(Path::new(&path)) {
            Ok(file) => {
                let mut bytes = vec![0; (found.len() + 10) * ENTRY_BYTES];
                file.read_exact_at(&mut bytes, 0)?;
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut entries = entries.chunks_exact(ENTRY_BYTES);
        for record in found.iter().filter(|record| record.queue_id == queue_id) {
            let mut expected = Vec::new();
            expected.extend_from_slice(&record.placement.physical_offset.to_i64().to_be_bytes());
            expected.extend_from_slice(&record.bytes.to_be_bytes());
            expected.extend_from_slice(&i64::from(b'a').to_be_bytes());
            assert_eq!(entries.next(), Some(&expected[..]), "an entry for each record");
        }
        assert!(
            entries.all(|entry| *entry == [0; ENTRY_BYTES]),
            "nothing behind the last entry of queue {queue_id}"
        );
    }
    Ok(())
}

/// Reads the log as the production recovery does, and repairs it.
fn recover_log(disk: &ModelDisk) -> Result<(RecoveredLog, Vec<Known>), Failed> {
    let dir = log_dir();
    let segments = list_segments(disk, &dir, SEGMENT_BYTES)?;
    let marker = Path::new("/shard").join(UNSYNCED_MARKER);
    let was_async = disk.exists(&marker).map_err(|source| ScanError::Io { path: marker, source })?;
    let log = ScanLog {
        dir: &dir,
        segments: &segments,
        segment_bytes: SEGMENT_BYTES,
        torn_window_bytes: if was_async { UNSYNCED_BYTES_MAX } else { FLUSH_BYTES_MAX as u64 },
    };
    let mut found = Vec::new();
    let end = scan(disk, &log, PhysicalOffset::ZERO, &mut |record| {
        found.push(known(record));
        Ok::<_, ScanError>(())
    })?;
    if let Some(torn) = end.torn {
        cut(disk, &log, &torn)?;
    }
    let next = |queue: u32| found.iter().filter(|known| known.queue_id == queue).count() as u64;
    let queue_offsets =
        (0..QUEUES).map(|queue| ("topic".to_owned(), queue, QueueOffset::new(next(queue)))).collect();
    let last_store_timestamp_ms = found.last().map_or(0, |last| last.placement.store_timestamp_ms);
    let recovered = RecoveredLog {
        segments,
        end: end.end,
        tail_page: end.tail_page,
        queue_offsets,
        last_store_timestamp_ms,
    };
    Ok((recovered, found))
}

fn known(record: &RecordView<'_>) -> Known {
    Known {
        id: u64::from_be_bytes(record.body()[..8].try_into().unwrap()),
        queue_id: record.queue_id(),
        bytes: u32::try_from(record.total_size()).unwrap(),
        placement: Placement {
            queue_offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            store_timestamp_ms: record.store_timestamp_ms(),
        },
    }
}

impl<'a> Process<'a> {
    /// What the log half does when it opens: makes durable what was recovered, leaves word of its mode, makes the
    /// first segment.
    fn open(
        disk: &'a ModelDisk,
        random: &'a mut StdRng,
        oracle: &'a mut Oracle,
        recovered: RecoveredLog,
        is_async: bool,
    ) -> io::Result<Self> {
        for start in &recovered.segments {
            disk.open(&segment_path(&log_dir(), *start))?.sync_data()?;
        }
        disk.sync_dir(&log_dir())?;
        let marker = Path::new("/shard").join(UNSYNCED_MARKER);
        if is_async {
            disk.write_file_atomically(&marker, b"")?;
        } else {
            disk.remove_file(&marker)?;
            disk.sync_dir(Path::new("/shard"))?;
        }
        let config = CommitLogConfig { segment_bytes: SEGMENT_BYTES, flush_bytes_max: FLUSH_BYTES_MAX };
        let log = CommitLog::new(recovered, config, BlockPool::new(32 << 10, 4));
        oracle.durable = oracle.acknowledged.len();
        let mut process = Self { disk, random, oracle, is_async, log };
        if process.log.ready_end() == process.log.placed_end() {
            process.make_segment()?;
        }
        Ok(process)
    }

    fn make_segment(&mut self) -> io::Result<()> {
        let path = segment_path(&log_dir(), self.log.ready_end());
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".tmp");
        let unfinished = PathBuf::from(unfinished);
        let file = self.disk.open_or_create(&unfinished)?;
        file.set_len(0)?;
        file.set_len(SEGMENT_BYTES)?;
        file.sync_data()?;
        self.disk.rename(&unfinished, &path)?;
        self.disk.sync_dir(&log_dir())?;
        self.log.segment_ready(1);
        self.learn();
        Ok(())
    }

    /// Appends and flushes for a while; in the end, perhaps, everything is flushed.
    fn work(&mut self, steps: usize) -> io::Result<()> {
        for _ in 0..steps {
            match self.random.random_range(0..10) {
                0..5 => self.append(),
                5..8 => self.flush()?,
                8 => self.prewrite()?,
                _ => self.sync()?,
            }
            if self.log.ready_end().since(self.log.placed_end()) < SEGMENT_BYTES / 2 {
                self.make_segment()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        while !self.log.is_idle() {
            self.flush()?;
        }
        self.sync()
    }

    fn append(&mut self) {
        let count = self.random.random_range(1..4);
        let mut records = BytesMut::new();
        for _ in 0..count {
            let id = self.oracle.next_id;
            self.oracle.next_id += 1;
            let queue_id = self.random.random_range(0..QUEUES);
            let large = self.random.random_bool(0.1);
            let bytes_max = if large { RECORD_BODY_BYTES_MAX } else { 2000 };
            let mut body = vec![0; self.random.random_range(8..bytes_max)];
            body.fill(b'a' + u8::try_from(id % 26).unwrap());
            body[..8].copy_from_slice(&id.to_be_bytes());
            let bytes = encode_plain(&mut records, "topic", queue_id, b"TAGS\x01a\x02KEYS\x01k\x02", &body);
            self.oracle.given.push((id, queue_id, u32::try_from(bytes).unwrap()));
        }
        let now_ms = self.random.random_range(1..1000);
        self.log.append(AppendBatch { records: records.freeze(), count }, now_ms);
        self.learn();
    }

    /// Takes the results that are there.
    fn learn(&mut self) {
        for outcome in self.log.take_committed().into_iter().flat_map(|committed| committed.outcomes) {
            let AppendOutcome::Placed(placement) = outcome else { panic!("{outcome:?}") };
            let (id, queue_id, bytes) = self.oracle.given[self.oracle.acknowledged.len()];
            self.oracle.acknowledged.push(Known { id, queue_id, bytes, placement });
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_async {
            self.bound_unsynced()?;
        }
        let Some(plan) = self.log.plan_flush() else { return Ok(()) };
        let mut buffer = vec![0; plan.bytes];
        buffer.fill(0xEE);
        self.log.fill(&plan, &mut buffer);
        let file = self.disk.open(&segment_path(&log_dir(), plan.segment))?;
        file.write_all_at(&buffer, plan.file_offset())?;
        if !self.is_async {
            file.sync_data()?;
        }
        self.log.flushed(&plan);
        self.learn();
        if !self.is_async {
            self.oracle.durable = self.oracle.acknowledged.len();
        }
        Ok(())
    }

    fn bound_unsynced(&mut self) -> io::Result<()> {
        // Simpler and stricter than needed: the last sync may have covered more.
        if self.random.random_bool(0.3) || self.unsynced_then() > UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        Ok(())
    }

    fn unsynced_then(&self) -> u64 {
        let durable = &self.oracle.acknowledged[..self.oracle.durable];
        let durable_end = durable.last().map_or(PhysicalOffset::ZERO, |last| last.placement.physical_offset);
        self.log.flushed_end().plus(FLUSH_BYTES_MAX as u64).since(durable_end)
    }

    fn sync(&mut self) -> io::Result<()> {
        for start in list_segments(self.disk, &log_dir(), SEGMENT_BYTES).map_err(io::Error::other)? {
            self.disk.open(&segment_path(&log_dir(), start))?.sync_data()?;
        }
        self.oracle.durable = self.oracle.acknowledged.len();
        Ok(())
    }

    /// Writes zeros ahead of the records, without a sync.
    fn prewrite(&mut self) -> io::Result<()> {
        let start = self.log.placed_end().get().next_multiple_of(PAGE_BYTES as u64);
        let end = (start + 5 * PAGE_BYTES as u64).min(self.log.ready_end().get());
        let segment = PhysicalOffset::new(start - start % SEGMENT_BYTES);
        let end = end.min(segment.get() + SEGMENT_BYTES);
        if start < end {
            let zeros = vec![0; usize::try_from(end - start).unwrap()];
            let file = self.disk.open(&segment_path(&log_dir(), segment))?;
            file.write_all_at(&zeros, start - segment.get())?;
        }
        Ok(())
    }
}

/// Starts the machine again after `stop` and recovers, with stops on the way; what is found then is checked.
fn restart_and_recover(
    disk: &ModelDisk,
    random: &mut StdRng,
    oracle: &mut Oracle,
    scope: Scope,
    mut stop: Stop,
) -> RecoveredLog {
    loop {
        disk.restart(stop, random);
        if random.random_bool(0.5) {
            disk.stop_at(random.random_range(1..if scope == Scope::Log { 6 } else { 60 }));
        } else {
            disk.never_stop();
        }
        match recover(disk, scope) {
            Ok((recovered, found)) => {
                oracle.check(&found, stop);
                return recovered;
            }
            Err(_) if disk.is_off() => {
                let next = random_stop(random);
                // Whichever was worse decides what may be missing.
                stop = if stop == Stop::PowerCut { stop } else { next };
            }
            Err(failed) => panic!("recovery refuses a log that only a crash touched: {failed}"),
        }
    }
}

fn random_stop(random: &mut StdRng) -> Stop {
    if random.random_bool(0.7) { Stop::PowerCut } else { Stop::Kill }
}

/// One history: lives of the process, each ended by a stop, the first at its `operation`-th change. Returns how many
/// changes the first life made.
fn history(seed: u64, operation: Option<u64>) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = ModelDisk::default();
    disk.create_dir_all(&log_dir()).unwrap();
    let mut oracle = Oracle::default();
    let is_async = random.random_bool(0.4);
    let scope = if random.random_bool(0.5) { Scope::Log } else { Scope::Shard };
    let steps = random.random_range(4..30);

    match operation {
        Some(operation) => disk.stop_at(operation),
        None => disk.never_stop(),
    }
    let first_life = |random: &mut StdRng, oracle: &mut Oracle| {
        Process::open(&disk, random, oracle, RecoveredLog::default(), is_async)?.work(steps)
    };
    let ended = first_life(&mut random, &mut oracle);
    let operations = disk.operations();
    assert_eq!(ended.is_err(), disk.is_off(), "nothing fails but the machine: {ended:?}");

    // From here on chance is another for each operation, so that the tails are torn in many ways.
    let mut random = StdRng::seed_from_u64(seed ^ operation.unwrap_or(0) << 32);
    for _ in 0..3 {
        let stop = random_stop(&mut random);
        let recovered = restart_and_recover(&disk, &mut random, &mut oracle, scope, stop);
        let is_async = random.random_bool(0.4);
        let steps = random.random_range(0..12);
        let life = |random: &mut StdRng, oracle: &mut Oracle| {
            let mut process = Process::open(&disk, random, oracle, recovered.clone(), is_async)?;
            process.work(steps)?;
            process.finish()
        };
        if random.random_bool(0.7) {
            disk.stop_at(random.random_range(1..40));
        } else if !disk.is_off() {
            disk.never_stop();
        }
        let ended = life(&mut random, &mut oracle);
        assert_eq!(ended.is_err(), disk.is_off(), "nothing fails but the machine: {ended:?}");
    }
    let recovered = restart_and_recover(&disk, &mut random, &mut oracle, scope, Stop::PowerCut);
    assert_eq!(recovered.end.get() % PAGE_BYTES as u64, recovered.tail_page.len() as u64);
    operations
}

#[test]
fn every_stop_of_a_log_at_work_is_survived() {
    let first_seed: u64 = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => rand::rng().random_range(0..1 << 40),
    };
    println!("seeds from {first_seed}; run again with SEED={first_seed}");
    let mut histories = 0;
    for seed in first_seed..first_seed + SEEDS {
        let operations = history(seed, None);
        for operation in 1..=operations {
            let survived = std::panic::catch_unwind(|| history(seed, Some(operation)));
            histories += 1;
            if let Err(panic) = survived {
                println!("seed {seed}, stopped at change {operation}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{histories} histories");
}
