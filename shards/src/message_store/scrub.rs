//! Looks through the log in the background, so that damage is found before somebody needs the message or its last good copy is gone.
//!
//! Lives on the serve core, one stretch at a time: one read of the disk is under way at most, past the cache of other readers, and whoever
//! calls [`Scrub::step`] decides how long it rests in between. What it finds is told, remembered and counted as if a reader had met it.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cold_read::{ColdName, Stretch};
use crate::io::cold_file::DIRECT_ALIGNMENT;
use crate::message_store::ReadError;
use crate::message_store::log_reader::LogReader;
use crate::position::PhysicalOffset;
use crate::record::{BLANK_BYTES, IDENTITY_BYTES, RecordError, RecordView, peek_size};
use crate::segment::segment_start;

/// Bytes of one stretch, unless a record is longer.
pub const SCRUB_BYTES: u64 = 256 << 10;

/// What the scrub of a shard has come to since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubLoad {
    /// Where it is, a physical offset.
    pub position: u64,
    pub checked_bytes: u64,
    /// Times that it went through the whole log.
    pub passes: u64,
    /// Damaged stretches that it met, those that were known included.
    pub found_ranges: u64,
}

/// The state of the scrub, shared with who tells of it.
#[derive(Debug, Default)]
pub(crate) struct ScrubMeter(Cell<ScrubLoad>);

impl ScrubMeter {
    pub(crate) fn load(&self) -> ScrubLoad {
        self.0.get()
    }

    fn change(&self, change: impl FnOnce(&mut ScrubLoad)) {
        let mut load = self.0.get();
        change(&mut load);
        self.0.set(load);
    }
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// So many bytes were checked.
    Checked(u64),
    /// The end of the log was reached; the next step begins at its start.
    PassEnded,
}

/// The way through the log.
#[derive(Debug)]
pub struct Scrub {
    reader: Rc<LogReader>,
    at: PhysicalOffset,
    /// Where a damaged stretch began whose end was not found yet.
    damaged_from: Option<PhysicalOffset>,
}

impl Scrub {
    pub(super) fn new(reader: Rc<LogReader>) -> Self {
        Self { at: reader.log_min.get(), reader, damaged_from: None }
    }

    /// Bytes of the whole log, and of its part that this pass has gone through.
    pub fn progress(&self) -> (u64, u64) {
        let log_min = self.reader.log_min.get();
        (self.reader.confirm_offset.get().since(log_min), self.at.max(log_min).since(log_min))
    }

    /// Whether the log was written to just now.
    pub fn is_beside_writes(&self) -> bool {
        self.reader.cold.is_written_to()
    }

    /// Checks the next stretch.
    ///
    /// # Errors
    /// The disk refuses; the next step tries again.
    pub async fn step(&mut self) -> Result<ScrubStep, ReadError> {
        let log_min = self.reader.log_min.get();
        if self.at < log_min {
            (self.at, self.damaged_from) = (log_min, None);
        }
        match self.check_next().await {
            // What was to be read has been removed meanwhile.
            Err(_) if self.reader.log_min.get() > log_min => Ok(ScrubStep::Checked(0)),
            checked => checked,
        }
    }

    async fn check_next(&mut self) -> Result<ScrubStep, ReadError> {
        let readable = self.reader.readable_bytes(self.at);
        if readable == 0 {
            self.end_of_damage(self.at);
            self.at = self.reader.log_min.get();
            self.reader.scrub.change(|load| {
                load.passes += 1;
                load.position = self.at.get();
            });
            return Ok(ScrubStep::PassEnded);
        }
        let from = self.at;
        let mut bytes = match self.read_all(from, readable).await {
            Err(error @ ReadError::Unreadable { .. }) => {
                return self.step_to_unreadable(from, readable, &error).await;
            }
            read => read?,
        };
        let mut judged = self.judged();
        if judged.check(&bytes, readable) {
            // Once more, in case that the disk is well and the way from it was not.
            bytes = self.read(from, bytes.len() as u64).await?;
            judged = self.judged();
            judged.check(&bytes, readable);
        }
        if from < self.reader.log_min.get() {
            return Ok(ScrubStep::Checked(0));
        }
        Ok(self.take(judged))
    }

    /// Goes on to the first block that the disk refuses, and then past it.
    async fn step_to_unreadable(
        &mut self,
        from: PhysicalOffset,
        readable: u64,
        error: &ReadError,
    ) -> Result<ScrubStep, ReadError> {
        let len = usize::try_from(readable.min(SCRUB_BYTES)).expect("a stretch fits in memory");
        let start = self.reader.readable_log(from, len).await?;
        if from < self.reader.log_min.get() {
            return Ok(ScrubStep::Checked(0));
        }
        let mut judged = self.judged();
        judged.check(&start, readable);
        if judged.at == from {
            // Nothing whole is before the block.
            let refused = from.plus(start.len() as u64);
            let block_rest = DIRECT_ALIGNMENT - refused.get() % DIRECT_ALIGNMENT;
            let block_end = refused.plus(block_rest.min(readable - start.len() as u64));
            let lost = ReadError::Damaged { at: from, reason: error.to_string() };
            self.reader.damage.met(from, block_end.since(from), &lost);
            judged.damaged_from.get_or_insert(from);
            judged.at = block_end;
        }
        Ok(self.take(judged))
    }

