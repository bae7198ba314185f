//! Index files: which records carry a key. Written on the side thread and in recovery, in RocketMQ's layout:
//!
//! ```text
//! index/<yyyyMMddHHmmssSSS>                                    420,000,040 bytes, sparse
//!
//! header      40   begin and end timestamp i64, begin and end physical offset i64, slots used i32, next item i32
//! slots        4   number of the newest item of the chain, 0 when it is empty          × 5,000,000
//! items       20   key hash i32, physical offset i64, seconds since begin i32, number of the next older item i32  × 20,000,000
//! ```
//! Items count from 1. Of a key only the hash is stored: who looks up checks the records.
//!
//! Header and slots of the newest file are held in memory; they are written when the file is full and at a clean exit. Items are
//! written in runs, and after an unclean exit the slots are rebuilt from them: keys are scattered over all slots, so that writing
//! what changed since the last snapshot would mean to write them all. A file is named for the store time of its first message, in UTC, and always later than the one before.

use std::io;
use std::path::{Path, PathBuf};

use crate::dispatch::IndexKey;
use crate::io::disk::{Disk, DiskFile};
use crate::position::PhysicalOffset;
use crate::positions::{IndexHeader, IndexPosition};

pub(crate) mod walk;

const HEADER_BYTES: usize = 40;
const SLOT_BYTES: usize = 4;
/// Bytes of one item: hash of the key, place of the record in the log (from the fourth byte on), seconds, the item before.
pub const ITEM_BYTES: usize = 20;
const PAGE_BYTES: usize = 4096;
/// Bytes of items read at once when slots are rebuilt.
const REBUILD_BYTES: usize = 51_200 * ITEM_BYTES;

/// How many slots and items an index file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexLayout {
    pub slots: u32,
    /// One more than the items that fit, as items count from 1.
    pub items: u32,
}

impl IndexLayout {
    /// RocketMQ's defaults.
    pub const ROCKETMQ: Self = Self { slots: 5_000_000, items: 20_000_000 };

    /// Where in the file the items begin, behind its head and its slots.
    pub fn items_at(self) -> usize {
        HEADER_BYTES + self.slots as usize * SLOT_BYTES
    }

    fn item_at(self, item: i32) -> u64 {
        assert!(item > 0, "items count from 1");
        self.items_at() as u64 + u64::from(item.unsigned_abs()) * ITEM_BYTES as u64
    }

    fn file_bytes(self) -> u64 {
        self.items_at() as u64 + u64::from(self.items) * ITEM_BYTES as u64
    }

    fn slot_at(self, hash: u32) -> usize {
        HEADER_BYTES + (hash % self.slots) as usize * SLOT_BYTES
    }
}

impl Default for IndexLayout {
    fn default() -> Self {
        Self::ROCKETMQ
    }
}

/// Which records a lookup wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyLookup {
    pub(crate) hash: u32,
    pub(crate) records_max: usize,
    /// Store time window, both ends included, milliseconds.
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
}

/// The index files of a shard.
pub(crate) struct IndexFiles<D: Disk> {
    dir: PathBuf,
    layout: IndexLayout,
    /// Full files, oldest first.
    full: Vec<IndexPosition>,
    current: Option<Current<D::File>>,
    unsynced: Vec<PathBuf>,
    /// Files all of whose records are gone.
    expired: Vec<PathBuf>,
}

/// The file that takes new items.
struct Current<F> {
    name: String,
    path: PathBuf,
    file: F,
    header: IndexHeader,
    /// Header and slots as the file will have them. The header's bytes are filled in when it is written.
    head: Vec<u8>,
    /// Which pages of `head` differ from the file.
    dirty: Vec<bool>,
    /// Items that are not in the file yet: the newest ones.
    pending: Vec<u8>,
}

/// How slots of the newest file are restored at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    /// They are in the file: the last exit was clean.
    Read,
    /// Rebuilt from the items: newer items may have been linked in.
    Rebuild,
}

impl<D: Disk> IndexFiles<D> {
    /// Opens the files that a snapshot knows; all others in the folder are removed.
    ///
    /// # Errors
    /// A file is missing, has another size, or cannot be read.
    pub(crate) fn open(
        disk: &D,
        shard_dir: &Path,
        layout: IndexLayout,
        mut known: Vec<IndexPosition>,
        slots: Slots,
    ) -> io::Result<Self> {
        let dir = shard_dir.join("index");
        disk.create_dir_all(&dir)?;
        for name in disk.list(&dir)? {
            if !known.iter().any(|position| *position.name == *name) {
                disk.remove_file(&dir.join(name))?;
            }
        }
        let current = match known.pop() {
            Some(position) => Some(Current::open(disk, &dir, layout, position, slots)?),
            None => None,
        };
        let unsynced = current.iter().map(|current| current.path.clone()).collect();
        Ok(Self { dir, layout, full: known, current, unsynced, expired: Vec::new() })
    }

