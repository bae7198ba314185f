//! `ringmq-bench e2e`: producers and consumers in one process, on one clock: how long a message takes from the time at which it was
//! to be sent until a consumer has it.

use std::time::{Duration, Instant};

use clap::Args;
use ringmq::client::Client;
use serde::Serialize;

use crate::clock::RunClock;
use crate::consume::{From, pull_queues};
use crate::error::BenchError;
use crate::generator::Prepared;
use crate::monitor::{Watch, shows_progress, watch};
use crate::options::{LoadOptions, ReportOptions, TargetOptions};
use crate::produce::{LEAD, load_plan};
use crate::puller::{PullPlan, Pulling};
use crate::report::{Aim, Outcome, Report, unix_seconds};
use crate::target::{broker_pids, by_broker, producing_route};

/// How long the consumers may take for the last messages after the producers have ended.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Send and receive, and measure the way from one to the other.
#[derive(Args, Clone, Debug, Serialize)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  Latency at 1,000 messages per second:
    ringmq-bench e2e --rate 1000 --duration 30s
  As much as goes through, 64 requests under way:
    ringmq-bench e2e --in-flight 64 --duration 30s

Exit status: 0 when all went well; 1 when there was any error, an acknowledged message that did not arrive among them."
)]
pub struct E2eArgs {
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    /// Consumer group
    #[arg(long, short, default_value = "ringmq-bench")]
    pub group: String,
    /// Consumer connections to each broker
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumer_connections: usize,
    /// Consumer threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumer_threads: usize,
    #[command(flatten)]
    #[serde(skip)]
    pub report: ReportOptions,
}

/// Runs the command; prints the table.
///
/// # Errors
/// The brokers cannot be reached, or the run had errors.
pub fn run(args: &E2eArgs) -> Result<(), BenchError> {
    args.load.check()?;
    let args = &E2eArgs { load: args.load.resolved(), ..args.clone() };
    let topic = &args.target.topic;
    let mut client = Client::new(&args.target.namesrv);
    let route = producing_route(&mut client, topic, args.load.queues)?;
    let brokers = by_broker(&route.write_queues());
    if brokers.is_empty() {
        return Err(BenchError::NoQueues { topic: topic.clone(), purpose: "write to" });
    }
    let pids = broker_pids(&args.target.broker_pid, &brokers);
    let load = load_plan(&args.target, &args.load, brokers.clone(), None)?;
    let pulls = PullPlan {
        topic: topic.clone(),
        group: args.group.clone(),
        queues: pull_queues(&mut client, &route.read_queues(), From::Last, &args.group, false)?,
        connections: args.consumer_connections,
        threads: args.consumer_threads,
        messages_max: 32,
        commit: false,
        measured: Some((load.payload.run(), args.load.warmup)),
    };

    let started_unix_seconds = unix_seconds();
    let prepared = Prepared::open(load)?;
    // Consumers first: each has its pull at the broker before the first message.
    let clock = RunClock::starting_at(Instant::now() + 10 * LEAD);
    let pulling = Pulling::start(pulls, clock)?;
    let running = prepared.go(clock);
    let window = Watch {
        warmup: args.load.warmup,
        end: args.load.end(),
        broker_pids: pids.clone(),
        progress: shows_progress(args.report.progress),
    };
    let observed = watch(clock, &window, || pulling.counts(), || running.is_finished());
    let sent = running.join()?;
    let deadline = Instant::now() + CATCH_UP;
    while pulling.counts().messages < sent.acknowledged && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let received = pulling.stop()?;

    let mut result =
        Outcome::of(&observed, args.load.size, !pids.is_empty()).with_sent(&sent, args.load.rate.is_some());
    result.end_to_end_latency_us = Some(received.latency.percentiles());
    result.errors.merge(&received.errors);
    let lost = sent.acknowledged.saturating_sub(received.messages);
    if lost > 0 {
        result.errors.add("acknowledged and not received", "within 10 s of the last send", lost);
    }
    let aim = Aim { topic: topic.clone(), brokers, broker_pids: pids };
    Report::new("e2e", &args.report, args, aim, started_unix_seconds, result).conclude(&args.report)
}
