//! The result of a run: one JSON document with everything that is needed to judge and repeat it, and a table for people.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk_probe::ProbeSummary;
use crate::error::BenchError;
use crate::generator::{BrokerTarget, Sent};
use crate::latency::{Latency, Percentiles};
use crate::machine::Machine;
use crate::monitor::Observed;
use crate::options::ReportOptions;
use crate::puller::Received;
use crate::series::{Interval, one_a_line};
use crate::stock_client::ClientFigures;
use crate::tally::Errors;

/// What is stored. Field names carry their units.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    pub command: String,
    pub label: Option<String>,
    /// The broker's flush mode, as the one who started it says.
    pub flush: Option<String>,
    /// When the first message was due, milliseconds since the epoch: time 0 of the series.
    pub started_unix_ms: u64,
    pub command_line: Vec<String>,
    pub machine: Machine,
    /// What the run consisted of.
    pub settings: serde_json::Value,
    /// Which step of which workload this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    pub topic: String,
    pub broker_names: Vec<String>,
    /// Queues of the topic on all brokers.
    pub queues: usize,
    pub broker_pids: Vec<u32>,
    /// What a probe of the disk saw meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_probe: Option<ProbeSummary>,
    pub result: Outcome,
}

/// Where a run belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Place {
    pub workload: String,
    /// Empty when it is the workload's only step.
    pub step: String,
    /// Who was measured, when several are compared …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// … as which of them; the first, 0, is compared with the others …
    #[serde(default)]
    pub peer_rank: u32,
    /// … and in which round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
}

/// The figures, of the measured window (after the warm-up).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Outcome {
    pub seconds: f64,
    pub messages: u64,
    pub messages_per_second: f64,
    pub mebibytes_per_second: f64,
    /// Microseconds, from the intended send time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_latency_us: Option<Percentiles>,
    /// The same as a histogram in nanoseconds (HdrHistogram V2, deflated, base64).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_histogram: Option<String>,
    /// Microseconds, from the time at which the message was due to the receipt by a consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end_latency_us: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end_histogram: Option<String>,
    /// Messages received, over all groups; what was sent counts in `messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_reading: Option<ColdReading>,
    pub broker_cpu_seconds: Option<f64>,
    pub broker_cpu_seconds_per_million: Option<f64>,
    pub broker_resident_bytes_max: Option<u64>,
    /// Of the harness, and of the client that sent in its place.
    pub own_cpu_seconds: f64,
    pub own_cpu_seconds_per_million: f64,
    /// What somebody else's client said, when it sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    pub unanswered: u64,
    pub errors: Errors,
    pub warmup_errors: Errors,
    /// Acknowledgements (or receipts, when nothing was sent) interval by interval.
    #[serde(serialize_with = "one_a_line")]
    pub series: Vec<Interval>,
    /// Receipts interval by interval, when there were senders too.
    #[serde(serialize_with = "one_a_line", skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Interval>,
}

/// What readers of old data did meanwhile.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ColdReading {
    pub readers: usize,
    pub messages: u64,
    pub mebibytes_per_second: f64,
}

impl Outcome {
    /// The figures of the watched window; `size` is that of a message's body.
    pub fn of(observed: &Observed, size: usize, has_broker_pids: bool) -> Self {
        let per_million = |seconds: f64| {
            if observed.messages == 0 { 0.0 } else { seconds * 1e6 / observed.messages as f64 }
        };
        let rate = if observed.seconds > 0.0 { observed.messages as f64 / observed.seconds } else { 0.0 };
        let of_broker = |value: f64| has_broker_pids.then_some(value);
        Self {
            seconds: observed.seconds,
            messages: observed.messages,
            messages_per_second: rate,
            mebibytes_per_second: rate * size as f64 / f64::from(1 << 20),
            broker_cpu_seconds: of_broker(observed.broker_cpu_seconds),
            broker_cpu_seconds_per_million: of_broker(per_million(observed.broker_cpu_seconds)),
            broker_resident_bytes_max: has_broker_pids.then_some(observed.broker_resident_bytes_max),
            own_cpu_seconds: observed.own_cpu_seconds,
            own_cpu_seconds_per_million: per_million(observed.own_cpu_seconds),
            ..Self::default()
        }
    }