    /// Adds a key. It is in the file after [`Self::write_items`].
    ///
    /// # Errors
    /// The next file cannot be made. The key was not added.
    pub(crate) fn add(&mut self, disk: &D, key: &IndexKey) -> io::Result<()> {
        let layout = self.layout;
        if self.current.as_ref().is_some_and(|current| current.is_full(layout)) {
            self.write_all()?;
            self.full.extend(self.current.take().map(|full| full.position()));
        }
        if self.current.is_none() {
            let name = next_name(key.store_timestamp_ms, self.full.last().map(|full| full.name.as_str()));
            let current = Current::create(disk, &self.dir, layout, name)?;
            self.current = Some(current);
        }
        let current = self.current.as_mut().expect("made above");
        current.add(layout, key);
        if !self.unsynced.contains(&current.path) {
            self.unsynced.push(current.path.clone());
        }
        Ok(())
    }

    /// Forgets the full files that only have records before `log_start`; whether there were any.
    pub(crate) fn forget_before(&mut self, log_start: PhysicalOffset) -> bool {
        let forgotten =
            self.full.iter().take_while(|full| full.header.end_physical < log_start.to_i64()).count();
        self.expired.extend(self.full.drain(..forgotten).map(|full| self.dir.join(full.name)));
        forgotten > 0
    }

    /// Removes what was forgotten. The positions that say so must be durable.
    ///
    /// # Errors
    /// A file cannot be removed; the call can be repeated.
    pub(crate) fn remove_expired(&mut self, disk: &D) -> io::Result<()> {
        while let Some(path) = self.expired.last() {
            disk.remove_file(path)?;
            self.unsynced.retain(|unsynced| unsynced != path);
            self.expired.pop();
        }
        Ok(())
    }

    /// Writes the items that were added.
    ///
    /// # Errors
    /// The file cannot be written; the call can be repeated.
    pub(crate) fn write_items(&mut self) -> io::Result<()> {
        let layout = self.layout;
        self.current.as_mut().map_or(Ok(()), |current| current.write_items(layout))
    }

    /// Writes everything that is only in memory; returns whether there was anything.
    ///
    /// # Errors
    /// The file cannot be written; the call can be repeated.
    pub(crate) fn write_all(&mut self) -> io::Result<bool> {
        self.write_items()?;
        let Some(current) = &mut self.current else { return Ok(false) };
        if !current.dirty.contains(&true) {
            return Ok(false);
        }
        if !self.unsynced.contains(&current.path) {
            self.unsynced.push(current.path.clone());
        }
        current.write_head()?;
        Ok(true)
    }

    /// Files written since [`Self::synced`].
    pub(crate) fn unsynced(&self) -> &[PathBuf] {
        &self.unsynced
    }

    /// All that [`Self::unsynced`] named is durable.
    pub(crate) fn synced(&mut self) {
        self.unsynced.clear();
    }

    /// What a snapshot says of the files.
    pub(crate) fn positions(&self) -> Vec<IndexPosition> {
        self.full.iter().cloned().chain(self.current.iter().map(Current::position)).collect()
    }

    /// Cuts the newest file behind its items, so that nothing that was written there remains.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        current.file.set_len(self.layout.item_at(current.header.next_item))?;
        current.file.set_len(self.layout.file_bytes())
    }

    /// Where records with this key hash are, newest first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn find(&mut self, disk: &D, lookup: &KeyLookup) -> io::Result<Vec<PhysicalOffset>> {
        self.write_items()?;
        let mut found = Vec::new();
        if let Some(current) = &self.current {
            let slot = i32_at(&current.head, self.layout.slot_at(lookup.hash));
            walk(&current.file, self.layout, &current.header, slot, lookup, &mut found)?;
            if current.header.begin_timestamp_ms < lookup.begin_ms {
                return Ok(found);
            }
        }
        for full in self.full.iter().rev() {
            if found.len() >= lookup.records_max {
                break;
            }
            let file = disk.open(&self.dir.join(&full.name))?;
            let mut slot = [0; SLOT_BYTES];
            file.read_exact_at(&mut slot, self.layout.slot_at(lookup.hash) as u64)?;
            walk(&file, self.layout, &full.header, i32::from_be_bytes(slot), lookup, &mut found)?;
            if full.header.begin_timestamp_ms < lookup.begin_ms {
                break;
            }
        }
        Ok(found)
    }
}

