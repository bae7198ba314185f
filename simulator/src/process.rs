//! One life of a broker's process, on a disk that forgets: the thin driver around the production code of a shard.
//!
//! What decides is not here: [`CommitLog`], [`Prewrite`], recovery, [`MessageStore`], the side thread's work, the tables of offsets and
//! delay levels are the broker's own. This file does their I/O on the model's disk and puts what comes later into the queue of events, as
//! `shards/src/log_shard.rs`, `src/processor/delayed.rs` and `src/broker.rs` do it on a core. Deliberate bugs of the driver are
//! asked for where the mistake would be made.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use rand::Rng;
use rand::rngs::StdRng;
use ringmq::broker::consumer_offset::{ConsumerOffsetTable, OffsetsFileError};
use ringmq::broker::delay_offset;
use ringmq::broker::delay_schedule::{DelayLevel, DelayLevels, DelaySchedule};
use shards::append::{AppendBatch, AppendOutcome, AppendRefusal, Committed, Placement};
use shards::commit_log::flush_plan::FlushPlan;
use shards::commit_log::prewrite::Prewrite;
use shards::commit_log::{CommitLog, CommitLogConfig};
use shards::dispatch::SCHEDULE_TOPIC;
use shards::index_file::IndexLayout;
use shards::io::block::BlockPool;
use shards::io::disk::{Disk, DiskFile};
use shards::limits::UNSYNCED_BYTES_MAX;
use shards::log_shard::FlushMode;
use shards::message_store::{MessageStore, MessageStoreConfig, StoreExit};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::recovery::{Rebuild, RecoveryError, RecoveryReport, ShardConfig};
use shards::segment::{segment_path, segment_start};
use shards::side_writer::{ConfigWriteError, SideWork, SideWriter};

use crate::bug::Bug;
use crate::disk::{ModelDisk, ModelFile, WriteId};
use crate::message;
use crate::network::{Address, Message};
use crate::oracle::{CommittedOffset, Oracle};
use crate::plan::{Outgoing, QueueKey, Shape};
use crate::trace::Trace;

mod deliveries;
mod reads;
mod removal;
mod startup;

use removal::Retaining;
use startup::{clear_marker, recover, remove_unfinished, set_marker};

/// The folder of the shard.
pub const SHARD_DIR: &str = "/shard";
/// So small that index files fill up.
pub const INDEX_LAYOUT: IndexLayout = IndexLayout { slots: 7, items: 60 };
const SYNC_INTERVAL_US: u64 = 500_000;
const SIDE_TURN_US: u64 = 100_000;
const RETAIN_US: u64 = 400_000;
const SEGMENT_RETRY_US: u64 = 1_000_000;
/// How long a level of delays rests when it cannot be read.
const UNREADABLE_PAUSE_MS: i64 = 1_000;

/// Something of this process that is over or due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    FlushDone,
    ZerosDone,
    Sync,
    SideTurn,
    Persist,
    DelayLook,
    SegmentRetry,
    Retain,
}

/// The surroundings of a process while it handles one event.
pub struct Host<'a> {
    pub now_us: u64,
    /// The node's clock, milliseconds since the epoch.
    pub now_ms: i64,
    /// How many times as long the disk takes now.
    pub disk_factor: u64,
    pub random: &'a mut StdRng,
    pub oracle: &'a mut Oracle,
    pub trace: &'a mut Trace,
    /// What is to come: timers of this process, and when, microseconds.
    pub timers: Vec<(u64, Timer)>,
    /// What it says.
    pub said: Vec<(Address, Message)>,
}

impl Host<'_> {
    fn after(&mut self, us: u64, timer: Timer) {
        self.timers.push((self.now_us + us, timer));
    }

    fn disk_time_us(&mut self, shape: &Shape) -> u64 {
        self.random.random_range(shape.disk_us.0..=shape.disk_us.1) * self.disk_factor
    }
}

/// The machine stopped while the process worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineOff;

/// Why a process did not come up.
#[derive(Debug)]
pub enum StartError {
    Off,
    Recovery(RecoveryError),
    Io(io::Error),
    Config(String),
}

#[derive(Debug)]
struct Write {
    file: ModelFile,
    id: WriteId,
}

