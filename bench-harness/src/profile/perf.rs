//! Linux's `perf` as a means: CPU time by function (`perf record`) and system calls by name (`perf stat` on the kernel's tracepoints). A perf
//! that is missing or not permitted is no error: the reason is passed on in its own words.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

/// Samples per second and CPU; not a divisor of anything that a broker does every so often.
const SAMPLES_PER_SECOND: &str = "997";
/// Functions with a smaller share are left out, percent.
const SHARE_MIN: &str = "0.1";
/// What perf calls the tracepoint of a system call, before its name.
const CALL_PREFIX: &str = "syscalls:sys_enter_";

/// CPU time by function, the largest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Functions {
    /// What was sampled, such as `cycles` or `cpu-clock`.
    pub event: String,
    pub functions: Vec<Function>,
}

/// One function on one thread (or threads of one name), itself only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Function {
    /// Of the brokers' samples.
    pub percent: f64,
    pub us_per_message: f64,
    pub thread: String,
    pub function: String,
    /// The program, library or kernel that it is in.
    pub object: String,
}

/// System calls and what the scheduler did, per message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SystemCalls {
    pub all: f64,
    /// The most frequent first.
    pub calls: Vec<(String, f64)>,
    pub context_switches: f64,
    pub migrations: f64,
    pub page_faults: f64,
}

/// What `perf stat` counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    window: Duration,
    events: Vec<(String, u64)>,
}

/// Samples the processes for `window` into the file `samples`.
///
/// # Errors
/// Why not, in perf's words.
pub fn record(pids: &[u32], window: Duration, samples: &Path) -> Result<(), String> {
    let mut perf = perf();
    perf.args(["record", "--quiet", "-F", SAMPLES_PER_SECOND, "-p", &joined(pids), "-o"]).arg(samples);
    output(sleeping(&mut perf, window)).map(|_| ())
}

/// Reads what [`record`] sampled; `cpu_us` is the brokers' CPU time per message in microseconds.
///
/// # Errors
/// Why not, in perf's words.
pub fn functions(samples: &Path, cpu_us: f64) -> Result<Functions, String> {
    let mut evlist = perf();
    let event = output(evlist.args(["evlist", "-i"]).arg(samples))?;
    let mut report = perf();
    report.args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", SHARE_MIN]);
    report.args(["--sort", "comm,dso,symbol", "--field-separator", ";", "-i"]).arg(samples);
    let lines = output(&mut report)?;
    Ok(Functions {
        event: event.lines().next().unwrap_or_default().trim().to_owned(),
        functions: lines.lines().filter_map(|line| parse_function(line, cpu_us)).collect(),
    })
}

/// Reads `12.34%;core-0;ringmq;[.] function`; columns that some versions add are left out.
fn parse_function(line: &str, cpu_us: f64) -> Option<Function> {
    let mut fields = line.split(';').map(str::trim);
    let percent: f64 = fields.next()?.trim_end_matches('%').parse().ok()?;
    let (thread, object, symbol) = (fields.next()?, fields.next()?, fields.next()?);
    let function = symbol.split_once("] ").map_or(symbol, |(_, function)| function);
    Some(Function {
        percent,
        us_per_message: cpu_us * percent / 100.0,
        thread: thread.to_owned(),
        function: without_hash(function).to_owned(),
        object: object.to_owned(),
    })
}

/// A Rust symbol without the hash at its end, `::h0123456789abcdef`.
fn without_hash(function: &str) -> &str {
    match function.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()) => name,
        _ => function,
    }
}

/// Counts the processes' system calls, context switches and page faults for `window`.
///
/// # Errors
/// Why not, in perf's words.
pub fn system_calls(pids: &[u32], window: Duration) -> Result<Counts, String> {
    let mut perf = perf();
    perf.args(["stat", "-x", ";", "--log-fd", "1", "-p", &joined(pids)]);
    perf.args(["-e", &format!("{CALL_PREFIX}*,context-switches,cpu-migrations,page-faults")]);
    let printed = output(sleeping(&mut perf, window))?;
    Ok(Counts { window, events: printed.lines().filter_map(parse_count).collect() })
}

