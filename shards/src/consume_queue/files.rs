//! Writes the ConsumeQueue files: on the side thread, and in recovery.
//!
//! Writing an entry again with the same content is harmless, so that a batch which failed half-way is simply written again.
//! Nothing is durable before [`QueueFiles::unsynced`] was synced.

use std::io;
use std::path::{Path, PathBuf};

use hashbrown::{HashMap, HashSet};

use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, QueueHandle, QueueName, file_place};
use crate::io::disk::{Disk, DiskFile};
use crate::position::{PhysicalOffset, QueueOffset};

/// Files that are kept open. Beyond it, the half that was used least recently is closed.
const OPEN_FILES_MAX: usize = 512;
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

/// The ConsumeQueue files of a shard.
pub(crate) struct QueueFiles<D: Disk> {
    dir: PathBuf,
    queues: Vec<QueueState>,
    open: HashMap<FileKey, OpenFile<D::File>>,
    uses: u64,
    unsynced: HashSet<FileKey>,
}

/// A queue and where the file starts in it.
type FileKey = (QueueHandle, u64);

struct OpenFile<F> {
    file: F,
    last_use: u64,
}

impl<D: Disk> QueueFiles<D> {
    pub(crate) fn new(dir: &Path, queues: Vec<QueueState>) -> Self {
        Self { dir: dir.to_owned(), queues, open: HashMap::new(), uses: 0, unsynced: HashSet::new() }
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
            self.write_run(disk, first, &bytes, is_first)?;
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

    fn write_run(&mut self, disk: &D, first: QueuedEntry, bytes: &[u8], is_first: bool) -> io::Result<()> {
        let (file_start, place) = file_place(first.offset);
        let file = self.file(disk, (first.queue, file_start))?;
        if is_first && place > 0 {
            fill(file, place)?;
        }
        file.write_all_at(bytes, place)?;
        self.unsynced.insert((first.queue, file_start));
        Ok(())
    }

    fn file(&mut self, disk: &D, (queue, file_start): FileKey) -> io::Result<&D::File> {
        self.uses += 1;
        if self.open.len() >= OPEN_FILES_MAX && !self.open.contains_key(&(queue, file_start)) {
            self.close_least_used();
        }
        let Self { dir, queues, open, uses, .. } = self;
        match open.entry((queue, file_start)) {
            hashbrown::hash_map::Entry::Occupied(open) => {
                let open = open.into_mut();
                open.last_use = *uses;
                Ok(&open.file)
            }
            hashbrown::hash_map::Entry::Vacant(place) => {
                let path = queues[queue.index()].name.file_path(dir, file_start);
                let dir = path.parent().expect("a queue's file is in its folder");
                disk.create_dir_all(dir)?;
                let file = disk.open_or_create(&path)?;
                if file.len()? != FILE_BYTES {
                    file.set_len(FILE_BYTES)?;
                }
                Ok(&place.insert(OpenFile { file, last_use: *uses }).file)
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
        disk.remove_dir_all(&dir)?;
        // The topic's folder goes with its last queue.
        let topic_dir = dir.parent().expect("a queue's folder is in its topic's folder");
        if disk.list(topic_dir)?.is_empty() {
            disk.remove_dir_all(topic_dir)?;
        }
        Ok(())
    }

    /// Cuts the files behind the entries of each queue, durably, so that nothing that was written there remains.
    ///
    /// # Errors
    /// A file cannot be cut.
    pub(crate) fn cut(&mut self, disk: &D) -> io::Result<()> {
        for (queue, state) in (0..).map(QueueHandle).zip(&self.queues) {
            let dir = state.name.dir(&self.dir);
            if state.is_deleted || state.min == state.max {
                disk.remove_dir_all(&dir)?;
                continue;
            }
            let (last_start, place) = file_place(state.max);
            for name in disk.list(&dir)? {
                let path = dir.join(&name);
                let start = name.to_str().and_then(|name| name.parse::<u64>().ok());
                match start {
                    Some(start) if start < last_start => {}
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