    /// Adds what the generator saw.
    #[must_use]
    pub fn with_sent(mut self, sent: &Sent, open_loop: bool) -> Self {
        self.send_latency_us = Some(sent.recording.total.percentiles());
        self.send_histogram = Some(sent.recording.total.to_base64());
        self.series = sent.recording.intervals();
        self.acknowledged = Some(sent.acknowledged);
        self.late = open_loop.then_some(sent.late);
        self.missed = open_loop.then_some(sent.missed);
        self.unanswered = sent.unanswered;
        self.errors.merge(&sent.errors);
        self.warmup_errors.merge(&sent.warmup_errors);
        self
    }

    /// Adds the percentiles that a peer's own tool told: `number` finds a field of its result.
    pub fn set_own_latency(&mut self, number: &dyn Fn(&str) -> Option<f64>) {
        let Some(p50) = number("p50_us") else { return };
        let or_nothing = |key: &str| number(key).unwrap_or(0.0);
        self.send_latency_us = Some(Percentiles {
            count: self.messages,
            p50,
            p99: or_nothing("p99_us"),
            p99_9: or_nothing("p999_us"),
            max: or_nothing("max_us"),
            ..Percentiles::default()
        });
    }

    /// Adds what the consumers saw that ran beside the senders.
    #[must_use]
    pub fn with_received(mut self, received: &Received) -> Self {
        self.end_to_end_latency_us = Some(received.recording.total.percentiles());
        self.end_to_end_histogram = Some(received.recording.total.to_base64());
        self.receipts = received.recording.intervals();
        self.received = Some(received.messages);
        self.errors.merge(&received.errors);
        self
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut rows: Vec<(&str, String)> = vec![
            ("messages", format!("{} in {:.2} s", grouped(self.messages), self.seconds)),
            (
                "throughput",
                format!(
                    "{} msg/s, {:.1} MiB/s",
                    grouped_rate(self.messages_per_second),
                    self.mebibytes_per_second
                ),
            ),
        ];
        for (name, latency) in
            [("send latency", &self.send_latency_us), ("end to end", &self.end_to_end_latency_us)]
        {
            if let Some(latency) = latency {
                rows.push((name, latency_row(latency)));
            }
        }
        if let Some(client) = &self.client {
            let (rate, average) = (grouped_rate(client.send_tps), time(client.average_rt_ms * 1e3));
            let longest = time(client.max_rt_ms_since_start * 1e3);
            rows.push((
                "client says",
                format!("{rate} msg/s, average {average}; since its start at most {longest}"),
            ));
        }
        match (self.broker_cpu_seconds, self.broker_cpu_seconds_per_million) {
            (Some(seconds), Some(per_million)) => rows.push((
                "broker CPU",
                format!(
                    "{seconds:.2} s, {per_million:.2} s per million; at most {} MiB resident",
                    self.broker_resident_bytes_max.unwrap_or(0) >> 20
                ),
            )),
            _ => rows.push(("broker CPU", "not measured: pass --broker-pid".to_owned())),
        }
        // None when a peer's own tool sent.
        if self.own_cpu_seconds > 0.0 {
            let (seconds, per_million) = (self.own_cpu_seconds, self.own_cpu_seconds_per_million);
            rows.push(("own CPU", format!("{seconds:.2} s, {per_million:.2} s per million")));
        }
        if let (Some(late), Some(missed)) = (self.late, self.missed) {
            rows.push((
                "schedule",
                format!("{} late (over 1 ms), {} never sent", grouped(late), grouped(missed)),
            ));
        }
        if let Some(cold) = &self.cold_reading {
            let (readers, rate) = (cold.readers, cold.mebibytes_per_second);
            rows.push((
                "cold reading",
                format!("{readers} readers, {rate:.1} MiB/s, {} messages", grouped(cold.messages)),
            ));
        }
        if self.unanswered > 0 {
            rows.push(("unanswered", grouped(self.unanswered)));
        }
        for (title, errors) in [("errors", &self.errors), ("warm-up errors", &self.warmup_errors)] {
            for (kind, counted) in errors.iter() {
                let first =
                    if counted.first.is_empty() { String::new() } else { format!(": {}", counted.first) };
                rows.push((title, format!("{} x {kind}{first}", grouped(counted.count))));
            }
        }
        let mut out = String::new();
        for (name, value) in rows {
            writeln!(out, "  {name:<15} {value}").expect("writing to a string");
        }
        out
    }
}

