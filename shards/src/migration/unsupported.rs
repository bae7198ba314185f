//! What a stock broker's store may hold beside its log that RingMQ cannot serve. Found by files; nothing is changed.

use std::fs;
use std::io;
use std::path::Path;

use crate::consume_queue::{ENTRY_BYTES, Entry};

/// Bytes of one slot of the timer wheel: time i64, first and last position i64, number i32, magic i32.
const SLOT_BYTES: usize = 32;
/// Milliseconds of one slot (RocketMQ's `timerPrecisionMs`).
const SLOT_MS: i64 = 1000;

/// Why the store cannot be taken over, each reason with its cure; none when it can.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn find(stock: &Path) -> io::Result<Vec<String>> {
    let mut reasons = Vec::new();
    for name in names(stock)? {
        if name.starts_with("dledger-") {
            reasons.push(format!(
                "{name} (DLedger has a log of its own: enableDLegerCommitLog=true); take over a store of a broker without it"
            ));
        }
    }
    if holds_files(&stock.join("batchconsumequeue"))? {
        reasons.push(
            "batchconsumequeue (topics with queue.type=BatchCQ keep several messages in one record); consume and delete those topics"
                .to_owned(),
        );
    }
    if holds_files(&stock.join("compaction").join("compactionLog"))? {
        reasons.push(
            "compaction (topics with cleanup.policy=COMPACTION have files of their own); delete those topics"
                .to_owned(),
        );
    }
    if let Some(queue) = names(&stock.join("consumequeue"))?.iter().find(|name| name.starts_with("%LMQ%")) {
        reasons.push(format!(
            "consumequeue/{queue} (light message queues, enableLmq=true); delete those queues"
        ));
    }
    for name in ["rdb", "topics", "consumerOffsets", "subscriptionGroups"] {
        if stock.join("config").join(name).join("CURRENT").exists() {
            reasons.push(format!(
                "config/{name} (topics and offsets are in RocksDB); export them to JSON with mqadmin rocksDBConfigToJson, and start the \
                 broker once with configStorageType=default"
            ));
        }
    }
    let timers = pending_timers(stock)?;
    if timers > 0 {
        reasons.push(format!(
            "timerwheel (by its files {timers} messages wait for a time of their own, as with setDelayTimeMs; delay levels are no \
             problem); let them be delivered first"
        ));
    }
    Ok(reasons)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let name =
                |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            let mut names = entries.map(name).collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether there is a file somewhere below: a broker makes some folders in any case.
fn holds_files(dir: &Path) -> io::Result<bool> {
    for name in names(dir)? {
        let path = dir.join(name);
        if !path.is_dir() || holds_files(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// Messages on the timer wheel that are later than what was delivered, and those that did not get onto it yet.
fn pending_timers(stock: &Path) -> io::Result<u64> {
    let checkpoint = read(&stock.join("config").join("timercheck"))?;
    let delivered_ms = i64_at(&checkpoint, 0).unwrap_or(0);
    let on_the_wheel = i64_at(&checkpoint, 16).unwrap_or(0);
    let wheel = read(&stock.join("timerwheel"))?;
    let waits = |slot: &[u8]| {
        let time_ms = i64_at(slot, 0).unwrap_or(0).saturating_mul(SLOT_MS);
        let number = i32::from_be_bytes(slot[24..28].try_into().expect("four bytes"));
        if time_ms >= delivered_ms { u64::try_from(number).unwrap_or(0) } else { 0 }
    };
    let waiting: u64 = wheel.chunks_exact(SLOT_BYTES).map(waits).sum();
    let end = queue_end(&stock.join("consumequeue").join("rmq_sys_wheel_timer").join("0"))?;
    Ok(waiting + end.saturating_sub(u64::try_from(on_the_wheel).unwrap_or(0)))
}

/// How many entries a queue of files has had, from its newest file.
fn queue_end(dir: &Path) -> io::Result<u64> {
    let files = names(dir)?;
    let Some(newest) = files.last() else { return Ok(0) };
    let start: u64 = newest.parse().unwrap_or(0);
    let bytes = read(&dir.join(newest))?;
    let is_entry = |bytes: &[u8]| Entry::decode(bytes.try_into().expect("an entry's bytes")).is_some();
    let last = bytes.chunks_exact(ENTRY_BYTES).rposition(is_entry);
    Ok(start / ENTRY_BYTES as u64 + last.map_or(0, |last| last as u64 + 1))
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().expect("eight bytes")))
}
