//! Builds anew, in small steps beside everything else, the ConsumeQueue and index files that a start found missing or damaged.
//!
//! One pass over the log, up to where the start's snapshot covered it for ConsumeQueues, and up to where it is covered now for the index:
//!
//! ```text
//!          log start       pass            snapshot of the start      covered now
//!  log        ├─────────────►├──────────────────────┼───────────────────────┤
//!  entries     written again  still missing          written as they come
//!  keys        written        left for the pass      left for the pass
//! ```
//! Entries have their places, so that they may be written twice and in any order. Keys do not: the index goes on where its last snapshot
//! says. A crash lets ConsumeQueues begin at the log's start again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::commit_log::scan::{ScanError, ScanLog, Scanned, scan};
use crate::consume_queue::QueueHandle;
use crate::consume_queue::files::{QueueStart, QueuedEntry};
use crate::damage::DamagedRange;
use crate::derived_files::{Covered, DerivedBatch, DerivedFiles, Placeholders};
use crate::dispatch::derive;
use crate::io::disk::Disk;
use crate::limits::FLUSH_BYTES_MAX;
use crate::position::{PhysicalOffset, QueueOffset};
use crate::record::{RecordView, takes_queue_offset};
use crate::segment::list_segments;

/// Bytes of the log that one step reads at most.
const STEP_BYTES_MAX: u64 = 8 << 20;
/// Steps that a file of the log takes at least, also where files are small.
const STEPS_PER_FILE_MIN: u64 = 64;
/// How often the log tells how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// The pass that is under way.
pub(super) struct RebuildPass {
    log_dir: PathBuf,
    segment_bytes: u64,
    begun: Instant,
    told: Instant,
    /// Everything before this was read.
    at: PhysicalOffset,
    /// Where the log began at the last step.
    log_start: PhysicalOffset,
    /// The ConsumeQueues lack entries of records before this only.
    queues_end: PhysicalOffset,
    queues: HashMap<Arc<str>, HashMap<u32, Filling>>,
    /// Queues whose first messages are gone from the log.
    starts: Vec<QueueStart>,
    /// The last damaged stretch that was passed.
    damage: Option<DamagedRange>,
    lost_messages: u64,
    /// Read and not completely written: the disk refused.
    unwritten: Option<Stretch>,
}

/// What was derived from a stretch of the log.
#[derive(Default)]
struct Stretch {
    placeholders: Vec<Placeholders>,
    batch: DerivedBatch,
}

/// A queue that is being filled.
#[derive(Clone, Copy)]
struct Filling {
    queue: QueueHandle,
    /// The message to come.
    next: QueueOffset,
    /// Where the queue went on when the start was over.
    end: QueueOffset,
    /// The message at `next` was there when the log's first file was.
    first_physical: PhysicalOffset,
    /// Whether a message of it was met since the log's first file last went.
    has_begun: bool,
}

/// Why a scan is ended before the end of the log.
enum Stop {
    StepIsDone,
    Scan(ScanError),
}

impl From<ScanError> for Stop {
    fn from(error: ScanError) -> Self {
        Self::Scan(error)
    }
}

impl RebuildPass {
    /// The pass that the files need; `None` when they are whole.
    pub(super) fn begin<D: Disk>(files: &DerivedFiles<D>, dir: &Path, segment_bytes: u64) -> Option<Self> {
        if !files.is_rebuilding() {
            return None;
        }
        let mut queues: HashMap<Arc<str>, HashMap<u32, Filling>> = HashMap::new();
        for queue in files.rebuilding() {
            let state = &files.queues()[queue.index()];
            let filling = Filling {
                queue: *queue,
                next: state.min,
                end: state.max,
                first_physical: state.first_physical,
                has_begun: false,
            };
            queues.entry(Arc::clone(&state.name.topic)).or_default().insert(state.name.queue_id, filling);
        }
        let index_end = files.index_end().filter(|_| queues.is_empty());
        Some(Self {
            log_dir: dir.join("commitlog"),
            segment_bytes,
            begun: Instant::now(),
            told: Instant::now(),
            at: index_end.unwrap_or_default(),
            log_start: PhysicalOffset::ZERO,
            queues_end: files.covered().log_end,
            queues,
            starts: Vec::new(),
            damage: None,
            lost_messages: 0,
            unwritten: None,
        })
    }

    /// Bytes of the log that are still to be read.
    pub(super) fn left_bytes<D: Disk>(&self, files: &DerivedFiles<D>) -> u64 {
        self.end(files).get().saturating_sub(self.at.get())
    }

    fn end<D: Disk>(&self, files: &DerivedFiles<D>) -> PhysicalOffset {
        if files.index_end().is_some() { files.covered().log_end } else { self.queues_end }
    }

    /// Does a little of it. With the step that makes the queues whole, returns those whose starts have moved. Ask
    /// [`DerivedFiles::is_rebuilding`] whether there is more to do.
    ///
    /// # Errors
    /// The disk refuses. The next step tries again.
    pub(super) fn step<D: Disk>(
        &mut self,
        files: &mut DerivedFiles<D>,
    ) -> io::Result<Option<Vec<QueueStart>>> {
        if self.unwritten.is_none() {
            self.unwritten = Some(self.read(files)?);
        }
        if let Some(stretch) = &mut self.unwritten {
            for placeholders in &stretch.placeholders {
                files.write_placeholders(placeholders)?;
            }
            files.write_again(&mut stretch.batch)?;
            self.unwritten = None;
        }
        let mut whole = None;
        if !files.rebuilding().is_empty() && self.at >= self.queues_end {
            self.write_rest(files)?;
            files.queues_are_whole(self.log_start, &mut self.starts)?;
            whole = Some(std::mem::take(&mut self.starts));
        }
        self.tell(files);
        Ok(whole)
    }

