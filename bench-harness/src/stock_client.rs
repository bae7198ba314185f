//! A run that somebody else's client sends: a program such as RocketMQ's benchmark producer, started through a script (`clients/README.md` has
//! the contract), in the place of this harness's generator.
//!
//! How many messages there are in the measured window is read from the brokers, not from the client: CPU time and messages are those
//! of the same window. What the client says of itself is kept beside it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringmq::client::{Client, ClientError, Queue};
use serde::{Deserialize, Serialize};

use crate::clock::{RunClock, unix_ms};
use crate::error::BenchError;
use crate::monitor::{Watch, shows_progress, watch};
use crate::options::ReportOptions;
use crate::report::{Aim, Outcome, Report};
use crate::scenario::Scenario;
use crate::series::Recorder;
use crate::tally::Counts;
use crate::target::{broker_pids, by_broker, producing_route};

/// Lines that are quoted when the client ends by itself.
const QUOTED_LINES: usize = 20;
/// Counting takes one request for each queue, so it is not done more often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What a client said in the last line of its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ClientFigures {
    /// Messages per second of the last seconds, as the client defines it.
    pub send_tps: f64,
    /// Of the same seconds.
    pub average_rt_ms: f64,
    /// Since the client's start, its warm-up included.
    pub max_rt_ms_since_start: f64,
    /// Since the client's start.
    pub failed_since_start: u64,
}

impl ClientFigures {
    /// Reads a line of the report; `None` for any other line.
    fn parse(line: &str) -> Option<Self> {
        let number = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            rest.split('|').next()?.trim_start_matches(':').trim().parse::<f64>().ok()
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = |name: &str| Some(number(name)? as u64);
        Some(Self {
            send_tps: number("Send TPS")?,
            average_rt_ms: number("Average RT(ms)")?,
            max_rt_ms_since_start: number("Max RT(ms)")?,
            failed_since_start: count("Send Failed")? + count("Response Failed")?,
        })
    }
}

/// What the client has printed so far.
#[derive(Debug, Default)]
struct Printed {
    /// Each line of its report, with the time at which it came.
    reports: Vec<(Instant, ClientFigures)>,
    last_lines: VecDeque<String>,
    has_ended: bool,
}

