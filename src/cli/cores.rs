//! `ringmq cores`: which shard lives where, and how busy each core of a running node is.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use runtime::host;
use runtime::meter::Distribution;
use serde::Serialize;

use super::serve::{Overrides, read_config};
use crate::config::Config;
use crate::metrics::fetch::{self, FetchError};
use crate::metrics::page::{CoreReport, NodeSnapshot};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";
const CLEAR: &str = "\x1b[H\x1b[2J";
/// From here on a core's load is shown as high, and as too high.
const BUSY_HIGH: f64 = 0.7;
const BUSY_TOO_HIGH: f64 = 0.9;

/// Shows on which core every shard's log and clients live, and with --live how busy the cores of a running node are.
///
/// Reads the same configuration as `ringmq serve`. Log and clients of a shard on two cores let one busy shard use both; on one
/// core they save the hop between.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration in TOML.
    #[arg(long, value_name = "FILE", env = "RINGMQ_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Show the load of the running node's cores again and again, until Ctrl-C.
    #[arg(long)]
    live: bool,
    /// Seconds between two looks at a running node.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// End after so many looks.
    #[arg(long, value_name = "LOOKS")]
    count: Option<u64>,
    #[command(flatten)]
    node: super::MetricsAddress,
    /// `json` for scripts; with --live one line for each look.
    #[arg(short, long, value_enum, default_value_t)]
    output: super::Output,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be from 0.1 to 3600 seconds".to_owned()),
    }
}

/// Prints the placement, or the load.
///
/// # Errors
/// The configuration does not resolve; with `--live`, no node answers.
pub fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    if args.live {
        return Ok(watch(&args)?);
    }
    let node = args.node.metrics;
    let text = read_config(args.config, args.overrides)?;
    let cpus = host::allowed_cpus()?;
    let shards = text.wanted_shards().unwrap_or_else(|| text.default_shards(&cpus));
    let config = Config::resolve(text, shards, &cpus)?;
    if args.output == super::Output::Json {
        let cores = config.cores.iter().map(|core| {
            serde_json::json!({
                "cpu": core.cpu, "log": core.log, "serve": core.serve, "ring_depth": core.ring_depth,
                "hot_tail_bytes": core.hot_tail_bytes, "spin_us": core.spin.as_micros(),
                "write_buffers": { "block_bytes": core.write_buffers.block_bytes, "count": core.write_buffers.count },
            })
        });
        println!("{}", serde_json::Value::from_iter(cores));
        return Ok(());
    }
    println!("{:<5} {:<5} {:<12} {:<30} {:<9} {:<6}", "core", "cpu", "logs", "serves", "hot tail", "spin");
    for (index, core) in config.cores.iter().enumerate() {
        let serves: Vec<_> = core
            .serve
            .iter()
            .map(|&shard| format!("{shard} (:{})", config.shard_address(shard).port()))
            .collect();
        println!(
            "{index:<5} {:<5} {:<12} {:<30} {:<9} {:<6}",
            core.cpu,
            core.log.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            serves.join(" "),
            format!("{} MiB", core.hot_tail_bytes >> 20),
            format!("{} us", core.spin.as_micros()),
        );
    }
    // A node that runs is shown too; that none does is no error here.
    if let Ok(before) = look(node) {
        sleep(Duration::from_secs_f64(args.interval));
        let loads = loads(&before, &look(node)?);
        println!("\nThe node at {node}:\n{}", table(&loads, std::io::stdout().is_terminal()));
    }
    Ok(())
}

fn look(node: std::net::SocketAddr) -> Result<NodeSnapshot, FetchError> {
    fetch::get(node, "/cores")
}

fn watch(args: &Args) -> Result<(), FetchError> {
    let node = args.node.metrics;
    let is_terminal = std::io::stdout().is_terminal();
    let mut before = look(node)?;
    let mut looks = 0;
    while args.count.is_none_or(|count| looks < count) {
        sleep(Duration::from_secs_f64(args.interval));
        let now = look(node)?;
        let loads = loads(&before, &now);
        let text = match args.output {
            super::Output::Json => format!("{}\n", serde_json::json!(loads)),
            super::Output::Text if is_terminal => format!("{CLEAR}{node}\n{}", table(&loads, true)),
            super::Output::Text => table(&loads, false),
        };
        // Whoever read it is gone, which is how a pipe ends.
        if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
            return Ok(());
        }
        before = now;
        looks += 1;
    }
    Ok(())
}

/// What a core did between two looks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct CoreLoad {
    core: usize,
    cpu: usize,
    /// It answered both times.
    up: bool,
    /// Share of the time in which its thread was on a CPU.
    busy: f64,
    /// Share of the time in which it was ready while something else had its CPU.
    cpu_wait: f64,
    connections: usize,
    in_per_s: f64,
    out_per_s: f64,
    flushes_per_s: f64,
    /// Records that one flush acknowledged, on average.
    records_per_flush: f64,
    flush_p99_us: f64,
    send_p50_us: f64,
    send_p99_us: f64,
    /// The longest time without a turn that the watchdog saw.
    longest_stall_ms: u64,
}

fn loads(before: &NodeSnapshot, now: &NodeSnapshot) -> Vec<CoreLoad> {
    let seconds = (now.uptime_ns.saturating_sub(before.uptime_ns)).max(1) as f64 / 1e9;
    now.cores.iter().map(|report| load(before.cores.get(report.core), report, seconds)).collect()
}

