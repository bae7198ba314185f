//! Writes the ConsumeQueue files: on the side thread, and in recovery.
//!
//! Writing an entry again with the same content is harmless, so that a batch which failed half-way is simply written again.
//! Nothing is durable before [`QueueFiles::unsynced`] was synced.

use std::io;
use std::path::{Path, PathBuf};

use hashbrown::{HashMap, HashSet};

use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, QueueHandle, QueueName, file_place};
use crate::deliberate::{Mistake, makes};
use crate::io::disk::{Disk, DiskFile, is_about_the_place};
use crate::position::{PhysicalOffset, QueueOffset};

/// Files that are kept open. Beyond it, the half that was used least recently is closed.
const OPEN_FILES_MAX: usize = 512;
/// Bytes of entries read at once when a queue's start moves.
const READ_BYTES: usize = 32 * 1024 / ENTRY_BYTES * ENTRY_BYTES;
/// Fillers written at once.
const FILL_BYTES: usize = 64 * 1024 / ENTRY_BYTES * ENTRY_BYTES;

/// An entry on its way into the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedEntry {
    pub(crate) queue: QueueHandle,
    pub(crate) offset: QueueOffset,
    pub(crate) entry: Entry,
}

/// A queue as its files have it.
#[derive(Clone, Debug)]
pub(crate) struct QueueState {
    pub(crate) name: QueueName,
    pub(crate) min: QueueOffset,
    pub(crate) max: QueueOffset,
    pub(crate) first_physical: PhysicalOffset,
    pub(crate) is_deleted: bool,
}

/// Where a queue starts from now on, as the log before it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueStart {
    pub(crate) queue: QueueHandle,
    pub(crate) min: QueueOffset,
    /// Where the message at `min` is, or a position before it.
    pub(crate) first_physical: PhysicalOffset,
}

/// The ConsumeQueue files of a shard.
pub(crate) struct QueueFiles<D: Disk> {
    dir: PathBuf,
    queues: Vec<QueueState>,
    open: HashMap<FileKey, OpenFile<D::File>>,
    uses: u64,
    unsynced: HashSet<FileKey>,
    /// Files all of whose entries are before the start of their queue.
    expired: Vec<FileKey>,
}

/// A queue and where the file starts in it.
type FileKey = (QueueHandle, u64);

struct OpenFile<F> {
    file: F,
    last_use: u64,
}

impl<D: Disk> QueueFiles<D> {
    pub(crate) fn new(dir: &Path, queues: Vec<QueueState>) -> Self {
        Self {
            dir: dir.to_owned(),
            queues,
            open: HashMap::new(),
            uses: 0,
            unsynced: HashSet::new(),
            expired: Vec::new(),
        }
    }

    pub(crate) fn queues(&self) -> &[QueueState] {
        &self.queues
    }

    /// Adds a queue without entries; its handle must be the next one.
    pub(crate) fn add(&mut self, handle: QueueHandle, name: QueueName) {
        assert_eq!(handle.index(), self.queues.len(), "queues are added in the order of their handles");
        self.queues.push(QueueState {
            name,
            min: QueueOffset::ZERO,
            max: QueueOffset::ZERO,
            first_physical: PhysicalOffset::ZERO,
            is_deleted: false,
        });
    }

