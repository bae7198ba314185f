//! Compares ConsumeQueue files with what the log says they should hold.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, QueueName, file_place};
use crate::io::disk::{Disk, DiskFile};
use crate::position::QueueOffset;
use crate::positions::{Positions, QueuePosition};
use crate::record::RecordView;
use crate::verify::{Finding, Part, VerifyError, VerifyReport};

/// Entries that are gathered before they are compared: by queue, so that files are read in runs.
const BATCH_ENTRIES: usize = 64 * 1024;
/// Findings that are held back in case that their queue begins anew.
const FOUND_MAX: usize = 64 * 1024;

/// What the log says of one entry.
struct Expected {
    /// The number of its queue.
    queue: usize,
    offset: QueueOffset,
    entry: Entry,
}

pub(super) struct QueueCheck<'a, D: Disk> {
    disk: &'a D,
    dir: &'a Path,
    /// The queues that have files, each with its number.
    known: HashMap<&'a str, HashMap<u32, usize>>,
    queues: Vec<&'a QueuePosition>,
    batch: Vec<Expected>,
    /// What was found to be wrong with each queue, by its number, so far: it counts unless the queue begins anew.
    found: Vec<(usize, Finding)>,
    /// Files that were told to be missing.
    missing: HashSet<PathBuf>,
}

impl<'a, D: Disk> QueueCheck<'a, D> {
    pub(super) fn new(disk: &'a D, dir: &'a Path, positions: Option<&'a Positions>) -> Self {
        let mut known: HashMap<&str, HashMap<u32, usize>> = HashMap::new();
        let queues: Vec<_> = positions
            .into_iter()
            .flat_map(|positions| {
                let is_whole = |place: u32| positions.rebuild.queues.binary_search(&place).is_err();
                (0..).zip(&positions.queues).filter(move |(place, _)| is_whole(*place))
            })
            .map(|(_, queue)| queue)
            .filter(|queue| !queue.is_deleted)
            .collect();
        for (number, queue) in queues.iter().enumerate() {
            known.entry(queue.topic.as_str()).or_default().insert(queue.queue_id, number);
        }
        Self { disk, dir, known, queues, batch: Vec::new(), found: Vec::new(), missing: HashSet::new() }
    }

    /// The record's entry should be in its queue.
    pub(super) fn expect(
        &mut self,
        record: &RecordView<'_>,
        entry: Entry,
        report: &mut VerifyReport,
    ) -> Result<(), VerifyError> {
        let number = self.known.get(record.topic()).and_then(|ids| ids.get(&record.queue_id()));
        // Deleted queues have no files.
        let Some(queue) = number.copied() else { return Ok(()) };
        let offset = record.queue_offset();
        if (self.queues[queue].min..self.queues[queue].max).contains(&offset.get()) {
            self.batch.push(Expected { queue, offset, entry });
        }
        if self.batch.len() >= BATCH_ENTRIES { self.compare_batch(report) } else { Ok(()) }
    }

    /// A queue begins anew: what was expected of it so far, its files need not have.
    pub(super) fn restart(&mut self, topic: &str, queue_id: u32) {
        let number = self.known.get(topic).and_then(|ids| ids.get(&queue_id));
        let Some(queue) = number.copied() else { return };
        self.batch.retain(|expected| expected.queue != queue);
        self.found.retain(|(of, _)| *of != queue);
    }

    /// Compares what is left, and tells what is wrong.
    pub(super) fn finish(&mut self, report: &mut VerifyReport) -> Result<(), VerifyError> {
        self.compare_batch(report)?;
        self.found.drain(..).for_each(|(_, finding)| report.add(finding));
        Ok(())
    }

    /// Compares what was gathered.
    fn compare_batch(&mut self, report: &mut VerifyReport) -> Result<(), VerifyError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_by_key(|expected| (expected.queue, expected.offset));
        report.queue_entries += batch.len() as u64;
        let is_same_file = |one: &Expected, other: &Expected| {
            one.queue == other.queue && file_place(one.offset).0 == file_place(other.offset).0
        };
        for run in batch.chunk_by(is_same_file) {
            self.compare(run)?;
        }
        if self.found.len() > FOUND_MAX {
            self.found.drain(..).for_each(|(_, finding)| report.add(finding));
        }
        Ok(())
    }

    /// Compares entries of one file.
    fn compare(&mut self, run: &[Expected]) -> Result<(), VerifyError> {
        let number = run[0].queue;
        let (first, last) = (run[0].offset, run[run.len() - 1].offset);
        let queue = self.queues[run[0].queue];
        let name = QueueName { topic: Arc::from(queue.topic.as_str()), queue_id: queue.queue_id };
        let (file_start, place) = file_place(first);
        let path = name.file_path(self.dir, file_start);
        let io_error = |source| VerifyError::Io { path: path.clone(), source };
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.missing.insert(path.clone()) {
                    self.found.push((number, finding(&path, 0, FILE_BYTES, "it is missing".to_owned())));
                }
                return Ok(());
            }
            Err(error) => return Err(io_error(error)),
        };
        let in_run = |offset: QueueOffset| {
            usize::try_from(offset.since(first)).expect("a file's entries") * ENTRY_BYTES
        };
        let mut bytes = vec![0; in_run(last) + ENTRY_BYTES];
        // What the file is too short for reads as no entry.
        file.read_at(&mut bytes, place).map_err(io_error)?;
        // Neighbours that are wrong are one finding.
        let mut wrong: Option<Finding> = None;
        for Expected { offset, entry, .. } in run {
            let at = in_run(*offset);
            let found = &bytes[at..at + ENTRY_BYTES];
            if found == entry.encode() {
                continue;
            }
            let at_byte = place + at as u64;
            match &mut wrong {
                Some(wrong) if wrong.offset + wrong.bytes == at_byte => wrong.bytes += ENTRY_BYTES as u64,
                _ => {
                    let found = Entry::decode(found.try_into().expect("an entry's bytes"));
                    let what = format!(
                        "the entry of message {offset} of queue {} of {} is {}, the log says {}",
                        queue.queue_id,
                        queue.topic,
                        found.map_or_else(|| "none".to_owned(), show),
                        show(*entry)
                    );
                    let next = finding(&path, at_byte, ENTRY_BYTES as u64, what);
                    self.found.extend(wrong.replace(next).map(|wrong| (number, wrong)));
                }
            }
        }
        self.found.extend(wrong.map(|wrong| (number, wrong)));
        Ok(())
    }
}

fn show(entry: Entry) -> String {
    format!("{} bytes at {} with the tags code {}", entry.size_bytes, entry.physical_offset, entry.tags_code)
}

fn finding(file: &Path, offset: u64, bytes: u64, what: String) -> Finding {
    Finding {
        part: Part::ConsumeQueue,
        file: file.to_owned(),
        offset,
        bytes,
        what,
        lost: "nothing: the log has the messages, readers may be slow to find them".to_owned(),
        cure: "ringmq store repair builds it anew from the log".to_owned(),
    }
}
