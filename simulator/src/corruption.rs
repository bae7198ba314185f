//! A shard at rest is tampered with: a bit turns over, or a write of another place went astray. Whatever is damaged, no message is
//! wrong, none is passed over but those that were hit, their neighbours are served, and the log is left as it was.
//!
//! Only what a clean stop left is tampered with: of the end of a log after a crash nobody can tell damage from a torn write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;
use ringmq::broker::{consumer_offset, delay_offset};
use serde::Serialize;
use shards::consume_queue::ENTRY_BYTES;
use shards::index_file::ITEM_BYTES;
use shards::recovery::ShardConfig;
use shards::verify::{Finding, verify_shard};

use crate::bug::Bug;
use crate::disk::ModelDisk;
use crate::oracle::Oracle;
use crate::plan::{CONSUMERS, Plan, QUEUES};
use crate::process::{INDEX_LAYOUT, SHARD_DIR, StartError};
use crate::trace::Trace;
use crate::world::World;

/// As much of a ConsumeQueue file is worth a flip, bytes.
const QUEUE_BYTES: u64 = 2000;
const PAGE_BYTES: u64 = 4096;
/// How often a place is drawn that means something, before a part is given up: files are longer than what they hold.
const DRAWS_MAX: usize = 200;
/// No file of the model is longer.
const FILE_BYTES_MAX: usize = 64 << 20;

/// What is tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Part {
    Log,
    ConsumeQueue,
    Index,
    Checkpoint,
    /// The snapshot of positions.
    Positions,
    /// The files of offsets, and what was there before them.
    Offsets,
}

/// All parts.
pub const PARTS: [Part; 6] =
    [Part::Log, Part::ConsumeQueue, Part::Index, Part::Checkpoint, Part::Positions, Part::Offsets];

/// Other bytes in a place of a file.
#[derive(Clone, Debug)]
pub struct Tampering {
    pub part: Part,
    pub path: PathBuf,
    pub offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Outcome {
    /// Messages that were hit are passed over, and that is told.
    PassedOver,
    /// Everything is there: what was hit was made anew, found elsewhere, or holds nothing.
    Whole,
    /// The node says what is wrong, and does not start.
    Refused,
    /// A read says what is wrong.
    ReadError,
}

impl Tampering {
    /// Draws a bit that turns over in this part of the shard; none where there is no such file.
    pub fn flip(disk: &ModelDisk, part: Part, log_end: u64, random: &mut StdRng) -> Option<Self> {
        let (path, bytes) = draw_file(disk, part, log_end, random)?;
        let offset = random.random_range(0..bytes);
        let before = disk.peek(&path, offset, 1);
        let after = vec![before.first()? ^ 1 << random.random_range(0..8)];
        Some(Self { part, path, offset, before, after })
    }

    /// Draws a page of the log that got what belongs to another page.
    pub fn astray(disk: &ModelDisk, log_end: u64, random: &mut StdRng) -> Option<Self> {
        let (path, bytes) = draw_file(disk, Part::Log, log_end, random)?;
        let mut page = || random.random_range(0..bytes.div_ceil(PAGE_BYTES)) * PAGE_BYTES;
        let (offset, other) = (page(), page());
        let held = |at| disk.peek(&path, at, usize::try_from(PAGE_BYTES).expect("a page is small"));
        let (before, after) = (held(offset), held(other));
        Some(Self { part: Part::Log, path, offset, before, after })
    }

    fn apply(&self, disk: &ModelDisk) {
        disk.tamper(&self.path, self.offset, &self.after);
    }

    fn undo(&self, disk: &ModelDisk) {
        disk.tamper(&self.path, self.offset, &self.before);
    }

    /// The messages that are hit.
    fn hit(&self, oracle: &Oracle) -> BTreeSet<u64> {
        let (Part::Log, Some(start)) = (self.part, start_of(&self.path)) else { return BTreeSet::new() };
        let from = start + self.offset;
        let to = from + self.after.len() as u64;
        let overlaps = |start: u64, bytes: u32| start < to && from < start + u64::from(bytes);
        let known = oracle.acknowledged().iter();
        known
            .filter(|known| overlaps(known.placement.physical_offset.get(), known.given.bytes))
            .map(|known| known.given.id)
            .collect()
    }
}

/// A file of this part, and how many of its bytes are worth tampering with.
fn draw_file(disk: &ModelDisk, part: Part, log_end: u64, random: &mut StdRng) -> Option<(PathBuf, u64)> {
    let root = Path::new(SHARD_DIR);
    let (under, most) = match part {
        Part::Log => (root.join("commitlog"), u64::MAX),
        Part::ConsumeQueue => (root.join("consumequeue"), QUEUE_BYTES),
        Part::Index => (root.join("index"), u64::MAX),
        Part::Checkpoint => (root.join("checkpoint"), u64::MAX),
        Part::Positions => (root.join("positions"), u64::MAX),
        Part::Offsets => (root.join("config"), u64::MAX),
    };
    let files: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with(&under))
        .filter_map(|(path, bytes)| {
            // Behind its end the log holds nothing.
            let used = if part == Part::Log { log_end.saturating_sub(start_of(&path)?) } else { most };
            let bytes = bytes.min(used);
            (bytes > 0).then_some((path, bytes))
        })
        .collect();
    let index = (!files.is_empty()).then(|| random.random_range(0..files.len()))?;
    files.into_iter().nth(index)
}

