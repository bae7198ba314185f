//! Recovery of what is derived, on a disk that forgets: a fork of the disk is stopped at every change that a recovery makes, by a kill
//! and by a power cut, and recovered again. Whatever a crash left, the files are in the end those of a shard that never crashed, byte by
//! byte. A recovery that follows a stopped one is stopped at every change too.
//!
//! A failure prints the seed, the change and the kind of stop. `SEED=n` runs one seed, `SEEDS=n` so many.

#[path = "../../shards/tests/plain_record/mod.rs"]
mod plain_record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use plain_record::encode_plain;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use shards::append::Placement;
use shards::index_file::IndexLayout;
use shards::io::disk::{Disk, DiskFile};
use shards::position::{PhysicalOffset, QueueOffset};
use shards::record::{BLANK_BYTES, MAGIC_BLANK, place};
use shards::recovery::{ShardConfig, recover_shard};
use shards::segment::segment_path;
use simulator::disk::{ModelDisk, Stop};

const SEEDS: u64 = 60;
const SEGMENT_BYTES: u64 = 64 << 10;
/// As much of a ConsumeQueue file as the test ever fills.
const COMPARED_BYTES: usize = 16 << 10;

fn root() -> &'static Path {
    Path::new("/shard")
}

/// A log whose records are all durable.
struct Log {
    end: u64,
    next_offsets: BTreeMap<(usize, u32), u64>,
    number: u64,
}

impl Log {
    /// Appends `count` records, the same on all `disks`.
    fn append(&mut self, disks: &[&ModelDisk], count: usize, random: &mut StdRng) {
        for _ in 0..count {
            let topic = random.random_range(0..2);
            let queue_id = random.random_range(0..3);
            let properties = format!("KEYS\x01k{} all\x02TAGS\x01t{}\x02", self.number, self.number % 3);
            let body = vec![b'.'; random.random_range(0..800)];
            let mut record = BytesMut::new();
            encode_plain(&mut record, ["one", "two"][topic], queue_id, properties.as_bytes(), &body);
            let rest = SEGMENT_BYTES - self.end % SEGMENT_BYTES;
            if (record.len() + BLANK_BYTES) as u64 > rest {
                let mut blank = u32::try_from(rest).unwrap().to_be_bytes().to_vec();
                blank.extend_from_slice(&MAGIC_BLANK.to_be_bytes());
                self.write(disks, &blank);
                self.end += rest;
            }
            let next = self.next_offsets.entry((topic, queue_id)).or_default();
            let placement = Placement {
                queue_offset: QueueOffset::new(*next),
                physical_offset: PhysicalOffset::new(self.end),
                store_timestamp_ms: 1_700_000_000_000 + i64::try_from(self.number).unwrap() * 100,
            };
            *next += 1;
            self.number += 1;
            place(&mut record, &placement);
            self.write(disks, &record);
            self.end += record.len() as u64;
        }
    }

    fn write(&self, disks: &[&ModelDisk], bytes: &[u8]) {
        let start = self.end - self.end % SEGMENT_BYTES;
        let dir = root().join("commitlog");
        for disk in disks {
            disk.create_dir_all(&dir).unwrap();
            let file = disk.open_or_create(&segment_path(&dir, PhysicalOffset::new(start))).unwrap();
            file.set_len(SEGMENT_BYTES).unwrap();
            let write = file.begin_write(Bytes::copy_from_slice(bytes), self.end - start).unwrap();
            file.end_write(write).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(&dir).unwrap();
        }
    }
}

/// Recovers and says how many records were scanned and how many messages all queues have had; `None` where the machine stopped.
fn recover(disk: &ModelDisk) -> Option<(u64, u64)> {
    let config =
        ShardConfig { index: IndexLayout { slots: 64, items: 200 }, ..ShardConfig::new(SEGMENT_BYTES) };
    match recover_shard(disk, root(), &config, &mut |_| {}) {
        Ok(shard) => {
            let messages = shard.log.queue_offsets.iter().map(|(_, _, next)| next.get()).sum();
            Some((shard.report.records, messages))
        }
        Err(error) => {
            assert!(disk.is_off(), "{error}");
            None
        }
    }
}

/// Lengths and beginnings of files.
type Derived = BTreeMap<PathBuf, (u64, Vec<u8>)>;

/// All derived files.
fn derived(disk: &ModelDisk) -> Derived {
    let mut files = BTreeMap::new();
    let mut dirs = vec![root().join("consumequeue"), root().join("index")];
    while let Some(dir) = dirs.pop() {
        for name in disk.list(&dir).unwrap() {
            let path = dir.join(name);
            match disk.open(&path) {
                Ok(file) => {
                    let mut bytes = vec![0; COMPARED_BYTES];
                    file.read_at(&mut bytes, 0).unwrap();
                    files.insert(path, (file.len().unwrap(), bytes));
                }
                Err(_) => dirs.push(path),
            }
        }
    }
    files
}

/// Stops a fork of the disk at each change that a recovery makes, in both ways. Each is recovered again, and must then hold what `steady`
/// holds, for good. Returns the number of changes.
fn stop_everywhere(crashing: &ModelDisk, steady: &ModelDisk, messages: u64, random: &mut StdRng) -> u64 {
    let wanted = derived(steady);
    let undisturbed = crashing.fork();
    undisturbed.never_stop();
    recover(&undisturbed).expect("nothing stops this machine");
    let changes = undisturbed.operations();
    for change in 1..=changes {
        for stop in [Stop::Kill, Stop::PowerCut] {
            let disk = crashing.fork();
            disk.stop_at(change);
            assert_eq!(recover(&disk), None, "{stop:?} at change {change} of {changes}");
            disk.restart(stop, random);
            disk.never_stop();
            recover(&disk).expect("nothing stops this machine");
            assert!(derived(&disk) == wanted, "other files after {stop:?} at change {change} of {changes}");
            assert_durable(&disk, &wanted, messages, stop, random);
        }
    }
    changes
}

/// A stop now loses nothing of what is derived.
fn assert_durable(disk: &ModelDisk, wanted: &Derived, messages: u64, stop: Stop, random: &mut StdRng) {
    disk.restart(stop, random);
    disk.never_stop();
    let recovered = recover(disk).expect("nothing stops this machine");
    assert_eq!(recovered, (0, messages), "the snapshot covers all records");
    assert!(derived(disk) == *wanted, "other files after {stop:?} behind a recovery");
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")))
}

#[test]
fn derived_files_are_the_same_wherever_recovery_is_stopped() {
    let first = number("SEED");
    let count = number("SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let first = first.unwrap_or(0);
    for seed in first..first + count {
        println!("SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (crashing, steady) = (ModelDisk::default(), ModelDisk::default());
        let mut log = Log { end: 0, next_offsets: BTreeMap::new(), number: 0 };
        for _ in 0..4 {
            log.append(&[&crashing, &steady], random.random_range(1..150), &mut random);
            steady.never_stop();
            recover(&steady).expect("nothing stops this machine");
            loop {
                let changes = stop_everywhere(&crashing, &steady, log.number, &mut random);
                // From where one of the forks was stopped it goes on, or from the end.
                crashing.stop_at(random.random_range(1..=changes * 2));
                let is_recovered = recover(&crashing).is_some();
                let stop = if random.random_bool(0.5) { Stop::Kill } else { Stop::PowerCut };
                if is_recovered {
                    assert_durable(&crashing, &derived(&steady), log.number, stop, &mut random);
                    break;
                }
                crashing.restart(stop, &mut random);
            }
        }
    }
}
