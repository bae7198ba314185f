//! `ringmq-bench e2e`: producers and consumers in one process, on one clock: how long a message takes from the time at which it was
//! to be sent until a consumer has it.

use clap::Args;

use crate::error::BenchError;
use crate::options::{LoadOptions, ReportOptions, TargetOptions};
use crate::scenario::{ReceiveOptions, Scenario};

/// Send and receive, and measure the way from one to the other.
#[derive(Args, Clone, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  Latency at 1,000 messages per second:
    ringmq-bench e2e --rate 1000 --duration 30s
  As much as goes through, 64 requests under way:
    ringmq-bench e2e --in-flight 64 --duration 30s
  To five groups, and delayed by a second:
    ringmq-bench e2e --rate 1000 --groups 5
    ringmq-bench e2e --rate 1000 --delay-level 1

Exit status: 0 when all went well; 1 when there was any error, an acknowledged message that did not arrive among them."
)]
pub struct E2eArgs {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub receive: ReceiveOptions,
    #[command(flatten)]
    pub report: ReportOptions,
}

/// Runs the command; prints the table.
///
/// # Errors
/// The brokers cannot be reached, or the run had errors.
pub fn run(args: &E2eArgs) -> Result<(), BenchError> {
    let scenario = Scenario {
        target: args.target.clone(),
        load: args.load.clone(),
        receive: Some(args.receive.clone()),
        cold: None,
        record_acks: None,
    };
    scenario.measure("e2e", &args.report)?.conclude(&args.report)
}
