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
//! It also fails when it is told to: a write is refused, or stored in part; a read is refused; a sync fails, after which what was not
//! synced is forgotten here and there and no later sync says so; it is full; and at rest it can be tampered with.
//!
//! [`ModelDisk::fork`] is another disk in the same state; unchanged pages are shared.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::io::disk::{Disk, DiskFile, DiskUsage};

mod image;

use image::{Change, Image, parts};

/// What the kernel says of a place that it cannot read.
const EIO: i32 = 5;

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Kill,
    PowerCut,
}

#[derive(Clone, Debug, Default)]
pub struct ModelDisk(Arc<Mutex<State>>);

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A write is refused; sectors of it may be stored.
    WriteError,
    /// A direct write stores a first part.
    ShortWrite,
    ReadError,
    /// A sync fails, and so does the next one of the same file, as every user of a file hears of it once. What was not synced is
    /// forgotten by sectors. What the kernel kept in memory it may go on to show, but it
    /// thinks that the disk has it; direct writes were not kept in memory.
    SyncError,
}

/// A fault that waits for its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFault {
    pub kind: FaultKind,
    /// Only files count whose path holds this.
    pub path_part: &'static str,
    /// So many operations of the kind go well before.
    pub after: u64,
}

/// Where chance comes from while the machine runs.
#[derive(Clone, Debug)]
struct Chance(StdRng);

