//! The log half of a shard, on its log core: takes batches, writes them, says what is durable.
//!
//! [`CommitLog`] decides; this file does the I/O that follows. Three tasks of one core work on it:
//! - the flush loop ([`LogShard::run`]): one write under way at a time; what is appended meanwhile goes out with the
//!   next one;
//! - the preparation: makes the next segment when half of the last one is used, and prewrites zeros ahead of the
//!   records;
//! - in the lazy flush mode, the syncing every half second.
//!
//! No borrow of the log lives across an await. A failed write or sync ends the shard's life as a log: see
//! [`CommitLog::fail`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::append::{AppendBatch, AppendRefusal, Committed};
use crate::commit_log::flush_plan::FlushPlan;
use crate::commit_log::prewrite::{CHUNK_BYTES, Chunk, Prewrite};
use crate::commit_log::scan::UNSYNCED_MARKER;
use crate::commit_log::{CommitLog, CommitLogConfig, PAGE_BYTES, RecoveredLog};
use crate::io::block::BlockPool;
use crate::io::disk::{Disk, StdDisk};
use crate::io::log_file::{LogFile, UNFINISHED_SUFFIX, WriteKind, ZeroBuffer, sync_dir};
use crate::limits::{FLUSH_BYTES_MAX, SEGMENT_BYTES_MIN, UNSYNCED_BYTES_MAX};
use crate::log_failure;
use crate::log_meter::{LogLoad, LogMeter};
use crate::position::PhysicalOffset;
use crate::segment::{segment_path, segment_start};
use runtime::host::free_bytes;
use runtime::task::{Signal, sleep, spawn, yield_now};

/// How often the lazy flush mode syncs.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait before the next try on a full disk.
const ROOM_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// While there is no hurry, prewriting rests this many times as long as it writes.
const PREWRITE_REST: u32 = 4;

const _: () = assert!(UNSYNCED_BYTES_MAX >= 2 * FLUSH_BYTES_MAX as u64);

/// When a message is acknowledged (RocketMQ's `flushDiskType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// After its write is durable.
    #[default]
    Sync,
    /// After its write is done; durable at most half a second later. A killed process loses nothing, a power cut may.
    Async,
}

/// Where and how a shard's log is written.
#[derive(Clone, Debug)]
pub struct LogShardConfig {
    /// The folder of the segments, which exists, in the folder of the shard.
    pub dir: PathBuf,
    /// Size of one segment, bytes, a multiple of 4096.
    pub segment_bytes: u64,
    /// What a new segment leaves free on the disk, bytes: for offsets, ConsumeQueues and whoever else writes there.
    pub disk_reserve_bytes: u64,
    pub flush: FlushMode,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot make the CommitLog file {path} of {needed_bytes} bytes, {free_bytes} are free: {source}")]
    NoRoom { path: PathBuf, needed_bytes: u64, free_bytes: u64, source: io::Error },
    #[error(
        "CommitLog files of {segment_bytes} bytes are not possible: a multiple of {PAGE_BYTES}, at least \
         {SEGMENT_BYTES_MIN}, is needed"
    )]
    SegmentBytes { segment_bytes: u64 },
}

/// How a log is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Set when a write failed: nothing is taken or acknowledged any more.
    pub failed: Option<String>,
    /// Set while the next segment cannot be made, or a write finds no room.
    pub disk_full: Option<String>,
    pub placed_end: PhysicalOffset,
    pub confirm_offset: PhysicalOffset,
    pub flushes: u64,
    pub flushed_bytes: u64,
    /// Time that writes took, in all and the longest, microseconds.
    pub flush_micros: u64,
    pub flush_micros_max: u64,
    /// Times a flush waited for zeros that were being written in its place.
    pub prewrite_waits: u64,
}

/// What a write that found no room says, until it finds some.
type NoRoom = RefCell<Option<String>>;