#[derive(Debug)]
struct Flush {
    plan: FlushPlan,
    /// None while zeros are in the way, or a bug leaves the write out.
    write: Option<Write>,
    waits_for_zeros: bool,
    counted: bool,
}

/// Who waits for the result of a record.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    Producer { id: u64, step: usize },
    Delay { id: u64, level: DelayLevel, delivered: QueueOffset },
}

#[derive(Debug)]
struct Batch {
    to: Address,
    records: usize,
    results: Vec<Result<Placement, AppendRefusal>>,
}

type ConfigResult = Pin<Box<dyn Future<Output = Result<(), ConfigWriteError>>>>;

enum Persisting {
    Offsets(Vec<CommittedOffset>, u64),
    Delays,
}

/// A running process.
pub struct Process {
    disk: ModelDisk,
    shape: Shape,
    bug: Option<Bug>,
    log: CommitLog,
    prewrite: Prewrite,
    store: MessageStore,
    side: SideWork<ModelDisk>,
    writer: SideWriter,
    offsets: ConsumerOffsetTable,
    offsets_persisted: u64,
    delay: DelaySchedule,
    flush: Option<Flush>,
    zeros: Option<Write>,
    durable_end: PhysicalOffset,
    segment_rests: bool,
    waiting: VecDeque<Waiting>,
    batches: BTreeMap<usize, Batch>,
    persisting: Vec<(ConfigResult, Persisting)>,
    side_turns: u64,
    flushes: u64,
    delay_look_us: Option<u64>,
    retaining: Retaining,
    report: RecoveryReport,
}

fn log_dir() -> PathBuf {
    Path::new(SHARD_DIR).join("commitlog")
}

fn offsets_path() -> PathBuf {
    Path::new(SHARD_DIR).join("config/consumerOffset.json")
}

fn delays_path() -> PathBuf {
    Path::new(SHARD_DIR).join("config/delayOffset.json")
}

fn group(consumer: usize) -> String {
    format!("group{consumer}")
}