fn load(before: Option<&CoreReport>, now: &CoreReport, seconds: f64) -> CoreLoad {
    let down = CoreLoad { core: now.core, longest_stall_ms: now.longest_stall_ms, ..CoreLoad::default() };
    let Some((earlier, report)) = before.zip(Some(now)) else { return down };
    let (Some(was), Some(is)) = (&earlier.snapshot, &report.snapshot) else { return down };
    let share = |before: u64, now: u64| now.saturating_sub(before) as f64 / 1e9 / seconds;
    let (then_time, now_time) =
        (earlier.thread_time.unwrap_or_default(), report.thread_time.unwrap_or_default());
    let messages = |core: &crate::metrics::snapshot::CoreSnapshot| {
        core.shards.iter().fold((0, 0), |(stored, delivered), shard| {
            (stored + shard.messages_in, delivered + shard.messages_out)
        })
    };
    let ((in_before, out_before), (in_now, out_now)) = (messages(was), messages(is));
    let (mut flushes, mut records) = (Distribution::default(), Distribution::default());
    for (was, is) in was.logs.iter().zip(&is.logs) {
        flushes.add(&is.load.flush_time.since(&was.load.flush_time));
        records.add(&is.load.group_commit_records.since(&was.load.group_commit_records));
    }
    let sends = is.sends.since(&was.sends);
    CoreLoad {
        cpu: is.cpu,
        up: true,
        busy: share(then_time.cpu_ns, now_time.cpu_ns),
        cpu_wait: share(then_time.queued_ns, now_time.queued_ns),
        connections: is.connections,
        in_per_s: in_now.saturating_sub(in_before) as f64 / seconds,
        out_per_s: out_now.saturating_sub(out_before) as f64 / seconds,
        flushes_per_s: flushes.count() as f64 / seconds,
        records_per_flush: records.mean(),
        flush_p99_us: flushes.quantile(0.99) as f64 / 1000.0,
        send_p50_us: sends.quantile(0.5) as f64 / 1000.0,
        send_p99_us: sends.quantile(0.99) as f64 / 1000.0,
        ..down
    }
}

fn table(loads: &[CoreLoad], with_colours: bool) -> String {
    let colour = |code: &'static str| if with_colours { code } else { "" };
    let mut text = format!(
        "{}{:<4} {:<4} {:>6} {:>8} {:>6} {:>10} {:>10} {:>9} {:>13} {:>12} {:>11} {:>11} {:>8}{}\n",
        colour(BOLD),
        "core",
        "cpu",
        "busy",
        "cpu wait",
        "conns",
        "in/s",
        "out/s",
        "flushes/s",
        "records/flush",
        "flush p99 us",
        "send p50 us",
        "send p99 us",
        "stall ms",
        colour(PLAIN),
    );
    for load in loads {
        if !load.up {
            text += &format!("{}{:<4} does not answer{}\n", colour(RED), load.core, colour(PLAIN));
            continue;
        }
        let code = match load.busy {
            busy if busy >= BUSY_TOO_HIGH => colour(RED),
            busy if busy >= BUSY_HIGH => colour(YELLOW),
            _ => "",
        };
        let end = if code.is_empty() { "" } else { PLAIN };
        text += &format!(
            "{:<4} {:<4} {code}{:>5.1}%{end} {:>7.1}% {:>6} {:>10.0} {:>10.0} {:>9.0} {:>13.1} {:>12.0} {:>11.0} {:>11.0} {:>8}\n",
            load.core,
            load.cpu,
            load.busy * 100.0,
            load.cpu_wait * 100.0,
            load.connections,
            load.in_per_s,
            load.out_per_s,
            load.flushes_per_s,
            load.records_per_flush,
            load.flush_p99_us,
            load.send_p50_us,
            load.send_p99_us,
            load.longest_stall_ms,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::snapshot::{CoreSnapshot, LogSnapshot, ShardSnapshot};
    use crate::metrics::thread_time::ThreadTime;

    fn node(uptime_ns: u64, cpu_ns: u64, messages_in: u64) -> NodeSnapshot {
        let shard = ShardSnapshot { messages_in, ..ShardSnapshot::default() };
        let snapshot = CoreSnapshot {
            cpu: 5,
            shards: vec![shard],
            logs: vec![LogSnapshot::default()],
            ..CoreSnapshot::default()
        };
        let up = CoreReport {
            snapshot: Some(snapshot),
            thread_time: Some(ThreadTime { cpu_ns, queued_ns: 0 }),
            ..CoreReport::default()
        };
        let silent = CoreReport { core: 1, longest_stall_ms: 700, ..CoreReport::default() };
        NodeSnapshot { uptime_ns, cores: vec![up, silent], ..NodeSnapshot::default() }
    }

    #[test]
    fn a_load_is_what_happened_between_two_looks() {
        let loads = loads(&node(1_000_000_000, 100_000_000, 500), &node(3_000_000_000, 2_000_000_000, 2500));
        assert_eq!((loads[0].cpu, loads[0].up, loads[0].busy, loads[0].in_per_s), (5, true, 0.95, 1000.0));
        assert_eq!((loads[1].up, loads[1].longest_stall_ms), (false, 700));
        let plain = table(&loads, false);
        assert!(
            !plain.contains('\x1b') && plain.contains("95.0%") && plain.contains("1    does not answer"),
            "{plain}"
        );
        assert!(table(&loads, true).contains(RED));
    }
}