/// Follows one chain from its newest item on.
fn walk<F: DiskFile>(
    file: &F,
    layout: IndexLayout,
    header: &IndexHeader,
    newest: i32,
    lookup: &KeyLookup,
    found: &mut Vec<PhysicalOffset>,
) -> io::Result<()> {
    let mut item = newest;
    let mut newer = header.next_item;
    // Each item is older than the one before, so that a damaged chain cannot go round in circles.
    while item > 0 && item < newer && found.len() < lookup.records_max {
        let mut bytes = [0; ITEM_BYTES];
        file.read_exact_at(&mut bytes, layout.item_at(item))?;
        let seconds = i64::from(i32_at(&bytes, 12));
        let time_ms = header.begin_timestamp_ms.saturating_add(seconds * 1000);
        // Times are cut to seconds: what was stored within the window's first second may seem earlier.
        if time_ms.saturating_add(999) < lookup.begin_ms {
            break;
        }
        let physical = i64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes"));
        if i32_at(&bytes, 0) == lookup.hash.cast_signed()
            && time_ms <= lookup.end_ms
            && let Some(physical) = PhysicalOffset::from_i64(physical)
        {
            found.push(physical);
        }
        newer = item;
        item = i32_at(&bytes, 16);
    }
    Ok(())
}

impl<F: DiskFile> Current<F> {
    fn create<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        layout: IndexLayout,
        name: String,
    ) -> io::Result<Self> {
        let path = dir.join(&name);
        let file = disk.open_or_create(&path)?;
        file.set_len(0)?;
        file.set_len(layout.file_bytes())?;
        let header = IndexHeader {
            begin_timestamp_ms: 0,
            end_timestamp_ms: 0,
            begin_physical: 0,
            end_physical: 0,
            slots_used: 0,
            next_item: 1,
        };
        Ok(Self::new(layout, name, path, file, header))
    }

    fn new(layout: IndexLayout, name: String, path: PathBuf, file: F, header: IndexHeader) -> Self {
        let head = vec![0; layout.items_at()];
        let dirty = vec![false; head.len().div_ceil(PAGE_BYTES)];
        Self { name, path, file, header, head, dirty, pending: Vec::new() }
    }

    fn open<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        layout: IndexLayout,
        position: IndexPosition,
        slots: Slots,
    ) -> io::Result<Self> {
        let path = dir.join(&position.name);
        let file = disk.open(&path)?;
        let mut current = Self::new(layout, position.name, path, file, position.header);
        match slots {
            Slots::Read => {
                current.file.read_exact_at(&mut current.head, 0)?;
                // Another program may have used the file since.
                if current.head[..HEADER_BYTES] != encode_header(&current.header) {
                    current.rebuild_slots(layout)?;
                }
            }
            Slots::Rebuild => current.rebuild_slots(layout)?,
        }
        Ok(current)
    }

    /// The slots as they were when the last of the items was added: each item became the newest of its chain.
    fn rebuild_slots(&mut self, layout: IndexLayout) -> io::Result<()> {
        self.head.fill(0);
        let mut bytes = vec![0; REBUILD_BYTES];
        let mut item = 1;
        while item < self.header.next_item {
            let rest = usize::try_from(self.header.next_item - item).expect("counted upwards");
            let part = &mut bytes[..(rest * ITEM_BYTES).min(REBUILD_BYTES)];
            self.file.read_exact_at(part, layout.item_at(item))?;
            for bytes in part.chunks_exact(ITEM_BYTES) {
                let slot_at = layout.slot_at(i32_at(bytes, 0).cast_unsigned());
                self.head[slot_at..slot_at + SLOT_BYTES].copy_from_slice(&item.to_be_bytes());
                item += 1;
            }
        }
        self.dirty.fill(true);
        Ok(())
    }

    fn is_full(&self, layout: IndexLayout) -> bool {
        self.header.next_item.unsigned_abs() >= layout.items
    }

    fn add(&mut self, layout: IndexLayout, key: &IndexKey) {
        let header = &mut self.header;
        let item = header.next_item;
        let physical = key.physical_offset.to_i64();
        if item == 1 {
            header.begin_timestamp_ms = key.store_timestamp_ms;
            header.begin_physical = physical;
        }
        header.end_timestamp_ms = key.store_timestamp_ms;
        header.end_physical = physical;
        header.next_item += 1;

        let slot_at = layout.slot_at(key.hash);
        let older = i32_at(&self.head, slot_at);
        if older == 0 {
            header.slots_used += 1;
        }
        self.head[slot_at..slot_at + SLOT_BYTES].copy_from_slice(&item.to_be_bytes());
        for page in [0, slot_at / PAGE_BYTES, (slot_at + SLOT_BYTES - 1) / PAGE_BYTES] {
            self.dirty[page] = true;
        }
        let seconds = seconds_since(header.begin_timestamp_ms, key.store_timestamp_ms);
        self.pending.extend_from_slice(&key.hash.to_be_bytes());
        self.pending.extend_from_slice(&physical.to_be_bytes());
        self.pending.extend_from_slice(&seconds.to_be_bytes());
        self.pending.extend_from_slice(&older.to_be_bytes());
    }

    fn write_items(&mut self, layout: IndexLayout) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let end = layout.item_at(self.header.next_item);
        self.file.write_all_at(&self.pending, end - self.pending.len() as u64)?;
        self.pending.clear();
        Ok(())
    }

    /// Writes the pages of header and slots that changed, neighbours together.
    fn write_head(&mut self) -> io::Result<()> {
        let header = encode_header(&self.header);
        self.head[..HEADER_BYTES].copy_from_slice(&header);
        let mut page = 0;
        while page < self.dirty.len() {
            let run = self.dirty[page..].iter().take_while(|dirty| **dirty).count();
            if run > 0 {
                let from = page * PAGE_BYTES;
                let to = (from + run * PAGE_BYTES).min(self.head.len());
                self.file.write_all_at(&self.head[from..to], from as u64)?;
                self.dirty[page..page + run].fill(false);
            }
            page += run + 1;
        }
        Ok(())
    }

    fn position(&self) -> IndexPosition {
        IndexPosition { name: self.name.clone(), header: self.header }
    }
}