    /// Takes over how far a stretch was judged, and tells what was found in it.
    fn take(&mut self, judged: Judged) -> ScrubStep {
        let from = self.at;
        (self.at, self.damaged_from) = (judged.at, judged.damaged_from);
        for (from, to, reason) in &judged.found {
            let error = ReadError::Damaged { at: *from, reason: reason.clone() };
            self.reader.damage.met(*from, to.since(*from), &error);
        }
        let checked = self.at.since(from);
        self.reader.scrub.change(|load| {
            load.position = self.at.get();
            load.checked_bytes += checked;
            load.found_ranges += judged.found.len() as u64;
        });
        ScrubStep::Checked(checked)
    }

    fn end_of_damage(&mut self, end: PhysicalOffset) {
        if let Some(from) = self.damaged_from.take() {
            let error = ReadError::Damaged { at: from, reason: "there is no record".to_owned() };
            self.reader.damage.met(from, end.since(from), &error);
            self.reader.scrub.change(|load| load.found_ranges += 1);
        }
    }

    /// A stretch, or the whole of its first record.
    async fn read_all(&self, from: PhysicalOffset, readable: u64) -> Result<Bytes, ReadError> {
        let bytes = self.read(from, readable.min(SCRUB_BYTES)).await?;
        match self.longer_record(&bytes, readable) {
            Some(size) => self.read(from, size).await,
            None => Ok(bytes),
        }
    }

    async fn read(&self, at: PhysicalOffset, len: u64) -> Result<Bytes, ReadError> {
        let start = segment_start(at, self.reader.segment_bytes);
        let stretch = Stretch {
            name: ColdName::Segment { start },
            at: at.since(start),
            len: usize::try_from(len).expect("a stretch fits in memory"),
            final_bytes: at.since(start) + len,
        };
        self.reader.cold.read_once(&stretch).await
    }

    /// The size of the first record, when it is longer than what was read.
    fn longer_record(&self, bytes: &[u8], readable: u64) -> Option<u64> {
        let size = peek_size(bytes).ok()? as u64;
        (size > bytes.len() as u64 && size <= readable && own_offset(bytes) == Some(self.at)).then_some(size)
    }

    fn judged(&self) -> Judged {
        Judged { at: self.at, damaged_from: self.damaged_from, found: Vec::new() }
    }
}

/// How far a stretch was judged, and what is wrong in it.
struct Judged {
    at: PhysicalOffset,
    damaged_from: Option<PhysicalOffset>,
    found: Vec<(PhysicalOffset, PhysicalOffset, String)>,
}

impl Judged {
    /// Goes through the records of `bytes`, which start at its place; `readable` is how much the file has from there on. True when
    /// something is wrong.
    fn check(&mut self, bytes: &[u8], readable: u64) -> bool {
        let start = self.at;
        let file_rest = |at: PhysicalOffset| readable - at.since(start);
        loop {
            let rest = &bytes[usize::try_from(self.at.since(start)).expect("in memory").min(bytes.len())..];
            let is_all = rest.len() as u64 >= file_rest(self.at);
            if rest.len() < IDENTITY_BYTES && !(is_all && rest.len() >= BLANK_BYTES) {
                if is_all {
                    // Too little for a record: the end of a file, or of the log.
                    self.at = start.plus(readable);
                }
                break;
            }
            match self.judge(rest, file_rest(self.at)) {
                Place::Record(size) => {
                    self.end_damage();
                    self.at = self.at.plus(size);
                }
                Place::Blank => {
                    self.end_damage();
                    self.at = start.plus(readable);
                }
                Place::Longer => break,
                Place::Bad { reason, size } => {
                    if let (Some(size), None) = (size, self.damaged_from) {
                        self.found.push((self.at, self.at.plus(size), reason));
                        self.at = self.at.plus(size);
                    } else {
                        self.damaged_from.get_or_insert(self.at);
                        self.at = self.at.plus(1);
                    }
                }
            }
        }
        !self.found.is_empty() || self.damaged_from.is_some()
    }

    fn end_damage(&mut self) {
        if let Some(from) = self.damaged_from.take() {
            self.found.push((from, self.at, "there is no record".to_owned()));
        }
    }

    fn judge(&self, rest: &[u8], file_rest: u64) -> Place {
        let bad = |reason: RecordError| Place::Bad { reason: reason.to_string(), size: None };
        let size = match peek_size(rest) {
            Ok(size) => size,
            Err(RecordError::Blank { size_bytes }) if size_bytes == file_rest => return Place::Blank,
            Err(error) => return bad(error),
        };
        if own_offset(rest) != Some(self.at) || size as u64 > file_rest {
            return Place::Bad { reason: "the record belongs to another place".to_owned(), size: None };
        }
        if size > rest.len() {
            return Place::Longer;
        }
        match RecordView::parse(rest).and_then(|record| record.verify_crc()) {
            Ok(()) => Place::Record(size as u64),
            Err(error) => Place::Bad { reason: error.to_string(), size: Some(size as u64) },
        }
    }
}

/// What is at a place.
enum Place {
    Record(u64),
    /// The log goes on in the next file.
    Blank,
    /// A record that goes on behind what was read.
    Longer,
    /// `size` is known when only a CRC is wrong.
    Bad {
        reason: String,
        size: Option<u64>,
    },
}

fn own_offset(record: &[u8]) -> Option<PhysicalOffset> {
    let eight = record.get(IDENTITY_BYTES - 8..IDENTITY_BYTES)?.try_into().expect("eight bytes");
    PhysicalOffset::from_i64(i64::from_be_bytes(eight))
}
