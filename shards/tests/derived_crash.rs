//! Recovery of what is derived, on a disk that forgets: stopped at every change that it makes, and then done again. Whatever a crash
//! left, the files are in the end those of a shard that never crashed, byte by byte.

mod disk_model;
mod plain_record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use disk_model::{ModelDisk, Stop};
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

const SEEDS: u64 = 100;
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
            file.write_all_at(bytes, self.end - start).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(&dir).unwrap();
        }
    }
}

/// Recovers and says how many records were scanned and how many messages all queues have had; `None` where the machine stopped.
fn recover(disk: &ModelDisk) -> Option<(u64, u64)> {
    let config = ShardConfig { segment_bytes: SEGMENT_BYTES, index: IndexLayout { slots: 64, items: 200 } };
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

/// Lengths and beginnings of all derived files.
fn derived(disk: &ModelDisk) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
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

#[test]
fn derived_files_are_the_same_whenever_recovery_is_stopped() {
    let first = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
    let seeds = first.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        println!("SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        // How many changes an undisturbed recovery makes decides where this one is stopped.
        let (crashing, steady) = (ModelDisk::default(), ModelDisk::default());
        let mut log = Log { end: 0, next_offsets: BTreeMap::new(), number: 0 };
        for _ in 0..4 {
            log.append(&[&crashing, &steady], random.random_range(1..150), &mut random);
            steady.never_stop();
            recover(&steady).expect("nothing stops this machine");
            let changes = steady.operations();
            loop {
                crashing.stop_at(random.random_range(1..changes * 2));
                let recovered = recover(&crashing);
                let stop = if random.random_bool(0.5) { Stop::Kill } else { Stop::PowerCut };
                if recovered.is_none() {
                    crashing.restart(stop, &mut random);
                    continue;
                }
                crashing.never_stop();
                assert!(derived(&crashing) == derived(&steady), "seed {seed}");
                // A power cut now loses nothing of it.
                crashing.restart(stop, &mut random);
                crashing.never_stop();
                let (records, messages) = recover(&crashing).expect("nothing stops this machine");
                assert_eq!(records, 0, "seed {seed}: the snapshot covers all");
                assert!(derived(&crashing) == derived(&steady), "seed {seed}");
                assert_eq!(messages, log.number, "seed {seed}");
                break;
            }
        }
    }
}
