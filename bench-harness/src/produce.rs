//! `ringmq-bench produce`: sends, and measures how long acknowledgements take.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ringmq::client::Client;
use serde::Serialize;

use crate::acks::{AckWriter, AcksHead};
use crate::clock::RunClock;
use crate::error::BenchError;
use crate::generator::{BrokerTarget, LoadPlan, Pace, Prepared};
use crate::monitor::{Watch, shows_progress, watch};
use crate::options::{LoadOptions, ReportOptions, TargetOptions};
use crate::payload::{Payload, RunId};
use crate::report::{Aim, Outcome, Report, unix_seconds};
use crate::target::{broker_pids, by_broker, producing_route};

/// From the last preparation to the first message.
pub(crate) const LEAD: Duration = Duration::from_millis(20);

/// Send messages and measure the acknowledgements.
#[derive(Args, Clone, Debug, Serialize)]
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
    #[serde(skip)]
    pub report: ReportOptions,
}

/// Runs the command; prints the table.
///
/// # Errors
/// The brokers cannot be reached, or the run had errors.
pub fn run(args: &ProduceArgs) -> Result<(), BenchError> {
    args.load.check()?;
    let args = &ProduceArgs { load: args.load.resolved(), ..args.clone() };
    let mut client = Client::new(&args.target.namesrv);
    let route = producing_route(&mut client, &args.target.topic, args.load.queues)?;
    let brokers = by_broker(&route.write_queues());
    if brokers.is_empty() {
        return Err(BenchError::NoQueues { topic: args.target.topic.clone(), purpose: "write to" });
    }
    let pids = broker_pids(&args.target.broker_pid, &brokers);
    let plan = load_plan(&args.target, &args.load, brokers.clone(), args.record_acks.as_ref())?;

    let started_unix_seconds = unix_seconds();
    let prepared = Prepared::open(plan)?;
    let clock = RunClock::starting_at(Instant::now() + LEAD);
    let running = prepared.go(clock);
    let window = Watch {
        warmup: args.load.warmup,
        end: args.load.end(),
        broker_pids: pids.clone(),
        progress: shows_progress(args.report.progress),
    };
    let observed = watch(clock, &window, || running.counts(), || running.is_finished());
    let sent = running.join()?;

    let result =
        Outcome::of(&observed, args.load.size, !pids.is_empty()).with_sent(&sent, args.load.rate.is_some());
    let aim = Aim { topic: args.target.topic.clone(), brokers, broker_pids: pids };
    Report::new("produce", &args.report, args, aim, started_unix_seconds, result).conclude(&args.report)
}

/// The generator's plan for these options.
pub(crate) fn load_plan(
    target: &TargetOptions,
    load: &LoadOptions,
    brokers: Vec<BrokerTarget>,
    record_acks: Option<&PathBuf>,
) -> Result<LoadPlan, BenchError> {
    let payload = Payload::new(RunId::random(), load.size);
    let acks = match record_acks {
        None => None,
        Some(path) => {
            let head = AcksHead {
                topic: target.topic.clone(),
                run: payload.run().0,
                size: load.size,
                brokers: brokers.iter().map(|broker| broker.name.clone()).collect(),
            };
            Some(Arc::new(AckWriter::create(path, &head)?))
        }
    };
    Ok(LoadPlan {
        topic: target.topic.clone(),
        brokers,
        connections: load.connections,
        in_flight: load.in_flight(),
        threads: load.threads,
        batch: load.batch,
        pace: load.rate.map_or(Pace::Closed, |messages_per_second| Pace::Open { messages_per_second }),
        warmup: load.warmup,
        end: load.end(),
        messages_max: load.messages,
        patience: load.patience,
        until_disconnect: load.until_disconnect,
        payload,
        acks,
    })
}
