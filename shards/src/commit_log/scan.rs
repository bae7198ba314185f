//! Reads a log from a known good place to its end, passes over what is damaged in it, and says how it ends: cleanly, or torn by a
//! crash.
//!
//! A record counts when magic, sizes, its own physical offset and its CRCs agree. At a place `X` where that is not so, what lies
//! behind decides why:
//!
//! ```text
//!  good records │X            torn window              │ searched for good records
//!  ─────────────┼──────────────────────────────────────┼──────────────────────────►
//!               │ may hold parts of what was not yet   │ was never written while X was not durable:
//!               │ durable when the process died        │ a good record here means that X is damage
//! ```
//! Damage is told and passed over, up to the next good record; nothing of it is ever cut. The same goes for a bad place before
//! [`ScanLog::durable_to`]: what was there was durable, whatever lies behind it now. There the log goes on at that mark at the latest.
//!
//! A block that the disk does not give back, while it gives back others beside it, is damage like any other when something good lies behind
//! it. Where nothing does, the end of the log is not known, and it is left alone: the error of the disk is returned.
//!
//! Otherwise the log ends at `X`. Nothing but zeros in the window: a clean end. If not, the tail is torn: it holds nothing that was
//! acknowledged, and must be zeroed ([`cut`]) before the log is used, so that no later reader takes its rests for records.

use std::io;
use std::path::{Path, PathBuf};

use crate::commit_log::{PAGE_BYTES, page_floor};
use crate::damage::DamagedRange;
use crate::deliberate::{Mistake, makes};
use crate::io::disk::{Disk, DiskFile, is_about_the_place};
use crate::limits::{FLUSH_BYTES_MAX, RECORD_BYTES_MAX, UNSYNCED_BYTES_MAX};
use crate::position::PhysicalOffset;
use crate::record::{IDENTITY_BYTES, MAGIC_V1, MAGIC_V2, RecordError, RecordView, peek_size};
use crate::segment::{segment_path, segment_start};

/// Name of the file in a shard's folder that exists while the log may hold more than one flush of undurable bytes: it
/// is or was written in the lazy flush mode.
pub const UNSYNCED_MARKER: &str = "unsynced";

const READ_BYTES: usize = 4 << 20;
/// How far behind the torn window good records are searched for. The log has no gaps, so what was durable there
/// begins with the rest of a record at most, and then has record after record. The start of every later segment is
/// looked at too.
const SEARCH_BYTES: u64 = 32 << 20;
const ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Why the log cannot be read. The shard does not start; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read or repair {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("a scan from log offset {from} is not possible: the log goes from {log_start} to {log_end}")]
    FromOutside { from: PhysicalOffset, log_start: PhysicalOffset, log_end: PhysicalOffset },
}

/// What is scanned.
#[derive(Clone, Copy, Debug)]
pub struct ScanLog<'a> {
    /// The folder of the segments.
    pub dir: &'a Path,
    /// Their starts, as [`crate::segment::list_segments`] gives them.
    pub segments: &'a [PhysicalOffset],
    pub segment_bytes: u64,
    /// Most bytes that could be written and not yet durable when the process died: see [`torn_window_bytes`].
    pub torn_window_bytes: u64,
    /// Everything before this is known to have been durable, so that no crash can have torn it; 0 when nothing is known.
    pub durable_to: PhysicalOffset,
    /// This process appends to it meanwhile. Nothing is waited for that another has left under way.
    pub is_in_use: bool,
}

impl ScanLog<'_> {
    fn start(&self) -> PhysicalOffset {
        self.segments.first().copied().unwrap_or_default()
    }

    fn end(&self) -> PhysicalOffset {
        self.segments.last().map_or(PhysicalOffset::ZERO, |last| last.plus(self.segment_bytes))
    }
}

/// What a scan comes to, in log order.
#[derive(Clone, Debug)]
pub enum Scanned<'b> {
    Record(RecordView<'b>),
    Damaged(Damage<'b>),
}

/// A stretch of the log that does not hold the records that were stored there. What follows it is good.
#[derive(Clone, Debug)]
pub struct Damage<'b> {
    pub range: DamagedRange,
    /// What was wrong at its start.
    pub reason: String,
    /// The record that the whole stretch still looks like, in spite of a wrong CRC: any of its bytes may be wrong.
    pub resembles: Option<RecordView<'b>>,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// Where the next record goes.
    pub end: PhysicalOffset,
    /// The bytes of the last, partly filled page: from the page boundary to `end`.
    pub tail_page: Vec<u8>,
    /// The rest of a write that a crash cut short. [`cut`] it before anything is appended.
    pub torn: Option<TornTail>,
}