/// The result of a future that needs nothing but what is there.
fn at_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl Process {
    /// Starts as a broker does: recovers, makes durable what was recovered, opens both halves, loads offsets.
    ///
    /// # Errors
    /// [`StartError`]: nothing is served then.
    pub fn start(
        disk: &ModelDisk,
        shape: &Shape,
        bug: Option<Bug>,
        host: &mut Host<'_>,
    ) -> Result<Self, StartError> {
        let off_or = |error: StartError| if disk.is_off() { StartError::Off } else { error };
        let io_error = |error| off_or(StartError::Io(error));
        let config = ShardConfig {
            index: INDEX_LAYOUT,
            rebuild: Rebuild::BesideServing,
            ..ShardConfig::new(shape.segment_bytes)
        };
        disk.forget_sync_errors();
        disk.ignore_settling(bug == Some(Bug::NoSettling));
        let mut recovered =
            recover(disk, &config, bug).map_err(|error| off_or(StartError::Recovery(error)))?;
        if bug == Some(Bug::ForgetQueueOffsets) {
            recovered.log.queue_offsets.clear();
        }
        let end = recovered.log.end;
        remove_unfinished(disk).map_err(io_error)?;
        for start in &recovered.log.segments {
            let synced = disk.open(&segment_path(&log_dir(), *start)).and_then(|file| file.sync_data());
            synced.map_err(io_error)?;
        }
        disk.sync_dir(&log_dir()).map_err(io_error)?;
        set_marker(disk, shape.flush).map_err(io_error)?;
        let log_config =
            CommitLogConfig { segment_bytes: shape.segment_bytes, flush_bytes_max: shape.flush_bytes_max };
        let has_segments = !recovered.log.segments.is_empty();
        let log = CommitLog::new(recovered.log, log_config, BlockPool::new(32 << 10, 8));
        let (writer, side) = SideWriter::without_thread(disk.clone(), recovered.side).map_err(io_error)?;
        // A small tail, so that much is read from the disk.
        let store_config = MessageStoreConfig {
            hot_tail_bytes: 64 << 10,
            cold_cache_bytes: 0,
            ..MessageStoreConfig::default()
        };
        let store = MessageStore::open_blocking(recovered.serve, store_config, writer.clone(), disk.clone());
        let mut process = Self {
            prewrite: Prewrite::new(shape.segment_bytes, end),
            disk: disk.clone(),
            shape: shape.clone(),
            bug,
            log,
            store,
            side,
            writer,
            offsets: ConsumerOffsetTable::default(),
            offsets_persisted: 0,
            delay: DelaySchedule::new(DelayLevels::default()),
            flush: None,
            zeros: None,
            durable_end: end,
            segment_rests: false,
            waiting: VecDeque::new(),
            batches: BTreeMap::new(),
            persisting: Vec::new(),
            side_turns: 0,
            flushes: 0,
            delay_look_us: None,
            retaining: Retaining::default(),
            report: recovered.report,
        };
        process.load_tables().map_err(off_or)?;
        if !has_segments || process.log.ready_end() == end {
            process.make_segment().map_err(io_error)?;
            process.log.segment_ready(host.now_ms);
        }
        host.after(SIDE_TURN_US, Timer::SideTurn);
        host.after(shape.persist_ms * 1000, Timer::Persist);
        if shape.reserved_ms.is_some() {
            host.after(RETAIN_US, Timer::Retain);
        }
        if shape.flush == FlushMode::Async {
            host.after(SYNC_INTERVAL_US, Timer::Sync);
        }
        process.plan_delay_look(host);
        Ok(process)
    }

    /// What recovery found and did.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Whether the log failed: nothing is taken any more.
    pub fn has_failed(&self) -> bool {
        self.log.has_failed()
    }

    /// Whether everything that was taken is answered.
    pub fn is_idle(&self) -> bool {
        self.log.is_idle() && self.waiting.is_empty()
    }

    fn load_tables(&mut self) -> Result<(), StartError> {
        let text =
            |error: ringmq::broker::config_file::ConfigFileError| StartError::Config(error.to_string());
        let offsets = &mut self.offsets;
        ringmq::broker::config_file::load_file_on(&self.disk, &offsets_path(), |file| offsets.load(file))
            .map_err(text)?;
        let mut delivered = BTreeMap::new();
        ringmq::broker::config_file::load_file_on(&self.disk, &delays_path(), |file| {
            delivered = delay_offset::from_file(file)?;
            Ok::<_, OffsetsFileError>(())
        })
        .map_err(text)?;
        if self.bug == Some(Bug::TimerForgottenAtStart) {
            return Ok(());
        }
        ringmq::broker::resume_delays(&mut self.delay, &delivered, &self.store);
        Ok(())
    }

    /// Handles a timer of this life.
    ///
    /// # Errors
    /// The machine stopped.
    pub fn timer(&mut self, timer: Timer, host: &mut Host<'_>) -> Result<(), MachineOff> {
        match timer {
            Timer::FlushDone => self.flush_done(host)?,
            Timer::ZerosDone => self.zeros_done(host)?,
            Timer::Sync => {
                self.sync(host)?;
                host.after(SYNC_INTERVAL_US, Timer::Sync);
            }
            Timer::SideTurn => {
                self.side_turn(host)?;
                host.after(SIDE_TURN_US, Timer::SideTurn);
            }
            Timer::Persist => {
                self.persist(host);
                host.after(self.shape.persist_ms * 1000, Timer::Persist);
            }
            Timer::DelayLook => {
                self.delay_look_us = None;
                self.deliver_due(host)?;
            }
            Timer::SegmentRetry => self.segment_rests = false,
            Timer::Retain => {
                self.look_at_ages();
                host.after(RETAIN_US, Timer::Retain);
            }
        }
        self.go_on(host)
    }

    /// Handles a message. `outgoing`: what a step of the plan sends, with the numbers of its messages.
    ///
    /// # Errors
    /// The machine stopped.
    pub fn message(
        &mut self,
        from: Address,
        message: &Message,
        outgoing: &dyn Fn(usize) -> Vec<Outgoing>,
        host: &mut Host<'_>,
    ) -> Result<(), MachineOff> {
        match (from, message) {
            (_, Message::Send { step }) => self.take(from, *step, &outgoing(*step), host),
            (_, Message::Pull { queue, offset }) => {
                let found = self.pull(*queue, *offset, host)?;
                host.said.push((from, Message::Pulled { queue: *queue, offset: *offset, found }));
            }
            (Address::Consumer(consumer), Message::Commit { queue, offset }) => {
                host.oracle.offset_committed(consumer, *queue, *offset);
                let ahead = u64::from(self.bug == Some(Bug::OffsetCommittedAhead));
                let kept = i64::try_from(*offset + ahead).expect("offsets are small");
                let queue_id = i32::try_from(queue.queue_id).expect("queue numbers are small");
                self.offsets.commit(&group(consumer), queue.topic, queue_id, kept, host.now_ms);
            }
            (Address::Consumer(consumer), Message::AskOffset { queue }) => {
                let offset = self.offset(consumer, *queue);
                host.oracle.offset_told(consumer, *queue, offset);
                host.said.push((from, Message::Offset { queue: *queue, offset }));
            }
            _ => unreachable!("nobody sends this to a node: {message:?}"),
        }
        self.go_on(host)
    }

    /// Where a consumer's group stands.
    pub fn offset(&self, consumer: usize, queue: QueueKey) -> Option<u64> {
        let queue_id = i32::try_from(queue.queue_id).expect("queue numbers are small");
        let offset = self.offsets.get(&group(consumer), queue.topic, queue_id)?;
        Some(u64::try_from(offset).unwrap_or(u64::MAX))
    }

    // Sends.

    fn take(&mut self, from: Address, step: usize, outgoing: &[Outgoing], host: &mut Host<'_>) {
        let mut records = BytesMut::new();
        for outgoing in outgoing {
            let id = host.oracle.new_id();
            let given = message::encode(&mut records, id, outgoing);
            host.oracle.given(given);
            self.waiting.push_back(Waiting::Producer { id, step });
        }
        let count = u32::try_from(outgoing.len()).expect("batches are small");
        self.batches.insert(step, Batch { to: from, records: outgoing.len(), results: Vec::new() });
        self.log.append(AppendBatch { records: records.freeze(), count }, host.now_ms);
    }

    /// Whatever follows from what has happened: results go out, segments are made, writes begin.
    fn go_on(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        loop {
            let results = self.give_out_results(host);
            let made = self.prepare_segment(host)?;
            let began = self.begin_flush(host)?;
            if !results && !made && !began {
                break;
            }
        }
        self.begin_zeros(host)?;
        self.plan_delay_look(host);
        Ok(())
    }

    fn give_out_results(&mut self, host: &mut Host<'_>) -> bool {
        let Some(mut committed) = self.log.take_committed() else { return false };
        if self.bug == Some(Bug::SwapAnswers) && committed.outcomes.len() > 2 {
            committed.outcomes.swap(0, 1);
        }
        let delay = &mut self.delay;
        self.store.dispatch(&committed, &mut |arrival| {
            if arrival.topic == SCHEDULE_TOPIC {
                delay.arrived(arrival.queue_id, arrival.store_timestamp_ms);
            }
        });
        let Committed { outcomes, confirm_offset, .. } = committed;
        host.trace
            .note(host.now_us, format_args!("{} results, confirmed up to {confirm_offset}", outcomes.len()));
        for outcome in outcomes {
            self.give_out(outcome, host);
        }
        if self.shape.flush == FlushMode::Sync {
            host.oracle.durable_before(confirm_offset.get());
        }
        true
    }

    fn give_out(&mut self, outcome: AppendOutcome, host: &mut Host<'_>) {
        let waiting = self.waiting.pop_front().expect("a result is somebody's");
        let (Waiting::Producer { id, .. } | Waiting::Delay { id, .. }) = waiting;
        let mut result = match outcome {
            AppendOutcome::Placed(placement) => Ok(placement),
            AppendOutcome::Refused(refusal) => Err(refusal),
        };
        if let Err(AppendRefusal::DiskFull { .. }) = result
            && self.bug == Some(Bug::AcknowledgeOnAFullDisk)
        {
            result = Ok(Placement {
                queue_offset: QueueOffset::ZERO,
                physical_offset: self.log.placed_end(),
                store_timestamp_ms: host.now_ms,
            });
        }
        match &result {
            Ok(placement) => {
                let segment = segment_start(placement.physical_offset, self.shape.segment_bytes);
                host.oracle.written(segment, host.now_ms);
                host.oracle.confirmed(id, *placement);
            }
            Err(refusal) => {
                host.oracle.refused(id, matches!(refusal, AppendRefusal::ShardFailed { .. }));
            }
        }
        match waiting {
            Waiting::Delay { level, delivered, .. } => {
                if self.bug != Some(Bug::DeliveredBeforeStored) {
                    self.delay.completed(level, delivered, result.is_ok(), host.now_ms);
                }
            }
            Waiting::Producer { step, .. } => {
                let batch = self.batches.get_mut(&step).expect("its batch waits");
                batch.results.push(result);
                if batch.results.len() == batch.records {
                    let batch = self.batches.remove(&step).expect("it was there");
                    host.said.push((batch.to, Message::Stored { step, results: batch.results }));
                }
            }
        }
    }

    // The log's files.

    /// An I/O result; the machine may have stopped instead.
    fn unless_off<T>(&self, result: io::Result<T>) -> Result<io::Result<T>, MachineOff> {
        if self.disk.is_off() { Err(MachineOff) } else { Ok(result) }
    }

    fn fail(&mut self, action: &str, error: &io::Error, host: &mut Host<'_>) {
        host.trace.note(host.now_us, format_args!("the log fails: {action}: {error}"));
        self.log.fail(format!("{action}: {error}"));
    }

    fn prepare_segment(&mut self, host: &mut Host<'_>) -> Result<bool, MachineOff> {
        let ahead = self.log.ready_end().since(self.log.placed_end());
        if self.segment_rests || ahead >= self.shape.segment_bytes / 2 || self.log.closed().is_some() {
            return Ok(false);
        }
        let made = self.make_segment();
        match self.unless_off(made)? {
            Ok(()) => self.log.segment_ready(host.now_ms),
            Err(error) => {
                let path = segment_path(&log_dir(), self.log.ready_end()).display().to_string();
                let refusal = if error.kind() == io::ErrorKind::StorageFull {
                    let needed_bytes = self.shape.segment_bytes;
                    AppendRefusal::DiskFull { path, free_bytes: 0, needed_bytes }
                } else {
                    AppendRefusal::NoSegment { path, reason: error.to_string() }
                };
                host.trace.note(host.now_us, format_args!("{refusal}"));
                self.log.segment_missing(refusal, host.now_ms);
                self.segment_rests = true;
                host.after(SEGMENT_RETRY_US, Timer::SegmentRetry);
            }
        }
        Ok(true)
    }

    fn make_segment(&self) -> io::Result<()> {
        let path = segment_path(&log_dir(), self.log.ready_end());
        let unfinished = path.with_extension("tmp");
        let file = self.disk.open_or_create(&unfinished)?;
        file.set_len(0)?;
        file.set_len(self.shape.segment_bytes)?;
        file.sync_data()?;
        self.disk.rename(&unfinished, &path)?;
        if self.bug == Some(Bug::ForgetTheNameOfASegment) {
            return Ok(());
        }
        self.disk.sync_dir(&log_dir())
    }

    fn begin_flush(&mut self, host: &mut Host<'_>) -> Result<bool, MachineOff> {
        if self.flush.is_some() || self.log.has_failed() {
            return Ok(false);
        }
        if self.shape.flush == FlushMode::Async {
            let then = self.log.flushed_end().plus(self.shape.flush_bytes_max as u64);
            if then.since(self.durable_end) > UNSYNCED_BYTES_MAX {
                self.sync(host)?;
            }
        }
        let Some(plan) = self.log.plan_flush() else { return Ok(false) };
        let waits_for_zeros =
            self.prewrite.is_in_the_way_of(&plan) && self.bug != Some(Bug::ZerosAcrossAFlush);
        self.flush = Some(Flush { plan, write: None, waits_for_zeros, counted: false });
        if !waits_for_zeros {
            self.begin_write(host)?;
        }
        Ok(true)
    }

    fn begin_write(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        let flush = self.flush.as_mut().expect("a flush is planned");
        let plan = flush.plan.clone();
        flush.waits_for_zeros = false;
        self.flushes += 1;
        let mut buffer = vec![0xEE; plan.bytes];
        self.log.fill(&plan, &mut buffer);
        let is_left_out = self.bug == Some(Bug::SkipAFlush) && self.flushes.is_multiple_of(5);
        if !is_left_out {
            let begun = self.begin_direct(plan.segment, buffer.into(), plan.file_offset());
            let write = self.unless_off(begun)?.expect("a direct write can always begin");
            self.flush.as_mut().expect("a flush is planned").write = Some(write);
        }
        if self.bug == Some(Bug::AcknowledgeBeforeTheFlush) {
            self.count_flush(&plan, host);
        }
        let us = host.disk_time_us(&self.shape);
        host.trace
            .note(host.now_us, format_args!("writes {} bytes at {} for {us} us", plan.bytes, plan.start));
        host.after(us, Timer::FlushDone);
        Ok(())
    }

    fn begin_direct(&self, segment: PhysicalOffset, bytes: Bytes, offset: u64) -> io::Result<Write> {
        let file = self.disk.open_again(&segment_path(&log_dir(), segment))?;
        let id = file.begin_write(bytes, offset)?;
        Ok(Write { file, id })
    }

    fn flush_done(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        let Flush { plan, write, counted, .. } = self.flush.take().expect("a flush is under way");
        let written = match &write {
            Some(write) => self.end_flush_write(write, host),
            None => Ok(()),
        };
        match self.unless_off(written)? {
            // Something else may have failed meanwhile: then nothing counts any more.
            _ if self.log.has_failed() => {}
            Ok(()) if counted => {}
            Ok(()) => self.count_flush(&plan, host),
            Err(error) => self.fail("writing", &error, host),
        }
        Ok(())
    }

    fn end_flush_write(&self, write: &Write, host: &mut Host<'_>) -> io::Result<()> {
        let written = match write.file.end_write(write.id) {
            Err(error) if error.kind() == io::ErrorKind::WriteZero => match self.bug {
                Some(Bug::BelieveAShortWrite) => Ok(()),
                _ => Err(error),
            },
            Err(error) if self.bug == Some(Bug::BelieveAWriteError) && !self.disk.is_off() => {
                host.trace.note(host.now_us, format_args!("believes {error}"));
                Ok(())
            }
            other => other,
        };
        written?;
        if self.shape.flush == FlushMode::Async || self.bug == Some(Bug::NeverSync) {
            return Ok(());
        }
        match write.file.sync_data() {
            Err(_) if self.bug == Some(Bug::BelieveASyncError) && !self.disk.is_off() => Ok(()),
            Err(_) if self.bug == Some(Bug::SyncAgainAndBelieve) => {
                self.disk.forget_sync_errors();
                write.file.sync_data()
            }
            other => other,
        }
    }

    fn count_flush(&mut self, plan: &FlushPlan, host: &mut Host<'_>) {
        self.log.flushed(plan);
        if let Some(flush) = &mut self.flush {
            flush.counted = true;
        }
        if self.shape.flush == FlushMode::Sync {
            self.durable_end = self.log.flushed_end();
        }
        host.trace.note(host.now_us, format_args!("flushed up to {}", self.log.flushed_end()));
    }

    fn begin_zeros(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        if self.zeros.is_some() || self.log.closed().is_some() {
            return Ok(());
        }
        let Some(chunk) = self.prewrite.next(self.log.placed_end(), self.log.ready_end()) else {
            return Ok(());
        };
        let mut offset = chunk.start.since(chunk.segment);
        if self.bug == Some(Bug::ZerosOverRecords) {
            offset = offset.saturating_sub(4096);
        }
        let begun = self.begin_direct(chunk.segment, Bytes::from(vec![0; chunk.bytes]), offset);
        self.zeros = Some(self.unless_off(begun)?.expect("a direct write can always begin"));
        let us = host.disk_time_us(&self.shape);
        host.after(us, Timer::ZerosDone);
        Ok(())
    }

    fn zeros_done(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        let zeros = self.zeros.take().expect("zeros are under way");
        let written = zeros.file.end_write(zeros.id);
        let written = self.unless_off(written)?;
        self.prewrite.done();
        if let Err(error) = written {
            self.fail("prewriting", &error, host);
        }
        if self.flush.as_ref().is_some_and(|flush| flush.waits_for_zeros) {
            if self.log.has_failed() {
                self.flush = None;
            } else {
                self.begin_write(host)?;
            }
        }
        Ok(())
    }

    /// The lazy flush mode: makes durable what is written.
    fn sync(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        let end = self.log.flushed_end();
        if end == self.durable_end || self.log.has_failed() {
            return Ok(());
        }
        let mut start = segment_start(self.durable_end, self.shape.segment_bytes);
        while start < end {
            let synced =
                self.disk.open_again(&segment_path(&log_dir(), start)).and_then(|file| file.sync_data());
            if let Err(error) = self.unless_off(synced)?
                && self.bug != Some(Bug::BelieveASyncError)
            {
                self.fail("syncing", &error, host);
                return Ok(());
            }
            start = start.plus(self.shape.segment_bytes);
        }
        self.durable_end = end;
        host.oracle.durable_before(end.get());
        host.trace.note(host.now_us, format_args!("synced up to {end}"));
        Ok(())
    }

    // What is written lazily.

    fn side_turn(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        self.side_turns += 1;
        self.store.hand_over_unsent();
        self.side.turn(self.side_turns.is_multiple_of(self.shape.snapshot_turns));
        self.store.take_rebuilt();
        if self.disk.is_off() {
            return Err(MachineOff);
        }
        self.learn_persisted(host);
        self.remove_what_is_old(host);
        Ok(())
    }

    fn learn_persisted(&mut self, host: &mut Host<'_>) {
        let mut still = Vec::new();
        for (mut write, what) in std::mem::take(&mut self.persisting) {
            match (at_once(write.as_mut()), what) {
                (None, what) => still.push((write, what)),
                (Some(Ok(())), Persisting::Offsets(offsets, generation)) => {
                    host.oracle.offsets_persisted(&offsets);
                    self.offsets_persisted = generation;
                }
                (Some(Err(_)), Persisting::Delays) => self.delay.not_persisted(),
                (Some(Ok(())), Persisting::Delays) | (Some(Err(_)), Persisting::Offsets(..)) => {}
            }
        }
        self.persisting = still;
    }

    fn persist(&mut self, host: &mut Host<'_>) {
        let generation = self.offsets.generation();
        if generation != self.offsets_persisted {
            let offsets = host.oracle.offsets_now();
            if self.bug == Some(Bug::OffsetsNeverWritten) {
                host.oracle.offsets_persisted(&offsets);
                self.offsets_persisted = generation;
            } else {
                let write = self.writer.write_offsets(offsets_path(), self.offsets.to_file());
                self.persisting.push((Box::pin(write.done()), Persisting::Offsets(offsets, generation)));
            }
        }
        if let Some(moved) = self.delay.take_moved() {
            let write = self.writer.write_offsets(delays_path(), delay_offset::to_file(&moved, host.now_ms));
            self.persisting.push((Box::pin(write.done()), Persisting::Delays));
        }
    }

    /// Stops as a process that was asked to: flushes, writes everything, leaves word that nothing has to be repaired. `false`: something
    /// could not be written.
    ///
    /// # Errors
    /// The machine stopped before the end.
    pub fn stop(mut self, host: &mut Host<'_>) -> Result<bool, MachineOff> {
        self.log.close(AppendRefusal::Stopping);
        loop {
            if self.zeros.is_some() {
                self.zeros_done(host)?;
            }
            if self.flush.is_some() {
                self.flush_done(host)?;
            }
            let results = self.give_out_results(host);
            if !results && !self.begin_flush(host)? {
                break;
            }
        }
        if self.shape.flush == FlushMode::Async {
            self.sync(host)?;
            if !self.log.has_failed() {
                let cleared = clear_marker(&self.disk);
                // It stays, and the next start looks closer.
                let _ = self.unless_off(cleared)?;
            }
        }
        self.persist(host);
        let exit = if self.log.has_failed() { StoreExit::Abnormal } else { StoreExit::Clean };
        let mut closing = Box::pin(self.store.close(exit));
        let mut closed = at_once(closing.as_mut());
        self.side.turn(false);
        if self.disk.is_off() {
            return Err(MachineOff);
        }
        self.learn_persisted(host);
        closed = closed.or_else(|| at_once(closing.as_mut()));
        let closed = closed.expect("the side thread has ended");
        Ok(closed.is_ok() && exit == StoreExit::Clean)
    }
}
