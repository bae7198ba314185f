//! A disk that forgets: what a file holds now, and what of it would survive a power cut.
//!
//! Every operation that changes something is counted, and the machine can be told to stop at the n-th: of that one,
//! all, some or nothing is done, by chance. After a kill the kernel still has all that was done before. After a power
//! cut each 512-byte sector that was written and not synced is there or not, by chance, in any order; of names that
//! were changed and whose folder was not synced, some first part of the changes is there.
//!
//! The log's own writes are direct ones, which the kernel goes on with when the process is dead: what was under way
//! may land as late as after the first change of the next process to the file, unless that one has settled it.
//!
//! [`ModelDisk::fork`] is another disk in the same state; unchanged pages are shared.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use shards::io::disk::{Disk, DiskFile};

mod image;

use image::{Change, Image, parts};

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Kill,
    PowerCut,
}

#[derive(Clone, Debug, Default)]
pub struct ModelDisk(Arc<Mutex<State>>);

#[derive(Debug)]
pub struct ModelFile {
    disk: ModelDisk,
    id: usize,
    boot: u64,
}

/// A direct write that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId(u64);

#[derive(Clone, Debug, Default)]
struct State {
    files: Vec<FileState>,
    dirs: BTreeSet<PathBuf>,
    live_names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<NameChange>,
    /// Changing operations since the last start.
    operations: u64,
    stop_at: Option<u64>,
    is_off: bool,
    /// What the machine stopped at.
    under_way: Option<Operation>,
    writes_begun: u64,
    /// Files opened before the last start are of no use any more.
    boot: u64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    live: Image,
    durable: Image,
    unsynced: Vec<Change>,
    /// Direct writes that have begun and not ended.
    direct: Vec<(WriteId, Change)>,
    /// Those of a process that is dead, which the kernel has yet to do.
    late: Vec<Change>,
}

/// What is counted.
#[derive(Clone, Debug)]
enum Operation {
    Change { id: usize, change: Change },
    EndWrite { id: usize, write: WriteId },
    SyncFile { id: usize },
    Name(NameChange),
    SyncNames { dir: PathBuf },
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { path: PathBuf, id: usize },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

impl ModelDisk {
    /// Another disk that holds what this one holds, and forgets on its own.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Lets the machine stop at its `operation`-th change from now on; the change itself may or may not happen.
    pub fn stop_at(&self, operation: u64) {
        let mut state = self.state();
        state.operations = 0;
        state.stop_at = Some(operation);
    }

    pub fn never_stop(&self) {
        let mut state = self.state();
        state.operations = 0;
        state.stop_at = None;
    }

    /// Changes since [`Self::stop_at`] or [`Self::never_stop`].
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// Starts the machine again after `stop`.
    pub fn restart(&self, stop: Stop, random: &mut StdRng) {
        let mut state = self.state();
        state.is_off = false;
        state.stop_at = None;
        state.boot += 1;
        state.end_under_way(random);
        if stop == Stop::PowerCut {
            state.lose_power(random);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Does `operation`. An error when the machine is off, or stops here.
    fn change(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        state.check_on()?;
        state.operations += 1;
        if state.stop_at == Some(state.operations) {
            state.is_off = true;
            state.under_way = Some(operation);
            return state.check_on();
        }
        state.apply(operation)
    }
}

impl State {
    fn check_on(&self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the machine is off")) } else { Ok(()) }
    }

    fn apply(&mut self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Change { id, change } => {
                self.files[id].change(change);
                self.files[id].settle();
            }
            Operation::EndWrite { id, write } => self.files[id].end_write(write),
            Operation::SyncFile { id } => {
                self.files[id].sync();
                self.files[id].settle();
            }
            Operation::Name(change) => self.change_name(change)?,
            Operation::SyncNames { dir } => self.sync_names(&dir),
        }
        Ok(())
    }

    /// Decides what becomes of the operation at which the machine stopped, and of the direct writes under way.
    fn end_under_way(&mut self, random: &mut StdRng) {
        match self.under_way.take() {
            Some(Operation::Change { id, change }) => {
                let kept_of_four = random.random_range(0..=4);
                for part in parts(change, kept_of_four, random) {
                    self.files[id].change(part);
                }
            }
            // It is among the direct writes still.
            Some(Operation::EndWrite { .. }) | None => {}
            Some(whole) => {
                if random.random_bool(0.5) {
                    // What was asked for may have been impossible.
                    let _ = self.apply(whole);
                }
            }
        }
        for file in &mut self.files {
            file.end_direct(random);
        }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        apply(&mut self.live_names, &change)?;
        self.name_changes.push(change);
        Ok(())
    }

    fn sync_names(&mut self, dir: &Path) {
        for change in std::mem::take(&mut self.name_changes) {
            if change.dir() == dir {
                apply(&mut self.durable_names, &change).expect("changes are replayed in their order");
            } else {
                self.name_changes.push(change);
            }
        }
    }

    fn lose_power(&mut self, random: &mut StdRng) {
        let changes = std::mem::take(&mut self.name_changes);
        let kept = random.random_range(0..=changes.len());
        for change in &changes[..kept] {
            // One of another folder may build on one that is lost.
            let _ = apply(&mut self.durable_names, change);
        }
        self.live_names = self.durable_names.clone();
        for file in &mut self.files {
            file.lose_power(random);
        }
    }
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (Self::Create { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. }) = self;
        path.parent().unwrap()
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) -> io::Result<()> {
    match change {
        NameChange::Create { path, id } => {
            names.insert(path.clone(), *id);
        }
        NameChange::Remove { path } => {
            names.remove(path);
        }
        NameChange::Rename { from, to } => {
            assert_eq!(from.parent(), to.parent(), "the model renames within a folder");
            let id = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.clone(), id);
        }
    }
    Ok(())
}

impl FileState {
    fn change(&mut self, change: Change) {
        self.live.change(&change);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.durable.change(&change);
        }
    }

