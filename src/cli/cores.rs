//! `ringmq cores`: which shard lives where.

use std::path::PathBuf;

use runtime::host;

use super::serve::{Overrides, ServeError, read_config};
use crate::config::Config;

/// Shows on which core every shard's log and clients live.
///
/// Reads the same configuration as `ringmq serve`. Log and clients of a shard on two cores let one busy shard use both; on one
/// core they save the hop between.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", env = "RINGMQ_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// `json` for scripts.
    #[arg(short, long, value_enum, default_value_t)]
    output: super::Output,
}

/// Prints the placement.
///
/// # Errors
/// The configuration does not resolve.
pub fn run(args: Args) -> Result<(), ServeError> {
    let text = read_config(args.config, args.overrides)?;
    let cpus = host::allowed_cpus()?;
    let shards = text.wanted_shards().unwrap_or_else(|| text.default_shards(&cpus));
    let config = Config::resolve(text, shards, &cpus)?;
    if args.output == super::Output::Json {
        let cores = config.cores.iter().map(|core| {
            serde_json::json!({
                "cpu": core.cpu, "log": core.log, "serve": core.serve, "ring_depth": core.ring_depth,
                "hot_tail_bytes": core.hot_tail_bytes, "spin_us": core.spin.as_micros(),
                "write_buffers": { "block_bytes": core.write_buffers.block_bytes, "count": core.write_buffers.count },
            })
        });
        println!("{}", serde_json::Value::from_iter(cores));
        return Ok(());
    }
    println!("{:<5} {:<5} {:<12} {:<30} {:<9} {:<6}", "core", "cpu", "logs", "serves", "hot tail", "spin");
    for (index, core) in config.cores.iter().enumerate() {
        let serves: Vec<_> = core
            .serve
            .iter()
            .map(|&shard| format!("{shard} (:{})", config.shard_address(shard).port()))
            .collect();
        println!(
            "{index:<5} {:<5} {:<12} {:<30} {:<9} {:<6}",
            core.cpu,
            core.log.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            serves.join(" "),
            format!("{} MiB", core.hot_tail_bytes >> 20),
            format!("{} us", core.spin.as_micros()),
        );
    }
    Ok(())
}
