//! Reads what is no longer in memory, on the serve core: direct reads in whole chunks through a bounded cache, so that who reads
//! in order reads ahead, and old data never pushes out the hot tail.
//!
//! A chunk is read once however many ask for it, and at most [`READS_MAX`] reads are under way. While the log is written to, reads go
//! one at a time, and rest between each other in proportion to what they took: who writes must not notice who reads old data,
//! least of all while the disk is slow. A file that is still growing is cached with the length up to which its content was
//! final when the read began; who needs more reads again.
//!
//! A chunk that the disk refuses is read block by block, as much as each reader needs, so that only what cannot be read is lost to
//! him. It is lost when it was refused again and again, and the disk reads other places of the file: otherwise the whole disk is away.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_lock::Semaphore;
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;

use crate::consume_queue::QueueName;
use crate::io::cold_file::{ColdFile, DIRECT_ALIGNMENT};
use crate::io::disk::{Disk, DiskFile, is_about_the_place};
use crate::limits::FLUSH_BYTES_MAX;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::segment::segment_path;
use runtime::task::{sleep, spawn};

/// Bytes of one chunk of the CommitLog, and of a ConsumeQueue, of which one read needs less.
const SEGMENT_CHUNK_BYTES: u64 = 256 * 1024;
const QUEUE_CHUNK_BYTES: u64 = 32 * 1024;
/// Direct reads under way at once, per shard: as many bytes as one flush of the log has at most.
const READS_MAX: usize = 4;
/// The log counts as written to for so long after a commit.
const WRITTEN_TO: Duration = Duration::from_millis(500);
/// While the log is written to, reads rest so many times as long as the last one took, and at most so long.
const REST: u32 = 2;
const REST_MAX: Duration = Duration::from_millis(20);
/// A chunk that the disk refused is not asked for as a whole for so long, and so many are known at most: a disk may try for seconds.
const REFUSED_FOR: Duration = Duration::from_secs(60);
const REFUSED_MAX: usize = 1024;
/// So often must a chunk have had refusals until what the disk refuses of it counts as lost. Consumers wait for seconds in between.
const LOST_AFTER: u32 = 3;
/// Files kept open, per shard.
const OPEN_FILES_MAX: usize = 256;

const _: () = assert!(READS_MAX as u64 * SEGMENT_CHUNK_BYTES <= FLUSH_BYTES_MAX as u64);
const _: () = assert!(SEGMENT_CHUNK_BYTES.is_multiple_of(DIRECT_ALIGNMENT));
const _: () = assert!(QUEUE_CHUNK_BYTES.is_multiple_of(DIRECT_ALIGNMENT));

/// Why stored messages could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("cannot read {path} at byte {at}: {reason}")]
    Io { path: String, at: u64, reason: String },
    /// The disk refuses this place, asked again and again and for nothing else, and reads others of the same file: what was there is lost.
    #[error("the disk does not give back byte {at} of {path}: {reason}")]
    Unreadable { path: String, at: u64, reason: String },
    /// What is on the disk is not the record that was stored there. Nothing of it leaves the store.
    #[error(
        "the CommitLog is damaged at physical offset {at}: {reason}; `ringmq store verify` tells what is lost"
    )]
    Damaged { at: PhysicalOffset, reason: String },
    /// A ConsumeQueue file does not say what the CommitLog says. Deleting it makes the next start rebuild it.
    #[error(
        "the ConsumeQueue file {path} is damaged at byte {at}; stop the broker, delete the file and start again"
    )]
    DamagedQueue { path: String, at: u64 },
    /// The start found the files of the ConsumeQueue missing or damaged. They are being built anew from the CommitLog.
    #[error(
        "message {offset} of queue {queue_id} of {topic} cannot be read yet: the ConsumeQueue is being built anew from the CommitLog; try again"
    )]
    Rebuilding { topic: String, queue_id: u32, offset: QueueOffset },
}

/// A file that is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ColdName {
    /// The CommitLog file that starts there.
    Segment { start: PhysicalOffset },
    /// The file of a ConsumeQueue that starts at this byte of the queue.
    Queue { name: QueueName, file_start: u64 },
}

impl ColdName {
    fn chunk_bytes(&self) -> u64 {
        match self {
            Self::Segment { .. } => SEGMENT_CHUNK_BYTES,
            Self::Queue { .. } => QUEUE_CHUNK_BYTES,
        }
    }
}

/// A stretch of a file.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) name: ColdName,
    pub(crate) at: u64,
    pub(crate) len: usize,
    /// The content before this byte of the file is final. At least the end of the stretch.
    pub(crate) final_bytes: u64,
}

