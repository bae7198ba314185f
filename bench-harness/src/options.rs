//! Options that several commands share, and how durations and sizes are written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::error::BenchError;
use crate::payload::BODY_HEAD_BYTES;

/// What each delay level means, as brokers have it by default.
const DELAYS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];
/// Largest body, as brokers have it by default.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Where the brokers are.
#[derive(Args, Clone, Debug, Serialize)]
pub struct TargetOptions {
    /// Name server, HOST:PORT; several joined by `;`
    #[arg(long, short, default_value = "127.0.0.1:9876", env = "RINGMQ_NAMESRV", value_name = "ADDR")]
    pub namesrv: String,
    /// Topic; created when missing
    #[arg(long, short, default_value = "bench")]
    pub topic: String,
    /// Process of the broker, for its CPU time; found by its port when it runs here
    #[arg(long, value_name = "PID")]
    pub broker_pid: Vec<u32>,
}

/// What goes into the result beside the figures.
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    /// Write the whole result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write histograms as tables for HdrHistogram's plotting tools: PREFIX.send.hgrm, PREFIX.e2e.hgrm
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
    /// Length of an interval of the time series in the result
    #[arg(long, value_parser = parse_duration, default_value = "1s", value_name = "TIME")]
    pub interval: Duration,
    /// A name for this run, kept in the result
    #[arg(long)]
    pub label: Option<String>,
    /// The broker's flush mode, kept in the result (the harness cannot see it)
    #[arg(long, value_name = "SYNC_FLUSH|ASYNC_FLUSH")]
    pub flush: Option<String>,
    /// The broker's data folder, to name its file system in the result
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A line of progress each second, even when standard error is not a terminal
    #[arg(long)]
    pub progress: bool,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self {
            json: None,
            hgrm: None,
            interval: Duration::from_secs(1),
            label: None,
            flush: None,
            data_dir: None,
            progress: false,
        }
    }
}

/// What is sent, by how many, and how fast.
#[derive(Args, Clone, Debug, Serialize)]
pub struct LoadOptions {
    /// Connections, over all brokers (at least one each)
    #[arg(long, short, default_value_t = 8)]
    pub connections: usize,
    /// Requests under way at most, over all connections [default: 64; 4096 with --rate]
    #[arg(long, short = 'f', value_name = "N")]
    pub in_flight: Option<usize>,
    /// Bytes of each body
    #[arg(long, short, default_value_t = 1024, value_name = "BYTES")]
    pub size: usize,
    /// Open loop: send this many messages per second at fixed times, whatever the broker does
    #[arg(long, short, value_name = "MSG/S")]
    pub rate: Option<f64>,
    /// How long to measure, after the warm-up (10s, 500ms, 2m) [default: 10s unless --messages]
    #[arg(long, short, value_parser = parse_duration, value_name = "TIME")]
    #[serde(serialize_with = "as_seconds")]
    pub duration: Option<Duration>,
    /// Send this many messages
    #[arg(long, short, value_name = "N")]
    pub messages: Option<u64>,
    /// Send for this long before measuring; a fresh Java broker needs 20s
    #[arg(long, short, value_parser = parse_duration, default_value = "0s", value_name = "TIME")]
    #[serde(serialize_with = "as_seconds_too")]
    pub warmup: Duration,
    /// Messages in one request (a batch send when more than 1)
    #[arg(long, short, default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Send delayed messages of this level (1 is 1 s, 2 is 5 s, 3 is 10 s); 0 is no delay
    #[arg(long, default_value_t = 0, value_name = "LEVEL")]
    pub delay_level: u8,
    /// Queues of the topic on each broker: created or changed so [default: as it is; 8 when created]
    #[arg(long, short, value_name = "N")]
    pub queues: Option<u32>,
    /// Generator threads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Let somebody else's client send instead, through this script (bench-harness/clients/README.md)
    #[arg(long, value_name = "SCRIPT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<PathBuf>,
    /// Give up when no answer has come for this long
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    #[serde(serialize_with = "as_seconds_too")]
    pub patience: Duration,
    /// The broker will be killed: a lost connection ends the run and is not an error
    #[arg(long)]
    pub until_disconnect: bool,
}

impl LoadOptions {
    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self) -> Result<(), BenchError> {
        let wrong = |option, problem: &str| Err(BenchError::Option { option, problem: problem.to_owned() });
        if !(BODY_HEAD_BYTES..=BODY_BYTES_MAX).contains(&self.size) {
            return wrong("--size", "from 24 (run, sequence and time of the message) to 4194304 bytes");
        }
        if self.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            return wrong("--rate", "more than 0 messages per second");
        }
        if self.connections == 0 || self.threads == 0 || self.in_flight == Some(0) {
            return wrong("--connections, --threads, --in-flight", "at least 1");
        }
        if self.batch == 0 || self.batch.saturating_mul(self.size + 100) > BODY_BYTES_MAX {
            return wrong("--batch", "at least 1, and no more than 4 MiB in one request");
        }
        if usize::from(self.delay_level) > DELAYS.len() || self.delay_level > 0 && self.batch > 1 {
            return wrong("--delay-level", "0 to 3, and not together with --batch");
        }
        Ok(())
    }

    /// The same with the defaults that depend on other options written out, as the result shows them.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let default = self.messages.is_none().then_some(Duration::from_secs(10));
        Self { in_flight: Some(self.in_flight()), duration: self.duration.or(default), ..self.clone() }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.unwrap_or(if self.rate.is_some() { 4096 } else { 64 })
    }

    /// How long after its send a message is due.
    pub fn delay(&self) -> Duration {
        let level = usize::from(self.delay_level);
        level.checked_sub(1).and_then(|index| DELAYS.get(index)).copied().unwrap_or_default()
    }

    /// When no message is sent any more, from the start of the run. Of resolved options.
    pub fn end(&self) -> Option<Duration> {
        self.duration.map(|duration| self.warmup + duration)
    }
}

/// Reads `500ms`, `10s`, `2m`, `1h` or a number of seconds.
///
/// # Errors
/// Says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text:?}: say 500ms, 10s, 2m or 1h"))?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?}: units are ms, s, m and h")),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|error| format!("{text:?}: {error}"))
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn as_seconds<S: serde::Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn as_seconds_too<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}

#[cfg(test)]
impl LoadOptions {
    /// A load for tests: 1 KiB, 64 requests under way over one connection.
    pub(crate) fn sample() -> Self {
        Self {
            connections: 1,
            in_flight: Some(64),
            size: 1024,
            rate: None,
            duration: Some(Duration::from_secs(1)),
            messages: None,
            warmup: Duration::ZERO,
            batch: 1,
            delay_level: 0,
            queues: None,
            threads: 1,
            client: None,
            patience: Duration::from_secs(30),
            until_disconnect: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5", 1_500), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "5d", "NaN"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
