//! The log on a disk that forgets: stopped at every change that it makes, recovered, used again, stopped again.
//!
//! The production code for placement, flush planning, prewriting, scan and cut runs on [`simulator::disk`]; only the driver
//! is this file's. A history is a few lives of the process, drawn from a seed, with a crash and a recovery after each. Before every
//! life and every recovery the whole [`World`] is forked, once for each change that is made in it and for each kind of
//! [`Stop`]: the fork stops there, recovers, is used again and judged. So nothing is replayed, and no change of a
//! history is left out.
//!
//! An oracle knows what was placed and what was acknowledged, and checks after every recovery:
//! - every acknowledged record is there, at the place and with the queue offset that its producer was told;
//! - what is there is a first part of what was placed, with nothing else in between or behind;
//! - queue offsets go on where they were, and no rest of a torn write ever comes back;
//! - after a recovery of the whole shard, the ConsumeQueues on the disk say exactly what the log does.
//!
//! And damage is never taken for a crash: after some recoveries a bit of an acknowledged record flips in a fork. That record is told to be
//! damaged, all others are there, and nothing is cut.
//!
//! At a power cut each sector that was not synced is there or not, by chance; besides, every choice of the last four writes that were
//! not synced is tried as a whole.
//!
//! Some histories recover the whole shard as a start does. The others recover the log alone, with a torn window as
//! small as their flushes are, so that a crash that looks like damage would show.
//!
//! Seeds start anywhere; a failure prints the seed, the life, the change and the kind of stop. `SEED=n` starts at a seed,
//! `SEEDS=n` says how many histories of each kind are run: 1 for just that one, many for a night.

#[path = "../../shards/tests/plain_record/mod.rs"]
mod plain_record;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use plain_record::encode_plain;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use shards::append::{AppendBatch, AppendOutcome, Placement};
use shards::commit_log::RecoveredLog;
use shards::commit_log::prewrite::Prewrite;
use shards::commit_log::scan::{ScanError, ScanLog, Scanned, UNSYNCED_MARKER, cut, scan};
use shards::commit_log::{CommitLog, CommitLogConfig, PAGE_BYTES};
use shards::index_file::IndexLayout;
use shards::io::block::BlockPool;
use shards::io::disk::{Disk, DiskFile};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::RecordView;
use shards::recovery::{ShardConfig, recover_shard};
use shards::segment::{list_segments, segment_path};

use simulator::disk::{ModelDisk, ModelFile, Stop, WriteId};

/// Histories of each kind.
const SEEDS: u64 = 200;
/// Lives of the process in a history that are stopped at each change.
const LIVES: usize = 2;
const SEGMENT_BYTES: u64 = 96 << 10;
const FLUSH_BYTES_MAX: usize = 16 << 10;
const UNSYNCED_BYTES_MAX: u64 = 40 << 10;
/// Of so many writes that were not synced each choice is tried.
const CHOSEN_WRITES_MAX: usize = 4;
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
#[derive(Clone, Debug, Default)]
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

/// Everything there is between two lives of the process.
struct World {
    scope: Scope,
    disk: ModelDisk,
    random: StdRng,
    oracle: Oracle,
    /// What the last recovery found.
    recovered: RecoveredLog,
    /// The worst stop since then.
    stop: Stop,
    tally: Rc<RefCell<Tally>>,
}

/// What all histories together went through, so that none of it can get lost unseen.
#[derive(Debug, Default)]
struct Tally {
    stops: u64,
    /// Power cuts with each choice of the last writes that were not synced.
    chosen: u64,
    lazy_lives: u64,
    segments_filled: u64,
    pages_rewritten: u64,
    zeros_landed: u64,
    flushes_held_up_by_zeros: u64,
    torn_tails: u64,
    damaged_records: u64,
    recoveries_stopped: u64,
}

impl Tally {
    fn assert_complete(&self) {
        for (what, times) in [
            ("a stop", self.stops),
            ("a choice of unsynced writes", self.chosen / 10),
            ("a life in the lazy flush mode", self.lazy_lives),
            ("a segment that is filled up", self.segments_filled),
            ("a partly filled page that is written again", self.pages_rewritten),
            ("zeros that are written ahead", self.zeros_landed),
            ("a flush that waits for zeros", self.flushes_held_up_by_zeros),
            ("a torn tail that is cut", self.torn_tails),
            ("a damaged record that is passed over", self.damaged_records),
            ("a recovery that is stopped", self.recoveries_stopped),
        ] {
            assert!(times >= SEEDS, "{what} came up {times} times in all histories");
        }
    }
}

