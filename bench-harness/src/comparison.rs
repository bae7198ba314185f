//! What came out of runs that compare peers: for each step and each figure the rounds of every peer, and the ratios of the first peer
//! to each of the others with their spread. A ratio is taken within a round, as its two runs stand next to each other in time.

use std::fmt::Write as _;

use serde::Serialize;

use crate::latency::Percentiles;
use crate::report::{Outcome, Report, grouped_rate};

/// A figure that is compared.
struct Figure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Report) -> Option<f64>,
}

const FIGURES: [Figure; 20] = [
    Figure { name: "throughput", unit: "msg/s", of: |report| Some(report.result.messages_per_second) },
    Figure { name: "delivered", unit: "msg/s", of: |report| delivered(&report.result) },
    Figure {
        name: "broker CPU",
        unit: "s per million",
        of: |report| report.result.broker_cpu_seconds_per_million,
    },
    Figure { name: "send p50", unit: "ms", of: |report| send(report, |latency| latency.p50) },
    Figure { name: "send p99", unit: "ms", of: |report| send(report, |latency| latency.p99) },
    Figure { name: "send p99.9", unit: "ms", of: |report| send(report, |latency| latency.p99_9) },
    Figure { name: "send max", unit: "ms", of: |report| send(report, |latency| latency.max) },
    Figure {
        name: "client says",
        unit: "msg/s",
        of: |report| report.result.client.map(|client| client.send_tps),
    },
    Figure {
        name: "client says, average",
        unit: "ms",
        of: |report| report.result.client.map(|client| client.average_rt_ms),
    },
    Figure { name: "end to end p50", unit: "ms", of: |report| e2e(report, |latency| latency.p50) },
    Figure { name: "end to end p99", unit: "ms", of: |report| e2e(report, |latency| latency.p99) },
    Figure { name: "end to end p99.9", unit: "ms", of: |report| e2e(report, |latency| latency.p99_9) },
    Figure { name: "end to end max", unit: "ms", of: |report| e2e(report, |latency| latency.max) },
    Figure { name: "cold reading", unit: "MiB/s", of: |report| cold(&report.result) },
    Figure { name: "missed sends", unit: "", of: |report| report.result.missed.map(|count| count as f64) },
    Figure {
        name: "broker memory",
        unit: "MiB",
        of: |report| report.result.broker_resident_bytes_max.map(|bytes| bytes as f64 / f64::from(1 << 20)),
    },
    Figure {
        name: "harness CPU",
        unit: "s per million",
        of: |report| Some(report.result.own_cpu_seconds_per_million).filter(|seconds| *seconds > 0.0),
    },
    Figure {
        name: "probe p99",
        unit: "ms",
        of: |report| Some(report.disk_probe.as_ref()?.write_latency_us.p99 / 1e3),
    },
    Figure {
        name: "probe max",
        unit: "ms",
        of: |report| Some(report.disk_probe.as_ref()?.write_latency_us.max / 1e3),
    },
    Figure {
        name: "probe stalls",
        unit: "",
        of: |report| Some(report.disk_probe.as_ref()?.stall_count as f64),
    },
];

fn send(report: &Report, of: fn(&Percentiles) -> f64) -> Option<f64> {
    report.result.send_latency_us.as_ref().map(|latency| of(latency) / 1000.0)
}

fn e2e(report: &Report, of: fn(&Percentiles) -> f64) -> Option<f64> {
    report.result.end_to_end_latency_us.as_ref().map(|latency| of(latency) / 1000.0)
}

fn delivered(result: &Outcome) -> Option<f64> {
    let counted: u64 =
        result.receipts.iter().filter(|one| one.latency_us.is_some()).map(|one| one.messages).sum();
    result.received.filter(|_| result.seconds > 0.0).map(|_| counted as f64 / result.seconds)
}

fn cold(result: &Outcome) -> Option<f64> {
    let reading = result.cold_reading.as_ref().filter(|reading| reading.readers > 0)?;
    Some(reading.mebibytes_per_second)
}

/// All steps that were compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    pub steps: Vec<ComparedStep>,
}