    /// Writes `entries`, which must be in the order of offsets for each queue. Those that the files have already are left out.
    ///
    /// # Errors
    /// A file cannot be made or written. Some entries may have been written; the call can be repeated.
    pub(crate) fn write(&mut self, disk: &D, entries: &[QueuedEntry]) -> io::Result<()> {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|at| entries[*at].queue);
        let mut order = order.as_slice();
        let mut bytes = Vec::new();
        while let Some(first) = order.first().map(|at| entries[*at]) {
            let state = &self.queues[first.queue.index()];
            let is_first = state.is_deleted || state.min == state.max;
            if first.offset < state.max && !state.is_deleted {
                order = &order[1..];
                continue;
            }
            let (_, place) = file_place(first.offset);
            let room = usize::try_from((FILE_BYTES - place) / ENTRY_BYTES as u64).expect("a file's entries");
            bytes.clear();
            let mut count = 0;
            while let Some(next) = order.get(count).map(|at| entries[*at]) {
                if next.queue != first.queue || count == room {
                    break;
                }
                assert_eq!(next.offset, first.offset.plus(count as u64), "dense, {:?}", state.name);
                bytes.extend_from_slice(&next.entry.encode());
                count += 1;
            }
            assert!(is_first || first.offset == state.max, "{:?} has no gap", state.name);
            // The file of a queue whose messages have all been removed still has their entries.
            let goes_on = !state.is_deleted && state.max == first.offset && state.max > QueueOffset::ZERO;
            self.write_run(disk, first, &bytes, is_first.then_some(goes_on))?;
            let state = &mut self.queues[first.queue.index()];
            if is_first {
                state.is_deleted = false;
                state.min = first.offset;
                state.first_physical = first.entry.physical_offset;
            }
            state.max = first.offset.plus(count as u64);
            order = &order[count..];
        }
        Ok(())
    }

    /// Writes entries of messages that the queues have already, in the order of offsets for each queue; those before the start of a queue are
    /// left out.
    ///
    /// # Errors
    /// A file cannot be made or written. Some entries may have been written; the call can be repeated.
    pub(crate) fn write_again(&mut self, disk: &D, entries: &[QueuedEntry]) -> io::Result<()> {
        let has = |entry: &&QueuedEntry| {
            let state = &self.queues[entry.queue.index()];
            !state.is_deleted && (state.min..state.max).contains(&entry.offset)
        };
        let mut entries: Vec<QueuedEntry> = entries.iter().filter(has).copied().collect();
        entries.sort_by_key(|entry| entry.queue);
        let is_one_run = |one: &QueuedEntry, next: &QueuedEntry| {
            one.queue == next.queue
                && next.offset == one.offset.plus(1)
                && file_place(one.offset).0 == file_place(next.offset).0
        };
        for run in entries.chunk_by(is_one_run) {
            let bytes: Vec<u8> = run.iter().flat_map(|entry| entry.entry.encode()).collect();
            self.write_run(disk, run[0], &bytes, None)?;
        }
        Ok(())
    }

    /// Writes entries that follow each other into one file. For the first ones of a queue, `begins` says whether the file goes on with what
    /// it has, if it is there.
    fn write_run(
        &mut self,
        disk: &D,
        first: QueuedEntry,
        bytes: &[u8],
        begins: Option<bool>,
    ) -> io::Result<()> {
        let (file_start, place) = file_place(first.offset);
        let (file, is_new) = self.file(disk, (first.queue, file_start))?;
        if place > 0 && begins.is_some_and(|goes_on| is_new || !goes_on) {
            fill(file, place)?;
        }
        file.write_all_at(bytes, place)?;
        self.unsynced.insert((first.queue, file_start));
        Ok(())
    }

    /// The open file, and whether it was made now.
    fn file(&mut self, disk: &D, (queue, file_start): FileKey) -> io::Result<(&D::File, bool)> {
        self.uses += 1;
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(&(queue, file_start)) {
            self.close_least_used();
        }
        let Self { dir, queues, open, uses, .. } = self;
        match open.entry((queue, file_start)) {
            hashbrown::hash_map::Entry::Occupied(open) => {
                let open = open.into_mut();
                open.last_use = *uses;
                Ok((&open.file, false))
            }
            hashbrown::hash_map::Entry::Vacant(place) => {
                let path = queues[queue.index()].name.file_path(dir, file_start);
                let dir = path.parent().expect("a queue's file is in its folder");
                disk.create_dir_all(dir)?;
                let file = disk.open_or_create(&path)?;
                let is_new = file.len()? != FILE_BYTES;
                if is_new {
                    file.set_len(FILE_BYTES)?;
                }
                Ok((&place.insert(OpenFile { file, last_use: *uses }).file, is_new))
            }
        }
    }

    fn close_least_used(&mut self) {
        let mut uses: Vec<u64> = self.open.values().map(|open| open.last_use).collect();
        let half = uses.len() / 2;
        let (_, middle, _) = uses.select_nth_unstable(half);
        let middle = *middle;
        self.open.retain(|_, open| open.last_use >= middle);
    }

    /// Files written since [`Self::synced`].
    pub(crate) fn unsynced(&self) -> Vec<PathBuf> {
        let mut keys: Vec<_> = self.unsynced.iter().copied().collect();
        keys.sort_unstable();
        let path =
            |(queue, file_start): FileKey| self.queues[queue.index()].name.file_path(&self.dir, file_start);
        keys.into_iter().map(path).collect()
    }

    /// All that [`Self::unsynced`] named is durable.
    pub(crate) fn synced(&mut self) {
        self.unsynced.clear();
    }

    /// Removes the files of a queue and remembers where its offsets go on.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub(crate) fn delete(&mut self, disk: &D, handle: QueueHandle) -> io::Result<()> {
        self.open.retain(|(queue, _), _| *queue != handle);
        let state = &mut self.queues[handle.index()];
        state.is_deleted = true;
        state.min = state.max;
        let dir = state.name.dir(&self.dir);
        self.unsynced.retain(|(queue, _)| *queue != handle);
        self.expired.retain(|(queue, _)| *queue != handle);
        disk.remove_dir_all(&dir)?;
        // The topic's folder goes with its last queue.
        let topic_dir = dir.parent().expect("a queue's folder is in its topic's folder");
        if disk.list(topic_dir)?.is_empty() {
            disk.remove_dir_all(topic_dir)?;
        }
        Ok(())
    }

    /// Lets a queue without entries go on at `offset`.
    ///
    /// # Errors
    /// As [`Self::keep_place`].
    pub(crate) fn start_empty_at(
        &mut self,
        disk: &D,
        queue: QueueHandle,
        offset: QueueOffset,
    ) -> io::Result<()> {
        let state = &mut self.queues[queue.index()];
        assert_eq!(state.min, state.max, "{:?} has no entries", state.name);
        (state.min, state.max) = (offset, offset);
        self.keep_place(disk, queue)
    }

    /// Makes the file of a queue all of whose messages are gone, if it is not there: it says where the queue goes on, should nothing else be
    /// left to say it ([`crate::consume_queue::places`]).
    ///
    /// # Errors
    /// The file cannot be made. The call can be repeated.
    pub(crate) fn keep_place(&mut self, disk: &D, queue: QueueHandle) -> io::Result<()> {
        let state = &self.queues[queue.index()];
        let Some(last) =
            state.max.get().checked_sub(1).filter(|_| state.min == state.max && !state.is_deleted)
        else {
            return Ok(());
        };
        let (file_start, place) = file_place(QueueOffset::new(last));
        if let (file, true) = self.file(disk, (queue, file_start))? {
            fill(file, place + ENTRY_BYTES as u64)?;
            self.unsynced.insert((queue, file_start));
        }
        Ok(())
    }

    /// Moves the start of a queue behind the entries of records before `log_start`, which are being removed; `log_end` is up to where the
    /// log is known here. `None` when the queue starts there anyway. The start is never moved past an entry that does not say that its
    /// record is gone.
    ///
    /// # Errors
    /// A file cannot be read. Nothing was changed.
    pub(crate) fn advance_start(
        &mut self,
        disk: &D,
        queue: QueueHandle,
        log_start: PhysicalOffset,
        log_end: PhysicalOffset,
    ) -> io::Result<Option<QueueStart>> {
        let state = &self.queues[queue.index()];
        if state.is_deleted || state.min == state.max || state.first_physical >= log_start {
            return Ok(None);
        }
        let (mut min, first_physical) = self.first_kept(disk, state, log_start, log_end)?;
        if makes(Mistake::QueueStartTooFar) {
            min = min.plus(1).min(state.max);
        }
        let start = QueueStart { queue, min, first_physical };
        self.move_start(&start);
        Ok(Some(start))
    }

    /// Lets a queue begin where `start` says, unless it begins later anyway.
    pub(crate) fn move_start(&mut self, start: &QueueStart) {
        self.start_at(start.queue, start.min);
        let state = &mut self.queues[start.queue.index()];
        state.first_physical = state.first_physical.max(start.first_physical);
    }

    /// Lets a queue begin at `min`, unless it begins later anyway. Files that only hold what is before go after the next snapshot.
    pub(crate) fn start_at(&mut self, queue: QueueHandle, min: QueueOffset) {
        let state = &mut self.queues[queue.index()];
        if state.is_deleted || min <= state.min {
            return;
        }
        assert!(min <= state.max, "{:?} does not start behind its end", state.name);
        // The newest file stays: it says where the queue goes on.
        let newest_file = file_place(QueueOffset::new(state.max.get() - 1)).0;
        let mut file_start = file_place(state.min).0;
        while file_start < newest_file.min(file_place(min).0) {
            self.expired.push((queue, file_start));
            file_start += FILE_BYTES;
        }
        state.min = min;
    }

    /// The offset behind the last entry of a record before `log_start` that no entry of a later record precedes.
    fn first_kept(
        &self,
        disk: &D,
        state: &QueueState,
        log_start: PhysicalOffset,
        log_end: PhysicalOffset,
    ) -> io::Result<(QueueOffset, PhysicalOffset)> {
        let (mut min, mut next) = (state.min, state.min);
        let mut bytes = vec![0; READ_BYTES];
        let mut open: Option<(u64, D::File)> = None;
        while next < state.max {
            let (file_start, place) = file_place(next);
            let path = state.name.file_path(&self.dir, file_start);
            let wanted = (state.max.since(next) * ENTRY_BYTES as u64).min(FILE_BYTES - place);
            let len = usize::try_from(wanted).map_or(READ_BYTES, |wanted| wanted.min(READ_BYTES));
            let read = match &open {
                Some((start, file)) if *start == file_start => file.read_exact_at(&mut bytes[..len], place),
                _ => disk.open(&path).and_then(|file| {
                    let (_, file) = open.insert((file_start, file));
                    file.read_exact_at(&mut bytes[..len], place)
                }),
            };
            match read {
                Err(error) if is_about_the_place(&error) || error.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), place, %error, "the queue keeps entries of removed messages, as these cannot be read");
                    return Ok((min, state.first_physical));
                }
                read => read?,
            }
            for entry in bytes[..len].chunks_exact(ENTRY_BYTES) {
                let entry = Entry::decode(entry.try_into().expect("chunks have this length"));
                next = next.plus(1);
                match entry.map(|entry| entry.physical_offset) {
                    Some(at) if at < log_start => min = next,
                    // A damaged entry may name a live message: the start stays before it.
                    Some(at) if at < log_end => {
                        let is_first = next == min.plus(1);
                        return Ok((min, if is_first { at } else { log_start }));
                    }
                    _ => {}
                }
            }
        }
        Ok((min, log_start))
    }

    /// Removes the files that no queue starts in or behind any more. The positions that say so must be durable.
    ///
    /// # Errors
    /// A file cannot be removed; the call can be repeated.
    pub(crate) fn remove_expired(&mut self, disk: &D) -> io::Result<()> {
        while let Some(key) = self.expired.last().copied() {
            let (queue, file_start) = key;
            disk.remove_file(&self.queues[queue.index()].name.file_path(&self.dir, file_start))?;
            self.open.remove(&key);
            self.unsynced.remove(&key);
            self.expired.pop();
        }
        Ok(())
    }

    /// Cuts the files behind the entries of each queue, durably, so that nothing that was written there remains. Files before its start go
    /// too.
    ///
    /// # Errors
    /// A file cannot be cut.
    pub(crate) fn cut(&mut self, disk: &D) -> io::Result<()> {
        for (queue, state) in (0..).map(QueueHandle).zip(&self.queues) {
            let dir = state.name.dir(&self.dir);
            if state.is_deleted || state.max == QueueOffset::ZERO {
                disk.remove_dir_all(&dir)?;
                continue;
            }
            let (last_start, place) = file_place(state.max);
            let newest_start = file_place(QueueOffset::new(state.max.get() - 1)).0;
            let first_start = file_place(state.min).0.min(newest_start);
            for name in disk.list(&dir)? {
                let path = dir.join(&name);
                let start = name.to_str().and_then(|name| name.parse::<u64>().ok());
                match start {
                    Some(start) if (first_start..last_start).contains(&start) => {}
                    Some(start) if start == last_start && place > 0 => {
                        let file = disk.open(&path)?;
                        file.set_len(place)?;
                        file.set_len(FILE_BYTES)?;
                        self.unsynced.insert((queue, start));
                    }
                    _ => disk.remove_file(&path)?,
                }
            }
        }
        Ok(())
    }
}

/// Writes fillers into the first `bytes` bytes.
fn fill<F: DiskFile>(file: &F, bytes: u64) -> io::Result<()> {
    let fillers = Entry::filler().repeat(FILL_BYTES / ENTRY_BYTES);
    let mut at = 0;
    while at < bytes {
        let part = usize::try_from(bytes - at).map_or(FILL_BYTES, |rest| rest.min(FILL_BYTES));
        file.write_all_at(&fillers[..part], at)?;
        at += part as u64;
    }
    Ok(())
}