    fn end_write(&mut self, write: WriteId) {
        let index = self.direct.iter().position(|(id, _)| *id == write).expect("it has begun");
        let (_, change) = self.direct.remove(index);
        self.change(change);
    }

    /// The late writes land.
    fn settle(&mut self) {
        for change in std::mem::take(&mut self.late) {
            self.change(change);
        }
    }

    /// The process is dead: each direct write lands now, in part, never, or later.
    fn end_direct(&mut self, random: &mut StdRng) {
        let direct = std::mem::take(&mut self.direct).into_iter().map(|(_, change)| change);
        let late = std::mem::take(&mut self.late);
        for change in late.into_iter().chain(direct) {
            match random.random_range(0..=5) {
                5 => self.late.push(change),
                kept_of_four => {
                    for part in parts(change, kept_of_four, random) {
                        self.change(part);
                    }
                }
            }
        }
    }

    fn lose_power(&mut self, random: &mut StdRng) {
        self.late.clear();
        if self.unsynced.is_empty() {
            return;
        }
        // Nothing, everything, or each sector by chance.
        let kept_of_four = match random.random_range(0..4) {
            0 => 0,
            1 => 4,
            _ => random.random_range(1..4),
        };
        for change in std::mem::take(&mut self.unsynced) {
            for part in parts(change, kept_of_four, random) {
                self.durable.change(&part);
            }
        }
        self.live = self.durable.clone();
    }
}

impl Disk for ModelDisk {
    type File = ModelFile;

    fn open(&self, path: &Path) -> io::Result<ModelFile> {
        let state = self.state();
        state.check_on()?;
        let id = *state.live_names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(ModelFile { disk: self.clone(), id, boot: state.boot })
    }

    fn open_or_create(&self, path: &Path) -> io::Result<ModelFile> {
        if !self.state().live_names.contains_key(path) {
            let id = {
                let mut state = self.state();
                state.files.push(FileState::default());
                state.files.len() - 1
            };
            self.change(Operation::Name(NameChange::Create { path: path.to_owned(), id }))?;
        }
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.check_on()?;
        // A folder whose removal was lost is there again as soon as one of its files is.
        let all = state.live_names.keys().chain(&state.dirs);
        let inside = all.filter_map(|path| path.strip_prefix(dir).ok()?.components().next());
        let names: BTreeSet<_> = inside.map(|name| name.as_os_str().to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.check_on()?;
        Ok(state.live_names.contains_key(path) || state.dirs.contains(path))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check_on()?;
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if !self.state().live_names.contains_key(path) {
            return self.state().check_on();
        }
        self.change(Operation::Name(NameChange::Remove { path: path.to_owned() }))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let inside: Vec<_> =
            self.state().live_names.keys().filter(|path| path.starts_with(dir)).cloned().collect();
        for path in inside {
            self.remove_file(&path)?;
        }
        let mut state = self.state();
        state.dirs.retain(|path| !path.starts_with(dir));
        state.check_on()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Name(NameChange::Rename { from: from.to_owned(), to: to.to_owned() }))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(Operation::SyncNames { dir: dir.to_owned() })
    }
}

impl ModelFile {
    /// Begins a direct write, as the log core does. Until [`Self::end_write`] the file is as before.
    pub fn begin_write(&self, bytes: Bytes, offset: u64) -> io::Result<WriteId> {
        let mut state = self.disk.state();
        state.writes_begun += 1;
        let write = WriteId(state.writes_begun);
        self.file(&mut state)?.direct.push((write, Change::Bytes { offset, bytes }));
        Ok(write)
    }

    /// Waits for a direct write.
    pub fn end_write(&self, write: WriteId) -> io::Result<()> {
        self.change(Operation::EndWrite { id: self.id, write })
    }

    fn file<'s>(&self, state: &'s mut State) -> io::Result<&'s mut FileState> {
        state.check_on()?;
        assert_eq!(self.boot, state.boot, "a file from before the crash is used");
        Ok(&mut state.files[self.id])
    }

    fn change(&self, operation: Operation) -> io::Result<()> {
        self.file(&mut self.disk.state())?;
        self.disk.change(operation)
    }
}

impl DiskFile for ModelFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file(&mut self.disk.state())?.live.len)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Operation::Change { id: self.id, change: Change::Len(bytes) })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.file(&mut self.disk.state())?.live.read(offset, buffer))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let change = Change::Bytes { offset, bytes: Bytes::copy_from_slice(bytes) };
        self.change(Operation::Change { id: self.id, change })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Operation::SyncFile { id: self.id })
    }

    fn settle(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        self.file(&mut state)?.settle();
        Ok(())
    }
}
