//! Readers of old data beside a writer: a topic of its own is filled first, then read from its start again and again while the
//! run is measured. How much of it comes from a disk is the broker's affair (and the page cache's, where it uses one).

use std::time::{Duration, Instant};

use ringmq::client::Client;
use serde::Serialize;

use crate::clock::RunClock;
use crate::consume::{From, pull_queues};
use crate::error::BenchError;
use crate::generator::{LoadPlan, Pace, Prepared};
use crate::options::TargetOptions;
use crate::payload::{Payload, RunId};
use crate::puller::{PullPlan, PullQueue, Pulling};
use crate::report::ColdReading;
use crate::tally::Errors;
use crate::target::{by_broker, producing_route};

/// Body of an old message, bytes, and how many are sent at once to make it.
const BODY_BYTES: usize = 4096;
const FILL_BATCH: usize = 32;
const FILL_IN_FLIGHT: usize = 16;
/// The group that reads.
const GROUP: &str = "ringmq-bench-cold";

/// What is to be read.
#[derive(Clone, Debug, Serialize)]
pub struct ColdOptions {
    /// Old data, bodies only.
    pub mebibytes: u64,
    /// Connections that read, each its share of the queues; none fills the topic all the same.
    pub readers: usize,
    /// Queues of the topic on each broker.
    pub queues: u32,
}

/// Readers that know what to read.
#[derive(Debug)]
pub struct ColdReaders {
    readers: usize,
    plan: PullPlan,
}

/// Readers at work.
#[derive(Debug)]
pub struct ColdReads {
    readers: usize,
    pulling: Option<Pulling>,
}

impl ColdReaders {
    /// Fills the topic `TARGET-cold` up to the size asked for.
    ///
    /// # Errors
    /// The brokers cannot be reached or refuse the messages.
    pub fn prepare(
        options: &ColdOptions,
        target: &TargetOptions,
        client: &mut Client,
    ) -> Result<Self, BenchError> {
        let topic = format!("{}-cold", target.topic);
        let route = producing_route(client, &topic, Some(options.queues))?;
        let wanted = (options.mebibytes << 20) / BODY_BYTES as u64;
        let there: u64 = ends(client, &route.read_queues())?.iter().map(length).sum();
        if there < wanted {
            fill(&topic, &by_broker(&route.write_queues()), wanted - there)?;
        }
        let queues = ends(client, &route.read_queues())?
            .into_iter()
            .map(|queue| PullQueue { again_from: Some(queue.offset), ..queue })
            .collect();
        let plan = PullPlan {
            topic,
            groups: vec![GROUP.to_owned()],
            queues,
            connections: options.readers,
            threads: 1,
            messages_max: 32,
            commit: false,
            measured: None,
            interval: Duration::from_secs(1),
        };
        Ok(Self { readers: options.readers, plan })
    }

    /// Begins to read, at once.
    ///
    /// # Errors
    /// A broker cannot be connected to.
    pub fn start(self, clock: RunClock) -> Result<ColdReads, BenchError> {
        let pulling = if self.readers > 0 { Some(Pulling::start(self.plan, clock)?) } else { None };
        Ok(ColdReads { readers: self.readers, pulling })
    }
}

impl ColdReads {
    /// Ends the reading, which began with `clock`.
    ///
    /// # Errors
    /// The reading thread failed.
    pub fn stop(self, clock: RunClock) -> Result<(ColdReading, Errors), BenchError> {
        let Some(pulling) = self.pulling else { return Ok((ColdReading::default(), Errors::default())) };
        let seconds = (Instant::now() - clock.instant_at(0)).as_secs_f64();
        let received = pulling.stop()?;
        let mebibytes_per_second = received.body_bytes as f64 / f64::from(1 << 20) / seconds;
        let reading =
            ColdReading { readers: self.readers, messages: received.messages, mebibytes_per_second };
        Ok((reading, received.errors))
    }
}

/// All queues from their first message to their end.
fn ends(client: &mut Client, queues: &[ringmq::client::Queue]) -> Result<Vec<PullQueue>, BenchError> {
    pull_queues(client, queues, From::First, GROUP, true)
}

fn length(queue: &PullQueue) -> u64 {
    queue.end.unwrap_or(queue.offset).saturating_sub(queue.offset)
}

/// Sends the old messages, in batches.
fn fill(topic: &str, brokers: &[crate::generator::BrokerTarget], messages: u64) -> Result<(), BenchError> {
    let plan = LoadPlan {
        topic: topic.to_owned(),
        brokers: brokers.to_vec(),
        connections: brokers.len(),
        in_flight: FILL_IN_FLIGHT,
        threads: 1,
        batch: FILL_BATCH,
        delay_level: 0,
        pace: Pace::Closed,
        warmup: Duration::ZERO,
        interval: Duration::from_secs(1),
        end: None,
        messages_max: Some(messages),
        patience: Duration::from_secs(30),
        until_disconnect: false,
        payload: Payload::new(RunId::random(), BODY_BYTES),
        acks: None,
    };
    let sent = Prepared::open(plan)?.go(RunClock::starting_at(Instant::now())).join()?;
    match sent.errors.iter().next() {
        None => Ok(()),
        Some((kind, first)) => Err(BenchError::Fill {
            topic: topic.to_owned(),
            messages,
            acknowledged: sent.acknowledged,
            problem: format!("{kind}: {}", first.first),
        }),
    }
}
