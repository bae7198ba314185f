//! One run with senders: what is sent, who receives it meanwhile, and who reads old data beside them. `produce`, `e2e` and every step
//! of a workload are such runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ringmq::client::{Client, TopicRoute};
use serde::Serialize;

use crate::acks::{AckWriter, AcksHead};
use crate::clock::{RunClock, unix_ms};
use crate::cold::{ColdOptions, ColdReaders};
use crate::consume::{From, pull_queues};
use crate::error::BenchError;
use crate::generator::{BrokerTarget, LoadPlan, Pace, Prepared, Running, Sent};
use crate::monitor::{Watch, shows_progress, watch};
use crate::options::{LoadOptions, ReportOptions, TargetOptions};
use crate::payload::{Payload, RunId};
use crate::puller::{Measured, PullPlan, Pulling, Received};
use crate::report::{Aim, Outcome, Report};
use crate::stock_client;
use crate::target::{broker_pids, by_broker, producing_route};

/// From the last preparation to the first message.
const LEAD: Duration = Duration::from_millis(20);
/// The same when there are consumers: each has its pull at the broker by then.
const LEAD_WITH_CONSUMERS: Duration = Duration::from_millis(200);
/// How long the consumers may take for the last messages after these were due.
const CATCH_UP: Duration = Duration::from_secs(10);

/// What a run consists of.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    pub target: TargetOptions,
    pub load: LoadOptions,
    pub receive: Option<ReceiveOptions>,
    pub cold: Option<ColdOptions>,
    pub record_acks: Option<PathBuf>,
}

/// Who receives what is sent.
#[derive(Args, Clone, Debug, Serialize)]
pub struct ReceiveOptions {
    /// Consumer group; with --groups the first of them, the others have a number behind
    #[arg(long, short, default_value = "ringmq-bench")]
    pub group: String,
    /// Groups, each of which receives every message
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub groups: usize,
    /// Connections of each group to each broker
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumer_connections: usize,
    /// Consumer threads, over all groups
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumer_threads: usize,
    /// Messages in one pull at most
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub pull_messages: u32,
}

impl ReceiveOptions {
    fn group_names(&self) -> Vec<String> {
        let name = |index| if index == 0 { self.group.clone() } else { format!("{}-{index}", self.group) };
        (0..self.groups).map(name).collect()
    }
}

impl Scenario {
    /// Runs it against the brokers and returns what was measured; prints progress only.
    ///
    /// # Errors
    /// An option cannot be meant, or the brokers cannot be reached. Errors of single messages are in the result.
    pub fn measure(&self, command: &str, options: &ReportOptions) -> Result<Report, BenchError> {
        self.load.check()?;
        let scenario = Self { load: self.load.resolved(), ..self.clone() };
        match &scenario.load.client {
            Some(script) => stock_client::measure(&scenario, script, command, options),
            None => scenario.measure_resolved(command, options),
        }
    }

