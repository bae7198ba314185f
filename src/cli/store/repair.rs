//! `ringmq store repair`: copies a store, then makes it startable again, and says what it did.

use std::error::Error;
use std::path::{Path, PathBuf};

use runtime::host;
use serde::Serialize;
use shards::recovery::ShardConfig;
use shards::repair::{RepairReport, allocated_bytes, copy_store, repair_shard};
use shards::store_dir::StoreDir;

use super::config_files;
use super::progress::Progress;
use crate::cli::{Output, send, slow};

/// Room that is left free on the disk beside a copy, bytes: what is built anew needs some before what was there is gone.
const MARGIN_BYTES: u64 = 64 << 20;

/// Repairs the store of a stopped node. A copy is made first.
///
/// ConsumeQueues and indexes are built anew from the logs; the rest of an unfinished write is cut; damaged messages stay where they are
/// and are passed over by readers, with their places kept; missing log files are replaced by empty ones. Without --to the store is copied to
/// DIR.before-repair-TIME and repaired in its place; with it the copy is repaired, and DIR stays as it is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of the store.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// Copy the store to this folder, which must not exist, and repair the copy.
    #[arg(long, value_name = "DIR", conflicts_with = "without_copy")]
    to: Option<PathBuf>,
    /// Repair it in its place and make no copy: there is one already.
    #[arg(long)]
    without_copy: bool,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Why a store cannot be repaired.
#[derive(Debug, thiserror::Error)]
enum CannotRepair {
    #[error("{path} exists already; name a folder that does not")]
    Exists { path: PathBuf },
    #[error("{to} is inside of {from}; name a folder outside of the store")]
    Inside { from: PathBuf, to: PathBuf },
    #[error(
        "a copy of {from} needs {needed} MiB at {to}, {free} MiB are free; free some, or name a folder on another disk with --to"
    )]
    NoRoom { from: PathBuf, to: PathBuf, needed: u64, free: u64 },
    #[error("cannot copy {from} to {to}: {source}")]
    Copy { from: PathBuf, to: PathBuf, source: std::io::Error },
    #[error("shard {shard}: {error}")]
    Shard { shard: u32, error: shards::repair::RepairError },
}

#[derive(Debug, Serialize)]
struct ShardRepair {
    shard: u32,
    #[serde(flatten)]
    report: RepairReport,
}

/// Copies, repairs and prints.
///
/// # Errors
/// The store is in use, there is no room for a copy, or what is there cannot be repaired.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let original = StoreDir::open_existing(&args.data)?;
    let copy = match (&args.to, args.without_copy) {
        (Some(to), _) => Some(to.clone()),
        (None, true) => None,
        (None, false) => Some(beside(original.root(), send::now_ms())),
    };
    if let Some(to) = &copy {
        make_copy(original.root(), to)?;
    }
    let repaired = match &args.to {
        Some(to) => StoreDir::open_existing(to)?,
        None => original,
    };
    let config = ShardConfig::new(repaired.segment_bytes());
    let mut reports = Vec::new();
    for shard in 0..repaired.shards() {
        let dir = repaired.shard_dir(shard);
        let mut progress = Progress::new(format!("repairing shard {shard}"));
        let mut report = repair_shard(&dir, &config, &mut |at| progress.at(at.scanned_bytes, at.total_bytes))
            .map_err(|error| CannotRepair::Shard { shard, error })?;
        report.done.extend(config_files::repair(&dir)?);
        reports.push(ShardRepair { shard, report });
    }
    if args.output == Output::Json {
        println!("{}", serde_json::json!({ "repaired": repaired.root(), "copy": copy, "shards": reports }));
        return Ok(());
    }
    match (&copy, &args.to) {
        (Some(_), Some(_)) => println!("{} is as it was", args.data.display()),
        (Some(copy), None) => println!("the store as it was is in {}", copy.display()),
        (None, _) => {}
    }
    for ShardRepair { shard, report } in &reports {
        println!("shard {shard}: {} records, the log ends at {}", report.records, report.log_end);
        report.done.iter().for_each(|done| println!("  {done}"));
        if report.lost_messages > 0 {
            println!(
                "  {} messages are lost; `ringmq store verify` lists them. Readers go on past their places",
                report.lost_messages
            );
        }
    }
    println!("{} can be started", repaired.root().display());
    Ok(())
}

fn make_copy(from: &Path, to: &Path) -> Result<(), CannotRepair> {
    let failed = |source| CannotRepair::Copy { from: from.to_owned(), to: to.to_owned(), source };
    if to.exists() {
        return Err(CannotRepair::Exists { path: to.to_owned() });
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.canonicalize().map_err(failed)?.starts_with(from) {
        return Err(CannotRepair::Inside { from: from.to_owned(), to: to.to_owned() });
    }
    let needed = allocated_bytes(from).map_err(failed)? + MARGIN_BYTES;
    let free = host::free_bytes(parent).map_err(failed)?;
    if free < needed {
        let (from, to) = (from.to_owned(), to.to_owned());
        return Err(CannotRepair::NoRoom { from, to, needed: needed >> 20, free: free >> 20 });
    }
    let mut progress = Progress::new("copying");
    copy_store(from, to, &mut |copied| progress.at(copied, copied.max(needed))).map_err(failed)
}

/// The folder for the copy of a store, beside it.
fn beside(root: &Path, now_ms: i64) -> PathBuf {
    let time: String = slow::time_of_day(now_ms).chars().take(19).filter(char::is_ascii_digit).collect();
    let mut name = root.as_os_str().to_owned();
    name.push(".before-repair-");
    name.push(time);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_beside_the_store_and_named_for_the_time() {
        assert_eq!(beside(Path::new("/s/data"), 0), Path::new("/s/data.before-repair-19700101000000"));
    }
}
