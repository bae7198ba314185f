//! `ringmq-bench consume`: reads a topic as fast as it goes.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use ringmq::client::{Client, Queue};
use serde::Serialize;

use crate::clock::{RunClock, unix_ms};
use crate::error::BenchError;
use crate::monitor::{Watch, shows_progress, watch};
use crate::options::{ReportOptions, TargetOptions, parse_duration};
use crate::puller::{PullPlan, PullQueue, Pulling};
use crate::report::{Aim, Outcome, Report};
use crate::target::{broker_pids, by_broker};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum From {
    /// With the oldest message there is
    First,
    /// With what comes from now on
    Last,
    /// Where the group left off; with the oldest when it never committed
    Committed,
}

/// Pull messages from all queues and measure the throughput.
#[derive(Args, Clone, Debug, Serialize)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  Read back all there is:
    ringmq-bench consume --topic bench
  Follow for a minute what others send:
    ringmq-bench consume --topic bench --from last --duration 60s

Exit status: 0 when all went well; 1 when there was any error, a gap in the queue offsets among them."
)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub target: TargetOptions,
    /// Consumer group
    #[arg(long, short, default_value = "ringmq-bench")]
    pub group: String,
    /// Where to begin
    #[arg(long, value_enum, default_value = "first")]
    pub from: From,
    /// Commit offsets with the pulls
    #[arg(long)]
    pub commit: bool,
    /// How long to read; without this and --messages: until all is read that was there at the start
    #[arg(long, short, value_parser = parse_duration, value_name = "TIME")]
    #[serde(skip)]
    pub duration: Option<Duration>,
    /// Stop after this many messages
    #[arg(long, short, value_name = "N")]
    pub messages: Option<u64>,
    /// Connections to each broker
    #[arg(long, short, default_value_t = 1)]
    pub connections: usize,
    /// Messages in one pull at most
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub pull_messages: u32,
    /// Consumer threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    #[command(flatten)]
    #[serde(skip)]
    pub report: ReportOptions,
}

/// Runs the command; prints the table.
///
/// # Errors
/// The brokers cannot be reached, or the run had errors.
pub fn run(args: &ConsumeArgs) -> Result<(), BenchError> {
    let topic = &args.target.topic;
    let mut client = Client::new(&args.target.namesrv);
    let queues = client.route(topic)?.map(|route| route.read_queues()).unwrap_or_default();
    if queues.is_empty() {
        return Err(BenchError::NoQueues { topic: topic.clone(), purpose: "read from" });
    }
    let brokers = by_broker(&queues);
    let pids = broker_pids(&args.target.broker_pid, &brokers);
    let to_the_end = args.duration.is_none() && args.messages.is_none();
    let plan = PullPlan {
        topic: topic.clone(),
        groups: vec![args.group.clone()],
        queues: pull_queues(&mut client, &queues, args.from, &args.group, to_the_end)?,
        connections: args.connections,
        threads: args.threads,
        messages_max: args.pull_messages,
        commit: args.commit,
        measured: None,
        interval: args.report.interval,
    };

    let started_unix_ms = unix_ms();
    let clock = RunClock::starting_at(Instant::now());
    let pulling = Pulling::start(plan, clock)?;
    let window = Watch {
        client_pids: Vec::new(),
        warmup: Duration::ZERO,
        end: args.duration,
        broker_pids: pids.clone(),
        progress: shows_progress(args.report.progress),
    };
    let enough = || args.messages.is_some_and(|wanted| pulling.counts().messages >= wanted);
    let observed = watch(clock, &window, || pulling.counts(), || pulling.is_finished() || enough());
    let received = pulling.stop()?;

    let mean_size = usize::try_from(received.body_bytes / received.messages.max(1)).unwrap_or(usize::MAX);
    let mut result = Outcome::of(&observed, mean_size, !pids.is_empty());
    result.series = received.recording.intervals();
    result.errors = received.errors;
    let aim = Aim { topic: topic.clone(), brokers, broker_pids: pids };
    Report::new("consume", &args.report, &args, aim, started_unix_ms, result).conclude(&args.report)
}

/// The queues with the offsets to begin at and, when reading `to_the_end`, the offsets to end at.
pub(crate) fn pull_queues(
    client: &mut Client,
    queues: &[Queue],
    from: From,
    group: &str,
    to_the_end: bool,
) -> Result<Vec<PullQueue>, BenchError> {
    let mut found = Vec::with_capacity(queues.len());
    for queue in queues {
        let committed = match from {
            From::Committed => client.committed_offset(queue, group)?,
            From::First | From::Last => None,
        };
        let offset = match (committed, from) {
            (Some(offset), _) => offset,
            (None, From::Last) => client.max_offset(queue)?,
            (None, _) => client.min_offset(queue)?,
        };
        found.push(PullQueue {
            broker: queue.broker_name.clone(),
            addr: queue.addr.clone(),
            queue_id: queue.queue_id,
            offset,
            end: if to_the_end { Some(client.max_offset(queue)?) } else { None },
            again_from: None,
        });
    }
    Ok(found)
}