/// A range of the log that must become zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub from: PhysicalOffset,
    pub to: PhysicalOffset,
    /// What was wrong at `from`.
    pub reason: String,
}

/// How many bytes can have been written and not durable, from the way in which the shard was run last.
///
/// # Errors
/// When the folder cannot be read.
pub fn torn_window_bytes<D: Disk>(disk: &D, shard_dir: &Path) -> Result<u64, ScanError> {
    let path = shard_dir.join(UNSYNCED_MARKER);
    match disk.exists(&path) {
        Ok(true) => Ok(UNSYNCED_BYTES_MAX),
        Ok(false) => Ok(FLUSH_BYTES_MAX as u64),
        Err(source) => Err(ScanError::Io { path, source }),
    }
}

/// Gives every record and every damaged stretch from `from` on to `sink`, in log order, and judges the end. Changes nothing on the
/// disk.
///
/// # Errors
/// [`ScanError`], or the first error of `sink`.
pub fn scan<D: Disk, E: From<ScanError>>(
    disk: &D,
    log: &ScanLog<'_>,
    from: PhysicalOffset,
    sink: &mut dyn FnMut(Scanned<'_>) -> Result<(), E>,
) -> Result<ScanEnd, E> {
    if from < log.start() || from > log.end() {
        let (log_start, log_end) = (log.start(), log.end());
        return Err(ScanError::FromOutside { from, log_start, log_end }.into());
    }
    let mut reader = LogReader::new(disk, *log);
    let mut at = from;
    loop {
        match reader.judge(at)? {
            Found::Record(record) => {
                let size = record.total_size() as u64;
                sink(Scanned::Record(record))?;
                at = at.plus(size);
            }
            Found::Blank => at = segment_start(at, log.segment_bytes).plus(log.segment_bytes),
            Found::End => return Ok(ScanEnd { end: at, tail_page: Vec::new(), torn: None }),
            Found::Bad { reason, claimed_bytes } => match reader.classify(at, &reason, claimed_bytes)? {
                Verdict::Damaged { good_at } => {
                    let to = reader.resume(at, claimed_bytes, good_at)?;
                    let range = DamagedRange { from: at, to };
                    let reason = reader.unreadable_in(range).unwrap_or(reason);
                    let resembles = reader.resembles(at, to)?;
                    sink(Scanned::Damaged(Damage { range, reason, resembles }))?;
                    at = to;
                }
                Verdict::End(torn) => {
                    let page = page_floor(at);
                    let tail_bytes = usize::try_from(at.since(page)).expect("less than a page");
                    let tail_page = reader.bytes(page, tail_bytes)?[..tail_bytes].to_vec();
                    // The next write repeats the tail page: zeros in the place of what was not read would end what is acknowledged.
                    if reader.is_unreadable_from(page) {
                        return Err(reader.unreadable_end().into());
                    }
                    return Ok(ScanEnd { end: at, tail_page, torn });
                }
            },
        }
    }
}

/// Zeroes a torn tail, durably. A crash on the way leaves a tail that is still recognised and cut as a whole.
///
/// # Errors
/// When a file cannot be written.
pub fn cut<D: Disk>(disk: &D, log: &ScanLog<'_>, torn: &TornTail) -> Result<(), ScanError> {
    // The first record's head says how far the torn tail may reach, so it goes last.
    let head_end = page_floor(torn.from.plus(IDENTITY_BYTES as u64 + PAGE_BYTES as u64)).min(torn.to);
    zero(disk, log, head_end, torn.to)?;
    zero(disk, log, torn.from, head_end)
}

fn zero<D: Disk>(
    disk: &D,
    log: &ScanLog<'_>,
    from: PhysicalOffset,
    to: PhysicalOffset,
) -> Result<(), ScanError> {
    let zeros = vec![0; READ_BYTES];
    let mut at = from;
    while at < to {
        let start = segment_start(at, log.segment_bytes);
        let end = start.plus(log.segment_bytes).min(to);
        let path = segment_path(log.dir, start);
        let zero_file = || {
            let file = disk.open(&path)?;
            file.settle()?;
            while at < end {
                let bytes = usize::try_from(end.since(at)).unwrap_or(READ_BYTES).min(READ_BYTES);
                file.write_all_at(&zeros[..bytes], at.since(start))?;
                at = at.plus(bytes as u64);
            }
            file.sync_data()
        };
        let mut zero_file = zero_file;
        zero_file().map_err(|source| ScanError::Io { path: path.clone(), source })?;
    }
    Ok(())
}

/// What is at a place of the log.
enum Found<'b> {
    Record(RecordView<'b>),
    /// The log goes on in the next segment.
    Blank,
    /// No segment holds this place.
    End,
    Bad {
        reason: String,
        /// The size of the record that should be here, when at least its head is.
        claimed_bytes: Option<usize>,
    },
}

/// Why there is no good record at a place.
enum Verdict {
    /// The log goes on at `good_at`, or before.
    Damaged { good_at: PhysicalOffset },
    /// The log ends there, cleanly or torn.
    End(Option<TornTail>),
}

/// Reads the segments through one buffer.
struct LogReader<'a, D: Disk> {
    disk: &'a D,
    log: ScanLog<'a>,
    file: Option<(PhysicalOffset, D::File)>,
    buffer: Vec<u8>,
    buffer_start: PhysicalOffset,
    /// Blocks that the disk does not give back, in the order in which they were met. They read as zeros.
    unreadable: Vec<Unreadable>,
}

