//! `ringmq store adopt`: makes the store of a stock RocketMQ broker the store of a node.

use std::error::Error;
use std::path::PathBuf;

use shards::migration::{self, Adopted};
use shards::recovery::RecoveryReport;

use super::config_files;
use super::progress::Progress;
use crate::broker::name;
use crate::cli::Output;

/// Takes over the store of a stock RocketMQ broker that is stopped: its folder is moved to DATA/shard-0, and no message is copied.
///
/// All of its log is read and checked, and ConsumeQueues and index are built from it. When that is not possible, the folder goes back to
/// where it was. `ringmq store release` is the way back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The broker's storePathRootDir, with the folders commitlog and config in it.
    #[arg(value_name = "STORE")]
    stock: PathBuf,
    /// Folder for the node's store: empty or not there, on the same file system.
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Name of the node that will serve it (`node_name` of its configuration). Clients will know the broker as NAME-0.
    #[arg(long, value_name = "NAME", default_value = "ringmq")]
    node: String,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Takes over and prints.
///
/// # Errors
/// The broker runs, its store holds what a node cannot serve, or the disk refuses.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut progress = Progress::new("reading the log");
    let adopted = migration::adopt(&args.stock, &args.data, &args.node, &mut |at| {
        progress.at(at.scanned_bytes, at.total_bytes);
    })?;
    drop(progress);
    let findings = config_files::check(&adopted.shard_dir)?;
    let Adopted { root, shard_dir, segment_bytes, was_clean, report, messages } = &adopted;
    let RecoveryReport { records, torn_bytes, damaged_ranges, lost_messages, end, .. } = report;
    if args.output == Output::Json {
        let messages: serde_json::Map<_, _> =
            messages.iter().map(|(topic, count)| (topic.clone(), (*count).into())).collect();
        println!(
            "{}",
            serde_json::json!({
                "store": root, "shard": shard_dir, "node": args.node, "segment_bytes": segment_bytes, "was_clean": was_clean,
                "records": records, "log_end": end.get(), "torn_bytes": torn_bytes, "damaged_ranges": damaged_ranges,
                "lost_messages": lost_messages, "messages": messages, "findings": findings,
            })
        );
        return Ok(());
    }
    println!(
        "{records} records up to log offset {end}; the files of the log have {} MiB",
        segment_bytes >> 20
    );
    if !was_clean {
        println!("the broker had not ended cleanly; what was in its log is there");
    }
    for (topic, count) in messages {
        println!("  {count:>12} {topic}{}", note_on(topic));
    }
    if *damaged_ranges > 0 {
        println!(
            "the log is damaged at {damaged_ranges} places; at least {lost_messages} messages are lost, readers go on past them"
        );
    }
    for finding in findings {
        println!("{}: {}; {}", finding.file.display(), finding.what, finding.cure);
    }
    println!("serve it with: ringmq serve --data {}{}", root.display(), node_flag(&args.node));
    Ok(())
}

/// What becomes of messages that the broker keeps for itself.
fn note_on(topic: &str) -> &'static str {
    match topic {
        name::SCHEDULE_TOPIC => " (delayed; those that still wait are delivered at their time)",
        name::TRANS_HALF_TOPIC => " (half messages: kept; a node does not check them back)",
        _ => "",
    }
}

fn node_flag(node: &str) -> String {
    if node == "ringmq" {
        String::new()
    } else {
        format!("   (with node_name = \"{node}\" in its configuration)")
    }
}
