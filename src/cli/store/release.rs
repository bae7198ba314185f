//! `ringmq store release`: makes a store ready for a stock RocketMQ broker.

use std::error::Error;
use std::path::PathBuf;

use shards::migration::{self, Released};

use super::progress::Progress;
use crate::cli::Output;

/// Prepares the store of a stopped node for a stock RocketMQ broker, and says how to start one on it. No message is copied.
///
/// The store must have one shard, and no damage in its log that is known: the stock broker would cut all behind it. A node can go on with
/// the folder after the broker was stopped, as if it had been its own all the time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of the node's store.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// Move the broker's folder here, which must not exist; DIR is no store afterwards (`ringmq store adopt` is the way back).
    #[arg(long, value_name = "STORE")]
    to: Option<PathBuf>,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prepares and prints.
///
/// # Errors
/// The store is in use, has several shards or damage, or the disk refuses.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut progress = Progress::new("reading the log");
    let released = migration::release(&args.data, args.to.as_deref(), &mut |at| {
        progress.at(at.scanned_bytes, at.total_bytes);
    })?;
    drop(progress);
    let Released { store_dir, segment_bytes, node, report } = &released;
    if args.output == Output::Json {
        println!(
            "{}",
            serde_json::json!({
                "storePathRootDir": store_dir, "mappedFileSizeCommitLog": segment_bytes, "brokerName": format!("{node}-0"),
                "log_end": report.end.get(), "torn_bytes": report.torn_bytes,
            })
        );
        return Ok(());
    }
    println!("# the store is ready for a RocketMQ broker with these lines in its broker.conf:");
    println!("storePathRootDir={}", store_dir.display());
    println!("storePathCommitLog={}", store_dir.join("commitlog").display());
    println!("mappedFileSizeCommitLog={segment_bytes}");
    println!("# clients know it by this name:");
    println!("brokerName={node}-0");
    println!("# checksums as a node writes them:");
    println!("enabledAppendPropCRC=true");
    Ok(())
}
