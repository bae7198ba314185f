//! The side thread of a shard: everything that is written lazily and buffered, so that no core waits for it.
//!
//! It takes what was derived from the log every 100 ms, writes ConsumeQueue and index files when enough of it waits, and every 5
//! seconds all of it, and makes them durable with a snapshot of their positions. It also writes the configuration files and looks
//! up index keys. A disk that is full or refuses does not stop it: it says so, keeps what it has, and tries again; serving goes on
//! from memory.
//!
//! [`SideWriter`] is its handle on the serve core. What is told back: how far the log is covered by written files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::consume_queue::files::QueueStart;
use crate::deliberate::{Mistake, makes};
use crate::derived_files::{DerivedBacklog, DerivedBatch, DerivedFiles};
use crate::index_file::{IndexLayout, KeyLookup, Slots};
use crate::io::disk::Disk;
use crate::position::PhysicalOffset;
use crate::positions::Positions;
use crate::retention::{DiskSurvey, SegmentAge};
use crate::segment::{list_segments, segment_path};

mod rebuild;
mod removal;

use rebuild::RebuildPass;
use removal::{Leaving, Removal};

/// How often what was derived is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// So many ConsumeQueue entries are written before the next snapshot, which bounds the memory that they take. Not fewer: with
/// thousands of queues each file is opened for every write, and what that costs is to be shared by many entries.
const WRITE_ENTRIES: usize = 256 << 10;
/// Building files anew takes this part of the thread's time while messages come in, and all of it otherwise.
const REBUILD_SHARE: u32 = 4;
/// How often everything is written and made durable.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the thread waits after the disk refused, and how often it says so.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// Batches on their way to the thread. When more wait, the serve core joins them into one.
const BATCHES_MAX: usize = 1024;
/// Requests on their way to the thread. Further ones are refused.
const REQUESTS_MAX: usize = 4096;

/// The handle of a shard's side thread. Clones share the thread.
#[derive(Clone, Debug)]
pub struct SideWriter {
    batches: flume::Sender<DerivedBatch>,
    requests: flume::Sender<Request>,
    /// Once, when ConsumeQueues that were built anew are whole: the queues whose starts have moved.
    whole_queues: flume::Receiver<Vec<QueueStart>>,
    progress: Arc<Progress>,
}

/// What the side thread goes on from.
#[derive(Debug)]
pub struct RecoveredSide {
    pub(crate) dir: PathBuf,
    /// Size of one CommitLog file, bytes.
    pub(crate) segment_bytes: u64,
    pub(crate) index: IndexLayout,
    pub(crate) positions: Positions,
}

/// How far the thread is; written by it, read on the serve core.
#[derive(Debug)]
struct Progress {
    /// Everything derived from the log before this is in the files.
    written: AtomicU64,
    /// ConsumeQueue entries written since the start.
    written_entries: AtomicU64,
    /// Bytes of log that are still to be read for the files that are being built anew.
    rebuild_left_bytes: AtomicU64,
}

#[derive(Debug)]
enum Request {
    WriteConfig {
        path: PathBuf,
        contents: Vec<u8>,
        /// Whether it speaks of positions in the log.
        follows_log: bool,
        done: flume::Sender<Result<(), ConfigWriteError>>,
    },
    Find {
        lookup: KeyLookup,
        done: flume::Sender<io::Result<Vec<PhysicalOffset>>>,
    },
    /// What the log's files and the disk are like.
    Survey {
        done: flume::Sender<io::Result<DiskSurvey>>,
    },
    /// The log begins at `log_start` from now on: the files before go.
    Remove {
        log_start: PhysicalOffset,
        brisk_above_percent: f64,
        done: flume::Sender<io::Result<Vec<QueueStart>>>,
    },
    Close {
        is_clean: bool,
        done: flume::Sender<io::Result<()>>,
    },
}

/// A file to write, and who waits for it.
struct WaitingConfig {
    path: PathBuf,
    contents: Vec<u8>,
    follows_log: bool,
    done: Vec<flume::Sender<Result<(), ConfigWriteError>>>,
}

/// Why a file of a shard's configuration could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigWriteError {
    #[error("cannot write {path}: {reason}")]
    Io { path: String, reason: String },
    #[error(
        "cannot write {path}: {REQUESTS_MAX} requests to the side thread wait already; the disk is too slow"
    )]
    Busy { path: String },
    #[error("cannot write {path}: the store is closing")]
    Closing { path: String },
}