/// A stretch of a history in which the machine is stopped at each change.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Life { is_async: bool, steps: usize, finishes: bool },
    Recovery,
}

/// Where a history was stopped; says so when the test fails.
struct Place {
    seed: u64,
    life: usize,
    phase: Phase,
    /// The change at which a fork was stopped; none in a run that nothing stops.
    forked: Option<(u64, Stop)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, life, phase, forked } = self;
        write!(f, "seed {seed}, life {life}, {phase:?}, ")?;
        match forked {
            Some((operation, stop)) => write!(f, "a fork after {stop:?} at change {operation}"),
            None => f.write_str("not stopped"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed: {self}; run it again with SEED={} SEEDS=1", self.seed);
        }
    }
}

/// One life of the process, from recovery to its end.
struct Process<'a> {
    disk: &'a ModelDisk,
    random: &'a mut StdRng,
    oracle: &'a mut Oracle,
    tally: &'a RefCell<Tally>,
    is_async: bool,
    log: CommitLog,
    prewrite: Prewrite,
    /// The zeros that are being written.
    zeros: Option<(ModelFile, WriteId)>,
}

fn log_dir() -> PathBuf {
    PathBuf::from("/shard/commitlog")
}

/// Why a recovery ended: the disk refused, as it does when the machine stops, or the log is said to be damaged, which
/// no crash may lead to.
type Failed = Box<dyn std::error::Error>;