/// A block that the disk does not give back.
#[derive(Debug)]
struct Unreadable {
    block: DamagedRange,
    path: PathBuf,
    error: io::Error,
}

impl<'a, D: Disk> LogReader<'a, D> {
    fn new(disk: &'a D, log: ScanLog<'a>) -> Self {
        let (buffer, unreadable) = (Vec::new(), Vec::new());
        Self { disk, log, file: None, buffer, buffer_start: PhysicalOffset::ZERO, unreadable }
    }

    /// The bytes from `at` on: at least `bytes_min` unless the segment ends before, never beyond the segment.
    fn bytes(&mut self, at: PhysicalOffset, bytes_min: usize) -> Result<&[u8], ScanError> {
        let segment = segment_start(at, self.log.segment_bytes);
        if self.log.segments.binary_search(&segment).is_err() {
            return Ok(&[]);
        }
        let segment_end = segment.plus(self.log.segment_bytes);
        let rest = usize::try_from(segment_end.since(at)).unwrap_or(usize::MAX);
        let buffer_end = self.buffer_start.plus(self.buffer.len() as u64);
        let wanted_end = at.plus(bytes_min.min(rest) as u64);
        if at < self.buffer_start || wanted_end > buffer_end || segment != self.buffer_segment() {
            self.read(segment, at, rest.min(bytes_min.max(READ_BYTES)))?;
        }
        let skip = usize::try_from(at.since(self.buffer_start)).expect("the buffer holds the place");
        Ok(&self.buffer[skip..])
    }

    fn buffer_segment(&self) -> PhysicalOffset {
        segment_start(self.buffer_start, self.log.segment_bytes)
    }

    fn read(&mut self, segment: PhysicalOffset, at: PhysicalOffset, bytes: usize) -> Result<(), ScanError> {
        let path = segment_path(self.log.dir, segment);
        let mut read = || {
            if self.file.as_ref().is_none_or(|(start, _)| *start != segment) {
                let file = self.disk.open(&path)?;
                if !self.log.is_in_use {
                    file.settle()?;
                }
                self.file = Some((segment, file));
            }
            let (_, file) = self.file.as_ref().expect("opened above");
            if self.buffer.len() < bytes {
                self.buffer = vec![0; bytes];
            }
            self.buffer.truncate(bytes);
            self.buffer_start = at;
            match file.read_exact_at(&mut self.buffer, at.since(segment)) {
                Err(error) if is_about_the_place(&error) => {
                    let refused = read_by_blocks(file, &mut self.buffer, at.since(segment))?;
                    let met = refused.into_iter().map(|(from, bytes, error)| Unreadable {
                        block: DamagedRange { from: segment.plus(from), to: segment.plus(from + bytes) },
                        path: path.clone(),
                        error,
                    });
                    for met in met {
                        if self.unreadable.iter().all(|known| known.block.from != met.block.from) {
                            self.unreadable.push(met);
                        }
                    }
                    Ok(())
                }
                read => read,
            }
        };
        read().map_err(|source| {
            // Half-filled, it must not serve a later read.
            self.buffer.clear();
            ScanError::Io { path, source }
        })
    }

    /// Why a part of the stretch was not read, if so.
    fn unreadable_in(&self, range: DamagedRange) -> Option<String> {
        let met =
            self.unreadable.iter().find(|met| met.block.from < range.to && range.from < met.block.to)?;
        Some(format!("the disk does not give back log offset {}: {}", met.block.from, met.error))
    }