impl Default for Chance {
    fn default() -> Self {
        Self(StdRng::seed_from_u64(0))
    }
}

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
    faults: Vec<DiskFault>,
    faults_struck: u64,
    is_full: bool,
    ignores_settling: bool,
    /// Syncs that failed of files that are written to directly.
    log_syncs_failed: u64,
    /// Files whose last sync failed, and whose other users in this life do not know it yet.
    sync_errors: BTreeSet<usize>,
    chance: Chance,
    /// What the node's clock shows, milliseconds since the epoch.
    now_ms: i64,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    /// As it was named last.
    path: PathBuf,
    live: Image,
    durable: Image,
    unsynced: Vec<Change>,
    /// Direct writes that have begun and not ended.
    direct: Vec<(WriteId, Change)>,
    /// Those of a process that is dead, which the kernel has yet to do.
    late: Vec<Change>,
    /// When the content last changed, by the node's clock.
    modified_ms: i64,
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

    /// How many writes of one file, at most, are not synced, those that are under way left out.
    pub fn unsynced_max(&self) -> usize {
        self.state().files.iter().map(|file| file.unsynced.len()).max().unwrap_or(0)
    }

    /// Starts the machine again after a power cut that kept, of the last writes to each file that were not synced, the n-th from the end
    /// where bit n of `kept` is set, and everything before the last `last`. Names are kept.
    pub fn restart_keeping(&self, kept: u32, last: usize, random: &mut StdRng) {
        let mut state = self.state();
        state.is_off = false;
        state.stop_at = None;
        state.boot += 1;
        state.end_under_way(random);
        state.name_changes.clear();
        state.durable_names = state.live_names.clone();
        for file in &mut state.files {
            file.lose_power_keeping(kept, last);
        }
    }

    /// The node's clock, milliseconds since the epoch.
    pub fn set_clock_ms(&self, now_ms: i64) {
        self.state().now_ms = now_ms;
    }

    /// Chance of the faults comes from this seed.
    pub fn seed_chance(&self, seed: u64) {
        self.state().chance = Chance(StdRng::seed_from_u64(seed));
    }

    /// Lets something go wrong.
    pub fn inject(&self, fault: DiskFault) {
        self.state().faults.push(fault);
    }

    /// How many faults have struck so far.
    pub fn faults_struck(&self) -> u64 {
        self.state().faults_struck
    }

    /// A new process opens its files anew: it hears nothing of what failed before.
    pub fn forget_sync_errors(&self) {
        self.state().sync_errors.clear();
    }

    /// Files cannot be made or grow while it is full.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    pub fn is_full(&self) -> bool {
        self.state().is_full
    }

    /// Nothing goes wrong any more, and nothing stops the machine.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.is_full = false;
        state.sync_errors.clear();
        state.stop_at = None;
    }

    /// Whether [`DiskFile::settle`] does nothing: a deliberate bug.
    pub fn ignore_settling(&self, ignores: bool) {
        self.state().ignores_settling = ignores;
    }

    /// How many syncs of the log have failed so far.
    pub fn log_syncs_failed(&self) -> u64 {
        self.state().log_syncs_failed
    }

    /// All files with their lengths, bytes, by name.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        state.live_names.iter().map(|(path, id)| (path.clone(), state.files[*id].live.len)).collect()
    }

    /// What a file holds now, as far as it is that long.
    ///
    /// # Panics
    /// There is no such file.
    pub fn peek(&self, path: &Path, offset: u64, bytes: usize) -> Vec<u8> {
        let state = self.state();
        let mut held = vec![0; bytes];
        let read = state.files[state.live_names[path]].live.read(offset, &mut held);
        held.truncate(read);
        held
    }

    /// Puts other bytes into a file at rest: no operation notices.
    ///
    /// # Panics
    /// There is no such file.
    pub fn tamper(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.live_names[path];
        let change = Change::Bytes { offset, bytes: Bytes::copy_from_slice(bytes) };
        state.files[id].live.change(&change);
        state.files[id].durable.change(&change);
    }

    /// As [`Disk::open`], for a file that the process has open already.
    ///
    /// # Errors
    /// The machine is off, or there is no such file.
    pub fn open_again(&self, path: &Path) -> io::Result<ModelFile> {
        self.open(path)
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
    /// The fault of one of these kinds that strikes this file now.
    fn struck(&mut self, id: usize, is_kind: impl Fn(FaultKind) -> bool) -> Option<FaultKind> {
        if self.faults.is_empty() {
            return None;
        }
        let path = self.files[id].path.to_string_lossy();
        let fault = self
            .faults
            .iter_mut()
            .position(|fault| {
                if !is_kind(fault.kind) || !path.contains(fault.path_part) {
                    return false;
                }
                let strikes = fault.after == 0;
                fault.after = fault.after.saturating_sub(1);
                strikes
            })
            .map(|index| self.faults.remove(index))?;
        self.faults_struck += 1;
        Some(fault.kind)
    }

    fn check_room(&self, is_more: bool) -> io::Result<()> {
        if self.is_full && is_more { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn check_on(&self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the machine is off")) } else { Ok(()) }
    }

    fn apply(&mut self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Change { id, change } => {
                let grows = match &change {
                    Change::Bytes { offset, bytes } => offset + bytes.len() as u64 > self.files[id].live.len,
                    Change::Len(len) => *len > self.files[id].live.len,
                };
                self.check_room(grows)?;
                if self.struck(id, |kind| kind == FaultKind::WriteError).is_some() {
                    for part in parts(change, 2, &mut self.chance.0) {
                        self.files[id].change(part);
                    }
                    return Err(refused("write"));
                }
                self.files[id].change(change);
                self.files[id].settle();
                self.files[id].modified_ms = self.now_ms;
            }
            Operation::EndWrite { id, write } => return self.end_write(id, write),
            Operation::SyncFile { id } => {
                if self.sync_errors.remove(&id) {
                    return Err(refused("sync"));
                }
                if self.struck(id, |kind| kind == FaultKind::SyncError).is_some() {
                    self.sync_errors.insert(id);
                    self.log_syncs_failed += u64::from(self.files[id].is_direct());
                    self.files[id].fail_sync(&mut self.chance.0);
                    return Err(refused("sync"));
                }
                self.files[id].sync();
                self.files[id].settle();
            }
            Operation::Name(change) => self.change_name(change)?,
            Operation::SyncNames { dir } => self.sync_names(&dir),
        }
        Ok(())
    }

    fn end_write(&mut self, id: usize, write: WriteId) -> io::Result<()> {
        let is_direct = |kind| matches!(kind, FaultKind::WriteError | FaultKind::ShortWrite);
        let fault = self.struck(id, is_direct);
        let change = self.files[id].take_direct(write);
        self.files[id].modified_ms = self.now_ms;
        match (fault, change) {
            (Some(FaultKind::ShortWrite), Change::Bytes { offset, bytes }) => {
                let stored = self.chance.0.random_range(0..bytes.len());
                self.files[id].change(Change::Bytes { offset, bytes: bytes.slice(..stored) });
                Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("{stored} of {} bytes written", bytes.len()),
                ))
            }
            (Some(_), change) => {
                for part in parts(change, 2, &mut self.chance.0) {
                    self.files[id].change(part);
                }
                Err(refused("write"))
            }
            (None, change) => {
                self.files[id].change(change);
                Ok(())
            }
        }
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
        if let NameChange::Rename { from, to } = &change
            && let Some(id) = self.live_names.get(from)
        {
            self.files[*id].path = to.clone();
        }
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

fn refused(what: &str) -> io::Error {
    io::Error::other(format!("the disk refuses to {what} (EIO)"))
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

    /// Takes a direct write that ends now.
    fn take_direct(&mut self, write: WriteId) -> Change {
        let index = self.direct.iter().position(|(id, _)| *id == write).expect("it has begun");
        self.direct.remove(index).1
    }

    /// Whether it is a file of the log, written past the kernel's memory.
    fn is_direct(&self) -> bool {
        self.path.components().any(|part| part.as_os_str() == "commitlog")
    }

    /// What was not synced gets to the disk by sectors, and counts as synced.
    fn fail_sync(&mut self, random: &mut StdRng) {
        for change in std::mem::take(&mut self.unsynced) {
            for part in parts(change, 2, random) {
                self.durable.change(&part);
            }
        }
        // Direct writes are not in the kernel's memory, others may still be.
        if self.is_direct() || random.random_bool(0.5) {
            self.live = self.durable.clone();
        }
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

    fn lose_power_keeping(&mut self, kept: u32, last: usize) {
        self.late.clear();
        let count = self.unsynced.len();
        for (index, change) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            let from_end = count - 1 - index;
            if from_end >= last || kept & 1 << from_end != 0 {
                self.durable.change(&change);
            }
        }
        self.live = self.durable.clone();
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
                state.check_on()?;
                state.check_room(true)?;
                state.files.push(FileState { path: path.to_owned(), ..FileState::default() });
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

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let state = self.state();
        state.check_on()?;
        let id = *state.live_names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.files[id].modified_ms)
    }

    fn usage(&self, _dir: &Path) -> io::Result<DiskUsage> {
        let state = self.state();
        state.check_on()?;
        // What sets it is not how much is stored, but whether the plan lets it be full.
        let free_bytes = if state.is_full { 0 } else { 1 << 40 };
        Ok(DiskUsage { used_bytes: 1, free_bytes })
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
        let mut state = self.disk.state();
        self.file(&mut state)?;
        if state.struck(self.id, |kind| kind == FaultKind::ReadError).is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(state.files[self.id].live.read(offset, buffer))
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
        let ignores = state.ignores_settling;
        let file = self.file(&mut state)?;
        if !ignores {
            file.settle();
        }
        Ok(())
    }
}