/// One step in one flush mode.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedStep {
    /// `in-flight-64, SYNC_FLUSH`
    pub name: String,
    /// In the order in which they were given; the first is compared with the others.
    pub peers: Vec<String>,
    pub rows: Vec<Row>,
}

/// One figure of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub figure: &'static str,
    pub unit: &'static str,
    /// Of each peer.
    pub values: Vec<Option<Spread>>,
    /// The first peer's value divided by that of each other one, round by round.
    pub ratios: Vec<Option<Spread>>,
}

/// What several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub rounds: usize,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { min, median, max, rounds: sorted.len() })
    }

    fn text(&self) -> String {
        let number = |value: f64| match value.abs() {
            1000.0.. => grouped_rate(value),
            100.0.. => format!("{value:.0}"),
            10.0.. => format!("{value:.1}"),
            0.1.. => format!("{value:.2}"),
            0.0 => "0".to_owned(),
            _ => format!("{value:.4}"),
        };
        let median = number(self.median);
        if self.rounds == 1 {
            return median;
        }
        format!("{median} ({} … {})", number(self.min), number(self.max))
    }
}

impl Comparison {
    /// Compares results that have a [`crate::report::Place`] with a peer. Those with errors do not count.
    pub fn of(reports: &[Report]) -> Self {
        let mut steps: Vec<(String, Vec<&Report>)> = Vec::new();
        for report in reports.iter().filter(|report| report.result.errors.total() == 0) {
            if report.place.as_ref().is_none_or(|place| place.peer.is_none()) {
                continue;
            }
            let name = report.step_name();
            match steps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, runs)) => runs.push(report),
                None => steps.push((name, vec![report])),
            }
        }
        // The peer that comes first anywhere does so everywhere: rounds alternate in who begins.
        let peers = peers_of(&steps.iter().flat_map(|(_, runs)| runs.iter().copied()).collect::<Vec<_>>());
        let compared = steps.into_iter().map(|(name, runs)| ComparedStep::of(name, &runs, &peers));
        Self { steps: compared.collect() }
    }

    /// Tables, as Markdown.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for step in &self.steps {
            step.write(&mut out);
        }
        out
    }
}

fn peers_of(runs: &[&Report]) -> Vec<String> {
    let mut peers: Vec<(u32, String)> = Vec::new();
    for place in runs.iter().filter_map(|report| report.place.as_ref()) {
        let Some(peer) = &place.peer else { continue };
        if !peers.iter().any(|(_, known)| known == peer) {
            peers.push((place.peer_rank, peer.clone()));
        }
    }
    peers.sort();
    peers.into_iter().map(|(_, peer)| peer).collect()
}

impl ComparedStep {
    fn of(name: String, runs: &[&Report], peers: &[String]) -> Self {
        let there = |peer: &&String| {
            runs.iter().any(|run| run.place.as_ref().and_then(|place| place.peer.as_ref()) == Some(*peer))
        };
        let peers: Vec<String> = peers.iter().filter(there).cloned().collect();
        let rows = FIGURES.iter().filter_map(|figure| Row::of(figure, runs, &peers)).collect();
        Self { name, peers, rows }
    }

    /// Head and rows of the table, as texts.
    pub fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let (first, others) = self.peers.split_first().expect("a step is made of runs, each of a peer");
        let mut head = vec![String::new()];
        head.extend(self.peers.iter().cloned());
        head.extend(others.iter().map(|other| format!("{first} / {other}")));
        let mut rows = Vec::new();
        for row in &self.rows {
            let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
            let mut cells = vec![format!("{}{unit}", row.figure)];
            let spread = |spread: &Option<Spread>| spread.map(|spread| spread.text()).unwrap_or_default();
            cells.extend(row.values.iter().chain(&row.ratios).map(spread));
            rows.push(cells);
        }
        (head, rows)
    }

    fn write(&self, out: &mut String) {
        let (head, rows) = self.cells();
        let table = [vec![head], rows].concat();
        writeln!(out, "### {}\n", self.name).expect("writing to a string");
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for (index, row) in table.iter().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(out, "| {} |", cells.join(" | ")).expect("writing to a string");
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
                writeln!(out, "|{}|", rules.join("|")).expect("writing to a string");
            }
        }
        out.push('\n');
    }
}