/// The log half of one shard. `!Send`: it lives and dies on its log core.
#[derive(Debug)]
pub struct LogShard {
    config: LogShardConfig,
    log: RefCell<CommitLog>,
    prewrite: RefCell<Prewrite>,
    /// The segments that may still be written to or must be synced, by their starts.
    files: RefCell<BTreeMap<PhysicalOffset, Rc<LogFile>>>,
    /// Everything before this survives a power cut.
    durable_end: Cell<PhysicalOffset>,
    counters: RefCell<LogStatus>,
    meter: LogMeter,
    /// Set while a write of records, or of zeros ahead of them, finds no room: what and where.
    no_room: NoRoom,
    no_room_ahead: NoRoom,
    /// Set while a segment could not be made and it is too early to try again.
    segment_rests: Cell<bool>,
    stopping: Cell<bool>,
    /// Set when the flush loop is over and the other tasks must end.
    ending: Cell<bool>,

    flush_wake: Signal,
    prepare_wake: Signal,
    prewritten: Signal,
    prepare_ended: Signal,
    sync_wake: Signal,
    synced: Signal,
    sync_ended: Signal,
}

impl LogShard {
    /// Opens the log where recovery left it, and makes the first segment of a new one. What recovery found is durable
    /// after that.
    ///
    /// # Errors
    /// When a file cannot be opened, made or synced.
    pub async fn open(
        recovered: RecoveredLog,
        config: LogShardConfig,
        pool: BlockPool,
    ) -> Result<Rc<Self>, LogError> {
        let segment_bytes = config.segment_bytes;
        if segment_bytes < SEGMENT_BYTES_MIN || !segment_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(LogError::SegmentBytes { segment_bytes });
        }
        remove_unfinished(&config.dir)?;
        sync_recovered(&config, &recovered).await?;
        set_marker(&config)?;
        forget_failure(&config)?;