/// The completion of [`SideWriter::write_config`].
#[derive(Debug)]
pub struct ConfigWrite {
    path: PathBuf,
    /// An error that was known at once, or where the result arrives.
    result: Result<flume::Receiver<Result<(), ConfigWriteError>>, ConfigWriteError>,
}

impl ConfigWrite {
    /// Waits until the file is durable. Dropping this instead does not cancel the write.
    ///
    /// # Errors
    /// The file could not be written; the one before is still there.
    pub async fn done(self) -> Result<(), ConfigWriteError> {
        let closing = ConfigWriteError::Closing { path: self.path.display().to_string() };
        self.result?.recv_async().await.unwrap_or(Err(closing))
    }
}

impl SideWriter {
    /// Starts the side thread of the shard that was recovered.
    ///
    /// # Errors
    /// The files cannot be opened, or the thread cannot be started.
    pub fn start<D: Disk + 'static>(disk: D, recovered: RecoveredSide) -> io::Result<Self> {
        let (writer, work) = Self::without_thread(disk, recovered)?;
        std::thread::Builder::new().name("side-writer".to_owned()).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| work.run());
            if std::panic::catch_unwind(run).is_err() {
                // The panic has been printed. A broker without this thread would fill its memory and lose its offsets.
                tracing::error!("the side thread of a shard panicked, the process ends");
                std::process::abort();
            }
        })?;
        Ok(writer)
    }

    /// The handle and the work, for a caller that does the work himself by [`SideWork::turn`], as the simulator does.
    ///
    /// # Errors
    /// The files cannot be opened.
    pub fn without_thread<D: Disk>(disk: D, recovered: RecoveredSide) -> io::Result<(Self, SideWork<D>)> {
        let RecoveredSide { dir, segment_bytes, index, positions } = recovered;
        let progress = Arc::new(Progress {
            written: AtomicU64::new(positions.log_end),
            written_entries: AtomicU64::new(0),
            rebuild_left_bytes: AtomicU64::new(0),
        });
        let files = DerivedFiles::open(disk, &dir, segment_bytes, index, positions, Slots::Read)?;
        let (batches, batches_in) = flume::bounded(BATCHES_MAX);
        let (requests, requests_in) = flume::bounded(REQUESTS_MAX);
        let (whole_queues_out, whole_queues) = flume::bounded(1);
        let rebuild = RebuildPass::begin(&files, &dir, segment_bytes);
        let work = SideWork {
            dir,
            segment_bytes,
            files,
            batches: batches_in,
            requests: requests_in,
            whole_queues: whole_queues_out,
            progress: Arc::clone(&progress),
            unwritten: DerivedBacklog::default(),
            removal: None,
            leaving: Leaving::default(),
            rebuild,
            complained: None,
        };
        work.tell_rebuild();
        Ok((Self { batches, requests, whole_queues, progress }, work))
    }

    /// Replaces the file at `path` durably and atomically; the file before stays as `path` + `.bak`. Of several writes of one
    /// file that wait, only the last is done, and completes all.
    pub fn write_config(&self, path: PathBuf, contents: Vec<u8>) -> ConfigWrite {
        self.ask_to_write(path, contents, false)
    }

    /// As [`Self::write_config`], for a file that speaks of messages in the log, such as offsets: everything that is readable by now is
    /// durable before the file changes. Otherwise, with lazy flushing, a power cut could leave a group behind the end of its queue, or
    /// a delayed message delivered that is nowhere.
    pub fn write_offsets(&self, path: PathBuf, contents: Vec<u8>) -> ConfigWrite {
        self.ask_to_write(path, contents, true)
    }

    fn ask_to_write(&self, path: PathBuf, contents: Vec<u8>, follows_log: bool) -> ConfigWrite {
        let (done, result) = flume::bounded(1);
        let shown = path.display().to_string();
        let request = Request::WriteConfig { path: path.clone(), contents, follows_log, done };
        let result = match self.requests.try_send(request) {
            Ok(()) => Ok(result),
            Err(flume::TrySendError::Full(_)) => Err(ConfigWriteError::Busy { path: shown }),
            Err(flume::TrySendError::Disconnected(_)) => Err(ConfigWriteError::Closing { path: shown }),
        };
        ConfigWrite { path, result }
    }

    /// The content of a file written by [`Self::write_config`], or of its `.bak` when it is missing or empty; `None` when
    /// there is neither. Blocks: for start.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn read_config<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<Vec<u8>>> {
        for path in [path.to_owned(), backup_path(path)] {
            match disk.read_file(&path, usize::MAX) {
                Ok(contents) if !contents.is_empty() => return Ok(Some(contents)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Everything derived from the log before this is in the files.
    pub(crate) fn written(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.progress.written.load(Ordering::Acquire))
    }

    /// ConsumeQueue entries written since the start.
    pub(crate) fn written_entries(&self) -> u64 {
        self.progress.written_entries.load(Ordering::Relaxed)
    }

    /// Bytes of log that are still to be read for the files that are being built anew; 0 when none is.
    pub(crate) fn rebuild_left_bytes(&self) -> u64 {
        self.progress.rebuild_left_bytes.load(Ordering::Relaxed)
    }

    /// Says once that the ConsumeQueues which were built anew are whole, with those whose starts have moved.
    pub(crate) fn take_whole_queues(&self) -> Option<Vec<QueueStart>> {
        self.whole_queues.try_recv().ok()
    }

    /// Hands over a batch; gives it back while too many wait.
    pub(crate) fn try_write(&self, batch: DerivedBatch) -> Option<DerivedBatch> {
        self.batches.try_send(batch).err().map(flume::TrySendError::into_inner)
    }

    /// Looks up a key in the index, with everything that was handed over before. Error: the thread has stopped.
    pub(crate) async fn find(&self, lookup: KeyLookup) -> io::Result<Vec<PhysicalOffset>> {
        self.ask(move |done| Request::Find { lookup, done }).await
    }

    /// What the files of the log and the disk are like.
    pub(crate) fn survey(&self) -> impl Future<Output = io::Result<DiskSurvey>> + 'static + use<> {
        self.ask(|done| Request::Survey { done })
    }

    /// Removes the files of the log before `log_start`, in small steps, which are larger while the disk is fuller than
    /// `brisk_above_percent`. Returns the queues whose starts have moved with it, as soon as they have.
    pub(crate) fn remove_before(
        &self,
        log_start: PhysicalOffset,
        brisk_above_percent: f64,
    ) -> impl Future<Output = io::Result<Vec<QueueStart>>> + 'static + use<> {
        self.ask(move |done| Request::Remove { log_start, brisk_above_percent, done })
    }

    fn ask<T: 'static, F: FnOnce(flume::Sender<io::Result<T>>) -> Request + 'static>(
        &self,
        request: F,
    ) -> impl Future<Output = io::Result<T>> + 'static + use<T, F> {
        let requests = self.requests.clone();
        async move {
            let (done, result) = flume::bounded(1);
            let stopped = || io::Error::other("the store is closing");
            requests.send_async(request(done)).await.map_err(|_| stopped())?;
            result.recv_async().await.map_err(|_| stopped())?
        }
    }

    /// Writes all that was handed over, then `last`, makes it durable and ends the thread; with `is_clean`, the next start need not
    /// repair.
    pub(crate) fn close(
        &self,
        mut last: DerivedBacklog,
        is_clean: bool,
    ) -> impl Future<Output = io::Result<()>> + 'static + use<> {
        let (batches, requests) = (self.batches.clone(), self.requests.clone());
        async move {
            let stopped = || io::Error::other("the side thread has stopped already");
            while let Some(batch) = last.pop() {
                batches.send_async(batch).await.map_err(|_| stopped())?;
            }
            let (done, result) = flume::bounded(1);
            requests.send_async(Request::Close { is_clean, done }).await.map_err(|_| stopped())?;
            result.recv_async().await.map_err(|_| stopped())?
        }
    }
}

