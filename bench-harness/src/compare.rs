//! `ringmq-bench compare`: peers in turn on the same machine, each on a fresh store, with a probe of the disk beside them.
//!
//! Every round runs every peer once; who begins alternates, so that a drift of the machine favours nobody. A peer that cannot do a
//! step leaves a gap in the table and a line below it; the rest goes on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::clock::unix_ms;
use crate::comparison::Comparison;
use crate::disk_probe::DiskProbe;
use crate::error::BenchError;
use crate::machine::Machine;
use crate::monitor::{Observed, shows_progress};
use crate::options::{LoadOptions, ReportOptions, parse_duration};
use crate::peer::{OwnLoad, Peer, Protocol, RunningPeer};
use crate::process_cpu::usage_of;
use crate::report::{Aim, Outcome, Place, Report, print, write_file};
use crate::report_page::page;
use crate::run::{StepChoice, make_dir};
use crate::scenario::Scenario;
use crate::workload::{FlushMode, Step, Workload};

/// Compare brokers: start each on a fresh store, in turn, under the same load.
#[derive(Args, Clone, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  RingMQ and the stock Java broker:
    ringmq-bench compare --workload durable --rounds 3 \\
        --peer ringmq=bench-harness/peers/ringmq --peer java=bench-harness/peers/rocketmq-java
  Two builds of RingMQ:
    ringmq-bench compare --workload durable --workload steady --warm-start 0s \\
        --peer new=bench-harness/peers/ringmq --peer 'old=bench-harness/peers/ringmq --bin /path/to/ringmq'

Leaves in the results' folder LABEL-STEP-FLUSH-PEER-ROUND.json for each run, the tables in LABEL.md and LABEL.json, and all
of it with its curves in LABEL.html. Peers are scripts: bench-harness/peers/README.md.
Exit status: 0 when every run counts; 1 when any failed or had errors, after the others."
)]
pub struct CompareArgs {
    /// Workload, by name or file; may be given again
    #[arg(long = "workload", required = true, value_name = "WORKLOAD")]
    pub workloads: Vec<String>,
    /// Peer, NAME=SCRIPT [OPTIONS]; the first is compared with the others
    #[arg(long = "peer", required = true, value_name = "NAME=SCRIPT")]
    pub peers: Vec<Peer>,
    /// How often each peer runs
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: u32,
    /// Number of the first of them, when a comparison is made in several sittings: `report` joins their results
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub first_round: u32,
    /// Load before the first step after every start, not measured; a JVM needs this long
    #[arg(long, value_parser = parse_duration, default_value = "15s", value_name = "TIME")]
    pub warm_start: Duration,
    #[command(flatten)]
    pub choice: StepChoice,
    /// Folder for the results
    #[arg(long, default_value = "bench-harness/results", value_name = "DIR")]
    pub results: PathBuf,
    /// Begin the files' names with this
    #[arg(long, default_value = "compare")]
    pub label: String,
    /// Folder for the stores and the probe: on a disk, not in memory
    #[arg(long, default_value = "/var/tmp", env = "TMPDIR", value_name = "DIR")]
    pub dir: PathBuf,
    /// A line of progress each second, even when standard error is not a terminal
    #[arg(long)]
    pub progress: bool,
}

/// What `LABEL.json` holds.
#[derive(Serialize)]
struct Document<'a> {
    label: &'a str,
    command_line: Vec<String>,
    machine: Machine,
    peers: &'a [Peer],
    rounds: u32,
    warm_start_seconds: f64,
    #[serde(flatten)]
    comparison: &'a Comparison,
    failures: &'a [String],
}

/// Runs the command; prints the tables.
///
/// # Errors
/// A workload cannot be read, a folder cannot be written, or runs failed.
pub fn run(args: &CompareArgs) -> Result<(), BenchError> {
    let workloads = args.choice.load(&args.workloads)?;
    for (index, peer) in args.peers.iter().enumerate() {
        if args.peers[..index].iter().any(|other| other.name == peer.name) {
            let problem = format!("two are named {}", peer.name);
            return Err(BenchError::Option { option: "--peer", problem });
        }
    }
    make_dir(&args.results)?;
    let work = WorkDir::make(args.dir.join(format!("ringmq-compare.{}", std::process::id())))?;
    let mut sitting = Sitting {
        args,
        probe: DiskProbe::start(&work.0)?,
        work: work.0.clone(),
        current: stop_on_signals(&work)?,
        reports: Vec::new(),
        failures: Vec::new(),
    };
    for workload in &workloads {
        for flush in &workload.flush {
            for round in (args.first_round..).take(args.rounds as usize) {
                for rank in order(args.peers.len(), round) {
                    sitting.visit(workload, *flush, round, rank)?;
                }
            }
        }
    }
    sitting.conclude()
}