fn recover(
    disk: &ModelDisk,
    scope: Scope,
    tally: &RefCell<Tally>,
) -> Result<(RecoveredLog, Vec<Known>), Failed> {
    match scope {
        Scope::Log => Ok(recover_log(disk, tally)?),
        Scope::Shard => {
            let config = ShardConfig { index: INDEX_LAYOUT, ..ShardConfig::new(SEGMENT_BYTES) };
            let recovered = recover_shard(disk, Path::new("/shard"), &config, &mut |_| {})?;
            tally.borrow_mut().torn_tails += u64::from(recovered.report.torn_bytes > 0);
            assert!(recovered.damage.is_empty(), "a crash is taken for damage: {:?}", recovered.damage);
            let changes = disk.operations();
            let (log, found) = recover_log(disk, tally)?;
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
fn recover_log(disk: &ModelDisk, tally: &RefCell<Tally>) -> Result<(RecoveredLog, Vec<Known>), Failed> {
    let dir = log_dir();
    let segments = list_segments(disk, &dir, SEGMENT_BYTES)?;
    let marker = Path::new("/shard").join(UNSYNCED_MARKER);
    let was_async = disk.exists(&marker).map_err(|source| ScanError::Io { path: marker, source })?;
    let log = ScanLog {
        dir: &dir,
        segments: &segments,
        segment_bytes: SEGMENT_BYTES,
        torn_window_bytes: if was_async { UNSYNCED_BYTES_MAX } else { FLUSH_BYTES_MAX as u64 },
        durable_to: PhysicalOffset::ZERO,
        is_in_use: false,
    };
    let mut found = Vec::new();
    let end = scan(disk, &log, PhysicalOffset::ZERO, &mut |scanned| {
        match scanned {
            Scanned::Record(record) => found.push(known(&record)),
            Scanned::Damaged(damage) => panic!("a crash is taken for damage: {damage:?}"),
        }
        Ok::<_, ScanError>(())
    })?;
    if let Some(torn) = end.torn {
        tally.borrow_mut().torn_tails += 1;
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
    fn open(world: &'a mut World, is_async: bool) -> io::Result<Self> {
        let recovered = world.recovered.clone();
        let World { disk, random, oracle, tally, .. } = world;
        let (disk, tally): (&ModelDisk, &RefCell<Tally>) = (disk, tally);
        tally.borrow_mut().lazy_lives += u64::from(is_async);
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
        let prewrite = Prewrite::new(SEGMENT_BYTES, recovered.end);
        let log = CommitLog::new(recovered, config, BlockPool::new(32 << 10, 4));
        oracle.durable = oracle.acknowledged.len();
        let mut process = Self { disk, random, oracle, tally, is_async, log, prewrite, zeros: None };
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
        self.land_zeros()?;
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
        if self.prewrite.is_in_the_way_of(&plan) {
            self.tally.borrow_mut().flushes_held_up_by_zeros += 1;
            self.land_zeros()?;
        }
        let rewrites = plan.start < self.log.flushed_end();
        let mut buffer = vec![0xEE; plan.bytes];
        self.log.fill(&plan, &mut buffer);
        let file = self.disk.open(&segment_path(&log_dir(), plan.segment))?;
        let write = file.begin_write(buffer.into(), plan.file_offset())?;
        file.end_write(write)?;
        if !self.is_async {
            file.sync_data()?;
        }
        self.log.flushed(&plan);
        let fills_segment = self.log.flushed_end() == plan.segment.plus(SEGMENT_BYTES);
        let mut tally = self.tally.borrow_mut();
        tally.pages_rewritten += u64::from(rewrites);
        tally.segments_filled += u64::from(fills_segment);
        drop(tally);
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

    /// Begins to write zeros ahead of the records, or waits for those under way.
    fn prewrite(&mut self) -> io::Result<()> {
        if self.zeros.is_some() {
            return self.land_zeros();
        }
        if let Some(chunk) = self.prewrite.next(self.log.placed_end(), self.log.ready_end()) {
            let file = self.disk.open(&segment_path(&log_dir(), chunk.segment))?;
            let write =
                file.begin_write(Bytes::from(vec![0; chunk.bytes]), chunk.start.since(chunk.segment))?;
            self.zeros = Some((file, write));
        }
        Ok(())
    }

    fn land_zeros(&mut self) -> io::Result<()> {
        if let Some((file, write)) = self.zeros.take() {
            file.end_write(write)?;
            self.prewrite.done();
            self.tally.borrow_mut().zeros_landed += 1;
        }
        Ok(())
    }
}

impl World {
    fn new(seed: u64, scope: Scope, tally: &Rc<RefCell<Tally>>) -> Self {
        let disk = ModelDisk::default();
        disk.create_dir_all(&log_dir()).expect("the machine is on");
        Self {
            scope,
            disk,
            random: StdRng::seed_from_u64(seed),
            oracle: Oracle::default(),
            recovered: RecoveredLog::default(),
            stop: Stop::Kill,
            tally: Rc::clone(tally),
        }
    }

    fn fork(&self) -> Self {
        Self {
            scope: self.scope,
            disk: self.disk.fork(),
            random: self.random.clone(),
            oracle: self.oracle.clone(),
            recovered: self.recovered.clone(),
            stop: self.stop,
            tally: Rc::clone(&self.tally),
        }
    }

    fn draw_life(&mut self) -> Phase {
        Phase::Life {
            is_async: self.random.random_bool(0.4),
            steps: self.random.random_range(4..30),
            finishes: self.random.random_bool(0.5),
        }
    }

    fn draw_stop(&mut self) -> Stop {
        if self.random.random_bool(0.7) { Stop::PowerCut } else { Stop::Kill }
    }

    /// Goes through `phase`. An error only where the machine stops.
    fn go_through(&mut self, phase: Phase) -> Result<(), Failed> {
        let result = match phase {
            Phase::Life { is_async, steps, finishes } => {
                self.live(is_async, steps, finishes).map_err(Failed::from)
            }
            Phase::Recovery => self.recover(),
        };
        if let Err(failed) = &result {
            assert!(self.disk.is_off(), "nothing fails but the machine in {phase:?}: {failed}");
        }
        result
    }

    fn live(&mut self, is_async: bool, steps: usize, finishes: bool) -> io::Result<()> {
        let mut process = Process::open(self, is_async)?;
        process.work(steps)?;
        if finishes { process.finish() } else { Ok(()) }
    }

    /// Recovers; what is found is checked.
    fn recover(&mut self) -> Result<(), Failed> {
        let (recovered, found) = recover(&self.disk, self.scope, &self.tally)?;
        assert_eq!(recovered.end.get() % PAGE_BYTES as u64, recovered.tail_page.len() as u64);
        self.oracle.check(&found, self.stop);
        self.stop = Stop::Kill;
        self.recovered = recovered;
        Ok(())
    }

    /// Starts the machine again after `stop`.
    fn restart(&mut self, stop: Stop) {
        self.disk.restart(stop, &mut self.random);
        // Whichever was worse since the last recovery decides what may be missing.
        if stop == Stop::PowerCut {
            self.stop = stop;
        }
    }

    /// Stops a fork of this world at each change of `phase` and after the last one, in both ways. Returns the number of
    /// changes.
    fn stop_everywhere(&self, seed: u64, life: usize, phase: Phase) -> u64 {
        let operations = {
            let _place = Place { seed, life, phase, forked: None };
            let mut undisturbed = self.fork();
            undisturbed.disk.never_stop();
            undisturbed.go_through(phase).expect("nothing stops this machine");
            undisturbed.disk.operations()
        };
        for operation in 1..=operations + 1 {
            for stop in [Stop::Kill, Stop::PowerCut] {
                let _place = Place { seed, life, phase, forked: Some((operation, stop)) };
                let mut world = self.fork();
                world.disk.stop_at(operation);
                let ended = world.go_through(phase);
                assert_eq!(
                    ended.is_err(),
                    operation <= operations,
                    "a seed makes the same changes each time"
                );
                // Chance is another for each place, so that the tails are torn in many ways.
                world.random = StdRng::seed_from_u64(world.random.next_u64() ^ operation << 1 ^ stop as u64);
                world.tally.borrow_mut().stops += 1;
                if stop == Stop::PowerCut && matches!(phase, Phase::Life { .. }) {
                    world.keep_each_choice();
                }
                world.go_on_after(stop);
            }
        }
        operations
    }

    /// The power is cut here, and of the last writes that were not synced each possible choice is there. Each recovers, is used and
    /// judged.
    fn keep_each_choice(&self) {
        let last = self.disk.unsynced_max().min(CHOSEN_WRITES_MAX);
        if last == 0 {
            return;
        }
        for kept in 0..1 << last {
            let mut world = self.fork();
            world.tally.borrow_mut().chosen += 1;
            world.disk.restart_keeping(kept, last, &mut world.random);
            world.stop = Stop::PowerCut;
            world.disk.never_stop();
            world.go_through(Phase::Recovery).expect("nothing stops this machine");
            let life = Phase::Life { is_async: false, steps: 4, finishes: true };
            world.go_through(life).expect("nothing stops this machine");
            world.recover_in_the_end(Stop::PowerCut);
        }
    }

    /// Recovers after `stop`, with stops on the way, is used again, and is judged after a power cut.
    fn go_on_after(&mut self, stop: Stop) {
        self.recover_in_the_end(stop);
        self.disk.stop_at(self.random.random_range(1..60));
        let life = self.draw_life();
        if self.go_through(life).is_ok() && self.random.random_bool(0.5) {
            return self.recover_in_the_end(Stop::PowerCut);
        }
        let stop = self.draw_stop();
        self.recover_in_the_end(stop);
        self.disk.never_stop();
        let life = Phase::Life { is_async: false, steps: 4, finishes: true };
        self.go_through(life).expect("nothing stops this machine");
        self.recover_in_the_end(Stop::PowerCut);
    }

    fn recover_in_the_end(&mut self, mut stop: Stop) {
        loop {
            self.restart(stop);
            if self.random.random_bool(0.5) {
                let changes = if self.scope == Scope::Log { 6 } else { 60 };
                self.disk.stop_at(self.random.random_range(1..changes));
            } else {
                self.disk.never_stop();
            }
            if self.go_through(Phase::Recovery).is_ok() {
                if self.random.random_bool(0.1) {
                    self.damage_a_fork();
                }
                return;
            }
            self.tally.borrow_mut().recoveries_stopped += 1;
            stop = self.draw_stop();
        }
    }
}

impl World {
    /// Flips a bit of an acknowledged record in a fork of the disk: that record is lost, and nothing else.
    fn damage_a_fork(&mut self) {
        let known = &self.oracle.acknowledged;
        if known.is_empty() {
            return;
        }
        let victim = self.random.random_range(0..known.len());
        let Known { bytes, placement, .. } = known[victim];
        let at = placement.physical_offset;
        // Of the log alone it is not known what was durable: the last flush may have torn what is near the end.
        let window = UNSYNCED_BYTES_MAX + 2 * PAGE_BYTES as u64 + u64::from(bytes);
        let last = known.last().expect("not empty").placement.physical_offset;
        if self.scope == Scope::Log && at.plus(u64::from(bytes) + window) > last {
            return;
        }
        let disk = self.disk.fork();
        disk.never_stop();
        let start = PhysicalOffset::new(at.get() - at.get() % SEGMENT_BYTES);
        let file = disk.open(&segment_path(&log_dir(), start)).expect("the machine is on");
        // A size that is hit may claim so much that what follows counts as part of an unfinished write.
        let first = if self.scope == Scope::Log { 4 } else { 0 };
        let place = at.since(start) + self.random.random_range(first..u64::from(bytes));
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).expect("the machine is on");
        byte[0] ^= 1 << self.random.random_range(0..8);
        file.write_all_at(&byte, place).expect("the machine is on");
        file.sync_data().expect("the machine is on");

        let durable_to = match self.scope {
            Scope::Log => PhysicalOffset::ZERO,
            Scope::Shard => {
                // So that all of the log is scanned.
                disk.remove_dir_all(Path::new("/shard/consumequeue")).expect("the machine is on");
                let config = ShardConfig { index: INDEX_LAYOUT, ..ShardConfig::new(SEGMENT_BYTES) };
                let recovered = recover_shard(&disk, Path::new("/shard"), &config, &mut |_| {})
                    .unwrap_or_else(|error| panic!("damage at {at} refuses the start: {error}"));
                assert_eq!(recovered.report.torn_bytes, 0, "damage is taken for a crash");
                assert_eq!((recovered.report.damaged_ranges, recovered.report.lost_messages), (1, 1));
                assert_eq!(recovered.log.end, self.recovered.end, "the log ends where it did");
                let sorted = |log: &RecoveredLog| {
                    let mut offsets = log.queue_offsets.clone();
                    offsets.sort();
                    offsets.retain(|(_, _, next)| next.get() > 0);
                    offsets
                };
                assert_eq!(
                    sorted(&recovered.log),
                    sorted(&self.recovered),
                    "lost messages keep their places"
                );
                recovered.log.end
            }
        };
        let segments = list_segments(&disk, &log_dir(), SEGMENT_BYTES).expect("the machine is on");
        let log = ScanLog {
            dir: &log_dir(),
            segments: &segments,
            segment_bytes: SEGMENT_BYTES,
            torn_window_bytes: UNSYNCED_BYTES_MAX,
            durable_to,
            is_in_use: false,
        };
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        let end = scan(&disk, &log, PhysicalOffset::ZERO, &mut |scanned| {
            match scanned {
                Scanned::Record(record) => found.push(self::known(&record)),
                Scanned::Damaged(damage) => damaged.push(damage.range.from),
            }
            Ok::<_, ScanError>(())
        })
        .expect("the machine is on");
        assert_eq!((damaged, end.end, end.torn), (vec![at], self.recovered.end, None));
        let mut expected = self.oracle.acknowledged.clone();
        expected.remove(victim);
        assert_eq!(found, expected, "only the damaged record is missing");
        self.tally.borrow_mut().damaged_records += 1;
    }
}

/// A few lives with a crash after each, and the forks of all.
fn history(seed: u64, scope: Scope, tally: &Rc<RefCell<Tally>>) {
    let mut world = World::new(seed, scope, tally);
    for life in 0..LIVES {
        let mut phase = world.draw_life();
        loop {
            let changes = world.stop_everywhere(seed, life, phase);
            // Somewhere, or not at all.
            world.disk.stop_at(world.random.random_range(1..=changes * 2 + 1));
            let ended = world.go_through(phase);
            if ended.is_ok() && matches!(phase, Phase::Recovery) {
                break;
            }
            let stop = world.draw_stop();
            world.restart(stop);
            phase = Phase::Recovery;
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

fn survive(scope: Scope) {
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let first_seed = number("SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 40));
    println!("{seeds} seeds from {first_seed}");
    let tally = Rc::<RefCell<Tally>>::default();
    for seed in first_seed..first_seed + seeds {
        history(seed, scope, &tally);
    }
    let tally = tally.borrow();
    println!("{scope:?}: {tally:?}");
    // A single history may lack something.
    if seeds >= SEEDS {
        tally.assert_complete();
    }
}

#[test]
fn a_log_survives_a_stop_at_every_change() {
    survive(Scope::Log);
}

#[test]
fn a_shard_survives_a_stop_at_every_change() {
    survive(Scope::Shard);
}
