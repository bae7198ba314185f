//! Compares index files with the keys of the log: items lie in them in the order in which the log has the keys.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use crate::damage::{DamagedRange, KnownDamage};
use crate::dispatch::IndexKey;
use crate::index_file::walk::{IndexWalk, Item};
use crate::index_file::{ITEM_BYTES, IndexLayout, seconds_since};
use crate::io::disk::Disk;
use crate::position::PhysicalOffset;
use crate::positions::{IndexPosition, Positions};
use crate::verify::{Finding, Part, VerifyError, VerifyReport};

/// Wrong items that are told. With more, it is no longer certain what is to be compared with what.
const WRONG_MAX: usize = 20;

pub(super) struct IndexCheck<'a, D: Disk> {
    disk: &'a D,
    dir: PathBuf,
    layout: IndexLayout,
    files: VecDeque<&'a IndexPosition>,
    open: Option<(PathBuf, IndexWalk<D::File>)>,
    /// The slots of the newest file are written by a clean exit only.
    is_clean: bool,
    damage: KnownDamage,
    /// Until the first item is met that leads there or behind: what is before was removed from the log.
    log_start: Option<PhysicalOffset>,
    wrong: usize,
}

impl<'a, D: Disk> IndexCheck<'a, D> {
    pub(super) fn new(
        disk: &'a D,
        dir: &Path,
        layout: IndexLayout,
        positions: Option<&'a Positions>,
        log_start: PhysicalOffset,
        is_clean: bool,
    ) -> Self {
        let files = positions.into_iter().flat_map(|positions| &positions.index).collect();
        let damage = KnownDamage::default();
        let (dir, log_start) = (dir.join("index"), Some(log_start));
        Self { disk, dir, layout, files, open: None, is_clean, damage, log_start, wrong: 0 }
    }

    /// Items that lead into a damaged stretch cannot be compared.
    pub(super) fn pass_over(&mut self, range: DamagedRange) {
        self.damage.add(range);
    }

    /// The key should be the next item.
    pub(super) fn expect(&mut self, key: &IndexKey, report: &mut VerifyReport) -> Result<(), VerifyError> {
        let Some(item) = self.next_item(report)? else { return Ok(()) };
        report.index_keys += 1;
        if item.hash != key.hash || item.physical != key.physical_offset.to_i64() {
            let what = format!(
                "item {} leads to log offset {} with the hash {:#010x}, the log has a key with {:#010x} at {}",
                item.number, item.physical, item.hash, key.hash, key.physical_offset
            );
            self.wrong_item(&item, what, report);
        } else if item.seconds != seconds_since(item.begin_timestamp_ms, key.store_timestamp_ms) {
            self.wrong_item(&item, format!("item {} has a wrong time", item.number), report);
        } else if !item.is_linked {
            self.wrong_item(&item, format!("item {} is not linked to its chain", item.number), report);
        }
        Ok(())
    }

    /// All keys were compared.
    pub(super) fn finish(&mut self, report: &mut VerifyReport) -> Result<(), VerifyError> {
        while let Some(item) = self.next_item(report)? {
            let what = format!("item {} is of no record that the log has", item.number);
            self.wrong_item(&item, what, report);
        }
        Ok(())
    }

    fn wrong_item(&mut self, item: &Item, what: String, report: &mut VerifyReport) {
        let Some((path, _)) = &self.open else { return };
        report.add(finding(path, item.at_byte, ITEM_BYTES as u64, what));
        self.wrong += 1;
        if self.wrong >= WRONG_MAX {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.open = None;
        self.files.clear();
    }

    /// The next item whose record the log has and that is not damaged, in whichever file it is.
    fn next_item(&mut self, report: &mut VerifyReport) -> Result<Option<Item>, VerifyError> {
        loop {
            let Some((path, walk)) = &mut self.open else {
                if self.open_next(report)? {
                    continue;
                }
                return Ok(None);
            };
            let item = walk.next().map_err(|source| VerifyError::Io { path: path.clone(), source })?;
            match item {
                None => self.close(report)?,
                Some(item) => {
                    let at = PhysicalOffset::from_i64(item.physical);
                    if self.log_start.is_some_and(|log_start| at.is_some_and(|at| at < log_start)) {
                        continue;
                    }
                    self.log_start = None;
                    if !at.is_some_and(|at| self.damage.contains(at)) {
                        return Ok(Some(item));
                    }
                }
            }
        }
    }

    /// Opens the next file; false when there is none.
    fn open_next(&mut self, report: &mut VerifyReport) -> Result<bool, VerifyError> {
        let Some(position) = self.files.pop_front() else { return Ok(false) };
        let path = self.dir.join(&position.name);
        match IndexWalk::open(self.disk, &path, self.layout, position.header) {
            Ok(walk) => self.open = Some((path, walk)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.add(finding(&path, 0, 0, "it is missing".to_owned()));
                // With which key the next file begins is not known.
                self.give_up();
            }
            Err(source) => return Err(VerifyError::Io { path, source }),
        }
        Ok(self.open.is_some())
    }

    /// All items of the open file were read: its slots must lead to the newest of them.
    fn close(&mut self, report: &mut VerifyReport) -> Result<(), VerifyError> {
        let Some((path, walk)) = self.open.take() else { return Ok(()) };
        let is_newest = self.files.is_empty();
        if is_newest && !self.is_clean {
            return Ok(());
        }
        let wrong = walk.check_head().map_err(|source| VerifyError::Io { path: path.clone(), source })?;
        wrong.into_iter().for_each(|what| report.add(finding(&path, 0, 0, what)));
        Ok(())
    }
}

fn finding(file: &Path, offset: u64, bytes: u64, what: String) -> Finding {
    Finding {
        part: Part::Index,
        file: file.to_owned(),
        offset,
        bytes,
        what,
        lost: "nothing: the log has the messages, lookups by key may not find them".to_owned(),
        cure: "ringmq store repair builds it anew from the log".to_owned(),
    }
}
