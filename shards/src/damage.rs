//! What is known to be damaged in a shard's log: found by a start, a reader or a check, kept in the file `damaged` of the shard until a
//! scan of the whole log finds it no more.
//!
//! It is a memory, not an authority: every read is judged by its own CRC. It says why a queue's newest message may be missing, and tells
//! people that something is wrong. A file that is damaged itself says nothing.

use std::io;
use std::path::Path;

use rkyv::{Archive, Deserialize, Serialize};

use crate::io::disk::Disk;
use crate::limits::DAMAGED_RANGES_MAX;
use crate::position::PhysicalOffset;
use crate::sealed_file::Seal;

const SEAL: Seal = Seal { name: *b"RINGMQDM", version: 1 };
/// Name of the file in a shard's folder.
pub(crate) const FILE_NAME: &str = "damaged";
/// Name of the file that says that the index led a lookup astray: the next start builds it anew.
pub(crate) const INDEX_MARKER: &str = "index-damaged";
const FILE_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(DAMAGED_RANGES_MAX * 32 <= FILE_BYTES_MAX);

/// A stretch of the log, its end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    pub from: PhysicalOffset,
    pub to: PhysicalOffset,
}

impl DamagedRange {
    /// Bytes of the stretch.
    pub fn bytes(&self) -> u64 {
        self.to.since(self.from)
    }
}

/// The damaged stretches of one log, apart from each other and in log order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownDamage {
    ranges: Vec<DamagedRange>,
}

/// As it lies in the file.
#[derive(Debug, Archive, Serialize, Deserialize)]
struct Stored {
    ranges: Vec<(u64, u64)>,
}

impl KnownDamage {
    /// Reads what is known of the shard at `dir`: nothing when there is no file, or no usable one.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Self> {
        let file = match disk.read_file(&dir.join(FILE_NAME), FILE_BYTES_MAX) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        let mut known = Self::default();
        if let Ok(Stored { ranges }) = SEAL.decode(&file) {
            for (from, to) in ranges.into_iter().filter(|(from, to)| from < to && i64::try_from(*to).is_ok())
            {
                known.add(DamagedRange { from: PhysicalOffset::new(from), to: PhysicalOffset::new(to) });
            }
        }
        Ok(known)
    }

    /// Whether there is a file that says nothing because it is damaged itself.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn is_unusable<D: Disk>(disk: &D, dir: &Path) -> io::Result<bool> {
        match disk.read_file(&dir.join(FILE_NAME), FILE_BYTES_MAX) {
            Ok(file) => Ok(SEAL.decode::<Stored>(&file).is_err()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file, durably; removes it when nothing is damaged.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        let path = dir.join(FILE_NAME);
        if !self.ranges.is_empty() {
            return disk.write_file_atomically(&path, &self.encode());
        }
        if disk.exists(&path)? {
            disk.remove_file(&path)?;
            disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        SEAL.encode(&Stored {
            ranges: self.ranges.iter().map(|range| (range.from.get(), range.to.get())).collect(),
        })
    }

    /// Adds a stretch; false when all of it was known, or when there is no room for it.
    pub fn add(&mut self, range: DamagedRange) -> bool {
        if range.from >= range.to {
            return false;
        }
        let first = self.ranges.partition_point(|known| known.to < range.from);
        let behind = self.ranges.partition_point(|known| known.from <= range.to);
        let Some(touched) = self.ranges.get(first..behind).filter(|touched| !touched.is_empty()) else {
            if self.ranges.len() >= DAMAGED_RANGES_MAX {
                return false;
            }
            self.ranges.insert(first, range);
            return true;
        };
        let from = touched[0].from.min(range.from);
        let to = touched[touched.len() - 1].to.max(range.to);
        let is_known = touched.len() == 1 && (touched[0].from, touched[0].to) == (from, to);
        self.ranges.splice(first..behind, [DamagedRange { from, to }]);
        !is_known
    }

    /// Forgets the stretches before `log_start`; whether there were any.
    pub(crate) fn forget_before(&mut self, log_start: PhysicalOffset) -> bool {
        let before = self.ranges.len();
        self.ranges.retain(|range| range.to > log_start);
        self.ranges.len() < before
    }

    /// Whether the byte at `at` is in a damaged stretch.
    pub fn contains(&self, at: PhysicalOffset) -> bool {
        let after = self.ranges.partition_point(|range| range.from <= at);
        after.checked_sub(1).is_some_and(|index| at < self.ranges[index].to)
    }

    /// The damaged stretches, in log order.
    pub fn ranges(&self) -> &[DamagedRange] {
        &self.ranges
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk::StdDisk;

    fn range(from: u64, to: u64) -> DamagedRange {
        DamagedRange { from: PhysicalOffset::new(from), to: PhysicalOffset::new(to) }
    }

    #[test]
    fn stretches_that_touch_become_one() {
        let mut known = KnownDamage::default();
        assert!(known.add(range(10, 20)) && known.add(range(40, 50)) && known.add(range(25, 30)));
        assert!(!known.add(range(12, 20)), "known");
        assert!(!known.add(range(12, 12)), "nothing");
        assert!(known.add(range(20, 25)));
        assert_eq!(known.ranges(), [range(10, 30), range(40, 50)]);
        assert!(known.add(range(5, 60)));
        assert_eq!(known.ranges(), [range(5, 60)]);
        let at = PhysicalOffset::new;
        assert!(known.contains(at(5)) && known.contains(at(59)));
        assert!(!known.contains(at(4)) && !known.contains(at(60)));
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let mut known = KnownDamage::default();
        for index in 0..DAMAGED_RANGES_MAX as u64 {
            assert!(known.add(range(index * 10, index * 10 + 5)));
        }
        assert!(!known.add(range(1 << 40, (1 << 40) + 1)), "no room");
        assert!(known.add(range(5, 10)), "joins two");
        assert!(known.encode().len() <= FILE_BYTES_MAX);
    }

    #[test]
    fn it_is_kept_in_a_file_and_a_damaged_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let read = || KnownDamage::read(&StdDisk, dir.path()).unwrap();
        assert!(read().is_empty());
        let mut known = KnownDamage::default();
        known.add(range(10, 20));
        known.write(&StdDisk, dir.path()).unwrap();
        assert_eq!(read(), known);
        let path = dir.path().join(FILE_NAME);
        let mut file = std::fs::read(&path).unwrap();
        *file.last_mut().unwrap() ^= 1;
        std::fs::write(&path, file).unwrap();
        assert!(read().is_empty());
        KnownDamage::default().write(&StdDisk, dir.path()).unwrap();
        assert!(!path.exists());
    }
}