/// What the side thread does, and holds.
pub struct SideWork<D: Disk> {
    dir: PathBuf,
    /// Size of one CommitLog file, bytes.
    segment_bytes: u64,
    files: DerivedFiles<D>,
    batches: flume::Receiver<DerivedBatch>,
    requests: flume::Receiver<Request>,
    whole_queues: flume::Sender<Vec<QueueStart>>,
    progress: Arc<Progress>,
    /// Taken from `batches` and not completely in the files.
    unwritten: DerivedBacklog,
    /// Files were taken out of the log, and queues and index are to follow.
    removal: Option<(Removal, flume::Sender<io::Result<Vec<QueueStart>>>)>,
    leaving: Leaving,
    /// Files that the start found missing or damaged are being built anew.
    rebuild: Option<RebuildPass>,
    /// When a failing disk was last spoken of.
    complained: Option<Instant>,
}

impl<D: Disk> SideWork<D> {
    /// Takes what was handed over and asked for, writes it and answers; with `takes_snapshot`, makes all of it durable. True when the
    /// work is over.
    pub fn turn(&mut self, takes_snapshot: bool) -> bool {
        let requests: Vec<_> = self.requests.try_iter().collect();
        let result = self
            .look(takes_snapshot, true)
            .and_then(|()| self.remove_some())
            .and_then(|()| self.rebuild_some());
        self.complain(&result);
        self.serve(requests)
    }