    fn is_unreadable_from(&self, at: PhysicalOffset) -> bool {
        self.unreadable.iter().any(|met| met.block.to > at)
    }

    /// What to say when it is not known where the log ends.
    fn unreadable_end(&mut self) -> ScanError {
        let met = self.unreadable.pop().expect("asked for when there is one");
        ScanError::Io { path: met.path, source: met.error }
    }

    fn judge(&mut self, at: PhysicalOffset) -> Result<Found<'_>, ScanError> {
        let segment_end = segment_start(at, self.log.segment_bytes).plus(self.log.segment_bytes);
        let rest_bytes = segment_end.since(at);
        let head = self.bytes(at, IDENTITY_BYTES)?;
        if head.is_empty() {
            return Ok(Found::End);
        }
        let size = match peek_size(head) {
            Ok(size) => size,
            Err(RecordError::Blank { size_bytes }) if size_bytes == rest_bytes => return Ok(Found::Blank),
            Err(error) => return Ok(Found::Bad { reason: error.to_string(), claimed_bytes: None }),
        };
        if size as u64 > rest_bytes {
            let reason = format!("a record of {size} bytes crosses the end of the file");
            return Ok(Found::Bad { reason, claimed_bytes: None });
        }
        let bytes = self.bytes(at, size)?;
        let own_offset =
            i64::from_be_bytes(bytes[IDENTITY_BYTES - 8..IDENTITY_BYTES].try_into().expect("8 bytes"));
        if PhysicalOffset::from_i64(own_offset) != Some(at) {
            let reason = format!("the record says that it belongs to log offset {own_offset}");
            return Ok(Found::Bad { reason, claimed_bytes: None });
        }
        let record = RecordView::parse(bytes).and_then(|record| match record.verify_crc() {
            Err(_) if makes(Mistake::ScanWithoutCrc) => Ok(record),
            checked => checked.map(|()| record),
        });
        match record {
            Ok(record) => Ok(Found::Record(record)),
            Err(error) => Ok(Found::Bad { reason: error.to_string(), claimed_bytes: Some(size) }),
        }
    }

    /// Why the log has no good record at `at`.
    fn classify(
        &mut self,
        at: PhysicalOffset,
        reason: &str,
        claimed_bytes: Option<usize>,
    ) -> Result<Verdict, ScanError> {
        // What was not durable began before the end of the record at `at`; if even its head is not there, before the
        // head's end. From that beginning on, at most the window was written.
        let bad_bytes = claimed_bytes.unwrap_or(IDENTITY_BYTES) as u64;
        let window = bad_bytes + self.log.torn_window_bytes + PAGE_BYTES as u64;
        let to = page_floor(at.plus(window + PAGE_BYTES as u64)).min(self.log.end());
        let durable_to = self.log.durable_to.min(self.log.end());
        if at < durable_to {
            let good_at = self.find_good(at.plus(1), durable_to)?;
            // Zeros up to the mark and nothing behind: this is another, older log, which ends here.
            if good_at.is_some() || !self.is_zero(at, durable_to)? {
                return Ok(Verdict::Damaged { good_at: good_at.unwrap_or(durable_to) });
            }
        }
        if let Some(good_at) = self.find_good(to, to.plus(SEARCH_BYTES))? {
            return Ok(Verdict::Damaged { good_at });
        }
        let torn = !self.is_zero(at, to)?;
        Ok(Verdict::End(torn.then(|| TornTail { from: at, to, reason: reason.to_owned() })))
    }

    /// Where the log goes on behind the damage at `at`: at `good_at` at the latest.
    fn resume(
        &mut self,
        at: PhysicalOffset,
        claimed_bytes: Option<usize>,
        good_at: PhysicalOffset,
    ) -> Result<PhysicalOffset, ScanError> {
        // Of a record whose head is right only what is between it and the next one is lost, whatever its body looks like.
        if let Some(size) = claimed_bytes {
            let next = at.plus(size as u64);
            let is_head = match self.judge(next)? {
                Found::Record(_) | Found::Blank => true,
                Found::Bad { claimed_bytes, .. } => claimed_bytes.is_some(),
                Found::End => false,
            };
            if next <= good_at && is_head {
                return Ok(next);
            }
        }
        Ok(self.find_good(at.plus(1), good_at)?.map_or(good_at, |found| found.min(good_at)))
    }

    /// The record that all of a damaged stretch looks like.
    fn resembles(
        &mut self,
        from: PhysicalOffset,
        to: PhysicalOffset,
    ) -> Result<Option<RecordView<'_>>, ScanError> {
        let size = usize::try_from(to.since(from)).unwrap_or(usize::MAX);
        if size > RECORD_BYTES_MAX {
            return Ok(None);
        }
        let record = RecordView::parse(self.bytes(from, size)?).ok();
        Ok(record.filter(|record| record.total_size() == size && record.physical_offset() == from))
    }

    /// The first good record from `from` to `search_end`; behind it, the start of a segment with a good one.
    fn find_good(
        &mut self,
        from: PhysicalOffset,
        search_end: PhysicalOffset,
    ) -> Result<Option<PhysicalOffset>, ScanError> {
        let search_end = search_end.min(self.log.end());
        let mut at = from;
        while at < search_end {
            if let Some(candidate) = self.next_candidate(at, search_end)? {
                if matches!(self.judge(candidate)?, Found::Record(_)) {
                    return Ok(Some(candidate));
                }
                at = candidate.plus(1);
            } else {
                break;
            }
        }
        for index in 0..self.log.segments.len() {
            let start = self.log.segments[index];
            if start >= from && matches!(self.judge(start)?, Found::Record(_)) {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    /// The first place in `[from, to)` with a record's magic four bytes further on.
    fn next_candidate(
        &mut self,
        from: PhysicalOffset,
        to: PhysicalOffset,
    ) -> Result<Option<PhysicalOffset>, ScanError> {
        const HEAD_BYTES: usize = 8;
        let mut at = from;
        while at < to {
            let bytes = self.bytes(at, HEAD_BYTES)?;
            if bytes.len() < HEAD_BYTES {
                at = segment_start(at, self.log.segment_bytes).plus(self.log.segment_bytes);
                continue;
            }
            if bytes.starts_with(&ZERO_PAGE) {
                // The last bytes may be the size of a record whose magic is in the next page.
                at = at.plus((PAGE_BYTES - HEAD_BYTES) as u64);
                continue;
            }
            let bytes = &bytes[..bytes.len().min(PAGE_BYTES)];
            let found = bytes.windows(HEAD_BYTES).position(|head| {
                let magic = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                matches!(magic, MAGIC_V1 | MAGIC_V2)
            });
            if let Some(skip) = found {
                let candidate = at.plus(skip as u64);
                return Ok((candidate < to).then_some(candidate));
            }
            at = at.plus((bytes.len() - HEAD_BYTES + 1) as u64);
        }
        Ok(None)
    }

    fn is_zero(&mut self, from: PhysicalOffset, to: PhysicalOffset) -> Result<bool, ScanError> {
        let mut at = from;
        while at < to {
            let bytes = self.bytes(at, 1)?;
            let wanted = usize::try_from(to.since(at)).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(PAGE_BYTES).min(wanted)];
            if bytes != &ZERO_PAGE[..bytes.len()] {
                return Ok(false);
            }
            at = at.plus(bytes.len() as u64);
        }
        Ok(true)
    }
}

/// Reads block by block what the disk refuses as a whole. Returns the blocks that it does not give back, asked twice, with what it says;
/// they become zeros in `buffer`.
///
/// # Errors
/// It gives back none, nor the block before or behind: that says nothing of the place. Or something else is wrong.
fn read_by_blocks(
    file: &impl DiskFile,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<Vec<(u64, u64, io::Error)>> {
    let mut refused = Vec::new();
    let (mut done, mut has_read) = (0, false);
    while done < buffer.len() {
        let at = offset + done as u64;
        let block_rest = PAGE_BYTES - usize::try_from(at % PAGE_BYTES as u64).expect("less than a page");
        let end = buffer.len().min(done + block_rest);
        let block = &mut buffer[done..end];
        match file.read_exact_at(block, at).or_else(|_| file.read_exact_at(block, at)) {
            Ok(()) => has_read = true,
            Err(error) if is_about_the_place(&error) => {
                block.fill(0);
                refused.push((at, block.len() as u64, error));
            }
            Err(error) => return Err(error),
        }
        done = end;
    }
    let is_there = |at: u64| file.read_exact_at(&mut [0], at).is_ok();
    match refused.pop() {
        Some((_, _, error))
            if !has_read
                && !is_there(offset + buffer.len() as u64 + PAGE_BYTES as u64 - 1)
                && !offset.checked_sub(PAGE_BYTES as u64).is_some_and(is_there) =>
        {
            Err(error)
        }
        last => {
            refused.extend(last);
            Ok(refused)
        }
    }
}

#[cfg(test)]
mod tests;