        let end = recovered.end;
        let mut files = BTreeMap::new();
        for start in recovered.segments.iter().filter(|start| start.plus(segment_bytes) > end) {
            let path = segment_path(&config.dir, *start);
            let file = LogFile::open(path.clone(), config.write_kind())
                .await
                .map_err(|source| LogError::Io { action: "open", path, source })?;
            files.insert(*start, Rc::new(file));
        }
        let written_end = written_end(&files, end, segment_bytes);
        let log_config = CommitLogConfig { segment_bytes, flush_bytes_max: FLUSH_BYTES_MAX };
        let shard = Self {
            log: RefCell::new(CommitLog::new(recovered, log_config, pool)),
            prewrite: RefCell::new(Prewrite::new(segment_bytes, written_end)),
            files: RefCell::new(files),
            durable_end: Cell::new(end),
            counters: RefCell::default(),
            meter: LogMeter::new(),
            no_room: NoRoom::default(),
            no_room_ahead: NoRoom::default(),
            segment_rests: Cell::new(false),
            stopping: Cell::new(false),
            ending: Cell::new(false),
            flush_wake: Signal::default(),
            prepare_wake: Signal::default(),
            prewritten: Signal::default(),
            prepare_ended: Signal::default(),
            sync_wake: Signal::default(),
            synced: Signal::default(),
            sync_ended: Signal::default(),
            config,
        };
        if shard.log.borrow().ready_end() == end {
            shard.make_segment().await.map_err(|(path, source)| LogError::NoRoom {
                free_bytes: free_bytes(&shard.config.dir).unwrap_or(0),
                needed_bytes: shard.config.segment_needs_bytes(),
                path,
                source,
            })?;
        }
        Ok(Rc::new(shard))
    }

    /// Places the records of `batch`, in order and behind all earlier ones. Their results come through [`Self::run`],
    /// in order too.
    pub fn append(&self, batch: AppendBatch) {
        let (records, arrived) = (batch.count, Instant::now());
        self.log.borrow_mut().append(batch, now_ms());
        self.meter.appended(records, arrived);
        self.flush_wake.raise();
    }

    /// Takes no more batches; [`Self::run`] ends when what was placed is written.
    pub fn stop(&self) {
        self.log.borrow_mut().close(AppendRefusal::Stopping);
        self.stopping.set(true);
        self.flush_wake.raise();
    }

    pub fn status(&self) -> LogStatus {
        let log = self.log.borrow();
        let failed = log.has_failed().then(|| log.closed().map(ToString::to_string)).flatten();
        LogStatus {
            failed,
            disk_full: log
                .disk_full()
                .map(ToString::to_string)
                .or_else(|| self.no_room.borrow().clone())
                .or_else(|| self.no_room_ahead.borrow().clone()),
            placed_end: log.placed_end(),
            confirm_offset: log.confirm_offset(),
            ..self.counters.borrow().clone()
        }
    }

    /// What was counted since the start.
    pub fn load(&self) -> LogLoad {
        let placed_end = self.log.borrow().placed_end();
        self.meter.load(placed_end.get().saturating_sub(self.durable_end.get().get()))
    }

    /// Writes what is placed, and gives each commit to `deliver`. Returns after [`Self::stop`], when everything is
    /// durable, delivered and closed. Call it once.
    pub async fn run(self: Rc<Self>, deliver: impl AsyncFn(Committed)) {
        spawn(Rc::clone(&self).prepare());
        if self.config.flush == FlushMode::Async {
            spawn(Rc::clone(&self).sync_again_and_again());
            spawn(Rc::clone(&self).tick());
        }
        loop {
            while let Some(committed) = self.take_committed() {
                deliver(committed).await;
                // What has arrived by now is served first, so that it goes out with the next flush and not the one after.
                yield_now().await;
            }
            if self.wants_preparation() {
                self.prepare_wake.raise();
            }
            self.await_bounded_unsynced().await;
            let plan = self.log.borrow_mut().plan_flush();
            if let Some(plan) = plan {
                self.flush(&plan).await;
            } else if self.stopping.get() && self.log.borrow().is_idle() {
                break;
            } else if !self.has_results() {
                self.flush_wake.wait().await;
            }
        }
        self.end().await;
    }

    fn take_committed(&self) -> Option<Committed> {
        let mut committed = self.log.borrow_mut().take_committed()?;
        committed.times = self.meter.committed(committed.outcomes.len());
        Some(committed)
    }

    /// Whether results came up while something else was awaited.
    fn has_results(&self) -> bool {
        self.log.borrow().has_results()
    }

    async fn flush(&self, plan: &FlushPlan) {
        if self.prewrite.borrow().is_in_the_way_of(plan) {
            self.counters.borrow_mut().prewrite_waits += 1;
        }
        while self.prewrite.borrow().is_in_the_way_of(plan) {
            self.prewritten.wait().await;
        }
        if self.log.borrow().has_failed() {
            return;
        }
        let file = Rc::clone(&self.files.borrow()[&plan.segment]);
        let written = loop {
            let mut buffer = file.buffer(plan.bytes);
            self.log.borrow().fill(plan, buffer.as_mut());
            assert!(!self.prewrite.borrow().is_in_the_way_of(plan), "zeros never cross a flush");
            let started = Instant::now();
            let written = file.write(buffer, plan.file_offset()).await;
            let took = started.elapsed();
            self.meter.flushed(started, took, plan.bytes);
            self.count_flush(plan, took);
            if !self.may_find_room(&written, file.path(), &self.no_room).await {
                break written;
            }
        };
        match written {
            // While this was written the other file's sync may have failed: then nothing counts any more.
            Ok(()) if self.log.borrow().has_failed() => {}
            Ok(()) => {
                self.log.borrow_mut().flushed(plan);
                if self.config.flush == FlushMode::Sync {
                    self.durable(self.log.borrow().flushed_end());
                }
            }
            Err(error) => self.fail("writing", file.path(), &error),
        }
    }

    /// Whether a write that found no room is to be done again; waits before. Nothing of it was promised, and all of it is written anew at
    /// its place: no error is believed to be over that could have taken bytes with it. A file of the log has its room from the
    /// beginning, unless its file system cannot give it or takes some for copies.
    async fn may_find_room(&self, written: &io::Result<()>, path: &Path, no_room: &NoRoom) -> bool {
        match written {
            Err(error) if is_full(error) && !self.stopping.get() && !self.log.borrow().has_failed() => {
                let what = format!("no room to write {}: {error}; free some space", path.display());
                if no_room.replace(Some(what)).is_none() {
                    tracing::warn!(path = %path.display(), %error, "a write of the log is tried again every second");
                }
                sleep(ROOM_RETRY_INTERVAL).await;
                !self.log.borrow().has_failed()
            }
            _ => {
                no_room.take();
                false
            }
        }
    }

    fn count_flush(&self, plan: &FlushPlan, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut counters = self.counters.borrow_mut();
        counters.flushes += 1;
        counters.flushed_bytes += plan.bytes as u64;
        counters.flush_micros = counters.flush_micros.saturating_add(micros);
        counters.flush_micros_max = counters.flush_micros_max.max(micros);
    }

    /// Everything before `end` is durable: files that end there are done with.
    fn durable(&self, end: PhysicalOffset) {
        self.durable_end.set(end);
        let mut files = self.files.borrow_mut();
        while let Some(first) = files.first_entry()
            && first.key().plus(self.config.segment_bytes) <= end
        {
            close_in_background(first.remove());
        }
    }

    fn fail(&self, action: &str, path: &Path, error: &io::Error) {
        let reason = format!("{action} {} failed: {error}", path.display());
        tracing::error!(%reason, "the CommitLog takes and acknowledges nothing any more; restart the broker when the disk is well");
        self.log.borrow_mut().fail(reason.clone());
        write_down_failure(&self.config, reason);
        self.flush_wake.raise();
        self.synced.raise();
    }

    async fn end(&self) {
        self.ending.set(true);
        self.prepare_wake.raise();
        self.prepare_ended.wait().await;
        if self.config.flush == FlushMode::Async {
            self.sync_wake.raise();
            self.sync_ended.wait().await;
            if !self.log.borrow().has_failed()
                && let Err(error) = clear_marker(&self.config)
            {
                tracing::warn!(%error, "the marker of the lazy flush mode stays; the next start looks closer");
            }
        }
        let files = std::mem::take(&mut *self.files.borrow_mut());
        for file in files.into_values() {
            if let Ok(file) = Rc::try_unwrap(file) {
                file.close().await;
            }
        }
    }

    // Preparation: segments and zeros ahead of the records.

    fn wants_segment(&self) -> bool {
        let log = self.log.borrow();
        let ahead = log.ready_end().since(log.placed_end());
        !self.segment_rests.get() && ahead < self.config.segment_bytes / 2 && log.closed().is_none()
    }

    fn wants_preparation(&self) -> bool {
        let log = self.log.borrow();
        let wants_zeros = self.prewrite.borrow().wants(log.placed_end(), log.ready_end());
        self.wants_segment() || (wants_zeros && log.closed().is_none())
    }

    async fn prepare(self: Rc<Self>) {
        let mut zeros = None;
        while !self.ending.get() {
            if self.wants_segment() {
                if let Err((path, error)) = self.make_segment().await {
                    self.segment_not_made(&path, &error);
                }
                continue;
            }
            match self.next_chunk() {
                Some(chunk) => self.prewrite_chunk(chunk, &mut zeros).await,
                None => self.prepare_wake.wait().await,
            }
        }
        self.prepare_ended.raise();
    }

    /// The next zeros to write. None once the log is closed: after a failure its positions say nothing about a write
    /// that is still under way.
    fn next_chunk(&self) -> Option<Chunk> {
        let log = self.log.borrow();
        if log.closed().is_some() {
            return None;
        }
        self.prewrite.borrow_mut().next(log.placed_end(), log.ready_end())
    }

    async fn make_segment(&self) -> Result<(), (PathBuf, io::Error)> {
        let start = self.log.borrow().ready_end();
        let path = segment_path(&self.config.dir, start);
        // Asking first spares a full file system a large allocation that is taken back at once, every second.
        if free_bytes(&self.config.dir).is_ok_and(|free| free < self.config.segment_needs_bytes()) {
            return Err((path, io::ErrorKind::StorageFull.into()));
        }
        let made = LogFile::make(path.clone(), self.config.segment_bytes, self.config.write_kind()).await;
        let file = made.map_err(|error| (path, error))?;
        self.files.borrow_mut().insert(start, Rc::new(file));
        self.log.borrow_mut().segment_ready(now_ms());
        self.flush_wake.raise();
        Ok(())
    }

    fn segment_not_made(self: &Rc<Self>, path: &Path, error: &io::Error) {
        // Nothing was ever written there: whatever went wrong, the log up to here is as good as before.
        let refusal = match error {
            error if is_full(error) => AppendRefusal::DiskFull {
                path: self.config.dir.display().to_string(),
                free_bytes: free_bytes(&self.config.dir).unwrap_or(0),
                needed_bytes: self.config.segment_needs_bytes(),
            },
            _ => AppendRefusal::NoSegment { path: path.display().to_string(), reason: error.to_string() },
        };
        if self.log.borrow().disk_full().is_none() {
            tracing::warn!(%refusal, "the next CommitLog file cannot be made; it is tried again every second");
        }
        self.log.borrow_mut().segment_missing(refusal, now_ms());
        self.flush_wake.raise();
        self.segment_rests.set(true);
        let shard = Rc::clone(self);
        spawn(async move {
            sleep(ROOM_RETRY_INTERVAL).await;
            shard.segment_rests.set(false);
            shard.prepare_wake.raise();
        });
    }

    async fn prewrite_chunk(&self, chunk: Chunk, zeros: &mut Option<ZeroBuffer>) {
        let started = Instant::now();
        let file = Rc::clone(&self.files.borrow()[&chunk.segment]);
        let offset = chunk.start.since(chunk.segment);
        let zeros = match chunk.bytes {
            CHUNK_BYTES => zeros.get_or_insert_with(|| file.zero_buffer(CHUNK_BYTES)),
            bytes => &mut file.zero_buffer(bytes),
        };
        let written = loop {
            let written = file.write_zeros(zeros, offset).await;
            if !self.may_find_room(&written, file.path(), &self.no_room_ahead).await {
                break written;
            }
        };
        self.prewrite.borrow_mut().done();
        self.prewritten.raise();
        if let Err(error) = written {
            self.fail("prewriting", file.path(), &error);
        }
        let in_a_hurry = self.prewrite.borrow().is_urgent(self.log.borrow().placed_end());
        if !in_a_hurry && !self.ending.get() {
            sleep(started.elapsed() * PREWRITE_REST).await;
        }
    }

    // The lazy flush mode.

    /// Waits until the next flush keeps what is not durable within its bound, which recovery relies on.
    async fn await_bounded_unsynced(&self) {
        if self.config.flush == FlushMode::Sync {
            return;
        }
        loop {
            let flushed_end = self.log.borrow().flushed_end();
            let unsynced_then = flushed_end.plus(FLUSH_BYTES_MAX as u64).since(self.durable_end.get());
            if unsynced_then <= UNSYNCED_BYTES_MAX || self.log.borrow().has_failed() {
                return;
            }
            self.sync_wake.raise();
            self.synced.wait().await;
        }
    }

    async fn tick(self: Rc<Self>) {
        while !self.ending.get() {
            sleep(SYNC_INTERVAL).await;
            self.sync_wake.raise();
        }
    }

    async fn sync_again_and_again(self: Rc<Self>) {
        loop {
            self.sync_wake.wait().await;
            // The last round is the one that began after the last flush.
            let is_last = self.ending.get();
            self.sync().await;
            self.synced.raise();
            if is_last {
                break;
            }
        }
        self.sync_ended.raise();
    }

    async fn sync(&self) {
        let end = self.log.borrow().flushed_end();
        if end == self.durable_end.get() || self.log.borrow().has_failed() {
            return;
        }
        let written: Vec<_> = self.files.borrow().range(..end).map(|(_, file)| Rc::clone(file)).collect();
        for file in written {
            if let Err(error) = file.sync().await {
                self.fail("syncing", file.path(), &error);
                return;
            }
        }
        self.durable(end);
    }
}

