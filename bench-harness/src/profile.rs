//! `ringmq-bench profile`: what a message costs a broker, and where. The same load runs in several passes, each looked at with other means, so
//! that none disturbs the others; how fast each pass was shows what its means cost.
//!
//! 1. nothing but counters that are read before and after: the node's own ([`cores`]), the kernel's of each thread ([`threads`]);
//! 2. the node's stages, switched on;
//! 3. `perf record`: CPU time by function ([`perf`]);
//! 4. `perf stat`: system calls by name ([`perf`]).
//!
//! What cannot be had (no perf, not permitted, a broker without a metrics page) is left out with its reason.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clap::Args;
use ringmq::metrics::fetch;
use ringmq::metrics::http::CoreStages;
use ringmq::metrics::page::NodeSnapshot;

use crate::compare::{WorkDir, stop_on_signals};
use crate::error::BenchError;
use crate::machine::Machine;
use crate::options::ReportOptions;
use crate::peer::{Peer, Protocol};
use crate::report::{Report, print, write_file};
use crate::run::StepChoice;
use crate::scenario::Scenario;
use crate::target::{broker_pids, by_broker, producing_route};
use crate::workload::{FlushMode, Step, Workload};
use document::{Document, Part, Pass, Profile};
use threads::ThreadSample;

pub mod cores;
pub mod document;
pub mod page;
pub mod perf;
pub mod threads;

/// From the start of a pass until its load is running for sure, beside the warm-up.
const LEAD: Duration = Duration::from_millis(300);
/// What the means of a pass may take to begin and end, out of the measured time.
const MARGIN: Duration = Duration::from_millis(700);

/// Show what a message costs a broker: stages, CPU by function, system calls, context switches, allocations.
#[derive(Args, Clone, Debug)]
#[command(
    args_override_self = true,
    after_help = "Examples:
  A RingMQ that is started for it, on a fresh store:
    ringmq-bench profile durable --peer ringmq=bench-harness/peers/ringmq
  A node that is there:
    ringmq-bench profile durable --namesrv 127.0.0.1:9876 --metrics 127.0.0.1:5557 --flush SYNC_FLUSH

Writes PREFIX.json and PREFIX.html. Functions and system calls need Linux's perf and the right to use it (root, or
kernel.perf_event_paranoid and tracefs opened); without it the rest is shown.
Exit status: 0 when all passes went well; 1 when any had an error."
)]
pub struct ProfileArgs {
    /// Workload, by name or file
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// Start this broker on a fresh store, NAME=SCRIPT [OPTIONS], in the workload's first flush mode
    #[arg(long, value_name = "NAME=SCRIPT", conflicts_with_all = ["namesrv", "metrics", "broker_pid"])]
    pub peer: Option<Peer>,
    /// Name server of brokers that are there, HOST:PORT
    #[arg(long, short, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    pub namesrv: String,
    /// Metrics page of the node that is there
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Process of the broker that is there; found by its port when it runs here
    #[arg(long, value_name = "PID")]
    pub broker_pid: Vec<u32>,
    /// Flush mode of the broker that is there, kept in the result
    #[arg(long, value_name = "SYNC_FLUSH|ASYNC_FLUSH")]
    pub flush: Option<String>,
    #[command(flatten)]
    pub choice: StepChoice,
    /// Write the result to PREFIX.json and PREFIX.html
    #[arg(long, short, default_value = "profile", value_name = "PREFIX")]
    pub output: PathBuf,
    /// Folder for the store and for perf's samples: on a disk, not in memory
    #[arg(long, default_value = "/var/tmp", env = "TMPDIR", value_name = "DIR")]
    pub dir: PathBuf,
}

/// A broker under load, as far as the passes need it.
#[derive(Clone, Debug)]
struct Subject {
    name: String,
    namesrv: String,
    metrics: Option<SocketAddr>,
    broker_pids: Vec<u32>,
    flush: Option<String>,
}

/// Runs the command; prints the tables.
///
/// # Errors
/// The workload cannot be read, the broker cannot be started or reached, a pass had errors, or the result cannot be written.
pub fn run(args: &ProfileArgs) -> Result<(), BenchError> {
    let workload = args.choice.load(std::slice::from_ref(&args.workload))?.remove(0);
    let work = WorkDir::make(args.dir.join(format!("ringmq-profile.{}", std::process::id())))?;
    let current = stop_on_signals(&work)?;
    let subject = match &args.peer {
        Some(peer) => {
            let flush = workload.flush.first().copied().unwrap_or(FlushMode::Sync);
            let running = peer.start(&work.path().join(&peer.name), flush)?;
            let Protocol::RocketMq { namesrv } = running.protocol.clone() else {
                let problem = format!("{} has a protocol of its own: it cannot be profiled", peer.name);
                return Err(BenchError::Option { option: "--peer", problem });
            };
            let subject = Subject {
                name: peer.name.clone(),
                namesrv,
                metrics: running.metrics,
                broker_pids: running.broker_pids.clone(),
                flush: Some(flush.name().to_owned()),
            };
            *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
            subject
        }
        None => Subject {
            name: "broker".to_owned(),
            namesrv: args.namesrv.clone(),
            metrics: args.metrics,
            broker_pids: args.broker_pid.clone(),
            flush: args.flush.clone(),
        },
    };
    let profiles: Result<Vec<Profile>, BenchError> =
        workload.steps.iter().map(|step| profile(&workload, step, &subject, &work)).collect();
    drop(current.lock().unwrap_or_else(PoisonError::into_inner).take());
    let document = Document {
        command_line: std::env::args().collect(),
        machine: Machine::look(Some(work.path())),
        profiles: profiles?,
    };
    for profile in &document.profiles {
        print(&profile.text());
    }
    let file = |end: &str| PathBuf::from(format!("{}.{end}", args.output.display()));
    let json = serde_json::to_string_pretty(&document).expect("plain data") + "\n";
    write_file(&file("json"), &json)?;
    write_file(&file("html"), &page::page(&document))?;
    print(&format!("{}\n", file("html").display()));
    Ok(())
}

