//! `ringmq-bench produce`: sends, and measures how long acknowledgements take.

use std::path::PathBuf;

use clap::Args;

use crate::error::BenchError;
use crate::options::{LoadOptions, ReportOptions, TargetOptions};
use crate::scenario::Scenario;

/// Send messages and measure the acknowledgements.
#[derive(Args, Clone, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  Closed loop, 64 requests under way, 1 KiB, 30 s after 20 s of warming up:
    ringmq-bench produce --in-flight 64 --duration 30s --warmup 20s --flush SYNC_FLUSH --json result.json
  Open loop: latency at 3,000 messages per second, counted from the intended send times:
    ringmq-bench produce --rate 3000 --duration 60s
  A million messages, then read all of them back:
    ringmq-bench produce --topic million --messages 1000000 --record-acks acks
    ringmq-bench verify --acks acks

Exit status: 0 when all went well; 1 when there was any error."
)]
pub struct ProduceArgs {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Write every acknowledged message with its place to this file, for `verify`
    #[arg(long, value_name = "FILE")]
    pub record_acks: Option<PathBuf>,
    #[command(flatten)]
    pub report: ReportOptions,
}

/// Runs the command; prints the table.
///
/// # Errors
/// The brokers cannot be reached, or the run had errors.
pub fn run(args: &ProduceArgs) -> Result<(), BenchError> {
    let scenario = Scenario {
        target: args.target.clone(),
        load: args.load.clone(),
        receive: None,
        cold: None,
        record_acks: args.record_acks.clone(),
    };
    scenario.measure("produce", &args.report)?.conclude(&args.report)
}