impl Row {
    /// One figure; `None` when no run has it.
    fn of(figure: &Figure, runs: &[&Report], peers: &[String]) -> Option<Self> {
        let rounds = |peer: &String| -> Vec<(u32, f64)> {
            let of_peer = runs
                .iter()
                .filter(|run| run.place.as_ref().is_some_and(|place| place.peer.as_ref() == Some(peer)));
            of_peer
                .filter_map(|run| Some((run.place.as_ref()?.round.unwrap_or(1), (figure.of)(run)?)))
                .collect()
        };
        let all: Vec<Vec<(u32, f64)>> = peers.iter().map(rounds).collect();
        let values: Vec<Option<Spread>> = all
            .iter()
            .map(|rounds| Spread::of(&rounds.iter().map(|(_, value)| *value).collect::<Vec<_>>()))
            .collect();
        values.iter().any(Option::is_some).then_some(())?;
        let (first, others) = all.split_first()?;
        let ratio = |other: &Vec<(u32, f64)>| {
            let pairs = first.iter().filter_map(|(round, value)| {
                let (_, other) = other.iter().find(|(known, other)| known == round && *other > 0.0)?;
                Some(value / other)
            });
            Spread::of(&pairs.collect::<Vec<_>>())
        };
        let ratios = others.iter().map(ratio).collect();
        Some(Self { figure: figure.name, unit: figure.unit, values, ratios })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Place;

    fn run(peer: &str, peer_rank: u32, round: u32, rate: f64) -> Report {
        let mut report = Report::sample();
        report.flush = Some("SYNC_FLUSH".to_owned());
        report.result.messages_per_second = rate;
        report.at(Place {
            workload: "durable".to_owned(),
            step: String::new(),
            peer: Some(peer.to_owned()),
            peer_rank,
            round: Some(round),
        })
    }

    #[test]
    fn ratios_are_taken_round_by_round_and_shown_with_their_spread() {
        // The second round began with the other peer.
        let reports = [
            run("ours", 0, 1, 100.0),
            run("theirs", 1, 1, 50.0),
            run("theirs", 1, 2, 20.0),
            run("ours", 0, 2, 80.0),
            run("ours", 0, 3, 90.0),
            run("theirs", 1, 3, 30.0),
        ];
        let comparison = Comparison::of(&reports);
        let [step] = &comparison.steps[..] else { panic!("one step") };
        assert_eq!(
            (step.name.as_str(), step.peers.join(" ").as_str()),
            ("durable, SYNC_FLUSH", "ours theirs")
        );
        let row = &step.rows[0];
        assert_eq!(row.values[0], Some(Spread { min: 80.0, median: 90.0, max: 100.0, rounds: 3 }));
        assert_eq!(row.ratios, [Some(Spread { min: 2.0, median: 3.0, max: 4.0, rounds: 3 })]);
        let text = comparison.text();
        assert!(text.contains("| ours / theirs"), "{text}");
        assert!(text.contains("| 3.00 (2.00 … 4.00)"), "{text}");
    }

    #[test]
    fn a_run_with_errors_does_not_count() {
        let mut bad = run("theirs", 1, 1, 1.0);
        bad.result.errors.add("connection lost", "", 1);
        let comparison = Comparison::of(&[run("ours", 0, 1, 100.0), bad]);
        assert_eq!(comparison.steps[0].peers, ["ours"]);
    }

    #[test]
    fn a_small_ratio_keeps_its_digits() {
        let text = |value| Spread::of(&[value]).map(|spread| spread.text());
        assert_eq!(text(0.0).as_deref(), Some("0"));
        assert_eq!(text(0.0123).as_deref(), Some("0.0123"));
        assert_eq!(text(0.256).as_deref(), Some("0.26"));
        assert_eq!(text(25_432.1).as_deref(), Some("25,432"));
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_in_the_middle() {
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }
}