/// All passes of one step.
fn profile(
    workload: &Workload,
    step: &Step,
    subject: &Subject,
    work: &WorkDir,
) -> Result<Profile, BenchError> {
    let mut scenario = workload.scenario(step, &subject.namesrv, &subject.broker_pids);
    if scenario.target.broker_pid.is_empty() {
        let mut client = ringmq::client::Client::new(&subject.namesrv);
        let route = producing_route(&mut client, &scenario.target.topic, scenario.load.queues)?;
        scenario.target.broker_pid = broker_pids(&[], &by_broker(&route.write_queues()));
    }
    let pids = scenario.target.broker_pid.clone();
    let no_page = || "the broker's metrics page is not known (--metrics, or metrics= of a peer)".to_owned();
    let no_process = || "the broker's process is not on this machine (--broker-pid)".to_owned();
    let mut passes = Vec::new();

    let (plain, counted) = pass(&scenario, subject, |window| {
        let before = Counters::read(subject.metrics, &pids);
        std::thread::sleep(window);
        (before, Counters::read(subject.metrics, &pids))
    })?;
    let (before, after) = counted;
    let messages = plain.result.messages_per_second * (after.at - before.at).as_secs_f64();
    let threads = if pids.is_empty() {
        Part::skipped(no_process())
    } else {
        Part::Found(threads::work(&before.threads, &after.threads, messages))
    };
    let cores = match (before.node, after.node) {
        (Some(Ok(before)), Some(Ok(after))) => Part::Found(cores::work(&before, &after, messages)),
        (Some(Err(reason)), _) | (_, Some(Err(reason))) => Part::skipped(reason),
        _ => Part::skipped(no_page()),
    };
    passes.push(Pass::of("counters only", &plain));

    let stages = match subject.metrics {
        None => Part::skipped(no_page()),
        Some(metrics) => {
            let (report, stages) = pass(&scenario, subject, |window| watch_stages(metrics, window))?;
            passes.push(Pass::of("stages on", &report));
            Part::from(stages)
        }
    };

    let (functions, system_calls) = if pids.is_empty() {
        (Part::skipped(no_process()), Part::skipped(no_process()))
    } else {
        let samples = work.path().join("samples");
        let (report, recorded) = pass(&scenario, subject, |window| perf::record(&pids, window, &samples))?;
        passes.push(Pass::of("perf record", &report));
        let cpu_us = report.result.broker_cpu_seconds_per_million.unwrap_or(0.0);
        let functions = recorded.and_then(|()| perf::functions(&samples, cpu_us));
        let (report, counts) = pass(&scenario, subject, |window| perf::system_calls(&pids, window))?;
        passes.push(Pass::of("perf stat", &report));
        let per_message = |counts: perf::Counts| counts.per_message(report.result.messages_per_second);
        (Part::from(functions), Part::from(counts.map(per_message)))
    };
    Ok(Profile {
        broker: subject.name.clone(),
        name: subject.flush.as_ref().map_or_else(
            || workload.step_name(step),
            |flush| format!("{}, {flush}", workload.step_name(step)),
        ),
        settings: plain.settings,
        passes,
        cores,
        stages,
        threads,
        functions,
        system_calls,
    })
}

/// Counters that are there anyway, at one moment.
struct Counters {
    at: Instant,
    threads: Vec<ThreadSample>,
    /// `None` when there is no metrics page.
    node: Option<Result<NodeSnapshot, String>>,
}

impl Counters {
    fn read(metrics: Option<SocketAddr>, pids: &[u32]) -> Self {
        let node = metrics.map(|address| fetch::get(address, "/cores").map_err(|error| error.to_string()));
        Self { at: Instant::now(), threads: threads::read(pids), node }
    }
}

fn watch_stages(metrics: SocketAddr, window: Duration) -> Result<Vec<CoreStages>, String> {
    let put = |path| fetch::put::<Vec<CoreStages>>(metrics, path).map_err(|error| error.to_string());
    put("/stages/off")?;
    put("/stages/on")?;
    std::thread::sleep(window);
    put("/stages/off")
}

/// Runs the load once and looks at it meanwhile, within the measured window.
fn pass<T: Send>(
    scenario: &Scenario,
    subject: &Subject,
    look: impl FnOnce(Duration) -> T + Send,
) -> Result<(Report, T), BenchError> {
    let measured = scenario.load.resolved().duration.unwrap_or_default();
    let window = measured.saturating_sub(MARGIN).max(measured / 2);
    let options = ReportOptions { flush: subject.flush.clone(), ..ReportOptions::default() };
    let (report, seen) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            std::thread::sleep(scenario.load.warmup + LEAD);
            look(window)
        });
        (scenario.measure("profile", &options), looking.join())
    });
    let report = report?;
    let errors = report.result.errors.total();
    if errors > 0 {
        print(&report.text());
        return Err(BenchError::RunHadErrors { errors });
    }
    Ok((report, seen.map_err(|_| BenchError::ThreadPanicked)?))
}