/// What a run was aimed at.
#[derive(Clone, Debug)]
pub struct Aim {
    pub topic: String,
    pub brokers: Vec<BrokerTarget>,
    pub broker_pids: Vec<u32>,
}

impl Report {
    /// The document of a run of `command` that began at `started_unix_ms`.
    pub fn new(
        command: &str,
        options: &ReportOptions,
        settings: &impl Serialize,
        aim: Aim,
        started_unix_ms: u64,
        result: Outcome,
    ) -> Self {
        Self {
            command: command.to_owned(),
            label: options.label.clone(),
            flush: options.flush.clone(),
            started_unix_ms,
            command_line: std::env::args().collect(),
            machine: Machine::look(options.data_dir.as_deref()),
            settings: serde_json::to_value(settings).expect("plain data"),
            place: None,
            topic: aim.topic,
            queues: aim.brokers.iter().map(|broker| broker.queue_ids.len()).sum(),
            broker_names: aim.brokers.into_iter().map(|broker| broker.name).collect(),
            broker_pids: aim.broker_pids,
            disk_probe: None,
            result,
        }
    }

    /// The end of every command that measures: prints headline and table and stores the document when that was asked for.
    ///
    /// # Errors
    /// The file cannot be written, or the run had errors.
    pub fn conclude(&self, options: &ReportOptions) -> Result<(), BenchError> {
        print(&self.text());
        if let Some(path) = &options.json {
            self.write_json(path)?;
        }
        if let Some(prefix) = &options.hgrm {
            self.write_hgrm(prefix)?;
        }
        let errors = self.result.errors.total();
        if errors > 0 { Err(BenchError::RunHadErrors { errors }) } else { Ok(()) }
    }

    /// The same as a step of a workload.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Reads what [`Self::write_json`] wrote.
    ///
    /// # Errors
    /// The file cannot be read or is no result.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(path).map_err(|source| BenchError::File {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_str(&text)
            .map_err(|error| BenchError::NoResult { path: path.to_owned(), problem: error.to_string() })
    }

    /// What runs of the same step have in common: `in-flight-64, SYNC_FLUSH`. Runs that belong to no workload are of one step
    /// when their commands are the same.
    pub fn step_name(&self) -> String {
        let step = self
            .place
            .as_ref()
            .map_or_else(|| self.command.clone(), |place| qualified_step(&place.workload, &place.step));
        self.flush.as_ref().map_or_else(|| step.clone(), |flush| format!("{step}, {flush}"))
    }

    /// Headline and table.
    pub fn text(&self) -> String {
        let mut text = self.headline() + &self.result.table();
        if let Some(probe) = &self.disk_probe {
            let (p99, max) = (time(probe.write_latency_us.p99), time(probe.write_latency_us.max));
            let row = format!(
                "4 KiB O_DSYNC p50 {}  p99 {p99}  max {max}; {} stalls over {:.0} ms",
                time(probe.write_latency_us.p50),
                probe.stall_count,
                probe.stall_ms
            );
            writeln!(text, "  {:<15} {row}", "disk probe").expect("writing to a string");
        }
        text
    }

    /// The line above the table.
    fn headline(&self) -> String {
        let label = self.label.as_deref().map(|label| format!("{label}: ")).unwrap_or_default();
        let flush = self.flush.as_deref().map(|flush| format!(", {flush}")).unwrap_or_default();
        let (command, topic, queues, brokers) =
            (&self.command, &self.topic, self.queues, self.broker_names.len());
        format!("{label}{command}, topic {topic}, {queues} queues on {brokers} broker(s){flush}\n")
    }

    /// Stores each histogram there is as a table.
    fn write_hgrm(&self, prefix: &Path) -> Result<(), BenchError> {
        let Outcome { send_histogram, end_to_end_histogram, .. } = &self.result;
        for (histogram, end) in [(send_histogram, ".send.hgrm"), (end_to_end_histogram, ".e2e.hgrm")] {
            let Some(histogram) = histogram else { continue };
            let latency = Latency::from_base64(histogram).expect("encoded by this run");
            let mut name = prefix.as_os_str().to_owned();
            name.push(end);
            write_file(Path::new(&name), &latency.hgrm())?;
        }
        Ok(())
    }

    /// Stores the document.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        let mut text = serde_json::to_string_pretty(self).expect("plain data");
        text.push('\n');
        write_file(path, &text)
    }
}