/// Reads `1234;;syscalls:sys_enter_read;…`; what was not counted is left out.
fn parse_count(line: &str) -> Option<(String, u64)> {
    let mut fields = line.split(';');
    let count = fields.next()?.parse().ok()?;
    let event = fields.nth(1)?;
    Some((event.to_owned(), count))
}

impl Counts {
    /// Divides by the messages of the window.
    pub fn per_message(&self, messages_per_second: f64) -> SystemCalls {
        let messages = messages_per_second * self.window.as_secs_f64();
        let per_message = |count: u64| if messages > 0.0 { count as f64 / messages } else { 0.0 };
        let of_event = |event: &str| {
            self.events.iter().find(|(name, _)| name == event).map_or(0.0, |(_, count)| per_message(*count))
        };
        let mut calls: Vec<(String, f64)> = self
            .events
            .iter()
            .filter_map(|(event, count)| {
                Some((event.strip_prefix(CALL_PREFIX)?.to_owned(), per_message(*count)))
            })
            .filter(|(_, count)| *count > 0.0)
            .collect();
        calls.sort_by(|one, other| other.1.total_cmp(&one.1));
        SystemCalls {
            all: calls.iter().map(|(_, count)| count).sum(),
            calls,
            context_switches: of_event("context-switches"),
            migrations: of_event("cpu-migrations"),
            page_faults: of_event("page-faults"),
        }
    }
}

fn perf() -> Command {
    let mut command = Command::new("perf");
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// What perf is to watch for so long.
fn sleeping(perf: &mut Command, window: Duration) -> &mut Command {
    perf.args(["--", "sleep", &format!("{:.3}", window.as_secs_f64())])
}

fn joined(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "perf is not installed (Debian: apt install linux-perf)".to_owned(),
        _ => format!("perf cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
    Err(format!("perf failed ({}): {}", output.status, lines.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_functions_is_read() {
        let line = " 12.50%;core-0;ringmq;[.] shards::record::encode::h0123456789abcdef     ;-      -";
        let function = parse_function(line, 4.0).unwrap();
        assert_eq!((function.percent, function.us_per_message), (12.5, 0.5));
        assert_eq!((function.thread.as_str(), function.object.as_str()), ("core-0", "ringmq"));
        assert_eq!(function.function, "shards::record::encode");
        for other in ["", "# Overhead;Command", "# comment"] {
            assert_eq!(parse_function(other, 4.0), None, "{other}");
        }
    }

    #[test]
    fn counts_become_calls_per_message() {
        let printed = "500;;syscalls:sys_enter_read;1;100.00;;\n0;;syscalls:sys_enter_open;1;100.00;;\n\
                       <not counted>;;syscalls:sys_enter_kill;0;100.00;;\n\
                       1000;;syscalls:sys_enter_io_uring_enter;1;100.00;;\n100;;context-switches;1;100.00;;\n";
        let counts = Counts {
            window: Duration::from_secs(2),
            events: printed.lines().filter_map(parse_count).collect(),
        };
        let calls = counts.per_message(1000.0);
        assert_eq!(calls.calls, [("io_uring_enter".to_owned(), 0.5), ("read".to_owned(), 0.25)]);
        assert_eq!((calls.all, calls.context_switches, calls.page_faults), (0.75, 0.05, 0.0));
    }

    #[test]
    fn a_program_that_fails_is_quoted_and_a_missing_one_named() {
        let failed = output(Command::new("sh").args(["-c", "echo no access >&2; exit 3"]));
        assert_eq!(failed, Err("perf failed (exit status: 3): no access".to_owned()));
        let missing = output(&mut Command::new("/nowhere/perf")).unwrap_err();
        assert!(missing.contains("perf is not installed"), "{missing}");
    }
}