    /// Reads a stretch of the log.
    fn read<D: Disk>(&mut self, files: &DerivedFiles<D>) -> io::Result<Stretch> {
        let segments =
            list_segments(files.disk(), &self.log_dir, self.segment_bytes).map_err(io::Error::other)?;
        let log_start = segments.first().copied().unwrap_or_default();
        if self.at < log_start {
            // What every queue had before is gone.
            self.at = log_start;
            let fillings = self.queues.values_mut().flat_map(HashMap::values_mut);
            fillings.for_each(|filling| filling.has_begun = false);
        }
        self.log_start = log_start;
        let (from, end) = (self.at, self.end(files));
        let step_bytes = STEP_BYTES_MAX.min(self.segment_bytes / STEPS_PER_FILE_MIN);
        let step_end = from.plus(step_bytes).min(end);
        let index_end = files.index_end();
        let mut stretch = Stretch::default();
        if from < step_end {
            let log_dir = self.log_dir.clone();
            let log = ScanLog {
                dir: &log_dir,
                segments: &segments,
                segment_bytes: self.segment_bytes,
                torn_window_bytes: FLUSH_BYTES_MAX as u64,
                durable_to: end,
                is_in_use: true,
            };
            let scanned = scan(files.disk(), &log, from, &mut |scanned| {
                self.at = match scanned {
                    Scanned::Record(record) => self.record(&record, index_end, &mut stretch),
                    Scanned::Damaged(damage) => {
                        self.damage = Some(damage.range);
                        damage.range.to
                    }
                };
                if self.at < step_end { Ok(()) } else { Err(Stop::StepIsDone) }
            });
            match scanned {
                Err(Stop::StepIsDone) => {}
                // Behind the last record there is nothing but the end of a file.
                Ok(_) => self.at = end,
                Err(Stop::Scan(error)) if self.at == from => return Err(io::Error::other(error)),
                // The next step meets it again, when this one's part is written.
                Err(Stop::Scan(_)) => {}
            }
        }
        stretch.batch.covered = Covered { log_end: self.at.min(end), ..Covered::default() };
        Ok(stretch)
    }

    /// Derives from a record what is lacking; returns where it ends.
    fn record(
        &mut self,
        record: &RecordView<'_>,
        index_end: Option<PhysicalOffset>,
        Stretch { placeholders, batch }: &mut Stretch,
    ) -> PhysicalOffset {
        let at = record.physical_offset();
        let keys_before = batch.keys.len();
        let entry = derive(record, &mut batch.keys);
        if index_end.is_none_or(|index_end| at < index_end) {
            batch.keys.truncate(keys_before);
        }
        let filling = self.queues.get_mut(record.topic()).and_then(|ids| ids.get_mut(&record.queue_id()));
        if let Some(entry) = entry
            && let Some(filling) = filling
            && takes_queue_offset(record.sys_flag())
            && (filling.next..filling.end).contains(&record.queue_offset())
        {
            let (queue, offset) = (filling.queue, record.queue_offset());
            if !filling.has_begun && filling.first_physical < self.log_start {
                // What was before went with the log's first files.
                self.starts.push(QueueStart { queue, min: offset, first_physical: at });
                placeholders.push(Placeholders::removed(queue, filling.next, offset));
            } else if let Some(damage) = self.damage {
                let lost = Placeholders::lost(queue, filling.next, offset, damage);
                self.lost_messages += lost.count();
                placeholders.push(lost);
            }
            filling.has_begun = true;
            filling.next = offset.plus(1);
            batch.entries.push(QueuedEntry { queue, offset, entry });
        }
        at.plus(record.total_size() as u64)
    }

    /// Sees to the last messages of queues, which no record of the log has.
    fn write_rest<D: Disk>(&mut self, files: &mut DerivedFiles<D>) -> io::Result<()> {
        for filling in self.queues.values_mut().flat_map(HashMap::values_mut) {
            let Filling { queue, next, end, first_physical, has_begun } = *filling;
            if next == end {
                continue;
            }
            if !has_begun && first_physical < self.log_start {
                // All of them went with the log's first files.
                files.write_placeholders(&Placeholders::removed(queue, next, end))?;
                self.starts.push(QueueStart { queue, min: end, first_physical: self.queues_end });
            } else if let Some(damage) = self.damage {
                let lost = Placeholders::lost(queue, next, end, damage);
                files.write_placeholders(&lost)?;
                self.lost_messages += lost.count();
            }
            filling.next = end;
        }
        Ok(())
    }

    fn tell<D: Disk>(&mut self, files: &DerivedFiles<D>) {
        let dir = self.log_dir.display();
        if !files.is_rebuilding() {
            tracing::info!(
                %dir, seconds = self.begun.elapsed().as_secs_f32(), lost_messages = self.lost_messages,
                "ConsumeQueue and index files are whole again"
            );
        } else if self.told.elapsed() >= TELL_INTERVAL {
            self.told = Instant::now();
            let (read_mib, left_mib) = (self.at.get() >> 20, self.left_bytes(files) >> 20);
            tracing::info!(%dir, read_mib, left_mib, "building ConsumeQueue and index files anew");
        }
    }
}