/// The cold reads of one shard. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct ColdReader {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Reads at once and past the cache, where there is no ring.
    blocking: Option<BlockingRead>,
    cache_bytes_max: usize,
    permits: Semaphore,
    /// Held by the one read that goes while the log is written to, and while it rests.
    beside_writes: Semaphore,
    /// When the log last committed something.
    committed: Cell<Option<Instant>>,
    state: RefCell<State>,
}

/// Fills the buffer from the place in the file.
type ReadExactAt = dyn Fn(&Path, &mut [u8], u64) -> io::Result<()>;

/// How a file is read without a ring.
struct BlockingRead(Box<ReadExactAt>);

impl fmt::Debug for BlockingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingRead")
    }
}

/// What a shard's cold reads came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ColdLoad {
    /// Chunks that were in the cache, or on their way into it.
    pub cache_hits: u64,
    /// Chunks that had to be read.
    pub cache_misses: u64,
    /// Bytes read from the disk.
    pub read_bytes: u64,
    /// Bytes in the cache now.
    pub cached_bytes: u64,
    /// Reads under way now, and those that wait for their turn.
    pub reads_under_way: u64,
    pub reads_waiting: u64,
    /// Time that reads have rested because the log was written to, microseconds.
    pub rested_micros: u64,
}

#[derive(Debug, Default)]
struct State {
    chunks: HashMap<(ColdName, u64), Chunk>,
    cached_bytes: usize,
    files: HashMap<ColdName, OpenFile>,
    flights: HashMap<(ColdName, u64), Rc<Flight>>,
    /// Chunks of which the disk refused a part, and when.
    refused: HashMap<(ColdName, u64), Instant>,
    /// How often somebody was refused a part of a chunk, twice each time.
    refusals: HashMap<(ColdName, u64), u32>,
    uses: u64,
    /// Counts what was forgotten: a read that began before must not enter the cache.
    forgets: u64,
    load: ColdLoad,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    final_bytes: u64,
    last_use: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: Rc<ColdFile>,
    last_use: u64,
}