/// Who runs in which order: every second round backwards.
fn order(peers: usize, round: u32) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..peers).rev().collect() } else { (0..peers).collect() }
}

/// The folder with the stores; it goes in the end.
#[derive(Debug)]
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn make(path: PathBuf) -> Result<Self, BenchError> {
        make_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("ringmq-bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The peer that runs, for whoever interrupts.
pub(crate) type Current = Arc<Mutex<Option<RunningPeer>>>;

/// Brokers outlive whoever started them: an interrupt stops the one that runs, then ends this process as it would have.
pub(crate) fn stop_on_signals(work: &WorkDir) -> Result<Current, BenchError> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let current = Current::default();
    let (running, path) = (current.clone(), work.0.clone());
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(BenchError::Runtime)?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            drop(running.lock().unwrap_or_else(PoisonError::into_inner).take());
            drop(WorkDir(path));
            // The default of both is to end the process, which cannot fail.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
    Ok(current)
}

/// A comparison under way.
struct Sitting<'a> {
    args: &'a CompareArgs,
    probe: DiskProbe,
    work: PathBuf,
    /// The peer that runs, for whoever interrupts.
    current: Current,
    reports: Vec<Report>,
    failures: Vec<String>,
}

impl Sitting<'_> {
    /// Starts a peer on a fresh store, runs the workload's steps, stops it.
    fn visit(
        &mut self,
        workload: &Workload,
        flush: FlushMode,
        round: u32,
        rank: usize,
    ) -> Result<(), BenchError> {
        let peer = &self.args.peers[rank];
        let visit = format!("{} {} round {round}: {}", workload.name, flush.name(), peer.name);
        eprintln!("{visit}");
        let dir = self.work.join(format!("{}-{round}", peer.name));
        let running = match peer.start(&dir, flush) {
            Ok(running) => running,
            Err(error) => {
                self.failures.push(format!("{visit}: {error}"));
                return Ok(());
            }
        };
        let seen = Seen { protocol: running.protocol.clone(), broker_pids: running.broker_pids.clone() };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        let mut first = true;
        for step in &workload.steps {
            let place = Place {
                workload: workload.name.clone(),
                step: step.name.clone(),
                peer: Some(peer.name.clone()),
                peer_rank: u32::try_from(rank).unwrap_or(u32::MAX),
                round: Some(round),
            };
            if std::mem::take(&mut first) && !self.args.warm_start.is_zero() {
                self.warm(workload, step, &seen, &visit);
            }
            self.probe.reset();
            match self.measure(workload, step, &seen, flush, &place) {
                Ok(report) => self.keep(report.at(place), workload.step_name(step), flush)?,
                Err(error) => self.failures.push(format!("{visit} {}: {error}", step.name)),
            }
        }
        drop(self.current.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    fn keep(&mut self, mut report: Report, step: String, flush: FlushMode) -> Result<(), BenchError> {
        report.disk_probe = Some(self.probe.summary(report.started_unix_ms));
        print(&report.text());
        let place = report.place.clone().unwrap_or_default();
        let (peer, round) = (place.peer.unwrap_or_default(), place.round.unwrap_or(1));
        let name = format!("{}-{step}-{}-{peer}-{round}", self.args.label, flush.short_name());
        report.write_json(&self.args.results.join(format!("{name}.json")))?;
        let errors = report.result.errors.total();
        if errors > 0 {
            let (kind, counted) = report.result.errors.iter().next().expect("there are errors");
            self.failures.push(format!(
                "{name}: {errors} errors, so its figures are left out; the first kind: {kind} {}",
                counted.first
            ));
        }
        self.reports.push(report);
        Ok(())
    }

    /// The load before the first step. What goes wrong with it goes wrong again when it is measured.
    fn warm(&self, workload: &Workload, step: &Step, seen: &Seen, visit: &str) {
        let load = LoadOptions {
            duration: Some(self.args.warm_start),
            warmup: Duration::ZERO,
            rate: None,
            in_flight: Some(64),
            batch: 1,
            delay_level: 0,
            client: None,
            ..step.load.clone()
        };
        let warmed = match &seen.protocol {
            Protocol::RocketMq { namesrv } => {
                let mut scenario = workload.scenario(step, namesrv, &seen.broker_pids);
                scenario.target.topic += "-warm";
                let scenario = Scenario { load, receive: None, cold: None, ..scenario };
                scenario.measure("compare", &ReportOptions::default()).map(|_| ())
            }
            Protocol::Own => self.own_load(&load, self.args.warm_start).map(|_| ()),
        };
        if let Err(error) = warmed {
            eprintln!("{visit}: the warm start failed: {error}");
        }
    }

    fn measure(
        &self,
        workload: &Workload,
        step: &Step,
        seen: &Seen,
        flush: FlushMode,
        place: &Place,
    ) -> Result<Report, BenchError> {
        let (peer, round) = (place.peer.as_deref().unwrap_or_default(), place.round.unwrap_or(1));
        let options = ReportOptions {
            label: Some(format!("{} {peer} round {round}", workload.step_name(step))),
            flush: Some(flush.name().to_owned()),
            data_dir: Some(self.work.clone()),
            progress: shows_progress(self.args.progress),
            ..ReportOptions::default()
        };
        let Protocol::RocketMq { namesrv } = &seen.protocol else {
            return self.measure_own(step, seen, &options);
        };
        workload.scenario(step, namesrv, &seen.broker_pids).measure("compare", &options)
    }

    /// A run of the peer's own tool. The tool's own start is part of the wall time of the probe, not of its figures.
    fn measure_own(&self, step: &Step, seen: &Seen, options: &ReportOptions) -> Result<Report, BenchError> {
        let load = &step.load;
        let plain = load.batch == 1 && load.delay_level == 0 && load.client.is_none();
        if step.receive.is_some() || step.cold.is_some() || !plain {
            let problem = "its own tool only sends single messages";
            return Err(BenchError::Option { option: "--peer", problem: problem.to_owned() });
        }
        if !step.load.warmup.is_zero() {
            self.own_load(&step.load, step.load.warmup)?;
        }
        let started_unix_ms = unix_ms();
        let before = usage_of(&seen.broker_pids);
        let result = self.own_load(&step.load, step.load.resolved().duration.unwrap_or_default())?;
        let after = usage_of(&seen.broker_pids);
        let number = |key: &str| result.get(key).and_then(|text| text.parse::<f64>().ok());
        let (Some(messages), Some(seconds)) = (number("messages"), number("seconds")) else {
            let problem = format!("messages= or seconds= is missing in {result:?}");
            return Err(BenchError::Option { option: "--peer", problem });
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of messages")]
        let observed = Observed {
            seconds,
            messages: messages as u64,
            broker_cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            own_cpu_seconds: 0.0,
            broker_resident_bytes_max: after.resident_bytes,
        };
        let mut outcome = Outcome::of(&observed, step.load.size, !seen.broker_pids.is_empty());
        outcome.set_own_latency(&number);
        let aim = Aim {
            topic: "of its own".to_owned(),
            brokers: Vec::new(),
            broker_pids: seen.broker_pids.clone(),
        };
        Ok(Report::new("compare", options, &step.load.resolved(), aim, started_unix_ms, outcome))
    }

    fn own_load(
        &self,
        load: &LoadOptions,
        duration: Duration,
    ) -> Result<std::collections::BTreeMap<String, String>, BenchError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let running = current.as_ref().ok_or_else(|| BenchError::Option {
            option: "--peer",
            problem: "it was stopped meanwhile".to_owned(),
        })?;
        running.load(OwnLoad {
            size: load.size,
            in_flight: load.in_flight(),
            rate: load.rate,
            seconds: duration.as_secs_f64(),
        })
    }

    /// Prints and stores what came out.
    fn conclude(self) -> Result<(), BenchError> {
        let Self { args, reports, failures, probe, work, .. } = self;
        drop(probe);
        let comparison = Comparison::of(&reports);
        let mut text = comparison.text();
        for failure in &failures {
            text += &format!("- {failure}\n");
        }
        print(&text);
        let document = Document {
            label: &args.label,
            command_line: std::env::args().collect(),
            machine: Machine::look(Some(&work)),
            peers: &args.peers,
            rounds: args.rounds,
            warm_start_seconds: args.warm_start.as_secs_f64(),
            comparison: &comparison,
            failures: &failures,
        };
        let json = serde_json::to_string_pretty(&document).expect("plain data") + "\n";
        let file = |end: &str| args.results.join(format!("{}.{end}", args.label));
        write_file(&file("json"), &json)?;
        write_file(&file("md"), &text)?;
        write_file(&file("html"), &page(&args.label, &reports))?;
        print(&format!("{}\n", file("html").display()));
        match failures.len() {
            0 => Ok(()),
            count => Err(BenchError::RunsFailed { count }),
        }
    }
}

/// How the running peer is reached.
struct Seen {
    protocol: Protocol,
    broker_pids: Vec<u32>,
}