/// Where a file of the log starts.
fn start_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Tampers once with a shard that is healthy, and judges.
///
/// # Errors
/// What the oracle found wrong.
pub(crate) fn tamper_and_judge(world: &mut World<'_>) -> Result<(), String> {
    world.halt()?;
    let healthy = world.disk().fork();
    let log_end = log_end(&world.oracle);
    let tampering = match world.random.random_range(0..=PARTS.len()) {
        0 => Tampering::astray(&healthy, log_end, &mut world.random),
        part => Tampering::flip(&healthy, PARTS[part - 1], log_end, &mut world.random),
    };
    tampering.map_or(Ok(()), |tampering| judge(world, &tampering, &healthy).map(|_| ()))
}

fn log_end(oracle: &Oracle) -> u64 {
    oracle
        .acknowledged()
        .last()
        .map_or(0, |last| last.placement.physical_offset.get() + u64::from(last.given.bytes))
}

/// Tampers with a node that has stopped and left `healthy`, starts it, reads everything, and looks whether the log is what it was.
fn judge(world: &mut World<'_>, tampering: &Tampering, healthy: &ModelDisk) -> Result<Outcome, String> {
    let Tampering { part, path, offset, before, .. } = tampering;
    let shown = format!("{} bytes at {offset} of {} ({part:?})", before.len(), path.display());
    world.note(format_args!("tampers with {shown}"));
    world.replace_disk(healthy.fork());
    tampering.apply(world.disk());
    let hit = tampering.hit(&world.oracle);
    world.oracle.may_be_lost(hit);
    let outcome = start_and_read(world).map_err(|what| format!("tampered with {shown}: {what}"))?;
    world.kill();
    world.oracle.may_be_lost(BTreeSet::new());
    if *part == Part::Log {
        tampering.undo(world.disk());
    }
    let log_end = log_end(&world.oracle);
    match changed_log(healthy, world.disk(), log_end) {
        Some(path) => Err(format!("tampered with {shown}, the start has changed {}", path.display())),
        None => Ok(outcome),
    }
}

/// The file of the log that is no longer what it was up to the end of the records.
fn changed_log(before: &ModelDisk, after: &ModelDisk, log_end: u64) -> Option<PathBuf> {
    let files = before.files();
    let mut log = files.iter().filter(|(path, _)| path.starts_with(Path::new(SHARD_DIR).join("commitlog")));
    let differs = |(path, bytes): &&(PathBuf, u64)| {
        let used = log_end.saturating_sub(start_of(path).unwrap_or(log_end)).min(*bytes);
        let used = usize::try_from(used).expect("a file of the model fits in memory");
        before.peek(path, 0, used) != after.peek(path, 0, used)
    };
    log.find(differs).map(|(path, _)| path.clone())
}

/// Starts a node on a disk that was tampered with, and reads what can be read.
fn start_and_read(world: &mut World<'_>) -> Result<Outcome, String> {
    let passed_over_before = world.oracle.passed_over();
    match world.boot_tampered() {
        Ok(()) => {}
        Err(StartError::Recovery(_) | StartError::Config(_)) => return Ok(Outcome::Refused),
        Err(error) => return Err(format!("{error:?}")),
    }
    let (process, oracle) = world.process().ok_or("the node is down")?;
    for (consumer, queue) in (0..CONSUMERS).flat_map(|consumer| QUEUES.map(|queue| (consumer, queue))) {
        oracle.offset_after_tampering(consumer, queue, process.offset(consumer, queue));
    }
    process.build_all_anew();
    let mut outcome = Outcome::Whole;
    for queue in QUEUES {
        if process.read_queue(queue, oracle).is_err() {
            outcome = Outcome::ReadError;
        }
    }
    let known: Vec<_> =
        oracle.acknowledged().iter().step_by(5).map(|known| (known.given.topic, known.given.id)).collect();
    for (topic, id) in known {
        // An index that was tampered with may lead to less; the lookup ends all the same, and what it gives was checked.
        if process.find(topic, id).is_err() {
            outcome = Outcome::ReadError;
        }
    }
    world.verdict()?;
    Ok(if world.oracle.passed_over() > passed_over_before { Outcome::PassedOver } else { outcome })
}