/// A read of a chunk that is under way.
#[derive(Debug)]
struct Flight {
    final_bytes: u64,
    result: RefCell<Option<Result<Bytes, ReadError>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Flight {
    async fn landed(&self) -> Result<Bytes, ReadError> {
        poll_fn(|context| match &*self.result.borrow() {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn land(&self, result: Result<Bytes, ReadError>) {
        *self.result.borrow_mut() = Some(result);
        for waiting in self.waiting.take() {
            waiting.wake();
        }
    }
}

impl ColdReader {
    /// A reader for the shard at `dir` that caches at most `cache_bytes_max`.
    pub(crate) fn new(dir: PathBuf, cache_bytes_max: usize) -> Self {
        let inner = Inner {
            dir,
            blocking: None,
            cache_bytes_max,
            permits: Semaphore::new(READS_MAX),
            beside_writes: Semaphore::new(1),
            committed: Cell::new(None),
            state: RefCell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// A reader without ring, cache and rests, for a store that is driven by hand.
    pub(crate) fn blocking<D: Disk + 'static>(dir: PathBuf, disk: D) -> Self {
        let mut reader = Self::new(dir, 0);
        let read = move |path: &Path, buffer: &mut [u8], at| disk.open(path)?.read_exact_at(buffer, at);
        let inner = Rc::get_mut(&mut reader.inner).expect("nobody else has it yet");
        inner.blocking = Some(BlockingRead(Box::new(read)));
        reader
    }

    /// The log has committed something at `now`: reads make way for it.
    pub(crate) fn log_committed(&self, now: Instant) {
        self.inner.committed.set(Some(now));
    }

    /// Reads a stretch. The bytes are a part of a cached chunk where they lie in one.
    ///
    /// # Errors
    /// The disk refuses, or the file ends before the stretch does.
    pub(crate) async fn read(&self, stretch: &Stretch) -> Result<Bytes, ReadError> {
        assert!(stretch.at + stretch.len as u64 <= stretch.final_bytes, "only final content is read");
        if self.inner.blocking.is_some() {
            return self.read_once(stretch).await;
        }
        match self.read_chunks(stretch).await {
            Err(ReadError::Unreadable { .. }) => self.read_once(stretch).await,
            read => read,
        }
    }

    /// Reads a stretch through the cache. Unreadable when the disk refuses a chunk: there is more in it than the stretch.
    async fn read_chunks(&self, stretch: &Stretch) -> Result<Bytes, ReadError> {
        let chunk_bytes = stretch.name.chunk_bytes();
        let mut gathered = BytesMut::new();
        let mut at = stretch.at;
        let end = stretch.at + stretch.len as u64;
        loop {
            let index = at / chunk_bytes;
            let part_end = end.min((index + 1) * chunk_bytes);
            let chunk = self.chunk(&stretch.name, index, part_end, stretch.final_bytes).await?;
            let in_chunk = |at: u64| usize::try_from(at - index * chunk_bytes).expect("a place in a chunk");
            let (from, to) = (in_chunk(at), in_chunk(part_end));
            if to > chunk.len() {
                let path = self.inner.path(&stretch.name).display().to_string();
                return Err(ReadError::Io { path, at, reason: "the file ends before".to_owned() });
            }
            if at == stretch.at && part_end == end {
                return Ok(chunk.slice(from..to));
            }
            gathered.reserve(usize::try_from(end - at).expect("a record fits in memory"));
            gathered.extend_from_slice(&chunk[from..to]);
            at = part_end;
            if at == end {
                return Ok(gathered.freeze());
            }
        }
    }

    /// The chunk `index` of a file, with final content up to `needed` at least.
    async fn chunk(
        &self,
        name: &ColdName,
        index: u64,
        needed: u64,
        final_bytes: u64,
    ) -> Result<Bytes, ReadError> {
        let key = (name.clone(), index);
        let (flight, read) = {
            let mut state = self.inner.state.borrow_mut();
            state.uses += 1;
            let uses = state.uses;
            if let Some(chunk) = state.chunks.get_mut(&key).filter(|chunk| chunk.final_bytes >= needed) {
                chunk.last_use = uses;
                let bytes = chunk.bytes.clone();
                state.load.cache_hits += 1;
                return Ok(bytes);
            }
            if state.refused.get(&key).is_some_and(|refused| refused.elapsed() < REFUSED_FOR) {
                let at = index * name.chunk_bytes();
                return Err(self.inner.unreadable(name, at, "the chunk was refused a moment ago".to_owned()));
            }
            match state.flights.get(&key).filter(|flight| flight.final_bytes >= needed) {
                Some(flight) => {
                    let flight = Rc::clone(flight);
                    state.load.cache_hits += 1;
                    (flight, None)
                }
                None => {
                    state.load.cache_misses += 1;
                    let flight = Rc::new(Flight {
                        final_bytes,
                        result: RefCell::default(),
                        waiting: RefCell::default(),
                    });
                    state.flights.insert(key.clone(), Rc::clone(&flight));
                    let inner = Rc::clone(&self.inner);
                    let read = inner.read_chunk(key, Rc::clone(&flight), state.forgets);
                    (flight, Some(read))
                }
            }
        };
        if let Some(read) = read {
            // A task of its own: who asked may be gone before the read is done, and others wait for it. It begins at once, so that
            // nothing may be borrowed here.
            spawn(read);
        }
        flight.landed().await
    }

    /// What the reads have come to since the start.
    pub(crate) fn load(&self) -> ColdLoad {
        let state = self.inner.state.borrow();
        ColdLoad { cached_bytes: state.cached_bytes as u64, ..state.load.clone() }
    }

    /// Reads a stretch for somebody who does not come back: from the disk, and into no cache. No more is read than the blocks that it
    /// takes, so that a place which the disk refuses costs nothing else.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) async fn read_once(&self, stretch: &Stretch) -> Result<Bytes, ReadError> {
        let first = self.read_blocks(stretch).await;
        if !matches!(first, Err(ReadError::Unreadable { .. })) {
            return first;
        }
        match self.read_blocks(stretch).await {
            // A disk that refuses everything has lost nothing yet, and who refuses now may not refuse a moment later: whoever asks must come
            // back.
            Err(ReadError::Unreadable { path, at, reason })
                if !self.reads_elsewhere(stretch).await || !self.is_lost(stretch) =>
            {
                Err(ReadError::Io { path, at, reason })
            }
            second => second,
        }
    }

    /// Whether the disk has refused parts of the chunk where a stretch begins so often by now that they count as lost.
    fn is_lost(&self, stretch: &Stretch) -> bool {
        let chunk = stretch.at / stretch.name.chunk_bytes();
        let refusals = &mut self.inner.state.borrow_mut().refusals;
        if refusals.len() >= REFUSED_MAX {
            refusals.clear();
        }
        let times = refusals.entry((stretch.name.clone(), chunk)).or_default();
        *times = times.saturating_add(1);
        *times >= LOST_AFTER
    }

    /// Whether the disk gives back another place of the file: near the stretch, its beginning, or its end.
    async fn reads_elsewhere(&self, stretch: &Stretch) -> bool {
        let from = stretch.at - stretch.at % DIRECT_ALIGNMENT;
        let end = (stretch.at + stretch.len as u64).next_multiple_of(DIRECT_ALIGNMENT);
        let last = stretch.final_bytes.saturating_sub(1) / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
        for at in [Some(0), from.checked_sub(DIRECT_ALIGNMENT), Some(end), Some(last)].into_iter().flatten() {
            let other = Stretch { name: stretch.name.clone(), at, len: 1, final_bytes: stretch.final_bytes };
            if !(from..end).contains(&at) && self.read_blocks(&other).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Reads the blocks that a stretch takes, once.
    async fn read_blocks(&self, stretch: &Stretch) -> Result<Bytes, ReadError> {
        let name = &stretch.name;
        if let Some(BlockingRead(read)) = &self.inner.blocking {
            let mut bytes = vec![0; stretch.len];
            return read(&self.inner.path(name), &mut bytes, stretch.at)
                .map(|()| bytes.into())
                .map_err(|error| self.inner.refused(name, stretch.at, &error));
        }
        let from = stretch.at - stretch.at % DIRECT_ALIGNMENT;
        let end = stretch.at + stretch.len as u64;
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("a stretch fits in memory");
        let len = in_memory(end.next_multiple_of(DIRECT_ALIGNMENT) - from);
        let turn = self.inner.permits.acquire().await;
        let read = async { self.inner.file(name).await?.read(from, len).await };
        let bytes = read.await.map_err(|error| self.inner.refused(name, from, &error))?;
        drop(turn);
        let skip = in_memory(stretch.at - from);
        if bytes.len() < skip + stretch.len {
            let path = self.inner.path(name).display().to_string();
            return Err(ReadError::Io { path, at: from, reason: "the file ends before".to_owned() });
        }
        Ok(bytes.slice(skip..skip + stretch.len))
    }

    /// Whether the log was written to just now.
    pub(crate) fn is_written_to(&self) -> bool {
        self.inner.is_written_to()
    }

    /// Forgets what is cached of a stretch: it is wrong, or what it was read from is.
    pub(crate) fn forget(&self, stretch: &Stretch) {
        let chunk_bytes = stretch.name.chunk_bytes();
        let end = stretch.at + stretch.len as u64;
        let mut state = self.inner.state.borrow_mut();
        let state = &mut *state;
        state.forgets += 1;
        for index in stretch.at / chunk_bytes..end.div_ceil(chunk_bytes) {
            let key = (stretch.name.clone(), index);
            state.flights.remove(&key);
            if let Some(chunk) = state.chunks.remove(&key) {
                state.cached_bytes -= chunk.bytes.len();
            }
        }
    }

    /// Forgets everything that was read of a topic's ConsumeQueues, whose files are being removed.
    pub(crate) fn forget_topic(&self, topic: &Arc<str>) {
        self.forget_files(|name| matches!(name, ColdName::Queue { name, .. } if name.topic == *topic));
    }

    /// Forgets everything that was read of the log before `log_start`, whose files are being removed.
    pub(crate) fn forget_log_before(&self, log_start: PhysicalOffset) {
        self.forget_files(|name| matches!(name, ColdName::Segment { start } if *start < log_start));
    }

    fn forget_files(&self, is_forgotten: impl Fn(&ColdName) -> bool) {
        let mut state = self.inner.state.borrow_mut();
        let state = &mut *state;
        state.forgets += 1;
        state.files.retain(|name, _| !is_forgotten(name));
        state.flights.retain(|(name, _), _| !is_forgotten(name));
        state.chunks.retain(|(name, _), _| !is_forgotten(name));
        state.cached_bytes = state.chunks.values().map(|chunk| chunk.bytes.len()).sum();
    }
}

impl Inner {
    fn path(&self, name: &ColdName) -> PathBuf {
        match name {
            ColdName::Segment { start } => segment_path(&self.dir.join("commitlog"), *start),
            ColdName::Queue { name, file_start } => name.file_path(&self.dir, *file_start),
        }
    }

    /// Reads a chunk when it is its turn.
    async fn read_chunk(self: Rc<Self>, key: (ColdName, u64), flight: Rc<Flight>, forgets: u64) {
        self.state.borrow_mut().load.reads_waiting += 1;
        let turn = self.permits.acquire().await;
        let beside_writes = match self.is_written_to() {
            true => Some(self.beside_writes.acquire().await),
            false => None,
        };
        {
            let load = &mut self.state.borrow_mut().load;
            load.reads_waiting -= 1;
            load.reads_under_way += 1;
        }
        let began = Instant::now();
        let result = self.read_from_disk(&key).await;
        let took = began.elapsed();
        drop(turn);
        self.landed(key, &flight, forgets, result);
        if beside_writes.is_some() {
            let rested = Instant::now();
            sleep((took * REST).min(REST_MAX)).await;
            let rested = u64::try_from(rested.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.state.borrow_mut().load.rested_micros += rested;
        }
    }

    /// Keeps what was read, and gives it to all who wait for it.
    fn landed(
        &self,
        key: (ColdName, u64),
        flight: &Rc<Flight>,
        forgets: u64,
        result: Result<Bytes, ReadError>,
    ) {
        {
            let mut state = self.state.borrow_mut();
            state.load.reads_under_way -= 1;
            if state.flights.get(&key).is_some_and(|known| Rc::ptr_eq(known, flight)) {
                state.flights.remove(&key);
            }
            state.load.read_bytes += result.as_ref().map_or(0, |bytes| bytes.len() as u64);
            if let Ok(bytes) = &result
                && state.forgets == forgets
            {
                state.keep(key, bytes.clone(), flight.final_bytes, self.cache_bytes_max);
            }
        }
        flight.land(result);
    }

    fn is_written_to(&self) -> bool {
        self.committed.get().is_some_and(|committed| committed.elapsed() < WRITTEN_TO)
    }

    async fn read_from_disk(&self, (name, index): &(ColdName, u64)) -> Result<Bytes, ReadError> {
        let chunk_bytes = name.chunk_bytes();
        let at = index * chunk_bytes;
        let read = async {
            let len = usize::try_from(chunk_bytes).expect("a chunk fits in memory");
            self.file(name).await?.read(at, len).await
        };
        read.await.map_err(|error| {
            let refused = self.refused(name, at, &error);
            if matches!(refused, ReadError::Unreadable { .. }) {
                self.state.borrow_mut().refuse((name.clone(), *index));
            }
            refused
        })
    }

    /// What an error of the disk means.
    fn refused(&self, name: &ColdName, at: u64, error: &io::Error) -> ReadError {
        if is_about_the_place(error) {
            return self.unreadable(name, at, error.to_string());
        }
        ReadError::Io { path: self.path(name).display().to_string(), at, reason: error.to_string() }
    }

    fn unreadable(&self, name: &ColdName, at: u64, reason: String) -> ReadError {
        ReadError::Unreadable { path: self.path(name).display().to_string(), at, reason }
    }

    async fn file(&self, name: &ColdName) -> std::io::Result<Rc<ColdFile>> {
        {
            let mut state = self.state.borrow_mut();
            state.uses += 1;
            let uses = state.uses;
            if let Some(open) = state.files.get_mut(name) {
                open.last_use = uses;
                return Ok(Rc::clone(&open.file));
            }
        }
        let forgets = self.state.borrow().forgets;
        let file = Rc::new(ColdFile::open(&self.path(name)).await?);
        let mut state = self.state.borrow_mut();
        if state.forgets == forgets {
            let last_use = state.uses;
            state.files.insert(name.clone(), OpenFile { file: Rc::clone(&file), last_use });
            if state.files.len() > OPEN_FILES_MAX
                && let Some(oldest) =
                    state.files.iter().min_by_key(|(_, open)| open.last_use).map(|(name, _)| name.clone())
            {
                state.files.remove(&oldest);
            }
        }
        Ok(file)
    }
}

impl State {
    fn refuse(&mut self, key: (ColdName, u64)) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(key, Instant::now());
    }

    fn keep(&mut self, key: (ColdName, u64), bytes: Bytes, final_bytes: u64, bytes_max: usize) {
        if self.chunks.get(&key).is_some_and(|known| known.final_bytes >= final_bytes) {
            return;
        }
        self.cached_bytes += bytes.len();
        self.uses += 1;
        let chunk = Chunk { bytes, final_bytes, last_use: self.uses };
        if let Some(before) = self.chunks.insert(key, chunk) {
            self.cached_bytes -= before.bytes.len();
        }
        while self.cached_bytes > bytes_max {
            let oldest =
                self.chunks.iter().min_by_key(|(_, chunk)| chunk.last_use).map(|(key, _)| key.clone());
            let Some(chunk) = oldest.and_then(|key| self.chunks.remove(&key)) else { return };
            self.cached_bytes -= chunk.bytes.len();
        }
    }
}
