//! `ringmq store verify`: checks everything in a store, and says what is damaged, what of it is lost and what to do.

use std::error::Error;
use std::path::PathBuf;

use serde::Serialize;
use shards::io::disk::StdDisk;
use shards::recovery::ShardConfig;
use shards::store_dir::StoreDir;
use shards::verify::{LostMessages, VerifyReport, verify_shard};

use super::config_files;
use super::progress::Progress;
use crate::cli::Output;

/// Checks the store of a stopped node: every record of the logs by its checksums, ConsumeQueues and indexes against the logs, and the
/// files of the configuration.
///
/// Changes nothing. Exits with 1 when something is damaged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of the store.
    #[arg(value_name = "DIR")]
    data: PathBuf,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What was found in one shard.
#[derive(Debug, Serialize)]
struct ShardReport {
    shard: u32,
    #[serde(flatten)]
    report: VerifyReport,
}

/// Something is damaged.
#[derive(Debug, thiserror::Error)]
#[error("the store is damaged in {places} places; see above")]
struct Damaged {
    places: u64,
}

/// Checks and prints.
///
/// # Errors
/// Something is damaged, the store is in use, or the disk refuses.
pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let store = StoreDir::open_existing(&args.data)?;
    let config = ShardConfig::new(store.segment_bytes());
    let mut reports = Vec::new();
    for shard in 0..store.shards() {
        let dir = store.shard_dir(shard);
        let mut progress = Progress::new(format!("verifying shard {shard}"));
        let mut report = verify_shard(&StdDisk, &dir, &config, &mut |at| {
            progress.at(at.scanned_bytes, at.total_bytes);
        })?;
        config_files::check(&dir)?.into_iter().for_each(|finding| report.add(finding));
        drop(progress);
        reports.push(ShardReport { shard, report });
    }
    if args.output == Output::Json {
        println!("{}", serde_json::json!({ "store": store.root(), "node": store.node(), "shards": reports }));
    } else {
        reports.iter().for_each(|report| print!("{}", text(report)));
    }
    let places = |one: &ShardReport| one.report.findings.len() as u64 + one.report.findings_left_out;
    match reports.iter().map(places).sum() {
        0 => Ok(()),
        places => Err(Damaged { places }.into()),
    }
}

fn text(ShardReport { shard, report }: &ShardReport) -> String {
    let VerifyReport { log_start, log_end, records, queue_entries, index_keys, torn_bytes, .. } = report;
    let mut text = format!(
        "shard {shard}: {}; {records} records from log offset {log_start} to {log_end}, {queue_entries} ConsumeQueue entries, \
         {index_keys} index keys\n",
        if report.is_good() { "good" } else { "DAMAGED" }
    );
    if *torn_bytes > 0 {
        text += &format!(
            "  the log ends with {torn_bytes} bytes of an unfinished write; nothing of them was acknowledged, the next start cuts them\n"
        );
    }
    for finding in &report.findings {
        text += &format!(
            "  {} at byte {}, {} bytes: {}\n    lost: {}\n    cure: {}\n",
            finding.file.display(),
            finding.offset,
            finding.bytes,
            finding.what,
            finding.lost,
            finding.cure
        );
    }
    if report.findings_left_out > 0 {
        text += &format!("  and {} more damaged places\n", report.findings_left_out);
    }
    if report.lost_messages > 0 {
        text += &format!("  {} messages are lost:\n", report.lost_messages);
        for LostMessages { topic, queue_id, from, to } in &report.lost {
            text += &match to - from {
                1 => format!("    message {from} of queue {queue_id} of {topic}\n"),
                _ => format!("    messages {from} to {} of queue {queue_id} of {topic}\n", to - 1),
            };
        }
    }
    text
}