    fn run(mut self) {
        let mut look_at = Instant::now() + LOOK_INTERVAL;
        let mut snapshot_at = Instant::now() + SNAPSHOT_INTERVAL;
        let mut rebuild_at = Instant::now();
        loop {
            let wake_at = if self.rebuild.is_some() { look_at.min(rebuild_at) } else { look_at };
            let request = self.requests.recv_timeout(wake_at.saturating_duration_since(Instant::now()));
            let mut requests = Vec::new();
            match request {
                Ok(request) => requests.push(request),
                Err(flume::RecvTimeoutError::Timeout) => {}
                // Every handle is gone without a close: the process ends otherwise, and recovery repairs.
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
            requests.extend(self.requests.try_iter());
            let now = Instant::now();
            let looks = requests.iter().any(|request| matches!(request, Request::Find { .. }));
            if now >= look_at || looks {
                let takes_snapshot = now >= snapshot_at;
                if takes_snapshot {
                    snapshot_at = now + SNAPSHOT_INTERVAL;
                }
                let mut result = self.look(takes_snapshot, looks);
                if now >= look_at {
                    result = result.and_then(|()| self.remove_some());
                    look_at = now + if result.is_ok() { LOOK_INTERVAL } else { RETRY_INTERVAL };
                }
                self.complain(&result);
            }
            if self.rebuild.is_some() && now >= rebuild_at {
                let result = self.rebuild_some();
                self.complain(&result);
                let is_beside_writes = !self.batches.is_empty() || self.unwritten.entries() > 0;
                let rest = match result {
                    Ok(()) if is_beside_writes => now.elapsed() * (REBUILD_SHARE - 1),
                    Ok(()) => Duration::ZERO,
                    Err(_) => RETRY_INTERVAL,
                };
                rebuild_at = Instant::now() + rest;
            }
            if self.serve(requests) {
                return;
            }
        }
    }

    /// Looks at what the serve core handed over, and writes it when that is wanted or time.
    fn look(&mut self, takes_snapshot: bool, writes: bool) -> io::Result<()> {
        self.take_batches();
        if takes_snapshot {
            self.write_batches().and_then(|()| self.files.snapshot())
        } else if writes || self.unwritten.entries() >= WRITE_ENTRIES || self.complained.is_some() {
            self.write_batches()
        } else {
            Ok(())
        }
    }

    /// Does a step of the removal that is under way.
    fn remove_some(&mut self) -> io::Result<()> {
        if let Some((removal, _)) = &mut self.removal
            && removal.step(&mut self.files)?
            && let Some((removal, done)) = self.removal.take()
        {
            // Whoever no longer waits has closed the store.
            let _ = done.send(Ok(removal.into_moved()));
        }
        self.leaving.step(self.files.disk())
    }

    /// Does a step of building files anew.
    fn rebuild_some(&mut self) -> io::Result<()> {
        let Some(pass) = &mut self.rebuild else { return Ok(()) };
        if let Some(starts) = pass.step(&mut self.files)? {
            // Whoever no longer waits has closed the store.
            let _ = self.whole_queues.send(starts);
        }
        if !self.files.is_rebuilding() {
            self.rebuild = None;
            // In case that all queues which were to be told of were deleted.
            let _ = self.whole_queues.try_send(Vec::new());
        }
        self.tell_rebuild();
        Ok(())
    }

    fn tell_rebuild(&self) {
        let left_bytes = self.rebuild.as_ref().map_or(0, |pass| pass.left_bytes(&self.files));
        self.progress.rebuild_left_bytes.store(left_bytes, Ordering::Relaxed);
    }

    /// Takes what the serve core handed over.
    fn take_batches(&mut self) {
        for batch in self.batches.try_iter() {
            self.unwritten.push(batch);
        }
    }

    /// Writes what was taken.
    fn write_batches(&mut self) -> io::Result<()> {
        while let Some(mut batch) = self.unwritten.pop() {
            if let Err(error) = self.files.write(&mut batch) {
                self.unwritten.put_back(batch);
                return Err(error);
            }
            self.progress.written_entries.fetch_add(batch.entries.len() as u64, Ordering::Relaxed);
            self.progress.written.store(self.files.covered().log_end.get(), Ordering::Release);
        }
        Ok(())
    }

    fn survey(&self) -> io::Result<DiskSurvey> {
        let (disk, log_dir) = (self.files.disk(), self.dir.join("commitlog"));
        let starts = list_segments(disk, &log_dir, self.segment_bytes).map_err(io::Error::other)?;
        let age = |start| {
            let modified_ms = disk.modified_ms(&segment_path(&log_dir, start))?;
            Ok(SegmentAge { start, modified_ms })
        };
        let segments = starts.into_iter().map(age).collect::<io::Result<_>>()?;
        Ok(DiskSurvey { segments, usage: disk.usage(&log_dir)?, leaving_bytes: self.leaving.bytes() })
    }

    fn complain(&mut self, result: &io::Result<()>) {
        let Err(error) = result else {
            if self.complained.take().is_some() {
                tracing::info!(dir = %self.dir.display(), "ConsumeQueue and index files can be written again");
            }
            return;
        };
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            tracing::error!(
                dir = %self.dir.display(),
                %error,
                "cannot write ConsumeQueue and index files, or remove old ones; messages are served from memory, trying again"
            );
            self.complained = Some(Instant::now());
        }
    }