/// A client's process. Ends with the value.
#[derive(Debug)]
struct Running {
    script: String,
    child: Child,
    printed: Arc<Mutex<Printed>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(script: &Path, scenario: &Scenario) -> Result<Self, BenchError> {
        let (target, load) = (&scenario.target, &scenario.load);
        let mut command = Command::new(script);
        command.args(["--namesrv", &target.namesrv, "--topic", &target.topic]);
        command.args(["--size", &load.size.to_string(), "--in-flight", &load.in_flight().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let script = script.display().to_string();
        let mut child = command.spawn().map_err(|error| BenchError::StockClient {
            script: script.clone(),
            problem: format!("it cannot be run: {error}"),
        })?;
        let printed = Arc::new(Mutex::new(Printed::default()));
        let output = child.stdout.take().expect("it is piped");
        let errors = child.stderr.take().expect("it is piped");
        let (of_output, of_errors) = (printed.clone(), printed.clone());
        let readers = vec![
            std::thread::spawn(move || {
                read_lines(output, &of_output);
                of_output.lock().unwrap_or_else(PoisonError::into_inner).has_ended = true;
            }),
            std::thread::spawn(move || read_lines(errors, &of_errors)),
        ];
        Ok(Self { script, child, printed, readers })
    }

    fn has_ended(&self) -> bool {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).has_ended
    }

    /// The last line of its report until then.
    fn figures_at(&self, instant: Instant) -> Option<ClientFigures> {
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.reports.iter().rev().find(|(at, _)| *at <= instant).map(|(_, figures)| *figures)
    }

    /// Waits for a client that has ended by itself, and says how it did.
    fn own_end(mut self) -> BenchError {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        for reader in self.readers.drain(..) {
            // A reader that panicked has printed why.
            let _ = reader.join();
        }
        let printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = printed.last_lines.iter().map(String::as_str).collect();
        let problem = format!("it ended before the run did ({status}):\n{}", lines.join("\n"));
        BenchError::StockClient { script: self.script.clone(), problem }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(input: impl std::io::Read, printed: &Mutex<Printed>) {
    for line in BufReader::new(input).lines().map_while(Result::ok) {
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(figures) = ClientFigures::parse(&line) {
            printed.reports.push((Instant::now(), figures));
        }
        if printed.last_lines.len() == QUOTED_LINES {
            printed.last_lines.pop_front();
        }
        printed.last_lines.push_back(line);
    }
}

/// Counts a topic's messages at its brokers, and keeps when they came.
struct StoredCount {
    client: Client,
    queues: Vec<Queue>,
    before: u64,
    counted: u64,
    looked_at_ns: u64,
    recorder: Recorder,
    failure: Option<ClientError>,
}

impl StoredCount {
    fn new(client: Client, queues: Vec<Queue>, interval: Duration) -> Result<Self, BenchError> {
        let recorder = Recorder::new(interval.max(PROGRESS_EVERY));
        let mut count =
            Self { client, queues, before: 0, counted: 0, looked_at_ns: 0, recorder, failure: None };
        count.before = count.sum()?;
        Ok(count)
    }

    fn sum(&mut self) -> Result<u64, ClientError> {
        let Self { client, queues, .. } = self;
        queues.iter().map(|queue| client.max_offset(queue)).sum()
    }

    /// Messages since the start. They count for the interval in which the look before this one was.
    fn look(&mut self, now_ns: u64) -> u64 {
        match self.sum() {
            Ok(sum) => {
                let counted = sum.saturating_sub(self.before);
                self.recorder.record(self.looked_at_ns, counted.saturating_sub(self.counted), None);
                (self.counted, self.looked_at_ns) = (counted, now_ns);
            }
            Err(error) => self.failure = Some(error),
        }
        self.counted
    }
}

/// Runs a scenario whose load has a client. The load's options are resolved.
///
/// # Errors
/// The brokers cannot be reached, the client does not start or ends by itself, or the load is one that it cannot send.
pub fn measure(
    scenario: &Scenario,
    script: &Path,
    command: &str,
    options: &ReportOptions,
) -> Result<Report, BenchError> {
    check(scenario)?;
    let Scenario { target, load, .. } = scenario;
    let mut client = Client::new(&target.namesrv);
    let route = producing_route(&mut client, &target.topic, load.queues)?;
    let queues = route.write_queues();
    let brokers = by_broker(&queues);
    let pids = broker_pids(&target.broker_pid, &brokers);
    let stored = RefCell::new(StoredCount::new(client, queues, options.interval)?);
    let running = Running::start(script, scenario)?;
    let started = Instant::now();
    let (clock, started_unix_ms) = (RunClock::starting_at(started), unix_ms());
    let window = Watch {
        warmup: load.warmup,
        end: load.end(),
        broker_pids: pids.clone(),
        client_pids: vec![running.child.id()],
        progress: shows_progress(options.progress),
    };
    let counts = || Counts {
        messages: stored.borrow_mut().look(clock.now_ns()),
        errors: running.figures_at(Instant::now()).map_or(0, |figures| figures.failed_since_start),
    };
    let observed = watch(clock, &window, counts, || running.has_ended());
    if running.has_ended() {
        return Err(running.own_end());
    }
    let in_warmup = running.figures_at(started + load.warmup).unwrap_or_default();
    let last = running.figures_at(Instant::now());
    drop(running);

    let mut stored = stored.into_inner();
    if let Some(failure) = stored.failure {
        return Err(failure.into());
    }
    let mut result = Outcome::of(&observed, load.size, !pids.is_empty());
    result.series = stored.recorder.finish().intervals();
    let failed = last.unwrap_or_default().failed_since_start;
    let text = "as the client counts them; its log says why";
    result.errors.add("failed sends", text, failed - in_warmup.failed_since_start);
    result.warmup_errors.add("failed sends", text, in_warmup.failed_since_start);
    result.client = last;
    let aim = Aim { topic: target.topic.clone(), brokers, broker_pids: pids };
    Ok(Report::new(command, options, scenario, aim, started_unix_ms, result))
}

/// Refuses what only the harness's own generator can do.
fn check(scenario: &Scenario) -> Result<(), BenchError> {
    let load = &scenario.load;
    let plain = load.rate.is_none()
        && load.batch == 1
        && load.delay_level == 0
        && load.messages.is_none()
        && !load.until_disconnect
        && scenario.receive.is_none()
        && scenario.cold.is_none()
        && scenario.record_acks.is_none();
    if plain {
        return Ok(());
    }
    let problem =
        "somebody else's client sends single messages in a closed loop for a time, and nothing else";
    Err(BenchError::Option { option: "--client", problem: problem.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{LoadOptions, TargetOptions};

    const LINE: &str = "Current Time: 2026-11-23 02:10:11,123 | Send TPS: 31234 | Max RT(ms): 412 | Average RT(ms):   2.051 | Send Failed: 3 | Response Failed: 2";

    #[test]
    fn the_report_of_the_stock_benchmark_is_read() {
        let figures = ClientFigures {
            send_tps: 31234.0,
            average_rt_ms: 2.051,
            max_rt_ms_since_start: 412.0,
            failed_since_start: 5,
        };
        assert_eq!(ClientFigures::parse(LINE), Some(figures));
        for other in ["topic: t, threadCount: 64", "", "Send TPS: many | Max RT(ms): 1"] {
            assert_eq!(ClientFigures::parse(other), None, "{other}");
        }
    }

    fn scenario() -> Scenario {
        let load = LoadOptions { client: Some("client".into()), ..LoadOptions::sample() };
        let target = TargetOptions {
            namesrv: "127.0.0.1:1".to_owned(),
            topic: "t".to_owned(),
            broker_pid: Vec::new(),
        };
        Scenario { target, load, receive: None, cold: None, record_acks: None }
    }

    /// A script with this text.
    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("client");
        std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn await_until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "waited 20 s for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_client_is_told_what_to_send_and_its_last_report_counts() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "echo \"$@\" >{0}/told\necho '{LINE}'\necho noise\nexec sleep 60\n",
            dir.path().display()
        );
        let running = Running::start(&script(dir.path(), &text), &scenario()).unwrap();
        let pid = running.child.id();
        await_until("a report", || running.figures_at(Instant::now()).is_some());
        assert!(!running.has_ended());
        let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
        assert_eq!(told, "--namesrv 127.0.0.1:1 --topic t --size 1024 --in-flight 64\n");
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it ends with the run");
    }

    #[test]
    fn a_client_that_ends_by_itself_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let running =
            Running::start(&script(dir.path(), "echo no java here >&2\nexit 3\n"), &scenario()).unwrap();
        await_until("its end", || running.has_ended());
        let error = running.own_end().to_string();
        assert!(error.contains("no java here") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_load_that_a_client_cannot_send_is_refused() {
        let mut open_loop = scenario();
        open_loop.load.rate = Some(100.0);
        assert!(check(&open_loop).is_err());
        assert!(check(&scenario()).is_ok());
    }
}
