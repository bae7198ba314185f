//! What a simulated process does with the disk before it serves, and the marker of the lazy flush mode.

use std::io;
use std::path::Path;

use shards::commit_log::scan::UNSYNCED_MARKER;
use shards::io::disk::{Disk, DiskFile};
use shards::log_shard::FlushMode;
use shards::position::PhysicalOffset;
use shards::recovery::{RecoveryError, ShardConfig, recover_shard};
use shards::segment::segment_path;

use super::{SHARD_DIR, log_dir};
use crate::bug::Bug;
use crate::disk::ModelDisk;

/// Recovers the shard.
pub(super) fn recover(
    disk: &ModelDisk,
    config: &ShardConfig,
    bug: Option<Bug>,
) -> Result<shards::recovery::RecoveredShard, RecoveryError> {
    let recovered = recover_shard(disk, Path::new(SHARD_DIR), config, &mut |_| {})?;
    match recovered.damage.ranges().first() {
        Some(range) if bug == Some(Bug::CutAtDamage) => {
            cut_from(disk, config, range.from);
            recover_shard(disk, Path::new(SHARD_DIR), config, &mut |_| {})
        }
        _ => Ok(recovered),
    }
}

/// The bug: everything from `at` on becomes zeros.
fn cut_from(disk: &ModelDisk, config: &ShardConfig, at: PhysicalOffset) {
    let dir = log_dir();
    let Ok(segments) = shards::segment::list_segments(disk, &dir, config.segment_bytes) else { return };
    for start in segments {
        let end = start.plus(config.segment_bytes);
        if end <= at {
            continue;
        }
        let from = start.max(at);
        let zeros = vec![0; usize::try_from(end.since(from)).expect("a segment fits in memory")];
        if let Ok(file) = disk.open(&segment_path(&dir, start)) {
            // The bug looks at no error either.
            let _ = file.write_all_at(&zeros, from.since(start)).and_then(|()| file.sync_data());
        }
    }
}

pub(super) fn remove_unfinished(disk: &ModelDisk) -> io::Result<()> {
    for name in disk.list(&log_dir())? {
        if name.as_encoded_bytes().ends_with(b".tmp") {
            disk.remove_file(&log_dir().join(name))?;
        }
    }
    Ok(())
}

pub(super) fn set_marker(disk: &ModelDisk, flush: FlushMode) -> io::Result<()> {
    match flush {
        FlushMode::Async => disk.write_file_atomically(&Path::new(SHARD_DIR).join(UNSYNCED_MARKER), b""),
        FlushMode::Sync => clear_marker(disk),
    }
}

pub(super) fn clear_marker(disk: &ModelDisk) -> io::Result<()> {
    let marker = Path::new(SHARD_DIR).join(UNSYNCED_MARKER);
    if disk.exists(&marker)? {
        disk.remove_file(&marker)?;
        disk.sync_dir(Path::new(SHARD_DIR))?;
    }
    Ok(())
}