    fn measure_resolved(self, command: &str, options: &ReportOptions) -> Result<Report, BenchError> {
        let Self { target, load, receive, cold, .. } = &self;
        let mut client = Client::new(&target.namesrv);
        let route = producing_route(&mut client, &target.topic, load.queues)?;
        let brokers = by_broker(&route.write_queues());
        if brokers.is_empty() {
            return Err(BenchError::NoQueues { topic: target.topic.clone(), purpose: "write to" });
        }
        let pids = broker_pids(&target.broker_pid, &brokers);
        let plan = self.load_plan(brokers.clone(), options.interval)?;
        let pulls = match receive {
            Some(receive) => Some(self.pull_plan(receive, &mut client, &route, &plan)?),
            None => None,
        };
        let readers = match cold {
            Some(cold) => Some(ColdReaders::prepare(cold, target, &mut client)?),
            None => None,
        };

        let prepared = Prepared::open(plan)?;
        let lead = if pulls.is_some() { LEAD_WITH_CONSUMERS } else { LEAD };
        let clock = RunClock::starting_at(Instant::now() + lead);
        let started_unix_ms = unix_ms() + u64::try_from(lead.as_millis()).unwrap_or(0);
        let pulling = pulls.map(|plan| Pulling::start(plan, clock)).transpose()?;
        let reading = readers.map(|readers| readers.start(clock)).transpose()?;
        let running = prepared.go(clock);
        let window = Watch {
            warmup: load.warmup,
            end: load.end(),
            broker_pids: pids.clone(),
            client_pids: Vec::new(),
            progress: shows_progress(options.progress),
        };
        let observed = watch(clock, &window, || running.counts(), || running.is_finished());
        let cold_reading = reading.map(|reading| reading.stop(clock)).transpose()?;
        let (sent, received) = self.end(running, pulling)?;

        let mut result =
            Outcome::of(&observed, load.size, !pids.is_empty()).with_sent(&sent, load.rate.is_some());
        if let (Some(received), Some(receive)) = (&received, receive) {
            result = result.with_received(received);
            let lost = (sent.acknowledged * receive.groups as u64).saturating_sub(received.messages);
            if lost > 0 {
                result.errors.add("acknowledged and not received", "within 10 s of being due", lost);
            }
        }
        if let Some((reading, errors)) = cold_reading {
            result.errors.merge(&errors);
            result.cold_reading = Some(reading);
        }
        let aim = Aim { topic: target.topic.clone(), brokers, broker_pids: pids };
        Ok(Report::new(command, options, &self, aim, started_unix_ms, result))
    }

    /// Waits for the last answers, and for consumers to have received everything.
    fn end(
        &self,
        running: Running,
        pulling: Option<Pulling>,
    ) -> Result<(Sent, Option<Received>), BenchError> {
        let sent = running.join()?;
        let (Some(pulling), Some(receive)) = (pulling, &self.receive) else { return Ok((sent, None)) };
        let deadline = Instant::now() + self.load.delay() + CATCH_UP;
        let wanted = sent.acknowledged * receive.groups as u64;
        while pulling.counts().messages < wanted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((sent, Some(pulling.stop()?)))
    }

    /// The generator's plan.
    fn load_plan(&self, brokers: Vec<BrokerTarget>, interval: Duration) -> Result<LoadPlan, BenchError> {
        let load = &self.load;
        let payload = Payload::new(RunId::random(), load.size);
        let acks = match &self.record_acks {
            None => None,
            Some(path) => {
                let head = AcksHead {
                    topic: self.target.topic.clone(),
                    run: payload.run().0,
                    size: load.size,
                    brokers: brokers.iter().map(|broker| broker.name.clone()).collect(),
                };
                Some(Arc::new(AckWriter::create(path, &head)?))
            }
        };
        Ok(LoadPlan {
            topic: self.target.topic.clone(),
            brokers,
            connections: load.connections,
            in_flight: load.in_flight(),
            threads: load.threads,
            batch: load.batch,
            delay_level: load.delay_level,
            pace: load.rate.map_or(Pace::Closed, |messages_per_second| Pace::Open { messages_per_second }),
            warmup: load.warmup,
            interval,
            end: load.end(),
            messages_max: load.messages,
            patience: load.patience,
            until_disconnect: load.until_disconnect,
            payload,
            acks,
        })
    }

    /// The consumers' plan for what the generator sends by `plan`.
    fn pull_plan(
        &self,
        receive: &ReceiveOptions,
        client: &mut Client,
        route: &TopicRoute,
        plan: &LoadPlan,
    ) -> Result<PullPlan, BenchError> {
        if receive.groups == 0 || receive.consumer_connections == 0 {
            let problem = "at least 1".to_owned();
            return Err(BenchError::Option { option: "--groups, --consumer-connections", problem });
        }
        let measured = Measured { run: plan.payload.run(), warmup: plan.warmup, delay: self.load.delay() };
        Ok(PullPlan {
            topic: plan.topic.clone(),
            groups: receive.group_names(),
            queues: pull_queues(client, &route.read_queues(), From::Last, &receive.group, false)?,
            connections: receive.consumer_connections,
            threads: receive.consumer_threads,
            messages_max: receive.pull_messages,
            commit: false,
            measured: Some(measured),
            interval: plan.interval,
        })
    }
}