/// Whether a check of the stopped node tells of it.
///
/// # Errors
/// The check ends without an answer.
fn is_told(tampering: &Tampering, healthy: &ModelDisk, config: &ShardConfig) -> Result<bool, String> {
    let disk = healthy.fork();
    tampering.apply(&disk);
    let path = &tampering.path;
    if tampering.part == Part::Offsets {
        let file = disk.peek(path, 0, FILE_BYTES_MAX);
        let is_delays = path.to_string_lossy().contains("delayOffset");
        return Ok(!if is_delays {
            delay_offset::is_as_written(&file)
        } else {
            consumer_offset::is_as_written(&file)
        });
    }
    Ok(findings(&disk, config)?.iter().any(|finding| finding.file == *path))
}

fn findings(disk: &ModelDisk, config: &ShardConfig) -> Result<Vec<Finding>, String> {
    let report = verify_shard(disk, Path::new(SHARD_DIR), config, &mut |_| {});
    report.map(|report| report.findings).map_err(|error| format!("the check fails: {error}"))
}

impl Tampering {
    /// Whether the byte means something: what lies behind the end of a file's content, fills a file of the log up, or is the entry of a
    /// message that was removed, does not.
    fn means_something(&self, healthy: &ModelDisk, oracle: &Oracle) -> bool {
        let rest = healthy.peek(&self.path, self.offset, FILE_BYTES_MAX);
        let is_filling = self.before == [0] && self.part == Part::Log && self.hit(oracle).is_empty();
        !is_filling && !self.is_of_removed(healthy, oracle) && rest.iter().any(|byte| *byte != 0)
    }

    /// Whether it hits what a ConsumeQueue or an index file says of a message that was removed.
    fn is_of_removed(&self, healthy: &ModelDisk, oracle: &Oracle) -> bool {
        let (head_bytes, entry_bytes, place_at) = match self.part {
            Part::ConsumeQueue => (0, ENTRY_BYTES as u64, 0),
            Part::Index => (INDEX_LAYOUT.items_at() as u64, ITEM_BYTES as u64, 4),
            _ => return false,
        };
        let Some(into) = self.offset.checked_sub(head_bytes) else { return false };
        let entry = head_bytes + into / entry_bytes * entry_bytes;
        let place = healthy.peek(&self.path, entry + place_at, 8).try_into().map(i64::from_be_bytes);
        place.is_ok_and(|place| u64::try_from(place).is_ok_and(|place| place < oracle.removed_before().get()))
    }
}

/// Turns over `flips` bits one after the other, each in the same healthy shard that the history of `seed` has left, and says what came
/// of each. Each is told of by a check of the node, before it starts.
///
/// # Errors
/// What the oracle found wrong, or the check did not see, with the place of the bit.
pub fn study(seed: u64, flips: usize, bug: Option<Bug>) -> Result<Vec<(Part, Outcome)>, String> {
    let plan = Plan::draw(seed);
    let mut trace = Trace::new(false);
    let mut world = World::new(&plan, bug, &mut trace);
    world.run()?;
    world.restart_cleanly()?;
    world.halt()?;
    let healthy = world.disk().fork();
    let log_end = log_end(&world.oracle);
    let config = ShardConfig { index: INDEX_LAYOUT, ..ShardConfig::new(plan.shape.segment_bytes) };
    if let Some(finding) = findings(&healthy, &config)?.first() {
        return Err(format!("nothing was tampered with, yet the check finds {finding:?}"));
    }
    let mut outcomes = Vec::with_capacity(flips);
    for number in 0..flips {
        let part = PARTS[number % PARTS.len()];
        let draws =
            (0..DRAWS_MAX).filter_map(|_| Tampering::flip(&healthy, part, log_end, &mut world.random));
        let mut of_meaning = draws.filter(|flip| flip.means_something(&healthy, &world.oracle));
        if let Some(flip) = of_meaning.next() {
            if !is_told(&flip, &healthy, &config)? {
                return Err(format!("a bit at {} of {}: nobody tells", flip.offset, flip.path.display()));
            }
            outcomes.push((part, judge(&mut world, &flip, &healthy)?));
        }
    }
    world.replace_disk(healthy);
    world.boot()?;
    world.read_everything()?;
    Ok(outcomes)
}
