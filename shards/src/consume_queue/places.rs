//! How far queues have come, from their files alone: for a start that has nothing else to go by.
//!
//! Where the log begins later than at 0, it does not say where a queue goes on whose messages have all been removed. Such a queue must not
//! begin at 0 again: groups that read it stand further. Nothing else of the files is believed.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::consume_queue::{ENTRY_BYTES, Entry, FILE_BYTES, FILE_ENTRIES};
use crate::io::disk::{Disk, DiskFile};
use crate::position::PhysicalOffset;
use crate::positions::QueuePosition;

/// The queues that have files in the folder `root` of ConsumeQueues, each with the offset behind its last entry of a record before `log_start`.
/// Folders and files that are no queue's are left out.
///
/// # Errors
/// The disk refuses.
pub(crate) fn read_places<D: Disk>(
    disk: &D,
    root: &Path,
    log_start: PhysicalOffset,
) -> io::Result<Vec<QueuePosition>> {
    let mut places = Vec::new();
    for topic in disk.list(root)? {
        let Some(topic_name) = topic.to_str() else { continue };
        for queue_id in list_folder(disk, &root.join(&topic))? {
            let Some(number) = queue_id.to_str().and_then(|name| name.parse().ok()) else { continue };
            let next = next_offset(disk, &root.join(&topic).join(&queue_id), log_start)?;
            if next > 0 {
                places.push(QueuePosition {
                    topic: topic_name.to_owned(),
                    queue_id: number,
                    min: next,
                    max: next,
                    first_physical: log_start.get(),
                    is_deleted: false,
                });
            }
        }
    }
    Ok(places)
}

/// Names of what the folder holds; none when it is no folder, as the files of ConsumeQueues in RocksDB, or what somebody has put there.
fn list_folder<D: Disk>(disk: &D, dir: &Path) -> io::Result<Vec<OsString>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        listed => listed,
    }
}

/// The offset behind the last entry of a record before `log_start` in the files of one queue; 0 when there is none.
fn next_offset<D: Disk>(disk: &D, dir: &Path, log_start: PhysicalOffset) -> io::Result<u64> {
    let names = list_folder(disk, dir)?.into_iter();
    let with_start = names.filter_map(|name| Some((name.to_str()?.parse::<u64>().ok()?, name)));
    let mut files: Vec<_> = with_start.filter(|(start, _)| start.is_multiple_of(FILE_BYTES)).collect();
    files.sort_unstable();
    while let Some((start, name)) = files.pop() {
        let file = disk.open(&dir.join(name))?;
        let entries = (file.len()? / ENTRY_BYTES as u64).min(FILE_ENTRIES);
        // Entries come first and zeros after them.
        let (mut low, mut high) = (0, entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; ENTRY_BYTES];
            file.read_exact_at(&mut bytes, middle * ENTRY_BYTES as u64)?;
            let is_written = bytes == Entry::filler()
                || Entry::decode(&bytes).is_some_and(|entry| entry.physical_offset < log_start);
            if is_written {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low > 0 {
            return Ok(start / ENTRY_BYTES as u64 + low);
        }
    }
    Ok(0)
}