impl LogShardConfig {
    /// What must be free for a segment to be made, bytes.
    fn segment_needs_bytes(&self) -> u64 {
        self.segment_bytes.saturating_add(self.disk_reserve_bytes)
    }

    fn write_kind(&self) -> WriteKind {
        match self.flush {
            FlushMode::Sync => WriteKind::Durable,
            FlushMode::Async => WriteKind::Plain,
        }
    }

    fn shard_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(Path::new("."))
    }

    fn marker(&self) -> PathBuf {
        self.shard_dir().join(UNSYNCED_MARKER)
    }
}

/// How far the log is written from `end` on, over as many segments as are full.
fn written_end(
    files: &BTreeMap<PhysicalOffset, Rc<LogFile>>,
    end: PhysicalOffset,
    segment_bytes: u64,
) -> PhysicalOffset {
    let mut at = end;
    while let Some(file) = files.get(&segment_start(at, segment_bytes)) {
        let start = segment_start(at, segment_bytes);
        let written = start.plus(file.written_end(at.since(start)).min(segment_bytes));
        if written != start.plus(segment_bytes) {
            return written;
        }
        at = written;
    }
    at
}

fn remove_unfinished(dir: &Path) -> Result<(), LogError> {
    let io_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| LogError::Io { action, path, source }
    };
    for name in StdDisk.list(dir).map_err(io_error("list", dir))? {
        if name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes()) {
            let path = dir.join(name);
            StdDisk.remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes durable what recovery read, names of segments too: the process before may have died between a change and its
/// sync, and what is read is then confirmed and served.
async fn sync_recovered(config: &LogShardConfig, recovered: &RecoveredLog) -> Result<(), LogError> {
    let end = recovered.end;
    let may_be_unsynced = |start: &&PhysicalOffset| {
        **start <= end && start.plus(config.segment_bytes + UNSYNCED_BYTES_MAX) >= end
    };
    for start in recovered.segments.iter().filter(may_be_unsynced) {
        let path = segment_path(&config.dir, *start);
        let io_error = |source| LogError::Io { action: "sync", path: path.clone(), source };
        let file = LogFile::open(path.clone(), WriteKind::Plain).await.map_err(io_error)?;
        file.sync().await.map_err(io_error)?;
        file.close().await;
    }
    sync_dir(&config.dir).await.map_err(|source| LogError::Io {
        action: "sync",
        path: config.dir.clone(),
        source,
    })
}

/// Whether an error is over when there is more room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Leaves word for recovery whether more than one flush may be lost.
fn set_marker(config: &LogShardConfig) -> Result<(), LogError> {
    let path = config.marker();
    let set = match config.flush {
        FlushMode::Async => StdDisk.write_file_atomically(&path, b""),
        FlushMode::Sync => clear_marker(config),
    };
    set.map_err(|source| LogError::Io { action: "write or remove", path, source })
}

fn clear_marker(config: &LogShardConfig) -> io::Result<()> {
    let path = config.marker();
    if !StdDisk.exists(&path)? {
        return Ok(());
    }
    StdDisk.remove_file(&path)?;
    StdDisk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Off this core, which others need: the disk may be slow to refuse.
fn write_down_failure(config: &LogShardConfig, reason: String) {
    let dir = config.shard_dir().to_owned();
    let write = move || {
        if let Err(error) = log_failure::write(&StdDisk, &dir, &reason) {
            tracing::warn!(%error, "that the log failed could not be written down for `ringmq check`");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("log-failure".to_owned()).spawn(write) {
        tracing::warn!(%error, "that the log failed could not be written down for `ringmq check`");
    }
}

fn forget_failure(config: &LogShardConfig) -> Result<(), LogError> {
    let dir = config.shard_dir();
    let io_error = |source| LogError::Io { action: "write to", path: dir.to_owned(), source };
    if let Some(reason) = log_failure::forget(&StdDisk, dir).map_err(io_error)? {
        tracing::warn!(%reason, "the log failed in an earlier run; it is opened anew");
    }
    Ok(())
}

fn close_in_background(file: Rc<LogFile>) {
    // Whoever else holds it is about to let go; then dropping it closes it.
    if let Ok(file) = Rc::try_unwrap(file) {
        spawn(file.close());
    }
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