/// Writes a whole file.
///
/// # Errors
/// It cannot be written.
pub fn write_file(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|source| BenchError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

/// A step's name with that of its workload, unless it begins with it: `sizes-size-128`, `in-flight-64`.
pub fn qualified_step(workload: &str, step: &str) -> String {
    match step {
        "" => workload.to_owned(),
        step if step.starts_with(workload) => step.to_owned(),
        step => format!("{workload}-{step}"),
    }
}

/// Prints to standard output; that nobody reads it any more is no reason to fail.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn latency_row(latency: &Percentiles) -> String {
    let parts = [
        ("p50", latency.p50),
        ("p90", latency.p90),
        ("p99", latency.p99),
        ("p99.9", latency.p99_9),
        ("p99.99", latency.p99_99),
        ("max", latency.max),
    ];
    // A peer's own tool does not tell them all.
    let told = parts.iter().filter(|(_, us)| *us > 0.0).map(|(name, us)| format!("{name} {}", time(*us)));
    told.collect::<Vec<_>>().join("  ")
}

/// A time for people, with three digits or more.
pub fn time(us: f64) -> String {
    if us < 1000.0 {
        format!("{us:.0} us")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{:.2} s", us / 1_000_000.0)
    }
}

/// A rate for people: whole, with its thousands apart.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is a positive number")]
pub fn grouped_rate(rate: f64) -> String {
    grouped(rate.round() as u64)
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
impl Report {
    /// A result for tests.
    pub(crate) fn sample() -> Self {
        let aim = Aim { topic: "t".to_owned(), brokers: Vec::new(), broker_pids: Vec::new() };
        let options = ReportOptions { label: Some("sample".to_owned()), ..ReportOptions::default() };
        Self::new("produce", &options, &"settings", aim, 1_764_000_000_000, Outcome::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_for_people() {
        assert_eq!([grouped(7), grouped(1_000), grouped(12_345_678)], ["7", "1,000", "12,345,678"]);
        assert_eq!([time(12.4), time(1500.0), time(2_500_000.0)], ["12 us", "1.50 ms", "2.50 s"]);
    }

    #[test]
    fn figures_follow_from_what_was_observed() {
        let observed = Observed {
            seconds: 2.0,
            messages: 500_000,
            broker_cpu_seconds: 3.0,
            own_cpu_seconds: 1.0,
            ..Observed::default()
        };
        let outcome = Outcome::of(&observed, 1024, true);
        assert_eq!(outcome.messages_per_second, 250_000.0);
        assert_eq!(outcome.broker_cpu_seconds_per_million, Some(6.0));
        assert_eq!(outcome.own_cpu_seconds_per_million, 2.0);
        assert!(outcome.table().contains("250,000 msg/s, 244.1 MiB/s"));
        assert_eq!(Outcome::of(&observed, 1024, false).broker_cpu_seconds, None);
    }
}