/// How an item says when its record was stored.
pub(crate) fn seconds_since(begin_timestamp_ms: i64, store_timestamp_ms: i64) -> i32 {
    let seconds = store_timestamp_ms.saturating_sub(begin_timestamp_ms) / 1000;
    i32::try_from(seconds.max(0)).unwrap_or(i32::MAX)
}

fn encode_header(header: &IndexHeader) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&header.begin_timestamp_ms.to_be_bytes());
    bytes[8..16].copy_from_slice(&header.end_timestamp_ms.to_be_bytes());
    bytes[16..24].copy_from_slice(&header.begin_physical.to_be_bytes());
    bytes[24..32].copy_from_slice(&header.end_physical.to_be_bytes());
    bytes[32..36].copy_from_slice(&header.slots_used.to_be_bytes());
    bytes[36..].copy_from_slice(&header.next_item.to_be_bytes());
    bytes
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Whether the file that a snapshot names is there with the right size.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn is_plausible<D: Disk>(
    disk: &D,
    shard_dir: &Path,
    layout: IndexLayout,
    position: &IndexPosition,
) -> io::Result<bool> {
    let header = &position.header;
    let file = match disk.open(&shard_dir.join("index").join(&position.name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.len()? != layout.file_bytes()
        || header.next_item < 2
        || header.next_item.unsigned_abs() > layout.items
    {
        return Ok(false);
    }
    // The newest item that the snapshot knows.
    let mut item = [0; ITEM_BYTES];
    file.read_exact_at(&mut item, layout.item_at(header.next_item - 1))?;
    Ok(item[4..12] == header.end_physical.to_be_bytes())
}

/// Name for a file whose first message was stored at `timestamp_ms`, later than `last`.
fn next_name(timestamp_ms: i64, last: Option<&str>) -> String {
    let name = utc_digits(timestamp_ms);
    match last.and_then(|last| last.parse::<u64>().ok()) {
        Some(last) if name.parse::<u64>().is_ok_and(|name| name <= last) => format!("{:017}", last + 1),
        _ => name,
    }
}

/// `yyyyMMddHHmmssSSS` in UTC.
fn utc_digits(timestamp_ms: i64) -> String {
    let days = timestamp_ms.div_euclid(86_400_000);
    let ms = timestamp_ms.rem_euclid(86_400_000);
    // Civil date from days, with years that start in March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}{ms:03}")
}

#[cfg(test)]
mod tests;