    /// Answers requests; true when the thread is to end.
    fn serve(&mut self, requests: Vec<Request>) -> bool {
        let mut configs: Vec<WaitingConfig> = Vec::new();
        let mut close = None;
        // Whoever no longer waits for an answer has no use for it: failed sends are let go.
        for request in requests {
            match request {
                Request::WriteConfig { path, contents, follows_log, done } => {
                    if let Some(waiting) = configs.iter_mut().find(|waiting| waiting.path == path) {
                        waiting.contents = contents;
                        waiting.done.push(done);
                    } else {
                        configs.push(WaitingConfig { path, contents, follows_log, done: vec![done] });
                    }
                }
                Request::Find { lookup, done } => {
                    let _ = done.send(self.files.find(&lookup));
                }
                Request::Survey { done } => {
                    let _ = done.send(self.survey());
                }
                Request::Remove { log_start, brisk_above_percent, done } => {
                    assert!(self.removal.is_none(), "one removal at a time");
                    match Removal::begin(
                        &mut self.files,
                        &self.dir,
                        self.segment_bytes,
                        log_start,
                        brisk_above_percent,
                        &mut self.leaving,
                    ) {
                        Ok(removal) => self.removal = Some((removal, done)),
                        Err(error) => {
                            let _ = done.send(Err(error));
                        }
                    }
                }
                Request::Close { is_clean, done } => close = Some((is_clean, done)),
            }
        }
        for WaitingConfig { path, contents, follows_log, done } in configs {
            let log_synced = match follows_log && !makes(Mistake::OffsetsAheadOfTheLog) {
                true => self.files.sync_log(),
                false => Ok(()),
            };
            let replaced = log_synced.and_then(|()| replace_config(self.files.disk(), &path, &contents));
            let result = replaced.map_err(|error| ConfigWriteError::Io {
                path: path.display().to_string(),
                reason: error.to_string(),
            });
            for done in done {
                let _ = done.send(result.clone());
            }
        }
        let Some((is_clean, done)) = close else { return false };
        self.take_batches();
        if let Err(error) = self.leaving.hurry(self.files.disk()) {
            tracing::warn!(dir = %self.dir.display(), %error, "the next start removes old CommitLog files");
        }
        let result = self.write_batches().and_then(|()| self.files.finish()).and_then(|()| match is_clean {
            true => remove_abort(self.files.disk(), &self.dir),
            false => Ok(()),
        });
        self.complain(&result);
        let _ = done.send(result);
        true
    }
}

/// The marker of a shard that is in use, as RocketMQ's: there at a start, it says that the last exit was not clean.
pub(crate) fn abort_path(dir: &Path) -> PathBuf {
    dir.join("abort")
}

pub(crate) fn remove_abort<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
    disk.remove_file(&abort_path(dir))?;
    disk.sync_dir(dir)
}

fn backup_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    PathBuf::from(name)
}

fn replace_config<D: Disk>(disk: &D, path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.create_dir_all(dir)?;
    match disk.read_file(path, usize::MAX) {
        // The copy is complete before the file changes, so that one of the two is always whole.
        Ok(before) => disk.write_file_atomically(&backup_path(path), &before)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    disk.write_file_atomically(path, contents)
}
